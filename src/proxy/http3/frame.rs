//! Frames on a stream ([RFC 9114, 7](https://www.rfc-editor.org/rfc/rfc9114#section-7)).
//!
//! A frame is read piece by piece as it arrives: what it says about its length is believed only as far as it is
//! there, and what nobody wants is dropped and not kept.

use std::{
    pin::pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use quinn::{ReadError, RecvStream};

pub(super) const DATA: u64 = 0x0;
pub(super) const HEADERS: u64 = 0x1;
pub(super) const CANCEL_PUSH: u64 = 0x3;
pub(super) const SETTINGS: u64 = 0x4;
pub(super) const PUSH_PROMISE: u64 = 0x5;
pub(super) const GOAWAY: u64 = 0x7;
pub(super) const MAX_PUSH_ID: u64 = 0xd;

/// So much is taken from a stream at once.
const PIECE: usize = 64 << 10;

/// Whether a frame of this type may be on no stream, or only on a control stream.
pub(super) fn is_known(kind: u64) -> bool {
    // 2, 6, 8 and 9 are frames of HTTP/2.
    matches!(kind, 2 | 6 | 8 | 9 | DATA | HEADERS | CANCEL_PUSH | SETTINGS | PUSH_PROMISE | GOAWAY | MAX_PUSH_ID)
}

/// Why no more can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The client has broken off its side of the stream.
    Reset,
    /// The connection is gone.
    Lost,
    /// The stream ended within a frame.
    CutOff,
}

impl From<ReadError> for Broken {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(_) => Self::Reset,
            ReadError::ConnectionLost(_)
            | ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => Self::Lost,
        }
    }
}

/// The frames of a stream. Every method can be called again where it was broken off.
#[derive(Debug)]
pub(super) struct Frames {
    stream: RecvStream,
    /// Read, and not looked at.
    piece: Bytes,
    /// A number of which not every byte is there.
    partial: Partial,
    kind: Option<u64>,
    /// What of the frame is still to come.
    left: u64,
}

impl Frames {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self { stream, piece: Bytes::new(), partial: Partial::default(), kind: None, left: 0 }
    }

    /// Asks the client to send no more.
    pub(super) fn stop(&mut self, code: super::code::Code) {
        if self.stream.stop(code.into()).is_err() {
            log::trace!("a stream was over already");
        }
    }

    /// The next piece of the stream, or nothing at its end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Broken>> {
        while self.piece.is_empty() {
            match ready!(pin!(self.stream.read_chunk(PIECE, true)).poll(cx))? {
                Some(chunk) => self.piece = chunk.bytes,
                None => return Poll::Ready(Ok(false)),
            }
        }
        Poll::Ready(Ok(true))
    }

    /// The next byte; nothing at the end of the stream.
    pub(super) fn poll_byte(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u8>, Broken>> {
        let more = ready!(self.poll_piece(cx))?;
        Poll::Ready(Ok(more.then(|| self.piece.get_u8())))
    }

    /// The next number; nothing at the end of the stream.
    pub(super) fn poll_number(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, Broken>> {
        loop {
            if !ready!(self.poll_piece(cx))? {
                let whole = self.partial.is_empty();
                return Poll::Ready(if whole { Ok(None) } else { Err(Broken::CutOff) });
            }
            if let Some(number) = self.partial.push(self.piece.get_u8()) {
                return Poll::Ready(Ok(Some(number)));
            }
        }
    }

    /// Type and length of the next frame; nothing at the end of the stream. The frame before has to be read.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<(u64, u64)>, Broken>> {
        let kind = match self.kind {
            Some(kind) => kind,
            None => match ready!(self.poll_number(cx))? {
                Some(kind) => *self.kind.insert(kind),
                None => return Poll::Ready(Ok(None)),
            },
        };
        let Some(length) = ready!(self.poll_number(cx))? else { return Poll::Ready(Err(Broken::CutOff)) };
        (self.kind, self.left) = (None, length);
        Poll::Ready(Ok(Some((kind, length))))
    }

    /// The next piece of the frame; nothing at its end.
    pub(super) fn poll_payload(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        if self.left == 0 {
            return Poll::Ready(Ok(None));
        }
        if !ready!(self.poll_piece(cx))? {
            return Poll::Ready(Err(Broken::CutOff));
        }
        let length = usize::try_from(self.left).map_or(self.piece.len(), |left| left.min(self.piece.len()));
        let part = self.piece.split_to(length);
        self.left -= u64::try_from(length).unwrap_or(self.left);
        Poll::Ready(Ok(Some(part)))
    }
}

/// A number whose first two bits say how long it is ([RFC 9000, 16](https://www.rfc-editor.org/rfc/rfc9000#section-16)).
#[derive(Clone, Copy, Debug, Default)]
struct Partial {
    value: u64,
    missing: u8,
}

impl Partial {
    fn is_empty(self) -> bool {
        self.missing == 0
    }

    /// Takes one more byte; the number once it is whole.
    fn push(&mut self, byte: u8) -> Option<u64> {
        if self.missing == 0 {
            *self = Self { value: u64::from(byte & 0x3f), missing: (1 << (byte >> 6)) - 1 };
        } else {
            *self = Self { value: self.value << 8 | u64::from(byte), missing: self.missing - 1 };
        }
        let whole = self.missing == 0;
        whole.then(|| std::mem::take(self).value)
    }
}

/// Appends a number.
pub(super) fn put_number(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_be_bytes();
    let (length, mark) = match value {
        0..=0x3f => (1, 0),
        0x40..=0x3fff => (2, 0x40),
        0x4000..=0x3fff_ffff => (4, 0x80),
        _ => (8, 0xc0),
    };
    let start = out.len();
    out.extend_from_slice(bytes.get(8 - length..).unwrap_or_default());
    if let Some(first) = out.get_mut(start) {
        *first |= mark;
    }
}

/// Appends the numbers of a list of bytes, or nothing if it is none.
pub(super) fn numbers(bytes: &[u8]) -> Option<Vec<u64>> {
    let mut partial = Partial::default();
    let all = bytes.iter().filter_map(|byte| partial.push(*byte)).collect();
    partial.is_empty().then_some(all)
}

/// The start of a frame of so many bytes.
pub(super) fn header(kind: u64, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(9);
    put_number(&mut out, kind);
    put_number(&mut out, u64::try_from(length).unwrap_or(u64::MAX));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_are_read() {
        // RFC 9000, A.1
        for (value, bytes) in [
            (151_288_809_941_952_652, &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..]),
            (494_878_333, &[0x9d, 0x7f, 0x3e, 0x7d]),
            (15_293, &[0x7b, 0xbd]),
            (37, &[0x25]),
            (0, &[0]),
        ] {
            let mut out = Vec::new();
            put_number(&mut out, value);
            assert_eq!(out, bytes);
            assert_eq!(numbers(bytes), Some(vec![value]));
        }
        assert_eq!(numbers(&[0x40, 0x25, 1]), Some(vec![37, 1]));
        assert_eq!(numbers(&[0x40]), None);
        assert_eq!(header(DATA, 100), [0, 0x40, 100]);
    }
}
