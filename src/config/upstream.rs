//! `upstreams`: named sets of endpoints with balancing, health and timeouts.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    balance::{Balance, Sticky},
    breaker::{AdaptiveConcurrency, CircuitBreaker},
    discovery::Discovery,
    endpoint::{Endpoint, Target},
    health::{Health, Outliers},
    retries::{Hedge, Retries},
    types::{Duration, HeaderName, Percent, Size},
};

/// A named set of endpoints.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Where it listens; at least one, or a source in `discovery`.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// Who knows more endpoints: SRV records, a file, Consul.
    #[serde(default)]
    pub discovery: Vec<Discovery>,
    /// How an endpoint is chosen.
    #[serde(default)]
    pub balance: Balance,
    /// Has the requests of a session go to the same endpoint, by a signed cookie.
    pub sticky: Option<Sticky>,
    /// For so long an endpoint that is new or healthy again gets fewer requests than its share, a tenth at first. `hash` and its
    /// kind do without.
    pub slow_start: Option<Duration>,
    /// If less than this share of the endpoints, by weight, can be used, all are: those that checks or failures took out might
    /// still answer, and the few others could not carry everything. 0%, the default, never does that.
    #[serde(default)]
    pub panic_threshold: Percent,
    /// Active health checks; without them every endpoint counts as healthy.
    pub health: Option<Health>,
    /// Leaves out endpoints that fail requests. Without it only those that cannot be connected to three times in a row: for a second, then
    /// two, up to ten, and never the last one.
    pub outliers: Option<Outliers>,
    /// How long things may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// What is tried again on another endpoint.
    #[serde(default)]
    pub retries: Retries,
    /// Asks a second endpoint where the first one takes long, and takes the answer that begins first. For endpoints
    /// that speak HTTP/1.1; out of the budget of `retries`.
    pub hedge: Option<Hedge>,
    /// How much it is asked for at once, and when it is left alone.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Finds out how many requests at once it can take, by its latency, and refuses the others: those of routes with a low
    /// `priority` first.
    pub adaptive_concurrency: Option<AdaptiveConcurrency>,
    /// Tells it in this header how many milliseconds are left until `timeouts.total`, `timeout` of the route or `grpc-timeout`. What
    /// clients send in it is taken away.
    pub deadline_header: Option<HeaderName>,
    /// Speaks TLS to the endpoints.
    pub tls: Option<Tls>,
    /// The version of HTTP that the endpoints speak.
    #[serde(default)]
    pub protocol: Protocol,
    /// How long an idle connection to an endpoint is kept for the next request; `0s` keeps none. Without it, until the
    /// endpoint closes it, which costs less: no timer for each request.
    pub keepalive: Option<Duration>,
    /// How much of an answer the kernel takes in on each connection before the gateway has room for it; `0B` leaves it to the
    /// kernel, which takes megabytes for each slow client. A connection is no faster than this much for each round trip: for
    /// endpoints that are far away more is needed, and `net.core.rmem_max` must allow it. Without it, 128 KiB for HTTP/1.1; HTTP/2
    /// has windows of its own.
    pub receive_buffer: Option<Size>,
    /// Begins every connection with a header of the PROXY protocol that says who the client is. Connections are shared only
    /// by requests of the same client then, and kept for at most `keepalive`, or 10 s.
    pub proxy_protocol: Option<crate::proxy_protocol::Version>,
    /// Also says who the client is in `Forwarded` ([RFC 7239](https://www.rfc-editor.org/rfc/rfc7239)).
    #[serde(default)]
    pub forwarded: bool,
    /// In which letters the names of headers are written over HTTP/1.1, in requests to the upstream and in its responses: small ones but for the
    /// most common (`Host`, `Content-Type`), or as they were sent, for servers and clients that take `x-api-key` and `X-Api-Key` for different ones.
    #[serde(default)]
    pub header_names: HeaderNames,
}

/// How the names of headers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeaderNames {
    /// In small letters, as over HTTP/2 ([RFC 9110, 5.1](https://www.rfc-editor.org/rfc/rfc9110#section-5.1): no server may tell them apart).
    #[default]
    Lower,
    /// As the client did, or the upstream.
    AsSent,
}

impl Upstream {
    /// Whether all of it is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        self.discovery.is_empty()
            && self.endpoints.iter().all(|endpoint| match &endpoint.address {
                Target::Ip(address) => address.ip().is_loopback(),
                Target::Dns { host, .. } => host == "localhost",
                Target::Unix(_) => true,
            })
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// To open a connection, TLS included.
    pub connect: Duration,
    /// From one read from the endpoint to the next; also until the first byte of the response.
    pub read: Duration,
    /// From one write to the endpoint to the next.
    pub write: Duration,
    /// For the whole exchange, retries and bodies included. None: no limit.
    pub total: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            read: Duration::from_secs(60),
            write: Duration::from_secs(60),
            total: None,
        }
    }
}

/// TLS towards the endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The name that the certificate must carry, also sent as SNI; without it, the DNS name of the endpoint.
    pub server_name: Option<String>,
    /// PEM file with the authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// `false` accepts any certificate: for tests only.
    pub verify: bool,
}

impl Default for Tls {
    fn default() -> Self {
        Self { server_name: None, ca: None, verify: true }
    }
}

/// The version of HTTP that the endpoints speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: by ALPN with `tls`, with prior knowledge without.
    Http2,
}
