//! What is counted of routes: each request once, at its end.

use std::sync::{Arc, OnceLock};

use prometheus::{
    IntCounter, IntCounterVec,
    core::{Collector, Desc},
    proto::{Bucket, Histogram, Metric, MetricFamily, MetricType},
};

use super::{
    cache_metrics,
    cells::{Cells, Table, counter, family, labels, number},
    metrics::{CLASSES, Made, class},
};
use crate::{policy::cache::Outcome, reject::Reject};

/// From a cache hit to a request that someone waits for: nanoseconds, and the same as Prometheus shows it.
const BUCKETS: [(u64, f64); 14] = [
    (500_000, 0.0005),
    (1_000_000, 0.001),
    (2_500_000, 0.0025),
    (5_000_000, 0.005),
    (10_000_000, 0.01),
    (25_000_000, 0.025),
    (50_000_000, 0.05),
    (100_000_000, 0.1),
    (250_000_000, 0.25),
    (500_000_000, 0.5),
    (1_000_000_000, 1.0),
    (2_500_000_000, 2.5),
    (5_000_000_000, 5.0),
    (10_000_000_000, 10.0),
];

// Where the numbers are: classes of status, buckets, what took longer than the last one, nanoseconds.
const FIRST_BUCKET: usize = CLASSES.len();
const NANOS: usize = FIRST_BUCKET + BUCKETS.len() + 1;
const NUMBERS: usize = NANOS + 1;

const REQUESTS: (&str, &str) = ("requests_total", "Requests that ended, by class of status.");
const DURATION: (&str, &str) = ("request_duration_seconds", "From the header of a request to the end of its response.");

/// Resolved handles of a route.
#[derive(Clone, Debug)]
pub struct RouteMetrics(Arc<RouteHandles>);

#[derive(Debug)]
struct RouteHandles {
    counts: Cells<NUMBERS>,
    /// Resolved when they first happen: most routes see few of them.
    rejects: [OnceLock<IntCounter>; Reject::CODES.len()],
    all_rejects: IntCounterVec,
    /// Resolved where the route has a cache.
    cached: OnceLock<[IntCounter; 6]>,
    all_cached: IntCounterVec,
    name: Box<str>,
}

impl RouteMetrics {
    /// Counts a request that ended; status 0 if the client was gone before there was one. The time is in nanoseconds.
    pub fn finished(&self, status: u16, nanos: u64, reject: Option<&Reject>) {
        let counts = &self.0.counts;
        counts.add(class(status), 1);
        counts.add(FIRST_BUCKET + BUCKETS.partition_point(|(bound, _)| *bound < nanos), 1);
        counts.add(NANOS, nanos);
        let Some(reject) = reject else { return };
        let code = reject.code();
        let index = Reject::CODES.iter().position(|known| *known == code);
        if let Some(slot) = index.and_then(|index| self.0.rejects.get(index)) {
            slot.get_or_init(|| self.0.all_rejects.with_label_values(&[&*self.0.name, code])).inc();
        }
    }

    /// Counts a request that could be answered from the cache.
    pub fn cached(&self, outcome: Outcome) {
        let counters = self.0.cached.get_or_init(|| cache_metrics::requests(&self.0.all_cached, &self.0.name));
        let at = Outcome::ALL.iter().position(|one| *one == outcome);
        if let Some(counter) = at.and_then(|at| counters.get(at)) {
            counter.inc();
        }
    }
}

/// All routes.
#[derive(Clone, Debug)]
pub(super) struct Routes {
    table: Table<String, RouteHandles>,
    descriptions: [Desc; 2],
}

impl Routes {
    pub(super) fn new(made: &Made) -> Self {
        let descriptions = [Made::describe(REQUESTS, &["route", "status"]), Made::describe(DURATION, &["route"])];
        made.collect(Self { table: Table::default(), descriptions })
    }

    pub(super) fn of(&self, name: &str, all_rejects: &IntCounterVec, all_cached: IntCounterVec) -> RouteMetrics {
        RouteMetrics(self.table.get(name.to_owned(), || RouteHandles {
            counts: Cells::default(),
            rejects: std::array::from_fn(|_| OnceLock::new()),
            all_rejects: all_rejects.clone(),
            cached: OnceLock::new(),
            all_cached,
            name: name.into(),
        }))
    }

    pub(super) fn forget(&self, name: &str) {
        self.table.forget(&name.to_owned());
    }
}

impl Collector for Routes {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let requests = self.table.all(|(name, route)| {
            let counted = CLASSES.iter().zip(route.counts.sums());
            counted.map(|(class, count)| counter(&[("route", name), ("status", class)], number(count))).collect()
        });
        let durations = self.table.all(|(name, route)| vec![histogram(name, &route.counts.sums())]);
        vec![family(REQUESTS, MetricType::COUNTER, requests), family(DURATION, MetricType::HISTOGRAM, durations)]
    }
}

fn histogram(name: &str, sums: &[u64; NUMBERS]) -> Metric {
    let mut so_far = 0;
    let mut counted = sums.iter().skip(FIRST_BUCKET);
    let buckets = BUCKETS.iter().zip(counted.by_ref()).map(|((_, bound), count)| {
        so_far += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(so_far);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    let (longer, nanos) = (counted.next().copied().unwrap_or(0), counted.next().copied().unwrap_or(0));
    histogram.set_sample_count(so_far + longer);
    histogram.set_sample_sum(number(nanos) / 1e9);
    let mut metric = Metric::from_label(labels(&[("route", name)]));
    metric.set_histogram(histogram);
    metric
}
