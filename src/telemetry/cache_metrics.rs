//! What is counted of answers that are kept.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::metrics::{Made, forgotten};
use crate::policy::cache::Outcome;

/// Counts requests of a route, in the order of [`Outcome::ALL`].
pub(super) fn requests(all: &IntCounterVec, route: &str) -> [IntCounter; 6] {
    Outcome::ALL.map(|outcome| all.with_label_values(&[route, outcome.name()]))
}

/// All of them.
#[derive(Debug)]
pub struct CacheMetrics {
    requests: IntCounterVec,
    evictions: IntCounter,
    entries: IntGauge,
    bytes: IntGauge,
}

impl CacheMetrics {
    pub(super) fn new(made: &Made) -> Self {
        Self {
            requests: made.counters(
                "cache_requests_total",
                "Requests that could be answered from the cache, by what became of them.",
                &["route", "outcome"],
            ),
            evictions: made.counter("cache_evictions_total", "Answers that were thrown away to make room for others."),
            entries: made.gauge("cache_entries", "Answers that are kept."),
            bytes: made.gauge("cache_bytes", "Memory for answers that are kept."),
        }
    }

    /// Counts what is thrown away.
    pub(crate) fn evictions(&self) -> IntCounter {
        self.evictions.clone()
    }

    pub(super) fn all(&self) -> IntCounterVec {
        self.requests.clone()
    }

    /// What is kept.
    pub(crate) fn holds(&self, (entries, bytes): (usize, usize)) {
        self.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(super) fn forget_route(&self, route: &str) {
        for outcome in Outcome::ALL {
            forgotten(self.requests.remove_label_values(&[route, outcome.name()]));
        }
    }
}
