//! The bodies of one call: base64 on the way in, base64 and the trailers as a frame on the way out.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;

use crate::{grpc::Kind, reject::Reject};

/// The translation of one call.
#[derive(Debug)]
pub struct Bridge {
    kind: Kind,
    upload: Decoder,
    /// Where the messages of the response begin and end; `None` until its header said that it has some.
    messages: Option<Messages>,
}

impl Bridge {
    /// For a client that speaks this.
    pub fn new(kind: Kind) -> Self {
        Self { kind, upload: Decoder::default(), messages: None }
    }

    /// What the client speaks.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The request is sent, perhaps once more: its body comes from the beginning.
    pub fn restart(&mut self) {
        self.upload = Decoder::default();
    }

    /// A piece of the request's body, for the upstream.
    pub fn request(&mut self, piece: &mut Option<Bytes>, end: bool) -> Result<(), Reject> {
        if self.kind != Kind::WebText {
            return Ok(());
        }
        if let Some(text) = piece {
            *text = self.upload.decode(text)?;
        }
        if end { self.upload.finish() } else { Ok(()) }
    }

    /// The header of the response is one of gRPC.
    pub fn begin(&mut self) {
        self.messages = Some(Messages::default());
    }

    /// A piece of the response's body, for the client.
    pub fn response(&mut self, piece: &mut Option<Bytes>) {
        let (Some(messages), Some(bytes)) = (&mut self.messages, piece) else { return };
        messages.advance(bytes);
        if self.kind == Kind::WebText {
            *bytes = encode(bytes);
        }
    }

    /// The trailers as the last piece of the response's body.
    pub fn trailers(&self, trailers: &HeaderMap) -> Option<Bytes> {
        self.messages.as_ref()?;
        let frame = trailer_frame(trailers);
        Some(if self.kind == Kind::WebText { encode(&frame) } else { frame })
    }

    /// The same if the response ends before its trailers came; `None` if it breaks off within a message.
    pub fn cut(&self, trailers: &HeaderMap) -> Option<Bytes> {
        self.messages.as_ref().filter(|messages| messages.is_between())?;
        self.trailers(trailers)
    }
}

/// Trailers as a frame: a flag, the length, and lines as in HTTP/1.1.
pub fn trailer_frame(trailers: &HeaderMap) -> Bytes {
    let mut frame = BytesMut::from(&[0x80, 0, 0, 0, 0][..]);
    for (name, value) in trailers {
        frame.put_slice(name.as_str().as_bytes());
        frame.put_u8(b':');
        frame.put_slice(value.as_bytes());
        frame.put_slice(b"\r\n");
    }
    let length = u32::try_from(frame.len().saturating_sub(5)).unwrap_or(u32::MAX);
    if let Some(place) = frame.get_mut(1..5) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    frame.freeze()
}

/// Where messages begin and end: a flag, a length of four bytes, and so many bytes.
#[derive(Debug, Default)]
struct Messages {
    head: [u8; 5],
    have: usize,
    left: usize,
}

impl Messages {
    fn advance(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let own = self.left.min(bytes.len());
                self.left -= own;
                bytes = bytes.get(own..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.head.get_mut(self.have) {
                *place = *first;
            }
            self.have += 1;
            bytes = rest;
            if self.have == self.head.len() {
                let [_, length @ ..] = self.head;
                self.have = 0;
                self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            }
        }
    }

    const fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding ([RFC 4648, 4](https://www.rfc-editor.org/rfc/rfc4648#section-4)). Each piece is whole, so that the
/// client can read it as soon as it comes.
fn encode(bytes: &[u8]) -> Bytes {
    let mut text = BytesMut::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let [first, second, third] = [0, 1, 2].map(|at| u32::from(group.get(at).copied().unwrap_or_default()));
        let bits = first << 16 | second << 8 | third;
        for place in 0..4_usize {
            let index = usize::try_from(bits >> (18 - 6 * place) & 63).unwrap_or_default();
            let digit = ALPHABET.get(index).copied().unwrap_or_default();
            text.put_u8(if place > group.len() { b'=' } else { digit });
        }
    }
    text.freeze()
}

/// Reads base64 that comes in pieces. Padding may stand wherever a group of four characters ends: a client may have
/// encoded each message by itself.
#[derive(Debug, Default)]
struct Decoder {
    bits: u32,
    /// How many characters of a group there are, and how many of them are padding.
    digits: u8,
    padding: u8,
}

const NOT_BASE64: Reject = Reject::BadRequest("the body of the request is not base64");

impl Decoder {
    fn decode(&mut self, text: &[u8]) -> Result<Bytes, Reject> {
        let mut bytes = BytesMut::with_capacity(text.len().div_ceil(4) * 3);
        for character in text {
            let value = match character {
                b'A'..=b'Z' => character - b'A',
                b'a'..=b'z' => character - b'a' + 26,
                b'0'..=b'9' => character - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                b'=' if self.digits >= 2 => 0,
                _ => return Err(NOT_BASE64),
            };
            if *character == b'=' {
                self.padding += 1;
            } else if self.padding > 0 {
                return Err(NOT_BASE64);
            }
            self.bits = self.bits << 6 | u32::from(value);
            self.digits += 1;
            if self.digits == 4 {
                let [_, group @ ..] = self.bits.to_be_bytes();
                let length = group.len().saturating_sub(self.padding.into());
                bytes.put_slice(group.get(..length).unwrap_or_default());
                *self = Self::default();
            }
        }
        Ok(bytes.freeze())
    }

    fn finish(&self) -> Result<(), Reject> {
        if self.digits == 0 { Ok(()) } else { Err(NOT_BASE64) }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn decode(pieces: &[&[u8]]) -> Option<Vec<u8>> {
        let mut bridge = Bridge::new(Kind::WebText);
        let mut all = Vec::new();
        for (i, piece) in pieces.iter().enumerate() {
            let mut piece = Some(Bytes::copy_from_slice(piece));
            bridge.request(&mut piece, i + 1 == pieces.len()).ok()?;
            all.extend_from_slice(&piece.unwrap());
        }
        Some(all)
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")]
        {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(&[text.as_bytes()]).unwrap(), bytes.as_bytes());
        }
        assert_eq!(decode(&[b"Zg==Zm8=Zm9v"]).unwrap(), b"ffofoo");
        for wrong in ["Zg", "Zg=", "Z===", "====", "Zg=a", "Zm9v\n", "Zm-_", "Zm9vY"] {
            assert_eq!(decode(&[wrong.as_bytes()]), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_however_they_are_cut(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..100_usize) {
            let text = encode(&bytes);
            let (one, other) = text.split_at(cut.min(text.len()));
            prop_assert_eq!(decode(&[one, other]).unwrap(), bytes);
        }
    }

    #[test]
    fn trailers_are_a_frame() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("5"));
        trailers.insert("grpc-message", HeaderValue::from_static("gone"));
        let frame = trailer_frame(&trailers);
        assert_eq!(&frame[..5], [0x80, 0, 0, 0, 34]);
        assert_eq!(&frame[5..], b"grpc-status:5\r\ngrpc-message:gone\r\n");
        let mut bridge = Bridge::new(Kind::WebText);
        assert_eq!(bridge.trailers(&trailers), None, "the answer is none of gRPC");
        bridge.begin();
        assert_eq!(bridge.trailers(&trailers).unwrap(), encode(&frame));
    }

    #[test]
    fn a_response_is_cut_between_two_messages_only() {
        let mut bridge = Bridge::new(Kind::Web);
        bridge.begin();
        let trailers = HeaderMap::new();
        let mut say = |bytes: &'static [u8]| {
            bridge.response(&mut Some(Bytes::from_static(bytes)));
            bridge.cut(&trailers).is_some()
        };
        assert!(say(b""));
        assert!(!say(&[0, 0, 0]));
        assert!(!say(&[0, 2, b'a']));
        assert!(say(b"b"));
        assert!(say(&[0, 0, 0, 0, 0]));
        assert!(!say(&[0, 0, 0, 0, 1]));
    }
}
