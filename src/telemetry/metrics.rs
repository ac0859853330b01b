//! stub
use crate::reject::Reject;
use prometheus::IntCounter;
/// stub
#[derive(Debug, Default)]
pub struct Metrics;
/// Pre-resolved handles of a route.
#[derive(Debug, Clone)]
pub struct RouteMetrics;
/// Pre-resolved handles of an endpoint.
#[derive(Debug, Clone)]
pub struct EndpointMetrics;
impl Metrics {
    /// A registry with the metrics of the gateway.
    pub fn new() -> Self {
        Self
    }
    /// Handles for a route; the name is empty where no route matched.
    pub fn route(&self, _name: &str) -> RouteMetrics {
        RouteMetrics
    }
    /// Handles for an endpoint of an upstream.
    pub fn endpoint(&self, _upstream: &str, _endpoint: &str) -> EndpointMetrics {
        EndpointMetrics
    }
    /// Counts what a policy in shadow mode would have refused.
    pub fn would_reject(&self, _route: &str, _policy: &str) -> IntCounter {
        IntCounter::new("x", "x").unwrap()
    }
    /// Age, outcome and number of reloads.
    pub fn reloaded(&self, _ok: bool, _generation: u64) {}
    /// Counts lines of the access log that were dropped because the disk did not keep up.
    pub fn log_dropped(&self) -> IntCounter {
        IntCounter::new("x", "x").unwrap()
    }
    /// Forgets the series of routes, upstreams and endpoints that are not in use any more.
    pub fn retain(&self, _routes: &dyn Fn(&str) -> bool, _endpoints: &dyn Fn(&str, &str) -> bool) {}
    /// The text exposition format.
    pub fn encode(&self) -> Vec<u8> {
        Vec::new()
    }
}
impl RouteMetrics {
    /// Counts a finished request.
    pub fn finished(&self, _status: u16, _seconds: f64, _reject: Option<&Reject>) {}
}
impl EndpointMetrics {
    /// Counts a request that an endpoint answered.
    pub fn answered(&self, _status: u16, _seconds: f64) {}
    /// Counts a try that failed.
    pub fn failed(&self) {}
    /// Whether health checks say that it can be used.
    pub fn healthy(&self, _healthy: bool) {}
}
