//! `identity_keys`: publishes the public keys of all [`identity_token`](super::identity_token) policies of the file, as a JSON Web Key Set
//! ([RFC 7517](https://www.rfc-editor.org/rfc/rfc7517#section-5)).
//!
//! # Rules
//!
//! - Every GET and HEAD of the route is answered with the set; nothing is asked of the upstream.
//! - Answers may be kept for five minutes.
//!
//! # Example
//!
//! ```yaml
//! routes:
//!   - name: keys
//!     match: { path: /.well-known/jwks.json, methods: [GET] }
//!     public: true
//!     policies: [{ identity_keys: {} }]
//!     upstream: app
//! ```

use bytes::Bytes;
use http::{Method, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{AnyConfig, Flow, Policy, Reply, Stage};
use crate::{
    config::{Config as File, check::Check},
    proxy::context::Context,
    reject::Reject,
    runtime::Build,
};

/// Nothing has to be said.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "IdentityKeys")]
pub struct Config {}

/// Answers with the public keys.
#[derive(Debug)]
pub struct IdentityKeys(Bytes);

impl Policy for IdentityKeys {
    const STAGE: Stage = Stage::Serve;
    const REFUSES: bool = false;
    type Config = Config;

    fn check(_: &Config, check: &mut Check<'_>) {
        if keys(check.config).is_empty() {
            check.warning(&[], "no policy is an `identity_token`, so there are no keys to publish");
        }
    }

    fn compile(_: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        Ok(Self(json!({ "keys": keys(build.config()) }).to_string().into()))
    }

    async fn on_request(&self, request: &mut RequestHeader, _: &mut Context) -> Result<Flow, Reject> {
        if ![Method::GET, Method::HEAD].contains(&request.method) {
            return Ok(Flow::Continue);
        }
        let mut head = ResponseHeader::build(StatusCode::OK, Some(4)).map_err(|_error| Reject::Internal)?;
        for (name, value) in
            [(header::CONTENT_TYPE, "application/jwk-set+json"), (header::CACHE_CONTROL, "public, max-age=300")]
        {
            head.insert_header(name, value).map_err(|_error| Reject::Internal)?;
        }
        Ok(Flow::Reply(Box::new(Reply { head, body: self.0.clone() })))
    }
}

/// The keys of the file, each once. Those that cannot be read are reported where they stand.
fn keys(config: &File) -> Vec<Value> {
    let mut found: Vec<Value> = Vec::new();
    for policy in config.every_policy() {
        if let AnyConfig::IdentityToken(token) = &policy.config
            && let Ok(signer) = token.signer()
            && !found.contains(signer.jwk())
        {
            found.push(signer.jwk().clone());
        }
    }
    found
}
