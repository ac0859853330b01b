//! `mode: shadow`: a policy decides, counts, and lets the request pass.

use jsonwebtoken::Algorithm::HS256;

use super::tokens::Signer;
use crate::{
    policies::config,
    support::{Gateway, Upstream, eventually, request},
};

const LOG: &str = "telemetry: { access_log: {} }\n";

fn start(policies: &str) -> (Gateway, Upstream) {
    let up = Upstream::named("up");
    (Gateway::start(&(LOG.to_owned() + &config(&up, policies))), up)
}

fn would_reject(gateway: &Gateway, policy: &str) -> f64 {
    gateway.metric(&format!("torana_would_reject_total{{policy=\"{policy}\",route=\"r\"}}"))
}

#[test]
fn what_would_be_refused_passes_is_counted_and_is_in_the_log() {
    let signer = Signer::new(HS256);
    for (kind, policy, reject) in [
        ("api_key", "api_key: {}".to_owned(), "unauthenticated"),
        ("jwt", format!("jwt: {{ audience: orders, keys: [{}] }}", signer.entry("k")), "unauthenticated"),
        ("ip_restriction", "ip_restriction: { allow: [10.0.0.0/8] }".into(), "address_not_allowed"),
        ("request_size", "request_size: { max: 1KiB, require_length: true }".into(), "length_required"),
        ("rate_limit", "rate_limit: { key: { header: x-none }, limits: [1/h] }".into(), "limit_key_missing"),
    ] {
        let (gateway, up) = start(&format!("{{ {policy}, mode: shadow }}"));
        for method in ["POST", "PUT"] {
            let mut client = gateway.client();
            client.write(request(method, "/", &[("Transfer-Encoding", "chunked")]).as_bytes());
            client.write(b"2\r\nhi\r\n0\r\n\r\n");
            assert_eq!(client.read_answer_to(method).text(), "up", "{kind}");
        }
        assert_eq!(up.seen().len(), 2);
        assert_eq!(would_reject(&gateway, kind), 2.0, "{kind}");
        for line in gateway.access_lines(2) {
            assert_eq!((&line["status"], &line["would_reject"]), (&200.into(), &reject.into()), "{kind}: {line}");
            assert!(line.get("reject").is_none(), "{line}");
        }
    }
}

#[test]
fn what_would_pass_is_neither_counted_nor_logged() {
    let (gateway, up) =
        start("{ api_key: {}, mode: shadow }, { rate_limit: { key: consumer, limits: [1/h] }, mode: shadow }");
    let key = [("X-Api-Key", "key-1")];
    assert_eq!(gateway.send("GET", "/", &key).status, 200);
    assert_eq!((would_reject(&gateway, "api_key"), would_reject(&gateway, "rate_limit")), (0.0, 0.0));
    assert_eq!(up.last().header("x-consumer-id"), Some("mobile"));
    let line = gateway.access_lines(1).remove(0);
    assert!(line.get("would_reject").is_none(), "{line}");
    assert_eq!(gateway.send("GET", "/", &key).status, 200);
    assert_eq!(gateway.access_lines(2)[1]["would_reject"], "rate_limited");
    assert_eq!(gateway.send("GET", "/", &[]).status, 200);
    let every_policy_in_its_order = "unauthenticated,limit_key_missing";
    assert_eq!(gateway.access_lines(3)[2]["would_reject"], every_policy_in_its_order);
    assert_eq!((would_reject(&gateway, "api_key"), would_reject(&gateway, "rate_limit")), (1.0, 2.0));
}

#[test]
fn a_body_that_would_be_too_large_passes_whole() {
    let (gateway, up) = start("{ request_size: { max: 10B }, mode: shadow }");
    let body = "x".repeat(1000);
    for framing in [("Content-Length", "1000"), ("Transfer-Encoding", "chunked")] {
        let mut client = gateway.client();
        client.write(request("POST", "/", &[framing]).as_bytes());
        let chunked = format!("64\r\n{}\r\n384\r\n{}\r\n0\r\n\r\n", &body[..100], &body[100..]);
        client.write(if framing.1 == "chunked" { &chunked } else { &body }.as_bytes());
        assert_eq!(client.read_answer_to("POST").text(), "up", "{framing:?}");
        assert_eq!(up.last().body, body.as_bytes());
    }
    assert_eq!(would_reject(&gateway, "request_size"), 2.0);
    for line in gateway.access_lines(2) {
        assert_eq!(line["would_reject"], "body_too_large", "{line}");
    }
}

#[test]
fn a_shadow_beside_a_limit_that_acts_does_not_weaken_it() {
    let (gateway, up) = start("{ request_size: { max: 10B } }, { request_size: { max: 5B }, mode: shadow }");
    for (size, status) in [(5, 200), (10, 200), (11, 413)] {
        let mut client = gateway.client();
        client.write(request("POST", "/", &[("Transfer-Encoding", "chunked")]).as_bytes());
        client.write(format!("{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size)).as_bytes());
        assert_eq!(client.read_answer_to("POST").status, status, "{size}");
    }
    assert_eq!(up.seen().len(), 2);
    assert!(would_reject(&gateway, "request_size") >= 1.0);
}

#[test]
fn a_client_is_not_told_of_a_limit_that_does_not_hold() {
    let (gateway, _up) = start(
        "{ rate_limit: { key: client_ip, limits: [1/h] }, mode: shadow }, { rate_limit: { key: route, limits: [9/d] } }",
    );
    for left in [8, 7, 6] {
        let answer = gateway.get("/");
        assert_eq!((answer.status, answer.header("retry-after")), (200, None));
        assert_eq!(answer.header("ratelimit-policy"), Some("\"9/d\";q=9;w=86400"));
        assert!(answer.header("ratelimit").unwrap().starts_with(&format!("\"9/d\";r={left};t=")), "{answer:?}");
    }
    assert_eq!(would_reject(&gateway, "rate_limit"), 2.0);
}

#[test]
fn a_shadow_that_finds_somebody_else_does_not_take_away_who_was_found() {
    let signer = Signer::new(HS256);
    let (gateway, up) = start(&format!(
        "{{ api_key: {{}} }}, {{ jwt: {{ audience: orders, keys: [{}] }}, mode: shadow }}, {{ rate_limit: {{ key: consumer, limits: [9/h] }} }}",
        signer.entry("k")
    ));
    let bearer = format!("Bearer {}", signer.good("k"));
    assert_eq!(gateway.send("GET", "/", &[("X-Api-Key", "key-1"), ("Authorization", &bearer)]).status, 200);
    assert_eq!(up.only().header("x-consumer-id"), Some("mobile"));
    assert_eq!(up.only().header("x-consumer-subject"), None);
    assert_eq!(would_reject(&gateway, "jwt"), 1.0);
    assert_eq!(gateway.access_lines(1)[0]["would_reject"], "unauthenticated");
}

#[test]
fn a_reload_forgets_no_count_and_ends_the_shadow() {
    let up = Upstream::named("up");
    let file = |mode: &str| config(&up, &format!("{{ api_key: {{}}{mode} }}"));
    let gateway = Gateway::start(&file(", mode: shadow"));
    assert_eq!(gateway.get("/").status, 200);
    gateway.reload(&(file(", mode: shadow").replace("groups: [gold, beta]", "groups: [gold]")));
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(would_reject(&gateway, "api_key"), 2.0);
    gateway.reload(&file(""));
    assert_eq!(gateway.get("/").status, 401);
    eventually("it is counted as refused", || {
        gateway.metric("torana_rejects_total{reject=\"unauthenticated\",route=\"r\"}") == 1.0
    });
    assert_eq!(would_reject(&gateway, "api_key"), 2.0);
}

#[test]
fn a_shadow_for_every_route_counts_under_a_star() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "policies: [{{ ip_restriction: {{ allow: [10.0.0.0/8] }}, mode: shadow }}]\n{}",
        config(&up, "{ request_id: {} }")
    ));
    for method in ["GET", "HEAD", "OPTIONS"] {
        assert_eq!(gateway.send(method, "/", &[]).status, 200);
    }
    assert_eq!(gateway.metric("torana_would_reject_total{policy=\"ip_restriction\",route=\"*\"}"), 3.0);
}
