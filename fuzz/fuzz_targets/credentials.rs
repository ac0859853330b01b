//! No bytes sent as a credential, wherever one may be, make the request phase panic or let anybody in.
//!
//! The first byte of a line of the input says where its bytes go: to a header, a cookie, or the query.
#![no_main]

mod gate;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pingora::http::RequestHeader;

use gate::Gate;

static GATE: LazyLock<Gate> = LazyLock::new(|| {
    // Nobody knows these, the fuzzer included.
    let secrets: [u128; 3] = std::array::from_fn(|_| u128::from_ne_bytes(std::array::from_fn(|_| random())));
    let [key, password, shared] = secrets.map(|secret| format!("{secret:032x}"));
    Gate::new(&format!(
        r#"
listeners: [{{ address: "127.0.0.1:8080" }}]
upstreams: {{ up: {{ endpoints: ["127.0.0.1:9000"] }} }}
consumers:
  a: {{ api_keys: ["{key}"], logins: [{{ password: "{password}" }}], tokens: [{{ issuer: i, subject: a }}] }}
routes:
  - name: r
    policies:
      - any_of:
          - jwt: {{ issuer: i, audience: a, query: t, cookie: t, keys: [{{ id: k, algorithm: HS256, secret: "{shared}" }}] }}
          - jwt: {{ issuer: j, audience: a, header: x-token, keys: [{{ algorithm: HS256, secret: "{shared}" }}] }}
          - api_key: {{ header: x-api-key, query: k, cookie: k }}
          - basic: {{}}
          - client_certificate: {{}}
          - oidc: {{ issuer: "https://i", client_id: a, redirect_uri: "https://a/cb", session_secret: "{shared}" }}
    upstream: up
"#
    ))
});

/// A byte of the system's.
fn random() -> u8 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0).to_ne_bytes()[0]
}

fuzz_target!(|data: &[u8]| {
    let mut target = b"/?a=b".to_vec();
    let mut headers: Vec<(&str, Vec<u8>)> = Vec::new();
    for line in data.split(|byte| *byte == b'\n').take(8) {
        let Some((place, bytes)) = line.split_first() else { continue };
        let with = |prefix: &[u8]| [prefix, bytes].concat();
        match place % 12 {
            0 => headers.push(("authorization", with(b"Bearer "))),
            1 => headers.push(("authorization", with(b"Basic "))),
            2 => headers.push(("authorization", bytes.to_vec())),
            3 => headers.push(("x-api-key", bytes.to_vec())),
            4 => headers.push(("x-token", bytes.to_vec())),
            5 => headers.push(("cookie", with(b"t="))),
            6 => headers.push(("cookie", with(b"k="))),
            7 => target.extend(with(b"&t=")),
            8 => target.extend(with(b"&k=")),
            9 => headers.push(("cookie", with(b"__Host-torana_session=1."))),
            10 => headers.push(("cookie", with(b"__Host-torana_session"))),
            _ => target = with(b"/cb?code=a&state="),
        }
    }
    let Ok(mut request) = RequestHeader::build("GET", &target, None) else { return };
    drop(request.insert_header("host", "a"));
    for (name, value) in headers {
        let Ok(value) = http::HeaderValue::from_bytes(&value) else { return };
        drop(request.append_header(name, value));
    }
    assert!(GATE.admit(&mut request).is_none(), "somebody is let in");
});
