//! Which endpoints come first: zones, priorities, and those that have just come back.

use std::net::SocketAddr;

use super::{answers, different, wait_for_health};
use crate::support::{Gateway, Refusing, Reply, Upstream, eventually};

fn of(answers: &[String], name: &str) -> usize {
    answers.iter().filter(|answer| *answer == name).count()
}

const CHECKED: &str = "health: { interval: 100ms, unhealthy_after: 1, healthy_after: 1 }, retries: { attempts: 0 }";

#[test]
fn endpoints_of_the_same_zone_come_first_and_the_others_take_over_what_they_cannot_carry() {
    let (one, two) = (Upstream::named("one"), Upstream::named("two"));
    let far = Upstream::named("far");
    let gateway = Gateway::start(&format!(
        "zone: a
upstreams:
  up:
    endpoints: [{{ address: \"{}\", zone: b }}, {{ address: \"{}\", zone: a }}, {{ address: \"{}\", zone: a }}]
    {}
routes: [{{ name: r, upstream: up }}]\n",
        far.address(),
        one.address(),
        two.address(),
        CHECKED.replace("}, ", "}\n    "),
    ));
    wait_for_health(&gateway, one.address(), true);
    wait_for_health(&gateway, two.address(), true);
    let all = answers(&gateway, 60);
    assert_eq!(different(&all), ["one", "two"].into());
    assert!(of(&all, "one") >= 20 && of(&all, "two") >= 20);

    let address = two.address();
    drop(two);
    wait_for_health(&gateway, address, false);
    // The one that is left carries 1.4 times its share, which is 70 % of all.
    let all = answers(&gateway, 200);
    assert_eq!(different(&all), ["far", "one"].into());
    assert!((100..=180).contains(&of(&all, "one")), "{}", of(&all, "one"));

    let address = one.address();
    drop(one);
    wait_for_health(&gateway, address, false);
    assert_eq!(different(&answers(&gateway, 20)), ["far"].into());
}

/// A gateway with an endpoint that was away, and is back from now on.
fn back(slow_start: &str) -> (Gateway, [Upstream; 2]) {
    let (away, there) = (Refusing::new(), Upstream::named("there"));
    let gateway = super::gateway(
        &[away.address(), there.address()],
        &format!("balance: round_robin, slow_start: {slow_start}, {CHECKED}"),
    );
    wait_for_health(&gateway, away.address(), false);
    assert_eq!(different(&answers(&gateway, 10)), ["there"].into());
    let address: SocketAddr = away.address();
    let back = Upstream::from(away.listen(), |_| Reply::ok("back"));
    wait_for_health(&gateway, address, true);
    (gateway, [back, there])
}

#[test]
fn an_endpoint_that_is_back_begins_with_a_small_share() {
    let (gateway, _ups) = back("10m");
    let all = answers(&gateway, 300);
    let share = of(&all, "back");
    assert!((1..=60).contains(&share), "{share} of 300, whose whole share is 150");
}

#[test]
fn an_endpoint_that_is_back_for_long_enough_has_its_whole_share() {
    let (gateway, _ups) = back("500ms");
    eventually("its share is a half", || of(&answers(&gateway, 20), "back") == 10);
}
