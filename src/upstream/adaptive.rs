//! Finds out how many requests at once an upstream can take, by its latency: Netflix's
//! [gradient](https://github.com/Netflix/concurrency-limits) algorithm, second version.
//!
//! - The latency of each tenth of a second is compared with the usual one. As long as it is not more than half as long again, the limit
//!   grows by the square root of itself; where it is longer, the limit shrinks in proportion, at most by half.
//! - What is usual falls at once with what is seen, and rises only while fewer than half of the limit are in flight, or the limit cannot
//!   become smaller: a load that lasts does not become usual, and a service that has become slower is not taken for an overloaded one for long.
//! - While fewer than half of the limit are in flight the limit stays: nobody knows what more would do.
//!
//! The limit is that of a [`Gate`](crate::gate), which queues and refuses.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use parking_lot::Mutex;

use crate::clock::seconds;
use crate::config::breaker::AdaptiveConcurrency;
use crate::gate::Gate;

/// How long latencies are taken together, in nanoseconds.
const WINDOW: u64 = 100_000_000;

/// Fewer say nothing.
const ENOUGH: u32 = 10;

/// So much longer than usual is no sign of overload.
const TOLERANCE: f64 = 1.5;

/// How fast the limit follows.
const SMOOTHING: f64 = 0.5;

/// How fast the usual latency follows.
const FOLLOWS: f64 = 0.1;

/// What is learnt of an upstream.
#[derive(Debug)]
pub(super) struct Adaptive {
    config: AdaptiveConcurrency,
    gate: Arc<Gate>,
    sum: AtomicU64,
    count: AtomicU32,
    most: AtomicU32,
    next: AtomicU64,
    learnt: Mutex<Learnt>,
}

/// Between two windows.
#[derive(Debug)]
struct Learnt {
    limit: f64,
    /// In seconds; 0 as long as nothing is known.
    usual: f64,
}

impl Adaptive {
    pub(super) fn new(config: AdaptiveConcurrency) -> Self {
        // Few, so that what is seen first is no overload.
        let first = config.min.get();
        Self {
            config,
            gate: Gate::new(first),
            sum: AtomicU64::new(0),
            count: AtomicU32::new(0),
            most: AtomicU32::new(0),
            next: AtomicU64::new(0),
            learnt: Mutex::new(Learnt { limit: f64::from(first), usual: 0.0 }),
        }
    }

    pub(super) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// A request took so many nanoseconds.
    pub(super) fn observe(&self, took: u64, now: u64) {
        self.sum.fetch_add(took, Ordering::Relaxed);
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let in_flight = self.gate.in_flight();
        if in_flight > self.most.load(Ordering::Relaxed) {
            self.most.fetch_max(in_flight, Ordering::Relaxed);
        }
        if count < ENOUGH || now < self.next.load(Ordering::Relaxed) {
            return;
        }
        // One of those that come at once does it.
        let Some(mut learnt) = self.learnt.try_lock() else { return };
        self.next.store(now + WINDOW, Ordering::Relaxed);
        let (sum, count) = (self.sum.swap(0, Ordering::Relaxed), self.count.swap(0, Ordering::Relaxed));
        let most = self.most.swap(0, Ordering::Relaxed);
        if count == 0 {
            return;
        }
        let latency = seconds(sum) / f64::from(count);
        let limit = learnt.learn(latency, most, self.config);
        self.gate.set_limit(limit);
    }
}

impl Learnt {
    fn learn(&mut self, latency: f64, in_flight: u32, config: AdaptiveConcurrency) -> u32 {
        if self.usual == 0.0 {
            self.usual = latency;
        }
        let is_loaded = f64::from(in_flight) >= self.limit / 2.0;
        let is_least = self.limit <= f64::from(config.min.get()) * 1.1;
        if latency < self.usual || !is_loaded || is_least {
            self.usual += (latency - self.usual) * FOLLOWS;
        }
        // With the least there is no overload: first it is learnt how slow that is.
        let is_learning = is_least && latency > self.usual * 1.1;
        if is_loaded && !is_learning {
            let gradient = (TOLERANCE * self.usual / latency).clamp(0.5, 1.0);
            let wanted = self.limit.mul_add(gradient, self.limit.sqrt());
            self.limit = self.limit.mul_add(1.0 - SMOOTHING, wanted * SMOOTHING);
        }
        self.limit = self.limit.max(f64::from(config.min.get())).min(f64::from(config.max.get()));
        whole(self.limit)
    }
}

#[expect(clippy::as_conversions, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two u32")]
fn whole(number: f64) -> u32 {
    number as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: f64 = 1e-3;

    fn learnt() -> (Learnt, AdaptiveConcurrency) {
        (Learnt { limit: 10.0, usual: 0.0 }, AdaptiveConcurrency::default())
    }

    /// A server that does so many at once without waiting: more of them share it.
    fn serve(learnt: &mut Learnt, config: AdaptiveConcurrency, capacity: f64, windows: usize) -> u32 {
        let mut limit = whole(learnt.limit);
        for _ in 0..windows {
            let latency = 10.0 * MS * (f64::from(limit) / capacity).max(1.0);
            limit = learnt.learn(latency, limit, config);
        }
        limit
    }

    #[test]
    fn it_finds_about_what_the_upstream_can_take_and_follows_when_that_changes() {
        let (mut learnt, config) = learnt();
        let found = serve(&mut learnt, config, 100.0, 300);
        assert!((100..300).contains(&found), "{found}");
        // A tenth of the capacity is left: within 5 s it asks for little more.
        let found = serve(&mut learnt, config, 10.0, 50);
        assert!(found < 40, "{found}");
        let found = serve(&mut learnt, config, 100.0, 300);
        assert!(found >= 100, "{found}");
    }

    #[test]
    fn a_load_that_lasts_does_not_become_usual_and_a_slower_service_does() {
        let (mut learnt, config) = learnt();
        let soon = serve(&mut learnt, config, 100.0, 300);
        let late = serve(&mut learnt, config, 100.0, 30_000);
        assert!(late <= soon + 10, "{soon} became {late}");
        // Each answer takes five times as long from now on, however few there are.
        let limits: Vec<u32> = (0..600)
            .map(|_| {
                let in_flight = whole(learnt.limit);
                learnt.learn(50.0 * MS * (f64::from(in_flight) / 100.0).max(1.0), in_flight, config)
            })
            .collect();
        assert!(limits.iter().any(|limit| *limit < 20) && limits[599] > 95, "{limits:?}");
    }

    #[test]
    fn without_load_nothing_is_learnt_and_the_bounds_hold() {
        let (mut learnt, config) = learnt();
        for _ in 0..100 {
            assert_eq!(learnt.learn(10.0 * MS, 3, config), 10);
        }
        for _ in 0..1_000 {
            learnt.learn(10.0 * MS, 2_000, config);
        }
        assert_eq!(learnt.learn(10.0 * MS, 2_000, config), 1_000);
        for _ in 0..25 {
            learnt.learn(1_000.0 * MS, 2_000, config);
        }
        assert_eq!(learnt.learn(1_000.0 * MS, 2_000, config), 10);
    }

    #[test]
    fn a_window_is_taken_together_once() {
        let adaptive = Adaptive::new(AdaptiveConcurrency::default());
        let usual = || adaptive.learnt.lock().usual;
        (0..9).for_each(|_| adaptive.observe(10_000_000, 1));
        assert!(usual() < 1e-9, "too few");
        adaptive.observe(10_000_000, 1);
        let first = usual();
        assert!((first - 10.0 * MS).abs() < 1e-6);
        (0..1_000).for_each(|_| adaptive.observe(1_000_000, 2));
        assert!((usual() - first).abs() < 1e-9, "not yet");
        adaptive.observe(1_000_000, 1 + WINDOW);
        assert!(usual() < first);
        assert_eq!(adaptive.gate().limit(), 10, "nothing is in flight");
    }
}
