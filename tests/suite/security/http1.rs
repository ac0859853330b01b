//! Rows that are about HTTP/1.1 alone. More on sizes and times is in `limits`.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    time::Duration,
};

use crate::support::{Gateway, Reply, Upstream, eventually, request};

/// A gateway whose listener gives clients little time.
fn hasty(up: SocketAddr) -> Gateway {
    Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", header_timeout: 1s, body_timeout: 1s, min_body_rate: 10KiB/s }}]
upstreams: {{ up: {{ endpoints: [\"{up}\"], retries: {{ attempts: 0 }} }} }}
routes: [{{ name: all, upstream: up }}]
"
    ))
}

/// Sends a byte every 50 ms, so that no pause is longer than any limit, and returns the code of the answer.
fn trickle(gateway: &Gateway, begin: &str) -> String {
    let mut client = gateway.client();
    client.write(begin.as_bytes());
    client.set_timeout(Duration::from_millis(50));
    for _ in 0..200 {
        client.try_write(b"a");
        if client.stream().peek(&mut [0]).is_ok() {
            break;
        }
    }
    client.set_timeout(Duration::from_secs(15));
    let answer = client.read();
    assert_eq!(answer.status, 408, "{answer:?}");
    assert!(client.is_closed());
    answer.problem()
}

#[test]
fn e06_slow_headers_are_closed_at_the_deadline_of_all_of_them() {
    let up = Upstream::named("up");
    let gateway = hasty(up.address());
    assert_eq!(trickle(&gateway, "GET / HTTP/1.1\r\nHost: a\r\nx-a: "), "client_timeout");
    assert_eq!(trickle(&gateway, "GET /"), "client_timeout");
    assert!(up.seen().is_empty());
}

#[test]
fn e06_a_slow_body_is_closed_at_the_least_rate() {
    let up = Upstream::named("up");
    let gateway = hasty(up.address());
    assert_eq!(trickle(&gateway, &request("POST", "/", &[("Content-Length", "1000")])), "client_timeout");
    let chunked = request("POST", "/", &[("Transfer-Encoding", "chunked")]) + "3e8\r\n";
    assert_eq!(trickle(&gateway, &chunked), "client_timeout");
    let extension = request("POST", "/", &[("Transfer-Encoding", "chunked")]) + "5;a=";
    assert_eq!(trickle(&gateway, &extension), "client_timeout");
    let trailers = request("POST", "/", &[("Transfer-Encoding", "chunked")]) + "0\r\nx-a: ";
    assert_eq!(trickle(&gateway, &trailers), "client_timeout");
    assert!(up.seen().is_empty());
}

#[test]
fn e06_a_slow_reader_of_the_response_is_closed_at_the_least_rate() {
    let up = Upstream::start(|_| Reply::ok(vec![b'x'; 32 << 20]));
    let gateway = hasty(up.address());
    let before = gateway.memory();
    let clients: Vec<_> = (0..10).map(|_| gateway.client()).collect();
    for client in &clients {
        socket2::SockRef::from(client.stream()).set_recv_buffer_size(4096).unwrap();
        client.stream().write_all(request("GET", "/", &[]).as_bytes()).unwrap();
    }
    eventually("they are gone", || {
        for client in &clients {
            let _ = client.stream().read(&mut [0]);
        }
        gateway.metric("torana_connections") == 0.0
    });
    gateway.wait_for_metric("torana_rejects_total{reject=\"client_timeout\",route=\"all\"}", 10.0);
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{} KiB", grown >> 10);
}

/// Sends bytes, and returns status and code of the refusal, behind which the connection must be closed.
#[track_caller]
fn refused(gateway: &Gateway, bytes: &[u8]) -> (u16, String) {
    let mut client = gateway.client();
    client.try_write(bytes);
    let answer = client.read();
    assert!(client.is_closed());
    (answer.status, answer.problem())
}

#[test]
fn c08_257_headers_one_of_100_kb_and_10_000_cookies_are_refused() {
    let up = Upstream::named("up");
    let gateway = hasty(up.address());
    let with = |headers: String| request("GET", "/", &[]).replace("\r\n\r\n", "\r\n") + &headers + "\r\n";
    let before = gateway.memory();
    for _ in 0..5 {
        assert_eq!(refused(&gateway, with("x-a: 1\r\n".repeat(256)).as_bytes()), (431, "too_many_headers".into()));
        let large = with(format!("x-a: {}\r\n", "a".repeat(100_000)));
        assert_eq!(refused(&gateway, large.as_bytes()), (431, "header_too_large".into()));
        assert_eq!(refused(&gateway, with("cookie: a=b\r\n".repeat(10_000)).as_bytes()).0, 431);
    }
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "{} KiB", grown >> 10);
    assert!(up.seen().is_empty());
}
