//! What goes on in this process: what a shutdown or a hand-over waits for.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

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

/// The numbers of connections and requests in this process.
#[derive(Clone, Debug, Default)]
pub struct Flights(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
    web_sockets: AtomicUsize,
    turned_away: AtomicUsize,
    closing: AtomicBool,
}

impl Counts {
    fn of(&self, kind: Kind) -> &AtomicUsize {
        match kind {
            Kind::Connection => &self.connections,
            Kind::Request => &self.requests,
            Kind::WebSocket => &self.web_sockets,
            Kind::TurnedAway => &self.turned_away,
        }
    }
}

/// One that is counted until this is dropped: also by a panic, or when the client goes away.
#[derive(Debug)]
pub struct InFlight(Arc<Counts>, Kind);

impl Flights {
    /// Counts one more.
    pub fn begin(&self, kind: Kind) -> InFlight {
        self.0.of(kind).fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(&self.0), kind)
    }

    /// How many there are now.
    pub fn count(&self, kind: Kind) -> usize {
        self.0.of(kind).load(Ordering::Relaxed)
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
        self.0.of(self.1).fetch_sub(1, Ordering::Relaxed);
    }
}
