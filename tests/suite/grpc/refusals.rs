//! What a client of gRPC gets to see of a refusal.

use serde_json::{Value, json};

use super::{OPEN, Stage, Up, is_unreachable};
use crate::support::{Refusing, http2, request};

const POLICIES: &str = r"
policies:
  - response_headers: { set: { x-served-by: torana } }
routes:
  - { name: key, match: { path: /test.Echo/Unary }, policies: [{ api_key: { header: x-api-key } }], upstream: up }
  - { name: upload, match: { path: /test.Echo/Collect }, policies: [{ api_key: { header: x-api-key } }], upstream: up }
  - { name: address, match: { path: /address/Unary }, policies: [{ ip_restriction: { allow: [10.0.0.0/8] } }], upstream: up }
  - { name: often, match: { path: /often/Unary }, policies: [{ rate_limit: { key: client_ip, limits: [1/h] } }], upstream: up }
  - { name: large, match: { path: /large/Unary }, policies: [{ request_size: { max: 100B } }], upstream: up }
";

#[test]
fn a_refusal_is_a_status_with_the_reason() {
    let stage = Stage::start(Up::H2c, POLICIES);
    let refused = |given: &[&str], secure: bool| {
        let seen = if secure { stage.play_over_tls("one", given) } else { stage.play("one", given) };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        assert_eq!(seen["trailing"]["x-served-by"], "torana", "{seen}");
        (text(&seen["code"]), text(&seen["trailing"]["torana-reject"]), seen)
    };
    for secure in [false, true] {
        let (code, reject, seen) = refused(&[], secure);
        assert_eq!((code.as_str(), reject.as_str()), ("UNAUTHENTICATED", "unauthenticated"));
        assert!(!seen["details"].as_str().unwrap().is_empty(), "{seen}");
        assert!(seen["trailing"]["www-authenticate"].is_string(), "{seen}");
        for (given, wanted) in [
            (&["service=nothing"][..], ("UNIMPLEMENTED", "route_not_found")),
            (&["service=address"], ("PERMISSION_DENIED", "address_not_allowed")),
            (&["service=large", "size=1000"], ("RESOURCE_EXHAUSTED", "body_too_large")),
        ] {
            let (code, reject, seen) = refused(given, secure);
            assert_eq!((code.as_str(), reject.as_str()), wanted, "{seen}");
        }
    }
    stage.play("one", &["service=often"]);
    let (code, reject, seen) = refused(&["service=often"], true);
    assert_eq!((code.as_str(), reject.as_str()), ("RESOURCE_EXHAUSTED", "rate_limited"));
    assert!(seen["trailing"]["retry-after"].is_string() && seen["trailing"]["ratelimit"].is_string(), "{seen}");
    assert!(seen["trailing"]["grpc-retry-pushback-ms"].is_string(), "{seen}");
    stage.wait_for_log(&[
        ("reject", json!("unauthenticated")),
        ("status", json!(200)),
        ("grpc_status", json!(16)),
        ("route", json!("key")),
    ]);
    stage.gateway.wait_for_metric("torana_rejects_total{reject=\"address_not_allowed\",route=\"address\"}", 2.0);
    assert_eq!(stage.play("one", &["x-api-key=key-12345"])["code"], "OK");
}

#[test]
fn a_stream_to_the_server_is_refused_at_once() {
    let stage = Stage::start(Up::H2c, POLICIES);
    let seen = stage.play("upload", &[]);
    assert_eq!(
        (&seen["code"], &seen["trailing"]["torana-reject"]),
        (&json!("UNAUTHENTICATED"), &json!("unauthenticated"))
    );
    assert!(seen["took"].as_f64().unwrap() < 10.0, "{seen}");
}

#[test]
fn an_upstream_that_is_not_there_is_unavailable() {
    let nobody = Refusing::new();
    let stage = Stage::start(Up::H2c, OPEN);
    let config = std::fs::read_to_string(stage.gateway.file()).unwrap();
    stage.gateway.reload(&config.replace(&stage.server.address().to_string(), &nobody.address().to_string()));
    let seen = stage.play("one", &[]);
    is_unreachable(&seen);
}

#[test]
fn a_refusal_has_the_form_that_the_request_asks_for() {
    let stage = Stage::start(Up::H2c, POLICIES);
    let over_http2 =
        |media: &str| http2::send(&stage.gateway, "POST", "/test.Echo/Unary", &[("content-type", media)], &[3]);
    let over_http1 = |media: &str| {
        let mut client = stage.gateway.client();
        client
            .write(request("POST", "/test.Echo/Unary", &[("Content-Type", media), ("Content-Length", "0")]).as_bytes());
        client.read_answer_to("POST")
    };
    for answer in [over_http2("application/grpc+proto"), over_http1("application/grpc+proto")] {
        assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("16")), "{answer:?}");
        assert_eq!((answer.header("content-type"), answer.body.len()), (Some("application/grpc+proto"), 0));
    }
    for answer in [over_http2("application/grpc-web+proto"), over_http1("application/grpc-web+proto")] {
        assert_eq!((answer.status, answer.header("grpc-status")), (200, None), "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/grpc-web+proto"));
        let (head, text) = answer.body.split_at(5);
        assert_eq!((head[0], usize::from(head[4])), (0x80, text.len()), "{answer:?}");
        let text = std::str::from_utf8(text).unwrap();
        assert!(text.contains("grpc-status:16\r\n") && text.contains("torana-reject:unauthenticated\r\n"), "{text}");
    }
    for answer in [over_http2("application/grpc-web-text"), over_http1("application/grpc-web-text")] {
        assert_eq!(answer.header("content-type"), Some("application/grpc-web-text"));
        assert!(answer.text().starts_with("gAAAA") && answer.body.len() % 4 == 0, "{answer:?}");
    }
    for answer in [over_http2("application/json"), over_http1("application/json")] {
        assert_eq!((answer.status, answer.problem().as_str()), (401, "unauthenticated"));
    }
}

#[test]
fn a_request_that_never_became_one_is_refused_in_the_same_form() {
    let stage = Stage::start(Up::H2c, POLICIES);
    let mut client = stage.gateway.client();
    let headers = [("Content-Type", "application/grpc-web"), ("Content-Length", "0"), ("Transfer-Encoding", "chunked")];
    client.write(request("POST", "/test.Echo/Unary", &headers).as_bytes());
    let answer = client.read_answer_to("POST");
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{answer:?}");
    let text = String::from_utf8_lossy(&answer.body);
    assert!(text.contains("grpc-status:3\r\n") && text.contains("torana-reject:bad_request\r\n"), "{text}");
    stage.wait_for_log(&[("reject", json!("bad_request")), ("status", json!(200)), ("grpc_status", json!(3))]);
}
