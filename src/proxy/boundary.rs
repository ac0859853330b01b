//! Where a request ends in the bytes of its connection.

/// How much is still to come of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// So many bytes. None: the request is over.
    Length(u64),
    /// Chunks ([RFC 9112, 7.1](https://www.rfc-editor.org/rfc/rfc9112#section-7.1)).
    Chunks(Chunk),
    /// No end is known: the connection changes its protocol, or the chunks are none.
    Open,
}

/// Within a body in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// In the digits of a size; how many there were.
    Size {
        /// The size so far.
        size: u64,
        /// How many digits there were.
        digits: u8,
    },
    /// Behind the digits, before the end of the line.
    Extension(u64),
    /// In the data, of which there is so much to come, with the line end behind it.
    Data(u64),
    /// In the trailers; whether the line has anything in it yet.
    Trailer {
        /// Nothing but perhaps a CR has come since the last line end.
        empty: bool,
    },
}

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
                Self::Open => return bytes.len(),
                Self::Length(0) => break,
                Self::Length(left) => used += skip(left, rest),
                Self::Chunks(Chunk::Data(left)) => {
                    used += skip(left, rest);
                    if *left == 0 {
                        *self = Self::CHUNKED;
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
    /// What comes after this byte. What is not clear makes the boundary unknown: Pingora reads on, and refuses it.
    fn step(self, byte: u8) -> Boundary {
        let next = match (self, byte) {
            (Self::Size { size, digits }, _) if byte.is_ascii_hexdigit() && digits < 15 => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                Self::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Self::Size { size, digits: 1.. }, b'\r' | b';' | b' ' | b'\t') => Self::Extension(size),
            (Self::Extension(0), b'\n') => Self::Trailer { empty: true },
            (Self::Extension(size), b'\n') => Self::Data(size + 2),
            (Self::Trailer { empty: true }, b'\n') => return Boundary::Length(0),
            (Self::Trailer { .. }, b'\n') => Self::Trailer { empty: true },
            (Self::Trailer { empty: true }, b'\r') | (Self::Extension(_), _) => self,
            (Self::Trailer { .. }, _) => Self::Trailer { empty: false },
            (Self::Size { .. } | Self::Data(_), _) => return Boundary::Open,
        };
        Boundary::Chunks(next)
    }
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
            (b"3;x=y\r\nabc\r\n00\r\n\r\n", Some(18)),
            (b"a\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\nGET", Some(20)),
            (b"0\r\nX: y\r\nZ: 0\r\n\r\nGET", Some(17)),
            (b"3\r\nabc\r\n", None),
            (b"0\r\nX: y\r\n", None),
        ] {
            assert_eq!(length(Boundary::CHUNKED, bytes), end, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn the_end_of_what_is_no_chunk_is_not_known() {
        for bytes in [&b"zz\r\nGET"[..], b"\r\n", b";\r\n", b"3\nabc", b"ffffffffffffffff\r\n"] {
            let mut boundary = Boundary::CHUNKED;
            assert_eq!(boundary.advance(bytes), bytes.len());
            assert_eq!(boundary, Boundary::Open, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
