//! Calls of every kind, by grpcio.

use std::collections::BTreeSet;

use serde_json::json;

use super::{OPEN, Stage, Up, is_unreachable};
use crate::support::{
    Gateway, eventually,
    script::{self, Script},
};

#[test]
fn every_kind_of_call_passes_with_and_without_tls_on_both_sides() {
    for up in [Up::H2c, Up::Tls] {
        let stage = Stage::start(up, OPEN);
        let wanted = json!({
            "unary": "hello",
            "initial": "yes",
            "trailing": { "x-trailing": "a b%c", "x-raw-bin": "00ff" },
            "collect": "a,b,c",
            "count": ["0", "1", "2", "3", "4"],
            "chat": ["heard one", "heard two", "heard three"],
        });
        assert_eq!(stage.play("kinds", &[]), wanted, "{up:?}");
        assert_eq!(stage.play_over_tls("kinds", &[]), wanted, "{up:?}");
        stage.wait_for_log(&[
            ("path", json!("/test.Echo/Chat")),
            ("status", json!(200)),
            ("grpc_status", json!(0)),
            ("protocol", json!("HTTP/2")),
        ]);
    }
}

#[test]
fn a_failure_of_the_server_comes_as_it_is() {
    let stage = Stage::start(Up::H2c, OPEN);
    let seen = stage.play("one", &["x-fail=1"]);
    assert_eq!((&seen["code"], &seen["details"]), (&json!("NOT_FOUND"), &json!("gone: 50% of é")));
    assert_eq!(seen["trailing"]["x-raw-bin"], "00ff");
    assert!(seen["trailing"]["torana-reject"].is_null());
    let seen = stage.play("stream", &["count=3", "x-late-fail=1"]);
    assert_eq!((&seen["code"], &seen["details"]), (&json!("DATA_LOSS"), &json!("in the middle")));
    assert_eq!(seen["heard"].as_array().unwrap().len(), 3);
    stage.wait_for_log(&[("status", json!(200)), ("grpc_status", json!(5))]);
    stage.wait_for_log(&[("status", json!(200)), ("grpc_status", json!(15))]);
}

#[test]
fn a_client_that_cancels_or_dies_is_noticed_by_the_server() {
    for up in [Up::H2c, Up::Tls] {
        let stage = Stage::start(up, OPEN);
        let seen = stage.play("cancel", &["x-name=cancelled"]);
        assert_eq!(seen, json!({ "heard": ["0", "1", "2"], "code": "CANCELLED" }));
        stage.server.wait_for("over cancelled");
        // The server would go on for half a minute.
        let address = stage.gateway.address().to_string();
        let mut dying =
            Script::start("grpc_client.py", &[&address, "-", "one", "x-name=dead", "x-sleep=30", "timeout=60"]);
        let called = |name: &str| stage.server.said().iter().any(|line| line.starts_with(&format!("call {name} ")));
        eventually("the call is there", || called("dead"));
        dying.kill();
        stage.server.wait_for("over dead");
    }
}

#[test]
fn a_server_that_dies_is_noticed_by_the_client() {
    let mut stage = Stage::start(Up::H2c, OPEN);
    let address = stage.gateway.address().to_string();
    let client = Script::start(
        "grpc_client.py",
        &[&address, "-", "stream", "count=3", "x-name=long", "x-linger=30", "timeout=60"],
    );
    eventually("the call is there", || stage.server.said().iter().any(|line| line.starts_with("call long ")));
    std::thread::sleep(std::time::Duration::from_millis(500));
    stage.server.kill();
    eventually("the client knows", || !client.said().is_empty());
    let seen: serde_json::Value = serde_json::from_str(&client.said()[0]).unwrap();
    is_unreachable(&seen);
    assert_eq!(seen["heard"].as_array().unwrap().len(), 3);
    stage.wait_for_log(&[
        ("status", json!(200)),
        ("grpc_status", json!(14)),
        ("reject", json!("upstream_unreachable")),
    ]);
    // Before a response has begun.
    let seen = stage.play("one", &[]);
    is_unreachable(&seen);
}

#[test]
fn a_call_that_an_endpoint_cannot_serve_is_tried_elsewhere_if_it_may_be_made_twice() {
    let (bad, good) = (Script::start("grpc_server.py", &["--unavailable"]), Script::start("grpc_server.py", &[]));
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", h2c: true }}]
upstreams: {{ up: {{ endpoints: [\"{}\", {{ address: \"{}\", priority: 1 }}], protocol: http2, retries: {{ on: [{{ grpc: unavailable }}] }} }} }}
routes: [{{ name: r, upstream: up }}]\n",
        bad.address(),
        good.address()
    ));
    let address = gateway.address().to_string();
    let call = |given: &[&str]| script::json("grpc_client.py", &[&[address.as_str(), "-", "one"][..], given].concat());
    assert_eq!(call(&[])["code"], "UNAVAILABLE", "a call is a POST");
    assert_eq!(call(&["x-name=twice", "idempotency-key=\"1\""])["code"], "OK");
}

#[test]
fn many_calls_share_few_connections() {
    let stage = Stage::start(Up::H2c, OPEN);
    // All at once, and no connection is there yet.
    let seen = stage.play("parallel", &["calls=200", "x-sleep=0.5"]);
    assert_eq!(seen["right"], 200, "{seen}");
    let said = stage.server.said();
    let peers: BTreeSet<_> = said.iter().filter_map(|line| line.split_once(" from ")).map(|(_, peer)| peer).collect();
    assert!(peers.len() <= 20, "{peers:?}");
}

#[test]
fn large_messages_pass_whole() {
    let stage = Stage::start(Up::Tls, OPEN);
    for secure in [false, true] {
        let given = ["size=20000000", "timeout=100"];
        let seen = if secure { stage.play_over_tls("one", &given) } else { stage.play("one", &given) };
        assert_eq!((&seen["same"], &seen["length"]), (&json!(true), &json!(20_000_000)), "{seen}");
    }
}
