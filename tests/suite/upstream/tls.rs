//! TLS towards the endpoints: verified unless told otherwise.

use std::{fs, sync::Arc};

use rustls::ServerConfig;

use super::wait_for_health;
use crate::support::{Authority, Gateway, Reply, Response, Upstream, eventually};

/// A gateway that trusts `authority`, if one is given, and its file `ca.pem`.
fn gateway(up: &Upstream, trusted: Option<&Authority>, tls: &str, settings: &str) -> Gateway {
    let yaml = config(up, tls, settings);
    Gateway::start_with(&yaml, |folder, _| {
        if let Some(authority) = trusted {
            fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
        }
    })
}

fn config(up: &Upstream, tls: &str, settings: &str) -> String {
    format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"], tls: {{ {tls} }}{settings} }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        up.address()
    )
}

fn up(config: Arc<ServerConfig>) -> Upstream {
    Upstream::tls(config, |_| Reply::ok("secret"))
}

#[track_caller]
fn refused(answer: &Response, up: &Upstream) {
    assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream_unreachable"));
    assert!(up.seen().is_empty(), "not a byte of the request was sent");
}

#[test]
fn an_authority_that_nobody_knows_is_refused() {
    let up = up(Authority::new("unknown").server("orders.internal"));
    let gateway = gateway(&up, None, "server_name: orders.internal", "");
    refused(&gateway.get("/"), &up);
}

#[test]
fn an_authority_other_than_the_given_one_is_refused() {
    let up = up(Authority::new("theirs").server("orders.internal"));
    let gateway = gateway(&up, Some(&Authority::new("ours")), "server_name: orders.internal, ca: ca.pem", "");
    refused(&gateway.get("/"), &up);
}

#[test]
fn a_certificate_of_the_given_authority_is_accepted_and_its_name_asked_for() {
    let authority = Authority::new("ours");
    let up = up(authority.server("orders.internal"));
    let gateway = gateway(&up, Some(&authority), "server_name: orders.internal, ca: ca.pem", "");
    let mut client = gateway.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "secret");
    }
    let seen = up.last();
    assert_eq!(seen.server_name.as_deref(), Some("orders.internal"));
    assert_eq!(seen.header("host"), Some("test"), "the name is not the Host");
    assert!(up.connections() <= 2, "handshakes are not made for every request: {}", up.connections());
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new("ours");
    for name in ["users.internal", "*.orders.internal", "internal", "127.0.0.1"] {
        let up = up(authority.server(name));
        let gateway = gateway(&up, Some(&authority), "server_name: orders.internal, ca: ca.pem", "");
        refused(&gateway.get("/"), &up);
    }
}

#[test]
fn a_certificate_of_long_ago_is_refused() {
    let authority = Authority::new("ours");
    let up = up(authority.expired_server("orders.internal"));
    let gateway = gateway(&up, Some(&authority), "server_name: orders.internal, ca: ca.pem", "");
    refused(&gateway.get("/"), &up);
}

#[test]
fn an_address_as_name_is_looked_for_in_the_certificate() {
    let authority = Authority::new("ours");
    let right = up(authority.server("127.0.0.1"));
    let tls = "server_name: 127.0.0.1, ca: ca.pem";
    assert_eq!(gateway(&right, Some(&authority), tls, "").get("/").text(), "secret");
    assert_eq!(right.only().server_name, None, "an address is no SNI");
    let wrong = up(authority.server("127.0.0.2"));
    refused(&gateway(&wrong, Some(&authority), tls, "").get("/"), &wrong);
}

#[test]
fn without_verification_anything_is_accepted_and_only_there() {
    let up = up(Authority::new("unknown").expired_server("other.example"));
    let yaml = format!(
        "upstreams:\n  lax: {{ endpoints: [\"{0}\"], tls: {{ server_name: orders.internal, verify: false }} }}\n  strict: {{ endpoints: [\"{0}\"], tls: {{ server_name: orders.internal }} }}\nroutes:\n  - {{ name: l, match: {{ path: /lax }}, upstream: lax }}\n  - {{ name: s, match: {{ path: /strict }}, upstream: strict }}\n",
        up.address()
    );
    let gateway = Gateway::start(&format!("workers: 1\n{yaml}"));
    assert_eq!(gateway.get("/lax").text(), "secret");
    // The open connection of the one is not there for the other.
    let answer = gateway.get("/strict");
    assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream_unreachable"));
    assert_eq!(gateway.get("/lax").text(), "secret");
    assert_eq!(up.seen().len(), 2);
}

#[test]
fn a_reload_with_another_authority_does_not_use_connections_of_the_old_one() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let up = up(ours.server("orders.internal"));
    let tls = |ca: &str| format!("server_name: orders.internal, ca: {ca}");
    let gateway = gateway(&up, Some(&ours), &tls("ca.pem"), "");
    fs::write(gateway.folder().join("theirs.pem"), theirs.pem()).unwrap();
    assert_eq!(gateway.get("/").text(), "secret");
    gateway.reload(&config(&up, &tls("theirs.pem"), ""));
    assert_eq!(gateway.get("/").problem(), "upstream_unreachable");
    // Both in one file, as when an authority is replaced.
    fs::write(gateway.folder().join("both.pem"), theirs.pem() + &ours.pem()).unwrap();
    gateway.reload(&config(&up, &tls("both.pem"), ""));
    assert_eq!(gateway.get("/").text(), "secret");
}

#[test]
fn what_speaks_no_tls_or_only_tls_is_502() {
    let plain = Upstream::named("plain");
    let gateway_to_plain = gateway(&plain, None, "server_name: orders.internal, verify: false", "");
    assert_eq!(gateway_to_plain.get("/").status, 502);
    let tls = up(Authority::new("any").server("orders.internal"));
    let gateway = super::gateway(&[tls.address()], "");
    assert_eq!(gateway.get("/").status, 502);
    assert!(tls.seen().is_empty());
}

#[test]
fn bodies_are_whole_over_tls() {
    let authority = Authority::new("ours");
    let echo = Upstream::tls(authority.server("orders.internal"), |request| Reply::ok(request.body.clone()));
    let gateway = gateway(&echo, Some(&authority), "server_name: orders.internal, ca: ca.pem", "");
    let body: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut client = gateway.client();
    client.write(crate::support::request("POST", "/", &[("Content-Length", &body.len().to_string())]).as_bytes());
    client.write(&body);
    assert!(client.read_answer_to("POST").body == body);
}

#[test]
fn health_checks_verify_like_requests() {
    let authority = Authority::new("ours");
    let tls = "server_name: orders.internal, ca: ca.pem";
    for http in ["", "http: { path: /healthz }, "] {
        let health = format!(", health: {{ {http}interval: 100ms, unhealthy_after: 1 }}");
        let good = up(authority.server("orders.internal"));
        let to_good = gateway(&good, Some(&authority), tls, &health);
        eventually("a check", || good.connections() > 2);
        assert!(super::is_healthy(&to_good, good.address()), "{}", to_good.log());
        assert_eq!(to_good.get("/").text(), "secret");

        let bad = up(authority.server("users.internal"));
        let to_bad = gateway(&bad, Some(&authority), tls, &health);
        wait_for_health(&to_bad, bad.address(), false);
        assert_eq!(to_bad.get("/").problem(), "no_healthy_endpoint");
        assert!(bad.seen().is_empty());
    }
}
