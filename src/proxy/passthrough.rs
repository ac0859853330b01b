//! Connections that are handed on as they are: by listener, or by the name that a TLS client asks for.
//!
//! - What is said on them is not looked at, so that no policy runs. Limits of connections hold; the PROXY protocol tells both ways who
//!   the client is.
//! - An endpoint is chosen as for requests: balancing, health, another one if the connection cannot be opened.
//! - When one side has said everything, the other one is told so and may go on (half-closed connections).
//! - One line in the access log and the metrics `torana_passthrough_*` when it is over. A shutdown or an upgrade leaves such connections
//!   as long as WebSockets.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use pingora::{protocols::Stream, time::timeout};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

use super::{
    accept::{Acceptor, no_request},
    connection::{Arrival, Connection, Door},
    context::HostName,
    in_flight::Kind,
};
use crate::{
    layer::writes_as,
    reject::Reject,
    runtime::Passthrough,
    telemetry::{access_log::Tunnel, tunnel_metrics::TunnelEnd},
    tls::hello::{self, Hello},
};

/// What is read at once, in each direction.
const BUFFER: usize = 16 << 10;

impl Acceptor {
    /// Hands a connection on if it is one of those; returns it if requests are to be served on it.
    pub(super) async fn pass_through(&self, mut stream: Stream, arrival: Arrival, door: &Door) -> Option<Stream> {
        let snapshot = self.gateway.snapshot();
        let Some(rules) = snapshot.passthroughs(arrival.listener) else {
            return Some(stream);
        };
        let name = if rules.has_names() {
            match timeout(door.limits.header, Box::pin(hello::peek(&mut stream))).await.ok()?.ok()? {
                Hello::Tls(name) => name,
                Hello::Other => None,
            }
        } else {
            None
        };
        match rules.find(name.as_deref()) {
            Some(rule) => {
                Box::pin(self.tunnel(stream, Arc::clone(rule), arrival, name)).await;
                None
            }
            // Other names are served here, or by nobody.
            None if door.tls.is_some() => Some(stream),
            None => {
                self.note(&Connection::new(arrival, None), Reject::RouteNotFound, None);
                None
            }
        }
    }

    async fn tunnel(&self, stream: Stream, rule: Arc<Passthrough>, arrival: Arrival, name: Option<Box<str>>) {
        let mut ctx = self.gateway.context();
        ctx.web_socket = Some(self.gateway.room().flights().begin(Kind::WebSocket));
        ctx.host = name.and_then(|name| HostName::from(&name).ok()).unwrap_or_default();
        ctx.adopt(&Connection::new(arrival, None));
        let request = no_request();
        let (received, sent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let end = match rule.upstream.dial(&mut ctx, &request).await {
            Ok((other, lease)) => {
                ctx.attempt.lease = Some(lease);
                let client = Counted { inner: stream, count: Arc::clone(&received) };
                let endpoint = Counted { inner: other, count: Arc::clone(&sent) };
                copy(client, endpoint, rule.idle, || received.load(Ordering::Relaxed) + sent.load(Ordering::Relaxed))
                    .await
            }
            Err(error) => {
                log::debug!("a connection could not be handed on: {error}");
                TunnelEnd::Unreachable
            }
        };
        let (received, sent) = (received.load(Ordering::Relaxed), sent.load(Ordering::Relaxed));
        rule.metrics.ended(end, received, sent);
        if let Some(log) = &ctx.snapshot.access_log {
            let duration = self.gateway.now().saturating_sub(ctx.started.monotonic);
            log.write_tunnel(&Tunnel { ctx: &ctx, upstream: rule.upstream.name(), end, sent, received, duration });
        }
    }
}

/// Copies both ways until both sides have said everything, or nothing is said for so long.
async fn copy(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut endpoint: impl AsyncRead + AsyncWrite + Unpin,
    idle: Duration,
    moved: impl Fn() -> u64,
) -> TunnelEnd {
    let quiet = async {
        let mut before = moved();
        loop {
            tokio::time::sleep(idle).await;
            let now = moved();
            if now == before {
                return;
            }
            before = now;
        }
    };
    tokio::select! {
        copied = copy_bidirectional_with_sizes(&mut client, &mut endpoint, BUFFER, BUFFER) => match copied {
            Ok(_) => TunnelEnd::Done,
            Err(error) => {
                log::debug!("a connection that was handed on broke: {error}");
                TunnelEnd::Broken
            }
        },
        () = quiet => TunnelEnd::Idle,
    }
}

/// Counts what is read.
struct Counted<S> {
    inner: S,
    count: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        let read = u64::try_from(buf.filled().len() - before).unwrap_or(u64::MAX);
        self.count.fetch_add(read, Ordering::Relaxed);
        polled
    }
}

writes_as!(inner, Counted<S>, S: AsyncWrite);
