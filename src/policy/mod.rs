//! Policies: everything the gateway does to a request besides routing it.
//!
//! To add one, write `policy/<kind>.rs` (or a folder) and enter it in the table below; the reader, the schema, the
//! dispatch and the names in logs and metrics follow from the table.
//!
//! In the file a policy is an entry of `policies`, for every route or for one: `- cors: { ... }`. With
//! `mode: shadow` beside it, it decides, counts `torana_would_reject_total`, lets the request pass, and the access log says why it
//! would not have (`would_reject`).

#[macro_use]
mod table;

pub mod anonymous;
pub mod any_of;
pub mod api_key;
pub mod authorize;
pub mod bandwidth;
pub mod basic;
mod bearer;
pub mod cache;
mod chain;
pub mod claims;
pub mod client_certificate;
pub mod concurrency;
pub mod cors;
mod defaults;
pub mod deprecation;
mod edit;
pub mod forward_auth;
pub mod groups;
pub mod grpc_web;
pub mod hmac;
pub mod identity_keys;
pub mod identity_token;
pub mod introspection;
pub mod ip_restriction;
pub mod issuer;
pub mod jwt;
pub mod ldap;
pub mod limit_key;
mod login;
#[cfg(test)]
mod mistakes;
pub mod oidc;
mod place;
pub mod quota;
pub mod rate_limit;
pub mod request_headers;
pub mod request_id;
pub mod request_size;
pub mod response_headers;
pub mod scopes;
pub mod template;
#[cfg(test)]
mod tests;
mod turns;
mod verdicts;
pub mod waf;

use std::{
    fmt::{self, Debug},
    future::Future,
    pin::Pin,
};

use bytes::Bytes;
use http::Method;
use pingora::http::{RequestHeader, ResponseHeader};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned},
};

pub use self::chain::Chain;
use crate::{
    config::{Step, check::Check, types::Name},
    proxy::context::Context,
    reject::Reject,
    runtime::Build,
};

policies! {
    request_id => RequestId,
    cors => Cors,
    ip_restriction => IpRestriction,
    request_size => RequestSize,
    waf => Waf,
    api_key => ApiKey,
    basic => Basic,
    ldap => Ldap,
    client_certificate => ClientCertificate,
    jwt => Jwt,
    introspection => Introspection,
    oidc => Oidc,
    hmac => Hmac,
    forward_auth => ForwardAuth,
    any_of => AnyOf,
    anonymous => Anonymous,
    groups => Groups,
    scopes => Scopes,
    claims => Claims,
    authorize => Authorize,
    rate_limit => RateLimit,
    quota => QuotaPolicy,
    concurrency => Concurrency,
    bandwidth => Bandwidth,
    request_headers => RequestHeaders,
    response_headers => ResponseHeaders,
    deprecation => Deprecation,
    identity_token => IdentityToken,
    identity_keys => IdentityKeys,
    grpc_web => GrpcWeb,
    cache => CachePolicy,
}

/// The fixed order in which policies run, whatever their order in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Before anyone is asked who they are: CORS, addresses, sizes.
    Guard,
    /// Who sends the request.
    Authenticate,
    /// Whether they may.
    Authorize,
    /// How much they may send.
    Limit,
    /// What is changed on the way.
    Transform,
    /// Answers that need no upstream.
    Serve,
}

/// What a policy decided about a request that it did not refuse.
#[derive(Debug)]
pub enum Flow {
    /// Go on to the next policy, and in the end to the upstream.
    Continue,
    /// Answer now: a preflight, a redirect.
    Reply(Box<Reply>),
    /// Read the body, and answer then: a form.
    Read(Form),
}

/// A request that the gateway answers itself once it has read its body.
pub struct Form {
    /// A larger body is refused, in bytes.
    pub max: usize,
    /// Makes the answer of the whole body.
    pub then: Box<dyn FnOnce(Bytes) -> Answering + Send>,
}

/// An answer that is being made.
pub type Answering = Pin<Box<dyn Future<Output = Result<Reply, Reject>> + Send>>;

impl Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Form").field("max", &self.max).finish_non_exhaustive()
    }
}

/// An answer of a policy.
#[derive(Debug)]
pub struct Reply {
    /// Status and headers; the length is added.
    pub head: ResponseHeader,
    /// The body; may be empty.
    pub body: Bytes,
}

/// One thing the gateway does to requests and responses.
pub trait Policy: Sized + Debug + Send + Sync + 'static {
    /// When it runs.
    const STAGE: Stage;

    /// Whether it ever refuses a request: only then is there something that `mode: shadow` could count.
    const REFUSES: bool = true;

    /// When this one runs, where that depends on what is configured.
    fn stage(&self) -> Stage {
        Self::STAGE
    }

    /// What may be written in the file under its kind.
    type Config: DeserializeOwned + JsonSchema + Clone + Debug;

    /// Looks for what the types of `config` cannot refuse by themselves.
    fn check(config: &Self::Config, check: &mut Check<'_>) {
        _ = (config, check);
    }

    /// Where credentials are expected: what stands there appears in no log, whatever its name.
    fn secrets(config: &Self::Config, secrets: &mut Secrets) {
        _ = (config, secrets);
    }

    /// The upstreams that it asks itself, by the keys that name them.
    fn upstreams(config: &Self::Config) -> Vec<(Vec<Step>, &Name)> {
        _ = config;
        Vec::new()
    }

    /// The requests that it answers itself, so that a route with it has to take them.
    fn answers(config: &Self::Config) -> Vec<Answered> {
        _ = config;
        Vec::new()
    }

    /// Builds what runs. An error is shown at the policy's place in the file; it must not contain secrets.
    fn compile(config: &Self::Config, build: &mut Build<'_>) -> Result<Self, String>;

    /// Where in a request the credentials are that this policy looks at; empty if it looks at none.
    fn evidence(&self) -> Vec<String> {
        Vec::new()
    }

    /// Looks at a request on its way to the upstream. A policy that waits for something has a timeout.
    fn on_request(
        &self,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> impl Future<Output = Result<Flow, Reject>> + Send {
        _ = (request, ctx);
        async { Ok(Flow::Continue) }
    }

    /// Looks at a response on its way back, the gateway's own refusals included: `on_request` may not have run.
    fn on_response(&self, response: &mut ResponseHeader, ctx: &mut Context) {
        _ = (response, ctx);
    }
}

/// A request that a policy answers itself.
#[derive(Clone, Debug)]
pub struct Answered {
    /// Where the file says that.
    pub way: Vec<Step>,
    /// The host, in its normal form.
    pub host: String,
    /// The method.
    pub method: Method,
    /// The path, in its normal form.
    pub path: String,
}

/// Places in a request that hold credentials.
#[derive(Debug, Default)]
pub struct Secrets {
    /// Headers.
    pub headers: Vec<crate::config::types::HeaderName>,
    /// Query parameters.
    pub arguments: Vec<String>,
}

impl Secrets {
    /// Adds what a policy names.
    fn add(&mut self, header: Option<&crate::config::types::HeaderName>, argument: Option<&String>) {
        self.headers.extend(header.cloned());
        self.arguments.extend(argument.cloned());
    }
}

/// A policy as written in the file, with its mode.
#[derive(Clone, Debug)]
pub struct PolicyConfig {
    /// What the policy takes.
    pub config: AnyConfig,
    /// Whether it acts or only counts.
    pub mode: Mode,
}

/// Whether a policy acts or only counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It refuses what it refuses.
    #[default]
    Enforce,
    /// It counts what it would refuse, and lets it pass.
    Shadow,
}

impl<'de> Deserialize<'de> for PolicyConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;

        impl<'de> de::Visitor<'de> for Entry {
            type Value = PolicyConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a policy, such as `cors: { ... }`")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<PolicyConfig, A::Error> {
                let (mut config, mut mode) = (None::<AnyConfig>, Mode::default());
                while let Some(key) = map.next_key_seed(EntryKey)? {
                    if key == "mode" {
                        mode = map.next_value()?;
                    } else if let Some(first) = &config {
                        return Err(de::Error::custom(format!(
                            "`{}` and `{key}` are two policies: write each as a list item of its own",
                            first.kind()
                        )));
                    } else {
                        config = Some(AnyConfig::read(key, &mut map)?);
                    }
                }
                let config = config.ok_or_else(|| de::Error::custom("the name of a policy is missing"))?;
                Ok(PolicyConfig { config, mode })
            }
        }

        deserializer.deserialize_map(Entry)
    }
}

/// Reads a key of an entry, so that a wrong one is reported where it stands.
struct EntryKey;

impl<'de> de::DeserializeSeed<'de> for EntryKey {
    type Value = &'static str;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<&'static str, D::Error> {
        let key = String::deserialize(deserializer)?;
        let known = ENTRY_KEYS.iter().find(|known| **known == key);
        known.copied().ok_or_else(|| de::Error::unknown_field(&key, ENTRY_KEYS))
    }
}

impl JsonSchema for PolicyConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Policy".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let entries = entry_schemas(generator);
        json_schema!({ "oneOf": entries })
    }
}
