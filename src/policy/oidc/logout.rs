//! The end of a session: by the browser, which goes on to the issuer, or by the issuer, for all browsers of a user
//! ([`OpenID` Connect Back-Channel Logout](https://openid.net/specs/openid-connect-backchannel-1_0.html)).

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};

use super::{
    ELSEWHERE, Inner,
    login::{redirect, set, text},
    provider::{Complaint, moment},
    refresh::name_of,
    session::Mark,
};
use crate::{
    identity,
    policy::{Flow, Form, Reply, place::encode, verdicts::Verdict},
    proxy::context::Context,
    reject::Reject,
};

/// A larger form has no token in it.
const MAX_FORM: usize = 32 << 10;

/// Log-outs are known for at least so long, in seconds: another file may say that sessions last longer.
const MEMORY: u64 = 30 * 24 * 3_600;

/// What a token to end sessions has to say.
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

impl Inner {
    /// Ends the session of a browser.
    pub(super) async fn logout(&self, request: &RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        is_meant(request)?;
        let home = match &*self.after_logout {
            path if path.starts_with('/') => self.home.page(&ctx.host, path),
            address => Some(address.to_owned()),
        };
        let home = home.ok_or(Reject::BadRequest(ELSEWHERE))?;
        let now = ctx.started.unix.as_secs();
        let open = self.jar.session(request).and_then(|sealed| self.open(&sealed, now).ok());
        set(ctx, self.jar.clear(request));
        let open = open.filter(|open| !self.shared.ended.is_over(&open.marks, open.session.started));
        let Some(open) = open else { return redirect(StatusCode::SEE_OTHER, &home) };
        self.end(Mark::Own(&open.session.id), now);
        self.events.logouts.inc();
        self.tell(&open, "out", ctx);
        ctx.identity = Some(Arc::clone(&open.identity));
        if let Some(token) = &open.session.refresh_token {
            self.issuer.revoke(token).await;
            // What another request made of it.
            let fresh = self.shared.renewed.find(&name_of(&open.session, token), 0, now);
            if let Some(token) = fresh.and_then(Result::ok).and_then(|session| session.refresh_token.clone()) {
                self.issuer.revoke(&token).await;
            }
        }
        let end = self.issuer.remote.provider().and_then(|provider| provider.end_session.clone());
        let Some(end) = end else { return redirect(StatusCode::SEE_OTHER, &home) };
        let location = end.with_query(&format!(
            "client_id={}&id_token_hint={}&post_logout_redirect_uri={}",
            encode(self.issuer.client_id.as_bytes()),
            open.session.id_token,
            encode(home.as_bytes())
        ));
        redirect(StatusCode::SEE_OTHER, &location)
    }

    fn end(&self, mark: Mark<'_>, now: u64) {
        self.shared.ended.end(mark.digest(), now, now.saturating_add(self.longest.max(MEMORY)));
    }

    /// Ends the sessions that a token of the issuer names.
    pub(super) fn backchannel(self: &Arc<Self>, ctx: &Context) -> Flow {
        let (inner, moment) = (Arc::clone(self), moment(ctx));
        Flow::Read(Form {
            max: MAX_FORM,
            then: Box::new(move |body| {
                Box::pin(async move {
                    let said = inner.is_over(&body, moment).await;
                    match said {
                        Ok(()) => inner.events.ended.inc(),
                        Err(why) => inner.issuer.complain(
                            "ends sessions, but not so that it counts:",
                            why,
                            &Complaint::default(),
                        ),
                    }
                    answer(said.is_ok())
                })
            }),
        })
    }

    /// What the token has to be: section 2.6.
    async fn is_over(&self, body: &Bytes, moment: (u64, u64)) -> Result<(), &'static str> {
        let token = std::str::from_utf8(body).ok().and_then(|form| {
            let mut tokens = form.split('&').filter_map(|pair| pair.strip_prefix("logout_token="));
            let token = tokens.next().and_then(text)?;
            tokens.next().is_none().then_some(token)
        });
        let token = token.ok_or("the form has no token, or several")?;
        let claims = self.issuer.verify(&token, moment).await?.claims;
        let is_meant =
            claims.get("events").and_then(|events| events.get(EVENT)).is_some_and(serde_json::Value::is_object);
        if !is_meant || claims.contains_key("nonce") {
            return Err("the token is not one that ends sessions");
        }
        let claim = |name: &str| claims.get(name).and_then(|value| value.as_str()).filter(|text| !text.is_empty());
        let id = claim("jti").ok_or("the token has no name of its own")?;
        let (now, _) = moment;
        let issued =
            claims.get("iat").and_then(serde_json::Value::as_u64).ok_or("the token does not say when it was made")?;
        // As long as the token could come again.
        let until = claims
            .get("exp")
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(issued)
            .saturating_add(self.issuer.rules.leeway);
        let seen = identity::digest(format!("logout {id}").as_bytes());
        if !self.shared.used.claim(seen, Verdict { found: (), valid: (0, until.max(now + 1)), keys: 0 }, now) {
            return Err("the token came before");
        }
        match (claim("sid"), claim("sub")) {
            (Some(sid), sub) => {
                self.end(Mark::Issuers(sid), now);
                // Those of the user that have no name.
                if let Some(sub) = sub {
                    self.end(Mark::Nameless(sub), now);
                }
            }
            (None, Some(sub)) => self.end(Mark::Subject(sub), now),
            (None, None) => return Err("the token does not say whose sessions are over"),
        }
        Ok(())
    }
}

/// Whether it is the user who wants that, and not a page of somebody else, or a browser that looks ahead.
fn is_meant(request: &RequestHeader) -> Result<(), Reject> {
    let has = |name: &str| request.headers.contains_key(name);
    if has("sec-purpose") || has("purpose") || has("x-moz") {
        return Err(Reject::Forbidden("a browser that only looks ahead is not logged out".into()));
    }
    let site = request.headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if site == Some(b"cross-site") {
        return Err(Reject::Forbidden("a page of another site wants to log out".into()));
    }
    Ok(())
}

/// 200, or 400 whatever is wrong (section 2.8).
fn answer(accepted: bool) -> Result<Reply, Reject> {
    if !accepted {
        return Err(Reject::BadRequest("the token of the issuer is not accepted"));
    }
    let build = || -> pingora::Result<ResponseHeader> {
        let mut head = ResponseHeader::build(StatusCode::OK, Some(2))?;
        head.insert_header(header::CACHE_CONTROL, "no-store")?;
        Ok(head)
    };
    Ok(Reply { head: build().map_err(|_error| Reject::Internal)?, body: Bytes::new() })
}
