//! Leaves an upstream alone for a while where too many of its requests fail.
//!
//! | state | requests | becomes |
//! |---|---|---|
//! | closed | go on, and are counted for `window` | open, with `requests` of them or more and `share` of those failed |
//! | open | are refused: 503, `circuit_open`, with `Retry-After` | half open, after `open_for` |
//! | half open | `probes` go on, the others are refused | closed, if all of those succeed; open, if one fails |
//!
//! The state survives reloads and another process taking over. Failures are those of `outliers`.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use parking_lot::Mutex;

use crate::{clock::nanos, config::breaker::Errors, runtime::State};

const TARGET: &str = "torana::health";

/// How long a request waits that comes while others are probing, in nanoseconds.
const PROBING: u64 = 1_000_000_000;

/// The circuit of an upstream.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Until when it is open, on the monotonic clock; 0 if it is closed. Once that is over, it is half open.
    until: AtomicU64,
    began: AtomicU64,
    good: AtomicU32,
    bad: AtomicU32,
    /// Probes that are under way, and those that succeeded.
    probing: AtomicU32,
    passed: AtomicU32,
    changing: Mutex<()>,
}

/// How a circuit stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Circuit {
    /// Requests go on.
    #[default]
    Closed,
    /// None do.
    Open,
    /// Some do, to see how it goes.
    HalfOpen,
}

/// A request that goes on to see whether the upstream has recovered.
#[derive(Debug)]
pub(super) struct Probe {
    breaker: Arc<Breaker>,
    /// When the circuit was to be half open: one of an earlier time says nothing.
    of: u64,
    /// Whether it was counted already; what comes after its answer does not keep others from probing.
    judged: AtomicBool,
}

impl Probe {
    /// Whether it is the first time that this is asked, and it still says something.
    fn judge(&self) -> bool {
        let first = !self.judged.swap(true, Ordering::Relaxed);
        let counts = first && self.breaker.until.load(Ordering::Relaxed) == self.of;
        if counts {
            self.breaker.probing.fetch_sub(1, Ordering::Relaxed);
        }
        counts
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // One that never got an answer makes room for another one.
        self.judge();
    }
}

impl Breaker {
    pub(super) fn circuit(&self, now: u64) -> Circuit {
        match self.until.load(Ordering::Relaxed) {
            0 => Circuit::Closed,
            until if until > now => Circuit::Open,
            _ => Circuit::HalfOpen,
        }
    }

    /// Lets a request go on, perhaps as a probe, or says after how many nanoseconds one may.
    pub(super) fn admit(self: &Arc<Self>, errors: &Errors, now: u64) -> Result<Option<Probe>, u64> {
        let until = self.until.load(Ordering::Relaxed);
        if until == 0 {
            return Ok(None);
        }
        if until > now {
            return Err(until - now);
        }
        let most = u32::from(errors.probes.get());
        let more = |now: u32| (now + self.passed.load(Ordering::Relaxed) < most).then(|| now + 1);
        if self.probing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            if now.saturating_sub(until) < nanos(errors.open_for.0) {
                return Err(PROBING);
            }
            // Those that probe take too long: others find out.
            self.begin_anew(now);
            return Err(PROBING);
        }
        Ok(Some(Probe { breaker: Arc::clone(self), of: until, judged: AtomicBool::new(false) }))
    }

    fn begin_anew(&self, now: u64) {
        let _one = self.changing.lock();
        if self.circuit(now) == Circuit::HalfOpen {
            self.probing.store(0, Ordering::Relaxed);
            self.passed.store(0, Ordering::Relaxed);
            self.until.store(now, Ordering::Relaxed);
        }
    }

    /// Counts how a request ended. Those that began before the circuit opened say nothing about it any more.
    pub(super) fn record(&self, errors: &Errors, upstream: &str, failed: bool, probe: Option<&Probe>, now: u64) {
        let counts = probe.is_some_and(Probe::judge);
        match (self.circuit(now), counts) {
            (Circuit::Closed, _) => {
                self.turn_over(errors, now);
                let counter = if failed { &self.bad } else { &self.good };
                counter.fetch_add(1, Ordering::Relaxed);
                if failed {
                    self.look(errors, upstream, now);
                }
            }
            (Circuit::HalfOpen, true) if failed => self.open(errors, upstream, now, "a probe failed"),
            (Circuit::HalfOpen, true) => {
                if self.passed.fetch_add(1, Ordering::Relaxed) + 1 >= u32::from(errors.probes.get()) {
                    self.close(upstream, now);
                }
            }
            (Circuit::Open, _) | (Circuit::HalfOpen, false) => {}
        }
    }

    /// Begins to count anew when the time is over. Who does so at the same time loses a few requests of the count.
    fn turn_over(&self, errors: &Errors, now: u64) {
        let began = self.began.load(Ordering::Relaxed);
        let window = nanos(errors.window.0);
        if now.saturating_sub(began) >= window
            && self.began.compare_exchange(began, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.good.store(0, Ordering::Relaxed);
            self.bad.store(0, Ordering::Relaxed);
        }
    }

    fn look(&self, errors: &Errors, upstream: &str, now: u64) {
        let (good, bad) = (self.good.load(Ordering::Relaxed), self.bad.load(Ordering::Relaxed));
        let all = u64::from(good) + u64::from(bad);
        if all >= u64::from(errors.requests.get()) && u64::from(bad) * 100 >= all * u64::from(errors.share.0) {
            self.open(errors, upstream, now, &format!("{bad} of {all} requests failed"));
        }
    }

    fn open(&self, errors: &Errors, upstream: &str, now: u64, why: &str) {
        let _one = self.changing.lock();
        if self.circuit(now) == Circuit::Open {
            return;
        }
        self.passed.store(0, Ordering::Relaxed);
        self.probing.store(0, Ordering::Relaxed);
        self.until.store(now.saturating_add(nanos(errors.open_for.0)).max(1), Ordering::Relaxed);
        log::warn!(target: TARGET, "upstream {upstream}: the circuit is open for {:?}: {why}", errors.open_for.0);
    }

    fn close(&self, upstream: &str, now: u64) {
        let _one = self.changing.lock();
        if self.circuit(now) != Circuit::HalfOpen {
            return;
        }
        self.good.store(0, Ordering::Relaxed);
        self.bad.store(0, Ordering::Relaxed);
        self.began.store(now, Ordering::Relaxed);
        self.until.store(0, Ordering::Relaxed);
        log::info!(target: TARGET, "upstream {upstream}: the circuit is closed again");
    }
}

impl State for Breaker {
    fn export(&self) -> Option<Vec<u8>> {
        let until = self.until.load(Ordering::Relaxed);
        (until != 0).then(|| until.to_string().into_bytes())
    }

    fn import(&self, exported: &[u8]) {
        let until = std::str::from_utf8(exported).ok().and_then(|until| until.parse().ok());
        self.until.store(until.unwrap_or(0), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn errors() -> Errors {
        serde_saphyr::from_str("{ requests: 10, probes: 2 }").unwrap()
    }

    fn record(breaker: &Breaker, good: u32, bad: u32, now: u64) {
        (0..good).for_each(|_| breaker.record(&errors(), "up", false, None, now));
        (0..bad).for_each(|_| breaker.record(&errors(), "up", true, None, now));
    }

    #[test]
    fn it_opens_with_the_share_of_enough_requests_within_the_window() {
        let breaker = Arc::new(Breaker::default());
        record(&breaker, 0, 9, SECOND);
        assert_eq!(breaker.circuit(SECOND), Circuit::Closed, "too few");
        record(&breaker, 0, 9, 12 * SECOND);
        assert_eq!(breaker.circuit(12 * SECOND), Circuit::Closed, "the others are too old");
        record(&breaker, 10, 0, 12 * SECOND);
        record(&breaker, 0, 1, 12 * SECOND);
        assert_eq!(breaker.circuit(12 * SECOND), Circuit::Open, "10 of 20");
        assert_eq!(breaker.admit(&errors(), 13 * SECOND).unwrap_err(), 4 * SECOND);
        record(&breaker, 100, 0, 13 * SECOND);
        assert_eq!(breaker.circuit(13 * SECOND), Circuit::Open, "they began before");
    }

    #[test]
    fn half_open_it_lets_probes_through_and_closes_if_all_succeed() {
        let breaker = Arc::new(Breaker::default());
        record(&breaker, 0, 10, SECOND);
        let later = 6 * SECOND;
        assert_eq!(breaker.circuit(later), Circuit::HalfOpen);
        let one = breaker.admit(&errors(), later).unwrap().unwrap();
        let lost = breaker.admit(&errors(), later).unwrap().unwrap();
        assert!(breaker.admit(&errors(), later).is_err(), "enough are under way");
        breaker.record(&errors(), "up", false, Some(&one), later);
        assert!(breaker.admit(&errors(), later).is_err(), "the other one is still under way");
        // A client that left: another request finds out in its place.
        drop(lost);
        let other = breaker.admit(&errors(), later).unwrap().unwrap();
        assert!(breaker.admit(&errors(), later).is_err());
        breaker.record(&errors(), "up", false, Some(&other), later);
        assert_eq!(breaker.circuit(later), Circuit::Closed, "however long the answers go on");
        drop((one, other));
        assert_eq!(breaker.probing.load(Ordering::Relaxed), 0);
        record(&breaker, 0, 9, later);
        assert_eq!(breaker.circuit(later), Circuit::Closed, "it counts anew");
    }

    #[test]
    fn a_probe_that_fails_opens_it_again_for_as_long() {
        let breaker = Arc::new(Breaker::default());
        record(&breaker, 0, 10, SECOND);
        let probe = breaker.admit(&errors(), 6 * SECOND).unwrap();
        breaker.record(&errors(), "up", true, probe.as_ref(), 6 * SECOND);
        drop(probe);
        assert_eq!(breaker.admit(&errors(), 7 * SECOND).unwrap_err(), 4 * SECOND);
        assert_eq!(breaker.circuit(11 * SECOND), Circuit::HalfOpen);
    }

    #[test]
    fn probes_that_hang_keep_nobody_waiting_and_say_nothing_later() {
        let breaker = Arc::new(Breaker::default());
        record(&breaker, 0, 10, SECOND);
        let hanging = [(); 2].map(|()| breaker.admit(&errors(), 6 * SECOND).unwrap().unwrap());
        assert!(breaker.admit(&errors(), 7 * SECOND).is_err());
        assert!(breaker.admit(&errors(), 11 * SECOND).is_err(), "time is over, and the next may");
        let next = breaker.admit(&errors(), 11 * SECOND).unwrap().unwrap();
        breaker.record(&errors(), "up", true, Some(&hanging[0]), 11 * SECOND);
        drop(hanging);
        assert_eq!(breaker.circuit(11 * SECOND), Circuit::HalfOpen);
        breaker.record(&errors(), "up", false, Some(&next), 11 * SECOND);
        let last = breaker.admit(&errors(), 11 * SECOND).unwrap();
        breaker.record(&errors(), "up", false, last.as_ref(), 11 * SECOND);
        assert_eq!(breaker.circuit(11 * SECOND), Circuit::Closed);
    }

    #[test]
    fn another_process_finds_it_open() {
        let (old, new) = (Arc::new(Breaker::default()), Breaker::default());
        assert_eq!(old.export(), None);
        record(&old, 0, 10, SECOND);
        new.import(&old.export().unwrap());
        assert_eq!((new.circuit(SECOND), new.circuit(6 * SECOND)), (Circuit::Open, Circuit::HalfOpen));
    }
}
