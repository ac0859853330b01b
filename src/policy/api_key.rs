//! `api_key`: who is calling, by a key.
//!
//! # Rules
//!
//! - The key is in a header (`x-api-key` if nothing is said), a query parameter, or a cookie: those that are named are looked at.
//! - Keys belong to `consumers`. They are kept and looked up as SHA-256 digests, and may be given so: `sha256:...`.
//! - No key, an unknown key, or two keys in one request: 401 with `WWW-Authenticate: ApiKey`. Two keys are refused even
//!   if both are right: which of them the upstream would take, nobody knows.
//! - The upstream does not see the key, only `X-Consumer-Id` and `X-Consumer-Groups`; `forward: true` lets it through.
//! - With another policy that authenticates, both have to find the same consumer.
//!
//! # For operators
//!
//! - A key in the query ends up in the logs and histories of clients, and of every proxy before the gateway. Prefer the
//!   header.
//! - Write keys as `${file:PATH}`, `${env:NAME}`, or as their digest: `printf %s KEY | sha256sum | cut -c1-64`. Make them long and random: they are compared, not slowed down.
//! - To change a key without an interruption, give the consumer both for a while: `api_keys` is a list.
//!
//! # Example
//!
//! ```yaml
//! consumers:
//!   mobile_app: { groups: [gold], api_keys: ["${file:/run/credentials/torana.service/mobile_app}"] }
//! routes:
//!   - name: orders
//!     policies:
//!       - api_key: { header: x-api-key }
//!     upstream: orders
//! ```

use std::sync::Arc;

use http::HeaderValue;
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Flow, Policy, Secrets, Stage,
    place::{self, Found, Place},
};
use crate::{
    config::{check::Check, types::HeaderName},
    identity::Consumers,
    proxy::context::Context,
    reject::{Reject, Shown},
    runtime::Build,
};

/// Where the key may be. Without any of the three it is in the header `x-api-key`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ApiKey")]
pub struct Config {
    /// A header with the key.
    pub header: Option<HeaderName>,
    /// A query parameter with the key.
    pub query: Option<String>,
    /// A cookie with the key.
    pub cookie: Option<String>,
    /// Whether the upstream gets to see the key.
    pub forward: bool,
}

/// Finds the consumer by a key.
#[derive(Debug)]
pub struct ApiKey {
    places: Box<[Place]>,
    forward: bool,
    consumers: Arc<Consumers>,
    challenge: HeaderValue,
}

impl Policy for ApiKey {
    const STAGE: Stage = Stage::Authenticate;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        let names = [("query", config.query.as_deref()), ("cookie", config.cookie.as_deref())];
        place::check(config.header.as_ref(), names, check);
        if check.config.consumers.values().all(|one| one.api_keys.is_empty()) {
            check.warning(&[], "no consumer has `api_keys`, so every request is refused");
        }
    }

    fn secrets(config: &Config, secrets: &mut Secrets) {
        secrets.add(config.header.as_ref(), config.query.as_ref());
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        let mut places = Place::all(config.header.as_ref(), config.query.as_deref(), config.cookie.as_deref());
        if places.is_empty() {
            places.push(Place::Header(http::HeaderName::from_static("x-api-key")));
        }
        let named = places.iter().map(|place| {
            let (kind, name) = place.parts();
            format!("{kind}=\"{name}\"")
        });
        let challenge = format!("ApiKey {}", named.collect::<Vec<_>>().join(", "));
        Ok(Self {
            challenge: HeaderValue::try_from(challenge).map_err(|error| error.to_string())?,
            places: places.into(),
            forward: config.forward,
            consumers: Arc::clone(&build.consumers),
        })
    }

    fn evidence(&self) -> Vec<String> {
        self.places.iter().map(Place::evidence).collect()
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let identity = match place::find(&self.places, request) {
            Found::Nothing => return Err(self.refuse(Shown::Nothing, "the request has no API key")),
            Found::Several => return Err(self.refuse(Shown::Wrong, "the request has more than one API key")),
            Found::One(key) => self.consumers.by_api_key(&key),
        };
        let identity = identity.ok_or_else(|| self.refuse(Shown::Wrong, "the API key is not valid"))?;
        if !self.forward {
            for place in &self.places {
                place.remove(request)?;
            }
        }
        ctx.authenticated(identity, &self.challenge)?;
        Ok(Flow::Continue)
    }
}

impl ApiKey {
    fn refuse(&self, shown: Shown, reason: &'static str) -> Reject {
        Reject::Unauthenticated { challenge: self.challenge.clone(), shown, reason }
    }
}
