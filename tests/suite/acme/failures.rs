//! What goes wrong is said, is tried again more and more slowly, and takes nothing away.

use serde_json::json;

use super::world::{World, in_time};
use crate::support::Says;

fn response(status: &str, headers: &str, kind: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn a_challenge_that_fails_keeps_the_certificate_and_is_tried_again() {
    let world = World::start("renew_before: 1d\nretry: 1s", &json!({ "certificateValidityPeriod": 60 }));
    let first = world.wait_for("valid");
    world.dns.say(Says::NoSuchName);
    let failed = world.wait_for("failed");
    assert_eq!(failed["not_after"], first["not_after"]);
    let why = failed["error"].as_str().unwrap();
    assert!(why.contains("a.test: ") || why.contains("b.test: "), "{why}");
    assert_eq!(world.curl("a.test"), "hello", "the one before is shown");
    assert_eq!(world.gateway.metric("torana_certificate_failed{name=\"a.test\",source=\"acme\"}"), 1.0);
    let shown = world.gateway.torana(&["status"]).1;
    assert!(shown.contains("a.test, b.test: failed, for ") && shown.contains(why), "{shown}");
    assert!(world.gateway.log().contains("ALARM: no new certificate for a.test (the one that is there is valid for "));
    world.dns.say(Says::addresses(&["127.0.0.1"], 1));
    in_time("it is renewed", || world.certificate()["not_after"].as_u64() > first["not_after"].as_u64());
    assert_eq!((world.certificate()["error"].as_str(), world.curl("b.test").as_str()), (None, "hello"));
}

#[test]
fn an_authority_that_wants_to_be_left_alone_is() {
    let world = World::new("retry: 1s");
    world.front.answers(|line| {
        let limited =
            r#"{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many\u001b[31m certificates"}"#;
        line.contains("/order-plz")
            .then(|| response("429 Too Many Requests", "Retry-After: 3600\r\n", "application/problem+json", limited))
    });
    let mut world = world;
    world.pebble(&json!({}));
    let failed = world.wait_for("failed");
    let why = failed["error"].as_str().unwrap();
    assert!(why.contains("too many [31m certificates") && why.contains("rateLimited"), "{why}");
    let tried = world.front.orders();
    let at = |state: &serde_json::Value| state["next_try"].as_u64().unwrap();
    let soon = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() + 3000;
    assert!(at(&failed) > soon, "{failed}");
    world.gateway.reload(&world.same());
    world.gateway.upgrade();
    world.gateway.restart();
    assert_eq!(at(&world.certificate()), at(&failed), "whatever is done here");
    assert_eq!((world.front.orders(), world.certificate()["state"].as_str()), (tried, Some("failed")));
}

#[test]
fn an_authority_that_is_broken_is_asked_again_later() {
    let mut world = World::new("retry: 1s");
    world.front.answers(|line| {
        line.contains("/dir").then(|| response("500 Internal Server Error", "", "text/html", "<html>oops</html>"))
    });
    let failed = world.wait_for("failed");
    assert!(failed["error"].as_str().unwrap().contains("it answers 500 Internal Server Error"), "{failed}");
    in_time("it is asked several times", || world.front.count("/dir") >= 3);
    let began = std::time::Instant::now();
    in_time("and again", || world.front.count("/dir") >= 4);
    assert!(began.elapsed().as_millis() > 1500, "ever more slowly: {:?}", began.elapsed());
    world.front.answers_no_more();
    world.pebble(&json!({}));
    world.wait_for("valid");
    assert_eq!(world.curl("a.test"), "hello");
}

#[test]
fn a_reload_is_a_reason_to_try_again() {
    let world = World::start("retry: 1h", &json!({}));
    world.wait_for("valid");
    let other = world.same().replace("[a.test, b.test]", "[a.test, c.test]").replace("retry: 1h", "retry: 2s");
    world.dns.say(Says::NoSuchName);
    world.gateway.reload(&other);
    let failed = world.wait_for("failed");
    assert_eq!(failed["names"], json!(["a.test", "c.test"]));
    world.gateway.reload(&other.replace("retry: 2s", "retry: 1h"));
    world.dns.say(Says::addresses(&["127.0.0.1"], 1));
    world.gateway.reload(&other);
    world.wait_for("valid");
    assert_eq!(world.curl("c.test"), "hello");
}
