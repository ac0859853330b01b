//! `telemetry` and `admin`: what the gateway tells about itself.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{listener::BindAddress, types::Name};

/// What the gateway tells about requests.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// One line of JSON for each request; without it there is none.
    pub access_log: Option<AccessLog>,
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLog {
    /// A file to append to, opened again on SIGHUP (for logrotate). Without it: standard output.
    pub file: Option<PathBuf>,
    /// Query parameters whose values are shown as `***`, besides those that are always hidden
    /// (`access_token`, `api_key`, `apikey`, `key`, `token`, `password`, `secret`, `signature`, `code`, ...).
    pub redact_query: Vec<String>,
    /// Request headers to write, besides `User-Agent`; `Authorization`, `Cookie` and API keys cannot be written.
    pub headers: Vec<super::types::HeaderName>,
}

/// The admin listener: `/live`, `/ready`, `/metrics`, `/status`, `/endpoint`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where it listens: a loopback address, or `unix:/run/torana/admin.sock`.
    pub address: BindAddress,
    /// Names that may stand in `Host` besides IP addresses and `localhost`, against DNS rebinding.
    #[serde(default)]
    pub hosts: Vec<Name>,
    /// Also takes `POST /endpoint`, which drains, disables and enables endpoints. Whoever reaches the listener may do that:
    /// nobody is asked who they are.
    #[serde(default)]
    pub changes: bool,
}
