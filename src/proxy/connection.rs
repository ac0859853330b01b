//! What is known of a client's connection, found out once and used by all its requests.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use http::HeaderValue;
use pingora::protocols::l4::socket::SocketAddr as SocketAddress;

use super::{head::Bounds, tempo::Tempo, web_socket::Talk};
use crate::{
    config::{
        listener::{self, Listener},
        types::Size,
    },
    tls::{Terminator, stream::Session},
};

/// What a listener asks of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long an idle connection is kept.
    pub idle: Duration,
    /// How long the header of a request may take, from its first byte.
    pub header: Duration,
    /// How long a pause within a body may be, in both directions.
    pub body: Duration,
    /// How many bytes in a second a client has to send or to take in the long run; 0 asks for none.
    pub min_rate: u64,
    /// How large the body of a request may be where no policy says so.
    pub max_body: Option<u64>,
    /// How large the header of a request may be, in bytes.
    pub max_header: usize,
    /// How many headers a request may have.
    pub max_headers: usize,
    /// How long the request line may be, in bytes.
    pub max_line: usize,
    /// After so many requests the connection is closed.
    pub max_requests: u32,
    /// Whether HTTP/2 with prior knowledge is spoken.
    pub h2c: bool,
    /// What HTTP/2 may take up.
    pub http2: Http2,
    /// Where HTTP/3 is spoken instead.
    pub alternative: Option<Alternative>,
}

/// Another way to reach the same listener ([RFC 7838](https://www.rfc-editor.org/rfc/rfc7838)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// The UDP port.
    pub port: u16,
    /// How long a client may remember it.
    pub max_age: Duration,
}

impl Alternative {
    fn value(self) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("h3=\":{}\"; ma={}", self.port, self.max_age.as_secs())).ok()
    }
}

/// What HTTP/2 may take up on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// How many streams there may be at once.
    pub streams: u32,
    /// How much a client may send ahead on a stream, in bytes.
    pub window: u32,
    /// The same for all streams together.
    pub connection_window: u32,
}

impl Http2 {
    /// Those of a listener, in the bounds of the protocol.
    fn new(listener: &listener::Http2) -> Self {
        let window = |size: Size| u32::try_from(size.0).unwrap_or(MAX_WINDOW).min(MAX_WINDOW);
        Self {
            streams: listener.max_concurrent_streams.max(1),
            window: window(listener.stream_window),
            connection_window: window(listener.connection_window),
        }
    }
}

/// [RFC 9113, 6.9.1](https://www.rfc-editor.org/rfc/rfc9113#section-6.9.1)
const MAX_WINDOW: u32 = (1 << 31) - 1;

impl Limits {
    /// The limits of a listener.
    pub fn new(listener: &Listener) -> Self {
        Self {
            idle: listener.idle_timeout.0,
            header: listener.header_timeout.0,
            body: listener.body_timeout.0,
            min_rate: listener.min_body_rate.0,
            max_body: Some(listener.max_body_size.0).filter(|max| *max > 0),
            max_header: bytes(listener.max_header_size),
            max_headers: usize::from(listener.max_headers),
            max_line: bytes(listener.max_request_line),
            max_requests: listener.max_requests.max(1),
            h2c: listener.h2c,
            http2: Http2::new(&listener.http2),
            alternative: None,
        }
    }

    /// What the header of a request may have.
    pub fn bounds(&self) -> Bounds {
        Bounds { headers: self.max_headers, line: self.max_line }
    }

    /// How fast a client has to be.
    pub fn tempo(&self) -> Tempo {
        Tempo { pause: self.body, rate: self.min_rate }
    }
}

fn bytes(size: Size) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}

/// What a listener is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    /// An address with its real port.
    Inet(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Local {
    fn is(&self, local: &SocketAddress) -> bool {
        match (self, local) {
            (Self::Inet(bound), SocketAddress::Inet(local)) => bound == local,
            (Self::Unix(bound), SocketAddress::Unix(local)) => local.as_pathname() == Some(bound),
            (Self::Inet(_) | Self::Unix(_), _) => false,
        }
    }

    /// A listener on `0.0.0.0` is reached by many addresses.
    fn takes(&self, local: &SocketAddress) -> bool {
        match (self, local) {
            (Self::Inet(bound), SocketAddress::Inet(local)) => {
                bound.port() == local.port() && (bound.ip() == local.ip() || bound.ip().is_unspecified())
            }
            (Self::Inet(_) | Self::Unix(_), _) => false,
        }
    }
}

/// A listener, as its connections see it.
#[derive(Clone, Debug)]
pub struct Door {
    /// The address that it is bound to, with its real port.
    pub bound: Local,
    /// What it asks of its clients.
    pub limits: Limits,
    /// What terminates TLS; without it the listener speaks plain text.
    pub tls: Option<Arc<Terminator>>,
}

/// The listeners, by the address that a connection came in on.
#[derive(Debug)]
pub struct Listeners(Box<[Door]>);

impl Listeners {
    /// The listeners with the addresses that they were bound to, in the order of the file.
    pub fn new(all: impl IntoIterator<Item = Door>) -> Self {
        Self(all.into_iter().collect())
    }

    /// Which listener a connection to this address came in on; if nobody knows, it is served as by the first one.
    pub fn find(&self, local: Option<&SocketAddress>) -> Option<(Option<usize>, &Door)> {
        let index = local.and_then(|local| {
            let exact = self.0.iter().position(|door| door.bound.is(local));
            exact.or_else(|| self.0.iter().position(|door| door.bound.takes(local)))
        });
        Some((index, self.0.get(index.unwrap_or_default())?))
    }
}

/// How a connection came. Addresses of IPv4 on an IPv6 socket are those of IPv4.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Which listener it came in on, in the order of the file.
    pub listener: Option<usize>,
    /// Who is at its other end; `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// For whom: the peer, unless the PROXY protocol says something else.
    pub client: Option<SocketAddr>,
    /// Where the client connected to.
    pub server: Option<SocketAddr>,
    /// What its listener asks of clients.
    pub limits: Limits,
}

impl Arrival {
    /// A connection to a listener between these addresses.
    pub(super) fn new(
        listener: Option<usize>,
        limits: Limits,
        peer: Option<&SocketAddress>,
        local: Option<&SocketAddress>,
    ) -> Self {
        let inet = |address: Option<&SocketAddress>| Some(canonical(*address?.as_inet()?));
        let peer = inet(peer);
        Self { listener, peer, client: peer, server: inet(local), limits }
    }

    /// The address of the client; `None` if it came over a Unix socket.
    pub fn client_ip(&self) -> Option<IpAddr> {
        self.client.map(|client| client.ip())
    }
}

pub(super) fn canonical(mut address: SocketAddr) -> SocketAddr {
    address.set_ip(address.ip().to_canonical());
    address
}

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    /// How it came.
    pub arrival: Arrival,
    /// The address of the client as the value of a header.
    pub client_value: HeaderValue,
    /// What TLS found out, if it is encrypted.
    pub tls: Option<Arc<Session>>,
    /// `Alt-Svc` for its responses.
    pub alternative: Option<HeaderValue>,
    /// What its listener asks of clients.
    pub limits: Limits,
    /// When its last request ended, on the monotonic clock; 0 before the first one.
    pub last_end: AtomicU64,
    /// Whether the client has sent another request behind the one that is served.
    pub more: AtomicBool,
    /// The WebSocket that it became, if it did.
    pub web_socket: OnceLock<Arc<Talk>>,
}

impl Connection {
    /// A connection that came like this.
    pub fn new(arrival: Arrival, tls: Option<Session>) -> Arc<Self> {
        Arc::new(Self {
            client_value: arrival.client_ip().map_or(HeaderValue::from_static("unknown"), ip_value),
            tls: tls.map(Arc::new),
            alternative: arrival.limits.alternative.and_then(Alternative::value),
            limits: arrival.limits,
            arrival,
            last_end: AtomicU64::new(0),
            more: AtomicBool::new(false),
            web_socket: OnceLock::new(),
        })
    }
}

impl Connection {
    /// Another one of the same client, which lives within this one.
    pub(super) fn again(&self) -> Arc<Self> {
        let Self { arrival, client_value, tls, alternative, limits, last_end: _, more: _, web_socket: _ } = self;
        Arc::new(Self {
            alternative: alternative.clone(),
            arrival: *arrival,
            client_value: client_value.clone(),
            tls: tls.clone(),
            limits: *limits,
            last_end: AtomicU64::new(0),
            more: AtomicBool::new(false),
            web_socket: OnceLock::new(),
        })
    }
}

fn ip_value(ip: IpAddr) -> HeaderValue {
    HeaderValue::try_from(ip.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a listener asks of clients if its file says nothing.
    pub(in crate::proxy) fn limits() -> Limits {
        Limits::new(&serde_saphyr::from_str("{ address: '127.0.0.1:80' }").unwrap())
    }

    #[test]
    fn a_connection_is_known_by_where_it_came_to() {
        let inet = |text: &str| text.parse::<SocketAddr>().unwrap();
        let door = |bound| Door { bound, limits: limits(), tls: None };
        let listeners = Listeners::new([
            door(Local::Inet(inet("0.0.0.0:80"))),
            door(Local::Inet(inet("10.0.0.1:80"))),
            door(Local::Unix("/run/a.sock".into())),
            door(Local::Inet(inet("[::1]:81"))),
        ]);
        let of = |local: SocketAddress| listeners.find(Some(&local)).unwrap().0;
        let unix = |path| SocketAddress::Unix(std::os::unix::net::SocketAddr::from_pathname(path).unwrap());
        assert_eq!(of(SocketAddress::Inet(inet("10.0.0.1:80"))), Some(1));
        assert_eq!(of(SocketAddress::Inet(inet("10.0.0.2:80"))), Some(0));
        assert_eq!(of(unix("/run/a.sock")), Some(2));
        assert_eq!(of(SocketAddress::Inet(inet("[::1]:81"))), Some(3));
        // Nothing is known of it, so nobody is trusted.
        assert_eq!(of(unix("/run/b.sock")), None);
        assert_eq!(listeners.find(None).unwrap().0, None);
    }
}
