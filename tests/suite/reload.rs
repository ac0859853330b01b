//! A new configuration takes over without a request lost; a broken one changes nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;

use crate::support::{Client, Gateway, Reply, Upstream, eventually, request};

fn config(up: &Upstream, rest: &str) -> String {
    format!("upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\n{rest}", up.address())
}

const BROKEN: &str = "routes:\n  - name: r\n    upstraem: up\n    upstream: up\n";

#[test]
fn sighup_takes_a_new_file_over() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&config(&up, "routes: [{ name: a, match: { path: /a }, upstream: up }]\n"));
    assert_eq!(gateway.get("/b").status, 404);
    gateway.reload(&config(&up, "routes: [{ name: b, match: { path: /b }, upstream: up }]\n"));
    assert_eq!(gateway.get("/b").status, 200);
    assert_eq!(gateway.get("/a").status, 404);
    assert_eq!(gateway.status()["generation"], 2);
}

#[test]
fn a_broken_file_changes_nothing_and_says_why_everywhere() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&config(&up, "routes: [{ name: a, match: { path: /a }, upstream: up }]\n"));
    gateway.reload(&config(&up, BROKEN));
    assert_eq!(gateway.get("/a").status, 200);
    let status = gateway.status();
    assert_eq!(status["generation"], 1);
    assert_eq!(status["last_reload"]["ok"], false);
    let error = status["last_reload"]["error"].as_str().unwrap();
    assert!(error.contains("torana.yaml:") && error.contains("unknown key `upstraem`"), "{error}");
    assert!(gateway.log().contains("did you mean `upstream`?"), "{}", gateway.log());
    assert_eq!(gateway.metric("torana_config_last_reload_success"), 0.0);
    assert_eq!(gateway.metric("torana_reloads_total{outcome=\"failure\"}"), 1.0);
    assert_eq!(gateway.ask_admin("/ready").status, 200, "the old configuration works");

    gateway.reload(&config(&up, "routes: [{ name: b, match: { path: /b }, upstream: up }]\n"));
    assert_eq!(gateway.get("/b").status, 200);
    let status = gateway.status();
    assert_eq!((status["last_reload"]["ok"].as_bool(), status["generation"].as_u64()), (Some(true), Some(2)));
    assert_eq!(gateway.metric("torana_config_last_reload_success"), 1.0);
}

#[test]
fn a_file_that_is_watched_is_taken_over_when_it_changes() {
    let up = Upstream::named("up");
    let watch = "reload: { watch: true }\n";
    let gateway = Gateway::start(&config(&up, &format!("{watch}routes: []\n")));
    assert_eq!(gateway.get("/").status, 404);
    gateway.write_config(&config(&up, &format!("{watch}routes: [{{ name: a, upstream: up }}]\n")));
    eventually("the new route works", || gateway.get("/").status == 200);
    gateway.write_config(&config(&up, BROKEN));
    eventually("the broken file was seen", || gateway.status()["last_reload"]["ok"] == false);
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn without_watch_a_changed_file_waits_for_the_signal() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&config(&up, "routes: []\n"));
    gateway.write_config(&config(&up, "routes: [{ name: a, upstream: up }]\n"));
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(gateway.get("/").status, 404);
}

#[test]
fn a_request_in_flight_ends_on_the_snapshot_that_it_began_with() {
    let up = Upstream::start(|_| Reply::ok("up").after(Duration::from_millis(800)));
    let with_header = |value: &str| {
        config(
            &up,
            &format!(
                "routes: [{{ name: a, policies: [{{ response_headers: {{ set: {{ x-generation: \"{value}\" }} }} }}], upstream: up }}]\n"
            ),
        )
    };
    let gateway = Gateway::start(&with_header("one"));
    let mut client = gateway.client();
    client.write(request("GET", "/", &[]).as_bytes());
    eventually("the request is in flight", || !up.seen().is_empty());
    gateway.reload(&with_header("two"));
    assert_eq!(client.read().header("x-generation"), Some("one"));
    assert_eq!(gateway.get("/").header("x-generation"), Some("two"));
}

#[test]
fn a_reload_does_not_refill_the_limit() {
    let up = Upstream::named("up");
    let limited = |extra: &str| {
        config(
            &up,
            &format!(
                "routes: [{{ name: a, policies: [{{ rate_limit: {{ key: client_ip, limits: [3/h] }} }}{extra}], upstream: up }}]\n"
            ),
        )
    };
    let gateway = Gateway::start(&limited(""));
    for _ in 0..3 {
        assert_eq!(gateway.get("/").status, 200);
    }
    assert_eq!(gateway.get("/").status, 429);
    gateway.reload(&limited(", { request_id: {} }"));
    assert_eq!(gateway.get("/").status, 429);
}

#[test]
fn a_reload_does_not_forget_a_sick_endpoint() {
    let sick = Upstream::start(|request| Reply::new(if request.target == "/healthz" { 500 } else { 200 }, "sick"));
    let well = Upstream::named("well");
    let yaml = |interval: &str| {
        format!(
            "upstreams:\n  up:\n    endpoints: [\"{}\", \"{}\"]\n    health: {{ http: {{ path: /healthz }}, interval: {interval}, unhealthy_after: 1 }}\nroutes: [{{ name: a, upstream: up }}]\n",
            sick.address(),
            well.address()
        )
    };
    let gateway = Gateway::start(&yaml("100ms"));
    let series = format!("torana_endpoint_healthy{{endpoint=\"{}\",upstream=\"up\"}}", sick.address());
    eventually("the endpoint is found sick", || gateway.ask_admin("/metrics").text().contains(&format!("{series} 0")));
    gateway.reload(&yaml("1h"));
    for _ in 0..10 {
        assert_eq!(gateway.get("/").text(), "well");
    }
}

#[test]
fn reloads_under_load_lose_no_request() {
    const RELOADS: usize = 200;
    let up = Upstream::named("up");
    let good = |i: usize| {
        config(
            &up,
            &format!(
                "routes:\n  - {{ name: a, policies: [{{ response_headers: {{ set: {{ x-round: \"{i}\" }} }} }}, {{ rate_limit: {{ key: client_ip, limits: [1000000000/h] }} }}], upstream: up }}\n"
            ),
        )
    };
    let gateway = Gateway::start(&good(0));
    let (stop, served, lost) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let address = gateway.address();
    let load: Vec<_> = (0..4)
        .map(|kind| {
            let (stop, served, lost) = (Arc::clone(&stop), Arc::clone(&served), Arc::clone(&lost));
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                while !stop.load(Ordering::Relaxed) {
                    // Half of them open a connection for every request.
                    if kind % 2 == 0 {
                        client = Client::connect(address);
                    }
                    let ok = client.try_write(request("GET", "/", &[]).as_bytes())
                        && client.try_read("GET").is_some_and(|answer| answer.status == 200 && answer.text() == "up");
                    let counter = if ok { &served } else { &lost };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for i in 1..=RELOADS {
        let yaml = if i % 2 == 0 { good(i) } else { config(&up, BROKEN) };
        gateway.reload(&yaml);
        if i % 2 == 0 {
            assert_eq!(gateway.get("/").header("x-round"), Some(i.to_string().as_str()));
        }
    }
    stop.store(true, Ordering::Relaxed);
    for thread in load {
        thread.join().unwrap();
    }
    assert_eq!(lost.load(Ordering::Relaxed), 0);
    assert!(served.load(Ordering::Relaxed) > RELOADS, "{served:?}");
    assert_eq!(gateway.metric("torana_reloads_total{outcome=\"success\"}"), 1.0 + 100.0);
    assert_eq!(gateway.metric("torana_reloads_total{outcome=\"failure\"}"), 100.0);
    assert_eq!(gateway.status()["generation"], 101);
}

#[test]
fn sighup_while_starting_and_many_at_once_do_no_harm() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&config(&up, "routes: [{ name: a, upstream: up }]\n"));
    for _ in 0..50 {
        gateway.signal(Signal::HUP);
    }
    eventually("the last reload is over", || gateway.reloads() > 1.0);
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(gateway.status()["last_reload"]["ok"], true);
}

#[test]
fn a_request_in_flight_ends_before_the_process_does() {
    let up = Upstream::start(|_| Reply::ok("late").after(Duration::from_millis(700)));
    let mut gateway = Gateway::start(&config(&up, "routes: [{ name: a, upstream: up }]\n"));
    let mut client = gateway.client();
    client.write(request("GET", "/", &[]).as_bytes());
    eventually("the request is in flight", || !up.seen().is_empty());
    gateway.signal(Signal::TERM);
    assert_eq!(client.read().text(), "late");
    assert_eq!(gateway.wait(), Some(0));
}

#[test]
fn a_request_that_does_not_end_is_cut_off_after_the_grace() {
    let up = Upstream::start(|_| Reply::ok("never").after(Duration::from_secs(30)));
    let mut gateway = Gateway::start(&config(&up, "shutdown: { grace: 1s }\nroutes: [{ name: a, upstream: up }]\n"));
    let mut client = gateway.client();
    client.write(request("GET", "/", &[]).as_bytes());
    eventually("the request is in flight", || !up.seen().is_empty());
    let began = std::time::Instant::now();
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait(), Some(0));
    let took = began.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn sigint_waits_a_second_and_no_longer() {
    let up = Upstream::start(|request| {
        Reply::ok("late").after(if request.target == "/soon" {
            Duration::from_millis(400)
        } else {
            Duration::from_secs(30)
        })
    });
    let mut gateway = Gateway::start(&config(&up, "routes: [{ name: a, upstream: up }]\n"));
    let [mut soon, mut late] = ["/soon", "/late"].map(|path| {
        let mut client = gateway.client();
        client.write(request("GET", path, &[]).as_bytes());
        client
    });
    eventually("both are in flight", || up.seen().len() == 2);
    let began = std::time::Instant::now();
    gateway.signal(Signal::INT);
    assert_eq!(soon.read().text(), "late");
    assert_eq!(gateway.wait(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(late.try_read("GET").is_none());
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let up = Upstream::start(|_| Reply::ok("never").after(Duration::from_secs(30)));
    let mut gateway = Gateway::start(&config(&up, "routes: [{ name: a, upstream: up }]\n"));
    let mut client = gateway.client();
    client.write(request("GET", "/", &[]).as_bytes());
    eventually("the request is in flight", || !up.seen().is_empty());
    gateway.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(200));
    gateway.signal(Signal::INT);
    let began = std::time::Instant::now();
    assert_eq!(gateway.wait(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(3));
}
