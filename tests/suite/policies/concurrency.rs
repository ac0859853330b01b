//! `concurrency`: so many at once, and every place comes back.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use crate::{
    policies::{config, start},
    support::{
        Gateway, Reply, Upstream, eventually, request,
        web_socket::{UPGRADE, parrot, says_again, upgraded},
    },
};

/// An upstream that takes a moment, and how many requests it had at most at the same time.
fn busy(millis: u64) -> (Upstream, std::sync::Arc<AtomicUsize>) {
    let (now, most) = (AtomicUsize::new(0), std::sync::Arc::new(AtomicUsize::new(0)));
    let seen = std::sync::Arc::clone(&most);
    let up = Upstream::start(move |_| {
        seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(millis));
        now.fetch_sub(1, Ordering::SeqCst);
        Reply::ok("up")
    });
    (up, most)
}

fn at_once(gateway: &Gateway, count: usize) -> Vec<u16> {
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..count).map(|_| scope.spawn(|| gateway.get("/").status)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

#[test]
fn never_more_than_so_many_are_under_way_and_the_rest_is_refused_or_waits() {
    let (up, most) = busy(300);
    let gateway = Gateway::start(&config(&up, "{ concurrency: { key: client_ip, max: 3 } }"));
    let statuses = at_once(&gateway, 12);
    let passed = statuses.iter().filter(|status| **status == 200).count();
    assert!((3..12).contains(&passed) && statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    assert_eq!(most.load(Ordering::SeqCst), 3);

    let (up, most) = busy(50);
    let queue = "queue: { length: 100, timeout: 10s }";
    let gateway = Gateway::start(&config(&up, &format!("{{ concurrency: {{ key: client_ip, max: 2, {queue} }} }}")));
    assert_eq!(at_once(&gateway, 20), [200; 20]);
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[test]
fn who_waits_for_too_long_is_told_to_come_again() {
    let (up, _) = busy(1500);
    let queue = "queue: { timeout: 200ms }";
    let gateway = Gateway::start(&config(&up, &format!("{{ concurrency: {{ key: client_ip, max: 1, {queue} }} }}")));
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(gateway.get("/").status, 200));
        eventually("the first one is under way", || !up.seen().is_empty());
        let began = Instant::now();
        let answer = gateway.get("/");
        assert_eq!((answer.status, answer.problem().as_str()), (429, "concurrency_limited"));
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert!(began.elapsed() >= Duration::from_millis(190) && began.elapsed() < Duration::from_millis(1200));
    });
}

#[test]
fn every_place_comes_back_however_the_request_ends() {
    let up = Upstream::start(|request| match request.target.as_str() {
        "/cut" => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
        "/gone" => Reply::hang_up(),
        "/slow" => Reply::ok("late").after(Duration::from_millis(300)),
        _ => Reply::ok("up"),
    });
    let key = "concurrency: { key: client_ip, max: 1 }";
    let gateway =
        Gateway::start(&config(&up, &format!("{{ {key} }}, {{ api_key: {{}} }}, {{ request_size: {{ max: 10B }} }}")));
    let good = || gateway.send("GET", "/", &[("X-Api-Key", "key-1")]).status;
    for round in 0..3 {
        for path in ["/gone", "/slow", "/none"] {
            let answer = gateway.send("GET", path, &[("X-Api-Key", "key-1")]);
            assert_ne!(answer.status, 429, "{path} {round}");
        }
        // Refused by another policy, broken off by the endpoint, left by the client.
        assert_eq!(gateway.get("/").status, 401);
        let mut cut = gateway.client();
        cut.write(request("GET", "/cut", &[("X-Api-Key", "key-1")]).as_bytes());
        eventually("it comes back after a response that broke off", || good() == 200);
        let mut leaving = gateway.client();
        leaving.write(request("GET", "/slow", &[("X-Api-Key", "key-1")]).as_bytes());
        std::thread::sleep(Duration::from_millis(50));
        drop(leaving);
        eventually("it comes back after a client that left", || good() == 200);
    }
}

#[test]
fn a_websocket_has_its_place_until_it_ends_and_a_reload_forgets_none() {
    let up = parrot();
    let yaml = |max: usize| {
        format!(
            "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes: [{{ name: r, policies: [{{ concurrency: {{ key: client_ip, max: {max} }} }}], upstream: up }}]\n",
            up.address()
        )
    };
    let gateway = Gateway::start(&yaml(1));
    let mut talk = upgraded(&gateway);
    says_again(&mut talk, "hello");
    assert_eq!(gateway.send("GET", "/", &UPGRADE).status, 429);
    gateway.reload(&yaml(2));
    let mut another = upgraded(&gateway);
    says_again(&mut another, "hello");
    assert_eq!(gateway.send("GET", "/", &UPGRADE).status, 429);
    gateway.reload(&yaml(1));
    drop(another);
    drop(talk);
    eventually("both places are back", || {
        let mut client = gateway.client();
        client.write(request("GET", "/", &UPGRADE).as_bytes());
        client.read().status == 101
    });
}

#[test]
fn keys_have_places_of_their_own() {
    let (gateway, _up) = start("{ concurrency: { key: { header: x-t }, max: 1, missing_key: skip } }");
    assert_eq!([gateway.get("/").status, gateway.send("GET", "/", &[("X-T", "a")]).status], [200, 200]);
}
