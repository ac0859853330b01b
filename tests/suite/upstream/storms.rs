//! What keeps a failing upstream from taking others with it: budgets of retries, circuits, queues, limits that are learnt.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{different, gateway, named};
use crate::support::{Busy, Client, Gateway, Refusing, Reply, Response, Upstream, eventually, request};

/// Without it, endpoints that cannot be reached would soon be left out.
const ALL: &str = "outliers: { max_ejected: 0% }";

/// Answers of so many clients that ask at the same time.
fn at_once(gateway: &Gateway, count: usize, path: &str) -> Vec<Response> {
    let mut clients: Vec<Client> = (0..count).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.write(request("GET", path, &[]).as_bytes());
    }
    clients.iter_mut().map(Client::read).collect()
}

fn tried_again(gateway: &Gateway, outcome: &str) -> f64 {
    gateway.metric(&format!("torana_upstream_retries_total{{outcome=\"{outcome}\",upstream=\"up\"}}"))
}

#[test]
fn e14_a_storm_of_failures_is_no_storm_of_retries() {
    for reply in [Reply::hang_up(), Reply::new(503, "")] {
        let ups: Vec<Upstream> = (0..3)
            .map(|_| {
                let reply = reply.clone();
                Upstream::start(move |_| reply.clone())
            })
            .collect();
        let addresses: Vec<_> = ups.iter().map(Upstream::address).collect();
        let on = "on: [connect_failure, reset, gateway_error], backoff: 1ms";
        let gateway = gateway(&addresses, &format!("{ALL}, retries: {{ attempts: 5, {on} }}"));
        let mut client = gateway.client();
        for _ in 0..500 {
            client = if client.get("/").header("connection") == Some("close") { gateway.client() } else { client };
        }
        let tries: usize = ups.iter().map(|up| up.seen().len()).sum();
        assert!((600..=610).contains(&tries), "{tries}: a fifth more, and ten");
        assert!(tried_again(&gateway, "tried") <= 110.0 && tried_again(&gateway, "over_budget") > 300.0);
    }
}

#[test]
fn e14_the_same_holds_for_connections_that_are_refused() {
    let dead: Vec<Refusing> = (0..3).map(|_| Refusing::new()).collect();
    let addresses: Vec<_> = dead.iter().map(Refusing::address).collect();
    let gateway = gateway(&addresses, &format!("{ALL}, retries: {{ attempts: 5, backoff: 1ms }}"));
    for _ in 0..200 {
        assert_eq!(gateway.get("/").problem(), "upstream_unreachable");
    }
    let failures: f64 = addresses
        .iter()
        .map(|address| {
            gateway.metric(&format!("torana_upstream_failures_total{{endpoint=\"{address}\",upstream=\"up\"}}"))
        })
        .sum();
    assert!((240.0..=250.0).contains(&failures), "{failures}");
}

#[test]
fn what_is_not_idempotent_is_sent_twice_only_with_an_idempotency_key() {
    let (broken, well) = (Upstream::start(|_| Reply::hang_up()), Upstream::named("well"));
    let gateway = gateway(&[broken.address(), well.address()], "retries: { backoff: 0ms }");
    let send = |headers: &[(&str, &str)]| {
        let mut client = gateway.client();
        client.write((request("POST", "/", &[&[("Content-Length", "4")], headers].concat()) + "body").as_bytes());
        client.read_answer_to("POST").status
    };
    let with: Vec<u16> = (0..4).map(|i| send(&[("Idempotency-Key", &format!("\"{i}\""))])).collect();
    assert_eq!(with, [200; 4]);
    assert!(well.seen().iter().all(|request| request.body == b"body"));
    let mut without: Vec<u16> = (0..4).map(|_| send(&[])).collect();
    without.sort_unstable();
    assert_eq!(without, [200, 200, 502, 502]);
}

#[test]
fn statuses_that_are_listed_and_late_answers_are_tried_elsewhere() {
    for (reply, settings) in [
        (Reply::new(500, "mine"), "on: [{ status: 500 }]"),
        (Reply::new(503, "mine"), "on: [{ status: 503 }, timeout]"),
        (Reply::ok("mine").after(Duration::from_secs(5)), "on: [timeout], timeout: 200ms"),
    ] {
        let bad = Upstream::start(move |_| reply.clone());
        let well = Upstream::named("well");
        let gateway = gateway(&[bad.address(), well.address()], &format!("retries: {{ {settings} }}"));
        let began = Instant::now();
        let answers: Vec<String> = (0..4).map(|_| gateway.get("/").text()).collect();
        assert_eq!(different(&answers), ["well"].into(), "{settings}");
        assert!(began.elapsed() < Duration::from_secs(3) && !bad.seen().is_empty(), "{settings}");
    }
}

#[test]
fn an_endpoint_that_says_when_to_come_back_is_asked_then_and_a_long_wait_is_for_the_client() {
    let turn = AtomicUsize::new(0);
    let up = Upstream::start(move |_| {
        if turn.fetch_add(1, Ordering::SeqCst) == 0 {
            Reply::new(503, "").header("Retry-After", "1")
        } else {
            Reply::ok("up")
        }
    });
    let settings = "retries: { on: [gateway_error] }";
    let patient = gateway(&[up.address()], settings);
    let began = Instant::now();
    assert_eq!(patient.get("/").text(), "up");
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());

    let busy = |status: u16| Upstream::start(move |_| Reply::new(status, "busy").header("Retry-After", "60"));
    let alone = busy(503);
    assert_eq!(gateway(&[alone.address()], settings).get("/").text(), "busy");
    let (_well, [well]) = named(["well"]);
    for (status, expected) in [(503, vec!["well"]), (429, vec!["busy", "well"])] {
        let up = busy(status);
        let both = gateway(&[up.address(), well], "retries: { on: [gateway_error, { status: 429 }] }");
        let answers: Vec<String> = (0..4).map(|_| both.get("/").text()).collect();
        assert_eq!(different(&answers), expected.into_iter().collect(), "{status}");
    }
}

#[test]
fn tries_are_spread_over_time() {
    let up = Upstream::start(|_| Reply::hang_up());
    let gateway =
        gateway(&[up.address()], &format!("{ALL}, retries: {{ attempts: 4, backoff: 200ms, max_backoff: 200ms }}"));
    let mut took: Vec<Duration> = (0..3)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(gateway.get("/").problem(), "upstream_unreachable");
            began.elapsed()
        })
        .collect();
    took.sort();
    // At random, four times between 0 and 200 ms.
    assert!(took[2] > Duration::from_millis(100) && took[2] < Duration::from_secs(2), "{took:?}");
    assert_ne!(took[0], took[2]);
}

#[test]
fn the_time_that_is_left_is_told() {
    let up = Upstream::named("up");
    let settings = "timeouts: { total: 5s }, deadline_header: X-Time-Left";
    let told = |gateway: &Gateway| {
        gateway.send("GET", "/", &[("X-Time-Left", "999999")]);
        up.last().header("x-time-left").map(|left| left.parse::<u64>().unwrap())
    };
    let left = told(&gateway(&[up.address()], settings)).unwrap();
    assert!((4_000..=5_000).contains(&left), "{left}");
    assert_eq!(told(&gateway(&[up.address()], "deadline_header: X-Time-Left")), None, "a client's claim never passes");
}

#[test]
fn a_circuit_opens_refuses_probes_and_closes() {
    let ill = Arc::new(AtomicBool::new(true));
    let is_ill = Arc::clone(&ill);
    let up =
        Upstream::start(move |_| if is_ill.load(Ordering::SeqCst) { Reply::new(503, "") } else { Reply::ok("up") });
    let settings = "retries: { attempts: 0 }, circuit_breaker: { errors: { requests: 10, open_for: 2s, probes: 2 } }";
    let file = super::config(&[up.address()], settings);
    let gateway = Gateway::replaceable(&file);
    (0..10).for_each(|_| assert_eq!(gateway.get("/").status, 503));
    let refused = gateway.get("/");
    assert_eq!((refused.status, refused.problem().as_str(), up.seen().len()), (503, "circuit_open", 10));
    assert!(["1", "2"].contains(&refused.header("retry-after").unwrap()));
    assert_eq!(gateway.status()["upstreams"][0]["circuit"], "open");
    assert!((gateway.metric("torana_upstream_circuit{upstream=\"up\"}") - 2.0).abs() < 0.1);
    assert!(gateway.log().contains("upstream up: the circuit is open for 2s: 10 of 10 requests failed"));
    // Neither a reload nor another process forgets it.
    gateway.reload(&file.replace("name: r,", "name: other,"));
    assert_eq!(gateway.get("/").problem(), "circuit_open");
    gateway.upgrade();
    let seen = up.seen().len();
    let is_refused = |answer: &Response| answer.header("content-type").is_some();
    eventually("a probe", || !is_refused(&gateway.get("/")) && up.seen().len() > seen);
    assert_eq!(gateway.get("/").problem(), "circuit_open", "it failed");

    ill.store(false, Ordering::SeqCst);
    eventually("it is half open", || gateway.get("/").status == 200);
    assert_eq!(gateway.get("/").status, 200, "the second probe");
    assert_eq!(gateway.status()["upstreams"][0]["circuit"], "closed");
}

#[test]
fn more_than_may_be_in_flight_wait_and_more_than_may_wait_are_refused() {
    let up = Upstream::start(|_| Reply::ok("up").after(Duration::from_millis(400)));
    let breaker = "circuit_breaker: { requests: 2, queue: { length: 2, timeout: 3s } }";
    let queued = gateway(&[up.address()], breaker);
    let answers = at_once(&queued, 6, "/");
    let refused: Vec<&Response> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert_eq!(refused.len(), 2);
    assert!(
        refused
            .iter()
            .all(|answer| answer.problem() == "upstream_overloaded" && answer.header("retry-after") == Some("1"))
    );
    assert_eq!(up.seen().len(), 4);

    let slow = Upstream::start(|_| Reply::ok("up").after(Duration::from_secs(2)));
    let short = gateway(&[slow.address()], "circuit_breaker: { requests: 1, queue: { timeout: 200ms } }");
    let answers = at_once(&short, 3, "/");
    assert_eq!(answers.iter().filter(|answer| answer.status == 503).count(), 2);
    let none = gateway(&[up.address()], "circuit_breaker: { requests: 1 }");
    assert_eq!(at_once(&none, 3, "/").iter().filter(|answer| answer.status == 503).count(), 2);
}

#[test]
fn an_endpoint_has_no_more_connections_in_use_than_it_may() {
    let up = |name| Upstream::start(move |_| Reply::ok(name).after(Duration::from_millis(300)));
    let (one, two) = (up("one"), up("two"));
    let gateway = gateway(&[one.address(), two.address()], "circuit_breaker: { connections: 2 }");
    let answers = at_once(&gateway, 7, "/");
    let refused = answers.iter().filter(|answer| answer.status == 503 && answer.problem() == "upstream_overloaded");
    assert_eq!(refused.count(), 3);
    assert_eq!((one.seen().len(), two.seen().len()), (2, 2));
}

#[test]
fn a_client_that_leaves_the_queue_takes_no_place_with_it_and_is_not_sent_on() {
    let up = Upstream::start(|_| Reply::ok("up").after(Duration::from_millis(400)));
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", h2c: true }}]
upstreams: {{ up: {{ endpoints: [\"{}\"], circuit_breaker: {{ requests: 1, queue: {{ length: 3, timeout: 5s }} }} }} }}
routes: [{{ name: r, upstream: up }}]\n",
        up.address()
    ));
    for round in 0..3 {
        let mut first = gateway.client();
        first.write(request("GET", "/", &[]).as_bytes());
        eventually("it is under way", || up.seen().len() == 2 * round + 1);
        for _ in 0..3 {
            let mut gone = gateway.client();
            gone.write(request("GET", "/gone", &[]).as_bytes());
            thread::sleep(Duration::from_millis(30));
            drop(gone);
        }
        thread::sleep(Duration::from_millis(50));
        // One that stays gets in, though the queue was full; so does what comes behind it on its connection.
        let mut stays = gateway.client();
        stays.write(request("GET", "/", &[]).as_bytes());
        assert_eq!((first.read().status, stays.read().status), (200, 200));
    }
    assert!(up.seen().iter().all(|request| request.target == "/"), "{:?}", up.seen());
}

#[test]
fn requests_behind_one_that_waits_are_answered_in_their_turn() {
    let up = Upstream::start(|request| Reply::ok(request.target.clone()).after(Duration::from_millis(150)));
    let gateway = gateway(&[up.address()], "circuit_breaker: { requests: 1, queue: { length: 10, timeout: 5s } }");
    let mut other = gateway.client();
    other.write(request("GET", "/first", &[]).as_bytes());
    thread::sleep(Duration::from_millis(50));
    let mut client = gateway.client();
    client.write((request("GET", "/a", &[]) + &request("GET", "/b", &[])).as_bytes());
    thread::sleep(Duration::from_millis(20));
    client.write(request("GET", "/c", &[]).as_bytes());
    assert_eq!([client.read().text(), client.read().text(), client.read().text()], ["/a", "/b", "/c"]);
}

#[test]
fn a_limit_is_learnt_and_low_priorities_are_shed_first() {
    // Serves ten at once; more wait for each other.
    let room = Arc::new((std::sync::Mutex::new(0_u32), std::sync::Condvar::new()));
    let up = Upstream::start(move |_| {
        let (busy, free) = &*room;
        let mut now = free.wait_while(busy.lock().unwrap(), |busy| *busy >= 10).unwrap();
        *now += 1;
        drop(now);
        // Long beside what a busy machine adds: the limit is learnt from how the times differ.
        thread::sleep(Duration::from_millis(50));
        *busy.lock().unwrap() -= 1;
        free.notify_one();
        Reply::ok("up")
    });
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"], retries: {{ attempts: 0 }}, adaptive_concurrency: {{ min: 5, max: 60 }} }} }}
routes:
  - {{ name: high, match: {{ path: /high }}, priority: high, upstream: up }}
  - {{ name: low, match: {{ path: /low }}, priority: low, upstream: up }}\n",
        up.address()
    ));
    let ends = Instant::now() + Duration::from_secs(9);
    let ask = |path: &str| {
        let (mut good, mut shed) = (0_u32, 0_u32);
        let mut client = gateway.client();
        while Instant::now() < ends {
            let answer = client.get(path);
            if answer.status == 200 {
                good += 1;
            } else {
                assert_eq!(answer.problem(), "upstream_overloaded");
                shed += 1;
                thread::sleep(Duration::from_millis(5));
                if answer.header("connection") == Some("close") {
                    client = gateway.client();
                }
            }
        }
        (good, shed)
    };
    let (high, low) = thread::scope(|scope| {
        let start =
            |path: &'static str, count: usize| (0..count).map(|_| scope.spawn(move || ask(path))).collect::<Vec<_>>();
        let (high, low) = (start("/high", 8), start("/low", 60));
        let sum = |threads: Vec<thread::ScopedJoinHandle<'_, (u32, u32)>>| {
            threads.into_iter().map(|one| one.join().unwrap()).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
        };
        (sum(high), sum(low))
    });
    let limit = gateway.status()["upstreams"][0]["concurrency_limit"].as_u64().unwrap();
    assert!((5..=40).contains(&limit), "{limit}");
    let shed = |(good, shed): (u32, u32)| f64::from(shed) / f64::from(good + shed);
    assert!(shed(low) > 0.1 && shed(high) < shed(low) / 4.0, "high {high:?}, low {low:?}, limit {limit}");
}

#[test]
fn a_connection_that_hangs_is_given_up_in_time_and_tried_elsewhere() {
    let (busy, well) = (Busy::new(), Upstream::named("well"));
    let settings = "timeouts: { connect: 200ms }, retries: { backoff: 0ms }";
    let gateway = gateway(&[busy.address(), well.address()], settings);
    let began = Instant::now();
    assert_eq!(different(&super::answers(&gateway, 20)), ["well"].into());
    // Three times, and then it is left out for a second.
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
}

#[test]
fn a_long_answer_of_a_probe_keeps_the_circuit_from_closing_for_nobody() {
    let ill = Arc::new(AtomicBool::new(true));
    let is_ill = Arc::clone(&ill);
    let up = Upstream::start(move |request| match (is_ill.load(Ordering::SeqCst), request.target.as_str()) {
        (true, _) => Reply::new(503, ""),
        (false, "/stream") => Reply::raw_open("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin"),
        (false, _) => Reply::ok("up"),
    });
    let settings = "retries: { attempts: 0 }, circuit_breaker: { errors: { requests: 10, open_for: 1s, probes: 3 } }";
    let gateway = gateway(&[up.address()], settings);
    (0..10).for_each(|_| assert_eq!(gateway.get("/").status, 503));
    ill.store(false, Ordering::SeqCst);
    thread::sleep(Duration::from_millis(1_100));
    let mut stream = gateway.client();
    stream.write(request("GET", "/stream", &[]).as_bytes());
    eventually("it began", || up.last().target == "/stream");
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(gateway.status()["upstreams"][0]["circuit"], "closed", "although the stream goes on");
}

#[test]
fn an_endpoint_that_asks_for_a_second_has_room_for_the_request_that_it_had() {
    let turn = AtomicUsize::new(0);
    let up = Upstream::start(move |_| {
        let first = turn.fetch_add(1, Ordering::SeqCst) == 0;
        if first { Reply::new(429, "").header("Retry-After", "1") } else { Reply::ok("up") }
    });
    let settings = "circuit_breaker: { connections: 1 }, retries: { on: [{ status: 429 }] }";
    assert_eq!(gateway(&[up.address()], settings).get("/").text(), "up");
}

#[test]
fn an_endpoint_that_failed_a_request_is_not_busy_with_it_any_more() {
    let dead = Refusing::new();
    let up = Upstream::start(|_| Reply::raw_open("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin"));
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\", {{ address: \"{}\", priority: 1 }}] }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        dead.address(),
        up.address()
    ));
    let mut client = gateway.client();
    client.write(request("GET", "/", &[]).as_bytes());
    eventually("it streams", || !up.seen().is_empty());
    let status = gateway.status();
    let busy = |i: usize| status["upstreams"][0]["endpoints"][i]["in_flight"].clone();
    assert_eq!((busy(0), busy(1)), (0.into(), 1.into()));
}
