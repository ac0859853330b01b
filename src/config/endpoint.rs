//! `upstreams.<name>.endpoints`: where an upstream listens.

use std::{fmt, net::SocketAddr, num::NonZeroU16, path::PathBuf, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

use super::types::{Name, text_type};

/// One address of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Target,
    /// Its share of the requests, against the other endpoints.
    pub weight: NonZeroU16,
    /// 0 is used first.
    pub priority: u8,
    /// Where it stands.
    pub zone: Option<Name>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename = "Endpoint")]
struct WeightedEndpoint {
    /// Where it listens.
    address: Target,
    /// Its share of the requests, against the other endpoints: 1 to 65,535.
    #[serde(default = "one")]
    weight: NonZeroU16,
    /// Endpoints of 1 are used where too few of 0 can be, those of 2 where too few of 0 and 1 can be, and so on.
    #[serde(default)]
    priority: u8,
    /// Where it stands: those in the `zone` of the gateway come before others of the same priority.
    zone: Option<Name>,
}

fn one() -> NonZeroU16 {
    NonZeroU16::MIN
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> de::Visitor<'de> for Either {
            type Value = Endpoint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or a mapping with `address` and `weight`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Endpoint, E> {
                Ok(Endpoint { address: text.parse().map_err(E::custom)?, weight: one(), priority: 0, zone: None })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
                let whole = WeightedEndpoint::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let WeightedEndpoint { address, weight, priority, zone } = whole;
                Ok(Endpoint { address, weight, priority, zone })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Endpoint {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let text = generator.subschema_for::<Target>();
        let whole = WeightedEndpoint::json_schema(generator);
        schemars::json_schema!({ "anyOf": [text, whole] })
    }
}

/// Where an endpoint listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// `10.0.0.11:8080`, `[2001:db8::1]:8080`
    Ip(SocketAddr),
    /// `orders.internal:8080`: every address that DNS has for the name is an endpoint.
    Dns {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
    /// `unix:/run/orders.sock`
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Dns { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') || path.len() > 107 {
                return Err("the path of a Unix socket starts with `/` and has at most 107 bytes".into());
            }
            return Ok(Self::Unix(path.into()));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            if address.port() == 0 {
                return Err("port 0 is not an address to connect to".into());
            }
            return Ok(Self::Ip(address));
        }
        if text.contains("://") {
            return Err(
                "an endpoint is an address without scheme and path; `tls` and `protocol` stand beside `endpoints`"
                    .into(),
            );
        }
        let wrong = "expected `10.0.0.11:8080`, `name.example:8080` or `unix:/path`";
        let (host, port) = text.rsplit_once(':').ok_or(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(wrong)?;
        let host = host
            .parse::<super::route::HostPattern>()
            .ok()
            .filter(|host| !host.wildcard && !host.name.starts_with('['))
            .ok_or(wrong)?;
        if host.name.split('.').all(|l| l.chars().all(|c| c.is_ascii_digit())) {
            return Err(wrong.into());
        }
        Ok(Self::Dns { host: host.name, port })
    }
}
text_type!(Target, "`10.0.0.11:8080`, `name.example:8080` or `unix:/path`", "^(unix:/.+|.+:[0-9]+)$");
