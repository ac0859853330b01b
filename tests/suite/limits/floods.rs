//! Floods over HTTP/1.1: neither memory nor time runs away, and others are served.

use std::time::{Duration, Instant};

use super::{chunked, refused, start, still_serves};
use crate::support::{Gateway, Upstream, eventually, request};

/// More than any limit, and more than sockets hold.
const FLOOD: usize = 64 << 20;

/// Writes the piece over and over until the gateway has had enough; returns how many bytes it took.
fn flood(gateway: &Gateway, begin: &str, piece: &str) -> usize {
    let before = gateway.memory();
    let mut client = gateway.client();
    client.write(begin.as_bytes());
    let piece = piece.repeat((1 << 16) / piece.len());
    let mut sent = 0;
    while sent < FLOOD && client.try_write(piece.as_bytes()) {
        sent += piece.len();
    }
    assert!(sent < FLOOD, "it took everything");
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "{} KiB more memory", grown >> 10);
    still_serves(gateway);
    sent
}

#[test]
fn a_hundred_thousand_requests_whose_answers_nobody_takes() {
    let up = Upstream::named("up");
    let gateway = start("body_timeout: 1s, min_body_rate: 10KiB/s", up.address());
    let before = gateway.memory();
    let client = gateway.client();
    let all = request("GET", "/moved", &[]).repeat(100_000);
    let mut writer = client.stream().try_clone().unwrap();
    writer.set_write_timeout(Some(Duration::from_mins(1))).unwrap();
    let began = Instant::now();
    // Either it is all in the sockets, or the gateway closes the connection.
    let _ = std::io::Write::write_all(&mut writer, all.as_bytes());
    eventually("it is gone", || gateway.metric("torana_connections") == 0.0);
    assert!(began.elapsed() < Duration::from_mins(1), "{:?}", began.elapsed());
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "{} KiB more memory", grown >> 10);
    still_serves(&gateway);
}

#[test]
fn empty_lines_without_end_are_no_request() {
    let up = Upstream::named("up");
    let gateway = start("", up.address());
    flood(&gateway, "", "\r\n");
    flood(&gateway, "", "\n");
    assert_eq!(refused(&gateway, "\r\n".repeat(100).as_bytes()), (400, "bad_request".into()));
    assert_eq!(up.seen().len(), 2, "what still is served");
}

#[test]
fn one_empty_line_before_a_request_is_borne() {
    let up = Upstream::named("up");
    let gateway = start("", up.address());
    let mut client = gateway.client();
    client.write(("\r\n".to_owned() + &request("GET", "/", &[])).as_bytes());
    assert_eq!(client.read().status, 200);
}

#[test]
fn a_header_that_never_ends_is_cut_at_its_size() {
    let up = Upstream::named("up");
    let gateway = start("", up.address());
    flood(&gateway, "GET / HTTP/1.1\r\nHost: a\r\n", "x-a: a\r\n");
    flood(&gateway, "GET / HTTP/1.1\r\nHost: a\r\nx-a: ", "a");
    flood(&gateway, "GET /", "a");
    assert_eq!(up.seen().len(), 3, "what still is served");
}

#[test]
fn the_extension_of_a_chunk_is_cut_at_some_size() {
    let up = Upstream::named("up");
    let gateway = start("", up.address());
    flood(&gateway, &(chunked("/") + "5;a="), "a");
    let answer = refused(&gateway, (chunked("/") + "5;a=" + &"a".repeat(1 << 16)).as_bytes());
    assert_eq!(answer, (400, "bad_request".into()));
    // Each of them small, and no end of them: bytes that are no body count as little as those that are.
    let gateway = start("max_body_size: 1KiB", up.address());
    flood(&gateway, &chunked("/"), &format!("1;a={}\r\nx\r\n", "a".repeat(1000)));
}

#[test]
fn trailers_are_cut_at_some_size() {
    let up = Upstream::named("up");
    let gateway = start("", up.address());
    flood(&gateway, &(chunked("/") + "0\r\n"), "x-a: a\r\n");
    let answer = refused(&gateway, (chunked("/") + "0\r\n" + &"x-a: a\r\n".repeat(1 << 14)).as_bytes());
    assert_eq!(answer, (400, "bad_request".into()));
}
