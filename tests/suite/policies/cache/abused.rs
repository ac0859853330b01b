//! What clients and upstreams could make of a cache: old headers on new bodies, answers that others spoil, waits without end.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use super::{gateway, numbered, said};
use crate::{
    policies::config,
    support::{Gateway, Reply, Upstream, eventually, request},
};

#[test]
fn a_304_renews_only_the_answer_that_it_is_about() {
    let up = Upstream::start(|request| {
        let reply = |body: &str, tag: &str, control: &str| {
            Reply::ok(body.to_owned()).header("ETag", tag).header("Cache-Control", control).header("Content-Type", tag)
        };
        match (request.header("x-n").unwrap_or_default(), request.header("if-none-match")) {
            ("1", _) => reply("old, and longer", "\"e1\"", "max-age=1"),
            ("2", Some(_)) => Reply::new(304, "")
                .header("ETag", "\"e1\"")
                .header("Cache-Control", "max-age=60")
                .after(Duration::from_millis(6500)),
            _ => reply("new", "\"e2\"", "max-age=60"),
        }
    });
    let gateway = gateway(&up, "");
    let send = |number: &str| gateway.send("GET", "/", &[("X-N", number)]);
    assert_eq!(send("1").text(), "old, and longer");
    std::thread::sleep(Duration::from_millis(1200));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| send("2"));
        eventually("it asks", || up.seen().len() == 2);
        // Whoever waits for longer than five seconds asks for itself.
        std::thread::sleep(Duration::from_millis(5200));
        assert_eq!(send("3").text(), "new");
        assert_eq!(slow.join().unwrap().text(), "old, and longer");
    });
    let kept = send("4");
    assert_eq!((kept.text().as_str(), kept.header("etag"), said(&kept)), ("new", Some("\"e2\""), "torana; hit"));
    assert_eq!(kept.header("content-type"), Some("\"e2\""));
}

#[test]
fn ranges_without_a_byte_in_them_are_no_ranges() {
    let up = Upstream::start(|request| {
        let body = if request.target == "/empty" { "" } else { "012345678901234" };
        Reply::ok(body).header("Cache-Control", "max-age=60").header("ETag", "W/\"a\"")
    });
    let gateway = gateway(&up, "");
    for target in ["/empty", "/x"] {
        assert_eq!(gateway.get(target).status, 200);
        for range in [
            "bytes=-0",
            "bytes=-5",
            "bytes=0-1,-0",
            "bytes=-0,-0",
            "bytes=0-0,14-14,-0",
            "bytes=-00",
            "bytes= -0 ",
            "bytes=-1,-1",
        ] {
            for _ in 0..2 {
                let answer = gateway.send("GET", target, &[("Range", range)]);
                let is_part = target == "/x" && range == "bytes=-5";
                let wanted = if target == "/empty" {
                    0
                } else if is_part {
                    5
                } else {
                    15
                };
                assert_eq!(
                    (answer.status, answer.body.len()),
                    (if is_part { 206 } else { 200 }, wanted),
                    "{target} {range}"
                );
            }
        }
    }
    let two = gateway.send("GET", "/x", &[("Range", "bytes=0-1,13-14")]);
    assert_eq!(two.status, 206);
    assert!(two.text().contains("\r\n\r\n01\r\n") && two.text().contains("\r\n\r\n34\r\n"), "{}", two.text());
    assert_eq!(gateway.send("HEAD", "/x", &[("Range", "bytes=0-1")]).status, 200);
    assert_eq!(gateway.send("GET", "/x", &[("Range", "bytes=0-1"), ("If-Range", "W/\"a\"")]).status, 200);
    assert_eq!(gateway.access_lines(37).len(), 37);
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
}

#[test]
fn one_whose_answers_are_not_kept_spoils_nothing_for_others() {
    let broken = std::sync::Arc::new(AtomicUsize::new(0));
    let now = std::sync::Arc::clone(&broken);
    let up = numbered(move |request, reply| {
        if now.load(Ordering::SeqCst) == 1 {
            return Reply::new(503, "broken");
        }
        if request.header("accept") == Some("x/y") {
            return Reply::new(406, "no");
        }
        reply.header("Cache-Control", "max-age=1").after(Duration::from_millis(200))
    });
    let gateway = gateway(&up, "stale_if_error: 1h");
    assert_eq!(gateway.get("/").text(), "1");
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(said(&gateway.send("GET", "/", &[("Authorization", "x")])), "torana; fwd=bypass; detail=authorization");
    assert_eq!(gateway.send("GET", "/", &[("Accept", "x/y")]).status, 406);
    let before = up.seen().len();
    std::thread::scope(|scope| (0..10).for_each(|_| drop(scope.spawn(|| gateway.get("/")))));
    assert_eq!(up.seen().len(), before + 1, "they wait for each other as before");
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(gateway.send("GET", "/", &[("Authorization", "x")]).status, 200);
    broken.store(1, Ordering::SeqCst);
    assert_eq!((gateway.get("/").status, said(&gateway.get("/"))), (200, "torana; hit; detail=stale"));
}

#[test]
fn what_is_not_to_be_used_without_asking_is_not_and_what_is_unclear_is_not_kept() {
    let up = numbered(|_, reply| reply.header("Cache-Control", "no-cache").header("ETag", "\"a\""));
    let gateway = gateway(&up, "ttl: 60s, stale_while_revalidate: 1h, stale_if_error: 1h");
    assert_eq!([(); 3].map(|()| gateway.get("/").text()), ["1", "2", "3"]);
    drop(up);
    assert_eq!(gateway.get("/").status, 502, "not even when the upstream is gone");
    for control in [
        "max-age=-1",
        "max-age=\"0",
        "s-maxage=x, max-age=60",
        "max-age=60 private",
        "private=\"\"",
        "max-age=0, max-age=60",
    ] {
        let up = numbered(move |_, reply| reply.header("Cache-Control", control));
        let gateway = self::gateway(&up, "ttl: 60s");
        assert_eq!([(); 2].map(|()| gateway.get("/").text()), ["1", "2"], "{control}");
    }
    let up = numbered(|_, reply| reply.header("Pragma", "no-cache"));
    assert_eq!([(); 2].map(|()| self::gateway(&up, "ttl: 60s").get("/").text()), ["1", "2"]);
}

#[test]
fn memory_is_counted_as_it_is_used() {
    let up = Upstream::start(|_| Reply::ok("ok").header("Cache-Control", "max-age=600"));
    let yaml =
        |memory: &str| format!("cache: {{ memory: {memory} }}\n{}", config(&up, "{ cache: { max_object: 1KiB } }"));
    // The same load beside one that keeps nearly nothing: what it takes more is what is kept.
    let [small, large] = ["64KiB", "8MiB"].map(|memory| {
        let gateway = Gateway::start(&yaml(memory));
        let mut client = gateway.client();
        for number in 0..7000 {
            assert_eq!(client.get(&format!("/{number}")).status, 200);
        }
        (gateway.memory(), gateway.status()["cache"]["bytes"].as_u64().unwrap())
    });
    let (more, counted) = (large.0.saturating_sub(small.0), usize::try_from(large.1).unwrap());
    assert!(counted > 7 << 20 && more < counted + (4 << 20), "{counted} counted, {more} taken");
}

#[test]
fn a_client_that_takes_its_answer_slowly_keeps_nobody_waiting() {
    let up = Upstream::start(|_| Reply::ok(vec![b'x'; 900_000]).header("Cache-Control", "max-age=1"));
    let gateway = gateway(&up, "");
    let mut slow = Vec::new();
    for round in 0..4 {
        // One that asks and reads nothing.
        let mut client = gateway.client();
        client.write(request("GET", "/", &[]).as_bytes());
        slow.push(client);
        std::thread::sleep(Duration::from_millis(50));
        let began = Instant::now();
        assert_eq!(gateway.get("/").body.len(), 900_000);
        assert!(began.elapsed() < Duration::from_secs(2), "{round}: {:?}", began.elapsed());
        std::thread::sleep(Duration::from_millis(1100));
    }
}

#[test]
fn whoever_waits_for_the_answer_to_another_one_waits_no_longer_than_its_time() {
    let up = Upstream::start(|_| Reply::ok("late").header("Cache-Control", "max-age=60").after(Duration::from_secs(3)));
    let yaml = config(&up, "{ cache: {} }").replace("upstream: up }]", "timeout: 1s, upstream: up }]");
    let gateway = Gateway::start(&yaml);
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                let began = Instant::now();
                assert_eq!(gateway.get("/").problem(), "deadline_exceeded");
                assert!(began.elapsed() < Duration::from_millis(1900), "{:?}", began.elapsed());
            });
        }
    });
}

#[test]
fn an_upstream_that_fails_behind_old_answers_is_retried_counted_and_left_alone_as_ever() {
    let first = AtomicUsize::new(0);
    let up = Upstream::start(move |_| match first.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::ok("old").header("Cache-Control", "max-age=1").header("ETag", "\"a\""),
        _ => Reply::new(503, "broken"),
    });
    let breaker = "circuit_breaker: { errors: { share: 50%, requests: 5, window: 10s, open_for: 60s } }";
    let yaml = format!(
        "telemetry: {{ access_log: {{}} }}
upstreams: {{ up: {{ endpoints: [\"{}\"], {breaker}, retries: {{ attempts: 1, on: [gateway_error] }} }} }}
routes: [{{ name: r, policies: [{{ cache: {{ stale_if_error: 1h }} }}], upstream: up }}]\n",
        up.address()
    );
    let gateway = Gateway::start(&yaml);
    assert_eq!(gateway.get("/").text(), "old");
    std::thread::sleep(Duration::from_millis(1200));
    for _ in 0..20 {
        let answer = gateway.get("/");
        assert_eq!((answer.status, answer.text().as_str(), said(&answer)), (200, "old", "torana; hit; detail=stale"));
    }
    let seen = up.seen().len();
    assert!(seen < 15, "the circuit is open: {seen}");
    let failures = "torana_upstream_requests_total{endpoint=\"{}\",status=\"5xx\",upstream=\"up\"}";
    assert!(gateway.metric(&failures.replace("{}", &up.address().to_string())) >= 4.0);
    let log = gateway.access_lines(21);
    assert!(log[1]["cache"] == "stale" && log[1].get("upstream_ms").is_some(), "{}", log[1]);
}

#[test]
fn what_the_upstream_takes_back_does_not_come_again() {
    let answers = [
        ("gone", Reply::new(410, "gone")),
        ("not found", Reply::new(404, "no")),
        ("private", Reply::ok("new").header("Cache-Control", "private")),
        ("not to be stored", Reply::ok("new").header("Cache-Control", "no-store")),
        ("the same, but private", Reply::new(304, "").header("Cache-Control", "private")),
    ];
    for (what, second) in answers {
        let count = AtomicUsize::new(0);
        let up = Upstream::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::ok("secret").header("Cache-Control", "max-age=1").header("ETag", "\"a\""),
            1 => second.clone(),
            _ => Reply::new(503, "broken"),
        });
        let gateway = gateway(&up, "stale_if_error: 1h, stale_while_revalidate: 1h");
        assert_eq!(gateway.get("/").text(), "secret");
        std::thread::sleep(Duration::from_millis(1200));
        gateway.get("/");
        assert_eq!(gateway.get("/").status, 503, "{what}");
    }
}
