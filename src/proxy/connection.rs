//! What is known of a client's connection, found out once and used by all its requests.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use http::HeaderValue;

use crate::config::listener::Listener;

/// What a listener asks of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long an idle connection is kept.
    pub idle: Duration,
    /// How long the header of a request may take, from its first byte.
    pub header: Duration,
    /// How long a pause within a body may be, in both directions.
    pub body: Duration,
    /// How large the header of a request may be, in bytes.
    pub max_header: usize,
    /// After so many requests the connection is closed.
    pub max_requests: u32,
    /// Whether HTTP/2 with prior knowledge is spoken.
    pub h2c: bool,
}

impl Limits {
    /// The limits of a listener.
    pub fn new(listener: &Listener) -> Self {
        Self {
            idle: listener.idle_timeout.0,
            header: listener.header_timeout.0,
            body: listener.body_timeout.0,
            max_header: usize::try_from(listener.max_header_size.0).unwrap_or(usize::MAX),
            max_requests: listener.max_requests.max(1),
            h2c: listener.h2c,
        }
    }
}

/// The limits of every listener, by the address that a connection came in on.
#[derive(Debug)]
pub struct Listeners(Box<[(SocketAddr, Limits)]>);

impl Listeners {
    /// The listeners with the addresses that they were bound to.
    pub fn new(all: impl IntoIterator<Item = (SocketAddr, Limits)>) -> Self {
        Self(all.into_iter().collect())
    }

    /// The limits for connections to this address. A listener on `0.0.0.0` is reached by many.
    pub fn limits(&self, local: Option<SocketAddr>) -> Limits {
        let fits = |bound: SocketAddr, local: SocketAddr| {
            bound.port() == local.port() && (bound.ip() == local.ip() || bound.ip().is_unspecified())
        };
        let exact = |one: &&(SocketAddr, Limits)| Some(one.0) == local;
        let found = self.0.iter().find(exact).or_else(|| {
            let local = local?;
            self.0.iter().find(|one| fits(one.0, local))
        });
        found.or_else(|| self.0.first()).map_or(DEFAULT, |one| one.1)
    }
}

const DEFAULT: Limits = Limits {
    idle: Duration::from_secs(75),
    header: Duration::from_secs(10),
    body: Duration::from_mins(1),
    max_header: 64 << 10,
    max_requests: 100_000,
    h2c: false,
};

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    /// Who is at its other end; of an IPv4 client on an IPv6 socket, the IPv4 address.
    pub client: SocketAddr,
    /// The address of the client as the value of a header.
    pub client_value: HeaderValue,
    /// Whether it is encrypted.
    pub secure: bool,
    /// What its listener asks of clients.
    pub limits: Limits,
    /// When its last request ended, on the monotonic clock; 0 before the first one.
    pub last_end: AtomicU64,
    /// Whether the client has sent another request behind the one that is served.
    pub more: AtomicBool,
}

impl Connection {
    /// A connection between these addresses.
    pub fn new(client: Option<SocketAddr>, secure: bool, limits: Limits) -> Arc<Self> {
        let mut client = client.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into());
        client.set_ip(client.ip().to_canonical());
        Arc::new(Self {
            client_value: ip_value(client.ip()),
            client,
            secure,
            limits,
            last_end: AtomicU64::new(0),
            more: AtomicBool::new(false),
        })
    }
}

fn ip_value(ip: IpAddr) -> HeaderValue {
    HeaderValue::try_from(ip.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}
