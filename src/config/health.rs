//! `upstreams.<name>.health` and `.outliers`: which endpoints can be used.

use std::num::NonZeroU16;

use schemars::JsonSchema;
use serde::Deserialize;

use super::types::{Duration, Percent};

/// Active health checks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Sends a request; without it the check is whether a connection can be opened.
    pub http: Option<HttpHealth>,
    /// Asks the standard service `grpc.health.v1.Health`; for `protocol: http2`.
    pub grpc: Option<GrpcHealth>,
    /// Time from one check of an endpoint to the next; each is moved by up to a tenth, so that they spread.
    #[serde(default = "default_interval")]
    pub interval: Duration,
    /// A check that takes longer has failed.
    #[serde(default = "default_timeout")]
    pub timeout: Duration,
    /// So many checks in a row have to succeed before an endpoint is used again.
    #[serde(default = "two")]
    pub healthy_after: NonZeroU16,
    /// So many checks in a row have to fail before an endpoint is not used any more.
    #[serde(default = "two")]
    pub unhealthy_after: NonZeroU16,
}

fn default_interval() -> Duration {
    Duration::from_secs(5)
}

fn default_timeout() -> Duration {
    Duration::from_secs(2)
}

fn two() -> NonZeroU16 {
    NonZeroU16::MIN.saturating_add(1)
}

/// A health check by a GET request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpHealth {
    /// The path to ask for.
    #[serde(default = "root")]
    pub path: crate::route::pattern::Prefix,
    /// The `Host` to send; without it, the name of the upstream.
    pub host: Option<super::route::HostValue>,
    /// The statuses that mean healthy; without it, 200 to 299.
    #[serde(default)]
    pub status: Vec<u16>,
}

/// A health check by [gRPC's protocol](https://github.com/grpc/grpc/blob/master/doc/health-checking.md).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcHealth {
    /// The service to ask about; empty for the server as a whole.
    pub service: String,
}

/// When an endpoint is taken out because it fails requests. Failures are connections that cannot be opened or break, time-outs,
/// 502, 503 and 504, and of gRPC `UNAVAILABLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Outliers {
    /// So many failures in a row take an endpoint out.
    pub consecutive_failures: NonZeroU16,
    /// Compares the endpoints with each other; without it only failures in a row count.
    pub failure_rate: Option<FailureRate>,
    /// How often they are compared.
    pub interval: Duration,
    /// How long an endpoint is left out the first time; the second time in a row twice as long, and so on.
    pub ejected_for: Duration,
    /// It is never left out for longer.
    pub max_ejected_for: Duration,
    /// At most this share of the endpoints is left out; of two or more at least one may be.
    pub max_ejected: Percent,
}

impl Default for Outliers {
    fn default() -> Self {
        Self {
            consecutive_failures: NonZeroU16::MIN.saturating_add(4),
            failure_rate: None,
            interval: Duration::from_secs(10),
            ejected_for: Duration::from_secs(30),
            max_ejected_for: Duration::from_secs(300),
            max_ejected: Percent(50),
        }
    }
}

/// When an endpoint fails more requests than the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FailureRate {
    /// So many points more than all others together, beyond what chance explains (three standard deviations).
    pub above_others: Percent,
    /// Endpoints with fewer requests in an interval are not compared.
    pub requests: NonZeroU16,
}

impl Default for FailureRate {
    fn default() -> Self {
        Self { above_others: Percent(20), requests: NonZeroU16::MIN.saturating_add(49) }
    }
}

fn root() -> crate::route::pattern::Prefix {
    crate::route::pattern::Prefix::root()
}
