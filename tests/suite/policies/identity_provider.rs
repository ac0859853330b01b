//! Tokens of a real identity provider: `jwt` by discovery, and `introspection`.

use std::net::SocketAddr;

use serde_json::Value;

use crate::{
    policies::{KEPT, no_way_around},
    support::{Client, Gateway, Response, Upstream, eventually, request, script::Script},
};

pub(super) struct Provider(Script);

impl Provider {
    /// Its tokens last for so many seconds.
    pub(super) fn start(lifetime: u64) -> Self {
        Self(Script::start("identity_provider.cjs", &[&lifetime.to_string()]))
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0.address()
    }

    pub(super) fn issuer(&self) -> String {
        format!("http://{}", self.address())
    }

    fn post(&self, path: &str, client: &str, form: &str) -> Response {
        let mut to = Client::connect(self.address());
        let credentials = crate::policies::callers::basic(client, "secret");
        let length = form.len().to_string();
        let headers = [
            ("Authorization", credentials.as_str()),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Content-Length", &length),
        ];
        to.write((request("POST", path, &headers) + form).as_bytes());
        to.read_answer_to("POST")
    }

    fn token(&self, client: &str, scope: &str) -> String {
        let form = format!("grant_type=client_credentials&scope={}", scope.replace(' ', "+"));
        let answer = self.post("/token", client, &form);
        let token = answer.json()["access_token"].as_str().map(str::to_owned);
        token.unwrap_or_else(|| panic!("{}", answer.text()))
    }

    /// It can be reached no more.
    pub(super) fn kill(&mut self) {
        self.0.kill();
    }

    /// Says where logins come back to.
    pub(super) fn serve(&self, origin: &str) {
        assert_eq!(Client::connect(self.address()).get(&format!("/_web?origin={origin}")).status, 200);
    }

    /// How many sessions were refreshed.
    pub(super) fn refreshed(&self) -> u32 {
        Client::connect(self.address()).get("/_refreshed").text().parse().unwrap()
    }

    /// How many questions about tokens there were.
    fn asked(&self) -> u32 {
        Client::connect(self.address()).get("/_asked").text().parse().unwrap()
    }
}

fn start(policies: &str, provider: &Provider, up: &Upstream) -> Gateway {
    Gateway::start(&format!(
        "telemetry: {{ access_log: {{}} }}
upstreams: {{ up: {{ endpoints: [\"{}\"] }}, idp: {{ endpoints: [\"{}\"] }} }}
consumers: {{ robot: {{ groups: [machines], tokens: [{{ issuer: \"{}\", subject: opaque }}] }} }}
routes: [{{ name: r, policies: [{policies}], upstream: up }}]
",
        up.address(),
        provider.address(),
        provider.issuer()
    ))
}

fn send(gateway: &Gateway, token: &str) -> Response {
    gateway.send("GET", "/", &[("Authorization", &format!("Bearer {token}"))])
}

#[test]
fn tokens_of_a_real_issuer_are_taken_through_a_change_of_keys_and_while_it_is_down() {
    let (mut provider, up) = (Provider::start(60), Upstream::named("up"));
    let issuer = provider.issuer();
    let gateway = start(
        &format!(
            "{{ jwt: {{ issuer: \"{issuer}\", audience: https://api.example, types: [at+jwt], algorithms: [RS256], refetch: 1s }} }}, \
             {{ scopes: {{ all: [\"api:read\"] }} }}, {{ claims: [{{ claim: roles, contains: reader }}] }}"
        ),
        &provider,
        &up,
    );
    let token = provider.token("service", "api:read api:write");
    assert_eq!(send(&gateway, &token).status, 200);
    let seen = up.last();
    assert_eq!(
        (seen.header("x-consumer-subject"), seen.header("x-consumer-issuer")),
        (Some("service"), Some(issuer.as_str()))
    );
    assert_eq!((seen.header("x-consumer-scopes"), seen.header("authorization")), (Some("api:read api:write"), None));
    assert_eq!(send(&gateway, &provider.token("service", "api:write")).problem(), "insufficient_scope");
    assert_eq!(send(&gateway, &provider.token("opaque", "api:read")).status, 401);

    assert_eq!(Client::connect(provider.address()).get("/_rotate").status, 200);
    let fresh = provider.token("service", "api:read");
    eventually("the new key is known", || send(&gateway, &fresh).status == 200);
    assert_eq!(send(&gateway, &token).status, 401, "its key is gone");

    let unseen = provider.token("service", "api:read");
    let age = gateway.metric(&format!("torana_key_set_fetched_timestamp_seconds{{source=\"{issuer}\"}}"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - 30.0..=now).contains(&age), "{age}");
    provider.kill();
    assert_eq!((send(&gateway, &fresh).status, send(&gateway, &unseen).status), (200, 200), "the keys are kept");
}

const INTROSPECTION: &str = "upstream: idp, path: /token/introspection, client_id: gateway, client_secret: secret";

#[test]
fn d11_a_token_is_asked_about_once_and_revoking_it_counts_within_the_time() {
    let (provider, up) = (Provider::start(60), Upstream::named("up"));
    let rule = format!(
        "{{ introspection: {{ {INTROSPECTION}, scopes: [\"api:read\"], remember: 2s, remember_inactive: 1h }} }}{KEPT}"
    );
    let gateway = start(&rule, &provider, &up);
    let token = provider.token("opaque", "api:read");
    for _ in 0..3 {
        assert_eq!(send(&gateway, &token).status, 200);
    }
    let seen = up.last();
    assert_eq!((seen.header("x-consumer-id"), seen.header("x-consumer-groups")), (Some("robot"), Some("machines")));
    assert_eq!(seen.header("authorization"), None);
    assert!(provider.asked() <= 2, "{}", provider.asked());
    assert_eq!(send(&gateway, &provider.token("opaque", "api:write")).problem(), "insufficient_scope");
    let before = provider.asked();
    for _ in 0..3 {
        let refused = send(&gateway, "made-up");
        assert_eq!((refused.status, refused.problem().as_str()), (401, "unauthenticated"));
    }
    no_way_around(&gateway, &up, &[("Authorization", "Bearer made-up")], 401);
    assert_eq!(provider.asked(), before + 1, "also that it is none");

    assert_eq!(provider.post("/token/revocation", "opaque", &format!("token={token}")).status, 200);
    eventually("it is refused", || send(&gateway, &token).status == 401);
    no_way_around(&gateway, &up, &[("Authorization", &format!("Bearer {token}"))], 401);
}

#[test]
fn many_requests_with_one_token_ask_once_and_an_issuer_that_is_down_refuses_nobody_it_knows() {
    let (mut provider, up) = (Provider::start(60), Upstream::named("up"));
    let gateway = start(&format!("{{ introspection: {{ {INTROSPECTION} }} }}"), &provider, &up);
    let (token, other) = (provider.token("opaque", "api:read"), provider.token("opaque", "api:read"));
    let mut clients: Vec<Client> = (0..50).map(|_| gateway.client()).collect();
    let bearer = format!("Bearer {token}");
    for client in &mut clients {
        client.write(request("GET", "/", &[("Authorization", &bearer)]).as_bytes());
    }
    assert!(clients.iter_mut().all(|client| client.read().status == 200));
    assert_eq!(provider.asked(), 1);
    provider.kill();
    assert_eq!(send(&gateway, &token).status, 200, "it is remembered");
    let unknown = send(&gateway, &other);
    assert_eq!((unknown.status, unknown.problem().as_str()), (503, "auth_unavailable"));
    assert_eq!(unknown.header("retry-after"), Some("1"));
}

#[test]
fn what_is_no_answer_lets_nobody_in() {
    let up = Upstream::named("up");
    for (status, body, wanted) in [
        (200, r#"{"active": true, "iss": "https://idp", "aud": ["orders"], "sub": "a"}"#, 200),
        (200, r#"{"active": true, "aud": "orders"}"#, 200),
        (200, r#"{"active": true, "aud": "orders", "iss": "https://other"}"#, 401),
        (200, r#"{"active": true, "aud": "other"}"#, 401),
        (200, r#"{"active": true, "aud": "orders", "exp": 1000000000}"#, 401),
        (200, r#"{"active": true, "aud": "orders", "exp": "later"}"#, 401),
        (200, r#"{"active": false}"#, 401),
        (200, r#"{"active": "true", "aud": "orders"}"#, 503),
        (200, r#"{"active": true, "active": false, "aud": "orders"}"#, 503),
        (200, r#"{"aud": "orders"}"#, 503),
        (200, "<html>", 503),
        (200, "", 503),
        (401, r#"{"active": true, "aud": "orders"}"#, 503),
        (302, r#"{"active": true, "aud": "orders"}"#, 503),
        (500, r#"{"active": true, "aud": "orders"}"#, 503),
    ] {
        let idp = Upstream::start(move |_| crate::support::Reply::new(status, body));
        let gateway = Gateway::start(&format!(
            "upstreams: {{ up: {{ endpoints: [\"{}\"] }}, idp: {{ endpoints: [\"{}\"] }} }}
routes: [{{ name: r, policies: [{{ introspection: {{ {INTROSPECTION}, issuer: \"https://idp\", audience: orders }} }}], upstream: up }}]\n",
            up.address(),
            idp.address()
        ));
        assert_eq!(send(&gateway, "a token & more=x").status, wanted, "{status} {body}");
        let asked = idp.only();
        assert_eq!(asked.body, b"token=a%20token%20%26%20more%3Dx&token_type_hint=access_token");
        let said: Value = serde_json::json!([asked.header("authorization"), asked.header("content-type")]);
        assert_eq!(said, serde_json::json!(["Basic Z2F0ZXdheTpzZWNyZXQ=", "application/x-www-form-urlencoded"]));
    }
}

#[test]
fn an_issuer_that_does_not_answer_holds_nobody_up_for_longer_than_the_file_says() {
    let up = Upstream::named("up");
    let idp = Upstream::start(|_| crate::support::Reply::ok("{}").after(std::time::Duration::from_secs(8)));
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }}, idp: {{ endpoints: [\"{}\"] }} }}
routes: [{{ name: r, policies: [{{ introspection: {{ {INTROSPECTION}, timeout: 500ms }} }}], upstream: up }}]\n",
        up.address(),
        idp.address()
    ));
    let began = std::time::Instant::now();
    let mut clients: Vec<Client> = (0..20).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.write(request("GET", "/", &[("Authorization", "Bearer one-and-the-same")]).as_bytes());
    }
    assert!(clients.iter_mut().all(|client| client.read().problem() == "auth_unavailable"));
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
}
