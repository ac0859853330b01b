//! slowhttptest in its three modes: others are served as before.
//!
//! `loadtest/slow` does it for a minute each, and measures.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::{Client, Gateway, Reply, Upstream, eventually};

/// Attacks for ten seconds with 200 connections from 127.0.0.1, of which 100 may be open.
fn attack(mode: &[&str]) {
    let up = Upstream::start(|seen| Reply::ok(vec![b'x'; if seen.target == "/large" { 4 << 20 } else { 1 << 10 }]));
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", header_timeout: 2s, body_timeout: 2s, min_body_rate: 10KiB/s }}]
limits: {{ connections_per_address: 100 }}
upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
routes: [{{ name: all, upstream: up }}]
",
        up.address()
    ));
    let mut normal = Client::connect_from("127.0.0.2".parse().unwrap(), gateway.address());
    assert_eq!(normal.get("/").status, 200);
    let before = gateway.memory();
    let mut attacker = Command::new("slowhttptest")
        .args(["-c", "200", "-r", "100", "-i", "1", "-l", "10", "-p", "1"])
        .args(mode)
        .arg("-u")
        .arg(format!("http://{}/large", gateway.address()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("slowhttptest: tests/run setup installs it");
    eventually("the attack has begun", || gateway.metric("torana_connections") > 50.0);
    let (mut asked, began) = (0, Instant::now());
    while attacker.try_wait().unwrap().is_none() && began.elapsed() < Duration::from_mins(1) {
        assert_eq!(normal.get("/").status, 200);
        let mut fresh = Client::connect_from("127.0.0.3".parse().unwrap(), gateway.address());
        assert_eq!(fresh.get("/").status, 200);
        asked += 1;
        assert!(gateway.metric("torana_connections") < 110.0, "an address has no more than its share");
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = attacker.kill();
    let _ = attacker.wait();
    assert!(asked > 20, "{asked} requests went through meanwhile");
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{} KiB more memory", grown >> 10);
    assert!(
        gateway.metric("torana_rejects_total{reject=\"too_many_connections\",route=\"\"}") > 0.0,
        "some were turned away"
    );
    eventually("the attacker's connections are gone", || gateway.metric("torana_connections") <= 1.0);
    assert_eq!(normal.get("/").status, 200);
}

#[test]
fn slow_headers_keep_nobody_else_waiting() {
    attack(&["-H", "-x", "10"]);
}

#[test]
fn slow_bodies_keep_nobody_else_waiting() {
    attack(&["-B", "-x", "10"]);
}

#[test]
fn slow_readers_keep_nobody_else_waiting() {
    attack(&["-X", "-w", "10", "-y", "20", "-z", "5", "-n", "1"]);
}
