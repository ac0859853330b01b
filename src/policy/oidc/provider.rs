//! What the gateway asks of the issuer: tokens for codes, fresh tokens for old ones, and to forget them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    clock::Clock,
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

/// So many questions of each kind at a time: each has a thread to itself. Whoever sends codes without end keeps nobody from a refresh.
const MAX_ASKING: usize = 32;

/// How long a question waits for its turn.
const PATIENCE: Duration = Duration::from_secs(2);

/// The log says no more often than this what an issuer refuses, in seconds.
const QUIET: u64 = 10;

/// The issuer, and who asks it.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) url: Url,
    pub(super) client_id: String,
    pub(super) remote: Arc<Remote>,
    pub(super) client: Client,
    pub(super) credentials: Credentials,
    pub(super) clock: Clock,
    pub(super) places: Places,
    pub(super) complained: AtomicU64,
    pub(super) rules: Rules,
    pub(super) refetch: Duration,
}

/// Who may ask at the moment.
#[derive(Debug)]
pub(super) struct Places {
    codes: Arc<Semaphore>,
    refreshes: Arc<Semaphore>,
    revocations: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new() -> Self {
        let places = || Arc::new(Semaphore::new(MAX_ASKING));
        Self { codes: places(), refreshes: places(), revocations: places() }
    }
}

/// What an issuer gives.
#[derive(Deserialize)]
pub(super) struct Tokens {
    pub(super) id_token: Option<String>,
    pub(super) access_token: String,
    token_type: String,
    pub(super) refresh_token: Option<String>,
    /// In seconds; some write a text.
    #[serde(default, deserialize_with = "seconds")]
    pub(super) expires_in: Option<u64>,
    pub(super) scope: Option<String>,
}

fn seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u64),
        Text(String),
    }
    match Option::<Written>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Written::Number(seconds)) => Ok(Some(seconds)),
        Some(Written::Text(text)) => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

/// Why there are no tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// What was shown is not, or no longer, worth any.
    Grant,
    /// The issuer cannot say.
    Failed(&'static str),
}

/// What is an answer, but not what it should be.
const MALFORMED: &str = "the issuer's answer is none that can be used";

impl Issuer {
    /// Where the issuer does what.
    pub(super) fn provider(&self) -> Result<Arc<Provider>, Reject> {
        self.remote
            .provider()
            .ok_or(Reject::AuthUnavailable(
            "where to log in is not known yet: the issuer cannot be reached, or does not say it (the log of the process says more)",
        ))
    }

    /// A place among those who come with codes.
    pub(super) async fn arrive(&self) -> Result<OwnedSemaphorePermit, Reject> {
        place(&self.places.codes).await.ok_or(Reject::Overloaded("logins that are asked about at the issuer"))
    }

    /// Tokens for a code.
    pub(super) async fn exchange(
        &self,
        code: &str,
        verifier: &str,
        (redirect, place): (&Url, OwnedSemaphorePermit),
    ) -> Result<Tokens, Refused> {
        let redirect = encode(redirect.as_str().as_bytes());
        let code = encode(code.as_bytes());
        let form =
            format!("grant_type=authorization_code&code={code}&redirect_uri={redirect}&code_verifier={verifier}");
        self.tokens(form, place, false).await
    }

    /// Fresh tokens.
    pub(super) async fn refresh(&self, refresh_token: &str) -> Result<Tokens, Refused> {
        let place = place(&self.places.refreshes).await.ok_or(Refused::Failed("the issuer is being asked too much"))?;
        let form = format!("grant_type=refresh_token&refresh_token={}", encode(refresh_token.as_bytes()));
        self.tokens(form, place, true).await
    }

    /// Gives a token back ([RFC 7009](https://www.rfc-editor.org/rfc/rfc7009)). Whether that worked is nobody's concern.
    pub(super) async fn revoke(&self, refresh_token: &str) {
        let Some(url) = self.remote.provider().and_then(|provider| provider.revocation.clone()) else { return };
        let Some(place) = place(&self.places.revocations).await else { return };
        let token = encode(refresh_token.as_bytes());
        drop(self.ask(url, format!("token={token}&token_type_hint=refresh_token"), place).await);
    }

    async fn tokens(&self, form: String, place: OwnedSemaphorePermit, is_refresh: bool) -> Result<Tokens, Refused> {
        let provider = self.remote.provider();
        let url = provider.and_then(|provider| provider.token.clone());
        let url = url.ok_or(Refused::Failed("where tokens are to be had is not known: the issuer does not say it"))?;
        let (status, body) = self.ask(url, form, place).await.map_err(Refused::Failed)?;
        if status == StatusCode::OK {
            let tokens: Tokens = serde_json::from_slice(&body).map_err(|_error| Refused::Failed(MALFORMED))?;
            let is_bearer = tokens.token_type.eq_ignore_ascii_case("bearer");
            return if is_bearer { Ok(tokens) } else { Err(Refused::Failed(MALFORMED)) };
        }
        let answer = serde_json::from_slice(&body).unwrap_or_default();
        self.complain("does not give tokens", status.as_str(), &answer);
        Err(refused(status, &answer, is_refresh))
    }

    async fn ask(
        &self,
        url: Url,
        form: String,
        place: OwnedSemaphorePermit,
    ) -> Result<(StatusCode, Vec<u8>), &'static str> {
        let (client, authorization) = (self.client.clone(), self.credentials.authorization.clone());
        let form = form + &self.credentials.form;
        let asking = tokio::task::spawn_blocking(move || {
            let _place = place;
            client.post(&url, authorization.as_deref(), &form)
        });
        match asking.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(why)) => {
                self.complain("cannot be asked", &why, &Complaint::default());
                Err("the issuer cannot be asked")
            }
            Err(_) => Err("the issuer could not be asked"),
        }
    }

    /// Says in the log what an issuer says, but not all the time.
    pub(super) fn complain(&self, what: &str, how: &str, answer: &Complaint) {
        let now = self.clock.unix().as_secs();
        let due = |last: u64| (last.saturating_add(QUIET) <= now).then_some(now);
        if self.complained.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok() {
            let (error, description) = (shown(&answer.error), shown(&answer.error_description));
            log::warn!("{} {what}: {how} {error} {description}", self.url.as_str());
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

/// What an issuer says in place of what was asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Complaint {
    pub(super) error: String,
    pub(super) error_description: String,
}

/// A little of a text that somebody else wrote: no line of its own in a log.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// A place in the queue, if there is one soon.
async fn place(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    tokio::time::timeout(PATIENCE, Arc::clone(places).acquire_owned()).await.ok()?.ok()
}

/// What an issuer means by its refusal ([RFC 6749, 5.2](https://www.rfc-editor.org/rfc/rfc6749#section-5.2)).
fn refused(status: StatusCode, answer: &Complaint, is_refresh: bool) -> Refused {
    match answer.error.as_str() {
        "invalid_grant" if status.is_client_error() => Refused::Grant,
        "invalid_client" | "unauthorized_client" => {
            Refused::Failed("the issuer does not accept the gateway's client_id and client_secret")
        }
        // Whatever else it says of a session: a login will show what it wants.
        _ if is_refresh
            && status.is_client_error()
            && ![StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status) =>
        {
            Refused::Grant
        }
        "invalid_request" | "invalid_scope" | "unsupported_grant_type" => {
            Refused::Failed("the issuer does not accept the gateway's question: is the client allowed to ask it?")
        }
        _ => Refused::Failed(MALFORMED),
    }
}

/// What a token says that was checked before.
pub(super) fn claims(token: &str) -> Option<Claims> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&token::decoded(payload)?).ok()
}

/// When a token expires that was checked before.
pub(super) fn expiry(token: &str) -> Option<u64> {
    claims(token)?.0.get("exp")?.as_u64()
}

/// Now, on both clocks.
pub(super) fn moment(ctx: &Context) -> (u64, u64) {
    (ctx.started.unix.as_secs(), ctx.started.monotonic)
}
