//! Hostile byte streams, each sent whole, byte by byte, and cut at random: what a recording upstream sees of them is
//! nothing, or exactly the requests that are in them, framed so that nobody can read them differently.
//!
//! The streams are in `streams`, by family. The upstream reads by the letter and records whatever is not: a smuggled
//! request, a second framing, a header that is none. Behind every stream comes a plain request, which is answered where the
//! stream was, and never where it was refused.

mod recorder;
mod streams;

use std::{
    collections::{HashMap, HashSet},
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use self::{recorder::Recorder, streams::Stream};
use crate::support::Gateway;

/// How a stream is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Whole,
    Bytewise,
    Cut,
}

const WAYS: [How; 3] = [How::Whole, How::Bytewise, How::Cut];

#[test]
fn the_corpus_has_more_than_three_hundred_different_streams() {
    let streams = streams::all();
    let names: HashSet<&str> = streams.iter().map(|stream| stream.name.as_str()).collect();
    let mut bytes: HashMap<&[u8], &str> = HashMap::new();
    for stream in &streams {
        let other = bytes.insert(&stream.bytes, &stream.name);
        assert_eq!(other, None, "the same as {}", stream.name);
    }
    assert_eq!(names.len(), streams.len(), "two have one name");
    assert!(streams.len() >= 350, "{}", streams.len());
    let families: HashSet<&str> = names.iter().filter_map(|name| name.split(':').next()).collect();
    assert!(families.len() >= 20, "{families:?}");
}

#[test]
fn no_stream_of_the_corpus_becomes_another_request_than_it_is() {
    let streams = streams::all();
    let recorder = Recorder::start();
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\" }}]
upstreams: {{ up: {{ endpoints: [\"{}\"], retries: {{ attempts: 0 }} }} }}
consumers: {{ mobile: {{ api_keys: [a-key-for-tests] }} }}
routes:
  - {{ name: admin, match: {{ path: {{ prefix: /admin }} }}, upstream: up, policies: [{{ api_key: {{}} }}] }}
  - {{ name: all, upstream: up }}
",
        recorder.address()
    ));
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                loop {
                    let job = next.fetch_add(1, Ordering::SeqCst);
                    let Some(stream) = streams.get(job / WAYS.len()) else { return };
                    let how = WAYS[job % WAYS.len()];
                    if let Err(why) = send(gateway.address(), stream, job, how) {
                        failures.lock().unwrap().push(format!("{} ({how:?}): {why}", stream.name));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    judge(&streams, &recorder, &mut failures);
    let log = gateway.log();
    assert!(!log.contains("panicked"), "{log}");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(gateway.get("/alive").status, 200);
}

/// What the upstream saw, stream by stream.
fn judge(streams: &[Stream], recorder: &Recorder, failures: &mut Vec<String>) {
    failures.extend(recorder.violations().into_iter().map(|what| format!("the upstream saw {what}")));
    let mut seen: HashMap<String, Vec<String>> = HashMap::new();
    for request in recorder.requests() {
        match id_in(&request.bytes) {
            Some(id) => seen.entry(id.clone()).or_default().push(request.summary().replace(&id, "ID")),
            None => failures.push(format!("a request of nobody: {:?}", String::from_utf8_lossy(&request.bytes))),
        }
    }
    for job in 0..streams.len() * WAYS.len() {
        let stream = &streams[job / WAYS.len()];
        let got = seen.remove(&id(job)).unwrap_or_default();
        if got != stream.seen {
            let how = WAYS[job % WAYS.len()];
            failures.push(format!("{} ({how:?}): the upstream saw {got:?} instead of {:?}", stream.name, stream.seen));
        }
    }
}

/// Stands in every stream, so that one knows whose request it is.
fn id(job: usize) -> String {
    format!("zz{job:05}zz")
}

fn id_in(bytes: &[u8]) -> Option<String> {
    let is_id =
        |part: &&[u8]| part.starts_with(b"zz") && part.ends_with(b"zz") && part[2..7].iter().all(u8::is_ascii_digit);
    let found = bytes.windows(9).find(is_id)?;
    Some(String::from_utf8(found.to_vec()).unwrap())
}

/// Sends a stream and looks at the answers.
fn send(gateway: SocketAddr, stream: &Stream, job: usize, how: How) -> Result<(), String> {
    let bytes = replace(&stream.bytes, b"@ID@", id(job).as_bytes());
    let mut socket = TcpStream::connect(gateway).map_err(|error| error.to_string())?;
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    for piece in pieces(&bytes, how, job) {
        if socket.write_all(piece).is_err() {
            // Refused already.
            break;
        }
    }
    if stream.ends || (stream.is_refused() && how != How::Whole) {
        let _ = socket.shutdown(Shutdown::Write);
    }
    let answers = answers(&mut socket)?;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.0).collect();
    if !stream.answers.contains(&statuses) {
        return Err(format!("the client got {statuses:?} instead of one of {:?}", stream.answers));
    }
    match answers.last() {
        Some((status, head)) if stream.is_refused() && !head.contains("connection: close") => {
            Err(format!("{status} does not say that the connection is closed: {head:?}"))
        }
        _ => Ok(()),
    }
}

fn pieces(bytes: &[u8], how: How, seed: usize) -> Vec<&[u8]> {
    match how {
        How::Whole => vec![bytes],
        How::Bytewise => bytes.chunks(if bytes.len() > 4096 { 512 } else { 1 }).collect(),
        How::Cut => {
            let (mut pieces, mut rest, mut state) = (Vec::new(), bytes, seed + 1);
            while !rest.is_empty() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let most = rest.len().min(if bytes.len() > 4096 { 4096 } else { 24 });
                let (piece, after) = rest.split_at(1 + (state >> 33) % most);
                pieces.push(piece);
                rest = after;
            }
            pieces
        }
    }
}

/// The status and the header, in small letters, of every answer up to the end of the connection.
fn answers(socket: &mut TcpStream) -> Result<Vec<(u16, String)>, String> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match socket.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("{error} behind {:?}", String::from_utf8_lossy(&bytes))),
        }
    }
    let mut answers = Vec::new();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let whole = || format!("the client got {:?}", String::from_utf8_lossy(&bytes));
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(whole)? + 4;
        let head = String::from_utf8_lossy(&rest[..end]).to_ascii_lowercase();
        let status: u16 = head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(whole)?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        rest = rest.get(end + length.unwrap_or(0)..).ok_or_else(whole)?;
        if status != 100 {
            answers.push((status, head));
        }
    }
    Ok(answers)
}

fn replace(bytes: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 64);
    let mut rest = bytes;
    while let Some(at) = rest.windows(what.len()).position(|part| part == what) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(with);
        rest = &rest[at + what.len()..];
    }
    out.extend_from_slice(rest);
    out
}
