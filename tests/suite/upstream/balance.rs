//! Which endpoint gets a request.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{answers, config, different, gateway, named};
use crate::support::{Client, Gateway, Reply, Upstream, eventually, request};

/// So many keys leave no endpoint of three without any but once in millions of runs.
const KEYS: usize = 40;

#[test]
fn round_robin_takes_strict_turns() {
    let (_up, addresses) = named(["a", "b", "c"]);
    let gateway = gateway(&addresses, "");
    let seen = answers(&gateway, 30);
    assert_eq!(different(&seen[..3]).len(), 3);
    for (i, name) in seen.iter().enumerate() {
        assert_eq!(*name, seen[i % 3], "{seen:?}");
    }
}

#[test]
fn round_robin_keeps_weights_exactly_and_without_bursts() {
    let (_up, [a, b, c]) = named(["a", "b", "c"]);
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [{{ address: \"{a}\", weight: 5 }}, \"{b}\", \"{c}\"] }} }}\nroutes: [{{ name: r, upstream: up }}]\n"
    ));
    let seen = answers(&gateway, 70);
    for round in seen.chunks(7) {
        assert_eq!(round, &seen[..7]);
    }
    // Wherever the round begins.
    let round = seen[..7].concat().replace('c', "b");
    assert!("aababaaaababaa".contains(&round), "{seen:?}");
    assert_eq!(seen.iter().filter(|name| *name == "b").count(), 10, "{seen:?}");
}

#[test]
fn round_robin_goes_on_over_connections_and_clients() {
    let (_up, addresses) = named(["a", "b"]);
    let gateway = gateway(&addresses, "");
    let seen: Vec<_> = (0..20).map(|_| gateway.get("/").text()).collect();
    assert!(seen.windows(2).all(|pair| pair[0] != pair[1]), "{seen:?}");
}

#[test]
fn random_reaches_all_by_weight() {
    let (_up, [a, b]) = named(["a", "b"]);
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ balance: random, endpoints: [{{ address: \"{a}\", weight: 3 }}, \"{b}\"] }} }}\nroutes: [{{ name: r, upstream: up }}]\n"
    ));
    let seen = answers(&gateway, 600);
    let a = seen.iter().filter(|name| *name == "a").count();
    // Five standard deviations around three quarters.
    assert!((397..=503).contains(&a), "{a}");
    assert!(seen.windows(2).any(|pair| pair[0] == "b" && pair[1] == "b"), "chance has no turns: {seen:?}");
}

#[test]
fn least_requests_leaves_a_busy_endpoint_alone() {
    let up = ["a", "b"].map(|name| {
        Upstream::start(move |request| {
            let delay = if request.target == "/hold" { Duration::from_secs(3) } else { Duration::ZERO };
            Reply::ok(name).after(delay)
        })
    });
    let gateway = gateway(&[up[0].address(), up[1].address()], "balance: least_requests");
    let mut held = gateway.client();
    held.write(request("GET", "/hold", &[]).as_bytes());
    eventually("one is busy", || up.iter().any(|up| !up.seen().is_empty()));
    let idle = if up[0].seen().is_empty() { "a" } else { "b" };
    assert_eq!(different(&answers(&gateway, 40)), [idle].into());
    assert_ne!(held.read().text(), idle);
    // Nobody is busy any more.
    assert_eq!(different(&answers(&gateway, 40)).len(), 2);
}

/// Sends every key three times, and returns who answered it; fails if that was not always the same one, or if some
/// endpoint got no key.
#[track_caller]
fn homes(endpoints: usize, mut send: impl FnMut(usize) -> String) -> BTreeMap<usize, String> {
    let homes: BTreeMap<usize, String> = (0..KEYS).map(|key| (key, send(key))).collect();
    for _ in 0..2 {
        for (key, home) in &homes {
            assert_eq!(send(*key), *home, "key {key}");
        }
    }
    let used: Vec<String> = homes.values().cloned().collect();
    assert_eq!(different(&used).len(), endpoints, "{homes:?}");
    homes
}

fn by_header(gateway: &Gateway, key: usize) -> String {
    gateway.send("GET", "/", &[("X-User", &format!("user-{key}"))]).text()
}

const HEADER: &str = "balance: { hash: { header: x-user } }";

#[test]
fn the_same_header_goes_to_the_same_endpoint() {
    let (_up, addresses) = named(["a", "b", "c"]);
    let gateway = gateway(&addresses, HEADER);
    homes(3, |key| by_header(&gateway, key));
}

#[test]
fn the_same_cookie_goes_to_the_same_endpoint_whatever_stands_beside_it() {
    let (_up, addresses) = named(["a", "b", "c"]);
    let gateway = gateway(&addresses, "balance: { hash: { cookie: sid } }");
    let mut before = 0;
    homes(3, |key| {
        before += 1;
        gateway.send("GET", "/", &[("Cookie", &format!("xsid={before}; sid={key}; z=1"))]).text()
    });
}

#[test]
fn the_same_client_goes_to_the_same_endpoint() {
    let (_up, addresses) = named(["a", "b", "c"]);
    let gateway = gateway(&addresses, "balance: { hash: client_ip }");
    homes(3, |key| {
        let from = IpAddr::from([127, 0, 1, u8::try_from(key).unwrap() + 1]);
        Client::connect_from(from, gateway.address()).get("/").text()
    });
}

#[test]
fn the_same_path_goes_to_the_same_endpoint_whatever_the_query() {
    let (_up, addresses) = named(["a", "b", "c"]);
    let gateway = gateway(&addresses, "balance: { hash: path }");
    let mut query = 0;
    homes(3, |key| {
        query += 1;
        gateway.get(&format!("/things/{key}?{query}")).text()
    });
}

#[test]
fn the_same_consumer_goes_to_the_same_endpoint() {
    let (_up, addresses) = named(["a", "b", "c"]);
    let consumers: String = (0..KEYS).map(|i| format!("  c{i}: {{ api_keys: [consumer-key-{i}] }}\n")).collect();
    let policies = "policies: [{ api_key: { header: x-api-key } }]\n";
    let yaml = config(&addresses, "balance: { hash: consumer }");
    let gateway = Gateway::start(&format!("consumers:\n{consumers}{policies}{yaml}"));
    homes(3, |key| {
        let answer = gateway.send("GET", "/", &[("X-Api-Key", &format!("consumer-key-{key}"))]);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.text()
    });
}

#[test]
fn a_request_without_a_key_goes_anywhere() {
    let (_up, addresses) = named(["a", "b"]);
    let gateway = gateway(&addresses, HEADER);
    assert_eq!(different(&answers(&gateway, KEYS)).len(), 2);
}

#[test]
fn an_endpoint_that_goes_takes_only_its_own_keys_along_and_gets_them_back() {
    let (_up, addresses) = named(["a", "b", "c"]);
    let gateway = gateway(&addresses, HEADER);
    let before = homes(3, |key| by_header(&gateway, key));
    gateway.reload(&config(&addresses[..2], HEADER));
    let meanwhile = homes(2, |key| by_header(&gateway, key));
    for (key, home) in before.iter().filter(|(_, home)| *home != "c") {
        assert_eq!(meanwhile[key], *home, "key {key}");
    }
    // In another order, too: only the addresses count.
    gateway.reload(&config(&[addresses[2], addresses[0], addresses[1]], HEADER));
    assert_eq!(homes(3, |key| by_header(&gateway, key)), before);
}

#[test]
fn two_gateways_send_a_key_to_the_same_endpoint() {
    let (_up, addresses) = named(["a", "b", "c"]);
    let backwards: Vec<SocketAddr> = addresses.iter().rev().copied().collect();
    let (one, other) = (gateway(&addresses, HEADER), gateway(&backwards, HEADER));
    assert_eq!(homes(3, |key| by_header(&one, key)), homes(3, |key| by_header(&other, key)));
}

#[test]
fn a_key_goes_elsewhere_while_its_endpoint_fails_and_the_other_keys_stay() {
    let (up, addresses) = named(["a", "b", "c"]);
    let gateway = gateway(&addresses, HEADER);
    let before = homes(3, |key| by_header(&gateway, key));
    let [a, _b, _c] = up;
    drop(a);
    let meanwhile = homes(2, |key| by_header(&gateway, key));
    for (key, home) in before.iter().filter(|(_, home)| *home != "a") {
        assert_eq!(meanwhile[key], *home, "key {key}");
    }
}
