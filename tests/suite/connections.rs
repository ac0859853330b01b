//! The life of a client's connection over several requests.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use crate::support::{Gateway, Reply, Upstream, eventually, request};

fn start(listener: &str, up: &Upstream) -> Gateway {
    Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\"{listener} }}]\nupstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes:\n  - {{ name: all, upstream: up, match: {{ path: {{ prefix: / }} }} }}\n  - {{ name: key, match: {{ path: /key }}, upstream: up, policies: [{{ api_key: {{ header: x-key }} }}] }}\n",
        up.address()
    ))
}

/// Answers with method, target and body.
fn echo() -> Upstream {
    Upstream::start(|seen| {
        Reply::ok(format!("{} {} {}", seen.method, seen.target, String::from_utf8_lossy(&seen.body)))
    })
}

#[test]
fn requests_that_are_sent_at_once_are_answered_in_their_order() {
    let up = echo();
    let gateway = start("", &up);
    let mut client = gateway.client();
    let mut all = request("GET", "/1", &[]);
    all += &(request("POST", "/2", &[("Content-Length", "5")]) + "GET /");
    all += &(request("POST", "/3", &[("Transfer-Encoding", "chunked")]) + "3\r\nabc\r\n0\r\n\r\n");
    all += "\r\n";
    all += &request("GET", "/key", &[]);
    all += &request("GET", "/5", &[]);
    client.write(all.as_bytes());
    for wanted in ["GET /1 ", "POST /2 GET /", "POST /3 abc"] {
        assert_eq!(client.read().text(), wanted);
    }
    assert_eq!(client.read().problem(), "unauthenticated");
    assert_eq!(client.read().text(), "GET /5 ");
    assert_eq!(client.get("/6").text(), "GET /6 ");
    assert_eq!(up.seen().len(), 5);
}

#[test]
fn requests_that_arrive_byte_by_byte_are_answered_too() {
    let up = echo();
    let gateway = start("", &up);
    let mut client = gateway.client();
    let both = request("POST", "/1", &[("Content-Length", "3")]) + "abc" + &request("GET", "/2", &[]);
    for byte in both.as_bytes() {
        client.write(&[*byte]);
    }
    assert_eq!(client.read().text(), "POST /1 abc");
    assert_eq!(client.read().text(), "GET /2 ");
}

#[test]
fn a_request_behind_one_that_is_served_waits_for_its_turn() {
    let up = Upstream::start(|seen| Reply::ok(seen.target.clone()).after(Duration::from_millis(500)));
    let gateway = start("", &up);
    let mut client = gateway.client();
    client.write(request("GET", "/1", &[]).as_bytes());
    eventually("the first one is at the upstream", || !up.seen().is_empty());
    client.write(request("GET", "/2", &[]).as_bytes());
    assert_eq!(up.seen().len(), 1);
    assert_eq!(client.read().text(), "/1");
    assert_eq!(client.read().text(), "/2");
}

#[test]
fn a_thousand_requests_at_once_are_all_answered() {
    let up = echo();
    let gateway = start("", &up);
    let mut client = gateway.client();
    let mut writer = client.stream().try_clone().unwrap();
    let all: String = (0..1000).map(|i| request("GET", &format!("/{i}"), &[])).collect();
    let writing = std::thread::spawn(move || writer.write_all(all.as_bytes()));
    for i in 0..1000 {
        assert_eq!(client.read().text(), format!("GET /{i} "));
    }
    writing.join().unwrap().unwrap();
}

#[test]
fn each_request_of_many_is_checked_by_itself() {
    let up = echo();
    let gateway = start("", &up);
    let mut client = gateway.client();
    let wrong = "GET /admin HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    client.write((request("GET", "/1", &[]) + wrong + &request("GET", "/3", &[])).as_bytes());
    assert_eq!(client.read().text(), "GET /1 ");
    assert_eq!(client.read().problem(), "bad_request");
    assert!(client.is_closed());
    assert_eq!(up.seen().len(), 1);
}

#[test]
fn an_idle_connection_is_closed_and_one_that_is_used_is_not() {
    let up = echo();
    let gateway = start(", idle_timeout: 1s", &up);
    let (mut idle, mut used) = (gateway.client(), gateway.client());
    let began = Instant::now();
    for _ in 0..4 {
        assert_eq!(used.get("/").status, 200);
        std::thread::sleep(Duration::from_millis(400));
    }
    assert!(idle.is_closed());
    assert_eq!(used.get("/").status, 200, "{:?}", began.elapsed());
    let since = Instant::now();
    assert!(used.is_closed());
    let took = since.elapsed();
    assert!(took > Duration::from_millis(800) && took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn a_request_may_take_longer_than_an_idle_connection_is_kept() {
    let up = Upstream::start(|_| Reply::ok("late").after(Duration::from_millis(1500)));
    let gateway = start(", idle_timeout: 1s", &up);
    let mut client = gateway.client();
    assert_eq!(client.get("/").text(), "late");
    assert_eq!(client.get("/").text(), "late");
}

#[test]
fn after_so_many_requests_a_connection_is_closed_and_the_client_is_told() {
    let up = echo();
    let gateway = start(", max_requests: 2", &up);
    let mut client = gateway.client();
    assert_eq!(client.get("/").header("connection"), Some("keep-alive"));
    assert_eq!(client.get("/").header("connection"), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn what_cannot_become_a_request_is_refused_at_its_first_byte() {
    let up = echo();
    let gateway = start("", &up);
    // The beginning of TLS, of a WebSocket's frame, of nothing: each would otherwise be waited for up to the deadline of a header.
    for bytes in [&b"\x16\x03\x01\x02\x00\x01"[..], b"\x81\x85", b" GET", b"\0"] {
        let mut client = gateway.client();
        client.write(bytes);
        assert_eq!(client.read().status, 400, "{bytes:?}");
        assert!(client.is_closed());
    }
    assert!(up.seen().is_empty());
}
