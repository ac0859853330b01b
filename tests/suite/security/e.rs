//! Floods and bombs.

use super::guarded;
use crate::support::{Reply, Upstream, request};

/// No part of the gateway decodes a body, so a bomb stays as small as it was sent.
#[test]
fn e10_a_compressed_body_passes_as_it_is() {
    let up = Upstream::start(|seen| Reply::ok(seen.body.clone()).header("Content-Encoding", "gzip"));
    let gateway = guarded(up.address());
    // The beginning of a gzip stream, and what could be gigabytes to who decodes it.
    let bomb = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &vec![0; 100_000]].concat();
    let before = gateway.memory();
    let mut client = gateway.client();
    for _ in 0..10 {
        let length = bomb.len().to_string();
        client.write(request("POST", "/", &[("Content-Length", &length), ("Content-Encoding", "gzip")]).as_bytes());
        client.write(&bomb);
        let answer = client.read_answer_to("POST");
        assert!(answer.body == bomb && up.last().body == bomb);
        assert_eq!(answer.header("content-encoding"), Some("gzip"));
    }
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "{} KiB", grown >> 10);
}
