//! The same with a client that others wrote: aioquic.

use std::{path::PathBuf, process::Command};

use serde_json::{Value, json};

use super::{ROUTE, echo, start};
use crate::support::{Authority, Gateway, Recorded, Reply, Upstream};

/// What it got for these requests, which it sends at once on one connection.
fn ask(gateway: &Gateway, authority: &Authority, requests: &Value) -> Vec<Value> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let ca = gateway.folder().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let output = Command::new(root.join("target/tools/bin/python"))
        .arg(root.join("tests/suite/scripts/http3_client.py"))
        .args(["127.0.0.1", &gateway.address().port().to_string()])
        .arg(&ca)
        .arg(requests.to_string())
        .output()
        .expect("`tests/run setup` was run");
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{wrong}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {wrong}"))
}

#[test]
fn aioquic_gets_what_every_client_gets() {
    let up = Upstream::start(|request: &Recorded| match request.target.as_str() {
        "/large" => Reply::ok(vec![b'y'; 2_000_000]),
        "/header" => Reply::ok("").header("x-long", &"v".repeat(5000)),
        _ => echo(request),
    });
    let rest = "consumers: { ann: { api_keys: [\"0123456789abcdef\"] } }\nroutes:\n  - { name: a, upstream: up }\n  - name: closed\n    match: { path: /closed }\n    policies: [{ api_key: { header: x-api-key } }]\n    upstream: up\n";
    let (gateway, authority) = start(&up, "true", rest);
    let got = ask(
        &gateway,
        &authority,
        &json!([
            { "method": "GET", "path": "/" },
            { "method": "HEAD", "path": "/" },
            { "method": "POST", "path": "/", "body": 0 },
            { "method": "POST", "path": "/", "body": 1_500_000 },
            { "method": "PUT", "path": "/", "body": 10, "headers": { "content-length": "10" } },
            { "method": "PUT", "path": "/", "body": 10, "headers": { "content-length": "9" } },
            { "method": "GET", "path": "/large" },
            { "method": "GET", "path": "/header" },
            { "method": "GET", "path": "/closed" },
            { "method": "GET", "path": "/closed", "headers": { "x-api-key": "0123456789abcdef" } },
            { "method": "GET", "path": "/", "headers": { "te": "gzip" } },
            { "method": "CONNECT", "path": "/" },
        ]),
    );
    let brief: Vec<_> =
        got.iter().map(|one| (one["status"].as_u64().unwrap_or(0), one["length"].as_u64().unwrap())).collect();
    assert_eq!(brief[..5], [(200, 0), (200, 0), (200, 0), (200, 1_500_000), (200, 10)], "{got:#?}");
    assert!(brief[5].0 == 400 || got[5]["reset"] == 0x10e, "{:#?}", got[5]);
    assert_eq!(brief[6..8], [(200, 2_000_000), (200, 0)], "{got:#?}");
    assert_eq!(got[7]["headers"]["x-long"].as_str().unwrap().len(), 5000);
    assert_eq!(brief[8..].iter().map(|one| one.0).collect::<Vec<_>>(), [401, 200, 400, 405], "{got:#?}");
    assert!(got[8]["start"].as_str().unwrap().contains("unauthenticated"));
}

#[test]
fn aioquic_asks_a_hundred_times_at_once_and_gives_up_on_some() {
    let up = Upstream::start(|request: &Recorded| Reply::ok(request.target.clone()));
    let (gateway, authority) = start(&up, "true", ROUTE);
    let requests: Vec<_> =
        (0..100).map(|n| json!({ "method": "GET", "path": format!("/{n}"), "cancel": n % 10 == 0 })).collect();
    let got = ask(&gateway, &authority, &Value::from(requests));
    for (n, one) in got.iter().enumerate() {
        let whole = one["status"] == 200 && one["start"] == format!("/{n}");
        assert!(whole || (n % 10 == 0 && one["reset"].is_u64()), "{n}: {one:#?}");
    }
    gateway.wait_for_metric("torana_requests_in_flight", 0.0);
}
