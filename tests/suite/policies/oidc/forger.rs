//! An issuer that says what it is told to.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use jsonwebtoken::Algorithm::ES256;
use serde_json::{Value, json};

use crate::{
    policies::tokens::{Signer, now},
    support::{Browser, Client, Gateway, Recorded, Reply, Response, Upstream, request},
};

/// What stands behind a name in the query of an address, as it is written.
pub(super) fn parameter(url: &str, name: &str) -> String {
    let query = url.split_once('?').unwrap().1;
    let found = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
    found.unwrap_or_else(|| panic!("no {name} in {url}")).to_owned()
}

/// An issuer that says what it is told to.
pub(super) struct Forger {
    server: Upstream,
    pub(super) says: Arc<Mutex<Says>>,
    pub(super) signer: Arc<Signer>,
}

#[derive(Clone)]
pub(super) struct Says {
    pub(super) claims: Value,
    /// Instead of the token.
    pub(super) token: Option<String>,
    /// Of the answer with the tokens.
    pub(super) answer: Value,
    pub(super) nonce: String,
    /// How a refresh is answered, if not with tokens.
    pub(super) refusal: Option<(u16, &'static str)>,
    /// How long an answer takes: to a code, and to a refresh.
    pub(super) delays: (Duration, Duration),
}

impl Forger {
    pub(super) fn start() -> Self {
        let signer = Arc::new(Signer::new(ES256));
        let says = Says {
            claims: json!({}),
            token: None,
            answer: json!({}),
            nonce: String::new(),
            refusal: None,
            delays: (Duration::ZERO, Duration::ZERO),
        };
        let says = Arc::new(Mutex::new(says));
        let (shared, key) = (Arc::clone(&says), Arc::clone(&signer));
        let server = Upstream::start(move |request| {
            let issuer = format!("http://{}", request.header("host").unwrap());
            match request.target.as_str() {
                "/.well-known/openid-configuration" => Reply::ok(
                    json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/jwks"), "token_endpoint": format!("{issuer}/token"),
                            "authorization_endpoint": format!("{issuer}/auth?tenant=1"), "revocation_endpoint": format!("{issuer}/revoke") })
                    .to_string(),
                ),
                "/jwks" => Reply::ok(json!({ "keys": [key.jwk("k")] }).to_string()),
                "/token" => {
                    let says = shared.lock().unwrap().clone();
                    let is_refresh = is_refresh(request);
                    let delay = if is_refresh { says.delays.1 } else { says.delays.0 };
                    if let Some((status, answer)) = says.refusal.filter(|_| is_refresh) {
                        return Reply::new(status, answer).after(delay);
                    }
                    let mut claims = json!({ "iss": issuer, "aud": "web", "sub": "alice", "exp": now() + 60, "iat": now(), "nonce": says.nonce });
                    merge(&mut claims, &says.claims);
                    let token = says.token.unwrap_or_else(|| key.token("k", &claims));
                    let mut answer = json!({ "access_token": "a", "token_type": "Bearer", "expires_in": 60, "id_token": token });
                    merge(&mut answer, &says.answer);
                    Reply::ok(answer.to_string()).after(delay)
                }
                _ => Reply::new(404, ""),
            }
        });
        Self { server, says, signer }
    }

    /// Changes what it says.
    pub(super) fn say(&self, change: impl FnOnce(&mut Says)) {
        change(&mut self.says.lock().unwrap());
    }

    /// How often it was asked to refresh a session.
    pub(super) fn refreshed(&self) -> usize {
        self.server.seen().iter().filter(|request| is_refresh(request)).count()
    }

    /// How often it was given a token back.
    pub(super) fn revoked(&self) -> usize {
        self.server.seen().iter().filter(|request| request.target == "/revoke").count()
    }

    pub(super) fn issuer(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// The answer at the end of a login in which the issuer says this.
    pub(super) fn log_in(
        &self,
        origin: &str,
        claims: Value,
        answer: Value,
        token: Option<String>,
    ) -> (Response, Browser) {
        let mut browser = Browser::default();
        let to = browser.exchange("GET", &format!("{origin}/"), "");
        let to = to.header("location").unwrap().to_owned();
        assert!(to.contains("/auth?tenant=1&response_type=code&client_id=web&"), "{to}");
        assert!(to.contains("&code_challenge_method=S256"), "{to}");
        let nonce = parameter(&to, "nonce");
        self.say(|says| *says = Says { claims, token, answer, nonce, ..says.clone() });
        let back = format!("{origin}/oauth2/callback?code=c&state={}", parameter(&to, "state"));
        (browser.exchange("GET", &back, ""), browser)
    }
}

pub(super) fn merge(into: &mut Value, others: &Value) {
    for (name, value) in others.as_object().unwrap() {
        into[name] = value.clone();
        if value.is_null() {
            into.as_object_mut().unwrap().remove(name);
        }
    }
}

fn is_refresh(request: &Recorded) -> bool {
    request.target == "/token" && request.body.starts_with(b"grant_type=refresh_token")
}

/// Sends a form to where the issuer ends sessions.
pub(super) fn post(gateway: &Gateway, form: &str) -> Response {
    let mut client: Client = gateway.client();
    let length = form.len().to_string();
    let headers = [("Content-Type", "application/x-www-form-urlencoded"), ("Content-Length", length.as_str())];
    client.write((request("POST", "/oauth2/backchannel", &headers) + form).as_bytes());
    client.read_answer_to("POST")
}
