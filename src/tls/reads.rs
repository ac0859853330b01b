//! What TLS reads from a socket: as much as is there at once, and nothing is set aside while nothing comes.
//!
//! rustls reads by 4 KiB, so that a record of 16 KiB would cost five system calls. A buffer for whole records would spare
//! them, and be held by every idle connection. Here a record is read onto the stack, and only what rustls does not take
//! at once is kept.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use pingora::protocols::Stream;
use tokio::io::{AsyncRead, ReadBuf};

use crate::layer::writes_as;

/// The largest record, nearly.
const PIECE: usize = 16 << 10;

/// A connection below TLS.
#[derive(Debug)]
pub(super) struct Below {
    pub(super) inner: Stream,
    /// What was read and not taken.
    rest: Bytes,
}

impl Below {
    pub(super) const fn new(inner: Stream) -> Self {
        Self { inner, rest: Bytes::new() }
    }

    /// Hands out as much as there is room for.
    fn take(&mut self, buf: &mut ReadBuf<'_>) {
        let most = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest.split_to(most));
        if self.rest.is_empty() {
            self.rest = Bytes::new();
        }
    }
}

impl AsyncRead for Below {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            if buf.remaining() >= PIECE {
                return Pin::new(&mut self.inner).poll_read(cx, buf);
            }
            let mut piece = [const { MaybeUninit::uninit() }; PIECE];
            let mut read = ReadBuf::uninit(&mut piece);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut read))?;
            let (now, later) = read.filled().split_at(read.filled().len().min(buf.remaining()));
            buf.put_slice(now);
            if !later.is_empty() {
                self.rest = Bytes::copy_from_slice(later);
            }
        } else {
            self.take(buf);
        }
        Poll::Ready(Ok(()))
    }
}

writes_as!(inner, Below);
