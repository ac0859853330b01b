//! Where a request ends in the bytes of its connection.
//!
//! Chunks are read here to the letter ([RFC 9112, 7.1](https://www.rfc-editor.org/rfc/rfc9112#section-7.1)), more strictly
//! than Pingora reads them: what is no chunk ends the request, before two servers could disagree about where it ends.
//!
//! - A size is 1 to 15 hexadecimal digits, and nothing else: no sign, no `0x`, no space.
//! - An extension begins with `;` right behind the size, and has visible characters, spaces and tabs; a line has at most 256
//!   bytes of it. Extensions do not go on.
//! - Every line ends with CRLF, and so does the data.
//! - A trailer is `name: value` like a header, all of them together at most 8 KiB. Trailers do not go on: no
//!   `Content-Length` or `Authorization` can come in behind a request that was let through.

/// How much is still to come of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// So many bytes. None: the request is over.
    Length(u64),
    /// Chunks.
    Chunks(Chunk),
    /// No end is known: the connection changes its protocol.
    Open,
    /// What came is no chunk. Nothing that follows can be understood.
    Broken,
}

/// Within a body in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// In the digits of a size.
    Size {
        /// The size so far.
        size: u64,
        /// How many digits there were.
        digits: u8,
    },
    /// In the extensions of a chunk of this size.
    Extension {
        /// The size of the chunk.
        size: u64,
        /// How long the extensions are so far.
        length: u16,
    },
    /// Before the LF behind a size.
    SizeEnd(u64),
    /// In the data, of which there is so much to come.
    Data(u64),
    /// Before the CR behind the data.
    DataEnd,
    /// Before the LF behind the data.
    DataFeed,
    /// In the trailers, of which there were so many bytes.
    Trailer(Trailer, u16),
}

/// Within the trailers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trailer {
    /// At the beginning of a line.
    Start,
    /// In a name.
    Name,
    /// In a value.
    Value,
    /// Before the LF behind a value.
    Feed,
    /// Before the LF of the empty line.
    Last,
}

/// Longer extensions of one chunk are refused: they go nowhere, and cost more than the data.
const MAX_EXTENSION: u16 = 256;

/// Longer trailers are refused.
const MAX_TRAILERS: u16 = 8 << 10;

impl Boundary {
    /// The beginning of a body in chunks.
    pub const CHUNKED: Self = Self::Chunks(Chunk::Size { size: 0, digits: 0 });

    /// Whether everything has come.
    pub fn is_over(self) -> bool {
        self == Self::Length(0)
    }

    /// Goes on by these bytes; returns how many of them belong to the request.
    pub fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            match self {
                Self::Open | Self::Broken => return bytes.len(),
                Self::Length(0) => break,
                Self::Length(left) => used += skip(left, rest),
                Self::Chunks(Chunk::Data(left)) => {
                    used += skip(left, rest);
                    if *left == 0 {
                        *self = Self::Chunks(Chunk::DataEnd);
                    }
                }
                Self::Chunks(chunk) => {
                    *self = chunk.step(rest.first().copied().unwrap_or_default());
                    used += 1;
                }
            }
        }
        used
    }
}

/// Takes from `left` what `bytes` has of it; returns how much that is.
fn skip(left: &mut u64, bytes: &[u8]) -> usize {
    let taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
    *left = left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
    taken
}

impl Chunk {
    const FIRST: Self = Self::Size { size: 0, digits: 0 };

    /// What comes after this byte.
    fn step(self, byte: u8) -> Boundary {
        let next = match (self, byte) {
            (Self::Size { size, digits }, _) if byte.is_ascii_hexdigit() && digits < 15 => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                Self::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Self::Size { size, digits: 1.. } | Self::Extension { size, .. }, b'\r') => Self::SizeEnd(size),
            (Self::Size { size, digits: 1.. }, b';') => Self::Extension { size, length: 0 },
            (Self::Extension { size, length }, _) if is_text(byte) && length < MAX_EXTENSION => {
                Self::Extension { size, length: length + 1 }
            }
            (Self::SizeEnd(0), b'\n') => Self::Trailer(Trailer::Start, 0),
            (Self::SizeEnd(size), b'\n') => Self::Data(size),
            (Self::DataEnd, b'\r') => Self::DataFeed,
            (Self::DataFeed, b'\n') => Self::FIRST,
            (Self::Trailer(Trailer::Last, _), b'\n') => return Boundary::Length(0),
            (Self::Trailer(trailer, length), _) if length < MAX_TRAILERS => match trailer.step(byte) {
                Some(next) => Self::Trailer(next, length + 1),
                None => return Boundary::Broken,
            },
            (
                Self::Size { .. }
                | Self::Extension { .. }
                | Self::SizeEnd(_)
                | Self::Data(_)
                | Self::DataEnd
                | Self::DataFeed
                | Self::Trailer(..),
                _,
            ) => return Boundary::Broken,
        };
        Boundary::Chunks(next)
    }
}

impl Trailer {
    fn step(self, byte: u8) -> Option<Self> {
        match (self, byte) {
            (Self::Start, b'\r') => Some(Self::Last),
            (Self::Start | Self::Name, _) if is_token(byte) => Some(Self::Name),
            (Self::Name, b':') => Some(Self::Value),
            (Self::Value, b'\r') => Some(Self::Feed),
            // As in a header, characters beyond ASCII may be in a value.
            (Self::Value, _) if is_text(byte) || byte >= 0x80 => Some(Self::Value),
            (Self::Feed, b'\n') => Some(Self::Start),
            (Self::Start | Self::Name | Self::Value | Self::Feed | Self::Last, _) => None,
        }
    }
}

/// A visible character, a space or a tab.
fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~')
}

/// A character of a name ([RFC 9110, 5.6.2](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2)).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes belong to the request, however they were cut.
    fn length(boundary: Boundary, bytes: &[u8]) -> Option<usize> {
        let mut whole = boundary;
        let used = whole.advance(bytes);
        let mut pieces = boundary;
        let by_piece: usize = bytes.iter().map(|byte| pieces.advance(&[*byte])).sum();
        assert_eq!((used, whole), (by_piece, pieces), "{:?}", String::from_utf8_lossy(bytes));
        whole.is_over().then_some(used)
    }

    #[test]
    fn a_body_with_a_length_ends_there() {
        assert_eq!(length(Boundary::Length(0), b"GET"), Some(0));
        assert_eq!(length(Boundary::Length(3), b"abcGET"), Some(3));
        assert_eq!(length(Boundary::Length(3), b"ab"), None);
    }

    #[test]
    fn a_body_in_chunks_ends_behind_the_empty_line() {
        for (bytes, end) in [
            (&b"0\r\n\r\nGET"[..], Some(5)),
            (b"3\r\nabc\r\n0\r\n\r\nGET", Some(13)),
            (b"3;x=\"y z\"\r\nabc\r\n00\r\n\r\n", Some(22)),
            (b"a\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\nGET", Some(20)),
            (b"0\r\nX: y\r\nZ: 0\r\n\r\nGET", Some(17)),
            (b"0\r\nX-Empty:\r\n\r\n", Some(15)),
            (b"000000000000003\r\nabc\r\n0\r\n\r\n", Some(27)),
            (b"3\r\nabc\r\n", None),
            (b"0\r\nX: y\r\n", None),
        ] {
            assert_eq!(length(Boundary::CHUNKED, bytes), end, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn what_is_no_chunk_breaks_the_request_off() {
        let long = format!("3;{}\r\n", "x".repeat(300));
        let trailers = format!("0\r\n{}", "X: y\r\n".repeat(2000));
        for bytes in [
            &b"zz\r\nGET"[..],
            b"\r\n",
            b";\r\n",
            b"3\nabc",
            b"3;x\nabc",
            b"3;x\rabc",
            b"3;\x00\r\n",
            b"3;\x80\r\n",
            b"3 \r\nabc",
            b"3\t;x\r\nabc",
            b" 3\r\nabc",
            b"+3\r\nabc",
            b"-3\r\nabc",
            b"0x3\r\nabc",
            b"3_0\r\nabc",
            b"ffffffffffffffff\r\n",
            b"0000000000000000\r\n",
            b"3\r\nabcd\r\n",
            b"3\r\nabc\n",
            b"3\r\nabc\r0",
            b"3\r\nabc0\r\n",
            b"0\r\n\n",
            b"0\r\nX\r\n",
            b"0\r\n: y\r\n",
            b"0\r\nX : y\r\n",
            b"0\r\n X: y\r\n",
            b"0\r\nX: y\r\n z\r\n",
            b"0\r\nX: y\n",
            b"0\r\nX: \x00\r\n",
            b"0\r\nX: y\rz\r\n",
            b"0\n\n",
            long.as_bytes(),
            trailers.as_bytes(),
        ] {
            let mut boundary = Boundary::CHUNKED;
            assert_eq!(boundary.advance(bytes), bytes.len());
            assert_eq!(boundary, Boundary::Broken, "{:?}", String::from_utf8_lossy(bytes));
            assert_eq!(length(Boundary::CHUNKED, bytes), None);
        }
    }
}
