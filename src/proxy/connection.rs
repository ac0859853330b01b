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

use crate::{
    config::listener::Listener,
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

/// A listener, as its connections see it.
#[derive(Clone, Debug)]
pub struct Door {
    /// The address that it is bound to, with its real port.
    pub bound: SocketAddr,
    /// What it asks of its clients.
    pub limits: Limits,
    /// What terminates TLS; without it the listener speaks plain text.
    pub tls: Option<Arc<Terminator>>,
}

/// The listeners, by the address that a connection came in on.
#[derive(Debug)]
pub struct Listeners(Box<[Door]>);

impl Listeners {
    /// The listeners with the addresses that they were bound to.
    pub fn new(all: impl IntoIterator<Item = Door>) -> Self {
        Self(all.into_iter().collect())
    }

    /// The listener for connections to this address. A listener on `0.0.0.0` is reached by many.
    pub fn find(&self, local: Option<SocketAddr>) -> Option<&Door> {
        let fits = |bound: SocketAddr, local: SocketAddr| {
            bound.port() == local.port() && (bound.ip() == local.ip() || bound.ip().is_unspecified())
        };
        let exact = |one: &&Door| Some(one.bound) == local;
        let found = self.0.iter().find(exact).or_else(|| {
            let local = local?;
            self.0.iter().find(|one| fits(one.bound, local))
        });
        found.or_else(|| self.0.first())
    }
}

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    /// Who is at its other end; of an IPv4 client on an IPv6 socket, the IPv4 address.
    pub client: SocketAddr,
    /// The address of the client as the value of a header.
    pub client_value: HeaderValue,
    /// What TLS found out, if it is encrypted.
    pub tls: Option<Session>,
    /// What its listener asks of clients.
    pub limits: Limits,
    /// When its last request ended, on the monotonic clock; 0 before the first one.
    pub last_end: AtomicU64,
    /// Whether the client has sent another request behind the one that is served.
    pub more: AtomicBool,
}

impl Connection {
    /// A connection between these addresses.
    pub fn new(client: Option<SocketAddr>, tls: Option<Session>, limits: Limits) -> Arc<Self> {
        let mut client = client.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into());
        client.set_ip(client.ip().to_canonical());
        Arc::new(Self {
            client_value: ip_value(client.ip()),
            client,
            tls,
            limits,
            last_end: AtomicU64::new(0),
            more: AtomicBool::new(false),
        })
    }
}

fn ip_value(ip: IpAddr) -> HeaderValue {
    HeaderValue::try_from(ip.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}
