//! What the gateway asks of the issuer: tokens for codes, fresh tokens for old ones, and to forget them.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::{
    policy::{
        issuer::{Client, Credentials, Provider, Remote},
        jwt::{
            Url,
            token::{self, Claims, Rules, Verified},
        },
        place::encode,
    },
    proxy::context::Context,
    reject::Reject,
};

/// So many questions at a time: each has a thread to itself.
const MAX_ASKING: usize = 64;

/// The issuer, and who asks it.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) url: Url,
    pub(super) client_id: String,
    pub(super) remote: Arc<Remote>,
    pub(super) client: Client,
    pub(super) credentials: Credentials,
    pub(super) places: Arc<Semaphore>,
    pub(super) rules: Rules,
    pub(super) refetch: Duration,
}

/// What an issuer gives.
#[derive(Deserialize)]
pub(super) struct Tokens {
    pub(super) id_token: Option<String>,
    pub(super) access_token: String,
    token_type: String,
    pub(super) refresh_token: Option<String>,
    /// In seconds.
    pub(super) expires_in: Option<u64>,
    pub(super) scope: Option<String>,
}

/// Why there are no tokens.
#[derive(Debug)]
pub(super) enum Refused {
    /// What was shown is not, or no longer, worth any.
    Grant,
    /// The issuer cannot say.
    Failed(&'static str),
}

/// What is an answer, but not what it should be.
const MALFORMED: &str = "the issuer's answer is none that can be used";

impl Issuer {
    pub(super) fn places() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(MAX_ASKING))
    }

    /// Where the issuer does what.
    pub(super) fn provider(&self) -> Result<Arc<Provider>, Reject> {
        self.remote
            .provider()
            .ok_or(Reject::AuthUnavailable("where to log in is not known yet: the issuer cannot be reached"))
    }

    /// Tokens for a code.
    pub(super) async fn exchange(&self, code: &str, verifier: &str, redirect: &Url) -> Result<Tokens, Refused> {
        let redirect = encode(redirect.as_str().as_bytes());
        let code = encode(code.as_bytes());
        self.tokens(format!(
            "grant_type=authorization_code&code={code}&redirect_uri={redirect}&code_verifier={verifier}"
        ))
        .await
    }

    /// Fresh tokens.
    pub(super) async fn refresh(&self, refresh_token: &str) -> Result<Tokens, Refused> {
        self.tokens(format!("grant_type=refresh_token&refresh_token={}", encode(refresh_token.as_bytes()))).await
    }

    /// Gives a token back ([RFC 7009](https://www.rfc-editor.org/rfc/rfc7009)). Whether that worked is nobody's concern.
    pub(super) async fn revoke(&self, refresh_token: &str) {
        let Some(url) = self.remote.provider().and_then(|provider| provider.revocation.clone()) else { return };
        let token = encode(refresh_token.as_bytes());
        if let Err(why) = self.ask(url, format!("token={token}&token_type_hint=refresh_token")).await {
            log::debug!("a refresh token could not be given back: {why}");
        }
    }

    async fn tokens(&self, form: String) -> Result<Tokens, Refused> {
        let provider = self.remote.provider();
        let url = provider.and_then(|provider| provider.token.clone());
        let url = url.ok_or(Refused::Failed("where tokens are to be had is not known: the issuer does not say it"))?;
        let (status, body) = self.ask(url, form).await.map_err(Refused::Failed)?;
        if status == StatusCode::OK {
            let tokens: Tokens = serde_json::from_slice(&body).map_err(|_error| Refused::Failed(MALFORMED))?;
            let is_bearer = tokens.token_type.eq_ignore_ascii_case("bearer");
            return if is_bearer { Ok(tokens) } else { Err(Refused::Failed(MALFORMED)) };
        }
        Err(refused(status, &body))
    }

    async fn ask(&self, url: Url, form: String) -> Result<(StatusCode, Vec<u8>), &'static str> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_error| "the issuer is being asked too much")?;
        let (client, authorization) = (self.client.clone(), self.credentials.authorization.clone());
        let form = form + &self.credentials.form;
        let asking = tokio::task::spawn_blocking(move || {
            let _place = place;
            client.post(&url, authorization.as_deref(), &form)
        });
        match asking.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(why)) => {
                log::warn!("{} cannot be asked: {why}", self.url.as_str());
                Err("the issuer cannot be asked")
            }
            Err(_) => Err("the issuer could not be asked"),
        }
    }

    /// Checks a token that the issuer signed for this client ([OpenID Connect Core, 3.1.3.7](https://openid.net/specs/openid-connect-core-1_0.html#IDTokenValidation)).
    pub(super) async fn verify(&self, token: &str, (now, monotonic): (u64, u64)) -> Result<Verified, &'static str> {
        let judge = |keys: &_| token::verify(token, keys, &self.rules, now);
        let verified = self.remote.judge(monotonic, self.refetch, judge).await.map_err(token::Refusal::reason)?;
        let claims = &verified.claims;
        let several = claims.get("aud").and_then(|aud| aud.as_array()).is_some_and(|list| list.len() > 1);
        match claims.get("azp").map(|azp| azp.as_str()) {
            Some(azp) if azp != Some(&self.client_id) => Err("the token was made for another client"),
            None if several => Err("the token is for several audiences, and does not say for whom it was made"),
            Some(_) | None => Ok(verified),
        }
    }
}

/// What an issuer means by its refusal ([RFC 6749, 5.2](https://www.rfc-editor.org/rfc/rfc6749#section-5.2)).
fn refused(status: StatusCode, body: &[u8]) -> Refused {
    #[derive(Deserialize)]
    struct Answer {
        error: String,
    }
    let answer: Option<Answer> = serde_json::from_slice(body).ok();
    match answer.as_ref().map(|answer| answer.error.as_str()) {
        Some("invalid_grant") if status.is_client_error() => Refused::Grant,
        Some("invalid_client" | "unauthorized_client") => {
            Refused::Failed("the issuer does not accept the gateway's client_id and client_secret")
        }
        Some("invalid_request" | "invalid_scope" | "unsupported_grant_type") => {
            Refused::Failed("the issuer does not accept the gateway's question: is the client allowed to ask it?")
        }
        Some(_) | None => Refused::Failed(MALFORMED),
    }
}

/// What a token says that was checked before.
pub(super) fn claims(token: &str) -> Option<Claims> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&token::decoded(payload)?).ok()
}

/// Now, on both clocks.
pub(super) fn moment(ctx: &Context) -> (u64, u64) {
    (ctx.started.unix.as_secs(), ctx.started.monotonic)
}
