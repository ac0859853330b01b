//! `upstreams.<name>.retries`: what is tried again.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::Deserialize;

use super::types::{Duration, Method, Percent, text_type};

/// What is tried again on another endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retries {
    /// How often, after the first try; 0 switches retries off.
    #[schemars(range(max = 10))]
    pub attempts: u8,
    /// When. A connection that could not be opened is tried again for every request; the others only for requests whose method is
    /// idempotent ([RFC 9110, 9.2.2](https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2)), or that carry `Idempotency-Key`.
    pub on: Vec<RetryOn>,
    /// How long a try may wait for its answer, and between two pieces of it; without it, `timeouts.read`. To try again then needs
    /// `timeout` in `on`.
    pub timeout: Option<Duration>,
    /// Before the first retry up to so much time passes, at random; twice as much before the second, and so on.
    pub backoff: Duration,
    /// The longest pause. Where an endpoint asks for a longer one (`Retry-After`), the client gets its answer.
    pub max_backoff: Duration,
    /// So many retries for each hundred requests, and ten more: a storm of failures does not become one of retries.
    pub budget: Percent,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 1,
            on: vec![RetryOn::ConnectFailure, RetryOn::Reset],
            timeout: None,
            backoff: Duration::from_millis(25),
            max_backoff: Duration::from_secs(1),
            budget: Percent(20),
        }
    }
}

/// When a second endpoint is asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hedge {
    /// So long after the first one, if that has not begun to answer: a little more than most answers take.
    pub after: Duration,
    /// For these methods, of which both endpoints may do all: `GET`, `HEAD` and `OPTIONS` unless the file says so. `PUT`, `DELETE` and
    /// `TRACE` may be named too, but the slower endpoint finds the work of the other one done: its `DELETE` may be a 404.
    #[serde(default = "safe")]
    pub methods: Vec<Method>,
}

fn safe() -> Vec<Method> {
    ["GET", "HEAD", "OPTIONS"].into_iter().filter_map(|name| name.parse().ok()).collect()
}

/// A reason to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// The connection could not be opened.
    ConnectFailure,
    /// The connection broke before the response began.
    Reset,
    /// The answer did not come in time.
    Timeout,
    /// The endpoint answered 502, 503 or 504.
    GatewayError,
    /// It answered with this status.
    Status(u16),
    /// It answered a call of gRPC with this status, and no message before.
    Grpc(GrpcCode),
}

/// A status of gRPC by its name: `unavailable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcCode(pub u16);

/// By their numbers ([grpc.io](https://grpc.io/docs/guides/status-codes/)).
const NAMES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

impl FromStr for GrpcCode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = NAMES.iter().skip(1).position(|name| *name == text).and_then(|at| u16::try_from(at + 1).ok());
        number.map(Self).ok_or_else(|| "expected a status of gRPC such as `unavailable`".into())
    }
}
text_type!(GrpcCode, "a status of gRPC such as `unavailable`", "^[a-z_]+$");
