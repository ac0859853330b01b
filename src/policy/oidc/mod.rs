//! `oidc`: lets browsers log in at an issuer ([`OpenID` Connect](https://openid.net/specs/openid-connect-core-1_0.html), authorisation code with
//! PKCE), and keeps the session in an encrypted cookie. Services behind the gateway need no login of their own.
//!
//! # Rules
//!
//! - A browser that opens a page without a session (`GET`, with `text/html` in `Accept`) is sent to the issuer, and comes back to that page. All else
//!   (scripts, other methods, upgrades) is refused with 401; with `unauthenticated: refuse`, pages are too, and `login_path` leads to the login.
//! - `redirect_uri` is where the issuer sends browsers back to. It is fixed: no header of a request changes it. Its path, `login_path`, `logout_path` and
//!   `backchannel_logout_path` are answered by the gateway, on routes that have the policy and match them.
//! - A login is bound to the browser by a cookie of its own, to the request by `state`, to the token by `nonce`, and to the code by PKCE (`S256`). It takes
//!   10 minutes at most, and can be finished once. If the issuer says who it is (RFC 9207), that has to be right.
//! - Pages are returned to on the host of `redirect_uri`, or with `cookie.domain` on hosts below that domain, and nowhere else; also by
//!   `login_path?return_to=...`. A request for another host is refused with 400.
//! - The session is one cookie, or several of 3,800 bytes if it is large (19,000 at most). It is `HttpOnly`, `SameSite=Lax`, and named `__Host-` where
//!   TLS is used. One that is broken, of another key, or over is no session, and nobody is told which. Upstreams do not see it.
//! - The session is over `lifetime` after the login, after `idle_timeout` without a request, and when its tokens have expired and cannot be refreshed. It is refreshed
//!   by the first request that needs it; others wait for that. If the issuer is down then: 503, and the session stays.
//! - Who is calling is what the ID token says: `iss` and `sub` (or `consumer_claim`) lead to a consumer through its `tokens`; `claims` and `authorize` see its claims.
//! - `logout_path` ends the session, gives the refresh token back, and goes on to the issuer's end of session, from where browsers come back to `after_logout`.
//! - `backchannel_logout_path` takes the issuer's logout tokens: the sessions that one names, by `sid` or `sub`, are over at once.
//!
//! # For operators
//!
//! - Register `redirect_uri` at the issuer, the address of `after_logout` for logouts, and that of `backchannel_logout_path`.
//! - To change `session_secret`, put the new one first in a list, and take the old one out after `lifetime`. Gateways with the same secret take each other's sessions,
//!   but know only of logouts that happened at them; a process that takes over knows what its predecessor knew.
//! - The issuer's keys and addresses are fetched in the background as for [`jwt`](super::jwt); while it is down, sessions go on until they have to be refreshed.
//! - `forward: access_token` makes the cookie larger by the token. Without it, the gateway does not keep the token.
//! - In `any_of`, it is the last method, since it sends browsers elsewhere. With `mode: shadow` nobody can log in.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - oidc:
//!       issuer: https://idp.example.com
//!       client_id: web
//!       client_secret: ${file:/etc/torana/oidc.secret}
//!       redirect_uri: https://app.example.com/oauth2/callback
//!       session_secret: ${file:/etc/torana/session.secret}
//!       logout_path: /oauth2/logout
//! ```

mod config;
mod home;
mod jar;
mod login;
mod logout;
mod provider;
mod seal;
mod session;

use std::sync::Arc;

use http::{HeaderValue, Method, header};
use pingora::http::{RequestHeader, ResponseHeader};

pub use self::config::{Config, Cookie, Forward, Keys, Unauthenticated};
use self::{
    home::Home,
    jar::Jar,
    login::set,
    provider::{Issuer, Refused, moment},
    seal::{Purpose, Sealer},
    session::{Ended, Mark, Session},
};
use super::{
    Answered, Flow, Policy, Secrets, Stage,
    issuer::{Credentials, Remote, Source},
    jwt::{Url, keys, token::Rules},
    place::{self, encode},
    turns::Turns,
    verdicts::{Digest, Verdict, Verdicts},
};
use crate::{
    config::check::Check,
    identity::{self, Consumers, Identity, Token},
    proxy::context::Context,
    reject::{Reject, Shown},
    runtime::{Build, State},
};

/// So many sessions are remembered as they were read, times 64.
const REMEMBERED: usize = 64;

/// Lets browsers log in.
#[derive(Debug)]
pub struct Oidc(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    issuer: Issuer,
    home: Home,
    redirect: Url,
    /// The beginning of the request to the issuer.
    question: String,
    scope: Box<str>,
    sealer: Sealer,
    jar: Jar,
    paths: Paths,
    after_logout: Box<str>,
    unauthenticated: Unauthenticated,
    forward: Forward,
    /// Seconds without a request, and since the login.
    times: (u64, u64),
    consumer_claim: Box<str>,
    consumer_required: bool,
    keep_claims: bool,
    consumers: Arc<Consumers>,
    known: Arc<Known>,
    ended: Arc<Ended>,
    challenge: HeaderValue,
}

/// What is answered here.
#[derive(Debug)]
struct Paths {
    login: Option<Box<str>>,
    logout: Option<Box<str>>,
    backchannel: Option<Box<str>>,
}

/// What was found out, for as long as the file says the same about sessions.
#[derive(Debug)]
struct Known {
    /// Sessions by what the browser sends.
    open: Verdicts<Arc<Open>>,
    /// Sessions with fresh tokens, by the refresh token that they came from: other requests may still have that one.
    renewed: Verdicts<Arc<Session>>,
    renewing: Turns,
    /// States of logins that are finished, and names of tokens that ended sessions.
    used: Verdicts<()>,
}

/// Browsers have their sessions; another process reads them again.
impl State for Known {}

/// A session as it was read.
#[derive(Debug)]
struct Open {
    session: Session,
    identity: Arc<Identity>,
    marks: [Digest; 3],
}

impl Policy for Oidc {
    const STAGE: Stage = Stage::Authenticate;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        config::check(config, check);
    }

    fn secrets(_: &Config, secrets: &mut Secrets) {
        for name in ["code", "state"] {
            secrets.add(None, Some(&name.to_owned()));
        }
    }

    fn answers(config: &Config) -> Vec<Answered> {
        config::answers(config)
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        Ok(Self(Arc::new(Inner::compile(config, build)?)))
    }

    fn evidence(&self) -> Vec<String> {
        vec![place::Place::Cookie(self.0.jar.name().into()).evidence()]
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let (inner, path) = (&self.0, request.uri.path());
        let is = |own: &Option<Box<str>>| own.as_deref() == Some(path);
        if path == &*inner.home.callback && *ctx.host == *inner.home.host {
            allow(request, &[Method::GET])?;
            return Box::pin(inner.callback(request, ctx)).await;
        }
        if is(&inner.paths.login) {
            allow(request, &[Method::GET])?;
            return inner.asked(request, ctx);
        }
        if is(&inner.paths.logout) {
            allow(request, &[Method::GET, Method::POST])?;
            return Box::pin(inner.logout(request, ctx)).await;
        }
        if is(&inner.paths.backchannel) {
            allow(request, &[Method::POST])?;
            return Ok(inner.backchannel(ctx));
        }
        let found = inner.session(request, ctx).await?;
        if let Some(open) = found {
            inner.jar.strip(request)?;
            return inner.pass(&open, request, ctx);
        }
        let refused = inner.turned_away(request, ctx);
        inner.jar.strip(request)?;
        refused
    }

    fn on_response(&self, response: &mut ResponseHeader, ctx: &mut Context) {
        let sets = ctx.response_headers.iter().any(|(name, _)| *name == header::SET_COOKIE);
        let is_kept_private = || {
            let said = response.headers.get_all(header::CACHE_CONTROL).iter();
            let is = |value: &HeaderValue, word: &[u8]| memchr::memmem::find(value.as_bytes(), word).is_some();
            said.into_iter().any(|value| is(value, b"no-store") || is(value, b"private"))
        };
        // Whoever is on the way must not give one's cookie to another.
        if sets && !is_kept_private() {
            drop(response.insert_header(header::CACHE_CONTROL, "private, no-cache"));
        }
    }
}

/// The methods that something of the gateway's own has.
fn allow(request: &RequestHeader, methods: &[Method]) -> Result<(), Reject> {
    if methods.contains(&request.method) {
        return Ok(());
    }
    let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    let allow = HeaderValue::try_from(names.join(", ")).map_err(|_error| Reject::Internal)?;
    Err(Reject::MethodNotAllowed { allow })
}

impl Inner {
    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        let claims = build.config().looks_at_claims();
        let source = Source::Issuer(config.issuer.clone());
        let (remote, client) = Remote::shared(&source, config.ca.as_deref(), config.refresh.0, build)?;
        let client_key = format!("{}/oidc/{}", config.issuer.as_str(), config.client_id);
        // What `Debug` hides of it.
        let secrets = config.session_secret.0.iter().flat_map(|secret| secret.expose().bytes()).collect::<Vec<_>>();
        let depends = format!("{config:?}{:x?}{}{claims}", identity::digest(&secrets), build.consumers.fingerprint());
        let known = format!("{client_key}/{:x}", keys::fingerprint(depends.as_bytes()));
        let home = Home::new(&config.redirect_uri, config.cookie.domain.as_deref())?;
        let text = |path: &Option<String>| path.as_deref().map(Into::into);
        let scope = config.scopes.join(" ");
        Ok(Self {
            issuer: Issuer {
                url: config.issuer.clone(),
                client_id: config.client_id.clone(),
                remote,
                client,
                credentials: Credentials::new(&config.client_id, config.client_secret.as_ref(), config.send),
                places: Issuer::places(),
                rules: Rules {
                    issuer: Some(config.issuer.as_str().into()),
                    audience: [config.client_id.clone()].into(),
                    algorithms: config.algorithms.iter().copied().map(keys::to_crate).collect(),
                    consumer_claim: config.consumer_claim.as_str().into(),
                    leeway: config.leeway.0.as_secs(),
                    ..Rules::default()
                },
                refetch: config.refetch.0,
            },
            jar: Jar::new(&config.cookie, &home),
            home,
            redirect: config.redirect_uri.clone(),
            question: question(config, &scope),
            scope: scope.into(),
            sealer: Sealer::new(&config.session_secret.0, &client_key)?,
            paths: Paths {
                login: text(&config.login_path),
                logout: text(&config.logout_path),
                backchannel: text(&config.backchannel_logout_path),
            },
            after_logout: config.after_logout.as_str().into(),
            unauthenticated: config.unauthenticated,
            forward: config.forward,
            times: (config.idle_timeout.0.as_secs().max(1), config.lifetime.0.as_secs().max(1)),
            consumer_claim: config.consumer_claim.as_str().into(),
            consumer_required: config.consumer_required,
            keep_claims: claims,
            consumers: Arc::clone(&build.consumers),
            known: build.keep_as(known, Known::new),
            ended: build.keep_as(client_key, Ended::new),
            challenge: HeaderValue::try_from(format!("Cookie realm=\"{}\"", config.realm.0))
                .map_err(|error| error.to_string())?,
        })
    }

    fn forwards_access_token(&self) -> bool {
        self.forward == Forward::AccessToken
    }

    /// The session of a request, with fresh tokens.
    async fn session(&self, request: &RequestHeader, ctx: &mut Context) -> Result<Option<Arc<Open>>, Reject> {
        let now = ctx.started.unix.as_secs();
        let Some(open) = self.jar.session(request).and_then(|sealed| self.open(&sealed, now)) else { return Ok(None) };
        if self.ended.is_over(&open.marks, open.session.started) {
            return Ok(None);
        }
        if now >= open.session.stale {
            return Box::pin(self.renewed(&open, request, ctx)).await;
        }
        // Not each request sets the cookie again.
        if now.saturating_sub(open.session.seen) > self.times.0 / 10 {
            let session = Session { seen: now, ..open.session.clone() };
            set(ctx, self.sealed(&session, request).unwrap_or_default());
        }
        Ok(Some(open))
    }

    /// Reads what a browser sent.
    fn open(&self, sealed: &[u8], now: u64) -> Option<Arc<Open>> {
        let digest = identity::digest(sealed);
        if let Some(known) = self.known.open.find(&digest, 0, now) {
            return Some(known);
        }
        let plain = self.sealer.open(Purpose::Session, sealed)?;
        let open = Arc::new(self.read(serde_json::from_slice(&plain).ok()?)?);
        let Session { seen, started, .. } = &open.session;
        let until = seen.saturating_add(self.times.0).min(started.saturating_add(self.times.1));
        if now >= until {
            return None;
        }
        self.known.open.insert(digest, Verdict { found: Arc::clone(&open), valid: (0, until), keys: 0 });
        Some(open)
    }

    /// What a session says.
    fn read(&self, session: Session) -> Option<Open> {
        let claims = provider::claims(&session.id_token)?;
        let text = |name: &str| claims.text(name).ok().flatten().unwrap_or_default();
        let (issuer, subject) = (self.issuer.url.as_str(), text("sub"));
        let marks = [Mark::Own(&session.id), Mark::Issuers(text("sid")), Mark::Subject(subject)].map(Mark::digest);
        let consumer = self.consumers.by_token(issuer, text(&self.consumer_claim)).cloned();
        let token = Token {
            issuer: issuer.into(),
            subject: subject.into(),
            scopes: session.scope.split_ascii_whitespace().map(Into::into).collect(),
            claims: None,
        };
        let token = Token { claims: self.keep_claims.then(|| Arc::new(claims.0)), ..token };
        Some(Open { identity: Arc::new(Identity::new(consumer, Some(token), None)), marks, session })
    }

    /// The cookies of a session; `None` if it is too large.
    fn sealed(&self, session: &Session, request: &RequestHeader) -> Option<Vec<HeaderValue>> {
        let sealed = self.sealer.seal(Purpose::Session, &serde_json::to_vec(session).ok()?)?;
        self.jar.put(&sealed, request)
    }

    /// A session whose tokens have expired, with fresh ones; `None` if there are none.
    async fn renewed(
        &self,
        open: &Open,
        request: &RequestHeader,
        ctx: &mut Context,
    ) -> Result<Option<Arc<Open>>, Reject> {
        let Some(refresh_token) = &open.session.refresh_token else { return Ok(None) };
        let digest = identity::digest(refresh_token.as_bytes());
        let now = ctx.started.unix.as_secs();
        let place = self.known.renewing.queue(digest);
        let _turn = place.wait().await;
        let session = match self.known.renewed.find(&digest, 0, now) {
            Some(session) => session,
            None => match self.issuer.refresh(refresh_token).await {
                Ok(tokens) => {
                    let session = Arc::new(self.next(open, tokens, ctx).await?);
                    let valid = (0, session.stale.max(now.saturating_add(1)));
                    self.known.renewed.insert(digest, Verdict { found: Arc::clone(&session), valid, keys: 0 });
                    session
                }
                Err(Refused::Grant) => return Ok(None),
                Err(Refused::Failed(why)) => return Err(Reject::AuthUnavailable(why)),
            },
        };
        let cookies = self.sealed(&session, request);
        set(ctx, cookies.ok_or(Reject::AuthUnavailable("the issuer's tokens are too large for a session"))?);
        Ok(self.read((*session).clone()).map(Arc::new))
    }

    /// The session with the tokens that it was refreshed with: of the same user at the same issuer
    /// ([`OpenID` Connect Core, 12.2](https://openid.net/specs/openid-connect-core-1_0.html#RefreshTokenResponse)).
    async fn next(&self, open: &Open, tokens: provider::Tokens, ctx: &Context) -> Result<Session, Reject> {
        if let Some(token) = &tokens.id_token {
            let fresh = self.issuer.verify(token, moment(ctx)).await.map_err(|why| self.wrong(why))?.claims;
            let old = provider::claims(&open.session.id_token).unwrap_or_default().0;
            let nonce = fresh.get("nonce");
            if fresh.get("sub") != old.get("sub") || nonce.is_some() && nonce != old.get("nonce") {
                return Err(self.wrong("the issuer refreshed the session of one user with the tokens of another"));
            }
        }
        Ok(self.with(open.session.clone(), tokens, ctx.started.unix.as_secs()))
    }

    /// Lets a request pass that has a session.
    fn pass(&self, open: &Open, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let token = match self.forward {
            Forward::None => None,
            Forward::AccessToken => open.session.access_token.as_deref(),
            Forward::IdToken => Some(open.session.id_token.as_str()),
        };
        ctx.authenticated(&open.identity, &self.challenge)?;
        if self.consumer_required && open.identity.consumer.is_none() {
            return Err(Reject::Forbidden("the user belongs to no consumer"));
        }
        if let Some(token) = token {
            let value = format!("Bearer {token}");
            request.insert_header(header::AUTHORIZATION, value).map_err(|_error| Reject::Internal)?;
        }
        Ok(Flow::Continue)
    }

    /// What becomes of a request without a session.
    fn turned_away(&self, request: &RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        if self.unauthenticated == Unauthenticated::Refuse || !login::opens_a_page(request, ctx) {
            let (challenge, reason) = (self.challenge.clone(), "the request has no session");
            return Err(Reject::Unauthenticated { challenge, shown: Shown::Nothing, reason });
        }
        let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
        let page = self.home.page(&ctx.host, target);
        self.begin(page.ok_or(Reject::BadRequest("the Host is none that logins return to"))?, request, ctx)
    }

    /// Somebody wants to log in.
    fn asked(&self, request: &RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let query = request.uri.query().unwrap_or_default();
        let mut wanted = query.split('&').filter_map(|pair| pair.strip_prefix("return_to="));
        let to = match (wanted.next(), wanted.next()) {
            (None, _) => self.home.page(&ctx.host, "/"),
            (Some(only), None) => login::text(only).and_then(|to| self.home.wanted(&ctx.host, &to)),
            (Some(_), Some(_)) => None,
        };
        self.begin(to.ok_or(Reject::BadRequest("this is no page that logins return to"))?, request, ctx)
    }
}

impl Known {
    fn new() -> Self {
        Self {
            open: Verdicts::of_size(REMEMBERED),
            renewed: Verdicts::of_size(REMEMBERED),
            renewing: Turns::default(),
            used: Verdicts::new(),
        }
    }
}

/// The parameters that are the same for every login.
fn question(config: &Config, scope: &str) -> String {
    let own = [
        ("response_type", "code"),
        ("client_id", &config.client_id),
        ("redirect_uri", config.redirect_uri.as_str()),
        ("scope", scope),
    ];
    let more = config.parameters.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let all = own.into_iter().chain(more);
    let pairs = all.map(|(key, value)| format!("{}={}", encode(key.as_bytes()), encode(value.as_bytes())));
    pairs.collect::<Vec<_>>().join("&")
}
