//! `upstreams`: endpoints that are there twice or lead back, times of nothing, shares of more than everything.

use std::{collections::HashMap, time::Duration};

use super::File;
use crate::config::{
    Step,
    balance::Balance,
    discovery::Discovery,
    endpoint::Target,
    health::{Health, Outliers},
    listener::BindAddress,
    retries::{Retries, RetryOn},
    steps,
    types::{HeaderName, Name, Percent},
    upstream::{Protocol, Upstream},
};
use crate::identity::is_reserved;

/// Checks more often than this would be a busy loop.
const SHORTEST: Duration = Duration::from_millis(100);

impl File<'_> {
    pub(super) fn upstream(&mut self, name: &Name, upstream: &Upstream) {
        let at = |rest: &[Step]| [&steps!["upstreams", name.as_str()], rest].concat();
        if self.is_empty(&at(&steps!["endpoints"])) && self.is_empty(&at(&steps!["discovery"])) {
            self.error(&at(&steps!["endpoints"]), "at least one endpoint is needed, or `discovery`");
        }
        self.discovery(upstream, &at);
        let mut seen: HashMap<&Target, usize> = HashMap::new();
        for (i, endpoint) in upstream.endpoints.iter().enumerate() {
            let way = at(&steps!["endpoints", i]);
            if seen.insert(&endpoint.address, i).is_some() {
                self.error(&way, "this endpoint is there already; `weight` gives it a larger share");
            }
            if self.config.listeners.iter().any(|listener| is_at(&endpoint.address, &listener.address)) {
                self.error(&way, "this is a listener of the gateway: requests would run in a circle");
            }
            if endpoint.zone.is_some() && self.config.zone.is_none() {
                self.warning(&way, "the file does not say in which `zone` the gateway stands, so zones mean nothing");
            }
        }
        self.retries(&upstream.retries, &at);
        let times = &upstream.timeouts;
        for (key, time) in [("connect", times.connect), ("read", times.read), ("write", times.write)] {
            self.takes_time(&at(&steps!["timeouts", key]), time);
        }
        if let Some(total) = times.total {
            self.takes_time(&at(&steps!["timeouts", "total"]), total);
        }
        self.hedge(upstream, &at);
        self.deadline_header(upstream, &at);
        self.balance(upstream, &at);
        self.breaker(upstream, &at);
        if let Some(health) = &upstream.health {
            self.health(health, upstream.protocol, &|rest| at(&[&steps!["health"], rest].concat()));
        }
        if let Some(outliers) = &upstream.outliers {
            self.outliers(outliers, &|rest| at(&[&steps!["outliers"], rest].concat()));
        }
    }

    fn discovery(&mut self, upstream: &Upstream, at: &dyn Fn(&[Step]) -> Vec<Step>) {
        for (i, discovery) in upstream.discovery.iter().enumerate() {
            let way = at(&steps!["discovery", i]);
            let has_name = upstream.tls.as_ref().is_none_or(|tls| tls.server_name.is_some() || !tls.verify);
            match discovery {
                // Names that unsigned DNS says prove nothing.
                Discovery::Srv(_) | Discovery::File(_) | Discovery::Consul(_) if !has_name => {
                    let why = "these endpoints have no name that a certificate must carry: set `tls.server_name`";
                    self.error(&way, why);
                }
                Discovery::File(path) if !path.is_absolute() => {
                    self.error(
                        &[&way[..], &steps!["file"]].concat(),
                        "`file` is an absolute path, such as `/etc/torana/endpoints/orders.yaml`",
                    );
                }
                Discovery::Srv(_) | Discovery::File(_) => {}
                Discovery::Consul(consul) => {
                    if !(Duration::from_secs(1)..=Duration::from_mins(10)).contains(&consul.wait.0) {
                        self.error(&[&way[..], &steps!["consul", "wait"]].concat(), "Consul waits from 1s to 10m");
                    }
                    if consul.token.is_some() && !consul.address.tls && !is_local(&consul.address.host) {
                        self.warning(
                            &[&way[..], &steps!["consul", "address"]].concat(),
                            "the token is sent without TLS",
                        );
                    }
                }
            }
        }
    }

    fn retries(&mut self, retries: &Retries, at: &dyn Fn(&[Step]) -> Vec<Step>) {
        if retries.attempts > 10 {
            self.error(&at(&steps!["retries", "attempts"]), "at most 10 retries");
        }
        for (i, on) in retries.on.iter().enumerate() {
            if matches!(on, RetryOn::Status(status) if !(400..=599).contains(status)) {
                self.error(&at(&steps!["retries", "on", i]), "a status that means failure is a number from 400 to 599");
            }
        }
        if let Some(timeout) = retries.timeout {
            self.takes_time(&at(&steps!["retries", "timeout"]), timeout);
            if retries.attempts > 0 && !retries.on.contains(&RetryOn::Timeout) {
                self.warning(
                    &at(&steps!["retries", "timeout"]),
                    "a try that ends so is not repeated: `on` lacks `timeout`",
                );
            }
        }
        if retries.max_backoff.0 > Duration::from_mins(1) {
            self.error(&at(&steps!["retries", "max_backoff"]), "no client waits for more than 1m");
        }
        self.is_a_part(&at(&steps!["retries", "budget"]), retries.budget);
    }

    /// What the gateway or the protocol itself says cannot be said in this header too.
    fn deadline_header(&mut self, upstream: &Upstream, at: &dyn Fn(&[Step]) -> Vec<Step>) {
        const TAKEN: [&str; 18] = [
            "accept",
            "authorization",
            "connection",
            "content-encoding",
            "content-length",
            "content-type",
            "cookie",
            "expect",
            "forwarded",
            "grpc-timeout",
            "host",
            "keep-alive",
            "te",
            "trailer",
            "transfer-encoding",
            "traceparent",
            "upgrade",
            "via",
        ];
        let Some(name) = upstream.deadline_header.as_ref().map(HeaderName::as_str) else { return };
        if TAKEN.contains(&name) || name.starts_with("x-forwarded-") || name.starts_with("proxy-") || is_reserved(name)
        {
            self.error(&at(&steps!["deadline_header"]), format!("`{name}` says something else: choose another name"));
        }
    }

    fn hedge(&mut self, upstream: &Upstream, at: &dyn Fn(&[Step]) -> Vec<Step>) {
        let Some(hedge) = &upstream.hedge else { return };
        self.takes_time(&at(&steps!["hedge", "after"]), hedge.after);
        if upstream.protocol == Protocol::Http2 {
            self.error(&at(&steps!["hedge"]), "only endpoints that speak HTTP/1.1 can be asked twice");
        }
        if hedge.methods.is_empty() {
            self.error(&at(&steps!["hedge", "methods"]), "no method: nothing would be asked twice");
        }
        for (i, method) in hedge.methods.iter().enumerate() {
            if !method.to_http().is_idempotent() {
                let why = format!("`{}` done twice is not the same as done once", method.as_str());
                self.error(&at(&steps!["hedge", "methods", i]), why);
            }
        }
    }

    fn breaker(&mut self, upstream: &Upstream, at: &dyn Fn(&[Step]) -> Vec<Step>) {
        if let Some(breaker) = &upstream.circuit_breaker {
            if let Some(queue) = breaker.queue {
                self.takes_time(&at(&steps!["circuit_breaker", "queue", "timeout"]), queue.timeout);
                if breaker.requests.is_none() && upstream.adaptive_concurrency.is_none() {
                    self.error(
                        &at(&steps!["circuit_breaker", "queue"]),
                        "nobody would wait here: `requests` beside it says how many go on",
                    );
                }
            }
            if let Some(errors) = breaker.errors {
                self.is_a_part(&at(&steps!["circuit_breaker", "errors", "share"]), errors.share);
                self.takes_time(&at(&steps!["circuit_breaker", "errors", "window"]), errors.window);
                self.takes_time(&at(&steps!["circuit_breaker", "errors", "open_for"]), errors.open_for);
            }
        }
        if upstream.adaptive_concurrency.is_some_and(|adaptive| adaptive.min > adaptive.max) {
            self.error(&at(&steps!["adaptive_concurrency", "min"]), "`min` is more than `max`");
        }
    }

    fn balance(&mut self, upstream: &Upstream, at: &dyn Fn(&[Step]) -> Vec<Step>) {
        let bound = match &upstream.balance {
            Balance::RingHash(table) => table.load.map(|load| ("ring_hash", load)),
            Balance::Maglev(table) => table.load.map(|load| ("maglev", load)),
            Balance::RoundRobin | Balance::LeastRequests | Balance::PeakEwma | Balance::Random | Balance::Hash(_) => {
                None
            }
        };
        if let Some((kind, Percent(..101))) = bound {
            self.error(
                &at(&steps!["balance", kind, "load"]),
                "the bound is above 100%: an even spread needs all of that",
            );
        }
        self.is_a_part(&at(&steps!["panic_threshold"]), upstream.panic_threshold);
        let secret = upstream.sticky.as_ref().and_then(|sticky| sticky.secret.as_ref());
        if secret.is_some_and(|secret| secret.expose().len() < 16) {
            self.error(&at(&steps!["sticky", "secret"]), "a secret of less than 16 bytes can be guessed");
        }
    }

    fn health(&mut self, health: &Health, protocol: Protocol, at: &dyn Fn(&[Step]) -> Vec<Step>) {
        for (i, status) in health.http.iter().flat_map(|http| &http.status).enumerate() {
            if !(100..=599).contains(status) {
                self.error(&at(&steps!["http", "status", i]), "a status is a number from 100 to 599");
            }
        }
        if health.grpc.is_some() && health.http.is_some() {
            self.error(&at(&steps!["grpc"]), "a check is either `http` or `grpc`");
        }
        if health.grpc.is_some() && protocol != Protocol::Http2 {
            self.error(&at(&steps!["grpc"]), "gRPC needs `protocol: http2` at the upstream");
        }
        if health.grpc.as_ref().is_some_and(|grpc| grpc.service.len() > 127) {
            self.error(&at(&steps!["grpc", "service"]), "the name of a service has at most 127 bytes");
        }
        if health.interval.0 < SHORTEST {
            self.error(&at(&steps!["interval"]), "the interval is at least 100ms");
        }
        self.takes_time(&at(&steps!["timeout"]), health.timeout);
    }

    fn outliers(&mut self, outliers: &Outliers, at: &dyn Fn(&[Step]) -> Vec<Step>) {
        if outliers.interval.0 < SHORTEST {
            self.error(&at(&steps!["interval"]), "the interval is at least 100ms");
        }
        self.takes_time(&at(&steps!["ejected_for"]), outliers.ejected_for);
        if outliers.max_ejected_for < outliers.ejected_for {
            let max = outliers.max_ejected_for.0;
            self.error(&at(&steps!["ejected_for"]), format!("it is longer than `max_ejected_for`, which is {max:?}"));
        }
        self.is_a_part(&at(&steps!["max_ejected"]), outliers.max_ejected);
        if let Some(rate) = outliers.failure_rate {
            self.is_a_part(&at(&steps!["failure_rate", "above_others"]), rate.above_others);
        }
    }

    pub(super) fn is_a_part(&mut self, way: &[Step], share: Percent) {
        if share > Percent(100) {
            self.error(way, "a part of the whole is at most 100%");
        }
    }
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_at(target: &Target, address: &BindAddress) -> bool {
    match (target, address) {
        (Target::Ip(one), BindAddress::Ip(other)) => *one == other.0,
        (Target::Unix(one), BindAddress::Unix(other)) => one == other,
        (Target::Ip(_) | Target::Dns { .. } | Target::Unix(_), _) => false,
    }
}
