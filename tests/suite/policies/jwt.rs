//! `jwt` with keys that stand in the file: only a token that is what it says gets in.

use jsonwebtoken::{
    Algorithm::{ES256, ES384, EdDSA, HS256, HS512, PS256, RS256, RS512},
    AlgorithmFamily,
};
use serde_json::json;

use super::tokens::{SECRET, Signer, base64, claims, claims_with, now};
use crate::{
    policies::{config, no_way_around, start},
    support::{Gateway, Response, Upstream, eventually},
};

const RULES: &str = r#"issuer: "https://idp", audience: [orders, api], scopes: [orders.read]"#;

/// A gateway that takes tokens of this signer, whose key is `k`.
fn taking(signer: &Signer, rules: &str) -> (Gateway, Upstream) {
    start(&format!("{{ jwt: {{ {rules}, keys: [{}] }} }}", signer.entry("k")))
}

fn send(gateway: &Gateway, token: &str) -> Response {
    gateway.send("GET", "/", &[("Authorization", &format!("Bearer {token}"))])
}

#[track_caller]
fn assert_invalid(gateway: &Gateway, token: &str, what: &str) {
    let answer = send(gateway, token);
    assert_eq!((answer.status, answer.problem().as_str()), (401, "unauthenticated"), "{what}");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"torana\", error=\"invalid_token\""), "{what}");
}

#[test]
fn tokens_of_every_algorithm_are_taken_and_those_of_other_keys_are_not() {
    let algorithms = [HS256, HS512, RS256, RS512, PS256, ES256, ES384, EdDSA];
    let signers = algorithms.map(Signer::new);
    let entries: Vec<_> = signers.iter().zip(algorithms).map(|(one, id)| one.entry(&format!("k-{id:?}"))).collect();
    let (gateway, up) = start(&format!("{{ jwt: {{ {RULES}, keys: [{}] }} }}", entries.join(", ")));
    for (signer, algorithm) in signers.iter().zip(algorithms) {
        let id = format!("k-{algorithm:?}");
        assert_eq!(send(&gateway, &signer.good(&id)).status, 200, "{id}");
        let is_secret = algorithm.family() == AlgorithmFamily::Hmac;
        let other = if is_secret { Signer::shared(algorithm, &SECRET.to_uppercase()) } else { Signer::new(algorithm) };
        assert_invalid(&gateway, &other.good(&id), &id);
        assert_invalid(&gateway, &signer.good("k-of-nobody"), &id);
        for wrong in algorithms.iter().filter(|wrong| **wrong != algorithm) {
            assert_invalid(&gateway, &signer.good(&format!("k-{wrong:?}")), &format!("{id} for {wrong:?}"));
        }
    }
    assert_eq!(up.seen().len(), algorithms.len());
}

#[test]
fn a_token_that_is_not_signed_is_none() {
    let signer = Signer::new(ES256);
    let (gateway, up) = taking(&signer, RULES);
    let (good, claims) = (signer.good("k"), base64(claims().to_string().as_bytes()));
    let (message, signature) = good.rsplit_once('.').unwrap();
    for algorithm in ["none", "None", "NONE", "nOnE", ""] {
        for header in [json!({ "alg": algorithm }), json!({ "alg": algorithm, "kid": "k" })] {
            let header = base64(header.to_string().as_bytes());
            assert_invalid(&gateway, &format!("{header}.{claims}."), algorithm);
            assert_invalid(&gateway, &format!("{header}.{claims}"), algorithm);
            assert_invalid(&gateway, &format!("{header}.{claims}.{signature}"), algorithm);
        }
    }
    for token in [
        format!("{message}."),
        message.to_owned(),
        format!("{message}.{}", base64(&[0; 64])),
        format!("{message}.{}", &signature[..signature.len() - 4]),
        format!("{good}."),
        format!(".{good}"),
        format!("{}.{claims}.{signature}", message.split('.').next().unwrap()).replacen('.', "..", 1),
        "a.b.c".into(),
        "..".into(),
        "e30.e30.e30".into(),
    ] {
        assert_invalid(&gateway, &token, &token);
    }
    let forged = base64(claims_with(&json!({ "sub": "root" })).to_string().as_bytes());
    assert_invalid(&gateway, &format!("{}.{forged}.{signature}", message.split('.').next().unwrap()), "forged");
    assert!(up.seen().is_empty());
    assert_eq!(send(&gateway, &good).status, 200);
}

#[test]
fn a_public_key_is_no_shared_secret_and_a_key_has_one_algorithm() {
    let signer = Signer::new(RS256);
    let (gateway, up) = taking(&signer, RULES);
    let trimmed = signer.public.trim().to_owned();
    for secret in [signer.public.as_str(), &trimmed, &trimmed.replace('\n', "\r\n"), ""] {
        for algorithm in [HS256, HS512] {
            let confused = Signer::shared(algorithm, secret);
            assert_invalid(&gateway, &confused.good("k"), "confused");
            let nameless = confused.raw(&json!({ "alg": algorithm }).to_string(), &claims().to_string());
            assert_invalid(&gateway, &nameless, "confused, without a name");
        }
    }
    for algorithm in [PS256, RS512] {
        assert_invalid(&gateway, &signer.with(algorithm).good("k"), "used in another way");
    }
    let lying = signer.with(PS256).raw(r#"{"alg":"RS256","kid":"k"}"#, &claims().to_string());
    assert_invalid(&gateway, &lying, "signed in another way than it says");
    for algorithm in ["PS256", "RS512", "HS256", "ES256"] {
        let header = json!({ "alg": algorithm, "kid": "k" }).to_string();
        assert_invalid(&gateway, &signer.raw(&header, &claims().to_string()), "signed as it should not say");
    }
    assert!(up.seen().is_empty());
    assert_eq!(send(&gateway, &signer.good("k")).status, 200);
}

#[test]
fn claims_have_to_be_right() {
    let signer = Signer::new(HS256);
    let (gateway, up) = taking(&signer, RULES);
    let invalid = |others: serde_json::Value| {
        assert_invalid(&gateway, &signer.token("k", &claims_with(&others)), &others.to_string());
    };
    for issuer in [json!("https://idp/"), json!("https://IDP"), json!("https://other"), json!(""), json!(null)] {
        invalid(json!({ "iss": issuer }));
    }
    invalid(json!({ "iss": ["https://idp"] }));
    for audience in [json!("other"), json!("order"), json!(["other"]), json!([]), json!("orders api"), json!(null)] {
        invalid(json!({ "aud": audience }));
    }
    let now = now();
    for expiry in [json!(now - 31), json!(0), json!(-1), json!((now + 60).to_string()), json!(null), json!(1e300)] {
        invalid(json!({ "exp": expiry }));
    }
    invalid(json!({ "nbf": now + 90 }));
    invalid(json!({ "nbf": "soon" }));
    assert!(up.seen().is_empty());
    for others in [
        json!({ "aud": ["other", "api"] }),
        json!({ "exp": now - 15, "nbf": now + 10 }),
        json!({ "exp": u64::MAX, "nbf": 0 }),
        json!({ "scope": null, "scp": ["orders.read"], "sub": null }),
    ] {
        assert_eq!(send(&gateway, &signer.token("k", &claims_with(&others))).status, 200, "{others}");
    }
}

#[test]
fn a_claim_that_stands_twice_or_a_header_that_is_critical_is_refused() {
    let signer = Signer::new(HS256);
    let (gateway, up) = taking(&signer, RULES);
    let header = r#"{"alg":"HS256","kid":"k"}"#;
    let claims = claims().to_string();
    for twin in [r#""sub":"root""#, r#""exp":99999999999"#, r#""iss":"https://idp""#] {
        let both = claims.replacen('{', &format!("{{{twin},"), 1);
        assert_invalid(&gateway, &signer.raw(header, &both), twin);
    }
    for member in [r#""crit":["exp"],"exp":1"#, r#""crit":["b64"],"b64":false"#, r#""zip":"DEF""#, r#""enc":"A128GCM""#]
    {
        let header = header.replacen('{', &format!("{{{member},"), 1);
        assert_invalid(&gateway, &signer.raw(&header, &claims), member);
    }
    assert!(up.seen().is_empty());
    assert_eq!(send(&gateway, &signer.raw(header, &claims)).status, 200);
}

#[test]
fn a_token_does_not_bring_its_own_key() {
    let (signer, attacker) = (Signer::new(ES256), Signer::new(ES256));
    let (gateway, up) = taking(&signer, RULES);
    let elsewhere = Upstream::named("{}");
    let url = format!("http://{}/jwks", elsewhere.address());
    for id in ["k", "other", "../../../../dev/null", "' OR 1=1 --"] {
        let header = json!({ "alg": "ES256", "kid": id, "jwk": attacker.jwk(id), "jku": url, "x5u": url });
        assert_invalid(&gateway, &attacker.raw(&header.to_string(), &claims().to_string()), id);
    }
    assert!(up.seen().is_empty());
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn a_token_without_the_scope_is_403_and_says_which_one() {
    let signer = Signer::new(HS256);
    let (gateway, up) = taking(&signer, RULES);
    for scopes in [
        json!({ "scope": "a b" }),
        json!({ "scope": "orders.readx xorders.read ORDERS.READ" }),
        json!({ "scope": "orders.read,a" }),
        json!({ "scope": null }),
        json!({ "scope": null, "scp": [] }),
        json!({ "scope": null, "roles": ["orders.read"] }),
    ] {
        let answer = send(&gateway, &signer.token("k", &claims_with(&scopes)));
        assert_eq!((answer.status, answer.problem().as_str()), (403, "insufficient_scope"), "{scopes}");
        let challenge = "Bearer realm=\"torana\", error=\"insufficient_scope\", scope=\"orders.read\"";
        assert_eq!(answer.header("www-authenticate"), Some(challenge));
    }
    assert!(up.seen().is_empty());
}

#[test]
fn the_upstream_sees_who_the_token_belongs_to() {
    let signer = Signer::new(HS256);
    let (gateway, up) = taking(&signer, "audience: orders");
    let forged = [("X-Consumer-Id", "root"), ("x_consumer_subject", "root")];
    let send = |claims: &serde_json::Value| {
        let token = format!("Bearer {}", signer.token("k", claims));
        assert_eq!(gateway.send("GET", "/", &[&[("Authorization", token.as_str())][..], &forged].concat()).status, 200);
        let seen = up.last();
        assert!(!seen.head.contains("root"), "{}", seen.head);
        ["id", "groups", "subject", "issuer", "scopes"]
            .map(|name| seen.header(&format!("x-consumer-{name}")).unwrap_or("-").to_owned())
    };
    assert_eq!(send(&claims()), ["web", "-", "alice", "https://idp", "a orders.read"]);
    let bob = claims_with(&json!({ "sub": "bob", "scope": null }));
    assert_eq!(send(&bob), ["-", "-", "bob", "https://idp", "-"]);
    let other = claims_with(&json!({ "iss": "https://other", "scope": null }));
    assert_eq!(send(&other), ["-", "-", "alice", "https://other", "-"], "alice of another issuer is somebody else");
    let split = claims_with(&json!({ "sub": "bob\r\nX-Consumer-Id: root", "scope": null }));
    let token = format!("Bearer {}", signer.token("k", &split));
    assert_eq!(gateway.send("GET", "/", &[("Authorization", &token)]).status, 200);
    assert_eq!(up.last().header("x-consumer-id"), None);
    assert_eq!(up.last().header("x-consumer-subject"), None, "left out, not rewritten");
}

#[test]
fn there_is_one_authorization_and_it_is_a_bearer() {
    let signer = Signer::new(HS256);
    let (gateway, up) = taking(&signer, RULES);
    let good = signer.good("k");
    let (bearer, lower, basic) = (format!("Bearer {good}"), format!("bearer   {good} "), format!("Basic {good}"));
    for headers in [&[][..], &[("Authorization", basic.as_str())], &[("Authorization", &good)], &[("X-Token", &bearer)]]
    {
        let answer = gateway.send("GET", &format!("/?access_token={good}"), headers);
        assert_eq!((answer.status, answer.problem().as_str()), (401, "unauthenticated"), "{headers:?}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"torana\""));
    }
    for other in [bearer.as_str(), "Basic YTpi", ""] {
        let answer = gateway.send("GET", "/", &[("Authorization", &bearer), ("authorization", other)]);
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad_request"), "{other}");
    }
    assert_invalid(&gateway, &format!("{good}, Bearer {good}"), "a list");
    assert!(up.seen().is_empty());
    assert_eq!(gateway.send("GET", "/", &[("Authorization", &lower)]).status, 200);
}

#[test]
fn the_token_is_passed_on_unless_the_file_says_otherwise() {
    let signer = Signer::new(HS256);
    let good = signer.good("k");
    for (rule, arrives) in [("forward: true", true), ("forward: false", false), ("leeway: 0s", false)] {
        let (gateway, up) = taking(&signer, &format!("{RULES}, {rule}"));
        assert_eq!(send(&gateway, &good).status, 200);
        assert_eq!(up.only().header("authorization").is_some(), arrives, "{rule}");
        assert_eq!(up.only().head.contains(&good), arrives, "{rule}");
    }
}

#[test]
fn a_token_that_was_good_is_refused_once_it_has_expired() {
    let signer = Signer::new(HS256);
    let (gateway, _up) = taking(&signer, &format!("{RULES}, leeway: 0s"));
    let token = signer.token("k", &claims_with(&json!({ "exp": now() + 2 })));
    assert_eq!(send(&gateway, &token).status, 200);
    eventually("it has expired", || send(&gateway, &token).status == 401);
    let answer = send(&gateway, &token);
    assert_eq!(answer.json()["detail"], gateway.get("/").json()["detail"], "one answer for all causes");
}

#[test]
fn a_token_that_is_too_large_is_refused() {
    let signer = Signer::new(HS256);
    let (gateway, _up) = taking(&signer, RULES);
    let padded = |length: usize| signer.token("k", &claims_with(&json!({ "pad": "x".repeat(length) })));
    assert_eq!(send(&gateway, &padded(11_000)).status, 200);
    assert_invalid(&gateway, &padded(13_000), "17 KiB");
}

#[test]
fn no_method_is_a_way_around_the_token() {
    let signer = Signer::new(EdDSA);
    let (gateway, up) = taking(&signer, RULES);
    no_way_around(&gateway, &up, &[], 401);
    let poor = format!("Bearer {}", signer.token("k", &claims_with(&json!({ "scope": "a" }))));
    no_way_around(&gateway, &up, &[("Authorization", &poor)], 403);
    let good = format!("Bearer {}", signer.good("k"));
    for method in ["HEAD", "OPTIONS"] {
        assert_eq!(gateway.send(method, "/", &[("Authorization", &good)]).status, 200);
        assert_eq!((up.last().method.as_str(), up.last().header("x-consumer-id")), (method, Some("web")));
    }
}

#[test]
fn a_key_and_a_token_have_to_belong_to_the_same_consumer() {
    let signer = Signer::new(HS256);
    let (gateway, up) = start(&format!("{{ api_key: {{}} }}, {{ jwt: {{ {RULES}, keys: [{}] }} }}", signer.entry("k")));
    let status = |key: &str, subject: &str| {
        let token = format!("Bearer {}", signer.token("k", &claims_with(&json!({ "sub": subject }))));
        gateway.send("GET", "/", &[("X-Api-Key", key), ("Authorization", &token)])
    };
    let conflict = status("key-1", "alice");
    assert_eq!((conflict.status, conflict.problem().as_str()), (401, "unauthenticated"));
    assert!(up.seen().is_empty());
    assert_eq!(status("key-3", "alice").status, 200);
    assert_eq!(up.last().header("x-consumer-id"), Some("web"));
    assert_eq!(status("key-1", "bob").status, 200);
    assert_eq!(
        (up.last().header("x-consumer-id"), up.last().header("x-consumer-subject")),
        (Some("mobile"), Some("bob"))
    );
    assert_eq!(status("wrong", "alice").status, 401);
}

#[test]
fn no_token_and_no_key_is_in_a_log_or_an_answer() {
    let signer = Signer::new(HS256);
    let up = Upstream::named("up");
    let log = "telemetry: { access_log: { headers: [authorization, x-shown] } }\n";
    let policies = format!("{{ jwt: {{ {RULES}, keys: [{}] }} }}", signer.entry("k"));
    let gateway = Gateway::start_with(&(log.to_owned() + &config(&up, &policies)), |_, command| {
        command.env("RUST_LOG", "debug");
    });
    let attacker = Signer::shared(HS256, &SECRET.to_uppercase());
    let poor = signer.token("k", &claims_with(&json!({ "scope": "a" })));
    let mut answers = String::new();
    for token in [signer.good("k"), attacker.good("k"), poor.clone()] {
        let bearer = format!("Bearer {token}");
        let answer =
            gateway.send("GET", &format!("/?access_token={token}"), &[("Authorization", &bearer), ("X-Shown", "1")]);
        answers += &format!("{answer:?}{}", answer.text());
    }
    eventually("the log is written", || gateway.log().matches("\"x-shown\"").count() == 3);
    let admin = ["/status", "/metrics"].map(|path| gateway.ask_admin(path).text());
    let signature = poor.rsplit('.').next().unwrap();
    for text in [gateway.log(), admin.concat(), answers] {
        for secret in [signature, "eyJ", SECRET, poor.as_str()] {
            assert!(!text.contains(secret), "{secret} in\n{text}");
        }
    }
}
