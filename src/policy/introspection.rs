//! `introspection`: who is calling, by a token that its issuer is asked about
//! ([RFC 7662](https://www.rfc-editor.org/rfc/rfc7662)). For tokens that only the issuer can read, or that may be revoked.
//!
//! # Rules
//!
//! - The token is where [`jwt`](super::jwt) looks for it. The gateway asks `path` of `upstream`, and shows its own `client_id` and
//!   `client_secret`: in `Authorization: Basic`, or with `send: body` in the form.
//! - A token is accepted if the answer has status 200 and says `active: true`; `exp` and `nbf` hold if they are there, `iss` is
//!   `issuer` and `aud` contains one of `audience` if those are given. Everything else is 401.
//! - An active token is believed for `remember` (a minute), and never beyond its `exp`; one that is not for `remember_inactive`
//!   (ten seconds). So a token that is revoked is refused at most `remember` later; `remember: 0s` asks every time.
//! - Each answer is remembered by the digest of its token; the good ones and the others apart, at most 65,536 of either, so that made-up tokens
//!   push out none that was good.
//! - Requests with the same token ask once. At most 256 tokens are asked about at a time, and no request waits for longer than `timeout`.
//! - An answer without `iss` counts as one of `issuer`; one without `aud` is refused where an `audience` is given: it could be for anybody.
//! - An issuer that cannot be asked: 503; tokens that are remembered go on. A token of more than 16 KiB is not asked about.
//! - `scopes`, consumers and headers for the upstream are as with `jwt`.
//!
//! # Example
//!
//! ```yaml
//! upstreams:
//!   idp: { endpoints: [idp.example.com:443], tls: {} }
//! policies:
//!   - introspection:
//!       upstream: idp
//!       path: /oauth2/introspect
//!       client_id: gateway
//!       client_secret: "${file:/run/credentials/torana.service/introspection}"
//!       issuer: https://idp.example.com
//!       audience: orders
//! ```

use std::{sync::Arc, time::Duration as Time};

use bytes::Bytes;
use http::header;
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{
    Flow, Policy, Secrets, Stage,
    bearer::{Challenges, Source},
    issuer::{Credentials, Send},
    jwt::{
        Caller, Realm, default_consumer_claim, default_realm,
        token::{Claims, Rules},
    },
    place, scopes,
    turns::Turns,
    verdicts::{Digest, Verdict, Verdicts},
};
use crate::{
    config::{
        Step,
        check::Check,
        steps,
        types::{Duration, HeaderName, Name, OneOrMore, Secret},
    },
    identity::{self, Consumers},
    proxy::context::Context,
    reject::{Reject, Shown},
    runtime::{
        Build, State,
        ask::{Asker, Bounds},
    },
};

/// A larger token is not asked about.
const MAX_TOKEN: usize = 16 << 10;

/// A larger answer is not read.
const MAX_ANSWER: usize = 64 << 10;

/// So many tokens are asked about at a time.
const MAX_ASKING: usize = 256;

/// Whom to ask about tokens, and what they have to say.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Introspection")]
pub struct Config {
    /// The upstream that is asked.
    pub upstream: Name,
    /// The path of its introspection endpoint.
    pub path: String,
    /// The `Host` of the question; without it, the name of the upstream.
    pub host: Option<crate::config::route::HostValue>,
    /// As whom the gateway asks.
    pub client_id: String,
    /// What it proves that with.
    pub client_secret: Secret,
    /// Where it says that.
    #[serde(default)]
    pub send: Send,
    /// A header with the token, instead of `Authorization: Bearer`.
    pub header: Option<HeaderName>,
    /// A query parameter that may have it as well.
    pub query: Option<String>,
    /// A cookie that may have it as well.
    pub cookie: Option<String>,
    /// What the answer's `iss` has to be; also which issuer `tokens` of consumers name, where the answer names none.
    pub issuer: Option<String>,
    /// What the answer's `aud` has to contain.
    #[serde(default)]
    pub audience: OneOrMore<String>,
    /// The scopes that a token has to have, all of them.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The claim that says which consumer it is, among `tokens` of `consumers`.
    #[serde(default = "default_consumer_claim")]
    pub consumer_claim: String,
    /// How long an active token is believed without another question.
    #[serde(default = "crate::policy::defaults::remember")]
    pub remember: Duration,
    /// How long one that is not active.
    #[serde(default = "default_remember_inactive")]
    pub remember_inactive: Duration,
    /// How long a question may take.
    #[serde(default = "crate::policy::defaults::timeout")]
    pub timeout: Duration,
    /// What challenges call the place that is guarded.
    #[serde(default = "default_realm")]
    pub realm: Realm,
    /// Whether the upstream of the route gets to see the token.
    #[serde(default)]
    pub forward: bool,
}

fn default_remember_inactive() -> Duration {
    Duration::from_secs(10)
}

/// Finds the caller by asking about a token.
#[derive(Debug)]
pub struct Introspection {
    source: Source,
    asker: Asker,
    question: Box<RequestHeader>,
    /// What follows the token in the form.
    credentials: String,
    rules: Rules,
    remember: (u64, u64),
    /// How long a request waits.
    limit: Time,
    forward: bool,
    keep_claims: bool,
    consumers: Arc<Consumers>,
    known: Arc<Known>,
    challenges: Challenges,
}

/// Who a token belongs to, and the seconds since 1970 in which that holds: from, and before.
type Active = (Caller, (u64, u64));

/// What the issuer says.
enum Answered {
    Active(Caller),
    Inactive,
}

/// What was found out, for as long as the file says the same about tokens.
#[derive(Debug)]
struct Known {
    active: Verdicts<Caller>,
    inactive: Verdicts<()>,
    /// Those who ask about the same token.
    turns: Turns,
    places: Semaphore,
}

/// Another process asks again.
impl State for Known {}

impl Policy for Introspection {
    const STAGE: Stage = Stage::Authenticate;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        let names = [("query", config.query.as_deref()), ("cookie", config.cookie.as_deref())];
        place::check(config.header.as_ref(), names, check);
        scopes::check_names(&steps!["scopes"], &config.scopes, check);
        check.is_path(&steps!["path"], &config.path);
        if config.remember.0 > Time::from_hours(1) {
            check.error(&steps!["remember"], "a token may be revoked at any time: it is believed for an hour at most");
        }
        check.takes_time(&steps!["timeout"], config.timeout);
        let upstream = check.config.upstreams.get(&config.upstream);
        if upstream.is_some_and(|upstream| upstream.tls.is_none() && !upstream.is_local()) {
            check.warning(
                &steps!["upstream"],
                "without TLS, tokens and the secret can be read on the way, and answers be made up",
            );
        }
    }

    fn secrets(config: &Config, secrets: &mut Secrets) {
        secrets.add(config.header.as_ref(), config.query.as_ref());
    }

    fn upstreams(config: &Config) -> Vec<(Vec<Step>, &Name)> {
        vec![(steps!["upstream"].to_vec(), &config.upstream)]
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        let claims = build.config().looks_at_claims();
        let secret = identity::digest(config.client_secret.expose().as_bytes());
        let asked = build.config().upstreams.get(&config.upstream);
        let depends = format!("{config:?}{secret:?}{asked:?}{}{claims}", build.consumers.fingerprint());
        let known = format!("{}/introspection/{:x?}", build.scope(), identity::digest(depends.as_bytes()));
        let (question, credentials) = question(config).map_err(|error| error.to_string())?;
        Ok(Self {
            source: Source::new(config.header.as_ref(), config.query.as_deref(), config.cookie.as_deref()),
            asker: build.asker(&config.upstream, Bounds { time: config.timeout.0, size: MAX_ANSWER })?,
            question: Box::new(question),
            credentials,
            rules: Rules {
                issuer: config.issuer.as_deref().map(Into::into),
                audience: config.audience.0.clone().into(),
                scopes: config.scopes.clone().into(),
                consumer_claim: config.consumer_claim.as_str().into(),
                max_age: Some(config.remember.0.as_secs().max(1)),
                ..Rules::default()
            },
            limit: config.timeout.0,
            remember: (config.remember.0.as_secs(), config.remember_inactive.0.as_secs()),
            forward: config.forward,
            keep_claims: claims,
            consumers: Arc::clone(&build.consumers),
            known: build.keep_as(known, Known::new),
            challenges: Challenges::new(&config.realm.0, &config.scopes)?,
        })
    }

    fn evidence(&self) -> Vec<String> {
        self.source.evidence()
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let refuse = |shown, why| self.challenges.refuse(shown, why);
        let token = self.source.token(request).map_err(|why| refuse(Shown::Wrong, why))?;
        let token = token.ok_or_else(|| refuse(Shown::Nothing, "the request has no token"))?;
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(refuse(Shown::Wrong, "the token is too large, or empty"));
        }
        let Answered::Active((identity, granted)) = self.find_out(&token, ctx).await? else {
            return Err(refuse(Shown::Wrong, "the token is not active"));
        };
        if !self.forward {
            self.source.remove(request)?;
        }
        ctx.authenticated(&identity, &self.challenges.invalid)?;
        if !granted {
            return Err(Reject::InsufficientScope { challenge: self.challenges.insufficient.clone() });
        }
        Ok(Flow::Continue)
    }
}

impl Introspection {
    async fn find_out(&self, token: &str, ctx: &Context) -> Result<Answered, Reject> {
        let (digest, now) = (identity::digest(token.as_bytes()), ctx.started.unix.as_secs());
        if let Some(known) = self.known.find(&digest, now) {
            return Ok(known);
        }
        // Nobody waits for longer than one question may take, whoever asked before.
        let left = ctx.deadline.map(|deadline| Time::from_nanos(deadline.saturating_sub(ctx.started.monotonic)));
        let limit = left.map_or(self.limit, |left| left.min(self.limit));
        let found = tokio::time::timeout(limit, self.ask_in_turn(token, &digest, ctx)).await;
        found.unwrap_or(Err(Reject::AuthUnavailable("the issuer did not answer in time")))
    }

    async fn ask_in_turn(&self, token: &str, digest: &Digest, ctx: &Context) -> Result<Answered, Reject> {
        if self.remember.0 == 0 {
            // The answer is for this request alone.
            return self.ask(token, digest, ctx).await;
        }
        // Dropped in the other order: the place in the queue after the turn.
        let place = self.known.turns.queue(*digest);
        let _turn = place.wait().await;
        match self.known.find(digest, ctx.started.unix.as_secs()) {
            Some(known) => Ok(known),
            None => self.ask(token, digest, ctx).await,
        }
    }

    async fn ask(&self, token: &str, digest: &Digest, ctx: &Context) -> Result<Answered, Reject> {
        let Ok(_place) = self.known.places.try_acquire() else {
            return Err(Reject::AuthUnavailable("too many tokens are being asked about"));
        };
        let form = format!("token={}{}", place::encode(token.as_bytes()), self.credentials);
        let asking = self.asker.ask(ctx, (*self.question).clone(), form.into());
        let answer = asking.await.map_err(|failure| Reject::AuthUnavailable(failure.reason()))?;
        if answer.head.status != http::StatusCode::OK {
            return Err(Reject::AuthUnavailable("the issuer does not answer the question: its status is not 200"));
        }
        let now = ctx.started.unix.as_secs();
        let found = self.read(&answer.body, now)?;
        match &found {
            Some((caller, valid)) if self.remember.0 > 0 => {
                let verdict = Verdict { found: caller.clone(), valid: *valid, keys: 0 };
                self.known.active.insert(*digest, verdict);
            }
            None if self.remember.1 > 0 => {
                let valid = (0, now.saturating_add(self.remember.1));
                self.known.inactive.insert(*digest, Verdict { found: (), valid, keys: 0 });
            }
            Some(_) | None => {}
        }
        Ok(found.map_or(Answered::Inactive, |(caller, _)| Answered::Active(caller)))
    }

    /// What an answer says, and how long that holds.
    fn read(&self, body: &Bytes, now: u64) -> Result<Option<Active>, Reject> {
        const WRONG: Reject = Reject::AuthUnavailable("the issuer does not answer the question: this is no answer");
        let mut claims: Claims = serde_json::from_slice(body).map_err(|_error| WRONG)?;
        let active = claims.0.remove("active").and_then(|active| active.as_bool()).ok_or(WRONG)?;
        if !active {
            return Ok(None);
        }
        // A client that asked on its own account is its own subject (RFC 9068, 2.2), and not nobody.
        if !claims.0.contains_key("sub")
            && let Some(client) = claims.0.get("client_id").cloned()
        {
            claims.0.insert("sub".into(), client);
        }
        // Many answers do not name the issuer, who is known.
        if let Some(issuer) = self.rules.issuer.as_deref().filter(|_| !claims.0.contains_key("iss")) {
            claims.0.insert("iss".into(), issuer.into());
        }
        if self.rules.issuer.is_some() && claims.text("iss").ok().flatten() != self.rules.issuer.as_deref() {
            return Ok(None);
        }
        let Ok(verified) = claims.check(&self.rules, now) else {
            return Ok(None);
        };
        let (granted, valid) = (verified.granted, verified.valid);
        let identity = Arc::new(verified.identity(&self.consumers, self.keep_claims));
        Ok(Some(((identity, granted), valid)))
    }
}

impl Known {
    fn new() -> Self {
        Self {
            active: Verdicts::new(),
            inactive: Verdicts::new(),
            turns: Turns::default(),
            places: Semaphore::new(MAX_ASKING),
        }
    }

    fn find(&self, token: &Digest, now: u64) -> Option<Answered> {
        let active = self.active.find(token, 0, now).map(Answered::Active);
        active.or_else(|| self.inactive.find(token, 0, now).map(|()| Answered::Inactive))
    }
}

/// The header of a question, and what follows the token in its form.
fn question(config: &Config) -> pingora::Result<(RequestHeader, String)> {
    let mut head = RequestHeader::build("POST", config.path.as_bytes(), Some(8))?;
    head.insert_header(header::HOST, config.host.as_ref().map_or(config.upstream.as_str(), |host| &host.0))?;
    head.insert_header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")?;
    head.insert_header(header::ACCEPT, "application/json")?;
    head.insert_header(header::USER_AGENT, "torana")?;
    let credentials = Credentials::new(&config.client_id, Some(&config.client_secret), config.send);
    if let Some(authorization) = credentials.authorization {
        head.insert_header(header::AUTHORIZATION, authorization)?;
    }
    let form = format!("&token_type_hint=access_token{}", credentials.form);
    Ok((head, form))
}
