//! One address of an upstream, what is known about it, and its use by a request.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use pingora::{protocols::l4::socket::SocketAddr, upstreams::peer::HttpPeer};

use super::{
    Upstream,
    state::{EndpointState, Standing},
};
use crate::telemetry::upstream_metrics::EndpointMetrics;

/// An endpoint as it is configured or resolved now. Its [`EndpointState`] lives longer.
pub(super) struct Endpoint {
    pub(super) text: Arc<str>,
    /// Stands for the address in hashes and cookies, in every gateway.
    pub(super) seed: u64,
    pub(super) weight: u32,
    pub(super) rank: Rank,
    pub(super) zone: Option<Arc<str>>,
    /// Whether health checks run. Without them every endpoint counts as healthy.
    pub(super) checked: bool,
    /// Requests that it may be busy with.
    pub(super) max_in_flight: u32,
    pub(super) state: Arc<EndpointState>,
    pub(super) metrics: EndpointMetrics,
    /// How to connect, but for the timeouts.
    pub(super) peer: HttpPeer,
    /// Counts requests in flight to all endpoints, where the balancer asks for that.
    pub(super) total: Option<Arc<AtomicU32>>,
}

/// Which endpoints come first: those of a lower priority, and among them those in the zone of the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) priority: u8,
    pub(super) remote: bool,
}

impl Endpoint {
    pub(super) fn address(&self) -> &SocketAddr {
        &self.peer._address
    }

    pub(super) fn id(&self) -> u64 {
        self.state.id
    }

    pub(super) fn is_healthy(&self) -> bool {
        !self.checked || self.state.is_healthy()
    }

    /// Whether it takes new requests.
    pub(super) fn is_usable(&self, now: u64) -> bool {
        self.is_healthy() && self.state.standing() == Standing::Enabled && !self.state.is_ejected(now)
    }

    /// Whether it may have one more.
    pub(super) fn has_room(&self) -> bool {
        self.in_flight() < self.max_in_flight
    }

    /// Whether it takes requests of sessions that it has.
    pub(super) fn keeps_sessions(&self, now: u64) -> bool {
        self.is_healthy() && self.state.standing() != Standing::Disabled && !self.state.is_ejected(now)
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.state.in_flight.load(Ordering::Relaxed)
    }

    /// Whether one more request is likely to be answered sooner than by `other`, for its weight.
    pub(super) fn answers_before(&self, other: &Self, now: u64) -> bool {
        let mine = self.state.latency.cost(self.in_flight(), now) * f64::from(other.weight);
        mine < other.state.latency.cost(other.in_flight(), now) * f64::from(self.weight)
    }

    /// Whether it has fewer requests in flight than `other`, for its weight.
    pub(super) fn is_cheaper_than(&self, other: &Self) -> bool {
        let mine = u64::from(self.in_flight()) * u64::from(other.weight);
        mine < u64::from(other.in_flight()) * u64::from(self.weight)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("address", &self.text)
            .field("weight", &self.weight)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// The turn to take or open a connection to an endpoint that speaks HTTP/2.
pub type Turn = tokio::sync::OwnedMutexGuard<()>;

/// An endpoint in use; counted as in flight until this is dropped.
#[derive(Debug)]
pub struct Lease(Arc<Endpoint>);

impl Lease {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.state.in_flight.fetch_add(1, Ordering::Relaxed);
        if let Some(total) = &endpoint.total {
            total.fetch_add(1, Ordering::Relaxed);
        }
        Self(endpoint)
    }

    /// How to connect. `remaining` bounds every timeout.
    ///
    /// It costs one allocation for the box, and another one for the server name with TLS.
    pub fn peer(&self, upstream: &Upstream, remaining: Option<Duration>) -> Box<HttpPeer> {
        let mut peer = Box::new(self.0.peer.clone());
        let timeouts = upstream.timeouts();
        let bound = |limit: Duration| Some(remaining.map_or(limit, |left| left.min(limit)));
        // TCP and TLS together, so that one timer is enough.
        peer.options.total_connection_timeout = bound(timeouts.connect.0);
        peer.options.read_timeout = bound(upstream.retries().timeout.unwrap_or(timeouts.read).0);
        peer.options.write_timeout = bound(timeouts.write.0);
        if peer.options.idle_timeout == Some(Duration::ZERO) {
            // Pingora would still hand it on to a request that comes within its next tick: nobody else asks for this one.
            peer.group_key = rand::random();
        }
        peer
    }

    /// Waits until nobody else is opening a connection, so that many requests that come at once share one instead of
    /// opening one each. `None` if that takes longer than a connection may: then each has to see for itself.
    pub async fn turn(&self, upstream: &Upstream, remaining: Option<Duration>) -> Option<Turn> {
        let lock = Arc::clone(&self.0.state.turn);
        let limit = upstream.timeouts().connect.0;
        let limit = remaining.map_or(limit, |left| left.min(limit));
        if let Ok(turn) = Arc::clone(&lock).try_lock_owned() {
            return Some(turn);
        }
        tokio::time::timeout(limit, lock.lock_owned()).await.ok()
    }

    /// The identity of the endpoint, unique within its upstream for as long as anybody uses it.
    pub fn id(&self) -> u64 {
        self.0.id()
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.0
    }

    /// The address as logs and metrics show it: `10.0.0.11:8080`, `unix:/run/orders.sock`.
    pub fn address(&self) -> &str {
        &self.0.text
    }

    /// The same, to keep.
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.0.text)
    }

    /// Where the endpoint listens.
    pub(super) fn target(&self) -> &SocketAddr {
        self.0.address()
    }

    /// What is counted for the endpoint.
    pub fn metrics(&self) -> &EndpointMetrics {
        &self.0.metrics
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.state.in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some(total) = &self.0.total {
            total.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// An endpoint as it is now, for `/status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointStatus {
    /// The address as logs and metrics show it.
    pub address: Arc<str>,
    /// Its share of the requests, against the other endpoints.
    pub weight: u32,
    /// 0 is used first.
    pub priority: u8,
    /// Where it stands.
    pub zone: Option<Arc<str>>,
    /// Whether health checks pass.
    pub healthy: bool,
    /// Whether it is left out because it failed requests.
    pub ejected: bool,
    /// What operators want of it.
    pub standing: Standing,
    /// Requests that it is busy with.
    pub in_flight: u32,
}

impl EndpointStatus {
    pub(super) fn of(endpoint: &Endpoint, now: u64) -> Self {
        Self {
            address: Arc::clone(&endpoint.text),
            weight: endpoint.weight,
            priority: endpoint.rank.priority,
            zone: endpoint.zone.clone(),
            healthy: endpoint.is_healthy(),
            ejected: endpoint.state.is_ejected(now),
            standing: endpoint.state.standing(),
            in_flight: endpoint.in_flight(),
        }
    }
}
