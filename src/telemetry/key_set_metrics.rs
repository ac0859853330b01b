//! What is counted of the key sets that tokens are checked with.

use prometheus::{GaugeVec, IntCounterVec};

use super::metrics::Made;

/// When key sets were fetched, and how often that failed.
#[derive(Debug)]
pub struct KeySetMetrics {
    fetched: GaugeVec,
    fetches: IntCounterVec,
}

impl KeySetMetrics {
    pub(super) fn new(made: &Made) -> Self {
        let help = "When a key set was fetched the last time, since 1970: its age is `time()` less this.";
        Self {
            fetched: made.gauges("key_set_fetched_timestamp_seconds", help, &["source"]),
            fetches: made.counters("key_set_fetches_total", "Tries to fetch a key set.", &["source", "outcome"]),
        }
    }

    /// Counts a try; `when` it succeeded, if it did, in seconds since 1970.
    pub fn tried(&self, source: &str, when: Option<f64>) {
        let outcome = if when.is_some() { "success" } else { "failure" };
        self.fetches.with_label_values(&[source, outcome]).inc();
        let fetched = self.fetched.with_label_values(&[source]);
        // One that was never there has no time, but should be seen.
        if let Some(when) = when {
            fetched.set(when);
        }
    }
}
