//! What goes on in this process: what a shutdown or a hand-over waits for.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::telemetry::cells::Cells;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client's connection, idle or not.
    Connection,
    /// A request, from its header to the end of its response.
    Request,
    /// A request that became a WebSocket; it is counted as a request too.
    WebSocket,
    /// A connection for which there is no room, while it is told so.
    TurnedAway,
}

/// The numbers of connections and requests in this process, for as long as it lives: what each request holds on to is not counted itself, in memory
/// that all workers would write.
#[derive(Clone, Copy, Debug)]
pub struct Flights(&'static Counts);

impl Default for Flights {
    fn default() -> Self {
        Self(Box::leak(Box::default()))
    }
}

#[derive(Debug, Default)]
struct Counts {
    /// By kind: those that have begun, and then those that have ended.
    all: Cells<8>,
    closing: AtomicBool,
}

impl Kind {
    /// Where those are that have begun, and those that have ended.
    const fn positions(self) -> (usize, usize) {
        match self {
            Self::Connection => (0, 4),
            Self::Request => (1, 5),
            Self::WebSocket => (2, 6),
            Self::TurnedAway => (3, 7),
        }
    }
}

/// One that is counted until this is dropped: also by a panic, or when the client goes away.
#[derive(Debug)]
pub struct InFlight(&'static Counts, Kind);

impl Flights {
    /// Counts one more.
    pub fn begin(&self, kind: Kind) -> InFlight {
        self.0.all.add(kind.positions().0, 1);
        InFlight(self.0, kind)
    }

    /// How many there are now; never fewer, because those that have ended are counted first.
    pub fn count(&self, kind: Kind) -> usize {
        let (begun, ended) = kind.positions();
        let ended = self.0.all.sum(ended);
        usize::try_from(self.0.all.sum(begun).wrapping_sub(ended)).unwrap_or(usize::MAX)
    }

    /// From now on every response says that its connection is closed behind it.
    pub fn close(&self) {
        self.0.closing.store(true, Ordering::Relaxed);
    }

    /// Whether connections are closed behind a response.
    pub fn are_closing(&self) -> bool {
        self.0.closing.load(Ordering::Relaxed)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.all.add(self.1.positions().1, 1);
    }
}
