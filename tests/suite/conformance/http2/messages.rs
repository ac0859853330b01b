//! Codes of errors, requests and their fields (RFC 7540, 7 and 8).

use super::{Case, ENDS, PROTOCOL_ERROR, Verdict, case};
use crate::support::frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Outcome, PUSH_PROMISE, Peer, RST_STREAM, WHOLE, field, fields, get,
    post,
};

const OK: &[Outcome] = &[Outcome::Answer(200)];
const PONG: &[Outcome] = &[Outcome::Pong];
const MALFORMED: &[Outcome] = &[Outcome::Reset(PROTOCOL_ERROR)];
const PROTOCOL: &[Outcome] = &[Outcome::Goaway(PROTOCOL_ERROR), Outcome::Closed];

pub fn cases() -> Vec<Case> {
    [codes(), fields_of_requests(), pseudo(), lengths(), beyond()].into_iter().flatten().collect()
}

fn codes() -> Vec<Case> {
    vec![
        case("http2/7", "GOAWAY with an unknown code", &[Outcome::Goaway(0), Outcome::Closed], |peer| {
            peer.frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff]);
        }),
        case("http2/7", "RST_STREAM with an unknown code", PONG, |peer| {
            peer.post(1, "/slow").frame(RST_STREAM, 0, 1, &0xff_u32.to_be_bytes()).ping();
        }),
        case("http2/8.1", "a second HEADERS frame without END_STREAM", MALFORMED, |peer| {
            peer.post(1, "/slow").frame(HEADERS, END_HEADERS, 1, &field("x-test", "ok"));
        }),
    ]
}

fn asks(peer: &mut Peer, all: &[(&str, &str)]) {
    peer.frame(HEADERS, WHOLE, 1, &fields(all));
}

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "http");
const PATH: (&str, &str) = (":path", "/");
const HOST: (&str, &str) = (":authority", "test");

fn fields_of_requests() -> Vec<Case> {
    vec![
        case("http2/8.1.2", "the name of a field in capitals", PROTOCOL, |peer| {
            asks(peer, &[METHOD, SCHEME, PATH, HOST, ("X-TEST", "ok")]);
        })
        .but(ENDS),
        case("http2/8.1.2.2", "a field that is for the connection", MALFORMED, |peer| {
            asks(peer, &[METHOD, SCHEME, PATH, HOST, ("connection", "keep-alive")]);
        }),
        case("http2/8.1.2.2", "TE with anything but trailers", MALFORMED, |peer| {
            asks(peer, &[METHOD, SCHEME, PATH, HOST, ("te", "trailers, deflate")]);
        }),
    ]
}

fn pseudo() -> Vec<Case> {
    vec![
        case("http2/8.1.2.1", "a pseudo field that is not known", PROTOCOL, |peer| {
            asks(peer, &[METHOD, SCHEME, PATH, HOST, (":test", "ok")]);
        })
        .but(ENDS),
        case("http2/8.1.2.1", "a pseudo field of responses", MALFORMED, |peer| {
            asks(peer, &[METHOD, SCHEME, PATH, HOST, (":status", "200")]);
        }),
        case("http2/8.1.2.1", "a pseudo field in trailers", OK, |peer| {
            peer.post(1, "/slow").frame(DATA, 0, 1, b"test").frame(HEADERS, WHOLE, 1, &field(":method", "GET"));
        })
        .but(Verdict::Deviates("trailers of requests are read and thrown away, whatever is in them")),
        case("http2/8.1.2.1", "a pseudo field behind another", MALFORMED, |peer| {
            asks(peer, &[METHOD, SCHEME, HOST, ("x-test", "ok"), PATH]);
        }),
        case("http2/8.1.2.3", "an empty :path", MALFORMED, |peer| {
            asks(peer, &[METHOD, SCHEME, (":path", ""), HOST]);
        }),
        case("http2/8.1.2.3", "no :method", MALFORMED, |peer| {
            asks(peer, &[SCHEME, PATH, HOST]);
        }),
        case("http2/8.1.2.3", "no :scheme", MALFORMED, |peer| {
            asks(peer, &[METHOD, PATH, HOST]);
        }),
        case("http2/8.1.2.3", "no :path", MALFORMED, |peer| {
            asks(peer, &[METHOD, SCHEME, HOST]);
        }),
        case("http2/8.1.2.3", "two :method", MALFORMED, |peer| {
            asks(peer, &[METHOD, METHOD, SCHEME, PATH, HOST]);
        }),
        case("http2/8.1.2.3", "two :scheme", MALFORMED, |peer| {
            asks(peer, &[METHOD, SCHEME, SCHEME, PATH, HOST]);
        }),
        case("http2/8.1.2.3", "two :path", MALFORMED, |peer| {
            asks(peer, &[METHOD, SCHEME, PATH, PATH, HOST]);
        }),
    ]
}

fn posts(peer: &mut Peer, length: &str) {
    let block = [post("/slow"), field("content-length", length)].concat();
    peer.frame(HEADERS, END_HEADERS, 1, &block);
}

fn lengths() -> Vec<Case> {
    vec![
        case("http2/8.1.2.6", "a content-length that one DATA frame does not have", MALFORMED, |peer| {
            posts(peer, "1");
            peer.frame(DATA, END_STREAM, 1, b"test");
        }),
        case("http2/8.1.2.6", "a content-length that many DATA frames do not have", MALFORMED, |peer| {
            posts(peer, "1");
            peer.frame(DATA, 0, 1, b"te").frame(DATA, END_STREAM, 1, b"st");
        }),
        case("http2/8.2", "PUSH_PROMISE by a client", PROTOCOL, |peer| {
            peer.frame(PUSH_PROMISE, END_HEADERS, 1, &[vec![0, 0, 0, 2], get("/")].concat());
        }),
    ]
}

/// What h2spec does not ask.
fn beyond() -> Vec<Case> {
    vec![
        case("rfc9113/3.4", "the first frame is not SETTINGS", PROTOCOL, |peer| {
            *peer = Peer::bare(peer.address());
            peer.raw(crate::support::frames::PREFACE).get(1, "/");
        }),
        case("rfc9113/8.1.1", "a content-length that is more than comes", MALFORMED, |peer| {
            posts(peer, "5");
            peer.frame(DATA, END_STREAM, 1, b"test");
        }),
        case("rfc9113/8.1.1", "a content-length without a body", MALFORMED, |peer| {
            asks(peer, &[METHOD, SCHEME, PATH, HOST, ("content-length", "5")]);
        }),
        case("rfc9113/8.2.1", "a field with a line break in it", PROTOCOL, |peer| {
            asks(peer, &[METHOD, SCHEME, PATH, HOST, ("x-test", "a\r\nb: c")]);
        })
        .but(ENDS),
        case("rfc9113/8.2.2", "transfer-encoding", MALFORMED, |peer| {
            asks(peer, &[METHOD, SCHEME, PATH, HOST, ("transfer-encoding", "chunked")]);
        }),
        case("rfc9113/8.2.2", "TE with trailers", OK, |peer| {
            asks(peer, &[METHOD, SCHEME, PATH, HOST, ("te", "trailers")]);
        }),
        case("rfc9113/8.3.1", "two :authority", MALFORMED, |peer| {
            asks(peer, &[METHOD, SCHEME, PATH, HOST, HOST]);
        }),
        case("rfc9113/8.3.1", "an :authority that is not the host", &[Outcome::Answer(400)], |peer| {
            asks(peer, &[METHOD, SCHEME, PATH, HOST, ("host", "other")]);
        }),
        case("rfc9113/8.3.1", "no :authority but a host", OK, |peer| {
            asks(peer, &[METHOD, SCHEME, PATH, ("host", "test")]);
        }),
        case("rfc9113/8.5", "CONNECT", &[Outcome::Answer(405)], |peer| {
            asks(peer, &[(":method", "CONNECT"), (":authority", "test:443")]);
        }),
        case("rfc9113/8.5", "CONNECT with a :path", MALFORMED, |peer| {
            asks(peer, &[(":method", "CONNECT"), SCHEME, PATH, (":authority", "test:443")]);
        }),
        case("rfc8441/4", ":protocol without CONNECT", MALFORMED, |peer| {
            asks(peer, &[METHOD, SCHEME, PATH, HOST, (":protocol", "websocket")]);
        }),
        case("rfc8441/4", ":protocol without :path", MALFORMED, |peer| {
            asks(peer, &[(":method", "CONNECT"), SCHEME, HOST, (":protocol", "websocket")]);
        }),
    ]
}
