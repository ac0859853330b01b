//! Endpoints that operators drain, disable and enable while the gateway runs, and sessions that stay.

use super::{answers, config, different, named};
use crate::support::{Client, Gateway, Reply, Response, Upstream, request};

const BOTH: &str = "sticky: { cookie: lb }";

fn ask(gateway: &Gateway, what: &str, address: &str) -> String {
    let (code, said) = gateway.torana(&["endpoint", what, "up", address]);
    assert_eq!(code, Some(0), "{said}");
    said
}

/// The cookie of a session, as a browser sends it back.
fn cookie(answer: &Response) -> Option<String> {
    answer.header("set-cookie").map(|set| set.split(';').next().unwrap().to_owned())
}

fn get(gateway: &Gateway, cookie: &str) -> Response {
    gateway.send("GET", "/", &[("Cookie", cookie)])
}

#[test]
fn a_drained_endpoint_gets_no_requests_until_it_is_enabled() {
    let (_ups, addresses) = named(["one", "other"]);
    let gateway = Gateway::replaceable(&config(&addresses, ""));
    let one = addresses[0].to_string();
    assert_eq!(ask(&gateway, "drain", &one), format!("up {one} is draining now; it was enabled\n"));
    assert_eq!(different(&answers(&gateway, 10)), ["other"].into());
    let (_, said) = gateway.torana(&["status"]);
    assert!(said.contains(&format!("up: 1 of 2 endpoints can be used; not {one} (draining, 0 in flight)")), "{said}");
    // It lasts through a reload and another process.
    gateway.reload(&config(&addresses, "keepalive: 1m"));
    assert_eq!(different(&answers(&gateway, 10)), ["other"].into());
    gateway.upgrade();
    assert_eq!(different(&answers(&gateway, 10)), ["other"].into());
    assert_eq!(ask(&gateway, "disable", &one), format!("up {one} is disabled now; it was draining\n"));
    assert_eq!(ask(&gateway, "disable", &one), format!("up {one} is disabled already\n"));
    ask(&gateway, "disable", &addresses[1].to_string());
    assert_eq!(gateway.get("/").problem(), "no_healthy_endpoint");
    ask(&gateway, "enable", &one);
    assert_eq!(different(&answers(&gateway, 10)), ["one"].into());
}

#[test]
fn what_is_not_there_cannot_be_drained_and_is_named() {
    let (_ups, addresses) = named(["one"]);
    let gateway = Gateway::replaceable(&config(&addresses, ""));
    let refused = |arguments: &[&str]| {
        let (code, said) = gateway.torana(&[&["endpoint"], arguments].concat());
        assert_ne!(code, Some(0));
        said
    };
    assert!(refused(&["drain", "down", "10.0.0.1:80"]).contains("no upstream is named `down`; there is up"));
    let there = format!("up has no endpoint 10.0.0.1:80; there is {}", addresses[0]);
    assert!(refused(&["drain", "up", "10.0.0.1:80"]).contains(&there));
    assert!(refused(&["kill", "up", "10.0.0.1:80"]).contains("possible values: drain, disable, enable"));
}

#[test]
fn the_admin_listener_changes_endpoints_only_where_the_file_allows_it() {
    let (_ups, addresses) = named(["one", "other"]);
    let target = format!("/endpoint?upstream=up&address={}&do=drain", addresses[0]);
    let post = |gateway: &Gateway, headers: &[(&str, &str)]| {
        let mut client = Client::connect(gateway.admin());
        client.write(request("POST", &target, &[&[("Content-Length", "0")], headers].concat()).as_bytes());
        client.read().status
    };
    let gateway = Gateway::start(&(config(&addresses, "") + "admin: { address: \"127.0.0.1:0\", hosts: [test] }\n"));
    assert_eq!(post(&gateway, &[]), 403);
    assert_eq!(different(&answers(&gateway, 10)), ["one", "other"].into());
    let changes = "admin: { address: \"127.0.0.1:0\", hosts: [test], changes: true }\n";
    let gateway = Gateway::start(&(config(&addresses, "") + changes));
    assert_eq!(post(&gateway, &[("Origin", "https://evil.example")]), 403);
    assert_eq!(post(&gateway, &[]), 200);
    assert_eq!(different(&answers(&gateway, 10)), ["other"].into());
}

#[test]
fn a_session_stays_with_its_endpoint_also_while_that_is_drained() {
    let (_ups, addresses) = named(["one", "two", "three"]);
    let gateway = Gateway::replaceable(&config(&addresses, BOTH));
    let first = gateway.get("/");
    let (home, session) = (first.text(), cookie(&first).unwrap());
    assert!(first.header("set-cookie").unwrap().ends_with("; Path=/; HttpOnly; SameSite=Lax"));
    for _ in 0..10 {
        let next = get(&gateway, &session);
        assert_eq!((next.text(), next.header("set-cookie")), (home.clone(), None));
    }
    let address = addresses[["one", "two", "three"].iter().position(|name| *name == home).unwrap()].to_string();
    ask(&gateway, "drain", &address);
    assert_eq!(get(&gateway, &session).text(), home);
    assert!(!different(&answers(&gateway, 10)).contains(home.as_str()), "no new sessions");
    gateway.upgrade();
    assert_eq!(get(&gateway, &session).text(), home, "the new process knows the cookie");
    ask(&gateway, "disable", &address);
    let moved = get(&gateway, &session);
    assert_ne!(moved.text(), home);
    assert_eq!(get(&gateway, &cookie(&moved).unwrap()).text(), moved.text());
}

#[test]
fn a_session_whose_endpoint_fails_goes_on_elsewhere_and_stays_there() {
    let bad =
        Upstream::start(|request| if request.header("x-fail").is_some() { Reply::hang_up() } else { Reply::ok("bad") });
    let well = Upstream::named("well");
    let gateway = super::gateway(&[bad.address(), well.address()], BOTH);
    let session = loop {
        let answer = gateway.get("/");
        if answer.text() == "bad" {
            break cookie(&answer).unwrap();
        }
    };
    let moved = gateway.send("GET", "/", &[("Cookie", &session), ("X-Fail", "1")]);
    assert_eq!(moved.text(), "well");
    assert_eq!(get(&gateway, &cookie(&moved).unwrap()).text(), "well");
}

#[test]
fn two_gateways_with_one_secret_know_each_others_sessions_and_nobody_else_chooses_an_endpoint() {
    let (_ups, addresses) = named(["one", "two", "three", "four"]);
    let start = |secret: &str| super::gateway(&addresses, &format!("sticky: {{ cookie: lb, secret: {secret} }}"));
    let (one, other, stranger) =
        (start("shared-by-the-gateways"), start("shared-by-the-gateways"), start("of-somebody-else"));
    let first = one.get("/");
    let session = cookie(&first).unwrap();
    for _ in 0..8 {
        assert_eq!(get(&other, &session).text(), first.text());
        assert!(get(&stranger, &session).header("set-cookie").is_some(), "a cookie that it did not sign");
    }
}
