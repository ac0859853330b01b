//! `rate_limit`: exactly so many requests, for whoever they are counted.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crate::{
    policies::{config, send_from, start},
    support::{Client, Gateway, Response, Upstream, eventually, request},
};

fn statuses(answers: impl IntoIterator<Item = Response>) -> Vec<u16> {
    answers.into_iter().map(|answer| answer.status).collect()
}

/// The value of a parameter in `RateLimit`: `r` or `t` of the limit with this name.
#[track_caller]
fn state(answer: &Response, limit: &str, parameter: &str) -> u64 {
    let value = answer.header("ratelimit").unwrap_or_else(|| panic!("{answer:?}"));
    let mut items = value.split(", ").filter_map(|item| item.strip_prefix(&format!("\"{limit}\";")));
    let mut parts = items.next().unwrap_or_else(|| panic!("{limit}: {value}")).split(';');
    parts.find_map(|part| part.strip_prefix(parameter)?.strip_prefix('=')).unwrap().parse().unwrap()
}

/// Sends `threads` times `each` requests at once; returns how many passed and how many were refused with 429.
fn storm(gateway: &Gateway, threads: usize, each: usize) -> (usize, usize) {
    let (passed, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut client = gateway.client();
                for _ in 0..each {
                    match client.get("/").status {
                        200 => passed.fetch_add(1, Ordering::Relaxed),
                        429 => refused.fetch_add(1, Ordering::Relaxed),
                        other => panic!("{other}"),
                    };
                }
            });
        }
    });
    (passed.into_inner(), refused.into_inner())
}

#[test]
fn of_a_thousand_requests_at_once_exactly_a_hundred_pass() {
    let (gateway, up) = start("{ rate_limit: { key: client_ip, limits: [100/d] } }");
    assert_eq!(storm(&gateway, 50, 20), (100, 900));
    assert_eq!(up.seen().len(), 100);
    eventually("all are counted", || {
        gateway.metric("torana_rejects_total{reject=\"rate_limited\",route=\"r\"}") == 900.0
    });
}

#[test]
fn an_approximate_limit_never_lets_more_through() {
    let (gateway, up) = start("{ rate_limit: { key: client_ip, limits: [100/d], accuracy: approximate } }");
    let (passed, refused) = storm(&gateway, 20, 20);
    assert_eq!(passed + refused, 400);
    assert!(passed <= 100 && passed > 50, "{passed}");
    assert_eq!(up.seen().len(), passed);
}

#[test]
fn a_refusal_says_when_to_come_again_and_every_answer_what_is_left() {
    let (gateway, up) = start("{ rate_limit: { key: client_ip, limits: [3/h] } }");
    for left in [2, 1, 0] {
        let answer = gateway.get("/");
        assert_eq!((answer.status, state(&answer, "3/h", "r")), (200, left));
        assert_eq!(answer.header("ratelimit-policy"), Some("\"3/h\";q=3;w=3600"));
        assert_eq!(answer.header("retry-after"), None);
        let reset = state(&answer, "3/h", "t");
        let used = 3 - left;
        assert!(reset <= 1200 * used && reset > 1200 * used - 60, "{reset}");
    }
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.problem().as_str()), (429, "rate_limited"));
    assert_eq!(state(&answer, "3/h", "r"), 0);
    let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1140..=1200).contains(&after), "{after}");
    assert_eq!(up.seen().len(), 3);
}

#[test]
fn who_waits_as_long_as_told_gets_through() {
    let (gateway, _up) = start("{ rate_limit: { key: client_ip, limits: [1/s] } }");
    // The second one, unless this machine needs a second for it.
    let refused = (0..20).map(|_| gateway.get("/")).find(|answer| answer.status == 429).unwrap();
    assert_eq!(refused.header("retry-after"), Some("1"));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn of_several_limits_either_all_are_taken_or_none() {
    let (gateway, _up) = start("{ rate_limit: { key: client_ip, limits: [10/d, 3/h] } }");
    for _ in 0..3 {
        assert_eq!(gateway.get("/").status, 200);
    }
    for _ in 0..20 {
        let answer = gateway.get("/");
        assert_eq!(answer.status, 429);
        assert_eq!((state(&answer, "10/d", "r"), state(&answer, "3/h", "r")), (7, 0));
        let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1140..=1200).contains(&after), "that of the limit which refused: {after}");
        assert_eq!(answer.header("ratelimit-policy"), Some("\"10/d\";q=10;w=86400, \"3/h\";q=3;w=3600"));
    }
}

#[test]
fn every_limit_of_a_chain_is_in_the_headers_once() {
    let (gateway, _up) = start(
        "{ api_key: {} }, { rate_limit: { key: consumer, limits: [5/h] } }, { rate_limit: { key: client_ip, limits: [9/d] } }",
    );
    let answer = gateway.send("GET", "/", &[("X-Api-Key", "key-1")]);
    assert_eq!((state(&answer, "9/d", "r"), state(&answer, "5/h", "r")), (8, 4));
    assert_eq!(answer.header("ratelimit-policy"), Some("\"9/d\";q=9;w=86400, \"5/h\";q=5;w=3600"));
}

#[test]
fn consumers_are_counted_apart_and_all_their_keys_together() {
    let (gateway, _up) = start("{ api_key: {} }, { rate_limit: { key: consumer, limits: [2/h] } }");
    let ask = |key: &str| gateway.send("GET", "/", &[("X-Api-Key", key)]).status;
    assert_eq!((ask("key-1"), ask("key-2"), ask("key-1"), ask("key-2")), (200, 200, 429, 429));
    assert_eq!((ask("key-3"), ask("wrong"), ask("key-3"), ask("key-3")), (200, 401, 200, 429));
}

#[test]
fn addresses_are_counted_apart_whatever_they_claim() {
    let (gateway, _up) = start("{ rate_limit: { key: client_ip, limits: [2/h] } }");
    let claims = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
    let from = |ip: &str| statuses(claims.map(|claim| send_from(ip, &gateway, &[("X-Forwarded-For", claim)])));
    assert_eq!(from("127.0.0.1"), [200, 200, 429, 429]);
    assert_eq!(from("127.0.0.2"), [200, 200, 429, 429]);
    let mut same = Client::connect_from("127.0.0.2".parse().unwrap(), gateway.address());
    assert_eq!(same.get("/").status, 429);
}

#[test]
fn values_of_a_header_are_counted_apart() {
    let (gateway, _up) = start("{ rate_limit: { key: { header: x-tenant }, limits: [1/h] } }");
    let ask = |tenant: &str| gateway.send("GET", "/", &[("X-Tenant", tenant)]).status;
    assert_eq!((ask("a"), ask("b"), ask("a"), ask("b"), ask("A")), (200, 200, 429, 429, 200));
    let two = |first, second| gateway.send("GET", "/", &[("X-Tenant", first), ("x-tenant", second)]).status;
    assert_eq!((two("c", "d"), two("c", "d"), ask("c")), (200, 429, 200));
}

#[test]
fn routes_are_counted_together_or_apart_as_the_key_says() {
    let up = Upstream::named("up");
    let with_key = |key: &str| {
        format!(
            "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\npolicies: [{{ rate_limit: {{ key: {key}, limits: [2/h] }} }}]\nroutes:\n  - {{ name: a, match: {{ path: /a }}, upstream: up }}\n  - {{ name: b, match: {{ path: /b }}, upstream: up }}\n",
            up.address()
        )
    };
    for (key, wanted) in [
        ("client_ip", [200, 200, 429, 429]),
        ("[route, client_ip]", [200, 200, 200, 200]),
        ("route", [200, 200, 200, 200]),
    ] {
        let gateway = Gateway::start(&with_key(key));
        assert_eq!(statuses(["/a", "/b", "/a", "/b"].map(|path| gateway.get(path))), wanted, "{key}");
        assert_eq!(gateway.get("/a").status, 429);
        let other = send_from("127.0.0.2", &gateway, &[]).status;
        assert_eq!(other, 404, "what no route takes is not counted");
    }
}

#[test]
fn a_request_without_what_is_counted_by_is_refused_or_not_as_the_file_says() {
    for (rule, wanted) in [
        ("", [400, 400, 400]),
        (", missing_key: reject", [400, 400, 400]),
        (", missing_key: client_ip", [200, 200, 429]),
        (", missing_key: skip", [200, 200, 200]),
    ] {
        let (gateway, _up) = start(&format!("{{ rate_limit: {{ key: {{ header: x-t }}, limits: [2/h]{rule} }} }}"));
        assert_eq!(statuses((0..3).map(|_| gateway.get("/"))), wanted, "{rule}");
        // An empty one is none, and one that is there has a count of its own.
        assert_eq!(gateway.send("GET", "/", &[("X-T", "")]).status, *wanted.last().unwrap(), "{rule}");
        assert_eq!(gateway.send("GET", "/", &[("X-T", "1")]).status, 200, "{rule}");
    }
    let (gateway, up) = start("{ rate_limit: { key: consumer, limits: [2/h] } }");
    assert_eq!(gateway.get("/").problem(), "limit_key_missing");
    assert!(up.seen().is_empty());
}

#[test]
fn a_limit_by_address_slows_down_those_who_guess_keys() {
    let (gateway, up) = start("{ api_key: {} }, { rate_limit: { key: client_ip, limits: [5/h] } }");
    let guess = |i: usize| gateway.send("GET", "/", &[("X-Api-Key", &format!("guess-{i}"))]);
    assert_eq!(statuses((0..8).map(guess)), [401, 401, 401, 401, 401, 429, 429, 429]);
    assert_eq!(gateway.send("GET", "/", &[("X-Api-Key", "key-1")]).status, 429);
    assert!(up.seen().is_empty());
}

#[test]
fn a_reload_refills_nothing() {
    let up = Upstream::named("up");
    let file = |more: &str| {
        config(&up, &format!("{{ api_key: {{}} }}, {{ rate_limit: {{ key: consumer, limits: [5/h, 9/d] }} }}{more}"))
    };
    let gateway = Gateway::start(&file(""));
    let ask = |key: &str| gateway.send("GET", "/", &[("X-Api-Key", key)]);
    assert_eq!(statuses((0..3).map(|_| ask("key-1"))), [200; 3]);
    gateway.reload(&file(", { request_id: {} }"));
    let answer = ask("key-2");
    assert_eq!((state(&answer, "5/h", "r"), state(&answer, "9/d", "r")), (1, 5));
    gateway.reload(&file(""));
    assert_eq!(statuses((0..3).map(|_| ask("key-1"))), [200, 429, 429]);
    assert_eq!(statuses((0..6).map(|_| ask("key-3"))), [200, 200, 200, 200, 200, 429]);
}

#[test]
fn a_reload_in_the_middle_of_a_storm_lets_nobody_slip_through() {
    let up = Upstream::named("up");
    let file = |name: &str| {
        let policies = format!(
            "{{ rate_limit: {{ key: client_ip, limits: [50/d] }} }}, {{ response_headers: {{ set: {{ x-g: {name} }} }} }}"
        );
        config(&up, &policies)
    };
    let gateway = Gateway::start(&file("g"));
    std::thread::scope(|scope| {
        let storm = scope.spawn(|| storm(&gateway, 8, 50));
        for i in 0..3 {
            gateway.reload(&file(&format!("g{i}")));
        }
        assert_eq!(storm.join().unwrap(), (50, 350));
    });
}

#[test]
fn every_method_counts_and_a_refusal_keeps_the_connection() {
    let up = Upstream::named("up");
    let policies = "{ rate_limit: { key: client_ip, limits: [3/h] } }";
    let gateway = Gateway::start(&("telemetry: { access_log: {} }\n".to_owned() + &config(&up, policies)));
    let mut client = gateway.client();
    let mut ask = |method: &str| {
        client.write(request(method, "/", &[]).as_bytes());
        client.read_answer_to(method)
    };
    let answers = ["HEAD", "OPTIONS", "GET", "HEAD", "OPTIONS", "GET"].map(&mut ask);
    assert!(answers.iter().all(|answer| answer.header("ratelimit").is_some()), "{answers:?}");
    assert_eq!(statuses(answers), [200, 200, 200, 429, 429, 429]);
    assert_eq!(up.seen().len(), 3);
    let refused = gateway.access_lines(6).iter().filter(|line| line["reject"] == "rate_limited").count();
    assert_eq!(refused, 3);
    eventually("they are counted", || gateway.metric("torana_requests_total{route=\"r\",status=\"4xx\"}") == 3.0);
}

#[test]
fn a_burst_is_what_may_come_at_once() {
    let (gateway, _up) = start("{ rate_limit: { key: client_ip, limits: [100/d, 2/h], burst: 4 } }");
    // Never more is said to be left than the limit.
    for left in [2, 2, 1, 0] {
        let answer = gateway.get("/");
        assert_eq!((answer.status, state(&answer, "2/h", "r")), (200, left));
    }
    let answer = gateway.get("/");
    assert_eq!((answer.status, state(&answer, "100/d", "r")), (429, 96));
    let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1740..=1800).contains(&after), "{after}");
}

#[test]
fn a_flood_of_keys_does_not_make_anybody_forgotten() {
    let (gateway, _up) = start("{ rate_limit: { key: { header: x-t }, limits: [9/d], max_keys: 1000 } }");
    let ask = |client: &mut Client, key: &str| {
        client.write(request("GET", "/", &[("X-T", key)]).as_bytes());
        client.read().status
    };
    let mut client = gateway.client();
    let greedy: Vec<_> = (0..10).map(|_| ask(&mut client, "greedy")).collect();
    assert_eq!(greedy, [200, 200, 200, 200, 200, 200, 200, 200, 200, 429]);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let mut client = gateway.client();
            scope.spawn(move || {
                for i in 0..400 {
                    assert_eq!(ask(&mut client, &format!("flood-{thread}-{i}")), 200);
                }
            });
        }
    });
    assert_eq!(ask(&mut client, "greedy"), 429);
}
