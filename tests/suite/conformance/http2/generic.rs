//! What any client does.

use super::{Case, case};
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Outcome, PADDED, PREFACE, PRIORITISED, PRIORITY,
    Peer, RST_STREAM, WHOLE, field, fields, get, integer, post,
};

const OK: &[Outcome] = &[Outcome::Answer(200)];
const ARRIVED: &[Outcome] = &[Outcome::Answer(250)];
const PONG: &[Outcome] = &[Outcome::Pong];

/// A dependency on a stream with a weight.
fn priority(exclusive: bool, on: u32, weight: u8) -> Vec<u8> {
    let mut bytes = (on | if exclusive { 1 << 31 } else { 0 }).to_be_bytes().to_vec();
    bytes.push(weight);
    bytes
}

fn padded(payload: &[u8], padding: u8) -> Vec<u8> {
    let mut bytes = vec![padding];
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len() + usize::from(padding), 0);
    bytes
}

pub fn cases() -> Vec<Case> {
    [streams(), frames(), frames_of_control(), messages(), hpack()].into_iter().flatten().collect()
}

fn streams() -> Vec<Case> {
    vec![
        case("generic/1", "a preface is sent", OK, |peer| {
            *peer = Peer::bare(peer.address());
            peer.raw(PREFACE).settings(&[(1, 0)]).get(1, "/");
        }),
        case("generic/2", "PRIORITY on an idle stream", OK, |peer| {
            peer.frame(PRIORITY, 0, 1, &priority(false, 0, 255)).get(1, "/");
        }),
        case("generic/2", "WINDOW_UPDATE on a half-closed (remote) stream", OK, |peer| {
            peer.get(1, "/").window(1, 1);
        }),
        case("generic/2", "PRIORITY on a half-closed (remote) stream", OK, |peer| {
            peer.get(1, "/").frame(PRIORITY, 0, 1, &priority(false, 0, 255));
        }),
        case("generic/2", "RST_STREAM on a half-closed (remote) stream", PONG, |peer| {
            peer.get(1, "/slow").frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()).ping();
        }),
        case("generic/2", "PRIORITY on a closed stream", PONG, |peer| {
            peer.get(1, "/");
            peer.answer(1).unwrap();
            peer.frame(PRIORITY, 0, 1, &priority(false, 0, 255)).ping();
        }),
    ]
}

fn frames() -> Vec<Case> {
    vec![
        case("generic/3.1", "a DATA frame", OK, |peer| {
            peer.post(1, "/").frame(DATA, END_STREAM, 1, b"test");
        }),
        case("generic/3.1", "many DATA frames", OK, |peer| {
            peer.post(1, "/").frame(DATA, 0, 1, b"test").frame(DATA, 0, 1, b"test").frame(DATA, END_STREAM, 1, b"test");
        }),
        case("generic/3.1", "a DATA frame with padding", OK, |peer| {
            peer.post(1, "/").frame(DATA, END_STREAM | PADDED, 1, &padded(b"test", 6));
        }),
        case("generic/3.2", "a HEADERS frame", OK, |peer| {
            peer.get(1, "/");
        }),
        case("generic/3.2", "a HEADERS frame with padding", OK, |peer| {
            peer.frame(HEADERS, WHOLE | PADDED, 1, &padded(&get("/"), 6));
        }),
        case("generic/3.2", "a HEADERS frame with a priority", OK, |peer| {
            let block = [priority(false, 0, 255), get("/")].concat();
            peer.frame(HEADERS, WHOLE | PRIORITISED, 1, &block);
        }),
    ]
}

fn frames_of_control() -> Vec<Case> {
    vec![
        case("generic/3.3", "PRIORITY with weight 1", OK, |peer| {
            peer.frame(PRIORITY, 0, 1, &priority(false, 0, 0)).get(1, "/");
        }),
        case("generic/3.3", "PRIORITY with weight 256", OK, |peer| {
            peer.frame(PRIORITY, 0, 1, &priority(false, 0, 255)).get(1, "/");
        }),
        case("generic/3.3", "PRIORITY that depends on a stream", OK, |peer| {
            peer.frame(PRIORITY, 0, 1, &priority(false, 0, 255))
                .frame(PRIORITY, 0, 3, &priority(false, 1, 255))
                .get(1, "/");
        }),
        case("generic/3.3", "PRIORITY that is exclusive", OK, |peer| {
            peer.frame(PRIORITY, 0, 3, &priority(true, 1, 255)).get(1, "/");
        }),
        case("generic/3.3", "PRIORITY on an idle stream, then HEADERS on a lower one", OK, |peer| {
            peer.frame(PRIORITY, 0, 5, &priority(false, 0, 255)).get(3, "/");
        }),
        case("generic/3.4", "an RST_STREAM frame", PONG, |peer| {
            peer.post(1, "/").frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()).ping();
        }),
        case("generic/3.5", "a SETTINGS frame", &[Outcome::Acknowledged], |peer| {
            peer.settings(&[(3, 100)]);
        }),
        case("generic/3.7", "a PING frame", PONG, |peer| {
            peer.ping();
        }),
        case("generic/3.8", "a GOAWAY frame", &[Outcome::Goaway(0), Outcome::Closed], |peer| {
            peer.frame(GOAWAY, 0, 0, &[0; 8]);
        }),
        case("generic/3.9", "WINDOW_UPDATE for the connection", OK, |peer| {
            peer.window(0, 1).get(1, "/");
        }),
        case("generic/3.9", "WINDOW_UPDATE for a stream", OK, |peer| {
            peer.get(1, "/").window(1, 1);
        }),
        case("generic/3.10", "a CONTINUATION frame", OK, |peer| {
            let block = get("/");
            peer.frame(HEADERS, END_STREAM, 1, &block[..20]).frame(CONTINUATION, END_HEADERS, 1, &block[20..]);
        }),
        case("generic/3.10", "many CONTINUATION frames", OK, |peer| {
            let block = get("/");
            peer.frame(HEADERS, END_STREAM, 1, &block[..20]).frame(CONTINUATION, 0, 1, &block[20..30]).frame(
                CONTINUATION,
                END_HEADERS,
                1,
                &block[30..],
            );
        }),
    ]
}

fn messages() -> Vec<Case> {
    vec![
        case("generic/4", "a GET", OK, |peer| {
            peer.get(1, "/");
        }),
        case("generic/4", "a HEAD", OK, |peer| {
            let head = fields(&[(":method", "HEAD"), (":scheme", "http"), (":path", "/"), (":authority", "test")]);
            peer.frame(HEADERS, WHOLE, 1, &head);
        }),
        case("generic/4", "a POST", OK, |peer| {
            peer.post(1, "/").frame(DATA, END_STREAM, 1, b"test");
        }),
        case("generic/4", "a POST with trailers", OK, |peer| {
            let head = [post("/"), field("trailer", "x-test")].concat();
            peer.frame(HEADERS, END_HEADERS, 1, &head).frame(DATA, 0, 1, b"test").frame(
                HEADERS,
                WHOLE,
                1,
                &field("x-test", "ok"),
            );
        }),
    ]
}

/// `x-test` and `ok` in Huffman code.
const NAME: &[u8] = &[0x85, 0xf2, 0xb2, 0x4a, 0x84, 0xff];
const VALUE: &[u8] = &[0x82, 0x3f, 0x5f];

/// A request with this field, in whatever form.
fn with(peer: &mut Peer, field: &[u8]) {
    let block = [get("/field"), field.to_vec()].concat();
    peer.frame(HEADERS, WHOLE, 1, &block);
}

/// A literal with `user-agent` (58) or, without an index, `x-test` as its name.
fn literal(peer: &mut Peer, bits: u32, first: u8, indexed: bool, huffman: bool) {
    let mut bytes = integer(if indexed { 58 } else { 0 }, bits, first);
    if !indexed {
        bytes.extend_from_slice(if huffman { NAME } else { b"\x06x-test" });
    }
    bytes.extend_from_slice(if huffman { VALUE } else { b"\x02ok" });
    with(peer, &bytes);
}

fn hpack() -> Vec<Case> {
    vec![
        case("generic/5", "an indexed field", OK, |peer| {
            // :method GET, :scheme http, :path /
            peer.frame(HEADERS, WHOLE, 1, &[&[0x82, 0x86, 0x84][..], &field(":authority", "test")].concat());
        }),
        case("generic/5", "a literal with indexing, indexed name", ARRIVED, |peer| literal(peer, 6, 0x40, true, false)),
        case("generic/5", "a literal with indexing, indexed name, Huffman", ARRIVED, |peer| {
            literal(peer, 6, 0x40, true, true);
        }),
        case("generic/5", "a literal with indexing, new name", ARRIVED, |peer| literal(peer, 6, 0x40, false, false)),
        case("generic/5", "a literal with indexing, new name, Huffman", ARRIVED, |peer| {
            literal(peer, 6, 0x40, false, true);
        }),
        case("generic/5", "a literal without indexing, indexed name", ARRIVED, |peer| literal(peer, 4, 0, true, false)),
        case("generic/5", "a literal without indexing, indexed name, Huffman", ARRIVED, |peer| {
            literal(peer, 4, 0, true, true);
        }),
        case("generic/5", "a literal without indexing, new name", ARRIVED, |peer| literal(peer, 4, 0, false, false)),
        case("generic/5", "a literal without indexing, new name, Huffman", ARRIVED, |peer| {
            literal(peer, 4, 0, false, true);
        }),
        case("generic/5", "a literal never indexed, indexed name", ARRIVED, |peer| literal(peer, 4, 0x10, true, false)),
        case("generic/5", "a literal never indexed, indexed name, Huffman", ARRIVED, |peer| {
            literal(peer, 4, 0x10, true, true);
        }),
        case("generic/5", "a literal never indexed, new name", ARRIVED, |peer| literal(peer, 4, 0x10, false, false)),
        case("generic/5", "a literal never indexed, new name, Huffman", ARRIVED, |peer| {
            literal(peer, 4, 0x10, false, true);
        }),
        case("generic/5", "a change of the table's size", OK, |peer| {
            peer.frame(HEADERS, WHOLE, 1, &[integer(128, 5, 0x20), get("/")].concat());
        }),
        case("generic/5", "several changes of the table's size", OK, |peer| {
            let changes = [integer(128, 5, 0x20), integer(4096, 5, 0x20)].concat();
            peer.frame(HEADERS, WHOLE, 1, &[changes, get("/")].concat());
        }),
    ]
}
