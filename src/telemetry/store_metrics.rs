//! What is counted of stores.

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec};

use super::metrics::Made;

/// Whether stores answer.
#[derive(Debug)]
pub(super) struct StoreMetrics {
    up: GaugeVec,
    failures: IntCounterVec,
}

/// The same for one store.
#[derive(Debug)]
pub struct StoreHandles {
    up: Gauge,
    failures: IntCounter,
}

impl StoreMetrics {
    pub(super) fn new(made: &Made) -> Self {
        Self {
            up: made.gauges("store_up", "Whether a store can be asked.", &["store"]),
            failures: made.counters(
                "store_failures_total",
                "Questions that a store did not answer in time.",
                &["store"],
            ),
        }
    }

    pub(super) fn of(&self, store: &str) -> StoreHandles {
        StoreHandles { up: self.up.with_label_values(&[store]), failures: self.failures.with_label_values(&[store]) }
    }
}

impl StoreHandles {
    /// Whether it can be asked.
    pub fn up(&self, up: bool) {
        self.up.set(f64::from(u8::from(up)));
    }

    /// A question was not answered.
    pub fn failed(&self) {
        self.failures.inc();
    }
}
