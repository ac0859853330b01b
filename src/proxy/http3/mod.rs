//! HTTP/3 on a client's connection: streams side by side, over QUIC.
//!
//! Pingora speaks no HTTP/3, but takes requests from whoever implements its custom `Session`. This is one: a stream is
//! read up to the header of its request ([`incoming`], [`request`]), and handed to the same proxy as the requests of other
//! versions ([`mod@session`]); from there everything is as for them. QUIC itself is that of `quinn`.
//!
//! | file | what it does |
//! |---|---|
//! | [`frame`], [`qpack`] | the wire format |
//! | [`control`] | what both sides say about the connection |
//! | [`incoming`], [`request`], [`body`] | a request on its way in |
//! | [`answer`] | a response on its way out |
//! | [`mod@session`] | both, as Pingora sees them |
//! | [`stream`] | the life of a request |
//!
//! - 0-RTT is off: a request cannot be replayed.
//! - A connection takes a seat once its handshake is done, so that the client's address is not a lie. If there is no room,
//!   it is closed with `H3_EXCESSIVE_LOAD`.
//! - When the process is replaced or stops, and after `max_requests`, the client is told to go away (GOAWAY). What it
//!   has asked by then, and what is on its way to the gateway, is answered; a second GOAWAY says where that ends. What
//!   comes later is refused with `H3_REQUEST_REJECTED`, which promises that it had no effect.

mod answer;
mod body;
pub(crate) mod code;
mod control;
mod frame;
mod incoming;
mod qpack;
mod request;
mod session;
mod stream;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pingora::{
    http::ResponseHeader,
    protocols::{Digest, l4::socket::SocketAddr as SocketAddress, raw_connect::ProxyDigest},
    server::ShutdownWatch,
};
use quinn::{RecvStream, SendStream, VarInt, crypto::rustls::HandshakeData};
use tokio::{sync::Notify, time::Instant};

use self::{
    code::Code,
    control::{Control, Peer},
    stream::Shared,
};
use super::{
    End,
    accept::{Acceptor, no_request},
    connection::{Arrival, Connection, Limits},
    in_flight::{InFlight, Kind},
};
use crate::{reject::Reject, tls::stream::Session};

/// Requests that a client has sent before it hears that it should go away take so long to come in.
const ON_THEIR_WAY: Duration = Duration::from_millis(500);

impl Acceptor {
    /// Serves HTTP/3 until the connection ends; `shutdown` makes it say goodbye and finish what it has.
    pub(crate) async fn http3(&self, quic: quinn::Connection, local: Option<SocketAddr>, shutdown: &ShutdownWatch) {
        let (peer, local) = (quic.remote_address(), local.map(SocketAddress::Inet));
        let Some((listener, door)) = self.gateway.listeners().find(local.as_ref()) else { return };
        // It is where an alternative would lead to.
        let limits = Limits { alternative: None, ..door.limits };
        let arrival = Arrival::new(listener, limits, Some(&SocketAddress::Inet(peer)), local.as_ref());
        let connection = Connection::new(arrival, Some(session(&quic)));
        let seat = match self.gateway.room().enter(arrival.client_ip(), &self.gateway.capacity()) {
            Ok(seat) => seat,
            Err(reject) => {
                quic.close(Code::EXCESSIVE_LOAD.into(), b"");
                return self.not_served(&connection, reject);
            }
        };
        if let Some(serving) = Serving::begin(self, quic.clone(), connection).await {
            serving.run(shutdown.clone(), self.leave.clone()).await;
        }
        drop(seat);
    }

    /// Counts and logs a connection for which there is no room.
    fn not_served(&self, connection: &Arc<Connection>, reject: Reject) {
        let mut ctx = self.gateway.context();
        ctx.adopt(connection);
        ctx.reject = Some(reject);
        let mut request = no_request();
        request.set_version(http::Version::HTTP_3);
        self.gateway.finish(&request, &ctx, &End::default());
    }
}

/// What ends a connection is on its way to the client after that long.
const SENT: Duration = Duration::from_millis(5);

/// Whether the client has been told to go away. The process waits until that is done.
#[derive(Debug)]
enum Leaving {
    No,
    /// It has; at that moment, what it asks is no longer answered.
    Soon(Instant, #[expect(dead_code, reason = "counts while it is there")] InFlight),
    /// What it asks is no longer answered.
    Refusing(#[expect(dead_code, reason = "counts while it is there")] InFlight),
}

/// A connection that is served.
struct Serving {
    shared: Arc<Shared>,
    control: Control,
    leaving: Leaving,
    /// So many requests are still taken.
    left: u32,
    /// The number of the next request.
    next: u64,
}

impl Serving {
    async fn begin(acceptor: &Acceptor, quic: quinn::Connection, connection: Arc<Connection>) -> Option<Self> {
        let control = Control::open(&quic, connection.limits.max_header).await.ok()?;
        let digest = Arc::new(digest(&connection)?);
        let left = connection.limits.max_requests;
        let shared = Shared {
            acceptor: acceptor.clone(),
            quic,
            connection,
            peer: Peer::new(),
            digest,
            streams: Arc::default(),
            malformed: AtomicUsize::new(0),
        };
        Some(Self { shared: Arc::new(shared), control, leaving: Leaving::No, left, next: 0 })
    }

    async fn run(mut self, mut shutdown: ShutdownWatch, mut leave: ShutdownWatch) {
        let shared = Arc::clone(&self.shared);
        let quic = &shared.quic;
        if *shutdown.borrow_and_update() {
            self.go_on_leaving().await;
        }
        loop {
            tokio::select! {
                biased;
                () = self.turn(&mut shutdown, &mut leave) => self.go_on_leaving().await,
                opened = quic.accept_uni() => if !shared.listen(opened) { return },
                opened = quic.accept_bi() => if !self.accept(opened).await { return },
                () = self.over() => break,
            }
        }
        quic.close(Code::NO_ERROR.into(), b"");
        tokio::time::sleep(SENT).await;
    }

    /// Ready when the next step of leaving is due.
    async fn turn(&self, shutdown: &mut ShutdownWatch, leave: &mut ShutdownWatch) {
        match self.leaving {
            Leaving::No => drop(shutdown.changed().await),
            Leaving::Soon(at, _) => tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                _ = leave.changed() => {}
            },
            Leaving::Refusing(_) => std::future::pending().await,
        }
    }

    /// Ready when the connection is of no more use.
    async fn over(&self) {
        let quiet = match self.leaving {
            Leaving::No => self.shared.connection.limits.idle,
            Leaving::Soon(..) => return std::future::pending().await,
            // Until the goodbye has reached the client.
            Leaving::Refusing(_) => (self.shared.quic.rtt() * 3).clamp(SENT, Duration::from_secs(1)),
        };
        self.shared.streams.quiet(quiet).await;
    }

    /// Tells the client to ask elsewhere; then, from where on nothing is answered any more.
    async fn go_on_leaving(&mut self) {
        let counted = || self.shared.acceptor.gateway.room().flights().begin(Kind::Request);
        match &self.leaving {
            Leaving::No => {
                let counted = counted();
                self.control.leave().await;
                self.leaving = Leaving::Soon(Instant::now() + ON_THEIR_WAY, counted);
            }
            Leaving::Soon(..) | Leaving::Refusing(_) => {
                let counted = counted();
                self.control.refuse_from(self.next).await;
                self.leaving = Leaving::Refusing(counted);
            }
        }
    }

    /// Takes a request, or refuses it; `false` at the end of the connection.
    async fn accept(&mut self, opened: Result<(SendStream, RecvStream), quinn::ConnectionError>) -> bool {
        let (send, recv) = match opened {
            Ok(both) => both,
            Err(error) => return ended(&error),
        };
        if matches!(self.leaving, Leaving::Refusing(_)) {
            stream::reject(send, recv);
            return true;
        }
        // Every fourth number is that of a request.
        self.next = VarInt::from(send.id()).into_inner().saturating_add(4);
        self.left = self.left.saturating_sub(1);
        let counted = self.shared.streams.begin();
        tokio::spawn(Arc::clone(&self.shared).serve(send, recv, counted));
        if self.left == 0 && matches!(self.leaving, Leaving::No) {
            self.go_on_leaving().await;
        }
        true
    }
}

/// `false`, for whoever asks whether a connection goes on.
fn ended(error: &quinn::ConnectionError) -> bool {
    log::debug!("an HTTP/3 connection ended: {error}");
    false
}

/// What is known of the handshake.
fn session(quic: &quinn::Connection) -> Session {
    let data = quic.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    Session::quic(data.as_ref().and_then(|data| data.server_name.as_deref()))
}

/// What Pingora gets to know of the connection, with the [`Connection`] for the hooks, as for HTTP/2.
fn digest(connection: &Arc<Connection>) -> Option<Digest> {
    let response = Box::new(ResponseHeader::build(200, None).ok()?);
    let proxy_digest = ProxyDigest::new(response, Some(Box::new(Arc::clone(connection))));
    Some(Digest { proxy_digest: Some(Arc::new(proxy_digest)), ..Digest::default() })
}

/// The streams of a connection that are served.
#[derive(Debug, Default)]
struct Streams {
    count: AtomicUsize,
    none: Notify,
}

/// A stream, until it is over.
#[derive(Debug)]
struct Counted(Arc<Streams>);

impl Streams {
    fn begin(self: &Arc<Self>) -> Counted {
        self.count.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(self))
    }

    /// Ready when there has been no stream for so long.
    async fn quiet(&self, time: Duration) {
        while self.count.load(Ordering::Relaxed) > 0 {
            self.none.notified().await;
        }
        tokio::time::sleep(time).await;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.none.notify_one();
        }
    }
}
