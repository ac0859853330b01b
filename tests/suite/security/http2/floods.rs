//! Floods, and what is held open.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{over_http2, send_block};
use crate::support::{
    Gateway, Reply, Upstream, eventually,
    frames::{
        self, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Outcome, PING, PRIORITISED, PRIORITY, Peer,
        RST_STREAM, WHOLE,
    },
};

const CALM: Outcome = Outcome::Goaway(11);

/// An upstream that takes a while, and counts how many requests it has at once, and had at most.
fn slow_upstream() -> (Upstream, Arc<[AtomicUsize; 2]>) {
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let shared = Arc::clone(&counts);
    let up = Upstream::start(move |_| {
        let now = shared[0].fetch_add(1, Ordering::SeqCst) + 1;
        shared[1].fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(50));
        shared[0].fetch_sub(1, Ordering::SeqCst);
        Reply::ok("hello")
    });
    (up, counts)
}

/// Sends on until the gateway does not take it any more, and says how it ended.
fn flood(gateway: &Gateway, mut next: impl FnMut(&mut Peer, u32)) -> Result<(), Outcome> {
    let mut peer = Peer::start(gateway.address());
    for round in 0..40 {
        for at in 0..1_000 {
            next(&mut peer, round * 1_000 + at);
        }
        if !peer.flush() {
            break;
        }
    }
    // Streams may be reset and answered before.
    loop {
        let outcome = peer.outcome();
        if outcome == CALM {
            return Ok(());
        }
        if matches!(outcome, Outcome::Goaway(_) | Outcome::Closed | Outcome::Silence) {
            return Err(outcome);
        }
    }
}

/// Whichever frame was the last straw: the stream itself may have been refused for want of room.
const ANY: &str = "";

#[track_caller]
fn calms(what: &str, kind: &str, next: impl FnMut(&mut Peer, u32)) {
    let (up, counts) = slow_upstream();
    let gateway = over_http2(&up, "");
    let before = gateway.memory();
    assert_eq!(flood(&gateway, next), Ok(()), "{what}");
    eventually(&format!("{what} is counted"), || {
        let metrics = gateway.ask_admin("/metrics").text();
        metrics.lines().any(|line| {
            line.strip_prefix("torana_http2_floods_total{kind=\"")
                .is_some_and(|line| line.starts_with(kind) && line.ends_with(" 1"))
        })
    });
    let more = gateway.memory().saturating_sub(before);
    assert!(more < 48 << 20, "{what}: {more} bytes more");
    let most = counts[1].load(Ordering::SeqCst);
    assert!(most <= 200, "{what}: {most} requests at once");
    // Others are served.
    let mut peer = Peer::start(gateway.address());
    peer.get(1, "/");
    assert_eq!(peer.answer(1).unwrap().0, 200, "{what}");
    eventually("nothing is left of the flood", || gateway.metric("torana_requests_in_flight") < 0.5);
}

#[test]
fn e07_streams_that_are_given_up_at_once() {
    let cancel = 8_u32.to_be_bytes();
    calms("rapid reset", "reset", |peer, at| {
        peer.get(at * 2 + 1, "/").frame(RST_STREAM, 0, at * 2 + 1, &cancel);
    });
}

#[test]
fn e07_streams_that_the_gateway_is_made_to_reset() {
    calms("a window that is too large", ANY, |peer, at| {
        peer.get(at * 2 + 1, "/").window(at * 2 + 1, (1 << 31) - 1);
    });
    calms("a dependency on itself", ANY, |peer, at| {
        let stream = at * 2 + 1;
        peer.get(stream, "/").frame(PRIORITY, 0, stream, &[&stream.to_be_bytes()[..], &[1]].concat());
    });
    calms("a body that is longer than its length", ANY, |peer, at| {
        let block = [frames::post("/"), frames::field("content-length", "1")].concat();
        peer.frame(HEADERS, END_HEADERS, at * 2 + 1, &block).frame(DATA, 0, at * 2 + 1, b"xx");
    });
    calms("headers that are malformed", ANY, |peer, at| {
        let block = [frames::get("/"), frames::field("connection", "x")].concat();
        peer.frame(HEADERS, WHOLE, at * 2 + 1, &block);
    });
    // These end the connection by themselves.
    let (up, _) = slow_upstream();
    let gateway = over_http2(&up, "");
    let mut peer = Peer::start(gateway.address());
    peer.get(1, "/").window(1, 0);
    assert_eq!(peer.until(Outcome::Goaway(1)), Ok(()));
    let mut peer = Peer::start(gateway.address());
    peer.get(1, "/").frame(DATA, 0, 1, b"x");
    assert_eq!(peer.until(Outcome::Goaway(1)), Ok(()));
    let mut peer = Peer::start(gateway.address());
    peer.frame(HEADERS, WHOLE | PRIORITISED, 1, &[&[0, 0, 0, 1, 1][..], &frames::get("/")].concat());
    assert_eq!(peer.until(Outcome::Goaway(1)), Ok(()));
}

#[test]
fn e07_frames_that_ask_for_nothing() {
    calms("PING", "ping", |peer, _| {
        peer.ping();
    });
    calms("SETTINGS", "settings", |peer, _| {
        peer.settings(&[(3, 100)]);
    });
    calms("PRIORITY", "priority", |peer, _| {
        peer.frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]);
    });
    calms("WINDOW_UPDATE", "window", |peer, _| {
        peer.window(0, 1);
    });
    calms("an extension", "other", |peer, _| {
        peer.frame(0x42, 0, 0, b"");
    });
    calms("acknowledged pings", "other", |peer, _| {
        peer.frame(PING, 1, 0, b"torana!!");
    });
    calms("DATA with nothing in it", "data", |peer, at| {
        if at == 0 {
            peer.post(1, "/");
        }
        peer.frame(DATA, 0, 1, b"");
    });
    calms("DATA with nothing but padding in it", "data", |peer, at| {
        if at == 0 {
            peer.post(1, "/");
        }
        peer.frame(DATA, frames::PADDED, 1, b"\x01\x00");
    });
}

#[test]
fn e07_headers_without_end() {
    calms("CONTINUATION with nothing in it", "continuation", |peer, at| {
        if at == 0 {
            peer.frame(HEADERS, END_STREAM, 1, &frames::get("/"));
        }
        peer.frame(CONTINUATION, 0, 1, b"");
    });
    calms("CONTINUATION with fields in it", "continuation", |peer, at| {
        if at == 0 {
            peer.frame(HEADERS, END_STREAM, 1, &frames::get("/"));
        }
        peer.frame(CONTINUATION, 0, 1, &frames::field("x-test", "ok"));
    });
}

#[test]
fn e07_a_client_that_only_works_hard_is_no_flood() {
    let up = Upstream::start(|_| Reply::ok(vec![b'x'; 20_000]));
    let gateway = over_http2(&up, "");
    let mut peer = Peer::start(gateway.address());
    // A ping and two windows for every frame, as some clients do.
    let mut frames = 0;
    for at in 0..300 {
        let stream = at * 2 + 1;
        peer.get(stream, "/");
        loop {
            let frame = peer.next().unwrap();
            assert_ne!(frame.kind, GOAWAY, "{frame:?} behind {frames}");
            if frame.stream != stream || frame.kind != DATA {
                continue;
            }
            frames += 1;
            if !frame.payload.is_empty() {
                let length = u32::try_from(frame.payload.len()).unwrap();
                peer.window(0, length).ping();
            }
            if frame.flags & END_STREAM != 0 {
                break;
            }
            peer.window(stream, u32::try_from(frame.payload.len()).unwrap());
        }
    }
    assert!(frames > 500, "{frames}");
    assert!(!gateway.ask_admin("/metrics").text().contains("torana_http2_floods_total{"));
}

#[test]
fn e08_a_small_header_that_is_a_large_one() {
    let up = Upstream::named("hello");
    let gateway = over_http2(&up, "");
    // A field of 4 kB for the table, and then one byte for each time that it is meant.
    let mut block = frames::get("/");
    block.push(0x40);
    block.extend_from_slice(b"\x01x");
    block.extend(frames::integer(4_000, 7, 0));
    block.extend(std::iter::repeat_n(b'y', 4_000));
    block.extend(std::iter::repeat_n(0xbe, 10_000));
    let before = gateway.memory();
    for _ in 0..50 {
        let mut peer = Peer::start(gateway.address());
        send_block(&mut peer, &block);
        let outcome = peer.outcome();
        assert!(matches!(outcome, Outcome::Answer(431) | Outcome::Goaway(11)), "{outcome:?}");
    }
    let more = gateway.memory().saturating_sub(before);
    assert!(more < 32 << 20, "{more} bytes more");
    assert!(up.seen().is_empty());
    eventually("every flood is counted", || gateway.metric("torana_http2_floods_total{kind=\"headers\"}") > 49.0);
}

#[test]
fn e08_streams_that_are_held_open_by_a_closed_window() {
    let up = Upstream::start(|_| Reply::ok(vec![b'x'; 8 << 20]));
    let gateway = over_http2(&up, ", body_timeout: 1s");
    let before = gateway.memory();
    let mut peer = Peer::start(gateway.address());
    peer.settings(&[(4, 0)]);
    for at in 0..100 {
        peer.get(at * 2 + 1, "/");
    }
    let mut reset = 0;
    while reset < 100 {
        let outcome = peer.outcome();
        let is_begun = matches!(outcome, Outcome::Answer(200) | Outcome::Acknowledged);
        assert!(is_begun || outcome == Outcome::Reset(8), "{outcome:?} behind {reset}");
        reset += usize::from(!is_begun);
        let more = gateway.memory().saturating_sub(before);
        assert!(more < 96 << 20, "{more} bytes more");
    }
    eventually("nothing is left", || gateway.metric("torana_requests_in_flight") < 0.5);
    peer.settings(&[(4, 1 << 24)]).get(301, "/").window(0, 1 << 24);
    assert_eq!(peer.answer(301).unwrap().1.len(), 8 << 20);
}

#[test]
fn e09_connections_on_which_nothing_is_asked() {
    let up = Upstream::named("hello");
    let gateway = over_http2(&up, ", idle_timeout: 2s");
    let mut peers: Vec<Peer> = (0..500).map(|_| Peer::start(gateway.address())).collect();
    for (at, peer) in peers.iter_mut().enumerate() {
        // Pings are no requests, and neither are windows.
        if at % 2 == 0 {
            peer.ping().window(0, 1).flush();
        } else if at % 3 == 0 {
            peer.get(1, "/");
            assert_eq!(peer.answer(1).unwrap().0, 200);
        }
    }
    for peer in &mut peers {
        assert_eq!(peer.until(Outcome::Goaway(0)), Ok(()));
        assert_eq!(peer.until(Outcome::Closed), Ok(()));
    }
    eventually("none is left", || gateway.metric("torana_connections") < 2.5);
}
