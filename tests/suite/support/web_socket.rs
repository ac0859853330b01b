//! WebSockets by hand: frames as bytes ([RFC 6455, 5.2](https://www.rfc-editor.org/rfc/rfc6455#section-5.2)).

use std::io::{Read, Write};

use super::{Bare, Client, Gateway, read_head, request};

pub const UPGRADE: [(&str, &str); 4] = [
    ("Connection", "keep-alive, Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

pub const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

const MASK: [u8; 4] = [1, 2, 3, 4];

/// A frame that begins with this byte; a client's is masked.
pub fn frame(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let bit = if masked { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(bit | u8::try_from(length).unwrap()),
        length @ 126..65_536 => {
            frame.push(bit | 0x7e);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(bit | 0x7f);
            frame.extend(u64::try_from(length).unwrap().to_be_bytes());
        }
    }
    if masked {
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        frame.extend(payload);
    }
    frame
}

/// A client's whole message.
pub fn message(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes(), true)
}

/// The first byte and the payload of the next frame; `None` at the end of the connection.
pub fn read_frame(stream: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut exactly = |count: usize| {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).ok()?;
        Some(bytes)
    };
    let head = exactly(2)?;
    let length = match head[1] & 0x7f {
        126 => usize::from(u16::from_be_bytes(exactly(2)?.try_into().unwrap())),
        127 => usize::try_from(u64::from_be_bytes(exactly(8)?.try_into().unwrap())).unwrap(),
        length => length.into(),
    };
    let mask = if head[1] & 0x80 == 0 { vec![0; 4] } else { exactly(4)? };
    let payload = exactly(length)?;
    Some((head[0], payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()))
}

/// The code of the close frame that comes next, and nothing behind it.
#[track_caller]
pub fn close_code(client: &mut Client) -> u16 {
    let (first, payload) = read_frame(&mut client.stream()).expect("a frame");
    assert_eq!(first, 0x88, "{payload:?}");
    let mut rest = Vec::new();
    // A client that has not said all it wanted to may see a reset.
    let _ = client.stream().read_to_end(&mut rest);
    assert!(rest.is_empty(), "{rest:?}");
    u16::from_be_bytes(payload[..2].try_into().unwrap())
}

/// A server that says everything once more.
pub fn parrot() -> Bare {
    Bare::start(|stream, _| {
        let head = read_head(stream).unwrap().to_ascii_lowercase();
        assert!(head.contains("upgrade: websocket"), "{head}");
        stream.write_all(SWITCH).unwrap();
        while let Some((first, payload)) = read_frame(stream) {
            stream.write_all(&frame(first, &payload, false)).unwrap();
        }
    })
}

/// A client's WebSocket.
#[track_caller]
pub fn upgraded(gateway: &Gateway) -> Client {
    let mut client = gateway.client();
    client.write(request("GET", "/chat", &UPGRADE).as_bytes());
    let answer = client.read();
    assert_eq!(answer.status, 101, "{answer:?}");
    for (name, value) in [("upgrade", "websocket"), ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")] {
        assert_eq!(answer.header(name), Some(value), "{answer:?}");
    }
    client
}

/// The parrot is there.
#[track_caller]
pub fn says_again(client: &mut Client, text: &str) {
    client.write(&message(text));
    let (first, payload) = read_frame(&mut client.stream()).expect("a frame");
    assert_eq!((first, String::from_utf8(payload).unwrap().as_str()), (0x81, text));
}
