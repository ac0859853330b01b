//! A second endpoint is asked where the first one takes long.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use super::{answers, different, gateway};
use crate::support::{Authority, Bare, Gateway, Reply, Response, Upstream, eventually, http2, read_head, request};

fn slow(name: &'static str, millis: u64) -> Upstream {
    Upstream::start(move |_| Reply::ok(name).after(Duration::from_millis(millis)))
}

fn hedges(gateway: &Gateway, outcome: &str) -> f64 {
    gateway.metric(&format!("torana_upstream_hedges_total{{outcome=\"{outcome}\",upstream=\"up\"}}"))
}

fn timed(gateway: &Gateway, method: &str) -> (Response, Duration) {
    let began = Instant::now();
    let answer = gateway.send(method, "/", &[]);
    (answer, began.elapsed())
}

const HEDGE: &str = "hedge: { after: 100ms }, retries: { attempts: 0 }";

#[test]
fn the_answer_that_begins_first_is_taken() {
    let (late, fast) = (slow("late", 2_000), Upstream::named("fast"));
    let hedged = gateway(&[late.address(), fast.address()], HEDGE);
    for method in ["GET", "HEAD", "OPTIONS", "GET", "GET", "GET"] {
        let (answer, took) = timed(&hedged, method);
        assert_eq!(answer.status, 200);
        assert!(took < Duration::from_secs(1), "{method}: {took:?}");
    }
    assert_eq!(different(&answers(&hedged, 6)), ["fast"].into(), "on one connection of a client too");
    assert!(
        !late.seen().is_empty() && hedges(&hedged, "won") >= 3.0 && hedges(&hedged, "sent") >= hedges(&hedged, "won")
    );
    // The same bytes: whoever answers sees what the other one sees.
    let heads: std::collections::BTreeSet<_> =
        late.seen().iter().map(|seen| seen.header("traceparent").unwrap().to_owned()).collect();
    assert!(fast.seen().iter().filter(|seen| heads.contains(seen.header("traceparent").unwrap())).count() >= 3);
}

#[test]
fn nothing_is_asked_twice_that_is_answered_in_time_or_may_not_be() {
    let ups = [slow("one", 20), slow("two", 20)];
    let quick = gateway(&[ups[0].address(), ups[1].address()], HEDGE);
    answers(&quick, 20);
    assert_eq!(ups[0].seen().len() + ups[1].seen().len(), 20);
    let ups = [slow("one", 300), slow("two", 300)];
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", h2c: true }}]
upstreams: {{ up: {{ endpoints: [\"{}\", \"{}\"], {HEDGE} }} }}
routes: [{{ name: r, upstream: up }}]\n",
        ups[0].address(),
        ups[1].address()
    ));
    let mut client = gateway.client();
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        client.write((request(method, "/", &[("Content-Length", "2")]) + "ab").as_bytes());
        assert_eq!(client.read_answer_to(method).status, 200);
    }
    client.write((request("GET", "/", &[("Transfer-Encoding", "chunked")]) + "2\r\nab\r\n0\r\n\r\n").as_bytes());
    assert_eq!(client.read_answer_to("GET").status, 200);
    client.write((request("GET", "/", &[("Content-Length", "70000")]) + &"a".repeat(70_000)).as_bytes());
    assert_eq!(client.read_answer_to("GET").status, 200);
    assert_eq!(http2::send(&gateway, "GET", "/", &[], &[3]).status, 200);
    assert!(hedges(&gateway, "sent").abs() < 0.1, "{}", hedges(&gateway, "sent"));
    assert_eq!(gateway.get("/").status, 200);
    assert!((hedges(&gateway, "sent") - 1.0).abs() < 0.1);
}

#[test]
fn a_second_endpoint_that_fails_does_not_spoil_the_first_answer() {
    for reply in [Reply::new(503, "bad"), Reply::hang_up(), Reply::new(500, "bad").after(Duration::from_millis(50))] {
        let (good, bad) = (slow("good", 400), Upstream::start(move |_| reply.clone()));
        // By priority, so that the good one is always the first.
        let gateway = Gateway::start(&format!(
            "upstreams: {{ up: {{ endpoints: [\"{}\", {{ address: \"{}\", priority: 1 }}], {HEDGE} }} }}
routes: [{{ name: r, upstream: up }}]\n",
            good.address(),
            bad.address()
        ));
        for _ in 0..3 {
            assert_eq!(gateway.get("/").text(), "good");
        }
        assert_eq!(bad.seen().len(), 3);
    }
}

#[test]
fn a_first_endpoint_that_breaks_off_meanwhile_is_made_up_for() {
    let broken = Upstream::start(|_| Reply::hang_up().after(Duration::from_millis(200)));
    let good = slow("good", 300);
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\", {{ address: \"{}\", priority: 1 }}], {HEDGE} }} }}
routes: [{{ name: r, upstream: up }}]\n",
        broken.address(),
        good.address()
    ));
    for _ in 0..3 {
        assert_eq!(gateway.get("/").text(), "good");
    }
}

#[test]
fn asking_twice_comes_out_of_the_budget_and_leaves_nothing_behind() {
    let ups = [slow("one", 150), slow("two", 150)];
    let gateway = gateway(&[ups[0].address(), ups[1].address()], "hedge: { after: 20ms }, retries: { attempts: 0 }");
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| answers(&gateway, 10));
        }
    });
    let tries = ups[0].seen().len() + ups[1].seen().len();
    assert!((110..=130).contains(&tries), "{tries} tries of 100 requests: a fifth more, and ten");
    let status = gateway.status();
    let endpoints = status["upstreams"][0]["endpoints"].as_array().unwrap();
    assert!(endpoints.iter().all(|endpoint| endpoint["in_flight"] == 0), "{endpoints:?}");
}

#[test]
fn connections_are_kept_whether_a_second_endpoint_is_asked_or_not() {
    let ups = [slow("one", 20), slow("two", 20)];
    let gateway = gateway(&[ups[0].address(), ups[1].address()], "hedge: { after: 5s }");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| answers(&gateway, 20));
        }
    });
    let opened = ups[0].connections() + ups[1].connections();
    assert!(opened <= 16, "{opened} connections for 160 requests, of which 8 came at a time, to two endpoints");
}

#[test]
fn who_answers_is_who_is_logged_counted_and_stuck_to() {
    let (late, fast) = (slow("late", 1_000), Upstream::named("fast"));
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\", {{ address: \"{}\", priority: 1 }}], {HEDGE}, sticky: {{ cookie: home }} }} }}
routes: [{{ name: r, upstream: up }}]
telemetry: {{ access_log: {{}} }}\n",
        late.address(),
        fast.address()
    ));
    let answer = gateway.get("/first");
    assert_eq!(answer.text(), "fast");
    let line = gateway.access_lines(1).remove(0);
    assert_eq!(line["endpoint"], fast.address().to_string());
    assert!(line["upstream_ms"].as_f64().unwrap() < 900.0, "{line}");
    let counted = |up: &Upstream| {
        gateway.metric(&format!(
            "torana_upstream_requests_total{{endpoint=\"{}\",status=\"2xx\",upstream=\"up\"}}",
            up.address()
        ))
    };
    gateway.wait_for_metric("torana_upstream_hedges_total{outcome=\"won\",upstream=\"up\"}", 1.0);
    assert!(counted(&late) < 0.5 && (counted(&fast) - 1.0).abs() < 0.1);
    let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let before = late.seen().len();
    assert_eq!(gateway.send("GET", "/again", &[("Cookie", &cookie)]).text(), "fast");
    assert_eq!(late.seen().len(), before, "the session is at home with who answered");
    // A request is over a moment after its client has the answer.
    eventually("nothing is in flight", || {
        gateway.status()["upstreams"][0]["endpoints"].as_array().unwrap().iter().all(|one| one["in_flight"] == 0)
    });
}

#[test]
fn endpoints_that_speak_tls_are_asked_twice_and_verified_twice() {
    let authority = Authority::new("ours");
    let late = Upstream::tls(authority.server("orders.internal"), |_| Reply::ok("late").after(Duration::from_secs(1)));
    for (name, wanted) in [("orders.internal", "fast"), ("evil.internal", "late")] {
        let fast = Upstream::tls(authority.server(name), |_| Reply::ok("fast"));
        let yaml = format!(
            "upstreams: {{ up: {{ endpoints: [\"{}\", {{ address: \"{}\", priority: 1 }}], {HEDGE}, tls: {{ server_name: orders.internal, ca: ca.pem }} }} }}
routes: [{{ name: r, upstream: up }}]\n",
            late.address(),
            fast.address()
        );
        let gateway =
            Gateway::start_with(&yaml, |folder, _| std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap());
        assert_eq!(answers(&gateway, 2), [wanted; 2]);
        assert_eq!(fast.seen().is_empty(), wanted == "late");
    }
}

#[test]
fn methods_that_change_something_are_asked_twice_where_the_file_says_so() {
    let (late, fast) = (slow("late", 1_000), Upstream::named("fast"));
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\", {{ address: \"{}\", priority: 1 }}], retries: {{ attempts: 0 }}, hedge: {{ after: 100ms, methods: [PUT, DELETE] }} }} }}
routes: [{{ name: r, upstream: up }}]\n",
        late.address(),
        fast.address()
    ));
    let mut client = gateway.client();
    for (method, wanted) in [("PUT", "fast"), ("DELETE", "fast"), ("GET", "late"), ("POST", "late")] {
        // The body comes in two pieces, the second one after the time for a hedge, which begins when all was sent.
        client.write((request(method, "/", &[("Content-Length", "4")]) + "ab").as_bytes());
        std::thread::sleep(Duration::from_millis(150));
        client.write(b"cd");
        assert_eq!(client.read_answer_to(method).text(), wanted, "{method}");
    }
    assert_eq!(fast.seen().iter().map(|seen| &*seen.body).collect::<Vec<_>>(), [b"abcd", b"abcd"]);
}

#[test]
fn a_kept_connection_that_the_endpoint_has_closed_costs_no_request() {
    // It says nothing of that, and closes while the next request is on its way.
    let up = Bare::start(|stream, _| {
        if read_head(stream).is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup").unwrap();
            let _ = read_head(stream);
        }
    });
    let gateway = gateway(&[up.address()], "hedge: { after: 5s }, retries: { attempts: 0 }");
    let mut client = gateway.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").status, 200);
    }
    assert!(up.connections() > 10, "{}", up.connections());
}
