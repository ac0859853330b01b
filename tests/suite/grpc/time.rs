//! Deadlines, and how long a call may last.

use serde_json::json;

use super::{OPEN, Stage, Up};
use crate::support::{
    Gateway, eventually, http2,
    script::{self, Script},
};

/// A gateway before services that do not look at the clock.
fn heedless(timeout: &str) -> (Gateway, Script) {
    let server = Script::start("http_server.cjs", &["h2c"]);
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", h2c: true }}]
telemetry: {{ access_log: {{ file: access.log }} }}
upstreams: {{ up: {{ endpoints: [\"{}\"], protocol: http2 }} }}
routes: [{{ name: r, {timeout} upstream: up }}]\n",
        server.address()
    ));
    (gateway, server)
}

#[test]
fn the_route_gives_a_deadline_to_clients_that_have_none_or_a_longer_one() {
    // On a busy machine the server takes most of a second to begin.
    let (gateway, server) = heedless("timeout: 2500ms,");
    let address = gateway.address().to_string();
    let play = |scene: &str, given: &[&str]| {
        let seen = script::json("grpc_client.py", &[&[address.as_str(), "-", scene][..], given].concat());
        assert_eq!(seen["code"], "DEADLINE_EXCEEDED", "{seen}");
        assert_eq!(seen["trailing"]["torana-reject"], "deadline_exceeded", "{seen}");
        assert!(seen["took"].as_f64().unwrap() < 10.0, "{seen}");
        seen
    };
    for timeout in ["timeout=0", "timeout=20"] {
        play("one", &["service=silent", timeout]);
    }
    server.wait_for("over silent");
    // One that sends to the server all the time, and one whose server does.
    play("upload", &["service=silent"]);
    let seen = play("stream", &["service=drip"]);
    assert!(seen["heard"].as_array().unwrap().len() > 2, "{seen}");
    server.wait_for("over drip");
    let log = || std::fs::read_to_string(gateway.folder().join("access.log")).unwrap_or_default();
    let marks = ["\"status\":200", "\"grpc_status\":4", "\"reject\":\"deadline_exceeded\""];
    let counted = || log().lines().filter(|line| marks.iter().all(|mark| line.contains(mark))).count();
    eventually("all are in the log", || counted() == 4);
}

#[test]
fn the_deadline_of_the_client_is_kept_for_it() {
    // This client does not look at the clock either.
    let (gateway, server) = heedless("timeout: 20s,");
    let call = |timeout: &str| {
        let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", timeout)];
        http2::send(&gateway, "POST", "/silent/Unary", &headers, &[])
    };
    let began = std::time::Instant::now();
    let answer = call("600m");
    assert!(began.elapsed().as_secs() < 10);
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("4")), "{answer:?}");
    assert_eq!(answer.header("torana-reject"), Some("deadline_exceeded"));
    server.wait_for("over silent");
    let calls = server.said().len();
    assert_eq!(call("0n").header("torana-reject"), Some("deadline_exceeded"), "there is no time at all");
    assert_eq!(call("1s").header("torana-reject"), Some("bad_request"), "no unit of gRPC");
    assert_eq!(server.said().len(), calls, "the server is not asked");
}

#[test]
fn the_server_knows_how_much_time_is_left() {
    let stage = Stage::start(Up::H2c, "routes: [{ name: r, timeout: 10s, upstream: up }]\n");
    let left = |timeout: &str| {
        let seen = stage.play("one", &["method=TimeLeft", timeout]);
        seen["reply"].as_str().unwrap().parse::<f64>().unwrap()
    };
    assert!((5.0..=10.0).contains(&left("timeout=0")));
    assert!((5.0..=10.0).contains(&left("timeout=60")));
    assert!((1.0..=6.0).contains(&left("timeout=6")));
    let stage = Stage::start(Up::H2c, OPEN);
    assert_eq!(stage.play("one", &["method=TimeLeft", "timeout=0"])["reply"], "-");
}

#[test]
fn a_stream_lasts_for_as_long_as_its_pauses_are_short() {
    let stage = Stage::with(Up::H2c, ", timeouts: { read: 1500ms }", OPEN);
    let seen = stage.play("stream", &["count=8", "x-pause=0.5"]);
    assert_eq!((&seen["code"], seen["heard"].as_array().unwrap().len()), (&json!("OK"), 8), "{seen}");
    let seen = stage.play("stream", &["count=8", "x-pause=6"]);
    assert_eq!(
        (&seen["code"], &seen["trailing"]["torana-reject"]),
        (&json!("UNAVAILABLE"), &json!("upstream_timeout")),
        "{seen}"
    );
}
