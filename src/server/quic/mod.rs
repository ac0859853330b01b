//! HTTP/3's side of the process: a UDP socket beside the TCP socket of a listener.
//!
//! QUIC does not leave it to the kernel which process and which connection a packet belongs to. Each process puts a mark of
//! its own into the connection IDs that it gives out ([`ids`]). Where one process takes over from another, both have the
//! socket: the new one reads it, and passes on what has the mark of the old one, over a socket pair that came with the
//! hand-over ([`socket`]). The old one still sends by itself.
//!
//! What comes from an address that has not shown yet that it gets answers is cheap for its sender and dear for a server.
//! Therefore ([`Handshakes`]):
//!
//! - From a quarter of `max_handshakes` on, a client has to come back with a token first (Retry), which costs no memory.
//! - Beyond `max_handshakes` nothing is begun.
//! - A handshake takes as long as one over TCP at most (`handshake_timeout`), and counts as a connection only when it is done.

mod config;
mod ids;
mod socket;

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pingora_runtime::current_handle;
use quinn::{Endpoint, Incoming, TokioRuntime};
use tokio::sync::watch;

use self::{
    config::Crypto,
    socket::{Inbox, Outbox, Steered},
};
use crate::{
    config::http3::Http3Options,
    proxy::{accept::Acceptor, in_flight::Flights},
    runtime::Seeds,
    tls::Terminator,
};

pub(super) use self::{ids::Mark, socket::inbox_pair};

/// A UDP socket with what belongs to it, before it is served.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) local: SocketAddr,
    pub(super) udp: OwnedFd,
    /// Where a process that takes over puts what is for this one.
    pub(super) inbox: OwnedFd,
    /// Where what is for the process before goes, and its mark.
    pub(super) before: Option<(OwnedFd, Mark)>,
}

/// How a listener's UDP socket is served.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) bound: Bound,
    pub(super) options: Http3Options,
    pub(super) terminator: Arc<Terminator>,
    pub(super) idle: Duration,
    pub(super) handshake: Duration,
}

/// What the UDP sockets of a process have in common.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) acceptor: Acceptor,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) flights: Flights,
    pub(super) mark: Mark,
    pub(super) seeds: Seeds,
}

impl Listener {
    /// Serves HTTP/3 until the process ends.
    pub(super) async fn run(self, shared: Shared) {
        let local = self.bound.local;
        match self.open(&shared) {
            Ok((endpoint, handshakes)) => accept(&endpoint, &handshakes, shared, local).await,
            // It was bound, so that this is hardly possible.
            Err(error) => log::error!("no HTTP/3 on {local}: {error}"),
        }
    }

    fn open(self, shared: &Shared) -> io::Result<(Endpoint, Handshakes)> {
        let Self { bound: Bound { udp, inbox, before, .. }, options, terminator, idle, handshake } = self;
        let crypto = Crypto::new(&shared.seeds);
        let outbox = before.map(|(fd, mark)| Outbox::new(fd, mark));
        let socket = Steered::new(udp.into(), Inbox::new(inbox)?, outbox, shared.mark, shared.flights)?;
        let server = crypto.server(&terminator, &options, idle).map_err(io::Error::other)?;
        let endpoint = Endpoint::new_with_abstract_socket(
            crypto.endpoint(shared.mark),
            Some(server),
            Arc::new(socket),
            Arc::new(TokioRuntime),
        )?;
        let max = usize::try_from(options.max_handshakes).unwrap_or(usize::MAX);
        Ok((endpoint, Handshakes { count: Arc::default(), max, limit: handshake }))
    }
}

async fn accept(endpoint: &Endpoint, handshakes: &Handshakes, shared: Shared, local: SocketAddr) {
    let mut stop = shared.stop.clone();
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => handshakes.begin(incoming, &shared, local),
                None => return,
            },
        }
    }
    // Connections go on; what is new goes elsewhere.
    while let Some(incoming) = endpoint.accept().await {
        incoming.refuse();
    }
}

/// Connections that are not opened yet.
struct Handshakes {
    count: Arc<AtomicUsize>,
    max: usize,
    limit: Duration,
}

/// One of them, until it is over.
struct Handshake(Arc<AtomicUsize>);

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Handshakes {
    fn begin(&self, incoming: Incoming, shared: &Shared, local: SocketAddr) {
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        let counted = Handshake(Arc::clone(&self.count));
        if before >= self.max / 4 && !incoming.remote_address_validated() {
            if incoming.retry().is_err() {
                log::trace!("a client cannot be asked to come back");
            }
            return;
        }
        if before >= self.max {
            incoming.refuse();
            return;
        }
        let (limit, shared) = (self.limit, shared.clone());
        let local = incoming.local_ip().map_or(local, |ip| SocketAddr::new(ip.to_canonical(), local.port()));
        // In the thread that does all the work of this connection.
        current_handle().spawn(async move {
            let Ok(connecting) = incoming.accept() else { return };
            let Ok(Ok(connection)) = tokio::time::timeout(limit, connecting).await else { return };
            drop(counted);
            shared.acceptor.http3(connection, Some(local), &shared.stop).await;
        });
    }
}
