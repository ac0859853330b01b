//! Whatever stands in `X-Forwarded-For` or `Forwarded`: every hop before the client is a trusted proxy, and what stands to
//! the left of the client changes nothing.
//!
//! The input is the lines of a header.
#![no_main]

use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use torana::{config::listener::ForwardedBy, networks::Peers, proxy::forwarded::Told};

static TRUSTED: LazyLock<Peers> =
    LazyLock::new(|| Peers::new(&["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap())));

fn read(by: ForwardedBy, lines: &[&[u8]]) -> Option<Told> {
    let mut headers = HeaderMap::new();
    let name = if by == ForwardedBy::Forwarded { "forwarded" } else { "x-forwarded-for" };
    for line in lines {
        headers.append(name, HeaderValue::from_bytes(line).ok()?);
    }
    Some(Told::read(by, &headers, &TRUSTED))
}

fuzz_target!(|data: &[u8]| {
    let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').take(8).collect();
    for (by, right) in [
        (ForwardedBy::XForwardedFor, "192.0.2.7, 10.0.0.1"),
        (ForwardedBy::Forwarded, "for=\"192.0.2.7:80\";host=\"a\\\"b\", for=10.0.0.1"),
    ] {
        let Some(told) = read(by, &lines) else { return };
        if let Some((client, before)) = told.hops.split_last() {
            assert!(before.iter().all(|hop| TRUSTED.contains(Some(*hop))));
            assert_eq!(told.client(), Some(*client));
        }
        let value = told.for_value(&HeaderValue::from_static("10.0.0.9"));
        assert_eq!(value.to_str().unwrap().split(", ").count(), told.hops.len() + 1);
        let alone = read(by, &[right.as_bytes()]).unwrap();
        assert_eq!(alone.client(), "192.0.2.7".parse().ok());
        let mut more = lines.clone();
        more.push(right.as_bytes());
        assert_eq!(read(by, &more).unwrap(), alone);
        if let [line] = lines[..] {
            let joined = [line, b",", right.as_bytes()].concat();
            assert_eq!(read(by, &[&joined]).unwrap(), alone);
        }
    }
});
