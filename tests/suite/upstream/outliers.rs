//! Endpoints that fail requests are left out, whatever health checks say.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{answers, different, gateway, named};
use crate::support::{Gateway, Refusing, Reply, Upstream, eventually};

const OUTLIERS: &str =
    "retries: { attempts: 0 }, outliers: { consecutive_failures: 3, ejected_for: 1500ms, interval: 1s }";

fn is_ejected(gateway: &Gateway, up: &Upstream) -> bool {
    let status = gateway.status();
    let endpoints = status["upstreams"][0]["endpoints"].as_array().unwrap();
    let address = up.address().to_string();
    endpoints.iter().any(|endpoint| endpoint["address"] == address && endpoint["ejected"] == true)
}

#[test]
fn failures_in_a_row_take_an_endpoint_out_and_it_comes_back() {
    let ill = Arc::new(AtomicBool::new(true));
    let is_ill = Arc::clone(&ill);
    let bad =
        Upstream::start(move |_| if is_ill.load(Ordering::SeqCst) { Reply::new(503, "bad") } else { Reply::ok("bad") });
    let well = Upstream::named("well");
    let gateway = gateway(&[bad.address(), well.address()], OUTLIERS);
    let failed = answers(&gateway, 100).iter().filter(|answer| *answer == "bad").count();
    assert_eq!(failed, 3, "three in a row, and no more");
    assert!(is_ejected(&gateway, &bad));
    assert!(gateway.log().contains(&format!("endpoint {} is left out for 1.5s: 3 failures in a row", bad.address())));
    let series = format!("{{endpoint=\"{}\",upstream=\"up\"}}", bad.address());
    assert!((gateway.metric(&format!("torana_endpoint_ejected{series}")) - 1.0).abs() < 0.1);

    ill.store(false, Ordering::SeqCst);
    eventually("it is asked again", || gateway.get("/").text() == "bad");
    assert_eq!(different(&answers(&gateway, 10)), ["bad", "well"].into());
    gateway.wait_for_metric(&format!("torana_endpoint_ejected{series}"), 0.0);
    assert!((gateway.metric(&format!("torana_endpoint_ejections_total{series}")) - 1.0).abs() < 0.1);
}

#[test]
fn broken_and_late_answers_are_failures_and_others_are_not() {
    for (reply, counts) in [
        (Reply::hang_up(), true),
        (Reply::ok("late").after(Duration::from_secs(3)), true),
        (Reply::new(502, ""), true),
        (Reply::new(504, ""), true),
        (Reply::new(500, ""), false),
        (Reply::new(429, ""), false),
    ] {
        let bad = Upstream::start(move |_| reply.clone());
        let well = Upstream::named("well");
        let settings = format!("timeouts: {{ read: 200ms }}, {OUTLIERS}");
        let gateway = gateway(&[bad.address(), well.address()], &settings);
        (0..12).for_each(|_| drop(gateway.get("/")));
        assert_eq!(is_ejected(&gateway, &bad), counts, "{:?}", gateway.log());
    }
}

#[test]
fn a_dead_endpoint_is_asked_no_more_after_its_failures() {
    let dead = Refusing::new();
    let ([well], [address]) = named(["well"]);
    let gateway = gateway(
        &[dead.address(), address],
        "retries: { attempts: 1 }, outliers: { consecutive_failures: 3, ejected_for: 1h, max_ejected_for: 1h }",
    );
    assert_eq!(different(&answers(&gateway, 50)), ["well"].into());
    let failures =
        gateway.metric(&format!("torana_upstream_failures_total{{endpoint=\"{}\",upstream=\"up\"}}", dead.address()));
    assert!((failures - 3.0).abs() < 0.1, "{failures}");
    assert_eq!(well.seen().len(), 50);
}

#[test]
fn at_most_half_of_the_endpoints_are_left_out() {
    let bad: Vec<Upstream> = (0..5).map(|_| Upstream::start(|_| Reply::new(503, "bad"))).collect();
    let addresses: Vec<_> = bad.iter().map(Upstream::address).collect();
    let gateway = gateway(&addresses, OUTLIERS);
    answers(&gateway, 50);
    assert_eq!(bad.iter().filter(|up| is_ejected(&gateway, up)).count(), 2);
    assert!(bad.iter().filter(|up| up.seen().len() > 5).count() == 3, "the others are asked on");
}

#[test]
fn who_fails_more_than_the_others_is_left_out_without_a_row() {
    let turn = std::sync::atomic::AtomicUsize::new(0);
    let bad = Upstream::start(move |_| {
        Reply::new(if turn.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) { 503 } else { 200 }, "bad")
    });
    let ([_one, _other], [one, other]) = named(["one", "other"]);
    let gateway = gateway(
        &[bad.address(), one, other],
        "retries: { attempts: 0 }, outliers: { failure_rate: { requests: 20 }, interval: 1s, ejected_for: 1h, max_ejected_for: 1h }",
    );
    eventually("it is left out", || {
        answers(&gateway, 60);
        is_ejected(&gateway, &bad)
    });
    assert!(gateway.log().contains("requests failed, 0 % of those to the others"), "{}", gateway.log());
    assert_eq!(different(&answers(&gateway, 10)), ["one", "other"].into());
}

#[test]
fn an_ejection_outlives_a_reload_and_the_process() {
    let bad = Upstream::start(|_| Reply::new(503, "bad"));
    let well = Upstream::named("well");
    let settings =
        "retries: { attempts: 0 }, outliers: { consecutive_failures: 2, ejected_for: 1h, max_ejected_for: 1h }";
    let file = super::config(&[bad.address(), well.address()], settings);
    let gateway = Gateway::replaceable(&file);
    answers(&gateway, 10);
    let seen = bad.seen().len();
    assert_eq!(seen, 2);
    gateway.reload(&file.replace("name: r,", "name: other,"));
    assert_eq!(different(&answers(&gateway, 10)), ["well"].into());
    gateway.upgrade();
    assert_eq!(different(&answers(&gateway, 10)), ["well"].into());
    assert!(is_ejected(&gateway, &bad));
    assert_eq!(bad.seen().len(), seen);
}
