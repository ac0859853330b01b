//! What a request and its connection know of each other.
//!
//! Pingora keeps idle connections by the number of their socket, compares that with the endpoint, and so keeps none that is wrapped. But it does put
//! one aside when it can be used again, and throws it away otherwise: if the wrapper is still there when the request
//! is over, the connection in it is good for another one, and is taken out and kept here.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use pingora::{
    protocols::Stream,
    upstreams::peer::{HttpPeer, Peer as _},
};

use super::Hedger;
use crate::upstream::Lease;

/// The connection of a request, while anybody has it.
#[derive(Debug)]
pub(super) struct Slot(Mutex<Inside>);

#[derive(Debug)]
pub(super) struct Inside {
    /// None once the wrapper is gone, or the connection is kept for another request.
    pub(super) stream: Option<Stream>,
    /// Whom it is connected to.
    pub(super) peer: Box<HttpPeer>,
    /// Whether it was used before.
    reused: bool,
    won: Option<Won>,
    /// Who waits for something to read.
    reader: Option<Waker>,
}

/// The second endpoint has answered.
#[derive(Debug)]
pub(crate) struct Won {
    /// That endpoint.
    pub(crate) lease: Lease,
    /// When it was asked, on the monotonic clock.
    pub(crate) asked: u64,
}

impl Slot {
    pub(super) fn new(peer: Box<HttpPeer>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inside { stream: None, peer, reused: false, won: None, reader: None })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock()
    }
}

impl Inside {
    pub(super) fn open(&mut self, (stream, reused): (Stream, bool)) {
        self.stream = Some(stream);
        self.reused = reused;
    }

    /// The second endpoint takes over.
    pub(super) fn switch(&mut self, stream: Stream, peer: Box<HttpPeer>, won: Won) {
        *self = Self { stream: Some(stream), peer, won: Some(won), reused: false, reader: self.reader.take() };
    }

    /// Looks at the connection; who asks is told when it is gone.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Stream, &mut Context<'_>) -> Poll<T>,
    ) -> Option<Poll<T>> {
        let polled = poll(self.stream.as_mut()?, cx);
        if polled.is_pending() && !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
        Some(polled)
    }
}

/// The exchange, as the request knows it.
#[derive(Debug)]
pub struct Exchange {
    pub(super) slot: Arc<Slot>,
    pub(super) hedger: Arc<Hedger>,
}

impl Exchange {
    /// The second endpoint, if it has answered in place of the first one; said once.
    pub(crate) fn won(&self) -> Option<Won> {
        self.slot.lock().won.take()
    }

    /// Whether the connection had been used before.
    pub fn was_reused(&self) -> bool {
        self.slot.lock().reused
    }

    /// The request is over, with all that belongs to it: if Pingora has put the connection aside, it is kept for another one.
    pub fn keep(self) {
        let mut inside = self.slot.lock();
        let (key, idle) = (inside.peer.reuse_hash(), inside.peer.options.idle_timeout);
        if idle != Some(Duration::ZERO)
            && let Some(stream) = inside.stream.take()
        {
            self.hedger.connector.release_stream(stream, key, idle);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut inside = self.slot.lock();
        let (stream, reader) = (inside.stream.take(), inside.reader.take());
        drop(inside);
        drop(stream);
        // If Pingora has put the wrapper aside, it waits for its end.
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}
