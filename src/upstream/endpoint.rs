//! One address of an upstream, what is known about it, and its use by a request.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use pingora::{protocols::l4::socket::SocketAddr, upstreams::peer::HttpPeer};

use super::Upstream;
use crate::{runtime::State, telemetry::metrics::EndpointMetrics};

/// An endpoint as it is configured or resolved now. Its [`EndpointState`] lives longer.
pub(super) struct Endpoint {
    pub(super) text: Arc<str>,
    pub(super) weight: u32,
    /// Whether health checks run. Without them every endpoint counts as healthy.
    pub(super) checked: bool,
    pub(super) state: Arc<EndpointState>,
    pub(super) metrics: EndpointMetrics,
    /// How to connect, but for the timeouts.
    pub(super) peer: HttpPeer,
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

    pub(super) fn in_flight(&self) -> u32 {
        self.state.in_flight.load(Ordering::Relaxed)
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

/// What is known about an address, whatever its weight: it outlives reloads and new DNS answers.
#[derive(Debug)]
pub(super) struct EndpointState {
    id: u64,
    healthy: AtomicBool,
    /// Checks in a row that contradict `healthy`.
    streak: AtomicU32,
    in_flight: AtomicU32,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The turn to take or open a connection to an endpoint that speaks HTTP/2.
pub type Turn = tokio::sync::OwnedMutexGuard<()>;

impl EndpointState {
    fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Takes a result of a health check. Returns the new health if this changed it.
    pub(super) fn observe(&self, passed: bool, after: u32) -> Option<bool> {
        if passed == self.healthy.load(Ordering::Relaxed) {
            self.streak.store(0, Ordering::Relaxed);
            return None;
        }
        let streak = self.streak.fetch_add(1, Ordering::Relaxed) + 1;
        if streak < after {
            return None;
        }
        self.healthy.store(passed, Ordering::Relaxed);
        self.streak.store(0, Ordering::Relaxed);
        Some(passed)
    }
}

/// The states of the endpoints of one upstream, by address. A state is there as long as somebody uses it: a snapshot,
/// or a request that is still in flight.
#[derive(Debug, Default)]
pub(super) struct States {
    known: Mutex<BTreeMap<Arc<str>, Weak<EndpointState>>>,
    next: AtomicU64,
}

impl States {
    /// The state of an address; a new one is healthy.
    pub(super) fn of(&self, address: &Arc<str>) -> Arc<EndpointState> {
        let mut known = self.known.lock();
        if let Some(state) = known.get(address).and_then(Weak::upgrade) {
            return state;
        }
        known.retain(|_, state| state.strong_count() > 0);
        let state = Arc::new(EndpointState {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            healthy: AtomicBool::new(true),
            streak: AtomicU32::new(0),
            in_flight: AtomicU32::new(0),
            turn: Arc::default(),
        });
        known.insert(Arc::clone(address), Arc::downgrade(&state));
        state
    }
}

/// The addresses of those that health checks have taken out, one in a line.
impl State for States {
    fn export(&self) -> Option<Vec<u8>> {
        let known = self.known.lock();
        let ill = known.iter().filter(|(_, state)| state.upgrade().is_some_and(|state| !state.is_healthy()));
        let lines: Vec<&str> = ill.map(|(address, _)| &**address).collect();
        (!lines.is_empty()).then(|| lines.join("\n").into_bytes())
    }

    fn import(&self, exported: &[u8]) {
        let known = self.known.lock();
        for address in std::str::from_utf8(exported).unwrap_or_default().lines() {
            if let Some(state) = known.get(address).and_then(Weak::upgrade) {
                state.healthy.store(false, Ordering::Relaxed);
            }
        }
    }
}

/// An endpoint in use; counted as in flight until this is dropped.
#[derive(Debug)]
pub struct Lease(Arc<Endpoint>);

impl Lease {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.state.in_flight.fetch_add(1, Ordering::Relaxed);
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
        peer.options.read_timeout = bound(timeouts.read.0);
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

    /// The address as logs and metrics show it: `10.0.0.11:8080`, `unix:/run/orders.sock`.
    pub fn address(&self) -> &str {
        &self.0.text
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
    }
}

/// An endpoint as it is now, for `/status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointStatus {
    /// The address as logs and metrics show it.
    pub address: Arc<str>,
    /// Its share of the requests, against the other endpoints.
    pub weight: u32,
    /// Whether requests are sent to it.
    pub healthy: bool,
    /// Requests that it is busy with.
    pub in_flight: u32,
}

impl From<&Endpoint> for EndpointStatus {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            address: Arc::clone(&endpoint.text),
            weight: endpoint.weight,
            healthy: endpoint.is_healthy(),
            in_flight: endpoint.in_flight(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_changes_after_so_many_contradicting_checks_in_a_row() {
        let state = States::default().of(&"a".into());
        assert_eq!(state.observe(false, 3), None);
        assert_eq!(state.observe(false, 3), None);
        assert_eq!(state.observe(true, 2), None, "breaks the row");
        assert_eq!(state.observe(false, 3), None);
        assert_eq!(state.observe(false, 3), None);
        assert_eq!(state.observe(false, 3), Some(false));
        assert_eq!(state.observe(false, 3), None, "known already");
        assert_eq!(state.observe(true, 2), None);
        assert_eq!(state.observe(true, 2), Some(true));
    }

    #[test]
    fn a_state_is_kept_while_somebody_uses_it_and_forgotten_afterwards() {
        let states = States::default();
        let first = states.of(&"a".into());
        assert!(Arc::ptr_eq(&first, &states.of(&"a".into())));
        assert_ne!(first.id, states.of(&"b".into()).id);
        let id = first.id;
        drop(first);
        assert_ne!(states.of(&"a".into()).id, id);
        assert_eq!(states.known.lock().len(), 1);
    }
}
