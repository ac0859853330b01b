//! `jwt`: who is calling, by a signed token ([RFC 7519](https://www.rfc-editor.org/rfc/rfc7519)).
//!
//! # Rules
//!
//! - The token is in `Authorization: Bearer`, and there is one `Authorization` header, not two.
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
//! - No token: 401 with `WWW-Authenticate: Bearer`. A token that is not accepted, or is larger than 16 KiB: 401 with
//!   `Bearer error="invalid_token"` ([RFC 6750, 3](https://www.rfc-editor.org/rfc/rfc6750#section-3)). No keys yet: 503.
//! - `iss` and `sub` lead to a consumer through its `tokens`. A token of nobody in the file is accepted too: it is a
//!   caller of its own in limits and logs. The upstream sees `X-Consumer-Subject`, `-Issuer`, `-Scopes`.
//!
//! # For operators
//!
//! - A key set by URL is fetched in the background, every `refresh`; never by a request. A `kid` that is not in the set
//!   leads to another fetch, at most one in `refetch`, and the request waits for it for up to 2 s. So a new key works at
//!   once, and made-up ones cost nothing.
//! - If fetching fails, the keys that there are stay, for as long as it takes; a warning is logged, and the next try comes
//!   after 1 s, 2 s, up to 60 s. To end trust in an issuer that cannot be reached, change the configuration.
//! - A fetch takes at most 5 s and 1 MiB, and follows no redirect. `HTTPS_PROXY` is honoured.
//! - A `jwks_file` is read when the configuration is loaded; reload after it changes.
//! - A valid token is remembered by its digest until it expires or the keys change, so a token costs one signature and
//!   not one for each request. There is no way to revoke one before it expires: let them be short.
//! - The token is passed on; `forward: false` takes it away.
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
mod keys;
mod remote;
mod token;
mod verdicts;

use std::{path::Path, sync::Arc};

use http::{HeaderValue, header::AUTHORIZATION};
use pingora::http::RequestHeader;

pub use self::config::{Algorithm, Audience, Config, Key, Url};
use self::{
    keys::KeySet,
    remote::{Fetcher, Remote, Source},
    token::{Refusal, Rules, Verified},
    verdicts::{Digest, Verdict, Verdicts},
};
use super::{Flow, Policy, Stage};
use crate::{
    config::check::Check,
    identity::{Consumers, Identity, Token},
    proxy::context::Context,
    reject::Reject,
    runtime::{Build, Task},
};

/// Finds the caller by a signed token.
#[derive(Debug)]
pub struct Jwt {
    keys: Keys,
    rules: Rules,
    forward: bool,
    consumers: Arc<Consumers>,
    verdicts: Arc<Verdicts>,
    /// The answer to a token without the scopes that are asked for.
    insufficient: HeaderValue,
}

#[derive(Debug)]
enum Keys {
    Fixed(Arc<KeySet>),
    Fetched { remote: Arc<Remote>, refetch: std::time::Duration },
}

const NO_TOKEN: HeaderValue = HeaderValue::from_static("Bearer");
const INVALID: HeaderValue = HeaderValue::from_static("Bearer error=\"invalid_token\"");

impl Policy for Jwt {
    const STAGE: Stage = Stage::Authenticate;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        config::check(config, check);
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        let scopes = config.scopes.join(" ");
        let insufficient = format!("Bearer error=\"insufficient_scope\", scope=\"{scopes}\"");
        // What a token is worth depends on all of this; what `Debug` hides of it is in the fingerprint of the keys.
        let depends = format!("{config:?}{:?}", build.config().consumers);
        let verdicts = format!("{}/verdicts/{:x}", build.scope(), keys::fingerprint(depends.as_bytes()));
        Ok(Self {
            keys: Keys::compile(config, build)?,
            rules: Rules {
                issuer: config.issuer.as_deref().map(Into::into),
                audience: config.audience.0.clone().into(),
                scopes: config.scopes.clone().into(),
                leeway: config.leeway.0.as_secs(),
            },
            forward: config.forward,
            consumers: Arc::clone(&build.consumers),
            verdicts: build.keep_as(verdicts, Verdicts::new),
            insufficient: HeaderValue::try_from(insufficient).map_err(|error| error.to_string())?,
        })
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let (identity, granted) = match bearer(request)? {
            Some(token) => self.identify(token, ctx).await?,
            None => return Err(refuse(NO_TOKEN, "the request has no token")),
        };
        if !self.forward {
            request.remove_header(&AUTHORIZATION);
        }
        ctx.authenticated(&identity, &INVALID)?;
        if !granted {
            return Err(Reject::InsufficientScope { challenge: self.insufficient.clone() });
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
            (Some(url), _) => Source::Jwks(url.clone()),
            (None, Some(issuer)) => Source::Issuer(issuer.parse()?),
            (None, None) => return Err("there are no keys".into()),
        };
        Self::fetched(&source, config, build)
    }

    /// Policies that name the same source share the keys and the work.
    fn fetched(source: &Source, config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        let ca = config.ca.as_deref().map(read).transpose()?;
        let fetcher = Fetcher::new(source.clone(), ca.as_deref())?;
        let key = format!("jwks:{source:?}/{:x}", keys::fingerprint(&ca.unwrap_or_default()));
        let remote = build.keep_as(key.clone(), Remote::new);
        let (work, clock, refresh) = (Arc::clone(&remote), build.clock.clone(), config.refresh.0);
        build
            .background(Task::new(format!("{key}/{refresh:?}"), move |ready| work.run(fetcher, refresh, clock, ready)));
        Ok(Self::Fetched { remote, refetch: config.refetch.0 })
    }
}

impl Jwt {
    /// Who a token belongs to, and whether it has the scopes that are asked for.
    async fn identify(&self, token: &str, ctx: &Context) -> Result<(Arc<Identity>, bool), Reject> {
        let (digest, now) = (verdicts::digest(token.as_bytes()), ctx.started.unix.as_secs());
        let verdict = match &self.keys {
            Keys::Fixed(keys) => self.judge(token, &digest, keys, now),
            Keys::Fetched { remote, refetch } => {
                let keys = remote.keys();
                let (first, seen) = (self.judge(token, &digest, &keys, now), keys.fingerprint);
                // What guards the keys must not be held while waiting.
                drop(keys);
                let monotonic = ctx.started.monotonic;
                if matches!(first, Err(Refusal::UnknownKey)) && remote.refetched(seen, monotonic, *refetch).await {
                    self.judge(token, &digest, &remote.keys(), now)
                } else {
                    first
                }
            }
        };
        verdict.map_err(|refusal| self.explain(refusal))
    }

    fn judge(&self, token: &str, digest: &Digest, keys: &KeySet, now: u64) -> Result<(Arc<Identity>, bool), Refusal> {
        if let Some(known) = self.verdicts.find(digest, keys.fingerprint, now) {
            return Ok(known);
        }
        let verified = token::verify(token, keys, &self.rules, now)?;
        let verdict = Verdict {
            granted: verified.granted,
            valid: verified.valid,
            keys: keys.fingerprint,
            identity: Arc::new(self.identity(verified)),
        };
        let found = (Arc::clone(&verdict.identity), verdict.granted);
        self.verdicts.insert(*digest, verdict);
        Ok(found)
    }

    fn identity(&self, token: Verified) -> Identity {
        let consumer = self.consumers.by_token(&token.issuer, &token.subject);
        let token = Token { issuer: token.issuer.into(), subject: token.subject.into(), scopes: token.scopes.into() };
        Identity::new(consumer.cloned(), Some(token), None)
    }

    /// Clients learn whether a new token would help, and nothing that helps in making one up.
    fn explain(&self, refusal: Refusal) -> Reject {
        let no_keys = match &self.keys {
            Keys::Fixed(keys) => keys.is_empty(),
            Keys::Fetched { remote, .. } => remote.keys().is_empty(),
        };
        match refusal {
            Refusal::UnknownKey if no_keys => Reject::KeysUnavailable,
            Refusal::Expired => refuse(INVALID, "the token has expired"),
            Refusal::TooLarge
            | Refusal::Malformed
            | Refusal::UnknownKey
            | Refusal::Signature
            | Refusal::Claims
            | Refusal::NotYet
            | Refusal::Issuer
            | Refusal::Audience => Reject::Unauthenticated {
                challenge: INVALID,
                detail: "the token is not valid",
                reason: refusal.reason(),
            },
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn refuse(challenge: HeaderValue, detail: &'static str) -> Reject {
    Reject::Unauthenticated { challenge, detail, reason: detail }
}

/// The token of a request. Credentials of another kind are none for this policy.
fn bearer(request: &RequestHeader) -> Result<Option<&str>, Reject> {
    let mut sent = request.headers.get_all(AUTHORIZATION).iter();
    let Some(only) = sent.next() else {
        return Ok(None);
    };
    if sent.next().is_some() {
        return Err(refuse(INVALID, "the request has more than one `Authorization`"));
    }
    let Some((scheme, token)) = only.to_str().ok().and_then(|text| text.split_once(' ')) else {
        return Ok(None);
    };
    Ok(scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' ')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(values: &[&str]) -> Result<Option<String>, Reject> {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for value in values {
            request.append_header("Authorization", *value).unwrap();
        }
        bearer(&request).map(|token| token.map(Into::into))
    }

    #[test]
    fn a_token_is_found_where_it_belongs() {
        assert_eq!(sent(&[]), Ok(None));
        assert_eq!(sent(&["Basic YTpi"]), Ok(None));
        assert_eq!(sent(&["Bearer"]), Ok(None));
        assert_eq!(sent(&["bearer  a.b.c "]), Ok(Some("a.b.c".into())));
    }

    #[test]
    fn without_keys_tokens_cannot_be_checked() {
        let policy = Jwt {
            keys: Keys::Fetched { remote: Arc::new(Remote::new()), refetch: std::time::Duration::MAX },
            rules: Rules::default(),
            forward: true,
            consumers: Arc::default(),
            verdicts: Arc::new(Verdicts::new()),
            insufficient: INVALID,
        };
        assert_eq!(policy.explain(Refusal::UnknownKey), Reject::KeysUnavailable);
        assert_eq!(policy.explain(Refusal::Malformed).status(), 401);
    }

    #[test]
    fn two_authorizations_are_never_the_first() {
        let refused = sent(&["Bearer a.b.c", "Bearer a.b.c"]).unwrap_err();
        assert_eq!(refused.status(), 401);
        assert!(sent(&["Basic YTpi", "Bearer a.b.c"]).is_err());
    }
}
