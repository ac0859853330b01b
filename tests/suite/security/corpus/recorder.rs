//! An upstream that reads by the letter, and records what is not as it should be.

use std::{
    collections::HashSet,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
};

use crate::support::Bare;

pub(super) struct Recorder {
    server: Bare,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    requests: Vec<Request>,
    violations: Vec<String>,
}

/// A whole request.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) bytes: Vec<u8>,
    method: String,
    target: String,
    body: Vec<u8>,
}

impl Request {
    /// `GET /target`, with the body behind it if there is one.
    pub(super) fn summary(&self) -> String {
        let Self { method, target, body, .. } = self;
        let text = String::from_utf8_lossy(body);
        if body.is_empty() { format!("{method} {target}") } else { format!("{method} {target} {text}") }
    }
}

impl Recorder {
    pub(super) fn start() -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let record = Arc::clone(&seen);
        Self { server: Bare::start(move |stream, _| serve(stream, &record)), seen }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().requests.clone()
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.seen.lock().unwrap().violations.clone()
    }
}

fn serve(stream: &mut TcpStream, seen: &Mutex<Seen>) {
    let mut unread = Vec::new();
    loop {
        match read_one(stream, &mut unread) {
            Ok(Some(request)) => {
                let is_head = request.method == "HEAD";
                seen.lock().unwrap().requests.push(request);
                let body = if is_head { "" } else { "up" };
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}");
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
            // The end, or a request that was broken off.
            Ok(None) => return,
            Err(what) => {
                let bytes = String::from_utf8_lossy(&unread).into_owned();
                seen.lock().unwrap().violations.push(format!("{what}: {bytes:?}"));
                return;
            }
        }
    }
}

/// Reads until there is so much; `None` at the end of the connection.
fn fill(stream: &mut TcpStream, unread: &mut Vec<u8>, length: usize) -> Option<()> {
    let mut piece = [0; 4096];
    while unread.len() < length {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(read) => unread.extend_from_slice(&piece[..read]),
        }
    }
    Some(())
}

/// Reads a line from `at`; returns where it ends.
fn line(stream: &mut TcpStream, unread: &mut Vec<u8>, at: usize) -> Option<usize> {
    let mut length = at + 2;
    loop {
        fill(stream, unread, length)?;
        if let Some(end) = unread[at..].windows(2).position(|two| two == b"\r\n") {
            return Some(at + end);
        }
        length = unread.len() + 1;
    }
}

fn read_one(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Result<Option<Request>, String> {
    let mut lines = Vec::new();
    let mut at = 0;
    loop {
        let Some(end) = line(stream, unread, at) else { return Ok(None) };
        let text = unread[at..end].to_vec();
        at = end + 2;
        if text.is_empty() {
            break;
        }
        lines.push(text);
    }
    let body = match check(&lines)? {
        Framing::Length(length) => {
            let whole = fill(stream, unread, at + length).map(|()| unread[at..at + length].to_vec());
            at += length;
            whole
        }
        Framing::Chunked => read_chunks(stream, unread, &mut at)?,
    };
    let Some(body) = body else { return Ok(None) };
    let bytes = unread.drain(..at).collect();
    let first = String::from_utf8(lines.remove(0)).map_err(|error| error.to_string())?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    Ok(Some(Request { bytes, method, target, body }))
}

fn read_chunks(stream: &mut TcpStream, unread: &mut Vec<u8>, at: &mut usize) -> Result<Option<Vec<u8>>, String> {
    let mut body = Vec::new();
    loop {
        let Some(end) = line(stream, unread, *at) else { return Ok(None) };
        let digits = std::str::from_utf8(&unread[*at..end]).unwrap_or_default();
        let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = usize::from_str_radix(digits, 16).ok().filter(|_| is_plain).ok_or("a size that is none")?;
        *at = end + 2;
        if fill(stream, unread, *at + size + 2).is_none() {
            return Ok(None);
        }
        body.extend_from_slice(&unread[*at..*at + size]);
        *at += size + 2;
        if &unread[*at - 2..*at] != b"\r\n" {
            return Err("a chunk without its end".into());
        }
        if size == 0 {
            return Ok(Some(body));
        }
    }
}

enum Framing {
    Length(usize),
    Chunked,
}

/// Everything that a request must be for everyone to read it in the same way.
fn check(lines: &[Vec<u8>]) -> Result<Framing, String> {
    let (first, headers) = lines.split_first().ok_or("an empty line")?;
    let words: Vec<&[u8]> = first.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else { return Err("a request line that is none".into()) };
    if method.is_empty() || !method.iter().all(u8::is_ascii_uppercase) {
        return Err("a method that nobody knows".into());
    }
    if version != b"HTTP/1.1" {
        return Err("a version that is none".into());
    }
    check_target(target)?;
    let mut found = Found::default();
    for line in headers {
        found.see(line)?;
    }
    found.framing()
}

/// What was seen in a header so far.
#[derive(Default)]
struct Found {
    hosts: usize,
    lengths: Vec<Vec<u8>>,
    chunked: usize,
    through_the_gateway: bool,
    /// As some servers read them, and as they are.
    names: HashSet<(String, String)>,
}

impl Found {
    fn see(&mut self, line: &[u8]) -> Result<(), String> {
        let colon = line.iter().position(|byte| *byte == b':').ok_or("a line without a colon")?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        if name.is_empty() || !name.iter().all(is_token) {
            return Err("a name that is none".into());
        }
        if value.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
            return Err("a control character".into());
        }
        let name = String::from_utf8(name.to_ascii_lowercase()).unwrap();
        let folded = name.replace(['_', '.'], "-");
        match folded.as_str() {
            "host" => self.hosts += 1,
            "via" => self.through_the_gateway |= value.windows(11).any(|part| part == b"1.1 torana-"),
            "content-length" if folded == name => self.lengths.push(value.to_vec()),
            "transfer-encoding" if folded == name && value == b"chunked" => self.chunked += 1,
            "transfer-encoding" if folded == name => return Err("a coding that is none".into()),
            "upgrade" if value != b"websocket" => return Err("another protocol".into()),
            "http2-settings" | "te" | "keep-alive" | "proxy-connection" | "trailer" | "x-original-url"
            | "x-rewrite-url" | "x-real-ip" => return Err(format!("the header {name}")),
            other if other.starts_with("x-consumer-") => return Err("somebody who says who he is".into()),
            _ => {}
        }
        let is_new = self.names.insert((folded.clone(), name.clone()));
        if is_new && self.names.iter().filter(|(other, _)| *other == folded).count() > 1 {
            return Err(format!("two spellings of {name}"));
        }
        Ok(())
    }

    fn framing(&self) -> Result<Framing, String> {
        if !self.through_the_gateway {
            return Err("bytes that nobody looked at".into());
        }
        if self.hosts != 1 || self.lengths.len() + self.chunked > 1 {
            return Err("more than one host or framing".into());
        }
        match self.lengths.first() {
            None if self.chunked == 1 => Ok(Framing::Chunked),
            None => Ok(Framing::Length(0)),
            Some(digits) if digits.iter().all(u8::is_ascii_digit) => {
                let length = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
                length.map(Framing::Length).ok_or_else(|| "a length that is none".into())
            }
            Some(_) => Err("a length that is none".into()),
        }
    }
}

fn check_target(target: &[u8]) -> Result<(), String> {
    let path = target.split(|byte| *byte == b'?').next().unwrap();
    if !path.starts_with(b"/") || target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f || *byte == b'#') {
        return Err("a target that is none".into());
    }
    if !path.is_ascii() || path.contains(&b'\\') || path.contains(&b';') {
        return Err("a path that is not in its form".into());
    }
    let segments: Vec<&[u8]> = path[1..].split(|byte| *byte == b'/').collect();
    let (_, others) = segments.split_last().unwrap();
    if others.iter().any(|segment| segment.is_empty()) || segments.iter().any(|one| *one == b"." || *one == b"..") {
        return Err("a path that is not resolved".into());
    }
    if path.starts_with(b"/admin") && (path.len() == 6 || path[6] == b'/') {
        return Err("what needs a key".into());
    }
    Ok(())
}
