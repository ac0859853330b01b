//! What proxies in front of the gateway say of requests in headers, and who is believed.

use super::{config, get, line, start};
use crate::support::{Client, Gateway, Upstream, eventually, http2, request};

const TRUSTED: &str = "trusted_proxies: { addresses: [127.0.0.1, 10.0.0.0/8] }";

/// What the upstream saw of the last request.
fn saw(up: &Upstream, name: &str) -> String {
    up.last().header(name).unwrap_or("-").to_owned()
}

fn claim(gateway: &Gateway, value: &str) -> u16 {
    get(gateway, b"", &[("X-Forwarded-For", value)]).status
}

#[test]
fn what_a_trusted_proxy_says_goes_on_with_all_trusted_hops() {
    let (gateway, up) = start(TRUSTED, "telemetry: { access_log: {} }");
    for (said, sent) in [
        ("192.0.2.7", "192.0.2.7, 127.0.0.1"),
        ("203.0.113.1, 192.0.2.7, 10.0.0.1", "192.0.2.7, 10.0.0.1, 127.0.0.1"),
        ("2001:db8::7", "2001:db8::7, 127.0.0.1"),
        ("evil, 10.0.0.1", "10.0.0.1, 127.0.0.1"),
        ("evil", "127.0.0.1"),
    ] {
        assert_eq!(claim(&gateway, said), 200);
        assert_eq!(saw(&up, "x-forwarded-for"), sent, "{said}");
    }
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(saw(&up, "x-forwarded-for"), "127.0.0.1");
    let line = |log: &str| {
        let part = "\"client_ip\":\"192.0.2.7\",\"peer_ip\":\"127.0.0.1\"";
        log.lines().filter(|line| line.contains(part)).count()
    };
    eventually("client and proxy are in the log", || line(&gateway.log()) == 2);
}

#[test]
fn scheme_host_and_port_are_those_that_a_trusted_proxy_says() {
    let up = Upstream::named("up");
    let routes = format!(
        "listeners: [{{ address: \"127.0.0.1:0\", {TRUSTED} }}]\n\
         upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\n\
         routes:\n  - {{ name: away, match: {{ path: /away }}, redirect: {{ to: \"{{scheme}}://{{host}}/new\" }} }}\n  \
         - {{ name: r, host: {{ set: internal }}, upstream: up }}\n",
        up.address()
    );
    let gateway = Gateway::start(&routes);
    let told = [("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "a.example"), ("X-Forwarded-Port", "8443")];
    let said = |path: &str, from: &str| {
        let mut client = Client::connect_from(from.parse().unwrap(), gateway.address());
        client.write(request("GET", path, &told).as_bytes());
        client.read()
    };
    let seen = || ["x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"].map(|name| saw(&up, name));
    assert_eq!(said("/", "127.0.0.1").status, 200);
    assert_eq!(seen(), ["https", "a.example", "8443"]);
    assert_eq!(said("/away", "127.0.0.1").header("location"), Some("https://test/new"));
    assert_eq!(said("/", "127.0.0.2").status, 200);
    assert_eq!(seen(), ["http", "test", "-"]);
    assert_eq!(said("/away", "127.0.0.2").header("location"), Some("http://test/new"));
}

#[test]
fn policies_and_balancing_follow_the_client_that_is_named() {
    let policies =
        "policies: [{ ip_restriction: { deny: [192.0.2.9] } }, { rate_limit: { key: client_ip, limits: [1/h] } }]";
    let (gateway, _up) = start(TRUSTED, policies);
    let status =
        ["192.0.2.9", "192.0.2.7", "192.0.2.7", "192.0.2.8", "1.1.1.1, 192.0.2.8"].map(|ip| claim(&gateway, ip));
    assert_eq!(status, [403, 200, 429, 200, 429]);
    let ups = [Upstream::named("a"), Upstream::named("b"), Upstream::named("c")];
    let endpoints = ups.each_ref().map(|up| format!("\"{}\"", up.address())).join(", ");
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", {TRUSTED} }}]\n\
         upstreams: {{ up: {{ endpoints: [{endpoints}], balance: {{ hash: client_ip }} }} }}\n\
         routes: [{{ name: r, upstream: up }}]\n"
    ));
    let by = |ip: String| get(&gateway, b"", &[("X-Forwarded-For", &ip)]).text();
    let all: Vec<_> = (0..32).map(|i| by(format!("192.0.2.{i}"))).collect();
    assert!(["a", "b", "c"].iter().all(|name| all.iter().any(|answer| answer == name)), "{all:?}");
    assert_eq!(all, (0..32).map(|i| by(format!("192.0.2.{i}"))).collect::<Vec<_>>());
}

#[test]
fn forwarded_is_believed_where_it_is_the_header_and_only_there() {
    let up = Upstream::named("up");
    let both = [("Forwarded", "for=192.0.2.7;proto=https;host=a.example"), ("X-Forwarded-For", "198.51.100.1")];
    let with = |header: &str| {
        let trusted = format!("trusted_proxies: {{ addresses: [127.0.0.1], header: {header} }}");
        let gateway = Gateway::start(&config(up.address(), &trusted, ""));
        assert_eq!(get(&gateway, b"", &both).status, 200);
        ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"].map(|name| saw(&up, name))
    };
    assert_eq!(with("forwarded"), ["192.0.2.7, 127.0.0.1", "https", "a.example", "-"]);
    assert_eq!(with("x_forwarded_for"), ["198.51.100.1, 127.0.0.1", "http", "-", "-"]);
}

#[test]
fn an_upstream_can_be_told_in_forwarded() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", {TRUSTED} }}]\n\
         upstreams: {{ up: {{ endpoints: [\"{}\"], forwarded: true }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        up.address()
    ));
    let sent = |headers: &[(&str, &str)]| {
        assert_eq!(get(&gateway, b"", headers).status, 200);
        saw(&up, "forwarded")
    };
    assert_eq!(sent(&[("Forwarded", "for=evil")]), "for=127.0.0.1;host=\"test\";proto=http");
    let told =
        [("X-Forwarded-For", "2001:db8::7, 10.0.0.1"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "a:1")];
    assert_eq!(sent(&told), "for=\"[2001:db8::7]\";host=\"a:1\";proto=https, for=10.0.0.1, for=127.0.0.1");
}

#[test]
fn streams_of_http2_are_told_apart_too() {
    let (gateway, up) =
        start(&format!("h2c: true, {TRUSTED}"), "policies: [{ ip_restriction: { deny: [192.0.2.9] } }]");
    let status = |ip: &str| http2::send(&gateway, "GET", "/", &[("x-forwarded-for", ip)], &[]).status;
    assert_eq!([status("192.0.2.9"), status("192.0.2.7")], [403, 200]);
    assert_eq!(saw(&up, "x-forwarded-for"), "192.0.2.7, 127.0.0.1");
}

#[test]
fn a_proxy_behind_the_proxy_protocol_is_believed_by_its_own_address() {
    let trusted = "proxy_protocol: { trusted: [127.0.0.1] }, trusted_proxies: { addresses: [192.0.2.7] }";
    let (gateway, up) = start(trusted, "");
    let sent = |from: &str| {
        assert_eq!(get(&gateway, &line(from), &[("X-Forwarded-For", "198.51.100.1")]).status, 200);
        saw(&up, "x-forwarded-for")
    };
    assert_eq!(sent("192.0.2.7"), "198.51.100.1, 192.0.2.7");
    assert_eq!(sent("192.0.2.8"), "192.0.2.8", "who is not trusted is the client, whatever it says");
}

#[test]
fn whom_to_believe_is_changed_by_a_reload() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&config(up.address(), TRUSTED, ""));
    let mut client = gateway.client();
    let mut sent = || {
        client.write(request("GET", "/", &[("X-Forwarded-For", "192.0.2.7")]).as_bytes());
        assert_eq!(client.read().status, 200);
        saw(&up, "x-forwarded-for")
    };
    assert_eq!(sent(), "192.0.2.7, 127.0.0.1");
    gateway.reload(&config(up.address(), "trusted_proxies: { addresses: [10.0.0.0/8] }", ""));
    assert_eq!(sent(), "127.0.0.1", "also on a connection that is open");
}
