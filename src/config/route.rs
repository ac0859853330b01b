//! `routes`: which requests go where, and under which policies.

use std::{collections::BTreeMap, fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, de};

use super::{
    hygiene::Hygiene,
    release::{Mirror, Split},
    types::{Duration, HeaderName, Method, Name, text_type},
    web_socket::WebSocket,
};
use crate::{policy::PolicyConfig, route::pattern};

/// Matcher, policies, and where the request goes.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The name in logs and metrics; unique.
    pub name: Name,
    /// Which requests the route takes; without it, all of them.
    #[serde(default, rename = "match")]
    pub matcher: Match,
    /// What is done to its requests and responses, besides the policies for every route. They run by stage, not in this order.
    #[serde(default)]
    pub policies: Vec<PolicyConfig>,
    /// Whether it is for everyone: of the policies for every route, those that find out who is calling and whether they may do not run. `check` warns
    /// of a route on which nobody finds out who is calling, and that does not say so.
    #[serde(default)]
    pub public: bool,
    /// The upstream that answers. Exactly one of `upstream`, `split` and `redirect` is given.
    pub upstream: Option<Name>,
    /// Several upstreams that share its requests: versions of a service.
    pub split: Option<Split>,
    /// Answers with a redirect instead of asking an upstream.
    pub redirect: Option<Redirect>,
    /// Also sends copies of its requests to another upstream, whose answers nobody sees.
    pub mirror: Option<Mirror>,
    /// Changes the path on its way to the upstream.
    pub rewrite: Option<Rewrite>,
    /// The `Host` that the upstream sees.
    #[serde(default)]
    pub host: Host,
    /// How long the whole exchange may take, body included; without it, only the timeouts of the upstream count.
    pub timeout: Option<Duration>,
    /// Which requests go on where an upstream is asked for more than it may be (`circuit_breaker`, `adaptive_concurrency`).
    #[serde(default)]
    pub priority: Priority,
    /// What the route lets through although servers read it differently.
    #[serde(default)]
    pub hygiene: Hygiene,
    /// What its WebSockets are held to.
    #[serde(default)]
    pub web_socket: WebSocket,
}

impl Route {
    /// The upstreams that answer its requests.
    pub fn upstreams(&self) -> impl Iterator<Item = &Name> {
        let versions = self.split.iter().flat_map(|split| split.to.iter().map(|version| &version.upstream));
        self.upstream.iter().chain(versions)
    }
}

/// Which requests a route takes. Everything given has to fit.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// Host names: `api.example.com`, or `*.example.com` for every name below. None: any host.
    #[serde(default)]
    pub hosts: Vec<HostPattern>,
    /// The path. None: any path.
    pub path: Option<PathMatch>,
    /// Methods; `GET` includes `HEAD`. None: any method.
    #[serde(default)]
    pub methods: Vec<Method>,
    /// Headers with the value that they must have.
    #[serde(default)]
    pub headers: BTreeMap<HeaderName, ValueMatch>,
    /// The media type that the body has, or that the client asks for by name in `Accept`.
    pub media_type: Option<MediaType>,
    /// Query parameters with the value that they must have.
    #[serde(default)]
    pub query: BTreeMap<String, ValueMatch>,
}

/// A media type, with the parameters that matter: `application/vnd.orders.v2+json`, `application/json; version=2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaType {
    /// Type and subtype, in lower case.
    pub essence: String,
    /// Names in lower case, with their values.
    pub parameters: Vec<(String, String)>,
}

impl FromStr for MediaType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = "expected a media type, such as `application/vnd.orders.v2+json`";
        let mut parts = text.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
        let is_token = |part: &str| part.parse::<http::HeaderName>().is_ok();
        if !essence.split_once('/').is_some_and(|(one, other)| is_token(one) && is_token(other)) {
            return Err(wrong.into());
        }
        let parameter = |part: &str| {
            let (name, value) = part.split_once('=')?;
            Some((name.trim().to_ascii_lowercase(), value.trim().trim_matches('"').to_owned()))
        };
        let parameters: Option<Vec<_>> = parts.filter(|part| !part.is_empty()).map(parameter).collect();
        Ok(Self { essence, parameters: parameters.ok_or(wrong)? })
    }
}
text_type!(MediaType, "a media type, such as `application/vnd.orders.v2+json`", "^[^/ ]+/[^/ ]+$");

/// How a path is matched.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub enum PathMatch {
    /// `/v1/orders` alone, or a template: `{id}` takes one segment, `{rest...}` at the end takes what is left.
    Plain(pattern::Template),
    /// One of the other kinds.
    Kind(PathKind),
}

/// The kinds of path matching that are not a plain text.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// The path itself and everything below it: `/static` takes `/static` and `/static/a`, not `/statics`.
    Prefix(pattern::Prefix),
    /// A regular expression for the whole path ([syntax](https://docs.rs/regex)).
    Regex(pattern::PathRegex),
}

/// How the value of a header or query parameter is matched.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub enum ValueMatch {
    /// Exactly this value.
    Exact(String),
    /// One of the other kinds.
    Kind(ValueKind),
}

/// Reads a text as one thing and a mapping as another, with errors that say what is wrong with the one that it is.
macro_rules! text_or_kind {
    ($name:ident, $expecting:literal, $text:expr, $kind:ident) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Either;

                impl<'de> de::Visitor<'de> for Either {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        let read: fn(&str) -> Result<$name, String> = $text;
                        read(text).map_err(E::custom)
                    }

                    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<$name, A::Error> {
                        $kind::deserialize(de::value::MapAccessDeserializer::new(map)).map($name::Kind)
                    }
                }

                deserializer.deserialize_any(Either)
            }
        }
    };
}
text_or_kind!(
    PathMatch,
    "a path, `{ prefix: /path }` or `{ regex: expression }`",
    |text| text.parse().map(PathMatch::Plain),
    PathKind
);
text_or_kind!(
    ValueMatch,
    "a value in quotes, `{ present: true }` or `{ regex: expression }`",
    |text| Ok(ValueMatch::Exact(text.to_owned())),
    ValueKind
);

/// The kinds of value matching that are not a plain text.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValueKind {
    /// Whether it is there at all.
    Present(bool),
    /// A regular expression for the whole value.
    Regex(pattern::PathRegex),
}

/// `api.example.com` or `*.example.com`, without port, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern {
    /// The name without `*.`.
    pub name: String,
    /// Whether every name below `name` is meant, and not `name` itself.
    pub wildcard: bool,
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.wildcard { "*." } else { "" };
        write!(f, "{star}{}", self.name)
    }
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let v6 = name.starts_with('[') && name.ends_with(']') && !wildcard;
        let labels = name.split('.').all(|label| !label.is_empty() && label.len() <= 63);
        if name.len() > 253 || !(v6 || labels && name.chars().all(fits)) {
            return Err(
                "expected a host name such as `api.example.com` or `*.example.com`, without scheme and port".into()
            );
        }
        Ok(Self { name: name.to_ascii_lowercase(), wildcard })
    }
}
text_type!(
    HostPattern,
    "a host name such as `api.example.com` or `*.example.com`",
    "^(\\*\\.)?[A-Za-z0-9._\\[\\]:-]+$"
);

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// Where to: `https://{host}{path}{query}`, `/v2/orders/{path.id}`. The placeholders are those of header values.
    pub to: crate::policy::template::Template,
    /// 301, 302, 303, 307 or 308.
    #[serde(default)]
    pub status: RedirectStatus,
}

/// The status of a redirect; 308 keeps the method and may be cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedirectStatus {
    /// 301
    MovedPermanently,
    /// 302
    Found,
    /// 303
    SeeOther,
    /// 307
    TemporaryRedirect,
    /// 308
    #[default]
    PermanentRedirect,
}

impl RedirectStatus {
    /// The status code.
    pub const fn code(self) -> http::StatusCode {
        match self {
            Self::MovedPermanently => http::StatusCode::MOVED_PERMANENTLY,
            Self::Found => http::StatusCode::FOUND,
            Self::SeeOther => http::StatusCode::SEE_OTHER,
            Self::TemporaryRedirect => http::StatusCode::TEMPORARY_REDIRECT,
            Self::PermanentRedirect => http::StatusCode::PERMANENT_REDIRECT,
        }
    }
}

impl<'de> Deserialize<'de> for RedirectStatus {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match u16::deserialize(deserializer)? {
            301 => Self::MovedPermanently,
            302 => Self::Found,
            303 => Self::SeeOther,
            307 => Self::TemporaryRedirect,
            308 => Self::PermanentRedirect,
            _ => {
                return Err(de::Error::custom("a redirect has status 301, 302, 303, 307 or 308"));
            }
        })
    }
}

impl JsonSchema for RedirectStatus {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RedirectStatus".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "enum": [301, 302, 303, 307, 308] })
    }
}

/// How the path changes on its way to the upstream.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rewrite {
    /// Takes this prefix away: `/api` makes `/api/orders` into `/orders`.
    StripPrefix(pattern::Prefix),
    /// Puts another prefix in place of one.
    ReplacePrefix(ReplacePrefix),
    /// A whole new path, with the parameters of the route's template: `/orders/{id}`.
    Path(pattern::Template),
}

/// Puts another prefix in place of one.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplacePrefix {
    /// What the path starts with.
    pub from: pattern::Prefix,
    /// What it starts with afterwards.
    pub to: pattern::Prefix,
}

/// The `Host` that the upstream sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Host {
    /// The one that the client sent.
    #[default]
    Keep,
    /// This one.
    Set(HostValue),
}

/// A `Host` header: a name with an optional port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostValue(pub String);

impl FromStr for HostValue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let authority: http::uri::Authority =
            text.parse().map_err(|_error| "expected a host name with an optional port")?;
        if text.contains('@') || authority.host().is_empty() {
            return Err("expected a host name with an optional port".into());
        }
        Ok(Self(text.to_owned()))
    }
}
text_type!(HostValue, "a host name with an optional port", "^[^/@\\s]+$");

/// Which requests go on where not all can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// As long as there is any room; and those that wait before all others.
    High,
    /// As long as there is any room.
    #[default]
    Normal,
    /// As long as a fifth of the room is left.
    Low,
}
