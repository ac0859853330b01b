//! `upstreams.<name>.discovery`: endpoints that something else knows.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::types::{Duration, Name, Secret, text_type};

/// Who knows endpoints. What they know last stays in use while they cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Discovery {
    /// A name with SRV records ([RFC 2782](https://www.rfc-editor.org/rfc/rfc2782)): `_orders._tcp.internal`. Their priorities and
    /// weights are those of the endpoints.
    Srv(ServiceName),
    /// A file, by its absolute path, with a list as in `endpoints`, weights and priorities included, but of IP addresses and `unix:` alone; read
    /// again when it changes.
    File(PathBuf),
    /// Consul's catalogue: the instances of a service whose checks pass.
    Consul(Consul),
}

/// A name of a service in DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName(pub String);

impl std::str::FromStr for ServiceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |label: &str| {
            (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        let bare = text.strip_suffix('.').unwrap_or(text);
        if bare.len() > 253 || !bare.contains('.') || !bare.split('.').all(fits) {
            return Err("expected the name of a service, such as `_orders._tcp.internal`".into());
        }
        Ok(Self(bare.to_ascii_lowercase()))
    }
}
text_type!(ServiceName, "the name of a service, such as `_orders._tcp.internal`", "^[A-Za-z0-9_.-]+$");

/// A service in Consul.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Consul {
    /// Its HTTP API: `http://127.0.0.1:8500`.
    #[serde(default = "local")]
    pub address: Agent,
    /// The service.
    pub service: Name,
    /// Only instances with this tag.
    pub tag: Option<Name>,
    /// Another datacenter than that of the agent.
    pub datacenter: Option<Name>,
    /// For its access control.
    pub token: Option<Secret>,
    /// PEM file with the authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// How long a question waits for something new.
    #[serde(default = "minute")]
    pub wait: Duration,
}

fn minute() -> Duration {
    Duration::from_secs(60)
}

fn local() -> Agent {
    Agent { tls: false, host: "127.0.0.1".into(), port: 8500 }
}

/// Where an agent of Consul listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Name or address.
    pub host: String,
    /// Port; Consul's own are 8500 and 8501.
    pub port: u16,
}

impl std::str::FromStr for Agent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = "expected an address such as `http://127.0.0.1:8500`";
        let url: http::Uri = text.parse().map_err(|_error| wrong)?;
        let tls = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong.into()),
        };
        let host = url.host().ok_or(wrong)?.trim_matches(['[', ']']).to_owned();
        if !matches!(url.path(), "" | "/") || url.query().is_some() || text.contains('@') {
            return Err(wrong.into());
        }
        Ok(Self { tls, host, port: url.port_u16().unwrap_or(if tls { 8501 } else { 8500 }) })
    }
}
text_type!(Agent, "an address such as `http://127.0.0.1:8500`", "^https?://[^/]+/?$");
