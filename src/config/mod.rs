//! The configuration as written: one type for each section, each field valid by itself.
//!
//! Text -> tree -> [`Config`] (types, unknown keys refused) -> `check` (everything that needs
//! more than one field) -> [`Validated`]. Every step collects all the errors that it can find; the result is one
//! [`Report`] with file, line, column, snippet and the nearest valid name.

pub mod acme;
pub mod balance;
pub mod breaker;
pub mod cache;
pub mod check;
pub mod consumer;
mod consumer_files;
pub mod diagnostic;
pub mod discovery;
pub mod endpoint;
pub mod health;
pub mod http3;
pub mod hygiene;
pub mod limits;
pub mod listener;
mod load;
mod pieces;
mod quick;
pub mod quota;
mod read;
mod redact;
pub mod release;
pub mod retries;
pub mod route;
mod schema;
pub mod store;
mod substitute;
pub mod telemetry;
mod tree;
pub mod types;
pub mod upstream;
pub mod web_socket;

use std::{collections::BTreeMap, net::IpAddr};

use schemars::JsonSchema;
use serde::Deserialize;

pub use self::{
    check::Validated,
    diagnostic::{Diagnostic, Report, Severity},
    load::{load, load_text},
    schema::schema,
    tree::{Place, Step},
};
use crate::policy::PolicyConfig;
pub(crate) use tree::steps;
use types::{Duration, Name};

/// A whole configuration file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Torana configuration")]
pub struct Config {
    /// Threads that serve requests; without it, one for each CPU.
    #[schemars(range(min = 1, max = 1024))]
    pub workers: Option<u16>,
    /// The admin listener; without it there is none.
    pub admin: Option<telemetry::Admin>,
    /// Where the gateway stands: endpoints of the same zone come before others.
    pub zone: Option<Name>,
    /// Where the gateway accepts requests; at least one.
    #[schemars(length(min = 1))]
    pub listeners: Vec<listener::Listener>,
    /// Who issues the certificates of `tls.acme`.
    pub acme: Option<acme::Acme>,
    /// Where counts are kept that several gateways share.
    #[serde(default)]
    pub stores: BTreeMap<Name, store::Store>,
    /// How much the policy `cache` may keep.
    #[serde(default)]
    pub cache: cache::Cache,
    /// Where what is used of quotas is kept.
    #[serde(default)]
    pub quotas: quota::Quotas,
    /// Named sets of endpoints that routes send requests to.
    #[serde(default)]
    pub upstreams: BTreeMap<Name, upstream::Upstream>,
    /// Who may be calling.
    #[serde(default)]
    pub consumers: consumer::Consumers,
    /// Policies for every route; they run before the route's own of the same stage.
    #[serde(default)]
    pub policies: Vec<PolicyConfig>,
    /// Which requests go where.
    #[serde(default)]
    pub routes: Vec<route::Route>,
    /// Access log, metrics, traces.
    #[serde(default)]
    pub telemetry: telemetry::Telemetry,
    /// How a changed file is taken over.
    #[serde(default)]
    pub reload: Reload,
    /// How the names of endpoints are resolved.
    #[serde(default)]
    pub dns: Dns,
    /// What the process may hold at once.
    #[serde(default)]
    pub limits: limits::Limits,
    /// How the process stops.
    #[serde(default)]
    pub shutdown: Shutdown,
    /// How another process takes over.
    #[serde(default)]
    pub upgrade: Upgrade,
    /// The Unix socket that `torana status`, `reload` and `upgrade` talk to. Without it `control.sock` in systemd's
    /// `$RUNTIME_DIRECTORY`, if that is set.
    pub control: Option<types::SocketPath>,
}

impl Config {
    /// All policies: those for every route, then those of each.
    pub fn every_policy(&self) -> impl Iterator<Item = &PolicyConfig> {
        self.policies.iter().chain(self.routes.iter().flat_map(|route| &route.policies))
    }
}

/// How a changed file is taken over. SIGHUP always reloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reload {
    /// Also reload when the file changes.
    pub watch: bool,
}

/// How the names of endpoints are resolved.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Name servers, `10.0.0.2` or `10.0.0.2:5353`; without them, those of `/etc/resolv.conf`.
    pub servers: Vec<NameServer>,
    /// A shorter TTL counts as this.
    pub min_ttl: Duration,
    /// A longer TTL counts as this.
    pub max_ttl: Duration,
}

impl Default for Dns {
    fn default() -> Self {
        Self { servers: Vec::new(), min_ttl: Duration::from_secs(1), max_ttl: Duration::from_secs(300) }
    }
}

/// The address of a name server; port 53 if none is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameServer(pub std::net::SocketAddr);

impl std::str::FromStr for NameServer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<IpAddr>()
            .map(|ip| Self((ip, 53).into()))
            .or_else(|_| text.parse().map(Self))
            .map_err(|_error| "expected an IP address with an optional port".into())
    }
}
types::text_type!(NameServer, "an IP address with an optional port", "^[0-9A-Fa-f.:\\[\\]]+$");

/// How another process takes over: after `torana upgrade` or SIGUSR2, or when a reload changes what only a new process can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Upgrade {
    /// How long the new process may take until it is ready; after that it is ended, and the old one serves on.
    pub ready_within: Duration,
    /// How long WebSockets may go on in the old process. Other requests have `shutdown.grace`.
    pub websocket_grace: Duration,
}

impl Default for Upgrade {
    fn default() -> Self {
        Self { ready_within: Duration::from_secs(60), websocket_grace: Duration::from_secs(600) }
    }
}

/// How the process stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long requests in flight may take to end after SIGTERM, or after another process has taken over.
    pub grace: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace: Duration::from_secs(30) }
    }
}
