//! `api_key`: who is calling, by a key.
//!
//! # Rules
//!
//! - The key is in one place: a header (`x-api-key` if nothing is said), a query parameter, or a cookie.
//! - Keys belong to `consumers`. They are kept and looked up as SHA-256 digests.
//! - No key, an unknown key, or two keys in one request: 401 with `WWW-Authenticate: ApiKey`. Two keys are refused even
//!   if one is right: which of them the upstream would take, nobody knows.
//! - The upstream does not see the key, only `X-Consumer-Id` and `X-Consumer-Groups`; `forward: true` lets it through.
//! - With another policy that authenticates, both have to find the same consumer.
//!
//! # For operators
//!
//! - A key in the query ends up in the logs and histories of clients, and of every proxy before the gateway. Prefer the
//!   header.
//! - Write keys as `${file:PATH}` or `${env:NAME}`. Make them long and random: they are compared, not slowed down.
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

mod place;

use std::sync::Arc;

use http::HeaderValue;
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use self::place::{Found, Place};
use super::{Flow, Policy, Stage};
use crate::{
    config::{check::Check, steps, types::HeaderName},
    identity::{Consumers, is_reserved},
    proxy::context::Context,
    reject::Reject,
    runtime::Build,
};

/// Where the key is. Without any of the three it is in the header `x-api-key`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ApiKey")]
pub struct Config {
    /// The header with the key.
    pub header: Option<HeaderName>,
    /// The query parameter with the key.
    pub query: Option<String>,
    /// The cookie with the key.
    pub cookie: Option<String>,
    /// Whether the upstream gets to see the key.
    pub forward: bool,
}

/// Finds the consumer by a key.
#[derive(Debug)]
pub struct ApiKey {
    place: Place,
    forward: bool,
    consumers: Arc<Consumers>,
    challenge: HeaderValue,
}

impl Policy for ApiKey {
    const STAGE: Stage = Stage::Authenticate;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        let given = [
            ("header", config.header.is_some()),
            ("query", config.query.is_some()),
            ("cookie", config.cookie.is_some()),
        ];
        let mut given = given.iter().filter(|(_, given)| *given);
        if let (Some((first, _)), Some((second, _))) = (given.next(), given.next()) {
            check.error(&steps![*second], format!("the key is in one place: either `{first}` or `{second}`"));
        }
        if config.header.as_ref().is_some_and(|name| is_reserved(name.as_str())) {
            check.error(
                &steps!["header"],
                "only the gateway sets `x-consumer-*`: a client's is removed before it is read",
            );
        }
        for (key, name) in [("query", &config.query), ("cookie", &config.cookie)] {
            if name.as_deref().is_some_and(|name| !is_token(name)) {
                check.error(&steps![key], "a name consists of letters, digits, `_`, `-` and `.`");
            }
        }
        if check.config.consumers.values().all(|one| one.api_keys.is_empty()) {
            check.warning(&[], "no consumer has `api_keys`, so every request is refused");
        }
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        let place = match (&config.query, &config.cookie, &config.header) {
            (Some(name), _, _) => Place::Query(name.as_str().into()),
            (None, Some(name), _) => Place::Cookie(name.as_str().into()),
            (None, None, Some(name)) => Place::Header(name.to_http()),
            (None, None, None) => Place::Header(http::HeaderName::from_static("x-api-key")),
        };
        Ok(Self {
            challenge: HeaderValue::try_from(place.challenge()).unwrap_or(HeaderValue::from_static("ApiKey")),
            place,
            forward: config.forward,
            consumers: Arc::clone(&build.consumers),
        })
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let identity = match self.place.find(request) {
            Found::Nothing => return Err(self.refuse("the request has no API key")),
            Found::Several => return Err(self.refuse("the request has more than one API key")),
            Found::One(key) => self.consumers.by_api_key(&key),
        };
        let identity = identity.ok_or_else(|| self.refuse("the API key is not valid"))?;
        if !self.forward {
            self.place.remove(request)?;
        }
        ctx.authenticated(identity, &self.challenge)?;
        Ok(Flow::Continue)
    }
}

impl ApiKey {
    fn refuse(&self, detail: &'static str) -> Reject {
        Reject::Unauthenticated { challenge: self.challenge.clone(), detail, reason: detail }
    }
}

fn is_token(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    !name.is_empty() && name.bytes().all(fits)
}
