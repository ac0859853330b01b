//! `stores.<name>`: where counts are kept that several gateways share.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::types::{Duration, Secret};

/// A store that several gateways share.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Store")]
pub struct Store {
    /// Redis or Valkey, from version 6.2.
    pub redis: Redis,
}

/// Redis or Valkey.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// `HOST:PORT`, or `unix:/PATH`: the server, some nodes of the cluster, or the sentinels.
    #[schemars(length(min = 1))]
    pub servers: Vec<String>,
    /// What they are.
    #[serde(default)]
    pub mode: RedisMode,
    /// How the sentinels call the server.
    pub master: Option<String>,
    /// Who the gateway is; without it the user `default`.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// The password for the sentinels, if they want one.
    pub sentinel_password: Option<Secret>,
    /// The number of the database; a cluster has only 0.
    #[serde(default)]
    pub database: u32,
    /// Speaks TLS.
    pub tls: Option<RedisTls>,
    /// How long a request waits for it. Who has answered late three times is asked again in the background, and by requests only when it answers.
    #[serde(default = "default_timeout")]
    pub timeout: Duration,
    /// Goes before every key.
    #[serde(default = "default_prefix")]
    pub prefix: String,
}

fn default_timeout() -> Duration {
    Duration(std::time::Duration::from_millis(50))
}

fn default_prefix() -> String {
    "torana".into()
}

/// What the servers are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RedisMode {
    /// One server.
    #[default]
    Single,
    /// Nodes of a cluster.
    Cluster,
    /// Sentinels, which know the server.
    Sentinel,
}

/// TLS to the store.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisTls {
    /// The authorities to trust, in PEM; without it those of the system.
    pub ca: Option<PathBuf>,
}
