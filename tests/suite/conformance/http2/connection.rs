//! Prefaces, frames as such, the states of streams (RFC 7540, 3 to 5).

use super::{Case, ENDS_AS, FRAME_SIZE_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, STREAM_CLOSED, Verdict, case};
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, PING, PREFACE, PRIORITISED, PRIORITY, Peer,
    RST_STREAM, WHOLE, field, get,
};

const OK: &[Outcome] = &[Outcome::Answer(200)];
const PONG: &[Outcome] = &[Outcome::Pong];
const PROTOCOL: &[Outcome] = &[Outcome::Goaway(PROTOCOL_ERROR), Outcome::Closed];
const SIZE: &[Outcome] = &[Outcome::Goaway(FRAME_SIZE_ERROR), Outcome::Closed];
const CLOSED_STREAM: &[Outcome] = &[Outcome::Reset(STREAM_CLOSED)];

pub fn cases() -> Vec<Case> {
    [begin(), layout(), idle_and_half_closed(), closed(), streams()].into_iter().flatten().collect()
}

fn begin() -> Vec<Case> {
    vec![
        case("http2/3.5", "a preface is sent", OK, |peer| {
            *peer = Peer::bare(peer.address());
            peer.raw(PREFACE).settings(&[]).get(1, "/");
        }),
        case("http2/3.5", "a wrong preface is sent", &[Outcome::Closed], |peer| {
            *peer = Peer::bare(peer.address());
            peer.raw(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").settings(&[]);
            // It is no HTTP/2: it gets the answer of HTTP/1.1.
            peer.skip_http1();
        }),
    ]
}

fn layout() -> Vec<Case> {
    vec![
        case("http2/4.1", "a frame of an unknown kind", PONG, |peer| {
            peer.frame(0x16, 0, 0, &[0; 8]).ping();
        }),
        case("http2/4.1", "a frame with flags that are not defined", PONG, |peer| {
            peer.frame(PING, 0x16, 0, b"torana!!");
        }),
        case("http2/4.1", "a frame with the reserved bit", PONG, |peer| {
            peer.frame(PING, 0, 1 << 31, b"torana!!");
        }),
        case("http2/4.2", "a DATA frame of 16384 bytes", OK, |peer| {
            peer.post(1, "/").frame(DATA, END_STREAM, 1, &[b'x'; 16_384]);
        }),
        case("http2/4.2", "a DATA frame larger than SETTINGS_MAX_FRAME_SIZE", SIZE, |peer| {
            peer.post(1, "/").frame(DATA, END_STREAM, 1, &[b'x'; 16_385]);
        }),
        case("http2/4.2", "a HEADERS frame larger than SETTINGS_MAX_FRAME_SIZE", SIZE, |peer| {
            let block = [get("/"), field("x-large", &"x".repeat(16_384))].concat();
            peer.frame(HEADERS, WHOLE, 1, &block);
        }),
        case("http2/4.3", "a header block that cannot be read", super::hpack::ENDED, |peer| {
            // A literal whose value is not there.
            peer.frame(HEADERS, WHOLE, 1, b"\x00\x00\x00\x00\x00\x7f");
        }),
        case("http2/4.3", "PRIORITY within a header block", PROTOCOL, |peer| {
            let block = get("/");
            peer.frame(HEADERS, END_STREAM, 1, &block[..20]).frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 255]).frame(
                CONTINUATION,
                END_HEADERS,
                1,
                &block[20..],
            );
        }),
        case("http2/4.3", "HEADERS of another stream within a header block", PROTOCOL, |peer| {
            peer.frame(HEADERS, END_STREAM, 1, &get("/")).get(3, "/");
        }),
    ]
}

fn reset(peer: &mut Peer) -> &mut Peer {
    peer.post(1, "/slow").frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())
}

fn over(peer: &mut Peer) -> &mut Peer {
    peer.get(1, "/");
    peer.answer(1).unwrap();
    peer
}

fn idle_and_half_closed() -> Vec<Case> {
    vec![
        case("http2/5.1", "idle: DATA", PROTOCOL, |peer| {
            peer.frame(DATA, END_STREAM, 1, b"test");
        }),
        case("http2/5.1", "idle: RST_STREAM", PROTOCOL, |peer| {
            peer.frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes());
        }),
        case("http2/5.1", "idle: WINDOW_UPDATE", PROTOCOL, |peer| {
            peer.window(1, 100);
        }),
        case("http2/5.1", "idle: CONTINUATION", PROTOCOL, |peer| {
            peer.frame(CONTINUATION, WHOLE, 1, &get("/"));
        }),
        case("http2/5.1", "half closed (remote): DATA", PROTOCOL, |peer| {
            peer.get(1, "/slow").frame(DATA, END_STREAM, 1, b"test");
        })
        .but(ENDS_AS),
        case("http2/5.1", "half closed (remote): HEADERS", PROTOCOL, |peer| {
            peer.get(1, "/slow").get(1, "/");
        })
        .but(ENDS_AS),
        case("http2/5.1", "half closed (remote): CONTINUATION", PROTOCOL, |peer| {
            peer.get(1, "/slow").frame(CONTINUATION, END_HEADERS, 1, &get("/"));
        }),
    ]
}

fn closed() -> Vec<Case> {
    vec![
        case("http2/5.1", "closed: DATA behind RST_STREAM", CLOSED_STREAM, |peer| {
            reset(peer).frame(DATA, END_STREAM, 1, b"test");
        }),
        case("http2/5.1", "closed: HEADERS behind RST_STREAM", PROTOCOL, |peer| {
            reset(peer).get(1, "/");
        })
        .but(ENDS_AS),
        case("http2/5.1", "closed: CONTINUATION behind RST_STREAM", PROTOCOL, |peer| {
            reset(peer).frame(CONTINUATION, END_HEADERS, 1, &get("/"));
        }),
        case("http2/5.1", "closed: DATA", CLOSED_STREAM, |peer| {
            over(peer).frame(DATA, END_STREAM, 1, b"test");
        })
        .but(Verdict::OtherCode("`RST_STREAM` instead of `GOAWAY`")),
        case("http2/5.1", "closed: HEADERS", PROTOCOL, |peer| {
            over(peer).get(1, "/");
        })
        .but(Verdict::OtherCode("`PROTOCOL_ERROR` instead of `STREAM_CLOSED`")),
        case("http2/5.1", "closed: CONTINUATION", PROTOCOL, |peer| {
            over(peer).frame(CONTINUATION, END_HEADERS, 1, &get("/"));
        }),
    ]
}

fn streams() -> Vec<Case> {
    vec![
        case("http2/5.1.1", "a stream with an even number", PROTOCOL, |peer| {
            peer.get(2, "/");
        }),
        case("http2/5.1.1", "a stream with a smaller number than before", PROTOCOL, |peer| {
            peer.get(5, "/slow").get(3, "/");
        }),
        case("http2/5.1.2", "more streams at once than are allowed", &[Outcome::Reset(REFUSED_STREAM)], |peer| {
            let most = peer.setting(3).unwrap();
            for at in 0..=most {
                peer.post(at * 2 + 1, "/slow");
            }
        }),
        case("http2/5.3.1", "HEADERS that depend on themselves", PROTOCOL, |peer| {
            let block = [vec![0, 0, 0, 1, 255], get("/")].concat();
            peer.frame(HEADERS, WHOLE | PRIORITISED, 1, &block);
        })
        .but(super::ENDS),
        case("http2/5.3.1", "PRIORITY that depends on itself", &[Outcome::Reset(PROTOCOL_ERROR)], |peer| {
            peer.frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 255]);
        }),
        case("http2/5.4.1", "a wrong PING ends the connection", SIZE, |peer| {
            peer.frame(PING, 0, 0, &[0; 6]);
        }),
        case("http2/5.4.1", "the connection is closed behind GOAWAY", PROTOCOL, |peer| {
            peer.frame(DATA, 0, 0, b"test");
        }),
        case("http2/5.5", "a frame of an extension", PONG, |peer| {
            peer.frame(0xff, 0xff, 1, b"whatever").ping();
        }),
        case("http2/5.5", "a frame of an extension within a header block", PROTOCOL, |peer| {
            let block = get("/");
            peer.frame(HEADERS, END_STREAM, 1, &block[..20]).frame(0xff, 0, 1, b"whatever").frame(
                CONTINUATION,
                END_HEADERS,
                1,
                &block[20..],
            );
        }),
    ]
}
