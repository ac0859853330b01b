//! Headers and identity.

use jsonwebtoken::Algorithm::HS256;

use super::{guarded, guarded_with, only_saw, refused};
use crate::{
    policies::tokens::{Signer, claims_with},
    support::{Gateway, Response, Upstream},
};

/// Every name that says who is calling, in spellings that some server takes for the same.
const IDENTITY: [&str; 12] = [
    "X-Consumer-Id",
    "x-consumer-id",
    "X-CONSUMER-ID",
    "x_consumer_id",
    "X_Consumer-Id",
    "X.Consumer.Id",
    "x-consumer_groups",
    "X-Consumer-Subject",
    "X-Consumer-Issuer",
    "X-Consumer-Scopes",
    "X-Consumer-Username",
    "X_CONSUMER_ANYTHING",
];

#[test]
fn c01_a_client_cannot_say_who_it_is() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for name in IDENTITY {
        for (path, key) in [("/", "none"), ("/admin", "a-key-for-tests")] {
            let headers = [(name, "root"), (name, "admin "), ("X-Api-Key", key)];
            assert_eq!(gateway.send("GET", path, &headers).status, 200, "{name}");
            let head = up.last().head.to_ascii_lowercase();
            assert!(!head.contains("root") && !head.contains("admin\r\n"), "{name}: {head}");
            let said = head.matches("consumer").count();
            assert_eq!(said, usize::from(path == "/admin"), "{name}: {head}");
        }
        // A space behind the name is no way to another name.
        let bytes = format!("GET / HTTP/1.1\r\nHost: test\r\n{name} : root\r\n\r\n");
        assert_eq!(refused(&gateway, bytes.as_bytes()).0, 400, "{name}");
    }
    assert_eq!(up.seen().len(), 2 * IDENTITY.len());
}

#[test]
fn c01_nor_can_it_set_what_a_policy_sets_in_another_spelling() {
    let up = Upstream::named("up");
    let gateway = guarded_with(
        up.address(),
        ", policies: [{ request_headers: { set: { x-role: guest, x-tenant: \"{consumer}\" } } }, { request_id: {} }]",
    );
    for (name, value) in [
        ("X_Role", "root"),
        ("X.Role", "root"),
        ("x-role", "root"),
        ("X_Tenant", "root"),
        ("x-tenant", "root"),
        ("X_Request_Id", "root"),
        ("X_Forwarded_For", "root"),
        ("X_Forwarded-Proto", "root"),
        ("Trace.parent", "kept"),
    ] {
        assert_eq!(gateway.send("GET", "/", &[(name, value)]).status, 200, "{name}");
        let seen = up.last();
        assert!(!seen.head.contains("root"), "{name}: {}", seen.head);
        assert_eq!(seen.header("x-role"), Some("guest"), "{name}");
    }
    // Without a twin, such a name is as good as any.
    assert_eq!(gateway.send("GET", "/", &[("X_Other", "kept")]).status, 200);
    assert_eq!(up.last().header("x_other"), Some("kept"));
}

#[test]
fn c01_two_names_that_are_one_to_some_servers_are_refused() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for (one, other) in
        [("X-Role", "X_Role"), ("X_Role", "x.role"), ("Content-Type", "Content_Type"), ("a_b-c", "a-b_c")]
    {
        for pair in [[(one, "a"), (other, "b")], [(other, "a"), (one, "b")]] {
            let answer = gateway.send("GET", "/", &pair);
            assert_eq!((answer.status, answer.problem().as_str()), (400, "bad_request"), "{one} {other}");
        }
    }
    only_saw(&up, &[]);
}

/// A gateway whose `/` takes tokens, optional claims left out, and one without a token at all.
fn with_tokens() -> (Gateway, Upstream, Signer) {
    let up = Upstream::named("up");
    let signer = Signer::new(HS256);
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
routes:
  - {{ name: open, match: {{ path: /open }}, upstream: up }}
  - {{ name: shadow, match: {{ path: /shadow }}, policies: [{{ jwt: {{ audience: orders, keys: [{key}] }}, mode: shadow }}], upstream: up }}
  - {{ name: token, policies: [{{ jwt: {{ audience: orders, keys: [{key}] }} }}], upstream: up }}
",
        up.address(),
        key = signer.entry("k"),
    ));
    (gateway, up, signer)
}

fn send(gateway: &Gateway, path: &str, token: &str, name: &str) -> Response {
    let bearer = format!("Bearer {token}");
    gateway.send("GET", path, &[("Authorization", bearer.as_str()), (name, "root"), (name, "admin")])
}

#[test]
fn c02_what_authentication_does_not_set_is_removed_all_the_same() {
    let (gateway, up, signer) = with_tokens();
    let bare = signer.token("k", &claims_with(&serde_json::json!({ "scope": null, "iss": null })));
    for name in IDENTITY {
        for (path, token) in [("/", bare.as_str()), ("/open", "none"), ("/shadow", "none")] {
            assert_eq!(send(&gateway, path, token, name).status, 200, "{path} {name}");
            let head = up.last().head.to_ascii_lowercase();
            assert!(!head.contains("root") && !head.contains("admin"), "{path} {name}: {head}");
        }
    }
}

#[test]
fn c03_what_a_client_says_about_its_way_is_replaced() {
    let up = Upstream::named("up");
    let gateway = guarded_with(
        up.address(),
        " }\n  - { name: local, match: { path: /local }, policies: [{ ip_restriction: { allow: [10.0.0.0/8] } }], upstream: up }\n  - { name: limited, match: { path: /limited }, policies: [{ rate_limit: { key: client_ip, limits: [1/h] } }], upstream: up",
    );
    for (i, name) in [
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
        "X-Forwarded-Server",
        "Forwarded",
        "X-Real-IP",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X_Forwarded_For",
        "x.real.ip",
    ]
    .into_iter()
    .enumerate()
    {
        let headers = [(name, "10.9.8.7"), (name, "for=10.9.8.7")];
        assert_eq!(gateway.send("GET", "/", &headers).status, 200, "{name}");
        let seen = up.last();
        assert!(!seen.head.contains("10.9.8.7"), "{name}: {}", seen.head);
        assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"), "{name}");
        assert_eq!(seen.header("x-forwarded-proto"), Some("http"), "{name}");
        assert_eq!(gateway.send("GET", "/local", &headers).status, 403, "{name}");
        let limited = gateway.send("GET", "/limited", &headers).status;
        assert_eq!(limited, if i == 0 { 200 } else { 429 }, "{name}");
    }
}

#[test]
fn c05_a_rule_on_a_header_that_comes_twice_denies() {
    let (one, two) = (Upstream::named("one"), Upstream::named("two"));
    let gateway = Gateway::start(&format!(
        "upstreams: {{ one: {{ endpoints: [\"{}\"] }}, two: {{ endpoints: [\"{}\"] }} }}
consumers: {{ mobile: {{ api_keys: [a-key-for-tests] }}, web: {{ api_keys: [another-key] }} }}
routes:
  - {{ name: admin, match: {{ path: /role, headers: {{ x-role: admin }} }}, upstream: one }}
  - {{ name: other, match: {{ path: /role }}, upstream: two }}
  - {{ name: key, match: {{ path: /key }}, policies: [{{ api_key: {{ header: x-key }} }}], upstream: one }}
  - {{ name: limit, match: {{ path: /limit }}, policies: [{{ rate_limit: {{ key: {{ header: x-tenant }}, limits: [1/h] }} }}], upstream: one }}
",
        one.address(),
        two.address()
    ));
    assert_eq!(gateway.send("GET", "/role", &[("X-Role", "admin")]).text(), "one");
    for pair in [["user", "admin"], ["admin", "user"], ["admin", "admin"]] {
        let answer = gateway.send("GET", "/role", &[("X-Role", pair[0]), ("X-Role", pair[1])]);
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad_request"), "{pair:?}");
    }
    assert_eq!(gateway.send("GET", "/role", &[("X-Role", "user, admin")]).text(), "two");
    for pair in [["a-key-for-tests", "another-key"], ["a-key-for-tests", "none"], ["none", "a-key-for-tests"]] {
        let answer = gateway.send("GET", "/key", &[("X-Key", pair[0]), ("X-Key", pair[1])]);
        assert_eq!((answer.status, answer.problem().as_str()), (401, "unauthenticated"), "{pair:?}");
    }
    // A limit counts by all values: the same ones are the same, in this order.
    let tenants = |all: &[&'static str]| {
        let headers: Vec<_> = all.iter().map(|tenant| ("X-Tenant", *tenant)).collect();
        gateway.send("GET", "/limit", &headers).status
    };
    for all in [&["a"][..], &["a", "b"], &["b", "a"], &["a", "a"]] {
        assert_eq!((tenants(all), tenants(all)), (200, 429), "{all:?}");
    }
    for name in ["Authorization", "Content-Type", "Origin", "Range", "User-Agent"] {
        let answer = gateway.send("GET", "/role", &[(name, "a"), (name, "b")]);
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad_request"), "{name}");
    }
}

/// No policy copies headers of another service's answer yet; what authentication takes from a token is the same danger.
#[test]
fn c06_what_is_copied_from_a_token_is_no_way_to_a_header() {
    let (gateway, up, signer) = with_tokens();
    for subject in ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rX-Evil: 1", "a\0b", "\u{7f}", "a\u{2028}X-Evil: 1"] {
        for name in ["sub", "iss", "scope"] {
            let token = signer.token("k", &claims_with(&serde_json::json!({ name: subject })));
            let before = up.seen().len();
            let answer = send(&gateway, "/", &token, "x-none");
            for seen in &up.seen()[before..] {
                assert_eq!(seen.header("x-evil"), None, "{subject:?}: {}", seen.head);
                let bad = |byte: u8| byte < b' ' && byte != b'\r' && byte != b'\n';
                assert!(!seen.head.bytes().any(bad), "{subject:?}: {}", seen.head);
            }
            assert!([200, 401].contains(&answer.status), "{subject:?}: {answer:?}");
        }
    }
}

#[test]
fn c07_a_proxy_header_goes_nowhere() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for name in ["Proxy", "proxy", "PROXY"] {
        assert_eq!(gateway.send("GET", "/", &[(name, "http://evil.example"), (name, "x")]).status, 200);
        assert!(!up.last().head.to_ascii_lowercase().contains("proxy"), "{}", up.last().head);
    }
}

#[test]
fn c08_headers_beyond_the_limits_are_refused_in_bounded_memory() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    let many = |count: usize| -> String { (0..count).map(|i| format!("X-{i}: 1\r\n")).collect() };
    let crumbs: String = (0..10_000).map(|i| format!("Cookie: c{i}={i}\r\n")).collect();
    let before = gateway.memory();
    for headers in [
        many(257),
        many(1_000),
        format!("X-Large: {}\r\n", "x".repeat(100_000)),
        format!("{}: x\r\n", "x".repeat(100_000)),
        crumbs,
    ] {
        for _ in 0..10 {
            let bytes = format!("GET / HTTP/1.1\r\nHost: test\r\n{headers}\r\n");
            let mut client = gateway.client();
            client.try_write(bytes.as_bytes());
            let answer = client.read();
            assert_eq!(answer.status, 431, "{headers:.40}");
            assert!(["header_too_large", "too_many_headers"].contains(&answer.problem().as_str()), "{headers:.40}");
            let _ = client.stream().shutdown(std::net::Shutdown::Write);
            assert!(client.is_closed());
        }
    }
    only_saw(&up, &[]);
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "{} KiB", grown >> 10);
    // As many as are allowed pass.
    let bytes = format!("GET / HTTP/1.1\r\nHost: test\r\n{}\r\n", many(100));
    let mut client = gateway.client();
    client.write(bytes.as_bytes());
    assert_eq!(client.read().text(), "up");
}
