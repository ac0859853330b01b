//! What is known about an address, whatever its weight: it outlives reloads, new DNS answers, and the process.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{budget::Budget, latency::Latency};
use crate::runtime::State;

/// What operators want of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It takes requests.
    #[default]
    Enabled,
    /// It takes those of sessions that it has.
    Draining,
    /// It takes none.
    Disabled,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enabled => "enabled",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        })
    }
}

/// As operators say it: `enable`, `drain`, `disable`.
impl std::str::FromStr for Standing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "enable" => Ok(Self::Enabled),
            "drain" => Ok(Self::Draining),
            "disable" => Ok(Self::Disabled),
            _ => Err("there is `enable`, `drain` and `disable`".into()),
        }
    }
}

impl Standing {
    const fn number(self) -> u8 {
        match self {
            Self::Enabled => 0,
            Self::Draining => 1,
            Self::Disabled => 2,
        }
    }

    const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Enabled,
            1 => Self::Draining,
            _ => Self::Disabled,
        }
    }
}

/// What is known about an address.
#[derive(Debug)]
pub(super) struct EndpointState {
    pub(super) id: u64,
    healthy: AtomicBool,
    standing: AtomicU8,
    /// Checks in a row that contradict `healthy`.
    streak: AtomicU32,
    pub(super) in_flight: AtomicU32,
    /// Until when it is left out because it failed requests, on the monotonic clock; 0 if it is not.
    pub(super) ejected_until: AtomicU64,
    /// Since when it is used, on the monotonic clock; 0 for as long as anybody remembers.
    since: AtomicU64,
    pub(super) record: Record,
    pub(super) latency: Latency,
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
}

/// How an endpoint did, for `outliers`.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Failures in a row.
    pub(super) row: AtomicU32,
    /// Requests since the endpoints were compared last.
    pub(super) good: AtomicU32,
    /// Failures among them come on top.
    pub(super) bad: AtomicU32,
    /// How often in a row it was left out.
    pub(super) ejections: AtomicU32,
}

impl EndpointState {
    fn new(id: u64, since: u64) -> Self {
        Self {
            id,
            healthy: AtomicBool::new(true),
            standing: AtomicU8::new(0),
            streak: AtomicU32::new(0),
            in_flight: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            since: AtomicU64::new(since),
            record: Record::default(),
            latency: Latency::default(),
            turn: Arc::default(),
        }
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    pub(super) fn standing(&self) -> Standing {
        Standing::from_number(self.standing.load(Ordering::Relaxed))
    }

    /// Takes what an operator wants. Returns what it was before.
    pub(super) fn stand(&self, standing: Standing, now: u64) -> Standing {
        let before = Standing::from_number(self.standing.swap(standing.number(), Ordering::Relaxed));
        if standing == Standing::Enabled && before != Standing::Enabled {
            self.since.store(now, Ordering::Relaxed);
        }
        before
    }

    /// Since when it is used; 0 for as long as anybody remembers.
    pub(super) fn since(&self) -> u64 {
        // An ejection ends by itself.
        self.since.load(Ordering::Relaxed).max(self.ejected_until.load(Ordering::Relaxed))
    }

    pub(super) fn is_ejected(&self, now: u64) -> bool {
        self.ejected_until.load(Ordering::Relaxed) > now
    }

    /// Until when it is left out; 0 if it is not.
    pub(super) fn until(&self) -> u64 {
        self.ejected_until.load(Ordering::Relaxed)
    }

    /// Ends an ejection whose time is over; says whether there was one.
    pub(super) fn readmit(&self, now: u64) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        if until == 0 || until > now {
            return false;
        }
        self.since.fetch_max(until, Ordering::Relaxed);
        // Another ejection that came meanwhile stays.
        self.ejected_until.compare_exchange(until, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Takes a result of a health check. Returns the new health if this changed it.
    pub(super) fn observe(&self, passed: bool, after: u32, now: u64) -> Option<bool> {
        if passed == self.healthy.load(Ordering::Relaxed) {
            self.streak.store(0, Ordering::Relaxed);
            return None;
        }
        let streak = self.streak.fetch_add(1, Ordering::Relaxed) + 1;
        if streak < after {
            return None;
        }
        if passed {
            self.since.store(now, Ordering::Relaxed);
        }
        self.healthy.store(passed, Ordering::Relaxed);
        self.streak.store(0, Ordering::Relaxed);
        Some(passed)
    }
}

/// The states of the endpoints of one upstream, by address. A state is there as long as somebody uses it (a snapshot,
/// or a request that is still in flight), or an operator wants something else of the endpoint than what it would do anew.
#[derive(Debug, Default)]
pub(super) struct States {
    known: Mutex<BTreeMap<Arc<str>, Weak<EndpointState>>>,
    /// What operators want, also of endpoints that are gone for a moment.
    standings: Mutex<BTreeMap<Arc<str>, Standing>>,
    next: AtomicU64,
    /// Held while an endpoint is taken out, so that two do not go where one may.
    pub(super) ejecting: Mutex<()>,
    pub(super) budget: Budget,
    /// Requests in flight to all of them, where somebody needs to know.
    pub(super) in_flight: Arc<AtomicU32>,
}

impl States {
    /// Whether there has been no endpoint yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.next.load(Ordering::Relaxed) == 0
    }

    /// Forgets what nobody uses.
    pub(super) fn sweep(&self) {
        self.known.lock().retain(|_, state| state.strong_count() > 0);
    }

    /// The state of an address; a new one is healthy, and used since then.
    pub(super) fn of(&self, address: &Arc<str>, since: u64) -> Arc<EndpointState> {
        let mut known = self.known.lock();
        if let Some(state) = known.get(address).and_then(Weak::upgrade) {
            return state;
        }
        let state = Arc::new(EndpointState::new(self.next.fetch_add(1, Ordering::Relaxed), since));
        if let Some(standing) = self.standings.lock().get(address) {
            state.standing.store(standing.number(), Ordering::Relaxed);
        }
        known.insert(Arc::clone(address), Arc::downgrade(&state));
        state
    }

    /// Has an endpoint stand like this from now on. Returns how it stood, or nothing if there is none at this address.
    pub(super) fn stand(&self, address: &str, standing: Standing, now: u64) -> Option<Standing> {
        let known = self.known.lock();
        let (address, state) = known.get_key_value(address)?;
        let before = state.upgrade()?.stand(standing, now);
        let mut standings = self.standings.lock();
        if standing == Standing::Enabled {
            standings.remove(address);
        } else {
            standings.insert(Arc::clone(address), standing);
        }
        Some(before)
    }
}

/// What another process needs to know about an address.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Told {
    unhealthy: bool,
    standing: Standing,
    ejected_until: u64,
    ejections: u32,
}

impl State for States {
    fn export(&self) -> Option<Vec<u8>> {
        let mut told: BTreeMap<String, Told> = BTreeMap::new();
        for (address, state) in &*self.known.lock() {
            let Some(state) = state.upgrade() else { continue };
            let one = Told {
                unhealthy: !state.is_healthy(),
                standing: Standing::Enabled,
                ejected_until: state.ejected_until.load(Ordering::Relaxed),
                ejections: state.record.ejections.load(Ordering::Relaxed),
            };
            if one != Told::default() {
                told.insert(address.to_string(), one);
            }
        }
        for (address, standing) in &*self.standings.lock() {
            told.entry(address.to_string()).or_default().standing = *standing;
        }
        (!told.is_empty()).then(|| serde_json::to_vec(&told).ok()).flatten()
    }

    fn import(&self, exported: &[u8]) {
        let told: BTreeMap<String, Told> = serde_json::from_slice(exported).unwrap_or_default();
        let known = self.known.lock();
        let mut standings = self.standings.lock();
        for (address, one) in told {
            if let Some(state) = known.get(&*address).and_then(Weak::upgrade) {
                state.healthy.store(!one.unhealthy, Ordering::Relaxed);
                state.standing.store(one.standing.number(), Ordering::Relaxed);
                state.ejected_until.store(one.ejected_until, Ordering::Relaxed);
                state.record.ejections.store(one.ejections, Ordering::Relaxed);
            }
            if one.standing != Standing::Enabled {
                standings.insert(address.into(), one.standing);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_changes_after_so_many_contradicting_checks_in_a_row() {
        let state = States::default().of(&"a".into(), 0);
        assert_eq!(state.observe(false, 3, 1), None);
        assert_eq!(state.observe(false, 3, 1), None);
        assert_eq!(state.observe(true, 2, 1), None, "breaks the row");
        assert_eq!(state.observe(false, 3, 1), None);
        assert_eq!(state.observe(false, 3, 1), None);
        assert_eq!(state.observe(false, 3, 1), Some(false));
        assert_eq!(state.observe(false, 3, 1), None, "known already");
        assert_eq!(state.observe(true, 2, 1), None);
        assert_eq!(state.observe(true, 2, 7), Some(true));
        assert_eq!(state.since.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn a_state_is_kept_while_somebody_uses_it_and_forgotten_afterwards() {
        let states = States::default();
        let first = states.of(&"a".into(), 0);
        assert!(Arc::ptr_eq(&first, &states.of(&"a".into(), 0)));
        assert_ne!(first.id, states.of(&"b".into(), 0).id);
        let id = first.id;
        drop(first);
        states.sweep();
        assert_ne!(states.of(&"a".into(), 0).id, id);
        assert_eq!(states.known.lock().len(), 1);
    }

    #[test]
    fn what_operators_want_outlives_an_endpoint_that_is_gone_for_a_moment() {
        let states = States::default();
        let first = states.of(&"a".into(), 0);
        assert_eq!(states.stand("a", Standing::Draining, 1), Some(Standing::Enabled));
        assert_eq!(states.stand("b", Standing::Draining, 1), None);
        drop(first);
        let again = states.of(&"a".into(), 0);
        assert_eq!(again.standing(), Standing::Draining);
        assert_eq!(states.stand("a", Standing::Enabled, 2), Some(Standing::Draining));
        drop(again);
        assert_eq!(states.of(&"a".into(), 0).standing(), Standing::Enabled);
    }

    #[test]
    fn another_process_takes_over_what_is_not_as_usual() {
        let old = States::default();
        let addresses = ["a", "b", "c", "d"].map(Arc::<str>::from);
        let states = addresses.each_ref().map(|address| old.of(address, 0));
        assert_eq!(old.export(), None);
        states[0].observe(false, 1, 1);
        states[1].ejected_until.store(77, Ordering::Relaxed);
        states[1].record.ejections.store(3, Ordering::Relaxed);
        old.stand("c", Standing::Disabled, 1);
        let new = States::default();
        let taken = addresses.each_ref().map(|address| new.of(address, 0));
        new.import(&old.export().unwrap());
        assert_eq!(taken.each_ref().map(|state| state.is_healthy()), [false, true, true, true]);
        assert_eq!(taken.each_ref().map(|state| state.is_ejected(76)), [false, true, false, false]);
        assert_eq!(taken[1].record.ejections.load(Ordering::Relaxed), 3);
        assert_eq!(taken[2].standing(), Standing::Disabled);
        new.import(b"10.0.0.1:80\nof another version");
        assert!(!taken[0].is_healthy());
    }
}
