//! Prometheus metrics: `torana_<noun>_<unit>[_total]`.
//!
//! Label values are enums or names from the configuration, never anything from a request. Whatever a request counts is
//! resolved once, when its route or endpoint is compiled: the request path touches atomics only.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;
use prometheus::{
    Encoder as _, Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
    core::{Atomic, Collector, Desc, GenericCounterVec, GenericGauge},
};

use super::{
    cache_metrics::CacheMetrics,
    key_set_metrics::KeySetMetrics,
    login_metrics::LoginMetrics,
    release_metrics::ReleaseMetrics,
    route_metrics::{RouteMetrics, Routes},
    store_metrics::{StoreHandles, StoreMetrics},
    tls_metrics::TlsMetrics,
    tunnel_metrics::TunnelsMetrics,
    upstream_metrics::{EndpointMetrics, UpstreamHandles, UpstreamMetrics, UpstreamNow},
};
use crate::{clock::Clock, reject::Reject};

/// The classes of status that a response is counted under; `none` if the client was gone before there was one.
pub(super) const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// All that is counted in a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    routes: Routes,
    rejects: IntCounterVec,
    would_reject: IntCounterVec,
    upstreams: UpstreamMetrics,
    releases: ReleaseMetrics,
    reloads: IntCounterVec,
    generation: IntGauge,
    last_reload: Gauge,
    fallback: Gauge,
    log_dropped: IntCounter,
    proxy_protocol_refused: IntCounterVec,
    connections: IntGauge,
    in_flight: IntGauge,
    penalties: IntGauge,
    buffers: IntGauge,
    /// What TLS counts.
    pub tls: TlsMetrics,
    floods: IntCounterVec,
    /// What is counted of key sets.
    pub key_sets: KeySetMetrics,
    /// Logins of browsers.
    pub logins: LoginMetrics,
    stores: StoreMetrics,
    /// What is counted of answers that are kept.
    pub cache: CacheMetrics,
    /// What connections that are handed on count.
    pub tunnels: TunnelsMetrics,
    /// Series of routes and endpoints that exist, so that those of others can be forgotten.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    routes: HashSet<String>,
    shadows: HashSet<(String, String)>,
    endpoints: HashSet<(String, String)>,
    canaries: HashSet<(String, String)>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes metrics and registers them under names that begin with `torana_`. Names and labels are constants of this file,
/// so that neither can fail.
pub(super) struct Made(Registry);

#[expect(clippy::expect_used, reason = "names and labels are constants, and a test makes them all")]
impl Made {
    fn new() -> Self {
        let made = Self(Registry::new());
        made.constants();
        made
    }

    fn add<M: Collector + Clone + 'static>(&self, made: prometheus::Result<M>) -> M {
        let metric = made.expect("constant");
        self.0.register(Box::new(metric.clone())).expect("constant");
        metric
    }

    pub(super) fn counters<P: Atomic + 'static>(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> GenericCounterVec<P> {
        self.add(GenericCounterVec::new(opts(name, help), labels))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add(GaugeVec::new(opts(name, help), labels))
    }

    /// What a collector of ours collects.
    pub(super) fn describe((name, help): (&str, &str), labels: &[&str]) -> Desc {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        Desc::new(format!("torana_{name}"), help.to_owned(), labels, HashMap::new()).expect("constant")
    }

    /// Registers a collector of ours.
    pub(super) fn collect<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        self.add(Ok(collector))
    }

    pub(super) fn gauge<P: Atomic + 'static>(&self, name: &str, help: &str) -> GenericGauge<P> {
        self.add(GenericGauge::with_opts(opts(name, help)))
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::with_opts(opts(name, help)))
    }

    fn log_dropped(&self) -> IntCounter {
        self.counter(
            "access_log_dropped_total",
            "Lines of the access log that were dropped because it did not keep up.",
        )
    }

    fn proxy_protocol_refused(&self) -> IntCounterVec {
        let help = "Connections that were closed because of their PROXY header, by reason.";
        self.counters("proxy_protocol_refused_total", help, &["reason"])
    }

    fn floods(&self) -> IntCounterVec {
        let help = "Connections of HTTP/2 that were ended because the client sent too much of something.";
        self.counters("http2_floods_total", help, &["kind"])
    }

    /// What never changes, and what the process says of itself.
    fn constants(&self) {
        let build = self.gauges("build_info", "Always 1; the label says which version runs.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        let start: Gauge = self.gauge("start_time_seconds", "When the process started, since 1970.");
        start.set(Clock::default().unix().as_secs_f64());
        let process = prometheus::process_collector::ProcessCollector::for_self();
        if self.0.register(Box::new(process)).is_err() {
            log::error!("the metrics of the process could not be registered");
        }
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("torana_{name}"), help)
}

impl Metrics {
    /// A registry with the metrics of the gateway.
    #[must_use]
    pub fn new() -> Self {
        let made = Made::new();
        Self {
            routes: Routes::new(&made),
            rejects: made.counters(
                "rejects_total",
                "Requests that the gateway answered itself, by reason.",
                &["route", "reject"],
            ),
            would_reject: made.counters(
                "would_reject_total",
                "Requests that a policy in shadow mode would have refused.",
                &["route", "policy"],
            ),
            upstreams: UpstreamMetrics::new(&made),
            releases: ReleaseMetrics::new(&made),
            reloads: made.counters("reloads_total", "Configurations that were loaded or refused.", &["outcome"]),
            generation: made.gauge("config_generation", "The number of the running snapshot."),
            last_reload: made.gauge(
                "config_last_reload_success",
                "1 if the last configuration was taken over, 0 if it was refused.",
            ),
            fallback: made.gauge(
                "config_fallback",
                "1 while the last configuration that worked is served, because the file was broken at the start.",
            ),
            log_dropped: made.log_dropped(),
            proxy_protocol_refused: made.proxy_protocol_refused(),
            connections: made.gauge("connections", "Open connections of clients."),
            penalties: made
                .gauge("penalty_box_addresses", "Addresses that are turned away for being refused too often."),
            in_flight: made.gauge("requests_in_flight", "Requests that have begun and not ended."),
            buffers: made.gauge("buffers_bytes", "Memory for what is on its way between clients and upstreams."),
            tls: TlsMetrics::new(&made),
            floods: made.floods(),
            key_sets: KeySetMetrics::new(&made),
            logins: LoginMetrics::new(&made),
            stores: StoreMetrics::new(&made),
            cache: CacheMetrics::new(&made),
            tunnels: TunnelsMetrics::new(&made),
            known: Mutex::default(),
            registry: made.0,
        }
    }

    /// Handles for a route; the name is empty where no route matched.
    pub fn route(&self, name: &str) -> RouteMetrics {
        self.known.lock().routes.insert(name.to_owned());
        self.routes.of(name, &self.rejects, self.cache.all())
    }

    /// The share of a canary of a route.
    pub fn canary(&self, route: &str, upstream: &str) -> Gauge {
        self.known.lock().canaries.insert((route.to_owned(), upstream.to_owned()));
        self.releases.canary(route, upstream)
    }

    /// Copies of the requests of a route: answered, failed, skipped.
    pub fn mirrored(&self, route: &str) -> [IntCounter; 3] {
        self.releases.mirrored(route)
    }

    /// How upstreams are now.
    pub fn show_upstreams(&self, all: &mut dyn Iterator<Item = UpstreamNow<'_>>) {
        self.upstreams.show(all);
    }

    /// Handles for a store.
    pub fn store(&self, store: &str) -> StoreHandles {
        self.stores.of(store)
    }

    /// Handles for an upstream.
    pub fn upstream(&self, upstream: &str) -> UpstreamHandles {
        self.upstreams.upstream(upstream)
    }

    /// Handles for an endpoint of an upstream.
    pub fn endpoint(&self, upstream: &str, endpoint: &str) -> EndpointMetrics {
        self.known.lock().endpoints.insert((upstream.to_owned(), endpoint.to_owned()));
        self.upstreams.endpoint(upstream, endpoint)
    }

    /// Counts what a policy in shadow mode would have refused.
    pub fn would_reject(&self, route: &str, policy: &str) -> IntCounter {
        self.known.lock().shadows.insert((route.to_owned(), policy.to_owned()));
        self.would_reject.with_label_values(&[route, policy])
    }

    /// Counts a configuration that was taken over or refused; `generation` is the one that runs now.
    pub fn reloaded(&self, ok: bool, generation: u64) {
        let outcome = if ok { "success" } else { "failure" };
        for known in ["success", "failure"] {
            self.reloads.with_label_values(&[known]).inc_by(u64::from(known == outcome));
        }
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.last_reload.set(f64::from(u8::from(ok)));
    }

    /// Whether the last configuration that worked is served instead of the file.
    pub fn fallback(&self, is: bool) {
        self.fallback.set(f64::from(u8::from(is)));
    }

    /// Counts lines of the access log that were dropped.
    pub fn log_dropped(&self) -> IntCounter {
        self.log_dropped.clone()
    }

    /// Counts a connection that was closed because of its PROXY header.
    pub fn proxy_protocol_refused(&self, reason: &'static str) {
        self.proxy_protocol_refused.with_label_values(&[reason]).inc();
    }

    /// Counts a connection of HTTP/2 that was ended because there was too much of something on it.
    pub fn flooded(&self, kind: &'static str) {
        self.floods.with_label_values(&[kind]).inc();
    }

    /// So many addresses are in the penalty box.
    pub fn penalties(&self, addresses: usize) {
        self.penalties.set(i64::try_from(addresses).unwrap_or(i64::MAX));
    }

    /// What the process holds.
    pub fn holds(&self, connections: usize, requests: usize, buffers: u64) {
        self.connections.set(i64::try_from(connections).unwrap_or(i64::MAX));
        self.in_flight.set(i64::try_from(requests).unwrap_or(i64::MAX));
        self.buffers.set(i64::try_from(buffers).unwrap_or(i64::MAX));
    }

    /// Forgets the series of routes and endpoints that are not in use any more.
    pub fn retain(&self, routes: &dyn Fn(&str) -> bool, endpoints: &dyn Fn(&str, &str) -> bool) {
        let mut known = self.known.lock();
        known.routes.retain(|route| {
            let keep = routes(route);
            if !keep {
                self.forget_route(route);
            }
            keep
        });
        known.shadows.retain(|(route, policy)| {
            let keep = routes(route);
            if !keep {
                forgotten(self.would_reject.remove_label_values(&[route, policy]));
            }
            keep
        });
        known.canaries.retain(|(route, upstream)| {
            let keep = routes(route);
            if !keep {
                self.releases.forget_canary(route, upstream);
            }
            keep
        });
        known.endpoints.retain(|(upstream, endpoint)| {
            let keep = endpoints(upstream, endpoint);
            if !keep {
                self.upstreams.forget(upstream, endpoint);
            }
            keep
        });
    }

    fn forget_route(&self, route: &str) {
        for code in Reject::CODES {
            forgotten(self.rejects.remove_label_values(&[route, code]));
        }
        self.routes.forget(route);
        self.releases.forget_route(route);
        self.cache.forget_route(route);
    }

    /// The text exposition format.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            log::error!("the metrics could not be written: {error}");
        }
        text
    }
}

/// A series that never counted anything is not there, which is as well.
pub(super) fn forgotten(outcome: prometheus::Result<()>) {
    drop(outcome);
}

pub(super) fn class(status: u16) -> usize {
    match status / 100 {
        class @ 1..=5 => usize::from(class),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.encode()).unwrap()
    }

    #[test]
    fn what_happened_is_counted_under_its_names() {
        let metrics = Metrics::new();
        let route = metrics.route("orders");
        route.finished(200, 2_000_000, None);
        route.finished(404, 2_000_000, Some(&Reject::RouteNotFound));
        metrics.endpoint("up", "127.0.0.1:1").healthy(true);
        metrics.reloaded(false, 3);
        let text = text(&metrics);
        for line in [
            "torana_requests_total{route=\"orders\",status=\"2xx\"} 1",
            "torana_rejects_total{reject=\"route_not_found\",route=\"orders\"} 1",
            "torana_request_duration_seconds_count{route=\"orders\"} 2",
            "torana_endpoint_healthy{endpoint=\"127.0.0.1:1\",upstream=\"up\"} 1",
            "torana_reloads_total{outcome=\"failure\"} 1",
            "torana_reloads_total{outcome=\"success\"} 0",
            "torana_config_generation 3",
            "torana_config_last_reload_success 0",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn what_is_gone_from_the_configuration_is_gone_from_the_metrics() {
        let metrics = Metrics::new();
        metrics.route("old").finished(500, 1_000_000_000, Some(&Reject::Internal));
        metrics.route("kept").finished(200, 1_000_000_000, None);
        metrics.endpoint("old", "e").failed();
        metrics.would_reject("old", "cors").inc();
        metrics.retain(&|route| route == "kept", &|_, _| false);
        let text = text(&metrics);
        assert!(!text.contains("\"old\"") && text.contains("\"kept\""), "{text}");
    }

    #[test]
    fn every_reject_has_its_code_in_the_list() {
        for reject in [Reject::Internal, Reject::RouteNotFound, Reject::BadRequest("")] {
            assert!(Reject::CODES.contains(&reject.code()));
        }
    }
}
