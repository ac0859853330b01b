//! Asks a second endpoint where the first one takes long, and takes the answer that begins first (`hedge`).
//!
//! ```yaml
//! hedge: { after: 200ms, methods: [GET, HEAD, OPTIONS] }
//! ```
//!
//! - Only requests with these methods, whose body is as long as `Content-Length` says or missing, at most 64 KiB with the header, to
//!   endpoints that speak HTTP/1.1: the second endpoint gets the same bytes.
//! - It is asked after `after`, if another endpoint can be used and the budget of `retries` has something left. A 5xx of its does not count
//!   while the first one may still answer; if that one breaks off, the second one's answer is taken.
//! - The connection that loses is closed. The others are kept, for requests that may be asked twice too.
//! - Who answered is who is logged, counted and judged. `torana_upstream_hedges_total` counts what was `sent`, and what `won`.
//!
//! It works below HTTP, on the [connection](race), because Pingora's exchange with an upstream has one connection; so everything that is
//! done to responses is done to these. TLS is spoken below that again. Where many requests share a connection, as over HTTP/2, it cannot work.
//!
//! | module | what it is |
//! |---|---|
//! | `race` | a connection that may become one to another endpoint |
//! | `exchange` | what a request and its connection know of each other |

mod exchange;
mod race;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{Method, header};
use pingora::{
    Result,
    connectors::{ConnectorOptions, L4Connect, TransportConnector},
    http::RequestHeader,
    protocols::{
        Stream,
        l4::{socket::SocketAddr, stream::Stream as L4Stream, virt::VirtualSocketStream},
    },
    upstreams::peer::{HttpPeer, Scheme},
};

pub use self::exchange::Exchange;
use self::{exchange::Slot, race::Hedged};
use super::{
    Lease,
    connection::{Connection, connector_options},
    members::Members,
};
use crate::{config::retries::Hedge, telemetry::upstream_metrics::UpstreamHandles};

/// A longer request, header and body together, is not sent twice.
const MAX_REQUEST: usize = 64 << 10;

/// So many idle connections are kept.
const KEPT: usize = 512;

/// Asks a second endpoint of an upstream.
pub(super) struct Hedger {
    after: Duration,
    methods: Vec<Method>,
    members: Arc<Members>,
    metrics: UpstreamHandles,
    connector: TransportConnector,
}

impl std::fmt::Debug for Hedger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hedger").field("after", &self.after).finish_non_exhaustive()
    }
}

impl Hedger {
    pub(super) fn compile(
        config: &Hedge,
        connection: &Connection,
        members: &Arc<Members>,
        metrics: UpstreamHandles,
    ) -> Arc<Self> {
        Arc::new(Self {
            after: config.after.0,
            methods: config.methods.iter().map(crate::config::types::Method::to_http).collect(),
            members: Arc::clone(members),
            metrics,
            connector: TransportConnector::new(Some(ConnectorOptions {
                keepalive_pool_size: KEPT,
                ..connector_options(connection)
            })),
        })
    }

    /// Has the request asked of a second endpoint too, if it may be.
    pub(super) fn prepare(
        self: &Arc<Self>,
        request: &RequestHeader,
        own: &Lease,
        peer: &mut HttpPeer,
    ) -> Option<Exchange> {
        if !self.methods.contains(&request.method) || !is_short(request) {
            return None;
        }
        let slot = Slot::new(Box::new(peer.clone()));
        let connect = Connect { hedger: Arc::clone(self), own: own.id(), slot: Arc::clone(&slot) };
        peer.options.custom_l4 = Some(Arc::new(connect));
        // That is spoken below, and connections are kept there.
        peer.scheme = Scheme::HTTP;
        peer.group_key = rand::random();
        Some(Exchange { slot, hedger: Arc::clone(self) })
    }

    /// A connection to this peer, and whether it was used before; TLS is included.
    async fn connect(&self, peer: &HttpPeer) -> Result<(Stream, bool)> {
        match self.connector.reused_stream(peer).await {
            Some(stream) => Ok((stream, true)),
            None => Ok((self.open(peer).await?, false)),
        }
    }

    async fn open(&self, peer: &HttpPeer) -> Result<Stream> {
        Box::pin(self.connector.new_stream(peer)).await
    }
}

/// Whether it can be known when all of it was written, and that is soon.
fn is_short(request: &RequestHeader) -> bool {
    let headers = &request.headers;
    let length = headers.get(header::CONTENT_LENGTH).map(|length| length.to_str().ok()?.parse::<usize>().ok());
    !headers.contains_key(header::EXPECT)
        && !headers.contains_key(header::TRANSFER_ENCODING)
        && length.is_none_or(|length| length.is_some_and(|length| length <= MAX_REQUEST))
}

/// How the first endpoint is connected to.
#[derive(Debug)]
struct Connect {
    hedger: Arc<Hedger>,
    /// Its identity.
    own: u64,
    slot: Arc<Slot>,
}

#[async_trait]
impl L4Connect for Connect {
    async fn connect(&self, _: &SocketAddr) -> Result<L4Stream> {
        let peer = self.slot.lock().peer.clone();
        let first = self.hedger.connect(&peer).await?;
        self.slot.lock().open(first);
        let hedged = Hedged::new(&self.slot, &self.hedger, self.own);
        Ok(VirtualSocketStream::new(Box::new(hedged)).into())
    }
}
