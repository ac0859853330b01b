//! Row D13: answers of an issuer that were not asked for here, came before, or lie.

use jsonwebtoken::Algorithm::{ES256, HS256};
use serde_json::{Value, json};

use super::{
    World,
    forger::{Forger, merge, parameter, post},
};
use crate::{
    policies::{
        KEPT,
        tokens::{SECRET, Signer, now},
    },
    support::{Browser, Response, Upstream, http2, web_socket::UPGRADE},
};

#[test]
fn d13_an_answer_counts_once_and_only_in_the_browser_that_asked() {
    let world = World::start(60, "");
    let mut browser = Browser::default();
    let page = world.log_in_until(&mut browser, "/", "alice", "/oauth2/callback");
    let answer = page.url;
    let refused = |browser: &mut Browser, url: &str| {
        let refused = browser.exchange("GET", url, "");
        assert_eq!((refused.status, refused.problem().as_str()), (401, "unauthenticated"), "{url}");
        assert!(world.session(browser).is_empty());
    };
    refused(&mut Browser::default(), &answer);
    let mut other = Browser::default();
    assert_eq!(other.exchange("GET", &world.url("/"), "").status, 302);
    refused(&mut other, &answer);

    let mut twin = browser.clone();
    assert_eq!(browser.exchange("GET", &answer, "").status, 303);
    assert_eq!(world.session(&browser).len(), 1);
    // The same answer, with the same cookie; and the same code in a login of one's own.
    refused(&mut twin, &answer);
    let mut thief = Browser::default();
    let to = thief.exchange("GET", &world.url("/"), "");
    let state = parameter(to.header("location").unwrap(), "state");
    let code = parameter(&answer, "code");
    let iss = parameter(&answer, "iss");
    refused(&mut thief, &world.url(&format!("/oauth2/callback?code={code}&state={state}&iss={iss}")));
    assert!(world.up.seen().is_empty());
}

#[test]
fn d13_answers_that_are_not_whole_are_none() {
    let world = World::start(60, "");
    for answer in [
        "",
        "?",
        "?code=a",
        "?state=b",
        "?code=a&state=STATE",
        "?code=a&state=STATE&iss=https://evil.example",
        "?code=a&code=b&state=STATE&iss=ISS",
        "?code=a&state=STATE&state=STATE&iss=ISS",
        "?code=&state=STATE&iss=ISS",
        "?code=%ff&state=STATE&iss=ISS",
        "?code=made-up&state=STATE&iss=ISS",
        "?code=a&state=STATEx&iss=ISS",
    ] {
        let mut browser = Browser::default();
        let to = browser.exchange("GET", &world.url("/"), "");
        let state = parameter(to.header("location").unwrap(), "state");
        let answer = answer.replace("STATE", &state).replace("ISS", &world.provider.issuer());
        let refused = browser.exchange("GET", &world.url(&format!("/oauth2/callback{answer}")), "");
        assert_eq!((refused.status, refused.problem().as_str()), (401, "unauthenticated"), "{answer}");
    }
    let mut browser = Browser::default();
    let to = browser.exchange("GET", &world.url("/"), "");
    let state = parameter(to.header("location").unwrap(), "state");
    let declined = format!("/oauth2/callback?error=access_denied&state={state}&iss={}", world.provider.issuer());
    assert_eq!(browser.exchange("GET", &world.url(&declined), "").problem(), "forbidden");
    for method in ["POST", "PUT", "HEAD"] {
        assert_eq!(browser.exchange(method, &world.url("/oauth2/callback?code=a"), "").status, 405);
    }
    assert!(world.up.seen().is_empty());
}

#[test]
fn d13_no_form_of_a_request_is_a_way_around_the_login() {
    let world = World::with(60, "", &format!("{{oidc}}{KEPT}"));
    assert_eq!(world.log_in(&mut Browser::default(), "/", "alice").response.status, 200);
    let junk = "/oauth2/callback?code=a&state=b";
    let upgrade = [&[("Host", world.authority())][..], &UPGRADE].concat();
    for (target, own) in [(junk, true), ("/", false)] {
        assert_eq!(http2::send(&world.gateway, "GET", target, &upgrade[..1], &[]).status, 401, "{target} over HTTP/2");
        assert_eq!(world.gateway.send("GET", target, &upgrade).status, 401, "{target} as an upgrade");
        for method in ["HEAD", "OPTIONS", "POST"] {
            let wanted = if own { 405 } else { 401 };
            let plain = world.gateway.send(method, target, &upgrade[..1]);
            let over_http2 = http2::send(&world.gateway, method, target, &upgrade[..1], &[]);
            assert_eq!((plain.status, over_http2.status), (wanted, wanted), "{method} {target}");
        }
    }
    assert_eq!(world.up.seen().len(), 1);
}

#[test]
fn d13_no_header_and_no_parameter_leads_anywhere_else() {
    let world = World::start(60, "");
    let page = ("Accept", "text/html");
    let home = ("Host", world.authority());
    let to = |answer: &Response| answer.header("location").unwrap_or_default().to_owned();
    for claim in [
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "gopher"),
        ("Forwarded", "host=evil.example"),
        ("X-Original-Url", "https://evil.example/"),
        ("Referer", "https://evil.example/"),
    ] {
        let answer = world.gateway.send("GET", "/", &[home, page, claim]);
        assert_eq!(answer.status, 302);
        let redirect = parameter(&to(&answer), "redirect_uri");
        assert_eq!(redirect, format!("{}%2Foauth2%2Fcallback", world.origin.replace(':', "%3A").replace('/', "%2F")));
    }
    for host in ["evil.example", "127.0.0.2", "localhost"] {
        let answer = world.gateway.send("GET", "/", &[("Host", host), page]);
        assert_eq!(answer.status, 400, "{host}");
        assert_eq!(world.gateway.send("GET", "/oauth2/callback?code=a&state=b", &[("Host", host), page]).status, 400);
    }
    for evil in [
        "//evil.example",
        "%2F%2Fevil.example",
        "/%5Cevil.example",
        "%2F%09%2Fevil.example",
        "https://evil.example/",
        "https%3A%2F%2Fevil.example",
        "javascript:alert(1)",
        "http://127.0.0.1@evil.example/",
        "/a&return_to=/b",
        "/%0d%0aSet-Cookie:%20a=b",
    ] {
        let answer = world.gateway.send("GET", &format!("/oauth2/login?return_to={evil}"), &[home, page]);
        assert_eq!((answer.status, answer.header("location")), (400, None), "{evil}");
    }
    // A path that looks like another host is one of this host.
    let mut browser = Browser::default();
    let done = world.log_in_until(&mut browser, "/oauth2/login?return_to=%2Forders%3Fa%3D%2F%2Fb", "alice", "/orders");
    assert_eq!(done.url, world.url("/orders?a=//b"));
}

#[test]
fn d13_a_token_for_another_login_client_or_time_is_none() {
    let (forger, up) = (Forger::start(), Upstream::named("up"));
    let (gateway, origin) = super::gateway(&forger.issuer(), "", "{oidc}", &up);
    let log_in = |claims: Value| forger.log_in(&origin, claims, json!({}), None).0.status;
    assert_eq!(log_in(json!({})), 303);
    assert_eq!(log_in(json!({ "aud": ["web", "other"], "azp": "web" })), 303);
    for claims in [
        json!({ "nonce": "another" }),
        json!({ "nonce": null }),
        json!({ "nonce": 7 }),
        json!({ "aud": "other" }),
        json!({ "aud": ["web", "other"] }),
        json!({ "azp": "other" }),
        json!({ "aud": null }),
        json!({ "iss": "https://evil.example" }),
        json!({ "iss": null }),
        json!({ "exp": now() - 100 }),
        json!({ "exp": null }),
        json!({ "nbf": now() + 100 }),
        json!({ "sub": null }),
        json!({ "sub": "" }),
    ] {
        assert_eq!(log_in(claims.clone()), 401, "{claims}");
    }
    let (taken, _) = forger.log_in(&origin, json!({ "sub": "eve\nINFO forged line" }), json!({}), None);
    assert_eq!(taken.status, 303);
    crate::support::eventually("it is logged in one line", || gateway.log().contains("`eveINFO forged line` of"));
    let own = json!({ "iss": forger.issuer(), "aud": "web", "sub": "alice", "exp": now() + 60 });
    let stranger = Signer::new(ES256);
    for (what, token) in [
        ("another key", stranger.token("k", &own)),
        ("a shared secret", Signer::shared(HS256, SECRET).token("k", &own)),
        ("the client's secret", Signer::shared(HS256, "secret").token("k", &own)),
        ("no signature", format!("{}.", forger.signer.token("k", &own).rsplit_once('.').unwrap().0)),
        ("no token", "x".into()),
    ] {
        assert_eq!(forger.log_in(&origin, json!({}), json!({}), Some(token)).0.status, 401, "{what}");
    }
    assert!(up.seen().is_empty());
}

#[test]
fn what_an_issuer_answers_without_sense_is_its_fault_and_lets_nobody_in() {
    let (forger, up) = (Forger::start(), Upstream::named("up"));
    let (gateway, origin) = super::gateway(&forger.issuer(), ", forward: id_token", "{oidc}", &up);
    for answer in [
        json!({ "id_token": null }),
        json!({ "token_type": "mac" }),
        json!({ "access_token": null }),
        json!({ "expires_in": "soon" }),
    ] {
        let (refused, browser) = forger.log_in(&origin, json!({}), answer.clone(), None);
        assert_eq!((refused.status, refused.problem().as_str()), (503, "auth_unavailable"), "{answer}");
        assert!(browser.named(origin.strip_prefix("http://").unwrap(), "torana_session").is_empty());
    }
    // A large token makes a large session, and one that is too large none.
    let (taken, mut browser) = forger.log_in(&origin, json!({ "more": "x".repeat(5_000) }), json!({}), None);
    assert_eq!(taken.status, 303);
    let authority = origin.strip_prefix("http://").unwrap();
    assert_eq!(browser.named(authority, "torana_session").len(), 3);
    assert_eq!(browser.exchange("GET", &format!("{origin}/"), "").status, 200);
    assert!(up.last().header("authorization").unwrap().starts_with("Bearer ey"));
    assert_eq!(up.last().header("cookie"), None);
    let (refused, _) = forger.log_in(&origin, json!({ "more": "x".repeat(11_000) }), json!({}), None);
    assert_eq!(refused.problem(), "auth_unavailable");
    let reason = "too large for a session";
    crate::support::eventually("the log says why", || gateway.log().contains(reason));
}

#[test]
fn logout_tokens_have_to_be_what_they_should_be() {
    let (forger, up) = (Forger::start(), Upstream::named("up"));
    let (gateway, origin) = super::gateway(&forger.issuer(), "", "{oidc}", &up);
    let (_, mut browser) = forger.log_in(&origin, json!({ "sid": "s-1" }), json!({}), None);
    let events = json!({ "http://schemas.openid.net/event/backchannel-logout": {} });
    let good = json!({ "iss": forger.issuer(), "aud": "web", "sid": "s-1", "jti": "1", "iat": now(), "exp": now() + 60, "events": events });
    let send = |form: &str| post(&gateway, form).status;
    let is_in = |browser: &mut Browser| browser.exchange("GET", &format!("{origin}/"), "").status == 200;
    let sign = |others: Value| {
        let mut claims = good.clone();
        merge(&mut claims, &others);
        format!("logout_token={}", forger.signer.token("k", &claims))
    };
    for others in [
        json!({ "nonce": "n" }),
        json!({ "events": null }),
        json!({ "events": {} }),
        json!({ "events": { "http://schemas.openid.net/event/backchannel-logout": "yes" } }),
        json!({ "jti": null }),
        json!({ "iat": null }),
        json!({ "aud": "other" }),
        json!({ "iss": "https://evil.example" }),
        json!({ "exp": now() - 100 }),
        json!({ "sid": null, "jti": "2" }),
    ] {
        assert_eq!(send(&sign(others.clone())), 400, "{others}");
    }
    let stranger = format!("logout_token={}", Signer::new(ES256).token("k", &good));
    for form in ["", "logout_token=", "logout_token=x", "a=b", &stranger] {
        assert_eq!(send(form), 400, "{form}");
    }
    assert_eq!(send(&format!("logout_token={}", "x".repeat(40_000))), 413);
    assert!(is_in(&mut browser), "none of them counts");
    let token = sign(json!({}));
    assert_eq!((send(&format!("{token}&{token}")), send(&token)), (400, 200));
    assert!(!is_in(&mut browser));
    assert_eq!(send(&token), 400, "it came before");
    assert_eq!(gateway.get("/oauth2/backchannel").status, 405);
}
