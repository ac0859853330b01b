//! How long an endpoint takes, as `peak_ewma` counts it: the mean of what was seen lately, but a peak counts at once and whole
//! (Finagle's [peak EWMA](https://linkerd.io/2016/03/16/beyond-round-robin-load-balancing-for-latency/)).
//!
//! What was seen weighs less by a factor e every 10 s. An endpoint that nobody asks is remembered as slow for a while, and then
//! asked again.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::seconds;

/// In seconds.
const DECAY: f64 = 10.0;

/// What an endpoint with requests in flight counts as until it has answered one: nobody knows how slow it is.
const UNKNOWN: f64 = 1.0;

/// The latency of an endpoint. Readers and writers may see half of each other's work: it is an estimate.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// The bits of a float, in seconds; 0 as long as nothing is known.
    mean: AtomicU64,
    /// When it was that, on the monotonic clock.
    at: AtomicU64,
}

impl Latency {
    /// An answer took so many nanoseconds.
    pub(super) fn observe(&self, took: u64, now: u64) {
        let took = seconds(took);
        let old = f64::from_bits(self.mean.load(Ordering::Relaxed));
        let age = seconds(now.saturating_sub(self.at.swap(now, Ordering::Relaxed)));
        let new = if took > old {
            took
        } else {
            let weight = (-age / DECAY).exp();
            old.mul_add(weight, took * (1.0 - weight))
        };
        self.mean.store(new.to_bits(), Ordering::Relaxed);
    }

    /// What one more request would cost, with so many in flight.
    pub(super) fn cost(&self, in_flight: u32, now: u64) -> f64 {
        let mean = f64::from_bits(self.mean.load(Ordering::Relaxed));
        if mean == 0.0 && in_flight > 0 {
            return UNKNOWN * f64::from(in_flight);
        }
        let age = seconds(now.saturating_sub(self.at.load(Ordering::Relaxed)));
        // An exponential costs more than all the rest, and within a tenth of a second changes nothing.
        let mean = if age < DECAY / 100.0 { mean } else { mean * (-age / DECAY).exp() };
        mean * (f64::from(in_flight) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let latency = Latency::default();
        latency.observe(MS, SECOND);
        assert!((latency.cost(0, SECOND) - 1e-3).abs() < 1e-9);
        latency.observe(1000 * MS, 2 * SECOND);
        assert!((latency.cost(0, 2 * SECOND) - 1.0).abs() < 1e-9);
        latency.observe(MS, 2 * SECOND + MS);
        assert!(latency.cost(0, 2 * SECOND + MS) > 0.99, "one good answer excuses nothing");
        for i in 0..30 {
            latency.observe(MS, (3 + i) * SECOND);
        }
        assert!(latency.cost(0, 33 * SECOND) < 0.1);
    }

    #[test]
    fn what_nobody_asks_becomes_cheaper_until_it_is_asked_again() {
        let (slow, fast) = (Latency::default(), Latency::default());
        slow.observe(100 * MS, SECOND);
        fast.observe(10 * MS, SECOND);
        assert!(slow.cost(0, 10 * SECOND) > 0.01);
        assert!(slow.cost(0, 30 * SECOND) < 0.01);
    }

    #[test]
    fn requests_in_flight_make_it_dearer_also_before_the_first_answer() {
        let latency = Latency::default();
        assert!(latency.cost(0, SECOND) < 1e-9);
        assert!(latency.cost(2, SECOND) > latency.cost(1, SECOND));
        latency.observe(MS, SECOND);
        assert!((latency.cost(3, SECOND) - 4e-3).abs() < 1e-9);
    }
}
