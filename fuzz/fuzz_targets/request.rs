//! No request makes the request phase panic, and none says who it is by itself.
//!
//! The input is the method, the target and the headers, a line each.
#![no_main]

mod gate;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pingora::http::RequestHeader;

use gate::Gate;

const CONFIG: &str = r#"
listeners: [{ address: "127.0.0.1:8080" }]
upstreams: { up: { endpoints: ["127.0.0.1:9000"] } }
consumers: { a: { api_keys: [key-1] } }
policies:
  - request_id: { trust: true }
  - cors: { origins: ["https://*.example.com"] }
routes:
  - name: keys
    match: { path: "/keys/{id}" }
    policies:
      - api_key: { header: x-api-key }
      - rate_limit: { key: consumer, limits: [1000000/s] }
    upstream: up
  - name: tokens
    match: { path: { prefix: /tokens } }
    policies:
      - jwt: { issuer: i, audience: a, keys: [{ id: k, algorithm: HS256, secret: 0123456789abcdef0123456789abcdef }] }
    upstream: up
  - name: texts
    match: { path: "/texts/{rest...}", query: { a: { regex: "[a-z]+" } } }
    policies:
      - ip_restriction: { allow: [0.0.0.0/0] }
      - request_size: { max: 1MiB }
      - request_headers: { set: { x-all: "{method} {path} {query} {header.x-a} {query.b} {cookie.c} {path.rest}" } }
    rewrite: { strip_prefix: /texts }
    upstream: up
  - { name: away, match: { path: { prefix: /away } }, redirect: { to: "https://{host}{path}{query}" } }
"#;

static GATE: LazyLock<Gate> = LazyLock::new(|| Gate::new(CONFIG));

fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|byte| *byte == b'\n');
    let method = lines.next().unwrap_or_default();
    let target = lines.next().unwrap_or_default();
    let Ok(mut request) = RequestHeader::build(method, target, None) else {
        return;
    };
    for line in lines.take(32) {
        let Some(at) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (Ok(name), Ok(value)) =
            (http::HeaderName::from_bytes(&line[..at]), http::HeaderValue::from_bytes(line[at + 1..].trim_ascii()))
        else {
            continue;
        };
        if request.append_header(name, value).is_err() {
            return;
        }
    }
    if GATE.admit(&mut request).is_none() {
        return;
    }
    for name in request.headers.keys().map(|name| name.as_str().replace(['_', '.'], "-")) {
        assert!(!name.starts_with("x-consumer-"), "{name}");
    }
    assert!(!request.uri.path().split('/').any(|segment| segment == ".."), "{}", request.uri);
});
