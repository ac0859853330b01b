//! Row D14: sessions that are not as the gateway made them.

use super::World;
use crate::{
    policies::KEPT,
    support::{Browser, http2, web_socket::UPGRADE},
};

#[test]
fn d14_a_session_that_somebody_touched_is_none_and_nobody_is_told_why() {
    let (world, other) = (World::with(60, "", &format!("{{oidc}}{KEPT}")), World::start(60, ", realm: other"));
    let mut browser = Browser::default();
    world.log_in(&mut browser, "/", "alice");
    let all = world.session(&browser);
    let (name, good) = all.first().unwrap().clone();
    let mut stranger = Browser::default();
    other.log_in(&mut stranger, "/", "alice");
    // Of another issuer, which is another key.
    let foreign = other.session(&stranger).first().unwrap().1.clone();
    let mut broken: Vec<String> = vec![
        String::new(),
        "1.".into(),
        "0.".into(),
        "9.x".into(),
        "1".into(),
        good[2..].into(),
        format!("2{}", &good[1..]),
        format!("{good}A"),
        format!("{good}="),
        format!("{good}{}", "A".repeat(100_000)),
        "1.".to_owned() + &"\u{e9}".repeat(10),
        foreign,
    ];
    for at in (2..good.len()).step_by(97) {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        broken.push(String::from_utf8(bytes).unwrap());
        broken.push(good[..at].into());
    }
    let seen = world.up.seen().len();
    let mut answers = std::collections::BTreeSet::new();
    for value in &broken {
        let cookie = format!("{name}={value}");
        let headers = [("Host", world.authority()), ("Cookie", cookie.as_str())];
        for method in ["GET", "HEAD", "OPTIONS", "POST"] {
            let refused = world.gateway.send(method, "/", &headers);
            assert_eq!(refused.status, 401, "{method} {value}");
            if method == "GET" {
                let text = refused.text();
                answers.insert(text.split("\"request_id\"").next().unwrap().to_owned());
            }
        }
        assert_eq!(world.gateway.send("GET", "/", &[&headers[..], &UPGRADE].concat()).status, 401);
        if value.len() < 10_000 && value.is_ascii() {
            assert_eq!(http2::send(&world.gateway, "GET", "/", &headers, &[]).status, 401, "{value} over HTTP/2");
        }
        let page = [&headers[..], &[("Accept", "text/html")]].concat();
        assert_eq!(world.gateway.send("GET", "/", &page).status, 302, "a page leads to the login");
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(world.up.seen().len(), seen);
    assert_eq!(browser.exchange("GET", &world.url("/"), "").status, 200);
    let twice = format!("{name}={good}; {name}={good}");
    assert_eq!(world.gateway.send("GET", "/", &[("Host", world.authority()), ("Cookie", &twice)]).status, 401);
}

#[test]
fn d14_sessions_end_when_they_are_not_used_and_when_they_are_old() {
    for more in [", idle_timeout: 2s", ", lifetime: 2s"] {
        let world = World::with(60, more, &format!("{{oidc}}{KEPT}"));
        let mut browser = Browser::default();
        assert_eq!(world.log_in(&mut browser, "/", "alice").response.status, 200);
        let old = browser.clone();
        let headers = [("Accept", "application/json")];
        let url = world.url("/");
        crate::support::eventually("it is over", || {
            // One that is used again and again.
            let used = browser.exchange_with("GET", &url, &headers, "").status;
            let unused = old.clone().exchange_with("GET", &url, &headers, "").status;
            assert!(used == 200 || more.contains("lifetime"), "{more}");
            unused == 401
        });
    }
}

#[test]
fn what_the_answer_sets_is_for_one_browser_alone() {
    let world = World::start(60, ", idle_timeout: 10s");
    let mut browser = Browser::default();
    world.log_in(&mut browser, "/", "alice");
    let url = world.url("/");
    crate::support::eventually("the cookie is set again", || {
        let answer = browser.exchange("GET", &url, "");
        let sets = answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
        assert!(!sets || answer.header("cache-control") == Some("private, no-cache"), "{answer:?}");
        sets
    });
}

#[test]
fn another_secret_still_opens_what_the_one_before_it_closed() {
    let world = World::start(60, "");
    let mut browser = Browser::default();
    world.log_in(&mut browser, "/", "alice");
    let old = std::fs::read_to_string(world.gateway.file()).unwrap();
    let secret = "\"0123456789abcdef0123456789abcdef\"";
    assert!(old.contains(secret));
    let headers = [("Accept", "application/json")];
    let url = world.url("/");
    let fresh = "\"fresh-secret-fresh-secret-fresh-secret\"";
    for (secrets, status) in
        [(format!("[{fresh}, {secret}]"), 200), (fresh.to_owned(), 401), (format!("[{secret}]"), 200)]
    {
        world.gateway.reload(&old.replace(secret, &secrets));
        assert_eq!(browser.exchange_with("GET", &url, &headers, "").status, status, "{secrets}");
    }
}
