//! Rows D: authentication, in every form that a request can have. Rows about the life of keys are in `policies::jwt_keys`
//! (D6, D7, D8) and `policies::identity_provider` (D8, D11), D9 is in `config`, D15 in `tls`, D17 in `policies::callers`.

use jsonwebtoken::Algorithm::{ES256, HS256, RS256};
use serde_json::json;

use crate::{
    policies::tokens::{Signer, base64, claims, claims_with, now},
    support::{Gateway, Upstream, eventually, http2, request, web_socket::UPGRADE},
};

/// A gateway with these policies on its only route, over HTTP/1.1 and HTTP/2. Its answers are kept for all callers alike: whoever
/// is refused is refused before that.
fn start(policies: &str) -> (Gateway, Upstream) {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", h2c: true }}]
telemetry: {{ access_log: {{}} }}
consumers:
  mobile: {{ api_keys: [key-12345] }}
  web: {{ api_keys: [key-67890], tokens: [{{ issuer: \"https://idp\", subject: alice }}] }}
upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
routes: [{{ name: r, policies: [{policies}, {{ cache: {{ shared: true, ttl: 1h }} }}], upstream: up }}]\n",
        up.address()
    ));
    (gateway, up)
}

/// That a request with these headers is refused as 401 in every form.
#[track_caller]
fn is_refused(gateway: &Gateway, target: &str, headers: &[(&str, &str)], what: &str) {
    for method in ["GET", "HEAD", "OPTIONS", "POST"] {
        let answer = gateway.send(method, target, headers);
        assert_eq!(answer.status, 401, "{what}: {method}");
        let answer = http2::send(gateway, method, target, headers, &[]);
        assert_eq!(answer.status, 401, "{what}: {method} over HTTP/2");
    }
    let upgrade = [&UPGRADE[..], headers].concat();
    assert_eq!(gateway.send("GET", target, &upgrade).status, 401, "{what}: an upgrade");
}

/// That these tokens are refused, also when an answer for a good one is kept.
#[track_caller]
fn are_refused(gateway: &Gateway, up: &Upstream, good: &str, tokens: &[(String, &str)]) {
    let good = format!("Bearer {good}");
    let get = || gateway.send("GET", "/", &[("Authorization", &good)]);
    assert_eq!((get().status, get().header("cache-status")), (200, Some("torana; hit")));
    for (token, what) in tokens {
        is_refused(gateway, "/", &[("Authorization", &format!("Bearer {token}"))], what);
    }
    assert_eq!(up.seen().len(), 1);
    assert_eq!(get().header("cache-status"), Some("torana; hit"));
}

fn jwt(signer: &Signer) -> String {
    format!("{{ jwt: {{ issuer: \"https://idp\", audience: [orders, api], keys: [{}] }} }}", signer.entry("k"))
}

#[test]
fn d01_a_token_that_is_not_signed_is_none() {
    let signer = Signer::new(ES256);
    let (gateway, up) = start(&jwt(&signer));
    let body = base64(claims().to_string().as_bytes());
    let mut tokens = Vec::new();
    for algorithm in ["none", "None", "NONE", ""] {
        let header = base64(json!({ "alg": algorithm, "kid": "k" }).to_string().as_bytes());
        tokens.extend([(format!("{header}.{body}."), algorithm), (format!("{header}.{body}"), algorithm)]);
    }
    let good = signer.good("k");
    tokens.push((format!("{}.", good.rsplit_once('.').unwrap().0), "no signature"));
    are_refused(&gateway, &up, &good, &tokens);
}

#[test]
fn d02_a_public_key_is_no_shared_secret() {
    let signer = Signer::new(RS256);
    let (gateway, up) = start(&jwt(&signer));
    let header = r#"{"alg":"HS256","kid":"k"}"#;
    let der = signer.public.lines().filter(|line| !line.starts_with('-')).collect::<String>();
    let tokens = [signer.public.clone(), signer.public.trim().to_owned(), der].map(|secret| {
        (Signer::shared(HS256, &secret).raw(header, &claims().to_string()), "signed with the public key")
    });
    are_refused(&gateway, &up, &signer.good("k"), &tokens);
}

#[test]
fn d03_a_token_does_not_bring_its_own_key() {
    let (signer, other) = (Signer::new(ES256), Signer::new(ES256));
    // Whoever fetches a key of the token's comes here.
    let lure = Upstream::named("lure");
    let (gateway, up) = start(&jwt(&signer));
    let url = format!("http://{}/jwks", lure.address());
    let tokens: Vec<_> = [
        json!({ "alg": "ES256", "kid": "k", "jwk": other.jwk("k") }),
        json!({ "alg": "ES256", "jwk": other.jwk("k") }),
        json!({ "alg": "ES256", "kid": "k", "jku": url }),
        json!({ "alg": "ES256", "kid": url }),
        json!({ "alg": "ES256", "kid": "k", "x5u": url }),
        json!({ "alg": "ES256", "kid": "../../../../dev/null" }),
        json!({ "alg": "ES256", "kid": "k' OR '1'='1" }),
        json!({ "alg": "ES256", "kid": "x".repeat(4000) }),
        json!({ "alg": "ES256", "kid": "k", "crit": ["exp"] }),
    ]
    .iter()
    .map(|header| (other.raw(&header.to_string(), &claims().to_string()), "a key of its own"))
    .collect();
    are_refused(&gateway, &up, &signer.good("k"), &tokens);
    assert!(lure.seen().is_empty());
}

#[test]
fn d04_odd_signatures_are_none() {
    let signer = Signer::new(ES256);
    let (gateway, up) = start(&jwt(&signer));
    let good = signer.good("k");
    let (message, signature) = good.rsplit_once('.').unwrap();
    let short = &signature[..signature.len() - 2];
    let tokens = [
        base64(&[0; 64]),
        base64(&[0xff; 64]),
        base64(&[0; 63]),
        short.into(),
        format!("{signature}A"),
        format!("{signature}="),
    ]
    .map(|odd| (format!("{message}.{odd}"), "an odd signature"));
    are_refused(&gateway, &up, &good, &tokens);
}

#[test]
fn d05_claims_have_to_be_right() {
    let signer = Signer::new(HS256);
    let (gateway, up) = start(&jwt(&signer));
    let mut tokens: Vec<_> = [
        json!({ "exp": null }),
        json!({ "exp": now() - 60 }),
        json!({ "exp": 1.5 }),
        json!({ "exp": "4102444800" }),
        json!({ "nbf": now() + 3600 }),
        json!({ "aud": ["other"] }),
        json!({ "aud": null }),
        json!({ "iss": "https://idp/" }),
        json!({ "iss": null }),
    ]
    .iter()
    .map(|change| (signer.token("k", &claims_with(change)), "a claim"))
    .collect();
    for text in [
        r#"{"iss":"https://idp","aud":"orders","exp":1e400}"#.to_owned(),
        format!(r#"{{"iss":"https://idp","aud":"orders","exp":{0},"exp":{0}}}"#, now() + 60),
        format!(r#"{{"iss":"https://idp","aud":"orders","sub":"alice","sub":"root","exp":{}}}"#, now() + 60),
    ] {
        tokens.push((signer.raw(r#"{"alg":"HS256","kid":"k"}"#, &text), "claims as they are written"));
    }
    are_refused(&gateway, &up, &signer.token("k", &claims_with(&json!({ "aud": ["x", "api"] }))), &tokens);
}

#[test]
fn d12_credentials_of_two_are_never_those_of_the_first() {
    let signer = Signer::new(HS256);
    let alice = format!("Bearer {}", signer.good("k"));
    let keys = "{ api_key: { header: x-api-key, query: key, cookie: key } }";
    for policies in [
        format!("{keys}, {}", jwt(&signer)),
        format!("{{ any_of: [{keys}, {}] }}", jwt(&signer)),
        format!("{{ any_of: [{}, {keys}] }}", jwt(&signer)),
    ] {
        let (gateway, up) = start(&policies);
        let (bearer, key) = (("Authorization", alice.as_str()), ("X-Api-Key", "key-12345"));
        is_refused(&gateway, "/", &[bearer, key], "alice and mobile");
        is_refused(&gateway, "/?key=key-12345", &[bearer], "alice, and mobile in the query");
        is_refused(&gateway, "/", &[bearer, ("Cookie", "key=key-12345")], "alice, and mobile in a cookie");
        is_refused(&gateway, "/?key=key-67890", &[bearer, key], "two keys");
        is_refused(&gateway, "/?key=key-67890&key=key-12345", &[bearer], "two keys in the query");
        is_refused(&gateway, "/", &[bearer, ("Cookie", "key=key-67890; key=key-12345")], "two keys in cookies");
        assert!(up.seen().is_empty(), "{policies}");
        // Both are web's.
        assert_eq!(gateway.send("GET", "/", &[bearer, ("X-Api-Key", "key-67890")]).status, 200, "{policies}");
        assert_eq!(up.only().header("x-consumer-id"), Some("web"));
    }
}

#[test]
fn d16_a_key_is_in_no_log_wherever_it_was_sent() {
    let (gateway, up) = start("{ any_of: [{ api_key: { header: x-key, query: k, cookie: k } }] }");
    for (target, headers) in [
        ("/?k=key-12345", &[][..]),
        ("/?%6b=key%2D12345&a=b", &[]),
        ("/", &[("X-Key", "key-12345")]),
        ("/", &[("Cookie", "k=key-12345")]),
        ("/?k=key-54321", &[]),
        ("/?a=1;k=key-12345", &[]),
        ("/?k=key-12345;a=1&b=2", &[]),
    ] {
        gateway.send("GET", target, headers);
    }
    eventually("all are in the log", || gateway.log().matches("\"method\"").count() >= 7);
    let log = gateway.log();
    assert!(!log.contains("12345") && !log.contains("54321"), "{log}");
    assert!(up.seen().iter().all(|seen| !seen.head.contains("12345")), "{:?}", up.seen());
}

#[test]
fn d10_no_form_of_a_request_is_a_way_around_its_credential() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", h2c: true }}]
consumers: {{ app: {{ api_keys: [key-12345] }} }}
upstreams:
  up: {{ endpoints: [\"{0}\"] }}
  grpc: {{ endpoints: [\"{0}\"], protocol: http2 }}
routes:
  - {{ name: grpc, match: {{ path: {{ prefix: /test.Echo }} }}, policies: [{{ api_key: {{ header: x-api-key }} }}, {{ grpc_web: {{}} }}], upstream: grpc }}
  - {{ name: all, policies: [{{ api_key: {{ header: x-api-key }} }}], upstream: up }}\n",
        up.address()
    ));
    for method in ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH"] {
        assert_eq!(gateway.send(method, "/", &[("Content-Length", "0")]).status, 401, "{method}");
        assert_eq!(http2::send(&gateway, method, "/", &[], &[]).status, 401, "{method} over HTTP/2");
        let keyed = [&UPGRADE[..], &[("X-Api-Key", "wrong")]].concat();
        assert_eq!(gateway.send(method, "/", &keyed).status, 401, "{method} as an upgrade");
    }
    // An OPTIONS that looks like a preflight, where no policy answers those.
    let preflight = [("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET")];
    assert_eq!(gateway.send("OPTIONS", "/", &preflight).status, 401);
    for (media, in_header) in
        [("application/grpc", true), ("application/grpc-web", false), ("application/grpc-web-text", false)]
    {
        let headers = [("content-type", media), ("te", "trailers")];
        let answer = http2::send(&gateway, "POST", "/test.Echo/Unary", &headers, &[5]);
        assert_eq!((answer.status, answer.header("grpc-status").is_some()), (200, in_header), "{answer:?}");
        assert_eq!(answer.body.is_empty(), in_header, "{answer:?}");
    }
    // One behind another on a connection, with the key for the first one alone.
    let mut client = gateway.client();
    client.write((request("GET", "/", &[("X-Api-Key", "key-12345")]) + &request("GET", "/again", &[])).as_bytes());
    assert_eq!((client.read().status, client.read().status), (200, 401));
    assert_eq!(up.seen().len(), 1, "{:?}", up.seen());
}
