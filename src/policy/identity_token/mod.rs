//! `identity_token`: tells the upstream who is calling in a token that the gateway signs, so that a service need not trust the network
//! between them.
//!
//! # Rules
//!
//! - The token is a JWT with `iss`, `aud`, `iat`, `exp`, `sub` (the name of the consumer, or `ISSUER|SUBJECT` of a
//!   token of nobody in the file), and, where they are known, `consumer`, `groups`,
//!   `scope`, and `idp` (who issued the client's own token). `claims` adds chosen claims of that token.
//! - It is in the header `x-consumer-token`, or in `header`; a client's own header of that name is removed. Without a caller there is no token.
//! - It is good for `ttl`, and signed anew for each caller after half of that: a signature is not made for each request.
//! - The public keys of all `identity_token` policies of the file are published by the policy [`identity_keys`](super::identity_keys).
//! - A reload with another key signs with it at once. Publish the new key before: give it to an `identity_token` of a route that nobody uses.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - jwt: { issuer: https://idp.example.com, audience: api }
//!   - identity_token: { issuer: https://gateway.example.com, audience: internal, key: "${file:/etc/torana/identity.pem}" }
//! ```
//!
//! `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out identity.pem` makes a key, `openssl genpkey -algorithm ed25519` one for
//! `algorithm: EdDSA`.

pub(super) mod signer;

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

pub use self::signer::Algorithm;
use self::signer::Signer;
use super::{
    AnyConfig, Flow, Policy, Secrets, Stage, claims,
    verdicts::{Verdict, Verdicts},
};
use crate::{
    config::{
        check::Check,
        steps,
        types::{self, Duration, Secret},
    },
    identity::{Claims, Identity, are_confusable, digest, is_reserved},
    proxy::context::Context,
    reject::Reject,
    runtime::Build,
};

/// What the gateway says about a caller, and how it signs that.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "IdentityToken")]
pub struct Config {
    /// Who says so: the `iss` claim.
    pub issuer: String,
    /// To whom: the `aud` claim.
    pub audience: String,
    /// The private key in PEM (PKCS #8); by `${file:PATH}`.
    pub key: Secret,
    /// What the key is for.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// What the key is called; without it, by its thumbprint (RFC 7638).
    pub key_id: Option<String>,
    /// How long a token is good.
    #[serde(default = "default_ttl")]
    pub ttl: Duration,
    /// The header that it is in.
    pub header: Option<types::HeaderName>,
    /// Claims of the client's token that go along.
    #[serde(default)]
    pub claims: Vec<String>,
}

fn default_ttl() -> Duration {
    Duration::from_secs(60)
}

/// Where the token is if the file does not say.
const HEADER: &str = "x-consumer-token";

/// Claims that the gateway itself makes.
const OWN: [&str; 10] = ["iss", "aud", "iat", "nbf", "exp", "sub", "consumer", "groups", "scope", "idp"];

/// Signs who is calling.
#[derive(Debug)]
pub struct IdentityToken {
    signer: Box<Signer>,
    config: Box<Config>,
    header: HeaderName,
    made: Arc<Verdicts<HeaderValue>>,
}

impl Config {
    /// The key that it names.
    pub(super) fn signer(&self) -> Result<Signer, &'static str> {
        Signer::new(self.algorithm, self.key.expose(), self.key_id.as_deref())
    }
}

impl Policy for IdentityToken {
    const STAGE: Stage = Stage::Transform;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        check.needs_authentication();
        if let Err(why) = config.signer() {
            check.error(&steps!["key"], why);
        }
        if !(1..=3600).contains(&config.ttl.0.as_secs()) {
            check.error(&steps!["ttl"], "a token is good for 1s to 1h");
        }
        for (i, name) in config.claims.iter().enumerate().filter(|(_, name)| OWN.contains(&name.as_str())) {
            check.error(&steps!["claims", i], format!("the gateway itself says `{name}`"));
        }
        let header = |config: &Config| config.header.as_ref().map(|name| name.as_str().to_owned());
        let twins = check.company().filter(
            |other| matches!(&other.config, AnyConfig::IdentityToken(other) if header(other) == header(config)),
        );
        if twins.count() > 1 {
            check.error(&[], "another `identity_token` for the same requests writes the same header");
        }
        let means_else = |name: &str| {
            let own = is_reserved(name) && name != HEADER;
            own || matches!(name, "host" | "content-length" | "connection" | "transfer-encoding" | "cookie")
        };
        if config.header.as_ref().is_some_and(|name| means_else(name.as_str())) {
            check.error(&steps!["header"], "this header says something else");
        }
    }

    fn secrets(config: &Config, secrets: &mut Secrets) {
        secrets.add(config.header.as_ref(), None);
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        let key = digest(config.key.expose().as_bytes());
        let state = format!("{}/tokens/{:x?}", build.scope(), digest(format!("{config:?}{key:?}").as_bytes()));
        let header = config.header.as_ref().map(types::HeaderName::to_http);
        Ok(Self {
            signer: Box::new(config.signer()?),
            config: Box::new(config.clone()),
            header: header.unwrap_or(HeaderName::from_static(HEADER)),
            made: build.keep_as(state, Verdicts::new),
        })
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let ours = |name: &&HeaderName| **name == self.header || are_confusable(name.as_str(), self.header.as_str());
        let doomed: Vec<HeaderName> = request.headers.keys().filter(ours).cloned().collect();
        for name in doomed {
            request.remove_header(&name);
        }
        if let Some(identity) = &ctx.identity {
            let token = self.token(identity, ctx.started.unix.as_secs()).ok_or(Reject::Internal)?;
            request.insert_header(self.header.clone(), token).map_err(|_error| Reject::Internal)?;
        }
        Ok(Flow::Continue)
    }
}

impl IdentityToken {
    /// A token for this caller, made at most half its life ago.
    fn token(&self, identity: &Identity, now: u64) -> Option<HeaderValue> {
        let mut claims = self.claims(identity);
        let mark = digest(&serde_json::to_vec(&claims).ok()?);
        if let Some(known) = self.made.find(&mark, 0, now) {
            return Some(known);
        }
        let ttl = self.config.ttl.0.as_secs();
        claims.insert("iat".into(), now.into());
        claims.insert("exp".into(), now.saturating_add(ttl).into());
        let token = HeaderValue::try_from(self.signer.sign(&claims)?).ok()?;
        let valid = (now, now.saturating_add(ttl.div_ceil(2)));
        self.made.insert(mark, Verdict { found: token.clone(), valid, keys: 0 });
        Some(token)
    }

    fn claims(&self, identity: &Identity) -> Claims {
        let mut said = Claims::new();
        let mut say = |name: &str, value: Value| drop(said.insert(name.into(), value));
        say("iss", self.config.issuer.as_str().into());
        say("aud", self.config.audience.as_str().into());
        // A subject of a token may have the name of a consumer: it is told apart by who issued it.
        match (&identity.consumer, &identity.token) {
            (None, Some(token)) => say("sub", format!("{}|{}", token.issuer, token.subject).into()),
            (Some(_), _) | (None, None) => say("sub", identity.name().into()),
        }
        if let Some(consumer) = &identity.consumer {
            say("consumer", (*consumer.name).into());
            say("groups", consumer.groups.iter().map(|group| Value::from(&**group)).collect());
        }
        if let Some(token) = &identity.token {
            say("idp", (*token.issuer).into());
            if !token.scopes.is_empty() {
                say("scope", token.scopes.join(" ").into());
            }
            for name in &self.config.claims {
                if let Some(value) = token.claims.as_deref().and_then(|all| claims::find(all, name)) {
                    say(name, value.clone());
                }
            }
        }
        said
    }
}
