//! Logins at a real issuer.

use serde_json::Value;

use super::World;
use crate::support::{Authority, Browser, Gateway, Upstream, eventually, script, web_socket::UPGRADE};

#[test]
fn a_browser_logs_in_once_and_comes_back_to_the_page_that_it_wanted() {
    let world = World::start(60, ", scopes: [openid, profile]");
    let mut browser = Browser::default();
    let page = world.log_in(&mut browser, "/orders?day=1&x=%2F", "alice");
    assert_eq!((page.response.status, page.response.text().as_str()), (200, "up"));
    assert_eq!(page.url, world.url("/orders?day=1&x=%2F"));
    let seen = world.up.last();
    assert_eq!((seen.header("x-consumer-id"), seen.header("x-consumer-groups")), (Some("alice"), Some("staff")));
    assert_eq!(seen.header("x-consumer-subject"), Some("alice"));
    assert_eq!(seen.header("x-consumer-scopes"), Some("openid profile"));
    assert_eq!((seen.header("cookie"), seen.header("authorization")), (None, None));
    let sent_off = page.trail.iter().find(|url| url.contains("/oauth2/callback?")).unwrap();
    assert!(sent_off.contains("state=") && sent_off.contains("code=") && sent_off.contains("iss="), "{sent_off}");

    // The session is enough from now on, for everything.
    let again = browser.open(&world.url("/other"));
    assert_eq!((again.response.status, again.trail.len()), (200, 0));
    let posted = browser.exchange_with("POST", &world.url("/other"), &[], "a=b");
    assert_eq!((posted.status, world.up.last().method.as_str()), (200, "POST"));
    assert!(browser.named(world.authority(), "torana_session_login").is_empty(), "logins are put away");
    let log = world.gateway.log();
    for (_, secret) in world.session(&browser) {
        assert!(!log.contains(&secret), "the session is in the log");
    }
    assert!(!log.contains("0123456789abcdef0123"), "{log}");
    assert!(!log.contains("code=") || log.contains("code=***"), "{log}");
}

#[test]
fn only_who_opens_a_page_is_sent_to_the_login() {
    let world = World::start(60, "");
    let page = [("Accept", "text/html")];
    let send = |method: &str, headers: &[(&str, &str)]| {
        let host = [("Host", world.authority())];
        world.gateway.send(method, "/", &[&host, headers].concat())
    };
    let login = send("GET", &page);
    assert_eq!((login.status, login.header("cache-control")), (302, Some("no-store")));
    let upgrade = [&UPGRADE[..], &page].concat();
    for (method, headers) in [
        ("GET", &[][..]),
        ("GET", &[("Accept", "application/json")]),
        ("GET", &[("Accept", "text/html"), ("Sec-Fetch-Mode", "cors")]),
        ("GET", &[("Accept", "text/html"), ("X-Requested-With", "XMLHttpRequest")]),
        ("POST", &page),
        ("HEAD", &page),
        ("OPTIONS", &page),
        ("GET", &upgrade),
    ] {
        let refused = send(method, headers);
        assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Cookie realm=\"torana\"")));
    }
    assert_eq!(world.gateway.send("GET", "/", &[("Host", "evil.example"), page[0]]).status, 400);
    assert!(world.up.seen().is_empty());
}

#[test]
fn sessions_are_refreshed_by_one_request_for_all_and_end_when_the_issuer_says_so() {
    let mut world = World::start(4, ", forward: access_token");
    let mut browser = Browser::default();
    assert_eq!(world.log_in(&mut browser, "/", "alice").response.status, 200);
    let first = world.up.last().header("authorization").unwrap().to_owned();
    assert!(first.starts_with("Bearer "), "{first}");
    let before = world.session(&browser);
    // What is sent is the old session, until all have the fresh one.
    eventually("the token is stale", || {
        browser
            .clone()
            .open(&world.url("/"))
            .response
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("set-cookie"))
    });
    let mut all: Vec<Browser> = (0..8).map(|_| browser.clone()).collect();
    for one in &mut all {
        assert_eq!(one.open(&world.url("/")).response.status, 200);
        assert_ne!(world.session(one), before);
    }
    assert_eq!(world.provider.refreshed(), 1);
    let fresh = world.up.last().header("authorization").unwrap().to_owned();
    assert!(fresh.starts_with("Bearer ") && fresh != first, "{fresh}");

    // Without the issuer the session stays, and nothing passes that it would have to refresh.
    let mut last = all.pop().unwrap();
    world.provider.kill();
    let down = |browser: &mut Browser, gateway: &str| browser.exchange("GET", gateway, "");
    let url = world.url("/");
    eventually("the token is stale again", || down(&mut last, &url).status == 503);
    assert_eq!(down(&mut last, &url).problem(), "auth_unavailable");
    assert!(!world.session(&last).is_empty());
}

#[test]
fn who_logs_out_is_out_everywhere() {
    let world = World::start(60, "");
    let mut browser = Browser::default();
    world.log_in(&mut browser, "/", "alice");
    let mut copy = browser.clone();
    let page = browser.open(&world.url("/oauth2/logout"));
    assert!(page.url.contains("/session/end?client_id=web&id_token_hint=ey"), "{page:?}");
    assert!(
        page.url
            .contains(&format!("post_logout_redirect_uri=http%3A%2F%2F{}%2F", world.authority().replace(':', "%3A")))
    );
    let page = browser.submit(&page, "logout=yes", "\n");
    assert!(page.trail.iter().any(|url| *url == world.url("/")), "back home, and from there to the login: {page:?}");
    assert!(page.response.text().contains("name=\"login\""), "{page:?}");
    assert!(world.session(&browser).is_empty());
    // A session that somebody copied before is worth nothing.
    let headers = [("Accept", "application/json")];
    assert_eq!(copy.exchange_with("GET", &world.url("/"), &headers, "").status, 401);
    assert_eq!(
        browser.exchange("GET", &world.url("/oauth2/logout"), "").header("location"),
        Some(world.url("/").as_str())
    );
}

#[test]
fn the_issuer_ends_sessions_without_the_browser() {
    let world = World::start(60, "");
    let (mut here, mut there) = (Browser::default(), Browser::default());
    world.log_in(&mut here, "/", "alice");
    world.log_in(&mut there, "/", "alice");
    // One browser logs out at the issuer alone, which tells the gateway.
    let page = here.open(&format!("{}/session/end", world.provider.issuer()));
    here.submit(&page, "logout=yes", "\n");
    let headers = [("Accept", "application/json")];
    let url = world.url("/");
    eventually("the session is over", || here.exchange_with("GET", &url, &headers, "").status == 401);
    assert_eq!(there.exchange_with("GET", &url, &headers, "").status, 200, "it was not this one");
}

#[test]
fn a_process_that_takes_over_knows_who_is_logged_in_and_who_is_out() {
    let (provider, up) = (super::Provider::start(60), Upstream::named("up"));
    let file = |origin: &str| {
        format!(
            "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
routes: [{{ name: r, match: {{ path: {{ prefix: / }} }}, policies: [{{ oidc: {{ issuer: \"{}\", redirect_uri: \"{origin}/oauth2/callback\", {} }} }}], upstream: up }}]\n",
            up.address(),
            provider.issuer(),
            super::COMMON
        )
    };
    let gateway = Gateway::replaceable(&file("http://127.0.0.1:1"));
    let origin = format!("http://{}", gateway.address());
    gateway.reload(&file(&origin));
    provider.serve(&origin);
    let mut world = World { provider, up, gateway, origin };
    let (mut stays, mut goes) = (Browser::default(), Browser::default());
    world.log_in(&mut stays, "/", "alice");
    world.log_in(&mut goes, "/", "bob");
    let mut copy = goes.clone();
    goes.exchange("GET", &world.url("/oauth2/logout"), "");
    world.gateway.upgrade();
    let headers = [("Accept", "application/json")];
    let url = world.url("/");
    // The issuer is down: what is known of it was handed on.
    world.provider.kill();
    assert_eq!(stays.exchange_with("GET", &url, &headers, "").status, 200);
    assert_eq!(copy.exchange_with("GET", &url, &headers, "").status, 401);
    assert_eq!(Browser::default().exchange("GET", &url, "").status, 302);
}

#[test]
fn other_credentials_stand_beside_the_login() {
    let world = World::with(60, "", "{ any_of: [{ api_key: {} }, {oidc}] }");
    assert_eq!(world.gateway.send("GET", "/", &[("X-Api-Key", "key-1")]).status, 200);
    assert_eq!(world.up.last().header("x-consumer-id"), Some("mobile"));
    assert_eq!(world.gateway.send("GET", "/", &[("X-Api-Key", "key-2")]).status, 401);
    let refused = world.gateway.get("/");
    let challenges = "ApiKey header=\"x-api-key\", Cookie realm=\"torana\"";
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some(challenges)));
    let mut browser = Browser::default();
    assert_eq!(world.log_in(&mut browser, "/", "alice").response.status, 200);
    assert_eq!(world.up.last().header("x-consumer-id"), Some("alice"));
    let both = browser.exchange_with("GET", &world.url("/"), &[("X-Api-Key", "key-1")], "");
    assert_eq!(both.status, 401, "two callers in one request");
}

#[test]
fn what_the_issuer_says_of_users_decides_what_they_may() {
    let world = World::with(
        60,
        "",
        "{oidc}, { claims: [{ claim: roles, contains: reader }, { claim: sub, none_of: [mallory] }] }",
    );
    let mut browser = Browser::default();
    assert_eq!(world.log_in(&mut browser, "/", "bob").response.status, 200);
    let mut other = Browser::default();
    assert_eq!(world.log_in(&mut other, "/", "mallory").response.problem(), "forbidden");

    let world = World::start(60, ", consumer_required: true");
    let mut browser = Browser::default();
    assert_eq!(world.log_in(&mut browser, "/", "bob").response.problem(), "forbidden");
    assert_eq!(world.log_in(&mut Browser::default(), "/", "alice").response.status, 200);
}

/// Debian's Chromium, over TLS: cookies named `__Host-`, a form, a consent, a script that is refused, a log-out.
#[test]
fn a_real_browser_logs_in_and_out() {
    let (provider, up) = (super::Provider::start(60), Upstream::named("<title>behind the gateway</title>"));
    let (certificate, key) = Authority::new("tests").pair("localhost");
    let file = |origin: &str| {
        format!(
            "listeners: [{{ address: \"127.0.0.1:0\", tls: {{ certificates: [{{ cert: cert.pem, key: key.pem }}] }} }}]
upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
routes: [{{ name: r, match: {{ path: {{ prefix: / }} }}, policies: [{{ oidc: {{ issuer: \"{}\", redirect_uri: \"{origin}/oauth2/callback\", {} }} }}], upstream: up }}]\n",
            up.address(),
            provider.issuer(),
            super::COMMON
        )
    };
    let gateway = Gateway::start_with(&file("https://localhost:1"), |folder, _| {
        std::fs::write(folder.join("cert.pem"), certificate).unwrap();
        std::fs::write(folder.join("key.pem"), key).unwrap();
    });
    let origin = format!("https://localhost:{}", gateway.address().port());
    gateway.reload(&file(&origin));
    provider.serve(&origin);
    let said: Value = script::json("login.cjs", &[&origin]);
    assert_eq!(said["title"], "behind the gateway", "{said}");
    assert_eq!(said["url"], format!("{origin}/orders?day=1"), "{said}");
    assert_eq!(said["cookies"], serde_json::json!(["__Host-torana_session lax httpOnly secure"]), "{said}");
    assert_eq!(said["script"], 200, "a script has the session: {said}");
    assert_eq!(said["stranger"], 401, "a script without one is not sent elsewhere: {said}");
    assert_eq!(said["after"], "login", "after the log-out it has to log in again: {said}");
    assert_eq!(
        up.seen().iter().find(|request| request.target == "/orders?day=1").unwrap().header("x-consumer-subject"),
        Some("alice")
    );
}
