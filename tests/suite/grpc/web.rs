//! gRPC-Web, by the client that browsers use and by Connect's.

use serde_json::{Value, json};

use super::{Stage, Up};
use crate::support::{request, script};

const ROUTES: &str = r#"
routes:
  - name: closed
    match: { path: { prefix: /test.Echo }, headers: { x-closed: "1" } }
    policies: [{ api_key: { header: x-api-key } }, { grpc_web: {} }]
    upstream: up
  - { name: open, policies: [{ grpc_web: {} }], upstream: up }
"#;

/// The client of browsers.
#[track_caller]
fn browser(stage: &Stage, format: &str, scene: &str, given: &[&str]) -> Value {
    let url = format!("http://{}", stage.gateway.address());
    script::json("grpc_web.cjs", &[&[url.as_str(), format, scene][..], given].concat())
}

fn words(seen: &Value) -> Vec<&str> {
    seen["heard"].as_array().unwrap().iter().map(|heard| heard[0].as_str().unwrap()).collect()
}

/// Each message came a while after the one before it.
#[track_caller]
fn came_one_by_one(seen: &Value) {
    let times: Vec<i64> = seen["heard"].as_array().unwrap().iter().map(|heard| heard[1].as_i64().unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] > 100), "{seen}");
}

#[test]
fn browsers_call_with_both_media_types() {
    for up in [Up::H2c, Up::Tls] {
        let stage = Stage::start(up, ROUTES);
        for format in ["text", "binary"] {
            let seen = browser(&stage, format, "unary", &[]);
            assert_eq!(seen["reply"], "hello", "{format} {seen}");
            assert_eq!(
                (&seen["status"]["code"], &seen["status"]["metadata"]["x-trailing"]),
                (&json!(0), &json!("a b%c")),
                "{seen}"
            );
        }
        // Outside of a browser this client has all of a response at once; the next test looks at the pieces.
        let seen = browser(&stage, "text", "count", &["x-pause=0.1"]);
        assert_eq!(words(&seen), ["0", "1", "2", "3"], "{seen}");
        assert_eq!(seen["status"]["code"], 0, "{seen}");
    }
}

#[test]
fn each_message_comes_as_a_whole_piece_of_base64_when_it_is_there() {
    let stage = Stage::start(Up::H2c, ROUTES);
    let mut client = stage.gateway.client();
    let headers = [("Content-Type", "application/grpc-web-text"), ("Content-Length", "8"), ("X-Pause", "0.4")];
    client.write((request("POST", "/test.Echo/Count", &headers) + "AAAAAAEz").as_bytes());
    let mut times = Vec::new();
    for number in 0..3 {
        let piece = ["AAAAAAEw", "AAAAAAEx", "AAAAAAEy"][number];
        while !String::from_utf8_lossy(client.peeked()).contains(piece) {
            client.more().unwrap();
        }
        times.push(std::time::Instant::now());
    }
    assert!(times.windows(2).all(|pair| (pair[1] - pair[0]).as_millis() > 100), "{times:?}");
    let answer = client.read_answer_to("POST");
    assert!(answer.text().starts_with("AAAAAAEwAAAAAAExAAAAAAEygAAAA"), "{answer:?}");
}

#[test]
fn browsers_read_failures_and_refusals() {
    let stage = Stage::start(Up::H2c, ROUTES);
    for format in ["text", "binary"] {
        let seen = browser(&stage, format, "unary", &["x-fail=1"]);
        assert_eq!((&seen["code"], &seen["message"]), (&json!(5), &json!("gone: 50% of é")), "{seen}");
        let seen = browser(&stage, format, "unary", &["x-closed=1"]);
        assert_eq!(
            (&seen["code"], &seen["metadata"]["torana-reject"]),
            (&json!(16), &json!("unauthenticated")),
            "{seen}"
        );
        assert_eq!(browser(&stage, format, "unary", &["x-closed=1", "x-api-key=key-12345"])["reply"], "hello");
    }
    let seen = browser(&stage, "text", "count", &["x-late-fail=1"]);
    assert_eq!((&seen["code"], words(&seen).len()), (&json!(15), 4), "{seen}");
}

#[test]
fn connects_client_calls_over_both_versions_of_http() {
    let stage = Stage::start(Up::H2c, ROUTES);
    for version in ["1.1", "2"] {
        let seen = stage.connect(version, "unary", &["x-protobuf=1"]);
        assert_eq!((&seen["reply"], &seen["trailers"]["x-trailing"]), (&json!("hello"), &json!("a b%c")), "{seen}");
        let seen = stage.connect(version, "count", &["x-protobuf=1", "x-pause=0.4"]);
        assert_eq!(words(&seen), ["0", "1", "2", "3"], "{seen}");
        came_one_by_one(&seen);
        let seen = stage.connect(version, "unary", &["x-fail=1"]);
        assert_eq!((&seen["code"], &seen["message"]), (&json!("NotFound"), &json!("gone: 50% of é")), "{seen}");
        let seen = stage.connect(version, "count", &["x-closed=1"]);
        assert_eq!(
            (&seen["code"], &seen["metadata"]["torana-reject"]),
            (&json!("Unauthenticated"), &json!("unauthenticated")),
            "{seen}"
        );
        let name = format!("x-name=v{version}");
        let seen = stage.connect(version, "cancel", &["x-protobuf=1", "x-pause=0.05", &name]);
        assert_eq!((&seen["code"], words(&seen).len()), (&json!("Canceled"), 3), "{seen}");
        stage.server.wait_for(&format!("over v{version}"));
    }
}

#[test]
fn a_server_that_dies_ends_the_stream_with_a_status() {
    let mut stage = Stage::start(Up::H2c, ROUTES);
    let url = format!("http://{}", stage.gateway.address());
    let client = script::Script::start("grpc_web.cjs", &[&url, "text", "count", "x-linger=30"]);
    crate::support::eventually("the call is there", || stage.server.said().len() > 1);
    std::thread::sleep(std::time::Duration::from_millis(700));
    stage.server.kill();
    crate::support::eventually("the client knows", || !client.said().is_empty());
    let seen: Value = serde_json::from_str(&client.said()[0]).unwrap();
    assert_eq!((&seen["code"], words(&seen).len()), (&json!(14), 4), "{seen}");
    assert_eq!(seen["metadata"]["torana-reject"], "upstream_unreachable", "{seen}");
}

#[test]
fn what_is_no_base64_is_refused_and_what_is_no_grpc_web_passes_as_it_is() {
    let stage = Stage::start(Up::H2c, ROUTES);
    let post = |media: &str, body: &str| {
        let mut client = stage.gateway.client();
        let length = body.len().to_string();
        client.write(
            (request("POST", "/test.Echo/Unary", &[("Content-Type", media), ("Content-Length", &length)]) + body)
                .as_bytes(),
        );
        client.read_answer_to("POST")
    };
    let refused = post("application/grpc-web-text", "AAAA*AAA");
    assert_eq!(refused.status, 200, "{refused:?}");
    assert!(refused.text().starts_with("gAAAA"), "{refused:?}");
    stage.wait_for_log(&[("reject", json!("bad_request")), ("grpc_status", json!(3))]);
    // A whole message, in two pieces of base64.
    let answer = post("application/grpc-web-text", "AAAAAAI=aGk=");
    assert!(answer.text().starts_with("AAAAAAJoaQ=="), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/grpc-web-text"));
    // The calls of grpcio go the same way.
    assert_eq!(stage.play("one", &[])["code"], "OK");
}
