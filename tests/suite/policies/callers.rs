//! Who is calling, by whichever method, and what they may do: `any_of`, `anonymous`, `basic`, `groups`, `scopes`, `claims`.

use std::time::Instant;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jsonwebtoken::Algorithm::{ES256, EdDSA, HS256};
use serde_json::json;

use super::tokens::{Signer, claims_with};
use crate::{
    policies::{KEPT, no_way_around},
    support::{Gateway, Response, Upstream, eventually, request},
};

/// Of `correct horse`.
const BCRYPT: &str = "$2y$04$1ncX9S9rnrgn/qrjf6EJGeaPJLhsc.Yj21VxCgJcL3hFJSJx9nK1.";
const ARGON2: &str = "$argon2id$v=19$m=1024,t=2,p=1$rfO1w2wwnT0$A2GhRNioeE84cTrcHQ/9Yg";

/// What `mobile` signs with.
pub(super) const SIGNING: &str = "a secret that only two know";

/// `printf %s hashed-key | sha256sum`
const HASHED: &str = "a4ae87b73fa5645e6aee415a6f72be4dcbd99d057a7b40cb1b867c181d179260";

/// A file with these policies on its route, and consumers of every kind.
pub(super) fn config(up: &Upstream, policies: &str) -> String {
    format!(
        r#"
telemetry: {{ access_log: {{}} }}
upstreams: {{ up: {{ endpoints: ["{}"] }} }}
consumers:
  mobile: {{ groups: [gold, beta], signing_keys: [{{ id: s-1, secret: {SIGNING} }}], api_keys: [key-12345, "sha256:{}"] }}
  alice: {{ groups: [gold], metadata: {{ plan: gold, seats: 20 }}, logins: [{{ password: "{BCRYPT}" }}], tokens: [{{ issuer: "https://idp", subject: alice }}] }}
  bob: {{ logins: [{{ username: robert, password: "{ARGON2}" }}, {{ username: plain, password: "a plain password" }}] }}
  guest: {{ groups: [guests] }}
routes: [{{ name: r, policies: [{policies}], upstream: up }}]
"#,
        up.address(),
        HASHED
    )
}

pub(super) fn start(policies: &str) -> (Gateway, Upstream) {
    let up = Upstream::named("up");
    (Gateway::start(&config(&up, policies)), up)
}

/// The value of `Authorization`.
pub(super) fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

pub(super) fn send(gateway: &Gateway, headers: &[(&str, &str)]) -> Response {
    gateway.send("GET", "/", headers)
}

#[test]
fn a_key_may_be_given_by_its_digest() {
    let (gateway, up) = start("{ api_key: {} }");
    assert_eq!(send(&gateway, &[("X-Api-Key", "hashed-key")]).status, 200);
    assert_eq!(up.only().header("x-consumer-id"), Some("mobile"));
    let digest = "sha256:a4ae87b73fa5645e6aee415a6f72be4dcbd99d057a7b40cb1b867c181d179260";
    for wrong in [digest, digest.strip_prefix("sha256:").unwrap()] {
        assert_eq!(send(&gateway, &[("X-Api-Key", wrong)]).status, 401, "{wrong}");
    }
}

#[test]
fn a_name_and_a_password_are_checked_whatever_the_hash() {
    let (gateway, up) = start("{ basic: { realm: wiki } }");
    for (username, password, consumer) in
        [("alice", "correct horse", "alice"), ("robert", "correct horse", "bob"), ("plain", "a plain password", "bob")]
    {
        for _ in 0..2 {
            let answer = send(&gateway, &[("Authorization", &basic(username, password))]);
            assert_eq!(answer.status, 200, "{username}");
        }
        assert_eq!(up.last().header("x-consumer-id"), Some(consumer));
        assert!(!up.last().head.to_lowercase().contains("authorization"), "{}", up.last().head);
    }
}

/// D17
#[test]
fn d17_what_is_no_name_and_password_is_refused_with_one_answer() {
    let (gateway, up) = start(&format!("{{ basic: {{ realm: wiki }} }}{KEPT}"));
    assert_eq!(send(&gateway, &[("Authorization", &basic("alice", "correct horse"))]).status, 200);
    let long = "x".repeat(10_000);
    let encoded = |bytes: &[u8]| format!("Basic {}", STANDARD.encode(bytes));
    let mut bodies = std::collections::HashSet::new();
    for value in [
        basic("alice", "wrong"),
        basic("nobody", "correct horse"),
        basic("alice", ""),
        basic("", "correct horse"),
        basic("bob", "correct horse"),
        basic("alice", BCRYPT),
        basic("plain", &long),
        encoded(b"alice"),
        encoded(b"alice:\xff\xfe"),
        encoded(b"\xff:x"),
        "Basic !!!".into(),
        "Basic ".into(),
        "Basic".into(),
        format!("Basic {long}"),
        "Bearer alice".into(),
    ] {
        let answer = send(&gateway, &[("Authorization", &value)]);
        let challenge = "Basic realm=\"wiki\", charset=\"UTF-8\"";
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some(challenge)), "{value:.60}");
        let mut body = answer.json();
        body.as_object_mut().unwrap().remove("request_id");
        bodies.insert(body.to_string());
    }
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    no_way_around(&gateway, &up, &[("Authorization", &basic("alice", "wrong"))], 401);
    let wanted = ["the name or the password is wrong", "the credentials are malformed", "the request has no password"];
    eventually("the causes are in the log", || wanted.iter().all(|cause| gateway.log().contains(cause)));
    assert!(!gateway.log().contains("correct horse"));
}

#[test]
fn d17_wrong_passwords_without_end_keep_nobody_out_who_was_let_in() {
    // A hash that takes a second or so, and many who guess.
    let slow = "$argon2id$v=19$m=16384,t=4,p=1$c29tZXNhbHQ$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE";
    let up = Upstream::named("up");
    let text = config(&up, &format!("{{ basic: {{}} }}{KEPT}")).replace(
        "logins: [{ username: robert",
        &format!("logins: [{{ username: slow, password: \"{slow}\" }}, {{ username: robert"),
    );
    let gateway = Gateway::start(&text);
    let right = basic("alice", "correct horse");
    assert_eq!(send(&gateway, &[("Authorization", &right)]).status, 200);
    let mut guessing: Vec<_> = (0..300).map(|_| gateway.client()).collect();
    for (i, client) in guessing.iter_mut().enumerate() {
        let guess = basic("slow", &format!("guess {i}"));
        client.write(request("GET", "/", &[("Authorization", &guess)]).as_bytes());
    }
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(send(&gateway, &[("Authorization", &right)]).status, 200);
    }
    assert!(began.elapsed().as_secs() < 4, "{:?}", began.elapsed());
    // More than may wait: somebody was told so at once.
    let refused = || gateway.metric("torana_rejects_total{reject=\"overloaded\",route=\"r\"}");
    eventually("some are refused", || refused() >= 1.0);
}

#[test]
fn names_of_a_file_are_callers_of_their_own_or_consumers() {
    let up = Upstream::named("up");
    let text = config(&up, "{ basic: { files: [htpasswd] } }");
    let gateway = Gateway::start_with(&text, |folder, _| {
        std::fs::write(folder.join("htpasswd"), format!("carol:{BCRYPT}\nmobile:{BCRYPT}\n")).unwrap();
    });
    for (name, groups) in [("carol", None), ("mobile", Some("gold,beta"))] {
        assert_eq!(send(&gateway, &[("Authorization", &basic(name, "correct horse"))]).status, 200, "{name}");
        assert_eq!((up.last().header("x-consumer-id"), up.last().header("x-consumer-groups")), (Some(name), groups));
    }
}

/// Three methods, for tokens of two issuers.
fn any_of(first: &Signer, second: &Signer) -> String {
    format!(
        "{{ any_of: [{{ jwt: {{ issuer: \"https://idp\", audience: orders, keys: [{}] }} }}, \
         {{ jwt: {{ issuer: \"https://partner\", audience: orders, keys: [{}] }} }}, {{ api_key: {{}} }}, {{ basic: {{}} }}] }}",
        first.entry("k"),
        second.entry("k")
    )
}

#[test]
fn one_of_several_methods_is_enough() {
    let (one, other) = (Signer::new(HS256), Signer::new(ES256));
    let (gateway, up) = start(&any_of(&one, &other));
    let partner = other.token("k", &claims_with(&json!({ "iss": "https://partner" })));
    for (header, value, consumer, subject) in [
        ("Authorization", format!("Bearer {}", one.good("k")), Some("alice"), Some("alice")),
        ("Authorization", format!("Bearer {partner}"), None, Some("alice")),
        ("X-Api-Key", "key-12345".into(), Some("mobile"), None),
        ("Authorization", basic("robert", "correct horse"), Some("bob"), None),
    ] {
        assert_eq!(send(&gateway, &[(header, &value)]).status, 200, "{value}");
        let seen = up.last();
        assert_eq!((seen.header("x-consumer-id"), seen.header("x-consumer-subject")), (consumer, subject), "{value}");
        assert_eq!((seen.header("authorization"), seen.header("x-api-key")), (None, None));
    }
}

#[test]
fn a_credential_that_is_not_valid_is_refused_whatever_else_there_is() {
    let (one, other) = (Signer::new(HS256), Signer::new(ES256));
    let (gateway, up) = start(&any_of(&one, &other));
    let good = format!("Bearer {}", one.good("k"));
    let nobody = format!("Bearer {}", one.token("k", &claims_with(&json!({ "iss": "https://stranger" }))));
    let forged =
        format!("Bearer {}", Signer::new(ES256).token("k", &claims_with(&json!({ "iss": "https://partner" }))));
    for headers in [
        &[][..],
        &[("Authorization", nobody.as_str())],
        &[("Authorization", &forged)],
        &[("Authorization", "Bearer opaque")],
        &[("X-Api-Key", "wrong")],
        &[("Authorization", &good), ("X-Api-Key", "wrong")],
        &[("Authorization", &nobody), ("X-Api-Key", "key-12345")],
        // alice and mobile
        &[("Authorization", &good), ("X-Api-Key", "key-12345")],
    ] {
        let answer = send(&gateway, headers);
        assert_eq!((answer.status, answer.problem().as_str()), (401, "unauthenticated"), "{headers:?}");
        assert!(answer.header("www-authenticate").is_some(), "{headers:?}");
    }
    assert!(up.seen().is_empty());
    no_way_around(&gateway, &up, &[], 401);
    let challenge = send(&gateway, &[]).header("www-authenticate").unwrap().to_owned();
    assert_eq!(
        challenge,
        "Bearer realm=\"torana\", ApiKey header=\"x-api-key\", Basic realm=\"torana\", charset=\"UTF-8\""
    );
}

#[test]
fn who_shows_nothing_is_the_anonymous_consumer_and_nobody_else_is() {
    let signer = Signer::new(HS256);
    let (gateway, up) = start(&format!(
        "{{ any_of: [{{ jwt: {{ issuer: \"https://idp\", audience: orders, keys: [{}] }} }}, {{ api_key: {{}} }}, {{ anonymous: guest }}] }}, \
         {{ groups: {{ any: [guests, gold] }} }}",
        signer.entry("k")
    ));
    assert_eq!(send(&gateway, &[]).status, 200);
    assert_eq!(up.last().header("x-consumer-id"), Some("guest"));
    assert_eq!(send(&gateway, &[("X-Consumer-Id", "root"), ("X-Consumer-Groups", "gold")]).status, 200);
    assert_eq!(
        (up.last().header("x-consumer-id"), up.last().header("x-consumer-groups")),
        (Some("guest"), Some("guests"))
    );
    assert_eq!(send(&gateway, &[("X-Api-Key", "key-12345")]).status, 200);
    assert_eq!(up.last().header("x-consumer-id"), Some("mobile"));
    for wrong in [("X-Api-Key", "wrong"), ("Authorization", "Bearer opaque")] {
        assert_eq!(send(&gateway, &[wrong]).status, 401, "{wrong:?}");
    }
}

#[test]
fn groups_scopes_and_claims_all_have_to_fit() {
    let signer = Signer::new(HS256);
    let policies = format!(
        "{{ jwt: {{ issuer: \"https://idp\", audience: orders, keys: [{}] }} }}, {{ groups: {{ any: [gold], none: [suspended] }} }}, \
         {{ scopes: {{ any: [orders.read, orders.write] }} }}, {{ claims: [{{ claim: realm.roles, contains: editor }}, {{ claim: amr, any_of: [mfa] }}] }}",
        signer.entry("k")
    );
    let (gateway, up) = start(&policies);
    let good = json!({ "realm": { "roles": ["viewer", "editor"] }, "amr": ["pwd", "mfa"] });
    let with = |name: &str, value: serde_json::Value| {
        let mut claims = good.clone();
        claims[name] = value;
        let token = signer.token("k", &claims_with(&claims));
        let answer = send(&gateway, &[("Authorization", &format!("Bearer {token}"))]);
        (
            answer.status,
            answer.status.eq(&403).then(|| answer.problem()),
            answer.header("www-authenticate").map(str::to_owned),
        )
    };
    assert_eq!(with("x", json!(1)), (200, None, None));
    let scope = "Bearer realm=\"torana\", error=\"insufficient_scope\", scope=\"orders.read orders.write\"";
    assert_eq!(with("scope", json!("a")), (403, Some("insufficient_scope".into()), Some(scope.into())));
    for (name, value) in [
        ("sub", json!("bob")),
        ("amr", json!(["pwd"])),
        ("amr", json!(null)),
        ("realm", json!({ "roles": "editor" })),
        ("realm", json!([])),
    ] {
        assert_eq!(with(name, value.clone()), (403, Some("forbidden".into()), None), "{name} {value}");
    }
    assert_eq!(send(&gateway, &[]).status, 401);
    assert_eq!(up.seen().len(), 1);
    let reason = "the caller is in no group of `any`";
    assert!(gateway.access_lines(8).iter().any(|line| line["reason"] == reason));
}

#[test]
fn a_token_is_taken_from_where_the_file_says_and_from_one_place_only() {
    let signer = Signer::new(HS256);
    let (gateway, up) = start(&format!(
        "{{ jwt: {{ issuer: \"https://idp\", audience: orders, query: access_token, cookie: session, keys: [{}] }} }}",
        signer.entry("k")
    ));
    let token = signer.good("k");
    let (bearer, cookie, target) =
        (format!("Bearer {token}"), format!("a=1; session={token}"), format!("/?x=1&access_token={token}"));
    assert_eq!(gateway.send("GET", "/", &[("Authorization", &bearer)]).status, 200);
    assert_eq!(gateway.send("GET", "/", &[("Cookie", &cookie)]).status, 200);
    assert_eq!(up.last().header("cookie"), Some("a=1"));
    assert_eq!(gateway.send("GET", &target, &[]).status, 200);
    assert_eq!(up.last().target, "/?x=1");
    for (target, headers) in [
        (target.as_str(), &[("Authorization", bearer.as_str())][..]),
        ("/", &[("Authorization", &bearer), ("Cookie", &cookie)]),
        (&target, &[("Cookie", &cookie)]),
    ] {
        assert_eq!(gateway.send("GET", target, headers).status, 401, "{target} {headers:?}");
    }
    assert!(!gateway.log().contains(&token));
    let (gateway, _up) = start(&format!(
        "{{ jwt: {{ issuer: \"https://idp\", audience: orders, header: x-token, keys: [{}] }} }}",
        signer.entry("k")
    ));
    assert_eq!(gateway.send("GET", "/", &[("X-Token", &token)]).status, 200);
    assert_eq!(gateway.send("GET", "/", &[("X-Token", &bearer)]).status, 200);
    assert_eq!(gateway.send("GET", "/", &[("Authorization", &bearer)]).status, 401);
}

#[test]
fn expressions_decide_and_deny_wins() {
    let signer = Signer::new(HS256);
    let jwt = format!("{{ jwt: {{ issuer: \"https://idp\", audience: orders, keys: [{}] }} }}", signer.entry("k"));
    let authorize = r#"{ authorize: {
        deny: ["request.path.startsWith('/secret')", "request.query.debug == '1'", "claims.age < 18"],
        allow: ["request.method == 'GET' && 'reader' in claims.roles", "'gold' in consumer.groups && request.headers['x-team'] == 'a'"] } }"#;
    let (gateway, up) = start(&format!("{jwt}, {authorize}"));
    let ask = |method: &str, target: &str, claims: serde_json::Value, team: &str| {
        let bearer = format!("Bearer {}", signer.token("k", &claims_with(&claims)));
        let answer = gateway.send(method, target, &[("Authorization", &bearer), ("X-Team", team)]);
        if answer.status == 403 && method != "HEAD" {
            assert_eq!(answer.problem(), "forbidden");
        }
        answer.status
    };
    let reader = || json!({ "sub": "bob", "roles": ["reader"], "age": 20 });
    assert_eq!(ask("GET", "/?debug=0", reader(), ""), 200);
    assert_eq!(ask("GET", "/secret/x?debug=0", reader(), ""), 403);
    assert_eq!(ask("GET", "/x/..//secret?debug=0", reader(), ""), 403);
    assert_eq!(ask("GET", "/x/../secret?debug=0", reader(), ""), 403);
    assert_eq!(ask("GET", "/?debug=1", reader(), ""), 403);
    assert_eq!(ask("GET", "/", reader(), ""), 403, "what cannot be told denies");
    assert_eq!(ask("GET", "/?debug=0&debug=0", reader(), ""), 403);
    assert_eq!(ask("POST", "/?debug=0", reader(), ""), 403);
    assert_eq!(ask("HEAD", "/?debug=0", reader(), ""), 403);
    for (claims, status) in [
        (json!({ "sub": "bob", "roles": ["reader"], "age": 17 }), 403),
        (json!({ "sub": "bob", "roles": ["reader"] }), 403),
        (json!({ "sub": "bob", "roles": ["reader"], "age": "20" }), 403),
        (json!({ "sub": "bob", "roles": "reader", "age": 20 }), 403),
        (json!({ "sub": "bob", "age": 20 }), 403),
    ] {
        assert_eq!(ask("GET", "/?debug=0", claims.clone(), ""), status, "{claims}");
    }
    let alice = || json!({ "age": 20 });
    assert_eq!(ask("POST", "/?debug=0", alice(), "a"), 200, "a consumer in `gold`");
    assert_eq!(ask("POST", "/?debug=0", alice(), "b"), 403);
    assert_eq!(up.seen().len(), 2);
}

#[test]
fn upstreams_see_the_claims_and_metadata_that_the_file_chooses() {
    let signer = Signer::new(HS256);
    let headers = r#"{ request_headers: { set: { x-tenant: "{claim.org.tenant}", x-roles: "{claim.roles}", x-age: "{claim.age}", x-plan: "{metadata.plan}/{metadata.seats}",
        x-org: "{claim.org}", x-evil: "{claim.evil}", x-none: "{claim.missing}" } } }"#;
    let (gateway, up) = start(&format!(
        "{{ jwt: {{ issuer: \"https://idp\", audience: orders, keys: [{}] }} }}, {headers}",
        signer.entry("k")
    ));
    let claims = json!({ "org": { "tenant": "t1" }, "roles": ["a", "b"], "age": 20, "evil": "x\r\nX-Admin: 1" });
    let bearer = format!("Bearer {}", signer.token("k", &claims_with(&claims)));
    assert_eq!(send(&gateway, &[("Authorization", &bearer), ("X-None", "mine"), ("X-Evil", "mine")]).status, 200);
    let seen = up.only();
    let said = ["x-tenant", "x-roles", "x-age", "x-plan", "x-org", "x-evil", "x-none", "x-admin"]
        .map(|name| seen.header(name));
    assert_eq!(said, [Some("t1"), Some("a,b"), Some("20"), Some("gold/20"), None, None, None, None]);
}

#[test]
fn the_upstream_can_check_who_the_gateway_says_is_calling() {
    use jsonwebtoken::{DecodingKey, Validation, decode, jwk::JwkSet};
    let signer = Signer::new(HS256);
    for (algorithm, kind) in [(ES256, &rcgen::PKCS_ECDSA_P256_SHA256), (EdDSA, &rcgen::PKCS_ED25519)] {
        let key = serde_json::to_string(&rcgen::KeyPair::generate_for(kind).unwrap().serialize_pem()).unwrap();
        let up = Upstream::named("up");
        let policies = format!(
            "{{ any_of: [{{ jwt: {{ issuer: \"https://idp\", audience: orders, keys: [{}] }} }}, {{ api_key: {{}} }}, {{ anonymous: guest }}] }}, \
             {{ identity_token: {{ issuer: \"https://gw\", audience: internal, algorithm: {algorithm:?}, key: {key}, claims: [email] }} }}",
            signer.entry("k")
        );
        let keys =
            "  - { name: keys, match: { path: /keys }, public: true, policies: [{ identity_keys: {} }], upstream: up }";
        let text = config(&up, &policies).replace("routes: [{ name: r,", &format!("routes:\n{keys}\n  - {{ name: r,"));
        let gateway = Gateway::start(&text.replace("upstream: up }]", "upstream: up }"));
        let set: JwkSet = serde_json::from_str(&gateway.get("/keys").text()).unwrap();
        let mut rules = Validation::new(algorithm);
        rules.set_audience(&["internal"]);
        rules.set_issuer(&["https://gw"]);
        let read = |token: &str| {
            let id = jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
            let key = DecodingKey::from_jwk(set.find(&id).unwrap()).unwrap();
            decode::<serde_json::Value>(token, &key, &rules).unwrap().claims
        };
        let bearer = format!("Bearer {}", signer.token("k", &claims_with(&json!({ "email": "alice@example.com" }))));
        let mut seen = Vec::new();
        for headers in [
            &[("Authorization", bearer.as_str()), ("X-Consumer-Token", "mine")][..],
            &[("X-Api-Key", "key-12345")],
            &[("x_consumer_token", "mine")],
        ] {
            for _ in 0..2 {
                assert_eq!(send(&gateway, headers).status, 200);
                assert_eq!(up.last().header("x_consumer_token"), None);
                seen.push(up.last().header("x-consumer-token").unwrap().to_owned());
            }
        }
        assert!(seen[0] == seen[1] && seen[2] == seen[3] && seen[0] != seen[2], "one signature for each caller");
        let alice = read(&seen[0]);
        assert_eq!(
            (&alice["sub"], &alice["consumer"], &alice["groups"]),
            (&json!("alice"), &json!("alice"), &json!(["gold"]))
        );
        assert_eq!(
            (&alice["idp"], &alice["scope"], &alice["email"]),
            (&json!("https://idp"), &json!("a orders.read"), &json!("alice@example.com"))
        );
        assert_eq!(read(&seen[2])["sub"], "mobile");
        assert_eq!(read(&seen[4])["sub"], "guest");
    }
}

#[test]
fn odd_forms_of_a_credential_are_not_nothing() {
    let (gateway, up) = start("{ any_of: [{ basic: {} }, { api_key: { cookie: k } }, { anonymous: guest }] }");
    assert_eq!(send(&gateway, &[]).status, 200);
    let before = up.seen().len();
    for (name, value) in [
        ("Authorization", "Basic\tYWxpY2U6d3Jvbmc="),
        ("Authorization", "Basic"),
        ("Authorization", "basic YWxpY2U6d3Jvbmc= \u{e9}"),
        ("Cookie", "k=wrong-key; x=\u{e9}"),
        ("Cookie", "k =wrong-key"),
        ("Cookie", "x=\u{e9};k=wrong-key"),
    ] {
        assert_eq!(send(&gateway, &[(name, value)]).status, 401, "{name}: {value}");
    }
    assert_eq!(up.seen().len(), before);
    // Cookies of others are none of the gateway's business.
    assert_eq!(send(&gateway, &[("Cookie", "lang=\u{e9}")]).status, 200);
}

#[test]
fn tokens_of_two_subjects_are_never_one_caller() {
    let (one, other) = (Signer::new(HS256), Signer::new(ES256));
    let (gateway, up) = start(&format!(
        "{{ jwt: {{ issuer: \"https://idp\", audience: orders, keys: [{}] }} }}, \
         {{ jwt: {{ issuer: \"https://partner\", audience: orders, header: x-token, keys: [{}] }} }}, {{ scopes: {{ all: [admin] }} }}",
        one.entry("k"),
        other.entry("k")
    ));
    let alice = format!("Bearer {}", one.good("k"));
    let mallory =
        other.token("k", &claims_with(&json!({ "iss": "https://partner", "sub": "mallory", "scope": "admin" })));
    assert_eq!(send(&gateway, &[("Authorization", &alice), ("X-Token", &mallory)]).status, 401);
    assert!(up.seen().is_empty());
}

#[test]
fn whoever_is_found_takes_the_place_of_the_anonymous_one() {
    let signer = Signer::new(HS256);
    let up = Upstream::named("up");
    let text = config(
        &up,
        &format!("{{ jwt: {{ issuer: \"https://idp\", audience: orders, keys: [{}] }} }}", signer.entry("k")),
    );
    let gateway =
        Gateway::start(&format!("policies: [{{ any_of: [{{ api_key: {{}} }}, {{ anonymous: guest }}] }}]\n{text}"));
    for (subject, consumer, groups) in [("alice", Some("alice"), Some("gold")), ("carol", None, None)] {
        let bearer = format!("Bearer {}", signer.token("k", &claims_with(&json!({ "sub": subject }))));
        assert_eq!(send(&gateway, &[("Authorization", &bearer)]).status, 200, "{subject}");
        assert_eq!((up.last().header("x-consumer-id"), up.last().header("x-consumer-groups")), (consumer, groups));
    }
}

#[test]
fn a_token_that_is_foreign_to_one_method_is_taken_by_the_next_wherever_else_the_first_one_looks() {
    let (one, other) = (Signer::new(HS256), Signer::new(ES256));
    let (gateway, _up) = start(&format!(
        "{{ any_of: [{{ jwt: {{ issuer: \"https://idp\", audience: orders, cookie: tok, keys: [{}] }} }}, \
         {{ jwt: {{ issuer: \"https://partner\", audience: orders, keys: [{}] }} }}, {{ basic: {{}} }}] }}",
        one.entry("k"),
        other.entry("k")
    ));
    let partner = other.token("k", &claims_with(&json!({ "iss": "https://partner" })));
    assert_eq!(send(&gateway, &[("Authorization", &format!("Bearer {partner}"))]).status, 200);
    let (login, cookie) = (basic("alice", "correct horse"), format!("tok={partner}"));
    assert_eq!(
        send(&gateway, &[("Authorization", &login), ("Cookie", &cookie)]).status,
        401,
        "a token that nobody takes"
    );
}
