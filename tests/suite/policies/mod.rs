//! What policies do to requests and responses, and what they keep from passing.

mod api_key;
mod bandwidth;
mod cache;
mod callers;
mod concurrency;
mod cors;
mod examples;
mod forward_auth;
mod headers;
mod hmac;
mod http2;
mod identity_provider;
mod ip_restriction;
mod jwt;
mod jwt_keys;
mod ldap;
mod limit_keys;
mod oidc;
mod quota;
mod rate_limit;
mod request_id;
mod request_size;
mod shadow;
mod stores;
mod together;
pub(crate) mod tokens;
mod waf;

use std::time::Duration;

use crate::support::{self, Client, Gateway, Response, Upstream, request, web_socket::UPGRADE};

/// Behind a policy that asks who is calling: whoever it refuses is refused although an answer is kept, for all callers alike.
const KEPT: &str = ", { cache: { shared: true, ttl: 1h } }";

/// A file with one route, `r`, for everything, with these policies (`{ cors: { ... } }, ...`) in front of `up`.
fn config(up: &Upstream, policies: &str) -> String {
    format!(
        r#"
upstreams: {{ up: {{ endpoints: ["{}"] }} }}
consumers:
  mobile: {{ groups: [gold, beta], api_keys: [key-1, key-2] }}
  web: {{ api_keys: [key-3], tokens: [{{ issuer: "https://idp", subject: alice }}] }}
routes: [{{ name: r, match: {{ path: "/{{rest...}}" }}, policies: [{policies}], upstream: up }}]
"#,
        up.address()
    )
}

/// A gateway with these policies in front of an upstream that answers `up`.
fn start(policies: &str) -> (Gateway, Upstream) {
    let up = Upstream::named("up");
    (Gateway::start(&config(&up, policies)), up)
}

/// Requests of every kind that might be taken for harmless are refused, and the upstream sees none of them.
#[track_caller]
fn no_way_around(gateway: &Gateway, up: &Upstream, headers: &[(&str, &str)], status: u16) {
    let before = up.seen().len();
    for method in ["GET", "HEAD", "OPTIONS", "POST", "DELETE"] {
        assert_eq!(gateway.send(method, "/a", headers).status, status, "{method}");
        assert_eq!(support::http2::send(gateway, method, "/a", headers, &[]).status, status, "{method} over HTTP/2");
    }
    let upgrade = [&UPGRADE[..], headers].concat();
    assert_eq!(gateway.send("GET", "/a", &upgrade).status, status, "an upgrade");
    // What nobody knows does not even come so far.
    for (method, target, refusal) in [("PROPFIND", "/a", 405), ("BREW", "/a", 405), ("GET", "/a;x=1", 400)] {
        assert_eq!(gateway.send(method, target, headers).status, refusal, "{method} {target}");
    }
    let preflight = [("Origin", "https://a.example"), ("Access-Control-Request-Method", "PUT")];
    assert_eq!(gateway.send("OPTIONS", "/a", &[headers, &preflight].concat()).status, status, "a preflight");
    for target in ["//a", "/%61", "/./a", "/b/../a", "/a?x", "http://test/a"] {
        assert_eq!(gateway.send("GET", target, headers).status, status, "{target}");
    }
    assert_eq!(up.seen().len(), before, "{:#?}", up.seen());
}

/// A request from another address of this machine.
fn send_from(ip: &str, gateway: &Gateway, headers: &[(&str, &str)]) -> Response {
    let mut client = Client::connect_from(ip.parse().unwrap(), gateway.address());
    client.write(request("GET", "/", headers).as_bytes());
    client.read()
}

/// Sends a header and returns everything that comes back within a moment, as text: interim answers too.
fn raw_answer(gateway: &Gateway, bytes: &str) -> String {
    use std::io::Read;
    let mut client = gateway.client();
    client.write(bytes.as_bytes());
    client.set_timeout(Duration::from_millis(500));
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(1..) = client.stream().read(&mut buffer).inspect(|read| all.extend_from_slice(&buffer[..*read])) {}
    String::from_utf8(all).unwrap()
}
