//! Active health checks, and what follows from them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{answers, config, different, gateway, is_healthy, named, wait_for_health};
use crate::support::{Gateway, Recorded, Refusing, Reply, Upstream, eventually};

/// So that no failure of a request is hidden.
const NO_RETRIES: &str = "retries: { attempts: 0 }";

fn is_check(request: &Recorded) -> bool {
    request.header("user-agent") == Some("torana-health")
}

/// Answers checks with a status that can be changed, and requests with its name.
fn switched(name: &'static str, good: u16, bad: u16) -> (Upstream, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&well);
    let up = Upstream::start(move |request| {
        let status = if well.load(Ordering::SeqCst) { good } else { bad };
        Reply::new(if is_check(request) { status } else { 200 }, name)
    });
    (up, switch)
}

#[test]
fn without_http_a_check_is_a_connection() {
    let (dead, well) = (Refusing::new(), Upstream::named("well"));
    let address = dead.address();
    let gateway = gateway(
        &[address, well.address()],
        &format!("health: {{ interval: 100ms, unhealthy_after: 1 }}, {NO_RETRIES}"),
    );
    wait_for_health(&gateway, address, false);
    assert_eq!(different(&answers(&gateway, 20)), ["well"].into());
    assert!(well.seen().iter().all(|request| request.target == "/"), "no request is made for a check");

    let _back = Upstream::from(dead.listen(), |_| Reply::ok("back"));
    wait_for_health(&gateway, address, true);
    assert_eq!(different(&answers(&gateway, 20)), ["well", "back"].into());
}

#[test]
fn a_check_asks_for_the_path_with_the_host_and_says_who_it_is() {
    let up = Upstream::named("up");
    let _plain = gateway(&[up.address()], "health: { http: { path: /healthz } }");
    eventually("a check", || !up.seen().is_empty());
    let check = up.only();
    assert_eq!((check.method.as_str(), check.target.as_str()), ("GET", "/healthz"));
    assert_eq!(check.header("host"), Some("up"));
    assert!(is_check(&check), "{check:?}");

    let other = Upstream::named("other");
    let _with_host = gateway(&[other.address()], "health: { http: { path: /h, host: \"health.example:81\" } }");
    eventually("a check", || !other.seen().is_empty());
    assert_eq!(other.only().header("host"), Some("health.example:81"));
}

#[test]
fn an_endpoint_that_turns_bad_gets_no_traffic_until_it_is_good_again() {
    let (one, switch) = switched("one", 200, 500);
    let two = Upstream::named("two");
    let health = "health: { http: { path: /healthz }, interval: 100ms, healthy_after: 2, unhealthy_after: 2 }";
    let gateway = gateway(&[one.address(), two.address()], &format!("{health}, {NO_RETRIES}"));
    eventually("checks of both", || !one.seen().is_empty() && !two.seen().is_empty());
    assert_eq!(different(&answers(&gateway, 10)), ["one", "two"].into());

    switch.store(false, Ordering::SeqCst);
    wait_for_health(&gateway, one.address(), false);
    assert_eq!(different(&answers(&gateway, 20)), ["two"].into());
    let log = gateway.log();
    assert!(log.contains(&format!("endpoint {} is unhealthy: ", one.address())) && log.contains("500"), "{log}");
    let endpoints = gateway.status()["upstreams"].to_string();
    assert!(endpoints.contains("\"healthy\":false") && endpoints.contains("\"healthy\":true"), "{endpoints}");

    switch.store(true, Ordering::SeqCst);
    wait_for_health(&gateway, one.address(), true);
    assert_eq!(different(&answers(&gateway, 10)), ["one", "two"].into());
    assert!(gateway.log().contains(&format!("endpoint {} is healthy again", one.address())));
}

#[test]
fn only_the_statuses_that_are_listed_pass() {
    let (one, other) = (switched("one", 401, 401).0, switched("other", 200, 200).0);
    let health = "health: { http: { status: [401, 403] }, interval: 100ms, unhealthy_after: 1 }";
    let gateway = gateway(&[one.address(), other.address()], health);
    wait_for_health(&gateway, other.address(), false);
    assert!(is_healthy(&gateway, one.address()));
    assert_eq!(different(&answers(&gateway, 10)), ["one"].into());
}

#[test]
fn without_a_list_any_success_passes_and_a_redirect_does_not() {
    let (one, other) = (switched("one", 204, 204).0, switched("other", 302, 302).0);
    let gateway =
        gateway(&[one.address(), other.address()], "health: { http: {}, interval: 100ms, unhealthy_after: 1 }");
    wait_for_health(&gateway, other.address(), false);
    assert!(is_healthy(&gateway, one.address()));
}

#[test]
fn it_takes_so_many_failures_in_a_row() {
    let checks = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&checks);
    // Two of three checks fail.
    let up = Upstream::start(move |request| {
        let turn = if is_check(request) { count.fetch_add(1, Ordering::SeqCst) } else { 0 };
        Reply::new(if turn % 3 == 0 { 200 } else { 500 }, "up")
    });
    let health = |after: u32| format!("health: {{ http: {{}}, interval: 100ms, unhealthy_after: {after} }}");
    let gateway = gateway(&[up.address()], &health(3));
    eventually("many checks", || checks.load(Ordering::SeqCst) > 12);
    assert!(!gateway.log().contains("is unhealthy"), "{}", gateway.log());
    gateway.reload(&config(&[up.address()], &health(2)));
    eventually("the row was long enough", || gateway.log().contains("is unhealthy"));
}

#[test]
fn it_takes_so_many_successes_in_a_row() {
    let (up, switch) = switched("up", 200, 500);
    let health = "health: { http: {}, interval: 100ms, unhealthy_after: 1, healthy_after: 5 }";
    let well = Upstream::named("well");
    let gateway = gateway(&[up.address(), well.address()], health);
    switch.store(false, Ordering::SeqCst);
    wait_for_health(&gateway, up.address(), false);
    let before = up.seen().len();
    switch.store(true, Ordering::SeqCst);
    wait_for_health(&gateway, up.address(), true);
    // One check may have been under way when the switch was turned.
    assert!(up.seen().len() >= before + 4, "{} to {}", before, up.seen().len());
}

#[test]
fn checks_keep_their_interval() {
    let up = Upstream::named("up");
    let gateway = gateway(&[up.address()], "health: { http: {}, interval: 300ms }");
    let began = Instant::now();
    eventually("six checks", || up.seen().len() >= 6);
    let took = began.elapsed();
    // Five pauses, each up to a tenth shorter; the first check may have been made before the clock ran.
    assert!(took > Duration::from_millis(4 * 270), "{took:?}");
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn a_check_without_an_answer_in_time_has_failed() {
    let up = Upstream::start(|request| {
        Reply::ok("slow").after(if is_check(request) { Duration::from_secs(20) } else { Duration::ZERO })
    });
    let well = Upstream::named("well");
    let health = "health: { http: {}, interval: 100ms, timeout: 200ms, unhealthy_after: 1 }";
    let gateway = gateway(&[up.address(), well.address()], health);
    wait_for_health(&gateway, up.address(), false);
    assert_eq!(different(&answers(&gateway, 10)), ["well"].into());
}

#[test]
fn without_a_healthy_endpoint_the_answer_is_503_at_once() {
    let (up, switch) = switched("up", 200, 500);
    let health = "health: { http: {}, interval: 100ms, unhealthy_after: 1 }, retries: { attempts: 5 }";
    let gateway = gateway(&[up.address()], health);
    switch.store(false, Ordering::SeqCst);
    wait_for_health(&gateway, up.address(), false);
    let mut client = gateway.client();
    let began = Instant::now();
    let answer = client.get("/");
    let took = began.elapsed();
    assert_eq!((answer.status, answer.problem().as_str()), (503, "no_healthy_endpoint"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(up.seen().iter().all(is_check), "{:?}", up.last());
    gateway.wait_for_metric("torana_rejects_total{reject=\"no_healthy_endpoint\",route=\"r\"}", 1.0);
}

#[test]
fn a_sick_endpoint_stays_sick_over_reloads_that_change_what_is_around_it() {
    let (sick, switch) = switched("sick", 200, 500);
    let (_others, [b, c]) = named(["b", "c"]);
    let sick_at = sick.address();
    let health = "health: { http: {}, interval: 100ms, unhealthy_after: 1 }";
    let yaml = |endpoints: &str, health: &str| {
        format!(
            "upstreams: {{ up: {{ endpoints: [{endpoints}], {health} }} }}\nroutes: [{{ name: r, upstream: up }}]\n"
        )
    };
    let gateway = Gateway::start(&yaml(&format!("\"{sick_at}\", \"{b}\""), health));
    switch.store(false, Ordering::SeqCst);
    wait_for_health(&gateway, sick_at, false);
    for (endpoints, expected) in [
        (format!("\"{b}\", {{ address: \"{sick_at}\", weight: 100 }}"), ["b"].as_slice()),
        (format!("\"{c}\", \"{sick_at}\", \"{b}\""), &["b", "c"]),
    ] {
        // From now on there is no check but the first.
        gateway.reload(&yaml(&endpoints, "health: { http: {}, interval: 1h, unhealthy_after: 1 }, balance: random"));
        assert_eq!(different(&answers(&gateway, 30)), expected.iter().copied().collect());
    }
}

#[test]
fn checks_that_are_no_longer_asked_for_end() {
    let up = Upstream::named("up");
    let gateway = gateway(&[up.address()], "health: { http: {}, interval: 100ms }");
    eventually("a check", || up.seen().len() > 2);
    gateway.reload(&config(&[up.address()], ""));
    // One may be under way.
    std::thread::sleep(Duration::from_millis(150));
    let before = up.seen().len();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(up.seen().len(), before);
}

#[test]
fn where_none_is_left_the_first_good_check_brings_traffic_back() {
    let (up, switch) = switched("up", 200, 500);
    let gateway =
        gateway(&[up.address()], "health: { http: {}, interval: 500ms, unhealthy_after: 1, healthy_after: 50 }");
    switch.store(false, Ordering::SeqCst);
    wait_for_health(&gateway, up.address(), false);
    assert_eq!(gateway.get("/").status, 503);
    switch.store(true, Ordering::SeqCst);
    let checks = up.seen().len();
    eventually("a good check", || up.seen().len() > checks + 1);
    let good = Instant::now();
    eventually("traffic is back", || gateway.get("/").status == 200);
    assert!(good.elapsed() < Duration::from_secs(2), "{:?}", good.elapsed());
}
