//! Every answer that the gateway makes itself is a problem document, and what two parsers could read differently never
//! reaches an upstream.

use std::time::{Duration, Instant};

use crate::support::{Gateway, Reply, Upstream, request};

fn plain(up: &Upstream) -> Gateway {
    Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"], timeouts: {{ connect: 1s, read: 500ms }}, retries: {{ attempts: 0 }} }} }}\nroutes: [{{ name: r, match: {{ path: {{ prefix: /up }} }}, upstream: up }}]\n",
        up.address()
    ))
}

/// Sends bytes and returns the code of the refusal; the connection must be closed behind it.
#[track_caller]
fn refused(gateway: &Gateway, bytes: &str) -> (u16, String) {
    let mut client = gateway.client();
    client.write(bytes.as_bytes());
    let answer = client.read();
    let code = answer.problem();
    assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
    assert!(client.is_closed(), "{bytes:?}");
    (answer.status, code)
}

#[test]
fn a_problem_document_has_everything_and_nothing_of_the_inside() {
    let up = Upstream::named("up");
    let gateway = plain(&up);
    let answer = gateway.get("/nowhere?token=s3cr3t");
    assert_eq!((answer.status, answer.problem().as_str()), (404, "route_not_found"));
    let document = answer.json();
    let members: Vec<&String> = document.as_object().unwrap().keys().collect();
    assert_eq!(members.len(), 5, "{members:?}");
    assert_eq!(document["title"], "Not Found");
    assert_eq!(document["request_id"].as_str().unwrap().len(), 32);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(!answer.text().contains("s3cr3t"));
}

#[test]
fn a_refusal_keeps_the_connection_where_nothing_is_in_doubt() {
    let up = Upstream::named("up");
    let gateway = plain(&up);
    let mut client = gateway.client();
    assert_eq!(client.get("/nowhere").problem(), "route_not_found");
    assert_eq!(client.get("/up").text(), "up");
    client.write(request("POST", "/nowhere", &[("Content-Length", "5")]).as_bytes());
    client.write(b"hello");
    assert_eq!(client.read_answer_to("POST").problem(), "route_not_found");
    assert_eq!(client.get("/up").text(), "up");
}

#[test]
fn the_body_of_a_refused_request_is_never_taken_for_a_request() {
    let up = Upstream::named("up");
    let gateway = plain(&up);
    let hidden = "GET /up/hidden HTTP/1.1\r\nHost: test\r\n\r\n";
    let mut client = gateway.client();
    let length = hidden.len().to_string();
    client.write(request("POST", "/nowhere", &[("Content-Length", &length)]).as_bytes());
    client.write(hidden.as_bytes());
    assert_eq!(client.read_answer_to("POST").status, 404);
    assert_eq!(client.get("/up/real").status, 200);
    assert_eq!(up.only().target, "/up/real");
}

#[test]
fn a_head_request_gets_the_refusal_without_its_body() {
    let up = Upstream::named("up");
    let gateway = plain(&up);
    let mut client = gateway.client();
    client.write(request("HEAD", "/nowhere", &[]).as_bytes());
    let answer = client.read_answer_to("HEAD");
    assert_eq!(answer.status, 404);
    assert!(answer.header("content-length").unwrap().parse::<usize>().unwrap() > 100);
    assert_eq!(client.get("/up").status, 200);
}

#[test]
fn framing_that_parsers_disagree_about_is_refused_and_reaches_no_one() {
    let up = Upstream::named("up");
    let gateway = plain(&up);
    for headers in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Content-Length: 18446744073709551616",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\x0bchunked",
        "Host: other",
        ":empty",
        "X : space",
        "X: folded\r\n more",
        "X: null\0byte",
        "X: bare\nY: feed",
    ] {
        let bytes = format!("POST /up HTTP/1.1\r\nHost: test\r\n{headers}\r\n\r\n0\r\n\r\n");
        assert_eq!(refused(&gateway, &bytes), (400, "bad_request".into()), "{headers:?}");
    }
    for bytes in [
        "GET /up HTTP/1.1\r\n\r\n",
        "GET /up HTTP/1.1\nHost: test\n\n",
        "GET /up HTTP/3.0\r\nHost: test\r\n\r\n",
        "GET /up\r\n\r\n",
        "\x16\x03\x01\x02\r\n\r\n",
        "POST /up HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        assert_eq!(refused(&gateway, bytes), (400, "bad_request".into()), "{bytes:?}");
    }
    assert!(up.seen().is_empty(), "{:?}", up.seen());
}

#[test]
fn hosts_that_are_none_are_refused() {
    let up = Upstream::named("up");
    let gateway = plain(&up);
    for host in ["a@b", "a/b", "a b", "[::1", "a:port", ""] {
        let bytes = format!("GET /up HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(refused(&gateway, &bytes), (400, "bad_request".into()), "{host:?}");
    }
    assert!(up.seen().is_empty());
}

#[test]
fn a_header_that_is_too_large_is_431() {
    let up = Upstream::named("up");
    let gateway = plain(&up);
    let large = "x".repeat(70_000);
    let bytes = format!("GET /up HTTP/1.1\r\nHost: test\r\nX-Large: {large}\r\n\r\n");
    assert_eq!(refused(&gateway, &bytes), (431, "header_too_large".into()));
    let many: String = (0..300).map(|i| format!("X-{i}: 1\r\n")).collect();
    let bytes = format!("GET /up HTTP/1.1\r\nHost: test\r\n{many}\r\n");
    assert_eq!(refused(&gateway, &bytes), (431, "too_many_headers".into()));
    assert!(up.seen().is_empty());
}

#[test]
fn a_header_that_trickles_in_is_408_after_its_whole_time() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", header_timeout: 1s }}]\nupstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        up.address()
    ));
    let mut client = gateway.client();
    let began = Instant::now();
    for byte in b"GET / HTTP/1.1\r\nHost: test\r\nX-Slow: ".iter().chain(&[b'x'; 60]) {
        if !client.try_write(&[*byte]) || began.elapsed() > Duration::from_millis(1500) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let answer = client.read();
    assert_eq!((answer.status, answer.problem().as_str()), (408, "client_timeout"));
    let took = began.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn a_header_in_many_pieces_is_put_together() {
    let up = Upstream::named("up");
    let gateway = plain(&up);
    let mut client = gateway.client();
    for piece in ["GET /u", "p HTTP/1.1\r", "\nHost: te", "st\r\n\r", "\n"] {
        client.write(piece.as_bytes());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(client.read().text(), "up");
}

#[test]
fn an_idle_connection_is_closed() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", idle_timeout: 1s }}]\nupstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        up.address()
    ));
    let mut client = gateway.client();
    assert_eq!(client.get("/").status, 200);
    let began = Instant::now();
    assert!(client.is_closed());
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_connection_is_closed_after_its_last_request() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", max_requests: 3 }}]\nupstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        up.address()
    ));
    let mut client = gateway.client();
    for left in [2, 1, 0] {
        let answer = client.get("/");
        assert_eq!(answer.status, 200);
        let closes = answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        assert_eq!(closes, left == 0, "{answer:?}");
    }
    assert!(client.is_closed());
}

#[test]
fn what_goes_wrong_towards_the_upstream_is_told_apart() {
    let up = Upstream::start(|request| match request.target.as_str() {
        "/up/hang-up" => Reply::hang_up(),
        "/up/garbage" => Reply::raw("this is not HTTP\r\n\r\n"),
        "/up/slow" => Reply::ok("late").after(Duration::from_secs(2)),
        _ => Reply::ok("up"),
    });
    let gateway = plain(&up);
    for (path, status, code) in [
        ("/up/hang-up", 502, "upstream_unreachable"),
        ("/up/garbage", 502, "upstream_invalid"),
        ("/up/slow", 504, "upstream_timeout"),
    ] {
        let answer = gateway.get(path);
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{path}");
    }
    assert_eq!(gateway.get("/up").text(), "up");
}

#[test]
fn what_is_behind_an_upgrade_that_the_upstream_refuses_is_a_request_of_its_own() {
    let up = Upstream::named("no websocket here");
    let gateway = plain(&up);
    let mut client = gateway.client();
    let mut bytes = request(
        "GET",
        "/up",
        &[
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ],
    );
    bytes.push_str("GET /up/smuggled HTTP/1.1\r\nHost: test\r\nX-Consumer-Id: admin\r\n\r\n");
    client.write(bytes.as_bytes());
    assert_ne!(client.read().status, 101);
    assert_eq!(client.read().status, 200);
    let seen = up.seen();
    let [first, second] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((first.target.as_str(), second.target.as_str()), ("/up", "/up/smuggled"));
    // Looked at like any other.
    assert_eq!(second.header("x-consumer-id"), None);
    assert_ne!(first.header("traceparent"), second.header("traceparent"));
}
