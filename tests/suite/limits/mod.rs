//! What a listener asks of its clients: how large and how many, how long, how fast. Beyond it the answer is a problem document, and the
//! connection is closed.

mod doors;
mod floods;
mod idle;
mod size;
mod slow;
mod slowhttptest;
mod tls;

use std::net::SocketAddr;

use crate::support::{Gateway, request};

/// A gateway to one upstream whose listener has these limits.
fn start(listener: &str, up: SocketAddr) -> Gateway {
    Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", {listener} }}]
telemetry: {{ access_log: {{}} }}
upstreams: {{ up: {{ endpoints: [\"{up}\"], retries: {{ attempts: 0 }} }} }}
routes:
  - {{ name: all, upstream: up }}
  - {{ name: moved, match: {{ path: /moved }}, redirect: {{ to: /elsewhere }} }}
  - {{ name: large, match: {{ path: /large }}, upstream: up, policies: [{{ request_size: {{ max: 1MiB }} }}] }}
  - {{ name: small, match: {{ path: /small }}, upstream: up, policies: [{{ request_size: {{ max: 5B }} }}] }}
"
    ))
}

/// Sends bytes, and returns status and code of the refusal, behind which the connection must be closed.
#[track_caller]
fn refused(gateway: &Gateway, bytes: &[u8]) -> (u16, String) {
    let mut client = gateway.client();
    client.try_write(bytes);
    let answer = client.read();
    let code = answer.problem();
    assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
    assert!(client.is_closed());
    (answer.status, code)
}

/// That a refusal is logged and counted.
#[track_caller]
fn is_known(gateway: &Gateway, code: &str, route: &str, count: f64) {
    gateway.wait_for_metric(&format!("torana_rejects_total{{reject=\"{code}\",route=\"{route}\"}}"), count);
    let wanted = format!("\"reject\":\"{code}\"");
    crate::support::eventually("it is in the log", || gateway.log().lines().any(|line| line.contains(&wanted)));
}

/// A GET that works, on a connection of its own.
#[track_caller]
fn still_serves(gateway: &Gateway) {
    assert_eq!(gateway.get("/").status, 200);
}

/// The header of a POST in chunks.
fn chunked(path: &str) -> String {
    request("POST", path, &[("Transfer-Encoding", "chunked")])
}
