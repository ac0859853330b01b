//! The rows that are about HTTP/2, over HTTP/2.

mod floods;
mod smuggling;

use crate::support::{
    Gateway, Upstream,
    frames::{self, Peer},
};

/// A gateway that speaks HTTP/2 from the first byte; `listener` is added to its listener.
fn over_http2(up: &Upstream, listener: &str) -> Gateway {
    Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", h2c: true{listener} }}]
upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
routes: [{{ name: all, upstream: up }}]\n",
        up.address()
    ))
}

/// A request without a body, in as many frames as its header needs.
fn send_block(peer: &mut Peer, block: &[u8]) {
    let mut pieces = block.chunks(16_384).peekable();
    let (mut kind, mut flags) = (frames::HEADERS, frames::END_STREAM);
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() { frames::END_HEADERS } else { 0 };
        peer.frame(kind, flags | last, 1, piece);
        (kind, flags) = (frames::CONTINUATION, 0);
    }
}
