//! The kinds of frames (RFC 7540, 6).

use super::{Case, ENDS_AS, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, PROTOCOL_ERROR, Verdict, case};
use crate::support::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Outcome, PADDED, PING, PRIORITY, RST_STREAM,
    SETTINGS, WHOLE, WINDOW_UPDATE, get,
};

const OK: &[Outcome] = &[Outcome::Answer(200)];
const PONG: &[Outcome] = &[Outcome::Pong];
const PROTOCOL: &[Outcome] = &[Outcome::Goaway(PROTOCOL_ERROR), Outcome::Closed];
const SIZE: &[Outcome] = &[Outcome::Goaway(FRAME_SIZE_ERROR), Outcome::Closed];
const FLOW: &[Outcome] = &[Outcome::Goaway(FLOW_CONTROL_ERROR), Outcome::Closed];

/// The `h2` crate has one code for all that is wrong with settings.
const WINDOW: Verdict = Verdict::OtherCode("`PROTOCOL_ERROR` instead of `FLOW_CONTROL_ERROR`");

pub fn cases() -> Vec<Case> {
    [bodies(), headers(), priority_and_reset(), settings(), pings(), windows(), continuations()]
        .into_iter()
        .flatten()
        .collect()
}

fn bodies() -> Vec<Case> {
    vec![
        case("http2/6.1", "DATA on stream 0", PROTOCOL, |peer| {
            peer.post(1, "/").frame(DATA, END_STREAM, 0, b"test");
        }),
        case("http2/6.1", "DATA on a stream that is not open", PROTOCOL, |peer| {
            peer.get(1, "/slow").frame(DATA, END_STREAM, 1, b"test");
        })
        .but(ENDS_AS),
        case("http2/6.1", "DATA with too much padding", PROTOCOL, |peer| {
            peer.post(1, "/").frame(DATA, END_STREAM | PADDED, 1, b"\x06test");
        }),
    ]
}

fn headers() -> Vec<Case> {
    vec![
        case("http2/6.2", "HEADERS without END_HEADERS, then PRIORITY", PROTOCOL, |peer| {
            peer.frame(HEADERS, END_STREAM, 1, &get("/")).frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 255]);
        }),
        case("http2/6.2", "HEADERS of another stream within a header block", PROTOCOL, |peer| {
            peer.frame(HEADERS, END_STREAM, 1, &get("/")).get(3, "/");
        }),
        case("http2/6.2", "HEADERS on stream 0", PROTOCOL, |peer| {
            peer.get(0, "/");
        }),
        case("http2/6.2", "HEADERS with too much padding", PROTOCOL, |peer| {
            let mut block = get("/");
            block.insert(0, u8::try_from(block.len() + 1).unwrap());
            peer.frame(HEADERS, WHOLE | PADDED, 1, &block);
        }),
    ]
}

fn priority_and_reset() -> Vec<Case> {
    vec![
        case("http2/6.3", "PRIORITY on stream 0", PROTOCOL, |peer| {
            peer.frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 255]);
        }),
        case("http2/6.3", "PRIORITY that is not 5 bytes long", SIZE, |peer| {
            peer.frame(PRIORITY, 0, 1, &[0, 0, 0, 0]);
        }),
        case("http2/6.4", "RST_STREAM on stream 0", PROTOCOL, |peer| {
            peer.frame(RST_STREAM, 0, 0, &8_u32.to_be_bytes());
        }),
        case("http2/6.4", "RST_STREAM on an idle stream", PROTOCOL, |peer| {
            peer.frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes());
        }),
        case("http2/6.4", "RST_STREAM that is not 4 bytes long", SIZE, |peer| {
            peer.post(1, "/").frame(RST_STREAM, 0, 1, &[0; 3]);
        }),
    ]
}

fn settings() -> Vec<Case> {
    vec![
        case("http2/6.5", "SETTINGS with ACK and a payload", SIZE, |peer| {
            peer.frame(SETTINGS, ACK, 0, &[0]);
        }),
        case("http2/6.5", "SETTINGS on a stream", PROTOCOL, |peer| {
            peer.frame(SETTINGS, 0, 1, &[0, 3, 0, 0, 0, 100]);
        }),
        case("http2/6.5", "SETTINGS whose length is no multiple of 6", SIZE, |peer| {
            peer.frame(SETTINGS, 0, 0, &[0, 3, 0]);
        }),
        case("http2/6.5.2", "SETTINGS_ENABLE_PUSH that is neither 0 nor 1", PROTOCOL, |peer| {
            peer.settings(&[(2, 2)]);
        }),
        case("http2/6.5.2", "SETTINGS_INITIAL_WINDOW_SIZE above its maximum", PROTOCOL, |peer| {
            peer.settings(&[(4, 1 << 31)]);
        })
        .but(WINDOW),
        case("http2/6.5.2", "SETTINGS_MAX_FRAME_SIZE below its minimum", PROTOCOL, |peer| {
            peer.settings(&[(5, 16_383)]);
        }),
        case("http2/6.5.2", "SETTINGS_MAX_FRAME_SIZE above its maximum", PROTOCOL, |peer| {
            peer.settings(&[(5, 1 << 24)]);
        }),
        case("http2/6.5.2", "a setting that is not known", PONG, |peer| {
            peer.settings(&[(0xff, 1)]).ping();
        }),
        case("http2/6.5.3", "SETTINGS_INITIAL_WINDOW_SIZE twice: the last one counts", &[Outcome::Data(1)], |peer| {
            peer.settings(&[(4, 100), (4, 1)]).get(1, "/");
        }),
        case("http2/6.5.3", "SETTINGS are acknowledged", &[Outcome::Acknowledged], |peer| {
            peer.settings(&[(2, 0)]);
        }),
    ]
}

fn pings() -> Vec<Case> {
    vec![
        case("http2/6.7", "a PING is answered", PONG, |peer| {
            peer.ping();
        }),
        case("http2/6.7", "a PING with ACK is not", PONG, |peer| {
            // The one answer is to the second.
            peer.frame(PING, ACK, 0, b"nothing!").ping();
            assert_eq!(peer.outcome(), Outcome::Pong);
            peer.get(1, "/");
            peer.answer(1).unwrap();
            peer.ping();
        }),
        case("http2/6.7", "PING on a stream", PROTOCOL, |peer| {
            peer.frame(PING, 0, 1, b"torana!!");
        }),
        case("http2/6.7", "PING that is not 8 bytes long", SIZE, |peer| {
            peer.frame(PING, 0, 0, &[0; 6]);
        }),
        case("http2/6.8", "GOAWAY on a stream", PROTOCOL, |peer| {
            peer.frame(GOAWAY, 0, 1, &[0; 8]);
        }),
    ]
}

fn windows() -> Vec<Case> {
    vec![
        case("http2/6.9", "WINDOW_UPDATE by 0", PROTOCOL, |peer| {
            peer.window(0, 0);
        }),
        case("http2/6.9", "WINDOW_UPDATE by 0 on a stream", PROTOCOL, |peer| {
            peer.post(1, "/slow").window(1, 0);
        }),
        case("http2/6.9", "WINDOW_UPDATE that is not 4 bytes long", SIZE, |peer| {
            peer.frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1]);
        }),
        case("http2/6.9.1", "a window of 1 lets one byte through", &[Outcome::Data(1)], |peer| {
            peer.settings(&[(4, 1)]).get(1, "/");
        }),
        case("http2/6.9.1", "WINDOW_UPDATE beyond the maximum", FLOW, |peer| {
            peer.window(0, (1 << 31) - 1).window(0, (1 << 31) - 1);
        }),
        case(
            "http2/6.9.1",
            "WINDOW_UPDATE beyond the maximum on a stream",
            &[Outcome::Reset(FLOW_CONTROL_ERROR)],
            |peer| {
                peer.post(1, "/slow").window(1, (1 << 31) - 1).window(1, (1 << 31) - 1);
            },
        ),
        case("http2/6.9.2", "the window of open streams follows the setting", &[Outcome::Data(1)], |peer| {
            peer.settings(&[(4, 0)]).get(1, "/");
            assert_eq!(peer.until(Outcome::Answer(200)), Ok(()));
            peer.settings(&[(4, 1)]);
        }),
        case("http2/6.9.2", "a window may be less than nothing", &[Outcome::Data(1)], |peer| {
            peer.settings(&[(4, 3)]).get(1, "/");
            assert_eq!(peer.until(Outcome::Data(3)), Ok(()));
            peer.settings(&[(4, 2)]).window(1, 2);
        }),
        case("http2/6.9.2", "SETTINGS_INITIAL_WINDOW_SIZE above its maximum", PROTOCOL, |peer| {
            peer.settings(&[(4, u32::MAX)]);
        })
        .but(WINDOW),
    ]
}

fn continuations() -> Vec<Case> {
    vec![
        case("http2/6.10", "many CONTINUATION frames", OK, |peer| {
            let block = get("/");
            peer.frame(HEADERS, END_STREAM, 1, &block[..20]).frame(CONTINUATION, 0, 1, &block[20..30]).frame(
                CONTINUATION,
                END_HEADERS,
                1,
                &block[30..],
            );
        }),
        case("http2/6.10", "CONTINUATION, then another frame", PROTOCOL, |peer| {
            let block = get("/");
            peer.frame(HEADERS, END_STREAM, 1, &block[..20])
                .frame(CONTINUATION, 0, 1, &block[20..])
                .frame(DATA, 0, 1, b"test");
        }),
        case("http2/6.10", "CONTINUATION on stream 0", PROTOCOL, |peer| {
            let block = get("/");
            peer.frame(HEADERS, END_STREAM, 1, &block[..20]).frame(CONTINUATION, END_HEADERS, 0, &block[20..]);
        }),
        case("http2/6.10", "CONTINUATION behind HEADERS with END_HEADERS", PROTOCOL, |peer| {
            peer.get(1, "/slow").frame(CONTINUATION, END_HEADERS, 1, &get("/"));
        }),
        case("http2/6.10", "CONTINUATION behind CONTINUATION with END_HEADERS", PROTOCOL, |peer| {
            let block = get("/slow");
            peer.frame(HEADERS, END_STREAM, 1, &block[..20]).frame(CONTINUATION, END_HEADERS, 1, &block[20..]).frame(
                CONTINUATION,
                END_HEADERS,
                1,
                &get("/"),
            );
        }),
        case("http2/6.10", "CONTINUATION behind DATA", PROTOCOL, |peer| {
            peer.post(1, "/slow").frame(DATA, 0, 1, b"test").frame(CONTINUATION, END_HEADERS, 1, &get("/"));
        }),
        case(
            "http2/6.10",
            "CONTINUATION without end",
            &[Outcome::Goaway(ENHANCE_YOUR_CALM), Outcome::Closed],
            |peer| {
                peer.frame(HEADERS, END_STREAM, 1, &get("/"));
                for _ in 0..100 {
                    peer.frame(CONTINUATION, 0, 1, b"");
                }
            },
        ),
    ]
}
