//! Security cases A18, C3 and C4: what an attacker says about who it is, and the safe answer.

use crate::support::{Client, Gateway, Upstream, request};

/// That no request came.
#[track_caller]
fn saw_nothing(up: &Upstream) {
    assert!(up.seen().is_empty(), "{:#?}", up.seen());
}

/// A listener that takes the word of 127.0.0.1, and of nobody else.
fn behind_a_proxy() -> (Gateway, Upstream) {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", proxy_protocol: {{ trusted: [127.0.0.1] }} }}]\n\
         upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        up.address()
    ));
    (gateway, up)
}

/// A header of version 2 that says so many bytes follow, and what does.
fn proxy_v2(command: u8, family: u8, length: u16, block: &[u8]) -> Vec<u8> {
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length.to_be_bytes(), block].concat()
}

#[test]
fn a18_a_proxy_header_that_is_wrong_or_missing_closes_the_connection() {
    let (gateway, up) = behind_a_proxy();
    let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x67, 1, 0xbb];
    let tlv = |bytes: &[u8]| {
        let block = [&v4[..], bytes].concat();
        proxy_v2(0x21, 0x11, u16::try_from(block.len()).unwrap(), &block)
    };
    let mut count = std::collections::BTreeMap::<&str, f64>::new();
    for (reason, introduction) in [
        ("absent", Vec::new()),
        ("absent", b"proxy TCP4 192.0.2.7 10.0.0.1 1 2\r\n".to_vec()),
        ("absent", b"\r\n\r\n\0\r\nQUIT\r".to_vec()),
        ("malformed", b"PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n".to_vec()),
        ("malformed", b"PROXY TCP4 192.0.2.7 10.0.0.1 1 65536\r\n".to_vec()),
        ("malformed", b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n".to_vec()),
        ("malformed", b"PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n".to_vec()),
        ("too_long", format!("PROXY UNKNOWN {}\r\n", "x".repeat(108)).into_bytes()),
        ("malformed", proxy_v2(0x11, 0x11, 12, &v4)),
        ("malformed", proxy_v2(0x22, 0x11, 12, &v4)),
        ("malformed", proxy_v2(0x21, 0x12, 12, &v4)),
        ("malformed", proxy_v2(0x21, 0x11, 11, &v4)),
        ("malformed", proxy_v2(0x21, 0x21, 12, &v4)),
        ("too_long", proxy_v2(0x21, 0x11, u16::MAX, &v4)),
        ("malformed", tlv(&[1, 0, 200, 1])),
        ("malformed", tlv(&[1, 0])),
        ("checksum", tlv(&[3, 0, 4, 1, 2, 3, 4])),
    ] {
        let mut client = gateway.client();
        client.write(&[&introduction[..], b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"].concat());
        assert!(client.is_closed(), "{introduction:?}");
        *count.entry(reason).or_default() += 1.0;
    }
    // A length that is too large takes what is behind it for its own, and waits for more.
    let mut swallowed = gateway.client();
    swallowed.write(&proxy_v2(0x21, 0x11, 500, &[&v4[..], b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"].concat()));
    for (reason, count) in count {
        gateway.wait_for_metric(&format!("torana_proxy_protocol_refused_total{{reason=\"{reason}\"}}"), count);
    }
    drop(swallowed);
    saw_nothing(&up);
}

#[test]
fn a18_a_proxy_header_of_a_stranger_closes_the_connection() {
    let (gateway, up) = behind_a_proxy();
    let request = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
    for introduction in ["PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n", ""] {
        let mut client = Client::connect_from("127.0.0.2".parse().unwrap(), gateway.address());
        // It may be closed before all is written.
        client.try_write(format!("{introduction}{request}").as_bytes());
        assert!(client.is_closed(), "{introduction}");
    }
    gateway.wait_for_metric("torana_proxy_protocol_refused_total{reason=\"untrusted\"}", 2.0);
    saw_nothing(&up);
}

#[test]
fn a18_a_second_proxy_header_is_a_request_that_is_none() {
    let (gateway, up) = behind_a_proxy();
    let line = "PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n";
    let mut client = gateway.client();
    client.write(format!("{line}{line}GET / HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
    assert_eq!(client.read().status, 400);
    saw_nothing(&up);
}

#[test]
fn c03_of_a_trusted_proxy_only_what_it_vouches_for_goes_on() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", trusted_proxies: {{ addresses: [127.0.0.1] }} }}]\n\
         policies: [{{ ip_restriction: {{ deny: [203.0.113.0/24] }} }}]\n\
         upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        up.address()
    ));
    let claims = [
        ("X-Forwarded-For", "203.0.113.9, 192.0.2.7"),
        ("X_Forwarded_For", "203.0.113.9"),
        ("X-Forwarded-Host", "a.example"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "https,http"),
        ("X-Forwarded-Port", "443 "),
        ("X.Forwarded.Port", "1"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Forwarded-Server", "evil"),
        ("X-Original-URL", "/admin"),
        ("X-Real-IP", "203.0.113.9"),
        ("Forwarded", "for=203.0.113.9"),
    ];
    let trusted = gateway.send("GET", "/", &claims);
    assert_eq!(trusted.status, 200);
    let mut seen: Vec<_> =
        up.only().headers.iter().map(|(name, value)| format!("{}: {value}", name.to_lowercase())).collect();
    seen.retain(|line| line.contains("orwarded") || line.contains("real") || line.contains("original"));
    seen.sort();
    assert_eq!(seen, ["x-forwarded-for: 192.0.2.7, 127.0.0.1", "x-forwarded-port: 443", "x-forwarded-proto: http"]);
    // The same from a stranger says nothing, and does not keep it out either.
    let mut stranger = Client::connect_from("127.0.0.2".parse().unwrap(), gateway.address());
    stranger.write(request("GET", "/", &[("X-Forwarded-For", "203.0.113.9")]).as_bytes());
    assert_eq!(stranger.read().status, 200);
    assert_eq!(up.last().header("x-forwarded-for"), Some("127.0.0.2"));
}

#[test]
fn c04_the_right_most_hop_that_is_not_trusted_is_the_client_whatever_stands_before_it() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", max_header_size: 256KiB,\n\
         trusted_proxies: {{ addresses: [127.0.0.1, 10.0.0.0/8, \"fd00::/8\"] }} }}]\n\
         upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        up.address()
    ));
    let strangers = vec!["203.0.113.9"; 1000].join(", ");
    let chain = vec!["10.0.0.1"; 1000].join(", ");
    for (said, client) in [
        (format!("{strangers}, 192.0.2.7"), "192.0.2.7"),
        (format!("192.0.2.7, {chain}"), "192.0.2.7"),
        (chain, "10.0.0.1"),
        (format!("{strangers}, 192.0.2.7:4711, [fd00::1]:80, fd00::2%eth0, 10.0.0.1"), "192.0.2.7"),
        ("fe80::1%eth0".into(), "fe80::1"),
        ("192.0.2.7, garbage, 10.0.0.1".into(), "10.0.0.1"),
        ("192.0.2.7, 10.0.0.1:99999".into(), "127.0.0.1"),
        ("192.0.2.7, unknown".into(), "127.0.0.1"),
        ("192.0.2.7, \"10.0.0.1\"".into(), "127.0.0.1"),
        (", ,".into(), "127.0.0.1"),
        ("%,%%,[[[,]]],::::,1.2.3".into(), "127.0.0.1"),
    ] {
        let answer = gateway.send("GET", "/", &[("X-Forwarded-For", &said)]);
        assert_eq!(answer.status, 200, "{said}");
        let seen = up.last().header("x-forwarded-for").unwrap().to_owned();
        assert_eq!(seen.split(", ").next(), Some(client), "{}", &said[said.len().saturating_sub(60)..]);
    }
}
