//! The same policies for clients of HTTP/2, where headers come in other pieces and bodies without a length.

use super::config;
use crate::support::{Gateway, Upstream, http2::send};

fn start(policies: &str) -> (Gateway, Upstream) {
    let up = Upstream::named("up");
    let listeners = "listeners: [{ address: \"127.0.0.1:0\", h2c: true }]\n";
    (Gateway::start(&(listeners.to_owned() + &config(&up, policies))), up)
}

#[test]
fn a_key_is_asked_for_and_no_identity_is_believed() {
    let (gateway, up) = start("{ api_key: {} }");
    for method in ["GET", "HEAD", "OPTIONS", "DELETE"] {
        let answer = send(&gateway, method, "/", &[("x-consumer-id", "root")], &[]);
        assert_eq!(answer.status, 401, "{method}");
        assert_eq!(answer.header("www-authenticate"), Some("ApiKey header=\"x-api-key\""));
    }
    assert_eq!(send(&gateway, "GET", "/", &[], &[]).problem(), "unauthenticated");
    assert!(up.seen().is_empty());
    let forged = [("x-consumer-id", "root"), ("x_consumer_id", "root"), ("x-consumer-subject", "root")];
    let sent = [&[("x-api-key", "key-1")][..], &forged].concat();
    assert_eq!(send(&gateway, "GET", "/a?b", &sent, &[]).text(), "up");
    let seen = up.only();
    assert_eq!((seen.header("x-consumer-id"), seen.header("x-api-key")), (Some("mobile"), None));
    assert!(!seen.head.contains("root") && !seen.head.contains("key-1"), "{}", seen.head);
}

#[test]
fn a_cookie_in_pieces_is_put_together_and_two_keys_in_it_are_refused() {
    let (gateway, up) = start("{ api_key: { cookie: k } }");
    assert_eq!(
        send(&gateway, "GET", "/", &[("cookie", "a=1"), ("cookie", "k=key-3"), ("cookie", "b=2")], &[]).status,
        200
    );
    assert_eq!((up.only().header("x-consumer-id"), up.only().header("cookie")), (Some("web"), Some("a=1; b=2")));
    assert_eq!(send(&gateway, "GET", "/", &[("cookie", "k=key-3"), ("cookie", "k=wrong")], &[]).status, 401);
    assert_eq!(up.seen().len(), 1);
}

#[test]
fn a_body_without_a_length_is_counted_and_refused() {
    let (gateway, up) = start("{ request_size: { max: 1KiB } }");
    for (pieces, status) in
        [(&[1024][..], 200), (&[1000, 24], 200), (&[1025], 413), (&[1024, 1], 413), (&[600, 600, 600], 413)]
    {
        let answer = send(&gateway, "POST", "/", &[], pieces);
        assert_eq!(answer.status, status, "{pieces:?}");
        if status == 413 {
            assert_eq!(answer.problem(), "body_too_large");
        }
    }
    assert_eq!(send(&gateway, "POST", "/", &[("content-length", "1025")], &[1025]).problem(), "body_too_large");
    assert_eq!(up.seen().len(), 2, "{:#?}", up.seen());
    let (gateway, _up) = start("{ request_size: { max: 1KiB, require_length: true } }");
    assert_eq!(send(&gateway, "POST", "/", &[], &[10]).problem(), "length_required");
    assert_eq!(send(&gateway, "POST", "/", &[("content-length", "10")], &[10]).status, 200);
}

#[test]
fn limits_addresses_and_headers_are_the_same() {
    let (gateway, up) = start(
        r#"{ rate_limit: { key: client_ip, limits: [2/h] } }, { request_id: {} }, { ip_restriction: { allow: [127.0.0.1] } },
           { request_headers: { set: { x-seen: "{client_ip} {host} {scheme} {path.rest}" } } }, { response_headers: { set: { x-back: "{method}" } } }"#,
    );
    let answer = send(&gateway, "PUT", "/a/b", &[("x-request-id", "mine"), ("x-forwarded-for", "10.0.0.1")], &[3]);
    assert_eq!((answer.status, answer.header("x-back")), (200, Some("PUT")));
    let seen = up.only();
    assert_eq!(seen.header("x-seen"), Some("127.0.0.1 test http a/b"));
    assert_eq!(seen.header("x-request-id"), answer.header("x-request-id"));
    assert_ne!(seen.header("x-request-id"), Some("mine"));
    assert_eq!((seen.header("x-forwarded-for"), seen.body.as_slice()), (Some("127.0.0.1"), &b"xxx"[..]));
    // HTTP/1.1 and HTTP/2 are one client.
    assert_eq!(gateway.get("/").status, 200);
    let refused = send(&gateway, "GET", "/", &[], &[]);
    assert_eq!((refused.status, refused.problem().as_str()), (429, "rate_limited"));
    assert!(refused.header("retry-after").is_some() && refused.header("ratelimit").is_some());
    assert_eq!(up.seen().len(), 2);
}

#[test]
fn a_preflight_is_answered() {
    let (gateway, up) = start("{ api_key: {} }, { cors: { origins: [\"https://a.example\"] } }");
    let asked = [("origin", "https://a.example"), ("access-control-request-method", "PUT")];
    let answer = send(&gateway, "OPTIONS", "/", &asked, &[]);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some("https://a.example")));
    assert_eq!(
        send(&gateway, "GET", "/", &asked, &[]).header("access-control-allow-origin"),
        Some("https://a.example")
    );
    assert!(up.seen().is_empty());
}
