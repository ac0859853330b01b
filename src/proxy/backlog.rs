//! Responses that wait for clients which do not take them.
//!
//! Pingora reads ahead of what a client has room for, out of sight of the gateway. While a response waits for its client,
//! that is counted towards [`limits.buffers`](super::room), so that nothing new is taken on when too many wait. Those that were taken on
//! before may all turn out to be of that kind. When they hold twice as much as the limit, a response that has to wait is broken
//! off.

use std::io;

use super::{Gateway, room::Held};

/// What Pingora reads ahead of a response and the gateway does not see: pieces of 64 KiB, four in its pipe, one that waits for room
/// there, one that is read.
const AHEAD: u64 = 384 << 10;

/// So many responses wait that no other one may.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("too much waits for clients already")]
pub(super) struct Crowded;

impl From<Crowded> for io::Error {
    fn from(crowded: Crowded) -> Self {
        Self::other(crowded)
    }
}

/// What is held for one client.
#[derive(Debug)]
pub(super) struct Backlog {
    gateway: Gateway,
    held: Option<Held>,
}

impl Backlog {
    pub(super) const fn new(gateway: Gateway) -> Self {
        Self { gateway, held: None }
    }

    /// The client has no room for what it is sent.
    pub(super) fn waits(&mut self) -> Result<(), Crowded> {
        if self.held.is_none() {
            let room = self.gateway.room();
            if room.buffers() >= self.gateway.capacity().buffers.saturating_mul(2) {
                return Err(Crowded);
            }
            self.held = Some(room.hold(AHEAD));
        }
        Ok(())
    }

    /// It has.
    pub(super) fn moves(&mut self) {
        self.held = None;
    }
}
