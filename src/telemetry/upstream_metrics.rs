//! What is counted of upstreams and their endpoints.

use std::sync::Arc;

use prometheus::{
    Gauge, GaugeVec, IntCounter, IntCounterVec,
    core::{Collector, Desc},
    proto::{MetricFamily, MetricType},
};

use super::{
    cells::{Cells, Table, counter, family, number},
    metrics::{CLASSES, Made, class, forgotten},
};

// Where the numbers of an endpoint are: classes of status, nanoseconds.
const NANOS: usize = CLASSES.len();
const NUMBERS: usize = NANOS + 1;

const ANSWERS: (&str, &str) = ("upstream_requests_total", "Responses of endpoints, by class of status.");
const SECONDS: (&str, &str) =
    ("upstream_response_seconds_total", "Time until the header of the response was there, summed up.");

/// What each endpoint answered.
#[derive(Clone, Debug)]
struct Answers {
    /// By upstream and endpoint.
    table: Table<(String, String), Cells<NUMBERS>>,
    descriptions: [Desc; 2],
}

impl Answers {
    fn new(made: &Made) -> Self {
        let endpoint = ["upstream", "endpoint"];
        let descriptions =
            [Made::describe(ANSWERS, &["upstream", "endpoint", "status"]), Made::describe(SECONDS, &endpoint)];
        made.collect(Self { table: Table::default(), descriptions })
    }

    fn of(&self, upstream: &str, endpoint: &str) -> Arc<Cells<NUMBERS>> {
        self.table.get((upstream.to_owned(), endpoint.to_owned()), Cells::default)
    }

    fn forget(&self, upstream: &str, endpoint: &str) {
        self.table.forget(&(upstream.to_owned(), endpoint.to_owned()));
    }
}

impl Collector for Answers {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let answers = self.table.all(|((upstream, endpoint), counts)| {
            let labels = |class| [("endpoint", endpoint.as_str()), ("status", class), ("upstream", upstream.as_str())];
            CLASSES.iter().zip(counts.sums()).map(|(class, count)| counter(&labels(class), number(count))).collect()
        });
        let seconds = self.table.all(|((upstream, endpoint), counts)| {
            let labels = [("endpoint", endpoint.as_str()), ("upstream", upstream.as_str())];
            let nanos = counts.sums().last().copied().unwrap_or(0);
            vec![counter(&labels, number(nanos) / 1e9)]
        });
        vec![family(ANSWERS, MetricType::COUNTER, answers), family(SECONDS, MetricType::COUNTER, seconds)]
    }
}

/// Everything that endpoints count.
#[derive(Debug)]
pub(super) struct UpstreamMetrics {
    answers: Answers,
    failures: IntCounterVec,
    healthy: GaugeVec,
    ejected: GaugeVec,
    ejections: IntCounterVec,
    retries: IntCounterVec,
    hedges: IntCounterVec,
    circuit: GaugeVec,
    limit: GaugeVec,
    sources: GaugeVec,
}

impl UpstreamMetrics {
    pub(super) fn new(made: &Made) -> Self {
        let endpoint = ["upstream", "endpoint"];
        Self {
            answers: Answers::new(made),
            failures: made.counters("upstream_failures_total", "Tries that an endpoint did not answer.", &endpoint),
            healthy: made.gauges("endpoint_healthy", "Whether checks say that an endpoint can be used.", &endpoint),
            ejected: made.gauges(
                "endpoint_ejected",
                "Whether an endpoint is left out for failing requests.",
                &endpoint,
            ),
            ejections: made.counters(
                "endpoint_ejections_total",
                "How often an endpoint was left out for failing requests.",
                &endpoint,
            ),
            retries: made.counters(
                "upstream_retries_total",
                "Requests that were tried again, or were not because the budget of the upstream was used up.",
                &["upstream", "outcome"],
            ),
            hedges: made.counters(
                "upstream_hedges_total",
                "Requests that were sent to a second endpoint too, and those that it answered first.",
                &["upstream", "outcome"],
            ),
            circuit: made.gauges("upstream_circuit", "0 for a closed circuit, 1 half open, 2 open.", &["upstream"]),
            limit: made.gauges(
                "upstream_concurrency_limit",
                "Requests that may be in flight, as far as that is learnt.",
                &["upstream"],
            ),
            sources: made.gauges("discovery_failing", "Sources of endpoints that cannot be asked.", &["upstream"]),
        }
    }

    pub(super) fn upstream(&self, upstream: &str) -> UpstreamHandles {
        let retries = RETRIES.map(|outcome| self.retries.with_label_values(&[upstream, outcome]));
        let hedges = HEDGES.map(|outcome| self.hedges.with_label_values(&[upstream, outcome]));
        UpstreamHandles { retries, hedges }
    }

    /// How upstreams are now. Those that are gone are not shown any more.
    pub(super) fn show(&self, all: &mut dyn Iterator<Item = UpstreamNow<'_>>) {
        for gauges in [&self.circuit, &self.limit, &self.sources] {
            gauges.reset();
        }
        for one in all {
            let shown = [(&self.circuit, one.circuit), (&self.limit, one.limit), (&self.sources, one.failing_sources)];
            for (gauges, value) in shown {
                if let Some(value) = value {
                    gauges.with_label_values(&[one.name]).set(value.into());
                }
            }
        }
    }

    pub(super) fn endpoint(&self, upstream: &str, endpoint: &str) -> EndpointMetrics {
        let labels = [upstream, endpoint];
        EndpointMetrics(Arc::new(EndpointHandles {
            answers: self.answers.of(upstream, endpoint),
            failures: self.failures.with_label_values(&labels),
            healthy: self.healthy.with_label_values(&labels),
            ejected: self.ejected.with_label_values(&labels),
            ejections: self.ejections.with_label_values(&labels),
        }))
    }

    pub(super) fn forget(&self, upstream: &str, endpoint: &str) {
        let labels = [upstream, endpoint];
        self.answers.forget(upstream, endpoint);
        forgotten(self.failures.remove_label_values(&labels));
        forgotten(self.healthy.remove_label_values(&labels));
        forgotten(self.ejected.remove_label_values(&labels));
        forgotten(self.ejections.remove_label_values(&labels));
    }
}

/// How an upstream is now; what it does not have is not shown.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamNow<'a> {
    /// Its name.
    pub name: &'a str,
    /// 0 for a closed circuit, 1 half open, 2 open.
    pub circuit: Option<u32>,
    /// Requests that may be in flight, as far as that is learnt.
    pub limit: Option<u32>,
    /// Sources of endpoints that cannot be asked.
    pub failing_sources: Option<u32>,
}

/// What became of a wish to try again.
const RETRIES: [&str; 2] = ["over_budget", "tried"];

/// What became of asking a second endpoint.
const HEDGES: [&str; 2] = ["sent", "won"];

/// Resolved handles of an upstream.
#[derive(Debug)]
pub struct UpstreamHandles {
    retries: [IntCounter; 2],
    hedges: [IntCounter; 2],
}

impl UpstreamHandles {
    /// A request is sent to a second endpoint, or that one has answered first.
    pub fn hedged(&self, won: bool) {
        if let Some(counter) = self.hedges.get(usize::from(won)) {
            counter.inc();
        }
    }

    /// A request is tried again, or is not because the budget is used up.
    pub fn retried(&self, tried: bool) {
        if let Some(counter) = self.retries.get(usize::from(tried)) {
            counter.inc();
        }
    }
}

/// Resolved handles of an endpoint.
#[derive(Clone, Debug)]
pub struct EndpointMetrics(Arc<EndpointHandles>);

#[derive(Debug)]
struct EndpointHandles {
    answers: Arc<Cells<NUMBERS>>,
    failures: IntCounter,
    healthy: Gauge,
    ejected: Gauge,
    ejections: IntCounter,
}

impl EndpointMetrics {
    /// Counts a request that the endpoint answered, and the time that it took to, in nanoseconds.
    pub fn answered(&self, status: u16, nanos: u64) {
        self.0.answers.add(class(status), 1);
        self.0.answers.add(NANOS, nanos);
    }

    /// Counts a try that the endpoint did not answer.
    pub fn failed(&self) {
        self.0.failures.inc();
    }

    /// It is left out for failing requests from now on, or is not any more.
    pub fn ejected(&self, ejected: bool) {
        self.0.ejected.set(f64::from(u8::from(ejected)));
        if ejected {
            self.0.ejections.inc();
        }
    }

    /// Whether health checks say that it can be used.
    pub fn healthy(&self, healthy: bool) {
        self.0.healthy.set(f64::from(u8::from(healthy)));
    }
}
