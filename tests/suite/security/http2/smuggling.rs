//! Requests that two servers could read differently.

use super::{over_http2, send_block};
use crate::support::{
    Upstream,
    frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, Peer, WHOLE},
};

/// Headers that would be read differently by HTTP/1.1, or not at all.
const UNREADABLE: &[&[(&str, &str)]] = &[
    &[("x-test", "a\r\nx-consumer-id: root")],
    &[("x-test", "a\nb")],
    &[("x-test", "a\rb")],
    &[("x-test", "a\0b")],
    &[("x-test\r\nx-other", "a")],
    &[("x test", "a")],
    &[("", "a")],
    &[("X-Test", "a")],
    &[("transfer-encoding", "chunked")],
    &[("transfer-encoding", "identity")],
    &[("connection", "close")],
    &[("connection", "x-consumer-id")],
    &[("keep-alive", "1")],
    &[("proxy-connection", "close")],
    &[("upgrade", "websocket")],
    &[("te", "chunked")],
    &[(":authority", "test")],
    &[(":authority", "other")],
    &[("host", "other")],
    &[("host", "test"), ("host", "test")],
    &[("host", "user@test")],
    &[("content-length", "0"), ("content-length", "0")],
    &[("content-length", "0"), ("content-length", "1")],
    &[("content-length", "0, 0")],
    &[("content-length", "+0")],
    &[("content-length", "-1")],
    &[("content-length", "0x0")],
    &[("content-length", "")],
    &[("content-length", "18446744073709551616")],
];

/// Whether a request came to an end before the upstream could see it.
fn is_refused(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Reset(1) | Outcome::Goaway(1 | 9) | Outcome::Answer(400))
}

#[test]
fn a13_a_length_over_http2_that_is_not_the_bodys() {
    let up = Upstream::named("hello");
    let gateway = over_http2(&up, "");
    let mut peer = Peer::start(gateway.address());
    let post = |length: &str| [frames::post("/"), frames::field("content-length", length)].concat();
    // Short, long, and none at all. What the upstream was told of the first one must not be the beginning of another.
    peer.frame(HEADERS, END_HEADERS, 1, &post("40")).frame(DATA, END_STREAM, 1, b"GET /admin HTTP/1.1\r\n");
    assert_eq!(peer.until(Outcome::Reset(1)), Ok(()));
    peer.frame(HEADERS, END_HEADERS, 3, &post("2")).frame(DATA, END_STREAM, 3, b"okGET /admin HTTP/1.1\r\n\r\n");
    assert_eq!(peer.until(Outcome::Reset(1)), Ok(()));
    peer.frame(HEADERS, WHOLE, 5, &post("5"));
    assert_eq!(peer.until(Outcome::Reset(1)), Ok(()));
    for stream in [7, 9, 11] {
        peer.get(stream, "/good");
        assert_eq!(peer.answer(stream).unwrap().0, 200);
    }
    let seen = up.seen();
    assert!(
        seen.iter().all(|seen| seen.target == "/good" && seen.method == "GET" && seen.body.is_empty()),
        "{seen:#?}"
    );
    assert_eq!(seen.len(), 3);
}

#[test]
fn a14_fields_over_http2_that_http11_would_read_differently() {
    let up = Upstream::named("hello");
    let gateway = over_http2(&up, "");
    for more in UNREADABLE {
        let mut peer = Peer::start(gateway.address());
        let block = [frames::get("/"), frames::fields(more)].concat();
        peer.frame(HEADERS, WHOLE, 1, &block);
        let outcome = peer.outcome();
        assert!(is_refused(outcome), "{more:?}: {outcome:?}");
    }
    for (path, host) in [
        ("/a b", "test"),
        ("/a\r\nx-consumer-id: root", "test"),
        ("/a\0", "test"),
        ("/a\x7f", "test"),
        ("/?a b", "test"),
        ("/?a\r\n", "test"),
        ("/", "te st"),
        ("/", "test\r\nx: y"),
        ("/", "user@test"),
        ("/", "test/admin"),
        ("/", ""),
    ] {
        let mut peer = Peer::start(gateway.address());
        let all = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", host)];
        peer.frame(HEADERS, WHOLE, 1, &frames::fields(&all));
        let outcome = peer.outcome();
        assert!(is_refused(outcome), "{path:?} {host:?}: {outcome:?}");
    }
    assert!(up.seen().is_empty(), "{:#?}", up.seen());
}

#[test]
fn b09_paths_over_http2_that_do_not_begin_with_a_slash() {
    let up = Upstream::named("hello");
    let gateway = over_http2(&up, "");
    for path in
        ["admin.Svc/Delete", "*", "http://test/admin", "https://other/", "//", "", "?x", "#x", "admin", "\\admin"]
    {
        let mut peer = Peer::start(gateway.address());
        let all = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "test")];
        let all = [&all[..], &[("content-type", "application/grpc"), ("te", "trailers")]].concat();
        peer.frame(HEADERS, WHOLE, 1, &frames::fields(&all));
        let outcome = peer.outcome();
        // Two slashes are one: that gets through.
        // A client of gRPC is refused with a status of gRPC, in a 200.
        assert!(outcome == Outcome::Answer(200) || is_refused(outcome), "{path:?}: {outcome:?}");
    }
    assert!(up.seen().len() <= 1, "{:#?}", up.seen());
    assert!(up.seen().iter().all(|seen| seen.target == "/"), "{:#?}", up.seen());
}

#[test]
fn c08_too_many_fields_over_http2() {
    let up = Upstream::named("hello");
    let gateway = over_http2(&up, "");
    let many = |name: &str, count: usize| {
        (0..count).flat_map(|at| frames::field(name, &format!("c{at}=v"))).collect::<Vec<_>>()
    };
    let large = frames::field("x-large", &"x".repeat(100_000));
    for (what, more, codes) in [
        ("257 fields", many("x-many", 257), &[Outcome::Answer(431)][..]),
        ("one field of 100 kB", large, &[Outcome::Answer(431)]),
        ("300 pieces of a cookie", many("cookie", 300), &[Outcome::Answer(431)]),
        ("10,000 pieces of a cookie", many("cookie", 10_000), &[Outcome::Answer(431), Outcome::Goaway(11)]),
    ] {
        let before = gateway.memory();
        for _ in 0..20 {
            let mut peer = Peer::start(gateway.address());
            send_block(&mut peer, &[frames::get("/"), more.clone()].concat());
            let outcome = peer.outcome();
            assert!(codes.contains(&outcome), "{what}: {outcome:?}");
        }
        let more = gateway.memory().saturating_sub(before);
        assert!(more < 32 << 20, "{what}: {more} bytes more");
    }
    assert!(up.seen().is_empty());
    let mut peer = Peer::start(gateway.address());
    send_block(&mut peer, &[frames::get("/"), many("cookie", 200), many("x-few", 100)].concat());
    assert_eq!(peer.outcome(), Outcome::Answer(200));
    assert_eq!(up.only().header("cookie").unwrap().matches("; ").count(), 199);
}
