//! Header blocks of a client's connection, put together from the frames that they come in
//! ([RFC 9113, 6.2](https://www.rfc-editor.org/rfc/rfc9113#section-6.2) and
//! [6.10](https://www.rfc-editor.org/rfc/rfc9113#section-6.10)).
//!
//! A block that comes in one frame and one read, as nearly all do, is read where it lies; others are copied first.

use std::vec::Drain;

use super::{
    fields::Fields,
    flood::Flood,
    frames::{END_HEADERS, Fault},
};

/// Flags of `HEADERS`, and what each of them puts before the block.
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// The bit of a stream's number that means nothing.
const RESERVED: u32 = 1 << 31;

/// The block that is coming.
#[derive(Debug)]
pub(super) struct Block {
    fields: Fields,
    /// What has come of it in earlier frames and reads, and where in that the payload of the last frame begins.
    held: Vec<u8>,
    begin: usize,
    /// A block is no longer than this.
    max: usize,
    stream: u32,
    flags: u8,
    /// Streams whose path has a fragment.
    found: Vec<u32>,
}

impl Block {
    pub(super) fn new(max: usize) -> Self {
        Self { fields: Fields::default(), held: Vec::new(), begin: 0, max, stream: 0, flags: 0, found: Vec::new() }
    }

    /// A frame of a block begins, the `first` one of it or another.
    pub(super) fn frame(&mut self, first: bool, flags: u8, stream: u32) {
        if first {
            self.stream = stream & !RESERVED;
            self.flags = flags;
        } else {
            // Padding and priority are for the first frame alone.
            self.flags = flags & END_HEADERS;
        }
        self.begin = self.held.len();
    }

    /// Takes the next piece of the payload of that frame; `whole` with the last one.
    pub(super) fn payload(&mut self, piece: &[u8], whole: bool) -> Result<(), Fault> {
        let ends = whole && self.flags & END_HEADERS != 0;
        if ends && self.held.is_empty() {
            return self.read(strip(piece, self.flags, self.stream)?);
        }
        if self.held.len() + piece.len() > self.max {
            return Err(Fault::Flood(Flood::Continuation));
        }
        self.held.extend_from_slice(piece);
        if whole {
            let payload = self.held.split_off(self.begin);
            self.held.extend_from_slice(strip(&payload, self.flags, self.stream)?);
        }
        if ends {
            let block = std::mem::take(&mut self.held);
            self.read(&block)?;
        }
        Ok(())
    }

    fn read(&mut self, block: &[u8]) -> Result<(), Fault> {
        if self.fields.read(block).map_err(|_malformed| Fault::Block)? {
            self.found.push(self.stream);
        }
        Ok(())
    }

    /// Whether [`found`](Self::found) has any.
    pub(super) fn has_found(&self) -> bool {
        !self.found.is_empty()
    }

    /// Takes the streams that were found to have a fragment in their path.
    pub(super) fn found(&mut self) -> Drain<'_, u32> {
        self.found.drain(..)
    }
}

/// The part of a block that a payload has, without padding and priority. A stream that depends on itself is a fault of the connection: the
/// crate would give up the stream without a look at the block, and take the next ones for something else.
fn strip(payload: &[u8], flags: u8, stream: u32) -> Result<&[u8], Fault> {
    let (padding, rest) = match (flags & PADDED != 0, payload) {
        (false, _) => (0, payload),
        (true, [padding, rest @ ..]) => (usize::from(*padding), rest),
        (true, []) => return Err(Fault::Size),
    };
    let rest = match (flags & PRIORITY != 0, rest) {
        (false, _) => rest,
        (true, [a, b, c, d, _, rest @ ..]) => {
            if u32::from_be_bytes([*a, *b, *c, *d]) & !RESERVED == stream {
                return Err(Fault::Protocol);
            }
            rest
        }
        (true, _) => return Err(Fault::Size),
    };
    let end = rest.len().checked_sub(padding).ok_or(Fault::Protocol)?;
    rest.get(..end).ok_or(Fault::Protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `GET` of a path, as it is.
    fn get(path: &str) -> Vec<u8> {
        [&[0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()], path.as_bytes()].concat()
    }

    /// What is found after frames of these kinds, flags and payloads on stream 1, cut into pieces of so many bytes.
    fn found(frames: &[(bool, u8, &[u8])], size: usize) -> Result<Vec<u32>, Fault> {
        let mut block = Block::new(1000);
        for (first, flags, payload) in frames {
            block.frame(*first, *flags, 1 | RESERVED);
            let mut pieces = payload.chunks(size).peekable();
            if pieces.peek().is_none() {
                block.payload(&[], true)?;
            }
            while let Some(piece) = pieces.next() {
                block.payload(piece, pieces.peek().is_none())?;
            }
        }
        let found = block.found().collect();
        Ok(found)
    }

    #[test]
    fn a_block_is_the_same_however_it_is_cut() {
        let (bad, good) = (get("/a#b"), get("/ab"));
        let padded = [&[3][..], &[0, 0, 0, 4, 5], &bad, &[0; 3]].concat();
        let (one, two) = bad.split_at(5);
        let first = [&[2][..], one, &[0; 2]].concat();
        for size in [1, 2, 3, 5, 100] {
            assert_eq!(found(&[(true, END_HEADERS, &good)], size), Ok(vec![]), "{size}");
            assert_eq!(found(&[(true, END_HEADERS, &bad)], size), Ok(vec![1]), "{size}");
            assert_eq!(found(&[(true, END_HEADERS | PADDED | PRIORITY, &padded)], size), Ok(vec![1]), "{size}");
            let parts = [(true, PADDED, &first[..]), (false, 0, &[]), (false, PADDED, two), (false, END_HEADERS, &[])];
            assert_eq!(found(&parts, size), Ok(vec![1]), "{size}");
            // The last block counts for the table, too.
            let two = [(true, END_HEADERS, &good[..]), (true, END_HEADERS, &bad)];
            assert_eq!(found(&two, size), Ok(vec![1]), "{size}");
        }
    }

    #[test]
    fn what_is_no_block_is_a_fault() {
        let faults: [(u8, &[u8], Fault); 7] = [
            (END_HEADERS | PADDED, &[], Fault::Size),
            (END_HEADERS | PRIORITY, &[1, 2, 3, 4], Fault::Size),
            (END_HEADERS | PADDED, &[2, 0x82], Fault::Protocol),
            (END_HEADERS | PADDED | PRIORITY, &[1, 0, 0, 0, 0, 0], Fault::Protocol),
            (END_HEADERS | PRIORITY, &[0x80, 0, 0, 1, 16, 0x82], Fault::Protocol),
            (END_HEADERS, &[0xbe], Fault::Block),
            (0, &[0; 1001], Fault::Flood(Flood::Continuation)),
        ];
        for (flags, payload, fault) in faults {
            for size in [1, 2000] {
                assert_eq!(found(&[(true, flags, payload)], size), Err(fault), "{payload:x?}");
            }
        }
    }

    /// What a client of `h2` writes for requests with these paths, and a header that changes every few of them.
    async fn written(paths: &[String]) -> Vec<u8> {
        use tokio::io::AsyncReadExt as _;
        let (ours, mut theirs) = tokio::io::duplex(10 << 20);
        let builder = h2::client::Builder::new().initial_max_send_streams(10_000).clone();
        let (mut client, connection) = builder.handshake::<_, bytes::Bytes>(ours).await.unwrap();
        let mut answers = Vec::new();
        for (at, path) in paths.iter().enumerate() {
            let mut request = http::Request::get(format!("https://test.example{path}"));
            for (step, name) in
                ["user-agent", "x-own", "strict-transport-security", "if-match", "link"].iter().enumerate()
            {
                request = request.header(*name, "v#".repeat(at / (step + 2) % 90));
            }
            answers.push(client.send_request(request.body(()).unwrap(), true).unwrap());
        }
        drop(client);
        let driven = tokio::spawn(connection);
        let mut bytes = vec![0; 10 << 20];
        let mut length = 0;
        while let Ok(Ok(count)) =
            tokio::time::timeout(std::time::Duration::from_millis(100), theirs.read(&mut bytes[length..])).await
        {
            length += count;
        }
        driven.abort();
        bytes.truncate(length);
        bytes.split_off(24)
    }

    #[tokio::test]
    async fn what_a_real_client_compresses_is_understood_to_the_end() {
        let paths: Vec<_> = (0..1000).map(|at| format!("/{}?x=%23", "p".repeat(at % 37))).collect();
        let bytes = written(&paths).await;
        let (mut block, mut rest, mut count) = (Block::new(1000), &bytes[..], 0);
        while let [a, b, c, kind, flags, s, t, u, v, payload @ ..] = rest {
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if *kind == 1 {
                block.frame(true, *flags, u32::from_be_bytes([*s, *t, *u, *v]));
                block.payload(&payload[..length], true).unwrap();
                count += 1;
            }
            rest = &payload[length..];
        }
        assert_eq!(count, paths.len());
        assert!(!block.has_found());
        // The last ones are still in the table, where the encoder thinks that they are: ours has as many entries.
        assert!(block.fields.entries() > 5, "{}", block.fields.entries());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_block_or_a_fault_however_they_are_cut(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            size in 1_usize..50,
            flags in proptest::prelude::any::<u8>(),
        ) {
            let flags = flags | END_HEADERS;
            let whole = found(&[(true, flags, &bytes)], usize::MAX);
            proptest::prop_assert_eq!(found(&[(true, flags, &bytes)], size), whole);
        }
    }
}
