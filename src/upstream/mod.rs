//! Upstreams: named sets of endpoints with balancing, health, names and connections.
//!
//! ```yaml
//! upstreams:
//!   orders:
//!     endpoints:
//!       - 10.0.0.11:8080
//!       - { address: 10.0.0.12:8080, weight: 2 }
//!       - orders.internal:8080          # every address that DNS has for it
//!       - unix:/run/orders.sock
//!     balance: least_requests           # or round_robin, random, { hash: { cookie: session } }
//!     health: { http: { path: /healthz }, interval: 5s }
//!     timeouts: { connect: 1s, read: 10s }
//!     retries: { attempts: 2, on: [connect_failure, reset, gateway_error] }
//!     tls: { server_name: orders.internal, ca: /etc/torana/internal-ca.pem }
//!     protocol: http2
//!     keepalive: 60s
//!     proxy_protocol: v2
//!     forwarded: true
//! ```
//!
//! - A request goes to an endpoint that can be used: healthy, not left out for failing requests, not drained or disabled by an operator
//!   (`torana endpoint`). A retry goes to one that has not failed this request, or to any healthy
//!   one if all have. If none is healthy, or a name has no address yet, there is no choice: 503 at once.
//! - One address is one endpoint, however often it is named; its weights are added.
//! - `total` bounds each single wait, and is looked at whenever a header or a piece of a body has arrived. Only a header
//!   that comes in bit by bit can outlast it: its end is when that is noticed.
//! - If an endpoint does not take the body of a request within `write`, its answer is still waited for, up to `read`: it
//!   may have answered without reading on.
//! - How an endpoint is chosen stands in `balance`, when it counts as healthy in `health`, what becomes of names in
//!   `resolve`.
//! - TLS is verified against the system's authorities, or those in `ca` alone. The name in the certificate is
//!   `server_name`, or else the DNS name of the endpoint; an endpoint that has neither is refused with the file.
//!   An IP address as `server_name` is compared with the addresses in the certificate, and not sent as SNI.
//! - Idle connections are kept for `keepalive`, or else until the endpoint closes them, and shared by requests of all
//!   upstreams with the same address, server name, authorities and protocol. HTTP/2 takes 100 requests at a time on one
//!   connection.
//! - Health, requests in flight and resolved addresses survive a reload; health checks and names whose settings stay
//!   the same go on undisturbed.
//!
//! | module | what it is |
//! |---|---|
//! | `endpoint` | one address and its use by a request |
//! | `state` | what is known about an address: health, ejections, what operators want |
//! | `set` | an immutable set of endpoints with the algorithm over it: priorities, zones, slow start, panic |
//! | `latency` | how long an endpoint takes, for `peak_ewma` |
//! | `outliers` | endpoints that fail requests are left out for a while |
//! | `admission` | whether a request may be sent at all: `crate::gate` (how many at once), `breaker` (too many failures), `adaptive` |
//! | `hedge` | a second endpoint is asked where the first one takes long |
//! | `budget` | how much may be tried again |
//! | `sticky` | sessions that stay with an endpoint |
//! | `members` | which endpoints there are now: file, DNS, `discover` (SRV, files, Consul) |
//! | `follow` | who wants to know when a source of endpoints changes |
//! | `connection` | protocol, TLS, reuse |
//! | `introduce`, `switch` | connections that begin with the PROXY protocol, or may change theirs |

mod adaptive;
mod admission;
mod balance;
mod breaker;
mod budget;
mod connection;
mod discover;
mod endpoint;
mod follow;
mod health;
mod hedge;
mod introduce;
mod latency;
mod members;
mod outliers;
mod resolve;
mod set;
#[cfg(test)]
mod simulation;
mod state;
mod sticky;
pub mod switch;
pub mod tunnel;

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use pingora::{http::RequestHeader, upstreams::peer::HttpPeer};

pub(crate) use self::balance::rendezvous::{mix, unit};
use self::{
    admission::Admission,
    connection::Connection,
    endpoint::Rank,
    hedge::Hedger,
    members::{Members, Origin, Plan, Source},
    outliers::Rule,
    resolve::Resolved,
    set::{Rules, Wish},
    state::States,
    sticky::Sticky,
};
pub use self::{
    admission::Pass,
    balance::{Key, cookie},
    breaker::Circuit,
    discover::SourceStatus,
    endpoint::{EndpointStatus, Lease, Turn},
    hedge::Exchange,
    state::Standing,
};
use crate::{
    config::{
        self,
        endpoint::Target,
        retries::Retries,
        types::Name,
        upstream::{HeaderNames, Protocol, Timeouts},
    },
    proxy::context::Context,
    proxy_protocol::write,
    reject::Reject,
    runtime::{Build, Task},
    telemetry::upstream_metrics::{UpstreamHandles, UpstreamNow},
};

/// A named set of endpoints, compiled.
#[derive(Debug)]
pub struct Upstream {
    name: Arc<str>,
    members: Arc<Members>,
    key: Option<Key>,
    sticky: Option<Sticky>,
    timeouts: Timeouts,
    retries: Retries,
    admission: Option<Admission>,
    hedger: Option<Arc<Hedger>>,
    deadline_header: Option<HeaderName>,
    metrics: UpstreamHandles,
    forwarded: bool,
    header_names: HeaderNames,
}

/// How a try at an endpoint ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// What failed, if something did.
    pub failure: Option<Failure>,
    /// How long it took until the header of the answer was there, or the failure, in nanoseconds.
    pub took: u64,
    /// When that was, on the monotonic clock.
    pub now: u64,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The connection could not be opened.
    Connect,
    /// It broke, nothing came in time, or the answer says that the endpoint cannot answer.
    Answer,
}

impl Upstream {
    /// The error names the key below the upstream that is to blame.
    pub fn compile(
        name: &Name,
        config: &config::upstream::Upstream,
        build: &mut Build<'_>,
    ) -> Result<Self, (&'static str, String)> {
        let connection = Connection::compile(config)?;
        let mut sources = Vec::with_capacity(config.endpoints.len());
        for endpoint in &config.endpoints {
            let origin = Origin::new(&endpoint.address, |host| resolved(host, build));
            let here = build.config().zone.as_ref();
            sources.push(Source {
                origin: origin.map_err(|why| ("endpoints", why))?,
                weight: endpoint.weight.get().into(),
                rank: Rank { priority: endpoint.priority, remote: here.is_some() && endpoint.zone.as_ref() != here },
                zone: endpoint.zone.as_ref().map(|zone| zone.as_str().into()),
                server_name: connection.server_name(&endpoint.address)?,
            });
        }
        for discovery in &config.discovery {
            let found = discover::found(discovery, build);
            sources.push(Source::found(found, connection.own_name(), build.config().zone.as_ref()));
        }
        let upstream: Arc<str> = name.as_str().into();
        let members = Members::new(Plan {
            upstream: Arc::clone(&upstream),
            sources,
            rules: Rules::new(config),
            connection,
            checked: config.health.is_some(),
            outliers: config.outliers.map_or_else(Rule::unreachable, Rule::all),
            max_in_flight: max_in_flight(config),
            states: build.keep_as(format!("upstream/{name}"), States::default),
            metrics: Arc::clone(&build.metrics),
            clock: build.clock.clone(),
        });
        check_health(config, &members, build);
        watch_outliers(config, &members, build);
        let hedger = config.hedge.as_ref().map(|hedge| {
            Hedger::compile(hedge, &members.plan.connection, &members, build.metrics.upstream(name.as_str()))
        });
        Ok(Self {
            sticky: config.sticky.as_ref().map(|sticky| Sticky::compile(sticky, &upstream, &build.seeds)),
            name: upstream,
            members,
            key: Key::compile(&config.balance),
            timeouts: config.timeouts,
            retries: config.retries.clone(),
            admission: Admission::compile(name.as_str(), config, build),
            hedger,
            deadline_header: config.deadline_header.as_ref().map(config::types::HeaderName::to_http),
            metrics: build.metrics.upstream(name.as_str()),
            forwarded: config.forwarded,
            header_names: config.header_names,
        })
    }

    /// Chooses an endpoint that can be used and has not failed this request yet; one that has, if there is no other; none if
    /// none can be used. `now` is on the monotonic clock.
    pub fn choose(&self, request: &RequestHeader, ctx: &Context, now: u64) -> Option<Lease> {
        let key = self
            .key
            .as_ref()
            .and_then(|key| key.hash(request.uri.path(), &request.headers, ctx.client_ip, ctx.identity.as_deref()));
        let home = self.sticky.as_ref().and_then(|sticky| sticky.home(&request.headers));
        let set = self.members.set();
        let chosen = set.choose(&Wish { key, home, failed: &ctx.attempt.failed, now }, &mut rand::rng())?;
        Some(Lease::new(Arc::clone(chosen)))
    }

    /// The time on the monotonic clock, in nanoseconds.
    pub fn now(&self) -> u64 {
        self.members.plan.clock.monotonic()
    }

    /// What an answer to this request sets, so that the next one goes to the same endpoint; nothing if it would anyhow.
    pub fn stick(&self, request: &RequestHeader, lease: &Lease, secure: bool) -> Option<HeaderValue> {
        let sticky = self.sticky.as_ref()?;
        let seed = lease.endpoint().seed;
        if sticky.home(&request.headers) == Some(seed) {
            return None;
        }
        sticky.set(seed, secure)
    }

    /// Takes how a try at an endpoint ended, of a request that was let through with this pass.
    pub fn ended(&self, lease: &Lease, pass: Option<&Pass>, outcome: Outcome) {
        let endpoint = lease.endpoint();
        if self.members.plan.rules.by_latency() {
            endpoint.state.latency.observe(outcome.took, outcome.now);
        }
        match outcome.failure {
            Some(failure) => self.members.failed(endpoint, failure, outcome.now),
            None => self.members.succeeded(endpoint),
        }
        self.note(pass, outcome);
    }

    /// An endpoint did not answer a request that was sent to it at `started`.
    pub fn failed(&self, lease: &Lease, pass: Option<&Pass>, failure: Failure, started: u64) {
        lease.metrics().failed();
        let now = self.now();
        self.ended(lease, pass, Outcome { failure: Some(failure), took: now.saturating_sub(started), now });
    }

    /// A request begins, of which a part may be tried again.
    pub fn begin(&self) {
        self.members.plan.states.budget.deposit(self.retries.budget.0);
    }

    /// Whether there is still something left for a retry; it is taken if there is.
    pub fn pay_for_retry(&self) -> bool {
        let paid = self.members.plan.states.budget.withdraw();
        self.metrics.retried(paid);
        paid
    }

    /// The header in which endpoints are told how much time is left.
    pub fn deadline_header(&self) -> Option<&HeaderName> {
        self.deadline_header.as_ref()
    }

    /// Has an endpoint stand like this from now on. Returns how it stood before; nothing if there is none at this address.
    pub fn stand(&self, address: &str, standing: Standing) -> Option<Standing> {
        let before = self.members.plan.states.stand(address, standing, self.now());
        if before.is_some_and(|before| before != standing) {
            log::info!(target: "torana::health", "upstream {}: endpoint {address} is {standing} now", self.name);
        }
        before
    }

    /// Whether some endpoint could be chosen that is not among these. Nobody's turn is used up by asking.
    pub fn has_another(&self, failed: &[u64], now: u64) -> bool {
        let set = self.members.set();
        set.endpoints().iter().any(|one| one.is_usable(now) && one.has_room() && !failed.contains(&one.id()))
    }

    /// Why there is no endpoint to choose.
    pub fn why_none(&self, now: u64) -> Reject {
        if self.members.set().is_busy(now) {
            Reject::UpstreamOverloaded("`connections` of every endpoint")
        } else {
            Reject::NoHealthyEndpoint
        }
    }

    /// Has the connection begin with who the client is, if that is to be said; returns what is said.
    pub fn introduce(&self, peer: &mut HttpPeer, ctx: &Context) -> Option<Arc<[u8]>> {
        let version = self.members.plan.connection.proxy_protocol?;
        let header = write(version, &ctx.said()).into();
        introduce::prepare(peer, &header);
        Some(header)
    }

    /// Has a second endpoint asked where the first one takes long, if the file says so and the request may be sent twice.
    pub fn hedge(&self, request: &RequestHeader, lease: &Lease, peer: &mut HttpPeer) -> Option<Exchange> {
        self.hedger.as_ref()?.prepare(request, lease, peer)
    }

    /// Another endpoint has answered in place of this one, which has taken at least so long.
    pub fn outrun(&self, lease: &Lease, took: u64, now: u64) {
        if self.members.plan.rules.by_latency() {
            lease.endpoint().state.latency.observe(took, now);
        }
    }

    /// In which letters the names of headers are written.
    pub fn header_names(&self) -> HeaderNames {
        self.header_names
    }

    /// Whether requests say who the client is in `Forwarded` too.
    pub fn says_forwarded(&self) -> bool {
        self.forwarded
    }

    /// Its name in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its endpoints are spoken to in HTTP/2.
    pub fn speaks_http2(&self) -> bool {
        self.members.plan.connection.protocol == Protocol::Http2
    }

    /// Whether requests of different clients share a connection while they last.
    pub fn shares_connections(&self) -> bool {
        self.speaks_http2() && self.members.plan.connection.proxy_protocol.is_none()
    }

    /// What is tried again on another endpoint.
    pub fn retries(&self) -> &Retries {
        &self.retries
    }

    /// How long things may take.
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Counts the health of the endpoints as it is now, after another process told of it.
    pub fn show_health(&self) {
        for endpoint in self.members.set().endpoints() {
            endpoint.metrics.healthy(endpoint.is_healthy());
        }
    }

    /// The endpoints as they are now, for `/status`.
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        let now = self.now();
        let set = self.members.set();
        let endpoints = set.endpoints().iter();
        endpoints.map(|endpoint| EndpointStatus::of(endpoint, now)).collect()
    }

    /// How it is now, for `/metrics`.
    pub fn now_shown(&self) -> UpstreamNow<'_> {
        let failing = |sources: Vec<SourceStatus>| {
            let failing = sources.iter().filter(|source| source.error.is_some()).count();
            (!sources.is_empty()).then(|| u32::try_from(failing).unwrap_or(u32::MAX))
        };
        UpstreamNow {
            name: &self.name,
            circuit: self.circuit().map(|circuit| match circuit {
                Circuit::Closed => 0,
                Circuit::HalfOpen => 1,
                Circuit::Open => 2,
            }),
            limit: self.learnt_limit(),
            failing_sources: failing(self.sources()),
        }
    }

    /// Who is asked for its endpoints, besides the file.
    pub fn sources(&self) -> Vec<SourceStatus> {
        let found = self.members.plan.sources.iter().filter_map(|source| match &source.origin {
            Origin::Found { found, .. } => Some(found.status()),
            Origin::Address(_) | Origin::Name(..) => None,
        });
        found.collect()
    }

    /// Whether so few endpoints can be used that all are.
    pub fn is_in_panic(&self) -> bool {
        self.members.set().is_in_panic(self.now())
    }
}

/// What is known about a name, with the work that keeps it known.
fn resolved(host: &str, build: &mut Build<'_>) -> Arc<Resolved> {
    let resolved = build.keep_as(format!("dns/{host}"), || Resolved::new(host));
    let dns = build.config().dns.clone();
    let (key, work) = (format!("dns/{host} {dns:?}"), Arc::clone(&resolved));
    build.background(Task::new(key, |ready| resolve::run(work, dns, ready)));
    resolved
}

/// The key holds everything that changes what the checks do: with the same key the running ones are left alone.
fn check_health(config: &config::upstream::Upstream, members: &Arc<Members>, build: &mut Build<'_>) {
    let Some(health) = config.health.clone() else {
        return;
    };
    let plan = &members.plan;
    let targets = targets(config);
    let key = format!("health/{} {targets} {health:?} {:?} {:x}", plan.upstream, config.tls, plan.connection.group);
    let members = Arc::clone(members);
    build.background(Task::new(key, |ready| health::run(health, members, ready)));
}

/// Like that of `check_health`: what is out, and since when, is not in the key, and lives on.
fn watch_outliers(config: &config::upstream::Upstream, members: &Arc<Members>, build: &mut Build<'_>) {
    let rule = members.plan.outliers;
    let targets = targets(config);
    let key = format!("outliers/{} {targets} {rule:?}", members.plan.upstream);
    let members = Arc::clone(members);
    build.background(Task::new(key, move |ready| outliers::run(members, rule, ready)));
}

/// All that says which endpoints there are.
fn targets(config: &config::upstream::Upstream) -> String {
    let targets: Vec<&Target> = config.endpoints.iter().map(|e| &e.address).collect();
    format!("{targets:?} {:?}", config.discovery)
}

/// Requests that an endpoint may be busy with.
fn max_in_flight(config: &config::upstream::Upstream) -> u32 {
    let connections = config.circuit_breaker.as_ref().and_then(|breaker| breaker.connections);
    let each = match config.protocol {
        Protocol::Http1 => 1,
        Protocol::Http2 => u32::try_from(connection::STREAMS).unwrap_or(u32::MAX),
    };
    connections.map_or(u32::MAX, |connections| connections.get().saturating_mul(each))
}

#[cfg(test)]
impl Upstream {
    /// One without endpoints.
    pub(crate) fn none() -> Self {
        let members = members::tests::numbered(0, "");
        Self {
            name: "none".into(),
            key: None,
            sticky: None,
            timeouts: Timeouts::default(),
            retries: Retries::default(),
            admission: None,
            hedger: None,
            deadline_header: None,
            metrics: members.plan.metrics.upstream("none"),
            forwarded: false,
            header_names: HeaderNames::default(),
            members,
        }
    }
}
