//! Waits for a client in one direction, no longer than its [`Account`] lets it.
//!
//! Whether a client takes what it is sent is not for the gateway to see: the kernel takes much at once, and then nothing
//! for long, however steadily the client reads. The kernel knows what the client has acknowledged, and is asked where the
//! gateway has to wait, and before it gives up.

use std::{
    io,
    os::fd::RawFd,
    pin::Pin,
    task::{Context, Poll},
};

use pingora::protocols::l4::ext::get_tcp_info;
use tokio::time::{Instant, Sleep, sleep_until};

use super::tempo::{Account, Tempo};

/// The client took longer than its listener allows.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the client is too slow")]
pub struct TooSlow;

impl From<TooSlow> for io::Error {
    fn from(slow: TooSlow) -> Self {
        Self::new(io::ErrorKind::TimedOut, slow)
    }
}

/// Waiting for what a client sends.
#[derive(Debug)]
pub(super) struct Patience {
    account: Account,
    /// Set where it first is waited for, and again only when it goes off: most waits are over long before.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(super) const fn new(tempo: Tempo) -> Self {
        Self { account: Account::new(tempo), timer: None }
    }

    /// To be called while nothing comes. Ready when the client has used up its time.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<TooSlow> {
        let end = self.account.wait(Instant::now());
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= end {
                return Poll::Ready(TooSlow);
            }
            timer.as_mut().reset(end);
        }
        Poll::Pending
    }

    /// So many bytes came.
    pub(super) fn moved(&mut self, bytes: usize) {
        self.rest();
        self.account.moved(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// The client is not waited for at the moment.
    pub(super) fn rest(&mut self) {
        if self.account.is_waiting() {
            self.account.pause(Instant::now());
        }
    }
}

/// Waiting for a client that is sent something.
#[derive(Debug)]
pub(super) struct Delivery {
    patience: Patience,
    /// What was written, and how much had been taken when it was looked at last.
    written: u64,
    taken: u64,
}

impl Delivery {
    pub(super) const fn new(tempo: Tempo) -> Self {
        Self { patience: Patience::new(tempo), written: 0, taken: 0 }
    }

    /// The client is not waited for at the moment.
    pub(super) fn rest(&mut self) {
        self.patience.rest();
    }

    /// Lets the timer go, while nothing is sent for long.
    pub(super) fn calm(&mut self) {
        self.patience.timer = None;
    }

    /// To be called while nothing can be written. Ready when the client has used up its time.
    pub(super) fn poll_over(&mut self, socket: RawFd, cx: &mut Context<'_>) -> Poll<TooSlow> {
        if !self.patience.account.is_waiting() {
            self.look(socket);
        }
        while let Poll::Ready(slow) = self.patience.poll_over(cx) {
            self.patience.rest();
            if self.look(socket) == 0 || self.patience.account.is_empty() {
                return Poll::Ready(slow);
            }
        }
        Poll::Pending
    }

    /// So many bytes were written.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written = self.written.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Puts on the account what the client took since it was looked at last, and says how much that is. What is no TCP
    /// socket has no large buffers: there, what was written was taken.
    fn look(&mut self, socket: RawFd) -> u64 {
        let taken = get_tcp_info(socket).map_or(self.written, |info| info.tcpi_bytes_acked);
        let fresh = taken.saturating_sub(self.taken);
        self.taken = taken;
        self.patience.account.moved(fresh);
        fresh
    }
}
