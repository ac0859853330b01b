//! The way to a session: to the issuer with a request that nobody else can answer, and back with a code.

use std::borrow::Cow;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderValue, Method, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use serde::{Deserialize, Serialize};

use super::{
    Inner, TOO_LARGE,
    jar::{Jar, LOGIN_TIME},
    provider::{self, Complaint, Refused, Tokens, moment, shown},
    seal::Purpose,
    session::{Open, Session},
};
use crate::{
    identity,
    policy::{Flow, Reply, place::decode, verdicts::Verdict},
    proxy::context::Context,
    reject::{Reject, Shown},
};

/// So many codes of one address are asked about at a time.
const LANES: usize = 4;

/// How long a code waits for others of its address.
const TURN: std::time::Duration = std::time::Duration::from_secs(6);

/// A longer code is none.
const MAX_CODE: usize = 4_096;

/// What a browser keeps while its login is under way, encrypted.
#[derive(Serialize, Deserialize)]
struct Login {
    state: String,
    nonce: String,
    /// Proves to the issuer that the code comes back from where the login began (RFC 7636).
    verifier: String,
    return_to: String,
    started: u64,
}

/// What an issuer sends a browser back with.
#[derive(Debug, Default)]
struct Answer<'a> {
    code: Option<Cow<'a, str>>,
    state: Option<Cow<'a, str>>,
    iss: Option<Cow<'a, str>>,
    error: Option<Cow<'a, str>>,
    description: Option<Cow<'a, str>>,
}

impl Inner {
    /// Sends a browser to the issuer.
    pub(super) fn begin(&self, return_to: String, request: &RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let provider = self.issuer.provider()?;
        let to = provider.authorization.as_ref();
        let to = to.ok_or(Reject::AuthUnavailable("the issuer does not say where browsers log in"))?;
        let started = ctx.started.unix.as_secs();
        let login = Login { state: Jar::state(started), nonce: secret(), verifier: secret(), return_to, started };
        let challenge = URL_SAFE_NO_PAD.encode(identity::digest(login.verifier.as_bytes()));
        let location = to.with_query(&format!(
            "{}&state={}&nonce={}&code_challenge={challenge}&code_challenge_method=S256",
            self.question, login.state, login.nonce
        ));
        let sealed = serde_json::to_vec(&login).ok().and_then(|login| self.sealer.seal(Purpose::Login, &login));
        let cookies = sealed.and_then(|sealed| self.jar.put_login(&login.state, &sealed, request));
        set(ctx, cookies.ok_or(Reject::Internal)?);
        redirect(StatusCode::FOUND, &location)
    }

    /// Takes a browser back that comes with a code, and gives it a session.
    pub(super) async fn callback(&self, request: &RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let answer = Answer::read(request.uri.query().unwrap_or_default()).map_err(|why| self.wrong(why))?;
        let (login, state) = self.login(&answer, request, ctx)?;
        self.is_from_issuer(&answer)?;
        if let Some(error) = &answer.error {
            self.events.refused.inc();
            let complaint = Complaint {
                error: error.to_string(),
                error_description: answer.description.as_deref().unwrap_or_default().into(),
            };
            self.issuer.complain("does not log in", "it says", &complaint);
            return Err(declined(error));
        }
        let code = answer.code.as_deref().filter(|code| !code.is_empty() && code.len() <= MAX_CODE);
        let code = code.ok_or_else(|| self.wrong("the issuer's answer has no code"))?;
        let session = self.arrive(code, (&login, state), ctx).await.inspect_err(|_| self.events.refused.inc())?;
        let cookies = self.sealed(&session, request).ok_or(Reject::AuthUnavailable(TOO_LARGE))?;
        let open = self.read(session).ok_or(Reject::Internal)?;
        set(ctx, cookies);
        self.events.logins.inc();
        self.tell(&open, "in", ctx);
        ctx.identity = Some(open.identity);
        redirect(StatusCode::SEE_OTHER, &login.return_to)
    }

    /// Who comes and who goes stands in the log.
    pub(super) fn tell(&self, open: &Open, way: &str, ctx: &Context) {
        let (name, issuer) = (shown(open.identity.name()), self.issuer.url.as_str());
        log::info!("`{name}` of {issuer} has logged {way}: request {}", ctx.request_id.text());
    }

    /// The session that a code is worth. Of one address, a few are asked about at a time.
    async fn arrive(&self, code: &str, (login, state): (&Login, &str), ctx: &mut Context) -> Result<Session, Reject> {
        let lane = state.bytes().last().map_or(0, usize::from) % LANES;
        let queue = self.shared.arriving.queue_of(ctx.client_ip, lane);
        let turn = tokio::time::timeout(TURN, queue.wait()).await;
        let _turn = turn.map_err(|_elapsed| Reject::Overloaded("logins of one address"))?;
        let place = self.issuer.arrive().await?;
        let (now, until) = (ctx.started.unix.as_secs(), login.started.saturating_add(LOGIN_TIME));
        let verdict = Verdict { found: (), valid: (0, until), keys: 0 };
        if !self.shared.used.claim(identity::digest(state.as_bytes()), verdict, now) {
            return Err(self.wrong("the login was finished before"));
        }
        set(ctx, self.jar.taken(state).into_iter().collect());
        let exchanged = self.issuer.exchange(code, &login.verifier, (&self.redirect, place)).await;
        let tokens = exchanged.map_err(|refused| match refused {
            Refused::Grant => self.wrong("the issuer does not accept the code"),
            Refused::Failed(why) => Reject::AuthUnavailable(why),
        })?;
        self.first(tokens, &login.nonce, ctx).await
    }

    /// The login that an answer belongs to, begun in this browser, not long ago; with its state.
    fn login<'a>(
        &self,
        answer: &'a Answer<'_>,
        request: &RequestHeader,
        ctx: &Context,
    ) -> Result<(Login, &'a str), Reject> {
        let now = ctx.started.unix.as_secs();
        let state = answer.state.as_deref().ok_or_else(|| self.wrong("the issuer's answer has no state"))?;
        let sealed = self
            .jar
            .find_login(state, request)
            .ok_or_else(|| self.wrong("no login with this state is under way in this browser"))?;
        let opened = self.sealer.open(Purpose::Login, sealed);
        let login: Option<Login> = opened.and_then(|plain| serde_json::from_slice(&plain).ok());
        let login = login.filter(|login| verify_slices_are_equal(login.state.as_bytes(), state.as_bytes()).is_ok());
        let login = login.ok_or_else(|| self.wrong("the cookie of the login is not the gateway's"))?;
        if now >= login.started.saturating_add(LOGIN_TIME) {
            return Err(self.wrong("the login took too long"));
        }
        Ok((login, state))
    }

    /// Where a browser may have been led to another issuer, the answer says whose it is ([RFC 9207, 2.4](https://www.rfc-editor.org/rfc/rfc9207#section-2.4)).
    fn is_from_issuer(&self, answer: &Answer<'_>) -> Result<(), Reject> {
        let is_named = self.issuer.provider()?.names_itself;
        match answer.iss.as_deref() {
            Some(iss) if iss != self.issuer.url.as_str() => Err(self.wrong("the answer is that of another issuer")),
            None if is_named => Err(self.wrong("the answer does not say which issuer it is from")),
            Some(_) | None => Ok(()),
        }
    }

    /// The session that the tokens of a login are worth.
    async fn first(&self, tokens: Tokens, nonce: &str, ctx: &Context) -> Result<Session, Reject> {
        let now = ctx.started.unix.as_secs();
        let id_token = tokens.id_token.as_deref();
        let id_token = id_token.ok_or(Reject::AuthUnavailable("the issuer gives no ID token"))?;
        let verified = self.issuer.verify(id_token, moment(ctx)).await.map_err(|why| self.wrong(why))?;
        let said = verified.claims.get("nonce").and_then(|nonce| nonce.as_str()).unwrap_or_default();
        if verify_slices_are_equal(said.as_bytes(), nonce.as_bytes()).is_err() {
            return Err(self.wrong("the ID token was made for another login"));
        }
        if verified.claims.get("sub").and_then(|sub| sub.as_str()).is_none_or(str::is_empty) {
            return Err(self.wrong("the ID token does not say who it is"));
        }
        let name = verified.claims.get("sid").and_then(|name| name.as_str()).filter(|name| !name.is_empty());
        let session = Session {
            id: secret(),
            started: now,
            seen: now,
            stale: 0,
            asked: self.asked.to_vec(),
            scope: self.scope.to_string(),
            sid: name.map(Into::into),
            nonce: nonce.into(),
            id_token: String::new(),
            access_token: None,
            refresh_token: None,
        };
        Ok(self.with(session, tokens, now))
    }

    /// A session with these tokens.
    pub(super) fn with(&self, session: Session, tokens: Tokens, now: u64) -> Session {
        // Who does not say it means, at best, what the ID token says.
        let expires = tokens.id_token.as_deref().and_then(provider::expiry).map(|expires| expires.saturating_sub(now));
        let lasts = tokens.expires_in.or(expires).unwrap_or(u64::MAX);
        // A little early, so that what is passed on does not expire on the way.
        let lasts = lasts.saturating_sub((lasts / 10).min(10)).max(1);
        Session {
            seen: now,
            stale: now.saturating_add(lasts),
            scope: tokens.scope.unwrap_or(session.scope),
            id_token: tokens.id_token.unwrap_or(session.id_token),
            access_token: Some(tokens.access_token).filter(|_| self.keeps_access_token),
            refresh_token: tokens.refresh_token.or(session.refresh_token),
            ..session
        }
    }

    /// One answer for all that is wrong, and the cause in the log.
    pub(super) fn wrong(&self, reason: &'static str) -> Reject {
        Reject::Unauthenticated { challenge: self.challenge.clone(), shown: Shown::Wrong, reason }
    }
}

impl<'a> Answer<'a> {
    /// Nothing in it may be there twice.
    fn read(query: &'a str) -> Result<Self, &'static str> {
        let mut answer = Self::default();
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match key {
                "code" => &mut answer.code,
                "state" => &mut answer.state,
                "iss" => &mut answer.iss,
                "error" => &mut answer.error,
                "error_description" => &mut answer.description,
                _ => continue,
            };
            if place.replace(text(value).ok_or("the issuer's answer is not text")?).is_some() {
                return Err("the issuer's answer has something twice");
            }
        }
        Ok(answer)
    }
}

/// A value of a form.
pub(super) fn text(value: &str) -> Option<Cow<'_, str>> {
    if value.contains('+') {
        let spaced = value.replace('+', " ");
        return String::from_utf8(decode(&spaced).into_owned()).ok().map(Cow::Owned);
    }
    match decode(value) {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    }
}

/// What the issuer says instead of a code ([RFC 6749, 4.1.2.1](https://www.rfc-editor.org/rfc/rfc6749#section-4.1.2.1)).
fn declined(error: &str) -> Reject {
    match error {
        "access_denied" => Reject::Forbidden("the user or the issuer declined the login".into()),
        "login_required" | "interaction_required" | "consent_required" | "account_selection_required" => {
            Reject::Forbidden("the issuer would have to ask the user, which `prompt: none` does not let it".into())
        }
        "server_error" | "temporarily_unavailable" => Reject::AuthUnavailable("the issuer cannot log in at the moment"),
        _ => Reject::AuthUnavailable(
            "the issuer does not accept the request to log in: is the client registered as it should be?",
        ),
    }
}

/// 256 random bits as text.
pub(super) fn secret() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// Sets cookies on whatever answer goes out.
pub(super) fn set(ctx: &mut Context, cookies: Vec<HeaderValue>) {
    ctx.response_headers.extend(cookies.into_iter().map(|cookie| (header::SET_COOKIE, cookie)));
}

/// Sends a browser elsewhere. Nobody keeps that answer.
pub(super) fn redirect(status: StatusCode, location: &str) -> Result<Flow, Reject> {
    let build = || -> pingora::Result<ResponseHeader> {
        let mut head = ResponseHeader::build(status, Some(4))?;
        head.insert_header(header::LOCATION, location)?;
        head.insert_header(header::CACHE_CONTROL, "no-store")?;
        Ok(head)
    };
    let head = build().map_err(|_error| Reject::Internal)?;
    Ok(Flow::Reply(Box::new(Reply { head, body: bytes::Bytes::new() })))
}

/// Whether a browser wants to show what comes: only then is a login of use. A script could not follow to another host, and a form would be lost.
pub(super) fn opens_a_page(request: &RequestHeader, ctx: &Context) -> bool {
    let is =
        |name: &str, wanted: &str| request.headers.get(name).is_none_or(|value| value.as_bytes() == wanted.as_bytes());
    let accepts = request.headers.get_all(header::ACCEPT).iter();
    request.method == Method::GET
        && !ctx.upgrade
        && is("sec-fetch-mode", "navigate")
        && !request.headers.contains_key("x-requested-with")
        && accepts.into_iter().any(|value| memchr::memmem::find(value.as_bytes(), b"text/html").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_once_and_only_once() {
        let answer = Answer::read("code=a%2Bb+c&state=x&other=1&session_state=2").unwrap();
        assert_eq!((answer.code.as_deref(), answer.state.as_deref()), (Some("a+b c"), Some("x")));
        assert!(Answer::read("code=a&code=b&state=x").is_err());
        assert!(Answer::read("state=%ff").is_err());
        assert!(Answer::read("").unwrap().state.is_none());
    }
}
