//! What limits count by, how much a request counts for, and whether it waits for its turn.

use std::time::{Duration, Instant};

use jsonwebtoken::Algorithm::HS256;
use serde_json::json;

use super::tokens::{Signer, claims_with};
use crate::{
    policies::{config, start},
    support::{Gateway, Reply, Upstream},
};

fn with_key(gateway: &Gateway, key: &str) -> u16 {
    gateway.send("GET", "/", &[("X-Api-Key", key)]).status
}

#[test]
fn members_of_a_group_share_a_count_and_who_is_in_none_has_no_key() {
    for (key, in_beta) in [("group", 200), ("{ groups: [silver, beta, gold] }", 200)] {
        let (gateway, _up) = start(&format!("{{ api_key: {{}} }}, {{ rate_limit: {{ key: {key}, limits: [1/h] }} }}"));
        assert_eq!(with_key(&gateway, "key-1"), in_beta);
        assert_eq!(with_key(&gateway, "key-2"), 429, "another key of a member");
        assert_eq!(with_key(&gateway, "key-3"), 400, "a member of no group");
    }
}

#[test]
fn claims_of_a_token_are_counted_apart_by_value_and_type() {
    let signer = Signer::new(HS256);
    let jwt =
        format!("{{ jwt: {{ issuer: \"https://idp\", audience: [api, orders], keys: [{}] }} }}", signer.entry("k"));
    let (gateway, _up) = start(&format!("{jwt}, {{ rate_limit: {{ key: {{ claim: org.id }}, limits: [1/h] }} }}"));
    let ask = |claims: &serde_json::Value| {
        let token = signer.token("k", &claims_with(claims));
        gateway.send("GET", "/", &[("Authorization", &format!("Bearer {token}"))]).status
    };
    for (org, wanted) in [
        (json!({ "id": "a" }), 200),
        (json!({ "id": "a" }), 429),
        (json!({ "id": "b" }), 200),
        (json!({ "id": 7 }), 200),
        (json!({ "id": "7" }), 200),
        (json!({ "id": 7 }), 429),
        (json!({ "id": "" }), 400),
        (json!({ "id": null }), 400),
        (json!({}), 400),
    ] {
        assert_eq!(ask(&json!({ "org": org })), wanted, "{org}");
    }
}

#[test]
fn a_parameter_of_the_path_and_a_constant_count_as_the_file_says() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
routes:
  - {{ name: users, match: {{ path: \"/users/{{id}}/orders\" }}, policies: [{{ rate_limit: {{ key: {{ path_parameter: id }}, limits: [1/h] }} }}], upstream: up }}
  - {{ name: all, match: {{ path: \"/all/{{rest...}}\" }}, policies: [{{ rate_limit: {{ key: {{ constant: everybody }}, limits: [1/h] }} }}], upstream: up }}\n",
        up.address()
    ));
    let all = ["/users/a/orders", "/users/b/orders", "/users/a/orders?x", "/all/a", "/all/b"];
    assert_eq!(all.map(|path| gateway.get(path).status), [200, 200, 429, 200, 429]);
}

#[test]
fn a_request_costs_what_the_file_or_its_header_says() {
    let (fixed, _up) = start("{ rate_limit: { key: client_ip, limits: [10/h], cost: 4 } }");
    assert_eq!([(); 3].map(|()| fixed.get("/").status), [200, 200, 429]);
    let (by_header, _up) = start("{ rate_limit: { key: client_ip, limits: [10/h], cost: { header: x-cost } } }");
    let ask = |cost: &str| by_header.send("GET", "/", &[("X-Cost", cost)]).status;
    assert_eq!(
        [ask("8"), ask("3"), ask("x"), ask("-1"), ask(""), by_header.get("/").status],
        [200, 429, 400, 400, 400, 200]
    );
    assert_eq!([ask("1"), ask("1"), ask("0")], [200, 429, 200]);
}

#[test]
fn what_an_answer_says_a_request_cost_is_taken_afterwards_and_the_client_does_not_see_it() {
    let up = Upstream::start(|request| Reply::ok("up").header("X-Cost", request.target.trim_start_matches('/')));
    let gateway = Gateway::start(&config(
        &up,
        "{ rate_limit: { key: client_ip, limits: [10/h], cost: { response_header: x-cost } } }",
    ));
    let answer = gateway.get("/4");
    assert_eq!((answer.status, answer.header("x-cost")), (200, None));
    assert_eq!(gateway.get("/nothing").status, 200);
    // It has room for one, and takes what nobody knew before.
    assert_eq!(gateway.get("/50").status, 200);
    let refused = gateway.get("/1");
    assert_eq!(refused.status, 429);
    assert_eq!(up.seen().len(), 3);
}

#[test]
fn who_is_early_waits_for_his_turn_and_is_refused_when_that_takes_too_long() {
    let (gateway, up) = start("{ rate_limit: { key: client_ip, limits: [5/s], burst: 1, delay: 500ms } }");
    let began = Instant::now();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..6).map(|_| scope.spawn(|| gateway.get("/").status)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let passed = statuses.iter().filter(|status| **status == 200).count();
    let took = began.elapsed();
    // At once, after 200 ms, after 400 ms; the next turn is 600 ms away. A slow machine may see one more turn.
    assert!((3..=4).contains(&passed) && statuses.iter().filter(|status| **status == 429).count() == 6 - passed);
    assert!(took >= Duration::from_millis(390), "{took:?}");
    assert_eq!(up.seen().len(), passed);
}

#[test]
fn who_comes_from_kong_gets_its_headers() {
    let (gateway, _up) = start("{ rate_limit: { key: client_ip, limits: [5/m, 100/h], headers: kong } }");
    let answer = gateway.get("/");
    for (name, value) in [
        ("x-ratelimit-limit-minute", Some("5")),
        ("x-ratelimit-remaining-minute", Some("4")),
        ("x-ratelimit-limit-hour", Some("100")),
        ("x-ratelimit-remaining-hour", Some("99")),
        ("ratelimit-limit", Some("5")),
        ("ratelimit-remaining", Some("4")),
        ("ratelimit-reset", Some("12")),
        ("ratelimit", None),
        ("ratelimit-policy", None),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    let (gateway, _up) = start("{ rate_limit: { key: client_ip, limits: [1/m], headers: none } }");
    assert_eq!(gateway.get("/").header("ratelimit"), None);
    let refused = gateway.get("/");
    assert_eq!((refused.status, refused.header("retry-after"), refused.header("ratelimit")), (429, Some("60"), None));
}
