//! What clients, other routes and odd issuers could make of sessions.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    World,
    forger::{Forger, post},
};
use crate::{
    policies::tokens::now,
    support::{Browser, Client, Gateway, Upstream, eventually, request},
};

const SCRIPT: [(&str, &str); 1] = [("Accept", "application/json")];

/// More routes with the same client as `{oidc}`.
const OTHERS: &str = "  - { name: api, match: { path: { prefix: /api } }, policies: [{ oidc: { issuer: ISSUER, redirect_uri: \"http://127.0.0.1:1/oauth2/callback\", client_id: web, client_secret: secret, session_secret: \"0123456789abcdef0123456789abcdef\", forward: access_token, unauthenticated: refuse } }], upstream: up }
  - { name: more, match: { path: { prefix: /more } }, policies: [{ oidc: { issuer: ISSUER, redirect_uri: \"http://127.0.0.1:1/oauth2/callback\", client_id: web, client_secret: secret, session_secret: \"0123456789abcdef0123456789abcdef\", scopes: [openid, profile], unauthenticated: refuse } }], upstream: up }
  - { name: open, match: { path: { prefix: /open } }, public: true, upstream: up }";

/// A gateway with those.
fn with_others(forger: &Forger, more: &str, up: &Upstream) -> (Gateway, String) {
    let others = OTHERS.replace("ISSUER", &format!("\"{}\"", forger.issuer()));
    super::gateway_with(&forger.issuer(), more, "{oidc}", &others, up)
}

/// Tokens that are stale at once, and can be refreshed.
fn stale() -> Value {
    json!({ "expires_in": 1, "refresh_token": "r-1" })
}

/// Waits until the tokens are stale.
fn pass_time() {
    std::thread::sleep(Duration::from_millis(1_100));
}

#[test]
fn upstreams_get_the_token_of_the_session_and_never_one_of_the_clients() {
    let (forger, up) = (Forger::start(), Upstream::named("up"));
    let (_gateway, origin) = with_others(&forger, "", &up);
    let (_, mut browser) = forger.log_in(&origin, json!({}), json!({}), None);
    let sent = [SCRIPT[0], ("Authorization", "Bearer forged")];
    assert_eq!(browser.exchange_with("GET", &format!("{origin}/api"), &sent, "").status, 200);
    assert_eq!(up.last().header("authorization"), Some("Bearer a"));
    // A login for less does not count where more is asked for.
    assert_eq!(browser.exchange_with("GET", &format!("{origin}/more"), &sent, "").status, 401);

    // Where no route passes tokens on, they are not kept: a session from before such a route is no session there.
    let (gateway, origin) = super::gateway(&forger.issuer(), "", "{oidc}", &up);
    let (_, mut browser) = forger.log_in(&origin, json!({}), json!({}), None);
    let file = std::fs::read_to_string(gateway.file()).unwrap();
    gateway.reload(&file.replace("login_path:", "forward: access_token, login_path:"));
    let seen = up.seen().len();
    assert_eq!(browser.exchange_with("GET", &origin, &sent, "").status, 401);
    assert_eq!(up.seen().len(), seen);
}

#[test]
fn no_upstream_gets_a_session_on_no_route() {
    let (forger, up) = (Forger::start(), Upstream::named("up"));
    let (_gateway, origin) = with_others(&forger, "", &up);
    let (_, mut browser) = forger.log_in(&origin, json!({}), json!({}), None);
    browser.exchange("GET", &format!("{origin}/orders"), "");
    let own = [("Cookie", "theme=dark")];
    for path in ["/open", "/", "/api"] {
        assert_eq!(browser.exchange_with("GET", &format!("{origin}{path}"), &own, "").status, 200, "{path}");
        assert_eq!(up.last().header("cookie"), Some("theme=dark"), "{path}");
    }
}

#[test]
fn whoever_is_known_is_not_sent_to_the_login() {
    let (forger, up) = (Forger::start(), Upstream::named("up"));
    let (gateway, _) = super::gateway(&forger.issuer(), "", "{ any_of: [{ api_key: {} }, {oidc}] }", &up);
    for host in ["test", "127.0.0.1"] {
        let headers = [("Host", host), ("Accept", "text/html"), ("X-Api-Key", "key-1")];
        assert_eq!(gateway.send("GET", "/", &headers).status, 200, "{host}");
    }
}

#[test]
fn a_session_is_refreshed_once_whatever_routes_want_it_and_whatever_is_reloaded() {
    let (forger, up) = (Forger::start(), Upstream::named("up"));
    let (gateway, origin) = with_others(&forger, "", &up);
    let (_, browser) = forger.log_in(&origin, json!({}), stale(), None);
    pass_time();
    forger.say(|says| {
        says.delays.1 = Duration::from_millis(500);
        says.answer = json!({ "refresh_token": "r-2" });
    });
    let cookies = browser.cookies(origin.strip_prefix("http://").unwrap());
    let mut clients: Vec<Client> = (0..6).map(|_| gateway.client()).collect();
    for (client, path) in clients.iter_mut().zip(["/", "/api", "/", "/api", "/", "/api"]) {
        client.write(request("GET", path, &[("Cookie", &cookies)]).as_bytes());
    }
    assert!(clients.iter_mut().all(|client| client.read().status == 200));
    let file = std::fs::read_to_string(gateway.file()).unwrap();
    gateway.reload(&file.replace("mobile:", "another:"));
    assert_eq!(gateway.send("GET", "/", &[("Cookie", &cookies)]).status, 200);
    assert_eq!(forger.refreshed(), 1);
}

#[test]
fn an_issuer_that_hangs_holds_everyone_up_once_and_is_not_asked_by_each() {
    let (forger, up) = (Forger::start(), Upstream::named("up"));
    let (gateway, origin) = super::gateway(&forger.issuer(), "", "{oidc}", &up);
    let (_, browser) = forger.log_in(&origin, json!({}), stale(), None);
    pass_time();
    forger.say(|says| says.delays.1 = Duration::from_secs(20));
    let cookies = browser.cookies(origin.strip_prefix("http://").unwrap());
    let mut clients: Vec<Client> = (0..6).map(|_| gateway.client()).collect();
    let began = Instant::now();
    for client in &mut clients {
        client.write(request("GET", "/", &[("Cookie", &cookies)]).as_bytes());
    }
    assert!(clients.iter_mut().all(|client| client.read().status == 503));
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert_eq!(forger.refreshed(), 1);
}

#[test]
fn codes_without_end_keep_nobody_from_a_refresh() {
    let (forger, up) = (Forger::start(), Upstream::named("up"));
    let (gateway, origin) = super::gateway(&forger.issuer(), "", "{oidc}", &up);
    let (_, mut browser) = forger.log_in(&origin, json!({}), stale(), None);
    pass_time();
    forger.say(|says| says.delays.0 = Duration::from_secs(3));
    let authority = origin.strip_prefix("http://").unwrap();
    let mut flood: Vec<Client> = (0..60)
        .map(|_| {
            let mut other = Browser::default();
            let to = other.exchange("GET", &format!("{origin}/"), "");
            let state = super::forger::parameter(to.header("location").unwrap(), "state");
            let mut client = gateway.client();
            let cookies = other.cookies(authority);
            let target = format!("/oauth2/callback?code=junk&state={state}");
            client.write(request("GET", &target, &[("Host", authority), ("Cookie", &cookies)]).as_bytes());
            client
        })
        .collect();
    let began = Instant::now();
    assert_eq!(browser.exchange("GET", &format!("{origin}/"), "").status, 200);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // Of one address a few are asked about at a time, and nobody waits for longer than a turn may take.
    let answers: Vec<_> = flood.iter_mut().map(Client::read).collect();
    let busy: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert!(busy.len() >= 40, "{}", busy.len());
    // Whoever was not asked about has its login still.
    assert!(busy.iter().all(|answer| answer.header("set-cookie").is_none()), "{busy:?}");
}

#[test]
fn what_an_issuer_does_not_refresh_is_over_and_it_is_not_asked_again() {
    for answer in [r#"{"error":"invalid_grant"}"#, r#"{"error":"interaction_required"}"#, "no JSON"] {
        let (forger, up) = (Forger::start(), Upstream::named("up"));
        let (gateway, origin) = super::gateway(&forger.issuer(), "", "{oidc}", &up);
        let (_, browser) = forger.log_in(&origin, json!({}), stale(), None);
        pass_time();
        forger.say(|says| says.refusal = Some((400, answer)));
        for _ in 0..5 {
            assert_eq!(browser.clone().exchange("GET", &format!("{origin}/"), "").status, 302, "{answer}");
        }
        assert_eq!(forger.refreshed(), 1, "{answer}");
        let why = "\"answered_by\":\"oidc\",\"reason\":\"the issuer does not refresh the session any more\"";
        eventually("the log says why", || gateway.log().contains(why));
    }
    // What says nothing about the session leaves it.
    for (status, answer) in [(500, "{}"), (429, "{}"), (401, r#"{"error":"invalid_client"}"#)] {
        let (forger, up) = (Forger::start(), Upstream::named("up"));
        let (gateway, origin) = super::gateway(&forger.issuer(), "", "{oidc}", &up);
        let (_, mut browser) = forger.log_in(&origin, json!({}), stale(), None);
        pass_time();
        forger.say(|says| says.refusal = Some((status, answer)));
        assert_eq!(browser.exchange("GET", &format!("{origin}/"), "").status, 503, "{status}");
        eventually("the log says so", || gateway.log().contains("does not give tokens"));
    }
}

#[test]
fn a_refresh_that_lies_ends_the_session_for_all_at_once() {
    for claims in [json!({ "exp": 1 }), json!({ "sub": "mallory" }), json!({ "nonce": "another" })] {
        let (forger, up) = (Forger::start(), Upstream::named("up"));
        let (_gateway, origin) = super::gateway(&forger.issuer(), "", "{oidc}", &up);
        let (_, browser) = forger.log_in(&origin, json!({}), stale(), None);
        pass_time();
        forger.say(|says| (says.claims, says.answer) = (claims.clone(), json!({ "refresh_token": "r-2" })));
        for _ in 0..4 {
            assert_eq!(browser.clone().exchange("GET", &format!("{origin}/"), "").status, 302, "{claims}");
        }
        assert_eq!((forger.refreshed(), forger.revoked()), (1, 1), "{claims}");
    }
}

#[test]
fn an_answer_with_a_session_is_kept_by_nobody_whatever_the_policies() {
    let forger = Forger::start();
    for (policies, said, kept) in [
        ("{oidc}", "public, max-age=3600", "private, no-cache"),
        ("{ any_of: [{ api_key: {} }, {oidc}] }", "public, max-age=3600", "private, no-cache"),
        ("{oidc}", "private=\"x-foo\"", "private, no-cache"),
        ("{oidc}", "no-store", "no-store"),
    ] {
        let up = Upstream::start(move |_| crate::support::Reply::ok("up").header("cache-control", said));
        let (_gateway, origin) = super::gateway(&forger.issuer(), "", policies, &up);
        let (_, mut browser) = forger.log_in(&origin, json!({}), stale(), None);
        pass_time();
        let answer = browser.exchange("GET", &format!("{origin}/"), "");
        assert!(answer.header("set-cookie").is_some(), "{answer:?}");
        assert_eq!(answer.header("cache-control"), Some(kept), "{policies} {said}");
    }
}

#[test]
fn without_a_refresh_token_a_session_has_its_own_time_unless_a_token_is_passed_on() {
    for (more, status) in [("", 200), (", forward: access_token", 401), (", forward: id_token", 401)] {
        let (forger, up) = (Forger::start(), Upstream::named("up"));
        let (_gateway, origin) = super::gateway(&forger.issuer(), more, "{oidc}", &up);
        let claims = json!({ "exp": now() + 2 });
        let (_, mut browser) = forger.log_in(&origin, claims, json!({ "expires_in": "1" }), None);
        std::thread::sleep(Duration::from_millis(2_100));
        assert_eq!(browser.exchange_with("GET", &format!("{origin}/"), &SCRIPT, "").status, status, "{more}");
    }
}

/// A token that ends sessions.
fn ends(forger: &Forger, name: &str, others: &Value) -> String {
    let event = json!({ "http://schemas.openid.net/event/backchannel-logout": {} });
    let mut claims =
        json!({ "iss": forger.issuer(), "aud": "web", "jti": name, "iat": now(), "exp": now() + 60, "events": event });
    super::forger::merge(&mut claims, others);
    format!("logout_token={}", forger.signer.token("k", &claims))
}

#[test]
fn the_issuer_ends_sessions_whatever_their_tokens_are_called() {
    let (forger, up) = (Forger::start(), Upstream::named("up"));
    let (gateway, origin) = super::gateway(&forger.issuer(), "", "{oidc}", &up);
    let is_in =
        |browser: &Browser| browser.clone().exchange_with("GET", &format!("{origin}/"), &SCRIPT, "").status == 200;
    // The name of the session is in the first token alone.
    let (_, mut named) = forger.log_in(&origin, json!({ "sid": "s-1" }), stale(), None);
    let (_, mut nameless) = forger.log_in(&origin, json!({}), json!({}), None);
    let (_, bob) = forger.log_in(&origin, json!({ "sub": "bob" }), json!({}), None);
    pass_time();
    forger.say(|says| (says.claims, says.answer) = (json!({ "nonce": null }), json!({})));
    assert_eq!(named.exchange("GET", &format!("{origin}/"), "").status, 200);
    assert_eq!(forger.refreshed(), 1);
    assert_eq!(post(&gateway, &ends(&forger, "1", &json!({ "sid": "s-1" }))).status, 200);
    assert_eq!((is_in(&named), is_in(&nameless), is_in(&bob)), (false, true, true));
    assert_eq!(post(&gateway, &ends(&forger, "2", &json!({ "sid": "s-2", "sub": "alice" }))).status, 200);
    assert_eq!((is_in(&nameless), is_in(&bob)), (false, true));
    nameless.exchange("GET", &format!("{origin}/"), "");
    // Who logs in again afterwards is in, also where the issuer has the same names again.
    pass_time();
    let (_, again) = forger.log_in(&origin, json!({}), json!({}), None);
    let (_, same) = forger.log_in(&origin, json!({ "sid": "s-1" }), json!({}), None);
    assert_eq!((is_in(&again), is_in(&same)), (true, true));
    assert_eq!(post(&gateway, &ends(&forger, "3", &json!({ "sub": "bob" }))).status, 200);
    assert!(!is_in(&bob));

    // An issuer that waits for `100 Continue` is not kept waiting.
    let (_, last) = forger.log_in(&origin, json!({ "sid": "s-9" }), json!({}), None);
    let form = ends(&forger, "4", &json!({ "sid": "s-9" }));
    let (mut client, length) = (gateway.client(), form.len().to_string());
    let head = [("Expect", "100-continue"), ("Content-Length", length.as_str())];
    client.write(request("POST", "/oauth2/backchannel", &head).as_bytes());
    client.set_timeout(Duration::from_secs(5));
    while !client.peeked().starts_with(b"HTTP/1.1 100") {
        assert!(client.more().is_some(), "no 100 Continue");
    }
    client.write(form.as_bytes());
    assert_eq!(client.read_answer_to("POST").status, 200);
    assert!(!is_in(&last));
}

#[test]
fn only_the_user_logs_out_and_once() {
    let (forger, up) = (Forger::start(), Upstream::named("up"));
    let (gateway, origin) = super::gateway(&forger.issuer(), "", "{oidc}", &up);
    let (_, browser) = forger.log_in(&origin, json!({}), json!({ "refresh_token": "r" }), None);
    let url = format!("{origin}/oauth2/logout");
    for odd in [("Sec-Fetch-Site", "cross-site"), ("Sec-Purpose", "prefetch;prerender"), ("Purpose", "prefetch")] {
        assert_eq!(browser.clone().exchange_with("GET", &url, &[odd], "").problem(), "forbidden");
    }
    assert_eq!(browser.clone().exchange("GET", &format!("{origin}/"), "").status, 200);
    for _ in 0..4 {
        assert_eq!(browser.clone().exchange_with("GET", &url, &[("Sec-Fetch-Site", "same-origin")], "").status, 303);
    }
    assert_eq!(forger.revoked(), 1);
    let event = |event: &str| {
        gateway.metric(&format!("torana_sessions_total{{event=\"{event}\",issuer=\"{}\"}}", forger.issuer()))
    };
    assert_eq!((event("login"), event("logout")), (1.0, 1.0));
    assert!(gateway.log().contains("`alice` of") && gateway.log().contains("has logged out"), "{}", gateway.log());
}

#[test]
fn a_shadow_changes_nothing() {
    let (forger, up) = (Forger::start(), Upstream::named("up"));
    let shadow = "{ mode: shadow, oidc: { issuer: \"ISSUER\", redirect_uri: \"http://127.0.0.1:1/cb\", client_id: web, session_secret: \"0123456789abcdef0123456789abcdef\" } }";
    let (gateway, _) = super::gateway(&forger.issuer(), "", &shadow.replace("ISSUER", &forger.issuer()), &up);
    for path in ["/", "/cb?code=a&state=b"] {
        let answer = gateway.send("GET", path, &[("Host", "127.0.0.1"), ("Accept", "text/html")]);
        assert_eq!((answer.status, answer.header("set-cookie"), answer.header("cache-control")), (200, None, None));
    }
    eventually("it is counted", || gateway.log().contains("\"would_reject\":\"unauthenticated\""));
}

#[test]
fn the_log_says_why_a_session_does_not_count() {
    let world = World::start(60, "");
    let mut browser = Browser::default();
    world.log_in(&mut browser, "/", "alice");
    let (name, good) = world.session(&browser).first().unwrap().clone();
    for (cookie, why) in [
        (String::new(), "the request has no session"),
        (format!("{name}={good}; {name}={good}"), "the cookie of the session is not whole"),
        (format!("{name}={good}A"), "the session cannot be decrypted"),
    ] {
        let headers = [("Host", world.authority()), ("Cookie", cookie.as_str()), ("Accept", "text/html")];
        assert_eq!(world.gateway.send("GET", "/", &headers).status, 302);
        eventually(why, || world.gateway.log().contains(&format!("\"answered_by\":\"oidc\",\"reason\":\"{why}")));
    }
    eventually("and who logged in", || world.gateway.log().contains("has logged in"));
}

#[test]
fn pages_for_everyone_stand_beside_a_login_for_every_route() {
    let (forger, up) = (Forger::start(), Upstream::named("up"));
    let file = |origin: &str| {
        format!(
            "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
policies: [{{ oidc: {{ issuer: \"{}\", redirect_uri: \"{origin}/oauth2/callback\", {} }} }}, {{ groups: {{ any: [staff] }} }}]
routes:
  - {{ name: r, match: {{ path: {{ prefix: / }} }}, upstream: up }}
  - {{ name: health, match: {{ path: /healthz }}, public: true, upstream: up }}\n",
            up.address(),
            forger.issuer(),
            super::COMMON
        )
    };
    let gateway = Gateway::start(&file("http://127.0.0.1:1"));
    assert_eq!((gateway.get("/healthz").status, gateway.get("/").status), (200, 401));
}
