//! How large, and how many.

use std::io::{Read as _, Write as _};

use super::{chunked, is_known, refused, start, still_serves};
use crate::support::{Bare, Upstream, http2, read_head, request, web_socket::frame};

/// The first byte of a text in one frame.
const TEXT: u8 = 0x81;
const SAID: &[u8] = b"a sentence that is longer than ten bytes";

#[test]
fn a_request_line_has_a_length() {
    let up = Upstream::named("up");
    let gateway = start("max_request_line: 100B", up.address());
    // `GET ` and ` HTTP/1.1` are 13.
    assert_eq!(gateway.get(&format!("/{}", "a".repeat(86))).status, 200);
    let long = request("GET", &format!("/{}", "a".repeat(87)), &[]);
    assert_eq!(refused(&gateway, long.as_bytes()), (414, "request_line_too_long".into()));
    // Nobody waits for the end of a line that is too long.
    let endless = format!("GET /{}", "a".repeat(200));
    assert_eq!(refused(&gateway, endless.as_bytes()), (414, "request_line_too_long".into()));
    is_known(&gateway, "request_line_too_long", "", 2.0);
    assert_eq!(up.seen().len(), 1);
}

#[test]
fn without_a_word_a_request_line_may_have_16_kib() {
    let up = Upstream::named("up");
    let gateway = start("", up.address());
    assert_eq!(gateway.get(&format!("/{}", "a".repeat(16_000))).status, 200);
    let long = request("GET", &format!("/{}", "a".repeat(17_000)), &[]);
    assert_eq!(refused(&gateway, long.as_bytes()), (414, "request_line_too_long".into()));
}

#[test]
fn a_request_has_so_many_headers_and_no_more() {
    let up = Upstream::named("up");
    let gateway = start("max_headers: 10", up.address());
    let with = |count: usize| {
        let headers: Vec<_> = (1..count).map(|i| (format!("x-{i}"), "1")).collect();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        request("GET", "/", &headers)
    };
    let mut client = gateway.client();
    client.write(with(10).as_bytes());
    assert_eq!(client.read().status, 200);
    assert_eq!(refused(&gateway, with(11).as_bytes()), (431, "too_many_headers".into()));
    is_known(&gateway, "too_many_headers", "", 1.0);
    assert_eq!(up.seen().len(), 1);
}

#[test]
fn a_body_has_a_size_where_no_policy_says_so() {
    let up = Upstream::named("up");
    let gateway = start("max_body_size: 10B, h2c: true", up.address());
    let post = |path: &str, length: usize| {
        let mut client = gateway.client();
        client.write(request("POST", path, &[("Content-Length", &length.to_string())]).as_bytes());
        client.try_write("x".repeat(length).as_bytes());
        let answer = client.read_answer_to("POST");
        (answer.status, if answer.status == 200 { String::new() } else { answer.problem() })
    };
    let (good, large) = ((200, String::new()), (413, "body_too_large".to_owned()));
    assert_eq!(post("/", 10), good);
    assert_eq!(post("/", 11), large);
    // The policy of a route goes before the listener, in both directions.
    assert_eq!(post("/large", 1 << 20), good);
    assert_eq!(post("/large", (1 << 20) + 1), large);
    assert_eq!(post("/small", 6), large);
    let chunks = chunked("/") + "6\r\nsix...\r\n" + "6\r\nsix...\r\n" + "0\r\n\r\n";
    assert_eq!(refused(&gateway, chunks.as_bytes()), large);
    assert_eq!(http2::send(&gateway, "POST", "/", &[], &[6, 6]).status, 413);
    assert_eq!(http2::send(&gateway, "POST", "/", &[], &[5, 5]).status, 200);
    is_known(&gateway, "body_too_large", "all", 3.0);
}

#[test]
fn without_a_limit_a_body_has_any_size() {
    let up = Upstream::named("up");
    let gateway = start("max_body_size: 0B", up.address());
    let length = 1 << 20;
    let mut client = gateway.client();
    client.write(request("POST", "/", &[("Content-Length", &length.to_string())]).as_bytes());
    client.write(&vec![b'x'; length]);
    assert_eq!(client.read_answer_to("POST").status, 200);
    assert_eq!(up.only().body.len(), length);
}

#[test]
fn what_is_said_in_a_websocket_is_no_body_and_the_wish_for_one_is_no_way_around() {
    let up = Bare::start(|stream, _| {
        let head = read_head(stream).unwrap_or_default();
        if head.starts_with("GET /chat ") {
            let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
            let mut frames = vec![0; 10 * frame(TEXT, SAID, true).len()];
            stream.read_exact(&mut frames).unwrap();
            for _ in 0..10 {
                stream.write_all(&frame(TEXT, SAID, false)).unwrap();
            }
        }
    });
    let gateway = start("max_body_size: 10B", up.address());
    let upgrade = [("Connection", "upgrade"), ("Upgrade", "websocket")];
    let mut client = gateway.client();
    client.write(request("GET", "/chat", &upgrade).as_bytes());
    assert_eq!(client.read().status, 101);
    for _ in 0..10 {
        client.write(&frame(TEXT, SAID, true));
    }
    while client.peeked().len() < 10 * SAID.len() {
        assert!(client.more().is_some(), "{:?}", String::from_utf8_lossy(client.peeked()));
    }
    let mut wish = upgrade.to_vec();
    wish.push(("Content-Length", "11"));
    let wish = request("POST", "/", &wish) + "elevenbytes";
    assert_eq!(refused(&gateway, wish.as_bytes()), (413, "body_too_large".into()));
}

#[test]
fn a_stream_of_grpc_messages_has_no_size() {
    let up = Upstream::named("up");
    let gateway = start("max_body_size: 10B, h2c: true", up.address());
    let grpc = |kind| {
        let answer = http2::send(&gateway, "POST", "/", &[("content-type", kind), ("te", "trailers")], &[8, 8]);
        (answer.status, String::from_utf8_lossy(&answer.body).contains("body_too_large"))
    };
    assert_eq!(grpc("application/grpc"), (200, false));
    assert_eq!(grpc("application/grpc+proto"), (200, false));
    // A refusal that clients of gRPC-Web read: its trailers stand in the body.
    assert_eq!(grpc("application/grpc-web"), (200, true));
    assert_eq!(grpc("application/grpcs"), (413, true));
    still_serves(&gateway);
}

/// A connection that is closed with unread data is reset, and the answer may be lost with it.
#[test]
fn a_client_that_is_still_sending_gets_to_see_that_its_body_is_too_large() {
    let up = Upstream::named("up");
    let gateway = start("max_body_size: 1KiB", up.address());
    for _ in 0..20 {
        let mut client = gateway.client();
        client.write(chunked("/").as_bytes());
        let piece = [b"10000\r\n".as_slice(), &vec![b'x'; 0x10000], b"\r\n"].concat();
        for _ in 0..48 {
            client.try_write(&piece);
        }
        let answer = client.read();
        assert_eq!((answer.status, answer.problem().as_str()), (413, "body_too_large"));
    }
}
