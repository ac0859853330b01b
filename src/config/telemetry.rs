//! `telemetry` and `admin`: what the gateway tells about itself.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    listener::Address,
    types::{Name, SocketPath},
};

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

/// The admin listener: `/live`, `/ready`, `/metrics`, `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where it listens: a loopback address, or `unix:/run/torana/admin.sock`.
    pub address: AdminAddress,
    /// Names that may stand in `Host` besides IP addresses and `localhost`, against DNS rebinding.
    #[serde(default)]
    pub hosts: Vec<Name>,
}

/// Where the admin listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// An IP address with a port.
    Ip(Address),
    /// A Unix socket, with mode 0600.
    Unix(PathBuf),
}

impl std::str::FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return path.parse().map(|SocketPath(path)| Self::Unix(path));
        }
        text.parse().map(Self::Ip)
    }
}
super::types::text_type!(AdminAddress, "an IP address with a port, or `unix:/path`", "^(unix:/.+|.+:[0-9]+)$");
