//! The life of a client's connection, until its protocol is known.
//!
//! A connection takes a seat ([`room`](super::room)) or is turned away. Then TLS is terminated ([`tls`](crate::tls)), and
//! `http1` or `http2` serves its requests. What is known of the connection stands in one
//! [`Connection`] that all its requests share.

use std::{net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use pingora::{
    apps::ServerApp,
    http::RequestHeader,
    protocols::{ALPN, Stream},
    server::ShutdownWatch,
    time::timeout,
};
use pingora_proxy::HttpProxy;

use super::{
    Gateway,
    connection::{Connection, Door, Limits},
    context::Context,
    introduction::Arrived,
};
use crate::tls::stream::Session;

/// The first bytes of HTTP/2 with prior knowledge ([RFC 9113, 3.4](https://www.rfc-editor.org/rfc/rfc9113#section-3.4)).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves connections: what listeners hand to Pingora's proxy.
#[derive(Clone)]
pub struct Acceptor {
    pub(super) proxy: Arc<HttpProxy<Gateway>>,
    pub(super) gateway: Gateway,
    /// Ends idle connections. What ends listening comes earlier when another process takes over: a client may just be
    /// sending its next request.
    pub(super) leave: ShutdownWatch,
}

impl Acceptor {
    /// Serves connections by `proxy`, which was made of `gateway`; `leave` ends idle ones.
    pub fn new(proxy: Arc<HttpProxy<Gateway>>, gateway: Gateway, leave: ShutdownWatch) -> Self {
        Self { proxy, gateway, leave }
    }
}

/// What stands for the address of a client on a Unix socket, which has none.
const NO_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

impl Context {
    /// Takes over what is known of the connection.
    pub(super) fn adopt(&mut self, connection: &Arc<Connection>) {
        self.client_ip = connection.arrival.client_ip().unwrap_or(NO_ADDRESS);
        self.secure = connection.tls.is_some();
        self.connection = Some(Arc::clone(connection));
    }
}

#[async_trait]
impl ServerApp for Acceptor {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let Arrived { arrival, door, seat } = self.arrive(&mut stream).await?;
        let seat = match seat {
            Ok(seat) => seat,
            Err(reject) => {
                Box::pin(self.turn_away(stream, arrival, door, reject)).await;
                return None;
            }
        };
        let stream = self.pass_through(stream, arrival, door).await?;
        let (mut stream, tls) = secure(stream, door, Duration::MAX).await?;
        let connection = Connection::new(arrival, tls);
        if speaks_http2(&mut stream, &door.limits, connection.tls.is_some()).await? {
            Box::pin(self.http2(stream, &connection, shutdown)).await;
        } else {
            Box::pin(self.http1(stream, &connection)).await;
        }
        drop(seat);
        None
    }
}

/// Terminates TLS where the listener does; `None` if the client cannot, or takes longer than it may.
pub(super) async fn secure(stream: Stream, door: &Door, at_most: Duration) -> Option<(Stream, Option<Session>)> {
    match &door.tls {
        None => Some((stream, None)),
        Some(terminator) => {
            let (stream, session) = Box::pin(terminator.accept(stream, at_most)).await?;
            Some((stream, Some(session)))
        }
    }
}

/// Whether the client speaks HTTP/2; `None` if it says nothing.
pub(super) async fn speaks_http2(stream: &mut Stream, limits: &Limits, secure: bool) -> Option<bool> {
    if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
        return Some(true);
    }
    if !limits.h2c || secure {
        return Some(false);
    }
    timeout(limits.header, peek_preface(stream)).await.ok()?.ok()
}

/// Whether the client starts with the preface of HTTP/2. No method of HTTP/1.1 begins with `PRI`, so three bytes
/// decide whether to wait for the others.
async fn peek_preface(stream: &mut Stream) -> std::io::Result<bool> {
    let mut start = [0; 3];
    if !stream.try_peek(&mut start).await? || start != *b"PRI" {
        return Ok(false);
    }
    let mut whole = [0; 24];
    Ok(stream.try_peek(&mut whole).await? && whole == *PREFACE)
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

/// A request for logs where none could be read.
pub(super) fn no_request() -> RequestHeader {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = http::Method::from_bytes(b"-").unwrap_or_default();
    parts.into()
}
