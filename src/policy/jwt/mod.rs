//! `jwt`: who is calling, by a signed token ([RFC 7519](https://www.rfc-editor.org/rfc/rfc7519)).
//!
//! # Rules
//!
//! - The token is in `Authorization: Bearer`, or in another `header`; a `query` parameter or a `cookie` may have it as well, if
//!   they are named. A request with more than one token is refused, also if they are the same.
//! - Keys come from `jwks_url`, `jwks_file` or `keys`; without any of them, from where the discovery document of the
//!   `issuer` says. Each key is for one algorithm: the one that it names, or else the usual one for its kind (`RS256`,
//!   `ES256`, `ES384`, `EdDSA`, `HS256`). A token signed in another way is refused, also one that is not signed at all.
//! - Not loaded: RSA keys of fewer than 2,048 bits, shared secrets shorter than the hash, keys for encryption, and shared
//!   secrets in a set that was fetched.
//! - A token that names a key (`kid`) is checked with that key, or else with keys that have no id. A token that names
//!   none is checked with the keys of its algorithm, at most eight. Keys that a token brings along (`jwk`, `jku`, `x5u`,
//!   `x5c`) are not looked at.
//! - `exp` has to be there and in the future, `nbf` not in the future, both in whole seconds and give or take `leeway`.
//!   `iss` is `issuer`, byte for byte; `aud` contains one of `audience`. Claims that stand twice are refused.
//! - All of `scopes` have to be in the claim `scope` or `scp`; otherwise 403 with `error="insufficient_scope"`.
//! - `algorithms`, `types` (the `typ` of its header) and `authorized_parties` (`azp` or `client_id`) narrow down what is accepted.
//! - No token: 401 with `WWW-Authenticate: Bearer`. A token that is not accepted, or is larger than 16 KiB: 401 with
//!   `error="invalid_token"` ([RFC 6750, 3](https://www.rfc-editor.org/rfc/rfc6750#section-3)), and the cause in the log. No keys yet: 503.
//! - `iss` and `sub` (or another `consumer_claim`) lead to a consumer through its `tokens`. A token of nobody in the file is accepted
//!   too, unless `consumer_required`: it is a caller of its own in limits and logs. The upstream sees `X-Consumer-Subject`, `-Issuer`,
//!   `-Scopes`.
//! - Several issuers are several `jwt` in an [`any_of`](super::any_of).
//!
//! # For operators
//!
//! - A key set by URL is fetched in the background, every `refresh`; never by a request. A `kid` that is not in the set
//!   leads to another fetch, at most one in `refetch`, and the request waits for it for up to 2 s. So a new key works at
//!   once, and made-up ones cost nothing.
//! - If fetching fails, the keys that there are stay, for as long as it takes; a warning is logged, and the next try comes
//!   after 1 s, 2 s, up to 60 s. To end trust in an issuer that cannot be reached, change the configuration.
//! - `torana_key_set_fetched_timestamp_seconds` says when each was fetched, `torana_key_set_fetches_total` how that went.
//! - A fetch takes at most 5 s and 1 MiB, and follows no redirect. `HTTPS_PROXY` is honoured.
//! - A `jwks_file` is read when the configuration is loaded; reload after it changes.
//! - A valid token is remembered by its digest until it expires or the keys change, so a token costs one signature and
//!   not one for each request. There is no way to revoke one before it expires: let them be short.
//! - The upstream does not see the token, and so cannot lose it; `forward: true` passes it on.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - jwt: { issuer: https://idp.example.com, audience: orders, scopes: [orders.read] }
//!   - jwt: { issuer: https://idp.example.com, audience: [api], jwks_url: https://idp.example.com/jwks }
//!   - jwt:
//!       audience: api
//!       keys:
//!         - { id: "2026", algorithm: RS256, public_key: "${file:/etc/torana/idp.pem}" }
//! ```

mod config;
pub(super) mod keys;
pub(super) mod token;

use std::{path::Path, sync::Arc};

use pingora::http::RequestHeader;

pub(super) use self::config::is_local;
pub use self::config::{Algorithm, Config, Key, REALM, Realm, Url};
pub(crate) use self::config::{default_consumer_claim, default_realm};
use self::{
    keys::KeySet,
    token::{Refusal, Rules},
};
use super::{
    Flow, Policy, Secrets, Stage,
    bearer::{Challenges, Source},
    issuer::{self, Remote},
    verdicts::{Digest, Verdict, Verdicts},
};
use crate::{
    config::check::Check,
    identity::{self, Consumers, Identity},
    proxy::context::Context,
    reject::{Reject, Shown},
    runtime::Build,
};

/// Finds the caller by a signed token.
#[derive(Debug)]
pub struct Jwt {
    keys: Keys,
    rules: Rules,
    source: Source,
    forward: bool,
    consumers: Arc<Consumers>,
    consumer_required: bool,
    /// Whether some policy looks at claims.
    keep_claims: bool,
    verdicts: Arc<Verdicts<Caller>>,
    challenges: Challenges,
}

/// Who a token belongs to, and whether it has all scopes that are asked for.
pub(super) type Caller = (Arc<Identity>, bool);

#[derive(Debug)]
enum Keys {
    Fixed(Arc<KeySet>),
    Fetched { remote: Arc<Remote>, refetch: std::time::Duration },
}

impl Policy for Jwt {
    const STAGE: Stage = Stage::Authenticate;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        config::check(config, check);
    }

    fn secrets(config: &Config, secrets: &mut Secrets) {
        secrets.add(config.header.as_ref(), config.query.as_ref());
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        // What a token is worth depends on all of this; what `Debug` hides of it is in the fingerprint of the keys.
        let depends = format!("{config:?}{}{}", build.consumers.fingerprint(), build.config().looks_at_claims());
        let verdicts = format!("{}/verdicts/{:x}", build.scope(), keys::fingerprint(depends.as_bytes()));
        Ok(Self {
            keys: Keys::compile(config, build)?,
            rules: config.rules(),
            source: Source::new(config.header.as_ref(), config.query.as_deref(), config.cookie.as_deref()),
            forward: config.forward,
            consumers: Arc::clone(&build.consumers),
            consumer_required: config.consumer_required,
            keep_claims: build.config().looks_at_claims(),
            verdicts: build.keep_as(verdicts, Verdicts::new),
            challenges: Challenges::new(&config.realm.0, &config.scopes)?,
        })
    }

    fn evidence(&self) -> Vec<String> {
        self.source.evidence()
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let (identity, granted) = match self.source.token(request).map_err(|why| self.refuse(Shown::Wrong, why))? {
            Some(token) => self.identify(&token, ctx).await?,
            None => return Err(self.refuse(Shown::Nothing, "the request has no token")),
        };
        if !self.forward {
            self.source.remove(request)?;
        }
        ctx.authenticated(&identity, &self.challenges.invalid)?;
        if self.consumer_required && identity.consumer.is_none() {
            return Err(self.refuse(Shown::Wrong, "the token belongs to no consumer"));
        }
        if !granted {
            return Err(Reject::InsufficientScope { challenge: self.challenges.insufficient.clone() });
        }
        Ok(Flow::Continue)
    }
}

impl Keys {
    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        if !config.keys.is_empty() {
            let keys = KeySet::from_config(&config.keys)?;
            return Ok(Self::Fixed(Arc::new(keys)));
        }
        if let Some(path) = &config.jwks_file {
            let set = KeySet::from_jwks(&read(path)?, true);
            let keys = set.map_err(|why| format!("{}: {why}", path.display()))?;
            return Ok(Self::Fixed(Arc::new(keys)));
        }
        let source = match (&config.jwks_url, &config.issuer) {
            (Some(url), _) => issuer::Source::Jwks(url.clone()),
            (None, Some(issuer)) => issuer::Source::Issuer(issuer.parse()?),
            (None, None) => return Err("there are no keys".into()),
        };
        let (remote, _) = Remote::shared(&source, config.ca.as_deref(), config.refresh.0, build)?;
        Ok(Self::Fetched { remote, refetch: config.refetch.0 })
    }
}

impl Jwt {
    fn refuse(&self, shown: Shown, reason: &'static str) -> Reject {
        self.challenges.refuse(shown, reason)
    }

    /// Who a token belongs to, and whether it has the scopes that are asked for.
    async fn identify(&self, token: &str, ctx: &Context) -> Result<Caller, Reject> {
        let (digest, now) = (identity::digest(token.as_bytes()), ctx.started.unix.as_secs());
        let verdict = match &self.keys {
            Keys::Fixed(keys) => self.judge(token, &digest, keys, now),
            Keys::Fetched { remote, refetch } => {
                let judge = |keys: &KeySet| self.judge(token, &digest, keys, now);
                remote.judge(ctx.started.monotonic, *refetch, judge).await
            }
        };
        verdict.map_err(|refusal| self.explain(refusal))
    }

    fn judge(&self, token: &str, digest: &Digest, keys: &KeySet, now: u64) -> Result<Caller, Refusal> {
        if let Some(known) = self.verdicts.find(digest, keys.fingerprint, now) {
            return Ok(known);
        }
        let verified = token::verify(token, keys, &self.rules, now)?;
        let (granted, valid) = (verified.granted, verified.valid);
        let found = (Arc::new(verified.identity(&self.consumers, self.keep_claims)), granted);
        self.verdicts.insert(*digest, Verdict { found: found.clone(), valid, keys: keys.fingerprint });
        Ok(found)
    }

    /// Clients learn nothing that helps in making one up.
    fn explain(&self, refusal: Refusal) -> Reject {
        let no_keys = match &self.keys {
            Keys::Fixed(keys) => keys.is_empty(),
            Keys::Fetched { remote, .. } => remote.keys().is_empty(),
        };
        match refusal {
            Refusal::UnknownKey if no_keys => Reject::KeysUnavailable,
            Refusal::Opaque | Refusal::Issuer => self.refuse(Shown::Foreign, refusal.reason()),
            Refusal::TooLarge
            | Refusal::Malformed
            | Refusal::Algorithm
            | Refusal::Type
            | Refusal::Party
            | Refusal::UnknownKey
            | Refusal::Signature
            | Refusal::Claims
            | Refusal::Expired
            | Refusal::NotYet
            | Refusal::Audience => self.refuse(Shown::Wrong, refusal.reason()),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_keys_tokens_cannot_be_checked() {
        let source = issuer::Source::Jwks("https://idp.example.com/jwks".parse().unwrap());
        let policy = Jwt {
            keys: Keys::Fetched { remote: Arc::new(Remote::new(source)), refetch: std::time::Duration::MAX },
            rules: Rules::default(),
            source: Source::new(None, None, None),
            forward: true,
            consumers: Arc::default(),
            consumer_required: false,
            keep_claims: false,
            verdicts: Arc::new(Verdicts::new()),
            challenges: Challenges::new(REALM, &[]).unwrap(),
        };
        assert_eq!(policy.explain(Refusal::UnknownKey), Reject::KeysUnavailable);
        assert_eq!(policy.explain(Refusal::Malformed).status(), 401);
    }
}
