//! `upstreams.<name>.circuit_breaker` and `.adaptive_concurrency`: how much an upstream is asked for, and when it is left alone.

use std::num::{NonZeroU16, NonZeroU32};

use schemars::JsonSchema;
use serde::Deserialize;

use super::types::{Duration, Percent};

/// How much an upstream is asked for at once, and when it is left alone. Without a field there is no such bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CircuitBreaker {
    /// Connections in use to each endpoint; of HTTP/2 each stands for 100 requests. Endpoints that have as many are left out.
    pub connections: Option<NonZeroU32>,
    /// Requests in flight to all endpoints together.
    pub requests: Option<NonZeroU32>,
    /// Where requests wait while there are as many; without it they are refused at once.
    pub queue: Option<Queue>,
    /// Refuses everything for a while where too many requests fail.
    pub errors: Option<Errors>,
}

/// Where requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// So many at most.
    pub length: NonZeroU32,
    /// For so long at most.
    pub timeout: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Self { length: NonZeroU32::MIN.saturating_add(99), timeout: Duration::from_secs(1) }
    }
}

/// When the circuit opens. Failures are those of `outliers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Errors {
    /// If this share of the requests within `window` failed.
    pub share: Percent,
    /// If there were so many at least.
    pub requests: NonZeroU16,
    /// How long requests are counted together.
    pub window: Duration,
    /// How long everything is refused then.
    pub open_for: Duration,
    /// So many requests are let through after that, one behind the other or at once: if none fails the circuit closes, else it
    /// opens again.
    pub probes: NonZeroU16,
}

impl Default for Errors {
    fn default() -> Self {
        Self {
            share: Percent(50),
            requests: NonZeroU16::MIN.saturating_add(19),
            window: Duration::from_secs(10),
            open_for: Duration::from_secs(5),
            probes: NonZeroU16::MIN.saturating_add(2),
        }
    }
}

/// Within what a number of requests at once is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdaptiveConcurrency {
    /// Never fewer.
    pub min: NonZeroU32,
    /// Never more.
    pub max: NonZeroU32,
}

impl Default for AdaptiveConcurrency {
    fn default() -> Self {
        Self { min: NonZeroU32::MIN.saturating_add(9), max: NonZeroU32::MIN.saturating_add(999) }
    }
}
