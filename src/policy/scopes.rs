//! `scopes`: what a token has to be good for.
//!
//! # Rules
//!
//! - `all`: the token has each of these scopes. `any`: at least one of them. They come from the claim `scope` or `scp`.
//! - A caller without a token has no scope. Who lacks one: 403 with `error="insufficient_scope"`
//!   ([RFC 6750, 3](https://www.rfc-editor.org/rfc/rfc6750#section-3)).
//! - It needs a policy that accepts tokens: `jwt`.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - jwt: { issuer: https://idp.example.com, audience: api }
//!   - scopes: { any: [orders.read, orders.write] }
//! ```

use http::HeaderValue;
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Flow, Policy, Stage};
use crate::{
    config::{check::Check, steps},
    proxy::context::Context,
    reject::Reject,
    runtime::Build,
};

/// Scopes that a token has to have.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Scopes")]
pub struct Config {
    /// Each of these.
    pub all: Vec<String>,
    /// At least one of these.
    pub any: Vec<String>,
}

/// Lets only tokens with certain scopes pass.
#[derive(Debug)]
pub struct Scopes {
    config: Config,
    challenge: HeaderValue,
}

impl Policy for Scopes {
    const STAGE: Stage = Stage::Authorize;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        if config.all.is_empty() && config.any.is_empty() {
            check.error(&[], "which scopes? Write `all` or `any`");
        }
        check.needs_tokens();
        for (key, scopes) in [("all", &config.all), ("any", &config.any)] {
            check_names(&steps![key], scopes, check);
        }
    }

    fn compile(config: &Config, _: &mut Build<'_>) -> Result<Self, String> {
        let all: Vec<&str> = config.all.iter().chain(&config.any).map(String::as_str).collect();
        Ok(Self { challenge: insufficient(super::jwt::REALM, &all)?, config: config.clone() })
    }

    async fn on_request(&self, _: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let token = ctx.identity.as_ref().and_then(|identity| identity.token.as_ref());
        let has = |scope: &String| token.is_some_and(|token| token.scopes.contains(scope));
        let Config { all, any } = &self.config;
        if all.iter().all(has) && (any.is_empty() || any.iter().any(has)) {
            return Ok(Flow::Continue);
        }
        Err(Reject::InsufficientScope { challenge: self.challenge.clone() })
    }
}

/// The answer to a token without scopes that are asked for.
pub(super) fn insufficient(realm: &str, scopes: &[&str]) -> Result<HeaderValue, String> {
    let scopes = scopes.join(" ");
    let text = format!("Bearer realm=\"{realm}\", error=\"insufficient_scope\", scope=\"{scopes}\"");
    HeaderValue::try_from(text).map_err(|error| error.to_string())
}

/// Reports what is no name of a scope ([RFC 6749, 3.3](https://www.rfc-editor.org/rfc/rfc6749#section-3.3)).
pub(super) fn check_names(way: &[crate::config::Step], scopes: &[String], check: &mut Check<'_>) {
    let fits = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    for (i, scope) in scopes.iter().enumerate() {
        if scope.is_empty() || !scope.bytes().all(fits) {
            let message = "a scope consists of visible ASCII characters without `\"` and `\\`";
            check.error(&[way, &steps![i]].concat(), message);
        }
    }
}
