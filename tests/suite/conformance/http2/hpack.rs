//! The compression of headers (RFC 7541).

use super::{COMPRESSION_ERROR, Case, PROTOCOL_ERROR, Verdict, case};
use crate::support::frames::{HEADERS, Outcome, Peer, WHOLE, get, integer};

pub const ENDED: &[Outcome] = &[Outcome::Goaway(COMPRESSION_ERROR), Outcome::Closed];

/// The `h2` crate ends the connection, which is what counts: the state of the compression is lost.
const CODED: &[Outcome] = &[Outcome::Goaway(PROTOCOL_ERROR), Outcome::Closed];
const CODE: Verdict = Verdict::OtherCode("`PROTOCOL_ERROR` instead of `COMPRESSION_ERROR`");

fn behind(peer: &mut Peer, wrong: &[u8]) {
    let block = [get("/"), wrong.to_vec()].concat();
    peer.frame(HEADERS, WHOLE, 1, &block);
}

pub fn cases() -> Vec<Case> {
    vec![
        case("hpack/2.3.3", "an index that is not in the table", ENDED, |peer| behind(peer, &integer(70, 7, 0x80))),
        case("hpack/2.3.3", "a literal whose name is not in the table", ENDED, |peer| {
            behind(peer, &[integer(70, 6, 0x40), b"\x02ok".to_vec()].concat());
        }),
        case("hpack/4.2", "a change of the table's size behind a field", ENDED, |peer| {
            behind(peer, &integer(1, 5, 0x20));
        }),
        case("hpack/5.2", "a string padded with more than 7 bits", CODED, |peer| {
            behind(peer, &[b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x3f\x5f\xff".to_vec()].concat());
        })
        .but(CODE),
        case("hpack/5.2", "a string padded with zeros", CODED, |peer| {
            behind(peer, &[b"\x00\x85\xf2\xb2\x4a\x84\xff\x82\x3f\x50".to_vec()].concat());
        })
        .but(CODE),
        case("hpack/5.2", "a string with its end within it", CODED, |peer| {
            behind(peer, &[b"\x00\x85\xf2\xb2\x4a\x84\xff\x86\x3f\x5f\xff\xff\xff\xfc".to_vec()].concat());
        })
        .but(CODE),
        case("hpack/6.1", "index 0", ENDED, |peer| behind(peer, &[0x80])),
        case("hpack/6.3", "a table that is larger than SETTINGS_HEADER_TABLE_SIZE", ENDED, |peer| {
            let block = [integer(4097, 5, 0x20), get("/")].concat();
            peer.frame(HEADERS, WHOLE, 1, &block);
        }),
    ]
}
