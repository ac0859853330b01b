//! `oidc`: lets browsers log in at an issuer ([`OpenID` Connect](https://openid.net/specs/openid-connect-core-1_0.html), authorisation code with
//! PKCE), and keeps the session in an encrypted cookie. Services behind the gateway need no login of their own.
//!
//! # Rules
//!
//! - A browser that opens a page without a session (`GET`, with `text/html` in `Accept`) is sent to the issuer, and comes back to that page. All else
//!   (scripts, other methods, upgrades) is refused with 401; with `unauthenticated: refuse`, pages are too, and `login_path` leads to the login. Pages with an
//!   address of more than 2,048 bytes are not returned to, but `/`.
//! - `redirect_uri` is where the issuer sends browsers back to. It is fixed: no header of a request changes it. Its path, `login_path`, `logout_path` and
//!   `backchannel_logout_path` are answered by the gateway, on routes that have the policy and match them.
//! - A login is bound to the browser by a cookie of its own, to the request by `state`, to the token by `nonce`, and to the code by PKCE (`S256`). It takes
//!   10 minutes at most, and can be finished once; the code comes in the query, never in a form (`form_post`). If the issuer says who it is (RFC 9207), that has to be right. A browser may have six under way.
//! - Pages are returned to on the host of `redirect_uri`, or with `cookie.domain` on hosts below that domain (with the same port), and nowhere else; also by
//!   `login_path?return_to=...`. A page of another host is refused with 400.
//! - The session is one cookie, or several of 3,800 bytes if it is large (19,000 at most). It is `HttpOnly`, `SameSite=Lax`, named `__Host-` where
//!   TLS is used, and ends with the browser. One that is broken, of another key, or over is no session, and clients are not told which: the access log is.
//!   Upstreams do not see it, on no route.
//! - The session is over `lifetime` after the login, after `idle_timeout` without a request, or when the issuer says so. With a refresh token, that is asked whenever the
//!   access token has expired, by the first request that comes then; others wait for that. If the issuer is down: 503, and the session stays.
//! - With `forward`, the upstream gets the token in `Authorization`, and never what a client put there. Where there is no such token, or it has expired and
//!   there is no refresh token, the browser logs in again.
//! - A session of one route counts on others with the same issuer and client, if its login asked for all `scopes` and `parameters` that they ask for.
//! - Who is calling is what the ID token says: `iss` and `sub` (or `consumer_claim`) lead to a consumer through its `tokens`; `claims` and `authorize` see its claims.
//!   Userinfo is not asked: let the issuer put into the ID token what is needed.
//! - `logout_path` ends the session, gives the refresh token back, and goes on to the issuer's end of session, from where browsers come back to `after_logout`. A link
//!   on a page of another site, and browsers that look ahead, log nobody out.
//! - `backchannel_logout_path` takes the issuer's logout tokens: the sessions that one names, by `sid` or `sub`, are over at once.
//!
//! # For operators
//!
//! - Register `redirect_uri` at the issuer, the address of `after_logout` for logouts, and that of `backchannel_logout_path`. Many issuers give a refresh token only for the
//!   scope `offline_access`.
//! - Where the issuer has no end of session, `after_logout` should be a page without login: otherwise the browser is logged in again at once.
//! - To change `session_secret`, put the new one first in a list, and take the old one out after `lifetime`. Gateways with the same secret take each other's sessions,
//!   but know only of logouts and refreshes that happened at them: where an issuer takes back a refresh token that comes twice, let one browser stay with one gateway. A
//!   process that takes over knows what its predecessor knew of logouts.
//! - The issuer's keys and addresses are fetched in the background as for [`jwt`](super::jwt); while it is down, sessions go on until they have to be refreshed.
//! - `torana_sessions_total` counts logins, refreshes and logouts; the access log says why a session does not count (`reason`), also beside a redirect.
//! - `forward: access_token` makes the cookie larger by the token. Without it, the gateway does not keep the token.
//! - In `any_of`, it stands behind all but `anonymous`: it sends browsers elsewhere. For guests who may log in, write `any_of: [{ oidc: { unauthenticated: refuse, login_path: ... } },
//!   { anonymous: guest }]`. With `mode: shadow` nobody can log in.
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
mod refresh;
mod seal;
mod session;
mod shared;

use std::sync::{Arc, atomic::AtomicU64};

use http::{HeaderValue, Method, header};
use pingora::http::RequestHeader;

pub use self::{
    config::{Config, Cookie, Forward, Unauthenticated},
    jar::Jar,
};
use self::{
    home::Home,
    login::set,
    provider::{Issuer, Places},
    seal::{Purpose, Sealer},
    session::{Marks, Open, Session},
    shared::Shared,
};
use super::{
    Answered, AnyConfig, Flow, Mode, Policy, PolicyConfig, Secrets, Stage,
    issuer::{Client, Credentials, Remote, Source},
    jwt::{Url, keys, token::Rules},
    place::{self, encode},
    verdicts::{Verdict, Verdicts},
};
use crate::{
    config::check::Check,
    identity::{self, Consumers, Identity, Token},
    proxy::context::Context,
    reject::{Reject, Shown},
    runtime::{Build, State},
    telemetry::login_metrics::Logins,
};

/// So many sessions are remembered as they were read, times 64.
const REMEMBERED: usize = 64;

const ELSEWHERE: &str =
    "the Host is none that logins return to: neither that of `redirect_uri`, nor one below `cookie.domain`";

const TOO_LARGE: &str = "the issuer's tokens are too large for a session: let it put less into them, or forward none";

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
    /// What it asks for.
    asked: Box<[String]>,
    scope: Box<str>,
    sealer: Sealer,
    jar: Arc<Jar>,
    paths: Paths,
    after_logout: Box<str>,
    unauthenticated: Unauthenticated,
    forward: Forward,
    /// Whether some policy of this client passes on the access token.
    keeps_access_token: bool,
    /// Seconds without a request, and since the login.
    times: (u64, u64),
    /// The longest lifetime of sessions of this client.
    longest: u64,
    consumer_claim: Box<str>,
    consumer_required: bool,
    keep_claims: bool,
    consumers: Arc<Consumers>,
    /// Sessions by what the browser sends.
    known: Arc<Known>,
    shared: Arc<Shared>,
    events: Logins,
    challenge: HeaderValue,
}

/// What is answered here.
#[derive(Debug)]
struct Paths {
    login: Option<Box<str>>,
    logout: Option<Box<str>>,
    backchannel: Option<Box<str>>,
}

/// Sessions as they were read, for as long as the file says the same about them.
#[derive(Debug)]
struct Known(Verdicts<Arc<Open>>);

/// Browsers have their sessions; another process reads them again.
impl State for Known {}

/// Why a request has no session, for the log.
type Why = &'static str;

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
        if ctx.mode == Mode::Shadow {
            // Nothing is changed by looking.
            return inner.looked_at(request, ctx);
        }
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
        match inner.session(request, ctx).await? {
            Ok(open) => inner.pass(&open, request, ctx),
            Err(why) => inner.turned_away(why, request, ctx),
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
        let client_key = format!("oidc\0{}\0{}", config.issuer.as_str(), config.client_id);
        // What `Debug` hides of it.
        let secrets = config.session_secret.0.iter().flat_map(|secret| secret.expose().bytes()).collect::<Vec<_>>();
        let depends = format!("{config:?}{:x?}{}{claims}", identity::digest(&secrets), build.consumers.fingerprint());
        let known = format!("{client_key}\0{:x}", keys::fingerprint(depends.as_bytes()));
        let family: Vec<&Config> = all(build.config().every_policy())
            .filter(|other| other.issuer == config.issuer && other.client_id == config.client_id)
            .collect();
        let home = Home::new(&config.redirect_uri, config.cookie.domain.as_deref())?;
        let text = |path: &Option<String>| path.as_deref().map(Into::into);
        let scope = config.scopes.join(" ");
        let jar = build.session_cookies(Jar::new(&config.cookie, &home));
        Ok(Self {
            issuer: issuer(config, (remote, client), build),
            jar,
            home,
            redirect: config.redirect_uri.clone(),
            question: question(config, &scope),
            asked: asked(config),
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
            keeps_access_token: family.iter().any(|other| other.forward == Forward::AccessToken),
            times: (config.idle_timeout.0.as_secs().max(1), config.lifetime.0.as_secs().max(1)),
            longest: family.iter().map(|other| other.lifetime.0.as_secs()).max().unwrap_or(0).max(1),
            consumer_claim: config.consumer_claim.as_str().into(),
            consumer_required: config.consumer_required,
            keep_claims: claims,
            consumers: Arc::clone(&build.consumers),
            known: build.keep_as(known, || Known(Verdicts::of_size(REMEMBERED))),
            shared: build.keep_as(client_key, Shared::new),
            events: build.metrics.logins.of(config.issuer.as_str()),
            challenge: HeaderValue::try_from(format!("Cookie realm=\"{}\"", config.realm.0))
                .map_err(|error| error.to_string())?,
        })
    }

    /// The session of a request, with fresh tokens; or why it has none.
    async fn session(&self, request: &RequestHeader, ctx: &mut Context) -> Result<Result<Arc<Open>, Why>, Reject> {
        let now = ctx.started.unix.as_secs();
        let open = match self.look(request, now) {
            Ok(open) => open,
            Err(why) => return Ok(Err(why)),
        };
        if open.is_stale(self.forward, now) {
            return Box::pin(self.renewed(&open, request, ctx)).await;
        }
        // Not each request sets the cookie again.
        if now.saturating_sub(open.session.seen) > self.times.0 / 10 {
            let session = Session { seen: now, ..open.session.clone() };
            set(ctx, self.sealed(&session, request).unwrap_or_default());
        }
        Ok(Ok(open))
    }

    /// The session of a request as it is.
    fn look(&self, request: &RequestHeader, now: u64) -> Result<Arc<Open>, Why> {
        let Some(sealed) = self.jar.session(request) else {
            let has = place::has_cookie(request, self.jar.name());
            return Err(if has { "the cookie of the session is not whole" } else { "the request has no session" });
        };
        let open = self.open(&sealed, now)?;
        if self.shared.ended.is_over(&open.marks, open.session.started) {
            return Err("the session was ended: somebody logged out");
        }
        if !self.asked.iter().all(|one| open.session.asked.contains(one)) {
            return Err("the session is of a login that asked for less than this route does");
        }
        Ok(open)
    }

    /// Reads what a browser sent.
    fn open(&self, sealed: &[u8], now: u64) -> Result<Arc<Open>, Why> {
        let digest = identity::digest(sealed);
        if let Some(known) = self.known.0.find(&digest, 0, now) {
            return Ok(known);
        }
        let plain = self.sealer.open(Purpose::Session, sealed);
        let session = plain.and_then(|plain| serde_json::from_slice(&plain).ok()).and_then(|read| self.read(read));
        let open =
            session.ok_or("the session cannot be decrypted: somebody touched it, or `session_secret` is another")?;
        let Session { seen, started, .. } = &open.session;
        let (idle, end) = (seen.saturating_add(self.times.0), started.saturating_add(self.times.1));
        if now >= end {
            return Err("the session is older than `lifetime`");
        }
        if now >= idle {
            return Err("the session was not used for `idle_timeout`");
        }
        let open = Arc::new(open);
        self.known.0.insert(digest, Verdict { found: Arc::clone(&open), valid: (0, idle.min(end)), keys: 0 });
        Ok(open)
    }

    /// What a session says.
    fn read(&self, session: Session) -> Option<Open> {
        let claims = provider::claims(&session.id_token)?;
        let text = |name: &str| claims.text(name).ok().flatten().unwrap_or_default();
        let (issuer, subject) = (text("iss"), text("sub"));
        if issuer != self.issuer.url.as_str() {
            return None;
        }
        let marks = Marks::of(&session, subject);
        let consumer = self.consumers.by_token(issuer, text(&self.consumer_claim)).cloned();
        let token = Token {
            issuer: issuer.into(),
            subject: subject.into(),
            scopes: session.scope.split_ascii_whitespace().map(Into::into).collect(),
            claims: None,
        };
        let expires = claims.0.get("exp").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let token = Token { claims: self.keep_claims.then(|| Arc::new(claims.0)), ..token };
        Some(Open { identity: Arc::new(Identity::new(consumer, Some(token), None)), marks, expires, session })
    }

    /// The cookies of a session; `None` if it is too large.
    fn sealed(&self, session: &Session, request: &RequestHeader) -> Option<Vec<HeaderValue>> {
        let sealed = self.sealer.seal(Purpose::Session, &serde_json::to_vec(session).ok()?)?;
        self.jar.put(&sealed, request)
    }

    /// Lets a request pass that has a session.
    fn pass(&self, open: &Open, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        ctx.authenticated(&open.identity, &self.challenge)?;
        if self.consumer_required && open.identity.consumer.is_none() {
            return Err(Reject::Forbidden("the user belongs to no consumer".into()));
        }
        let token = match self.forward {
            Forward::None => return Ok(Flow::Continue),
            Forward::AccessToken => open.session.access_token.as_deref().ok_or(Reject::Internal)?,
            Forward::IdToken => open.session.id_token.as_str(),
        };
        // Whatever a client put there.
        let value = format!("Bearer {token}");
        request.insert_header(header::AUTHORIZATION, value).map_err(|_error| Reject::Internal)?;
        Ok(Flow::Continue)
    }

    /// What would become of a request.
    fn looked_at(&self, request: &RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        match self.look(request, ctx.started.unix.as_secs()) {
            Ok(open) => ctx.authenticated(&open.identity, &self.challenge).map(|()| Flow::Continue),
            Err(why) => Err(self.nothing(why)),
        }
    }

    fn nothing(&self, reason: Why) -> Reject {
        Reject::Unauthenticated { challenge: self.challenge.clone(), shown: Shown::Nothing, reason }
    }

    /// What becomes of a request without a session.
    fn turned_away(&self, why: Why, request: &RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        // Whoever is known already is not asked again.
        let is_known = ctx.identity.as_ref().is_some_and(|identity| !identity.anonymous);
        if is_known || self.unauthenticated == Unauthenticated::Refuse || !login::opens_a_page(request, ctx) {
            return Err(self.nothing(why));
        }
        let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
        let page = self.home.page(&ctx.host, target);
        let begun = self.begin(page.ok_or(Reject::BadRequest(ELSEWHERE))?, request, ctx)?;
        ctx.note = Some(why);
        Ok(begun)
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

/// The issuer, and the gateway as its client.
fn issuer(config: &Config, (remote, client): (Arc<Remote>, Client), build: &Build<'_>) -> Issuer {
    Issuer {
        url: config.issuer.clone(),
        client_id: config.client_id.clone(),
        remote,
        client,
        credentials: Credentials::new(&config.client_id, config.client_secret.as_ref(), config.send),
        clock: build.clock.clone(),
        places: Places::new(),
        complained: AtomicU64::new(0),
        rules: Rules {
            issuer: Some(config.issuer.as_str().into()),
            audience: [config.client_id.clone()].into(),
            algorithms: config.algorithms.iter().copied().map(keys::to_crate).collect(),
            consumer_claim: config.consumer_claim.as_str().into(),
            leeway: config.leeway.0.as_secs(),
            ..Rules::default()
        },
        refetch: config.refetch.0,
    }
}

/// Every `oidc` among these policies, and within their `any_of`.
fn all<'a>(policies: impl Iterator<Item = &'a PolicyConfig> + 'a) -> Box<dyn Iterator<Item = &'a Config> + 'a> {
    Box::new(policies.flat_map(|policy| -> Box<dyn Iterator<Item = &'a Config>> {
        if let AnyConfig::Oidc(config) = &policy.config {
            Box::new(std::iter::once(&**config))
        } else if let AnyConfig::AnyOf(methods) = &policy.config {
            all(methods.iter())
        } else {
            Box::new(std::iter::empty())
        }
    }))
}

/// What logins ask for, one by one.
fn asked(config: &Config) -> Box<[String]> {
    let scopes = config.scopes.iter().map(|scope| format!("scope={scope}"));
    scopes.chain(config.parameters.iter().map(|(key, value)| format!("{key}={value}"))).collect()
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
