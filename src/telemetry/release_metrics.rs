//! What is counted of releases: canaries and copies of requests.

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec};

use super::metrics::{Made, forgotten};

/// What becomes of a request that is to be copied.
const OUTCOMES: [&str; 3] = ["answered", "failed", "skipped"];

/// All of them.
#[derive(Debug)]
pub(super) struct ReleaseMetrics {
    canary: GaugeVec,
    mirrored: IntCounterVec,
}

impl ReleaseMetrics {
    pub(super) fn new(made: &Made) -> Self {
        Self {
            canary: made.gauges(
                "canary_share",
                "The share of the requests that a canary gets, of 1.",
                &["route", "upstream"],
            ),
            mirrored: made.counters(
                "mirrored_total",
                "Requests that were copied for another upstream, or were not because there were too many, or their body was too large.",
                &["route", "outcome"],
            ),
        }
    }

    pub(super) fn canary(&self, route: &str, upstream: &str) -> Gauge {
        self.canary.with_label_values(&[route, upstream])
    }

    pub(super) fn mirrored(&self, route: &str) -> [IntCounter; 3] {
        OUTCOMES.map(|outcome| self.mirrored.with_label_values(&[route, outcome]))
    }

    pub(super) fn forget_route(&self, route: &str) {
        for outcome in OUTCOMES {
            forgotten(self.mirrored.remove_label_values(&[route, outcome]));
        }
    }

    pub(super) fn forget_canary(&self, route: &str, upstream: &str) {
        forgotten(self.canary.remove_label_values(&[route, upstream]));
    }
}
