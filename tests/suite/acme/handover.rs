//! One process takes over from another while a certificate is ordered.

use std::sync::mpsc;

use serde_json::json;

use super::world::{World, in_time};
use crate::support::{Gateway, Reply, Upstream, eventually};

#[test]
fn the_process_that_takes_over_answers_for_the_order_of_the_one_before() {
    takes_over("");
}

#[test]
fn it_shows_the_certificate_that_the_one_before_is_asked_for() {
    takes_over("challenge: tls_alpn_01");
}

fn takes_over(section: &str) {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let slow = Upstream::start(move |request| {
        if request.target == "/slow" {
            let _ = wait.lock().unwrap().recv();
        }
        Reply::ok("hello")
    });
    let mut world = World::with(section, slow);
    // The authority hears that the challenges can be answered when the process that ordered accepts no connections any more.
    world.front.holds("POST /chalZ/");
    world.pebble(&json!({}));
    in_time("the order is under way", || world.front.count("POST /chalZ/") == 1);
    let before = world.gateway.main();
    let address = world.gateway.address();
    let request = std::thread::spawn(move || crate::support::Client::connect(address).get("/slow").text());
    eventually("the request is under way", || !world.upstream.seen().is_empty());
    let after = world.gateway.upgrade();
    assert_ne!(before, after);
    world.front.lets_go();
    world.wait_for("valid");
    assert_eq!((world.gateway.main(), world.front.orders()), (after, 1), "it orders nothing itself");
    assert_eq!(world.curl("a.test"), "hello");
    go.send(()).unwrap();
    assert_eq!(request.join().unwrap(), "hello");
}

#[test]
fn an_order_that_ends_with_its_process_is_begun_again() {
    let mut world = World::new("");
    world.front.holds("POST /chalZ/");
    world.pebble(&json!({}));
    in_time("the order is under way", || world.front.count("POST /chalZ/") == 1);
    let before = world.gateway.main();
    world.gateway.upgrade();
    in_time("the process before has ended", || !crate::upgrade::is_alive(before));
    in_time("it is ordered again", || world.front.orders() == 2);
    world.front.lets_go();
    world.wait_for("valid");
    assert_eq!((world.curl("a.test").as_str(), world.front.orders()), ("hello", 2));
}

#[test]
fn gateways_that_share_the_folder_order_once_and_answer_for_each_other() {
    let shared = tempfile::tempdir().unwrap();
    let section = format!("storage: {}", shared.path().display());
    let mut world = World::new(&section);
    // The authority reaches the first one, whichever orders.
    let others = [(), (), ()].map(|()| Gateway::replaceable(&world.same()));
    world.pebble(&json!({}));
    world.wait_for("valid");
    let state = |gateway: &Gateway| gateway.control_status()["certificates"][0].clone();
    in_time("all of them have it", || others.iter().all(|other| state(other)["state"] == "valid"));
    assert!(others.iter().all(|other| state(other) == world.certificate()));
    assert_eq!((world.front.orders(), world.front.count("POST /sign-me-up")), (1, 1));
}
