//! `forward_auth`: a service decides who may pass.

use crate::{
    policies::no_way_around,
    support::{Gateway, Recorded, Reply, Upstream, eventually, http2, web_socket::UPGRADE},
};

/// Lets in who shows this.
const GOOD: (&str, &str) = ("Authorization", "Bearer good");

fn decides(request: &Recorded) -> Reply {
    if request.header("authorization") == Some("Bearer good") {
        return Reply::ok("").header("X-User", "alice").header("X-Role", "admin").header("X-Other", "not asked for");
    }
    if request.header("cookie").is_some() {
        return Reply::new(302, "").header("Location", "https://login.example/").header("Set-Cookie", "state=1");
    }
    Reply::new(401, "no").header("WWW-Authenticate", "Custom").header("Connection", "X-Hop").header("X-Hop", "1")
}

fn config(auth: &Upstream, up: &Upstream, more: &str) -> String {
    format!(
        "listeners: [{{ address: \"127.0.0.1:0\", h2c: true }}]
telemetry: {{ access_log: {{}} }}
upstreams: {{ up: {{ endpoints: [\"{}\"] }}, auth: {{ endpoints: [\"{}\"] }} }}
consumers: {{ alice: {{ groups: [gold] }} }}
routes:
  - name: r
    policies: [{{ forward_auth: {{ upstream: auth, path: /verify?x=1, response_headers: [x-user, x-role], consumer_header: x-user{more} }} }}]
    upstream: up
",
        up.address(),
        auth.address()
    )
}

#[test]
fn the_service_sees_what_is_asked_for_and_the_upstream_what_it_said() {
    let (auth, up) = (Upstream::start(decides), Upstream::named("up"));
    let gateway = Gateway::start(&config(&auth, &up, ""));
    let sent = [GOOD, ("X-User", "root"), ("X_Role", "root"), ("X-Mine", "kept"), ("Content-Length", "0")];
    assert_eq!(gateway.send("PUT", "/a/../b?c=d", &sent).status, 200);
    let asked = auth.only();
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("GET", "/verify?x=1"));
    for (name, value) in [
        ("x-forwarded-method", "PUT"),
        ("x-forwarded-uri", "/b?c=d"),
        ("x-forwarded-host", "test"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-for", "127.0.0.1"),
        ("host", "auth"),
        ("x-mine", "kept"),
    ] {
        assert_eq!(asked.header(name), Some(value), "{name}");
    }
    let seen = up.only();
    let said =
        ["x-user", "x-role", "x_role", "x-other", "x-consumer-id", "x-consumer-groups"].map(|name| seen.header(name));
    assert_eq!(said, [Some("alice"), Some("admin"), None, None, Some("alice"), Some("gold")]);
}

#[test]
fn what_the_service_answers_is_the_clients() {
    let (auth, up) = (Upstream::start(decides), Upstream::named("up"));
    let gateway = Gateway::start(&config(&auth, &up, ""));
    let refused = gateway.get("/");
    assert_eq!(
        (refused.status, refused.text().as_str(), refused.header("www-authenticate")),
        (401, "no", Some("Custom"))
    );
    assert_eq!(refused.header("x-hop"), None);
    let login = gateway.send("GET", "/", &[("Cookie", "a=b")]);
    assert_eq!((login.status, login.header("location")), (302, Some("https://login.example/")));
    no_way_around(&gateway, &up, &[], 401);
    assert_eq!(gateway.send("GET", "/", &UPGRADE).status, 401);
    assert_eq!(http2::send(&gateway, "POST", "/", &[], &[5]).status, 401);
    assert_eq!(gateway.send("GET", "/", &[GOOD]).status, 200);
}

#[test]
fn only_the_headers_that_are_named_go_along() {
    let (auth, up) = (Upstream::start(decides), Upstream::named("up"));
    let gateway = Gateway::start(&config(&auth, &up, ", request_headers: [authorization]"));
    assert_eq!(gateway.send("GET", "/", &[GOOD, ("Cookie", "secret=1"), ("X-Mine", "1")]).status, 200);
    assert_eq!((auth.only().header("cookie"), auth.only().header("x-mine")), (None, None));
}

#[test]
fn without_an_answer_nobody_gets_in_unless_the_file_says_so() {
    for (reply, reason) in [
        (Reply::new(500, ""), "the service that is asked answers with an error"),
        (Reply::hang_up(), "the upstream that is asked cannot be reached"),
        (Reply::ok("x".repeat(100_000)), "the answer of the upstream that is asked is too large"),
    ] {
        let answer = reply.clone();
        let (auth, up) = (Upstream::start(move |_| answer.clone()), Upstream::named("up"));
        let gateway = Gateway::start(&config(&auth, &up, ""));
        let refused = gateway.send("GET", "/", &[GOOD]);
        assert_eq!((refused.status, refused.problem().as_str()), (503, "auth_unavailable"), "{reason}");
        assert_eq!(gateway.access_lines(1)[0]["reason"], reason);
        assert!(up.seen().is_empty());
        let gateway = Gateway::start(&config(&auth, &up, ", on_failure: open"));
        assert_eq!(gateway.send("GET", "/", &[GOOD, ("X-User", "root")]).status, 200);
        assert_eq!((up.last().header("x-user"), up.last().header("x-consumer-id")), (None, None));
        assert_eq!(gateway.access_lines(1)[0]["would_reject"], "auth_unavailable");
        eventually("it is counted", || {
            gateway.metric("torana_would_reject_total{policy=\"forward_auth\",route=\"r\"}") >= 1.0
        });
    }
}

#[test]
fn a_slow_service_is_waited_for_no_longer_than_the_file_says() {
    let slow = |_: &Recorded| Reply::ok("").after(std::time::Duration::from_secs(5));
    let (auth, up) = (Upstream::start(slow), Upstream::named("up"));
    let gateway = Gateway::start(&config(&auth, &up, ", timeout: 200ms"));
    let began = std::time::Instant::now();
    assert_eq!(gateway.send("GET", "/", &[GOOD]).problem(), "auth_unavailable");
    assert!(began.elapsed().as_secs() < 4, "{:?}", began.elapsed());
}

#[test]
fn in_a_shadow_it_only_counts() {
    let (auth, up) = (Upstream::start(decides), Upstream::named("up"));
    let text =
        config(&auth, &up, "").replace("consumer_header: x-user } }]", "consumer_header: x-user }, mode: shadow }]");
    let gateway = Gateway::start(&text);
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(gateway.access_lines(1)[0]["would_reject"], "forbidden");
}

#[test]
fn an_answer_that_names_no_caller_or_several_is_none() {
    for reply in [
        Reply::ok(""),
        Reply::ok("").header("X-User", ""),
        Reply::ok("").header("X-User", "bob").header("x-user", "alice"),
        Reply::ok("").header("X-User", "j\u{f6}rg"),
    ] {
        let (auth, up) = (Upstream::start(move |_| reply.clone()), Upstream::named("up"));
        let gateway = Gateway::start(&config(&auth, &up, ""));
        let answer = gateway.send(
            "GET",
            "/",
            &[GOOD, ("X-Original-Uri", "/public"), ("X-Original-Method", "GET"), ("Host", "a.test:8443")],
        );
        assert_eq!((answer.status, answer.problem().as_str()), (503, "auth_unavailable"));
        assert!(up.seen().is_empty());
        let asked = auth.only();
        assert_eq!((asked.header("x-original-uri"), asked.header("x-original-method")), (None, None));
        assert_eq!(asked.header("x-forwarded-host"), Some("a.test:8443"));
    }
}
