//! A client of HTTP/2 that sends frames as they are, and says what came back.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags of frames.
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITISED: u8 = 0x20;
/// A header that is whole, and the whole request.
pub const WHOLE: u8 = END_STREAM | END_HEADERS;

/// A frame as it came.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The number at some place of the payload.
    pub fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// What came of what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The header of a response with this status.
    Answer(u16),
    /// So much of a response.
    Data(usize),
    /// The end of a stream, with this code.
    Reset(u32),
    /// The end of the connection, with this code.
    Goaway(u32),
    /// A ping was answered.
    Pong,
    /// Settings were acknowledged.
    Acknowledged,
    /// The connection is closed.
    Closed,
    /// Nothing comes any more.
    Silence,
}

/// The connection.
pub struct Peer {
    stream: TcpStream,
    unread: Vec<u8>,
    out: Vec<u8>,
    /// The settings of the server, once they came.
    pub settings: Vec<(u16, u32)>,
}

impl Peer {
    /// A connection on which nothing was said.
    pub fn bare(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new(), out: Vec::new(), settings: Vec::new() }
    }

    /// A connection on which both sides have agreed on their settings. The server uses no dynamic table.
    pub fn start(address: SocketAddr) -> Self {
        let mut peer = Self::bare(address);
        peer.raw(PREFACE).settings(&[(1, 0)]);
        let mut acknowledged = false;
        while peer.settings.is_empty() || !acknowledged {
            let frame = peer.next().expect("settings");
            if frame.kind == SETTINGS && frame.flags & ACK != 0 {
                acknowledged = true;
            } else if frame.kind == SETTINGS {
                let settings = frame.payload.chunks(6);
                peer.settings =
                    settings.map(|one| (be16(one), u32::from_be_bytes(one[2..6].try_into().unwrap()))).collect();
                peer.frame(SETTINGS, ACK, 0, b"");
            }
        }
        peer
    }

    /// Bytes as they are, with what comes next in one piece.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> &mut Self {
        let bytes = frame(kind, flags, stream, payload);
        self.raw(&bytes)
    }

    pub fn settings(&mut self, settings: &[(u16, u32)]) -> &mut Self {
        let bytes = settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
        let bytes: Vec<u8> = bytes.collect();
        self.frame(SETTINGS, 0, 0, &bytes)
    }

    /// A request without a body.
    pub fn get(&mut self, stream: u32, path: &str) -> &mut Self {
        self.frame(HEADERS, WHOLE, stream, &get(path))
    }

    /// A request whose body follows.
    pub fn post(&mut self, stream: u32, path: &str) -> &mut Self {
        self.frame(HEADERS, END_HEADERS, stream, &post(path))
    }

    pub fn ping(&mut self) -> &mut Self {
        self.frame(PING, 0, 0, b"torana!!")
    }

    pub fn window(&mut self, stream: u32, more: u32) -> &mut Self {
        self.frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
    }

    /// Sends what has been put together; `false` if the other side does not take it any more.
    pub fn flush(&mut self) -> bool {
        let out = std::mem::take(&mut self.out);
        self.stream.write_all(&out).is_ok()
    }

    /// How long to wait for what comes.
    pub fn patience(&mut self, patience: Duration) -> &mut Self {
        self.stream.set_read_timeout(Some(patience)).unwrap();
        self
    }

    /// The next frame, or how it ended.
    pub fn next(&mut self) -> Result<Frame, Outcome> {
        self.flush();
        loop {
            if let Some(frame) = self.take() {
                return Ok(frame);
            }
            let mut buffer = [0; 16 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Outcome::Closed),
                Ok(read) => self.unread.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(Outcome::Silence);
                }
                Err(_) => return Err(Outcome::Closed),
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let head = self.unread.get(..9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        let payload = self.unread.get(9..9 + length)?.to_vec();
        self.unread.drain(..9 + length);
        Some(Frame { kind, flags, stream, payload })
    }

    /// What the next frame that says something says.
    pub fn outcome(&mut self) -> Outcome {
        loop {
            let frame = match self.next() {
                Ok(frame) => frame,
                Err(end) => return end,
            };
            return match frame.kind {
                DATA => Outcome::Data(frame.payload.len()),
                HEADERS => Outcome::Answer(status(&frame.payload)),
                RST_STREAM => Outcome::Reset(frame.number(0)),
                GOAWAY => Outcome::Goaway(frame.number(4)),
                PING if frame.flags & ACK != 0 => Outcome::Pong,
                SETTINGS if frame.flags & ACK != 0 => Outcome::Acknowledged,
                _ => continue,
            };
        }
    }

    /// Reads until this comes, past other answers; otherwise, what came instead.
    pub fn until(&mut self, wanted: Outcome) -> Result<(), Outcome> {
        loop {
            let got = self.outcome();
            if got == wanted {
                return Ok(());
            }
            let is_over = matches!(got, Outcome::Reset(_) | Outcome::Goaway(_) | Outcome::Closed | Outcome::Silence);
            if is_over {
                return Err(got);
            }
        }
    }

    /// Reads a whole response: its status and its body.
    pub fn answer(&mut self, stream: u32) -> Result<(u16, Vec<u8>), Outcome> {
        let (mut code, mut body) = (0, Vec::new());
        loop {
            let frame = self.next()?;
            if frame.kind == GOAWAY {
                return Err(Outcome::Goaway(frame.number(4)));
            }
            if frame.stream != stream {
                continue;
            }
            match frame.kind {
                HEADERS if code == 0 => code = status(&frame.payload),
                DATA => body.extend_from_slice(&frame.payload),
                RST_STREAM => return Err(Outcome::Reset(frame.number(0))),
                _ => {}
            }
            if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                return Ok((code, body));
            }
        }
    }

    /// The address of the server.
    pub fn address(&self) -> SocketAddr {
        self.stream.peer_addr().unwrap()
    }

    /// Reads an answer in HTTP/1.1, which must be a refusal, to the end of the connection.
    pub fn skip_http1(&mut self) {
        self.flush();
        let mut text = Vec::new();
        // Whether it ends in order or with a reset makes no difference.
        let _ = self.stream.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        assert!(text.starts_with("HTTP/1.1 4"), "{text}");
    }

    /// A setting of the server.
    pub fn setting(&self, id: u16) -> Option<u32> {
        self.settings.iter().find(|(known, _)| *known == id).map(|(_, value)| *value)
    }
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header field, without Huffman code and without a place in the table.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.extend(integer(text.len(), 7, 0));
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// Many of them.
pub fn fields(all: &[(&str, &str)]) -> Vec<u8> {
    all.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// An integer with a prefix of so many bits ([RFC 7541, 5.1](https://www.rfc-editor.org/rfc/rfc7541#section-5.1)).
pub fn integer(value: usize, bits: u32, first: u8) -> Vec<u8> {
    let most = (1_usize << bits) - 1;
    if value < most {
        return vec![first | u8::try_from(value).unwrap()];
    }
    let mut bytes = vec![first | u8::try_from(most).unwrap()];
    let mut rest = value - most;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

/// The header of a GET.
pub fn get(path: &str) -> Vec<u8> {
    fields(&[(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "test")])
}

/// The header of a POST.
pub fn post(path: &str) -> Vec<u8> {
    fields(&[(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "test")])
}

/// The status at the beginning of a header that was made without a dynamic table.
fn status(block: &[u8]) -> u16 {
    // Changes of the table's size may come first.
    let block = &block[block.iter().position(|byte| byte & 0xe0 != 0x20).unwrap()..];
    match block[0] {
        index @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)],
        0x08 | 0x18 | 0x48 if block[1] & 0x80 == 0 => std::str::from_utf8(&block[2..5]).unwrap().parse().unwrap(),
        0x08 | 0x18 | 0x48 => digits(&block[2..2 + usize::from(block[1] & 0x7f)]),
        _ => panic!("no status: {block:?}"),
    }
}

/// A number in Huffman code ([RFC 7541, B](https://www.rfc-editor.org/rfc/rfc7541#appendix-B)).
fn digits(bytes: &[u8]) -> u16 {
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut rest, mut number) = (bits.as_str(), 0);
    for _ in 0..3 {
        let short = ["00000", "00001", "00010"].iter().position(|code| rest.starts_with(code));
        let (digit, length) = match short {
            Some(digit) => (u16::try_from(digit).unwrap(), 5),
            None => (u16::from_str_radix(&rest[..6], 2).unwrap() - 0b01_1001 + 3, 6),
        };
        (number, rest) = (number * 10 + digit, &rest[length..]);
    }
    number
}
