//! `upstreams`: named sets of endpoints with balancing, health and timeouts.

use std::{fmt, net::SocketAddr, num::NonZeroU16, path::PathBuf, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

use super::types::{Duration, HeaderName, Size, text_type};

/// A named set of endpoints.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Where it listens; at least one.
    #[schemars(length(min = 1))]
    pub endpoints: Vec<Endpoint>,
    /// How an endpoint is chosen.
    #[serde(default)]
    pub balance: Balance,
    /// Active health checks; without them every endpoint counts as healthy.
    pub health: Option<Health>,
    /// How long things may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// What is tried again on another endpoint.
    #[serde(default)]
    pub retries: Retries,
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
}

impl Upstream {
    /// Whether all of it is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        self.endpoints.iter().all(|endpoint| match &endpoint.address {
            Target::Ip(address) => address.ip().is_loopback(),
            Target::Dns { host, .. } => host == "localhost",
            Target::Unix(_) => true,
        })
    }
}

/// One address of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Target,
    /// Its share of the requests, against the other endpoints.
    pub weight: NonZeroU16,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename = "Endpoint")]
struct WeightedEndpoint {
    /// Where it listens.
    address: Target,
    /// Its share of the requests, against the other endpoints: 1 to 65,535.
    #[serde(default = "one")]
    weight: NonZeroU16,
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
                Ok(Endpoint { address: text.parse().map_err(E::custom)?, weight: one() })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
                let whole = WeightedEndpoint::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Endpoint { address: whole.address, weight: whole.weight })
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

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// One after the other, by weight.
    #[default]
    RoundRobin,
    /// The one of two random endpoints that has fewer requests in flight.
    LeastRequests,
    /// Any, by weight.
    Random,
    /// The same endpoint for the same key, as long as it is healthy.
    Hash(HashKey),
}

/// What decides about the endpoint. A request that lacks it goes anywhere.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// The address of the client.
    ClientIp,
    /// The path of the request.
    Path,
    /// Who is calling.
    Consumer,
    /// The value of this header.
    Header(HeaderName),
    /// The value of this cookie.
    Cookie(String),
}

/// Active health checks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Sends a request; without it the check is whether a connection can be opened.
    pub http: Option<HttpHealth>,
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

fn root() -> crate::route::pattern::Prefix {
    crate::route::pattern::Prefix::root()
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

/// What is tried again on another endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retries {
    /// How often, after the first try; 0 switches retries off.
    #[schemars(range(max = 10))]
    pub attempts: u8,
    /// When. A connection that could not be opened is tried again for every request; the others only for
    /// requests whose method is idempotent ([RFC 9110, 9.2.2](https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2)).
    pub on: Vec<RetryOn>,
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: 1, on: vec![RetryOn::ConnectFailure, RetryOn::Reset] }
    }
}

/// A reason to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// The connection could not be opened.
    ConnectFailure,
    /// The connection broke before the response began.
    Reset,
    /// The endpoint answered 502, 503 or 504.
    GatewayError,
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
