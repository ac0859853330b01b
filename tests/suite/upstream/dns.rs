//! Endpoints that are names: resolved again when their time is over, and never forgotten because of a bad answer.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use super::{answers, different};
use crate::support::{Dns, Gateway, Reply, Says, Upstream, eventually};

/// Upstreams on different addresses with the same port; each answers with its name.
fn neighbours<const N: usize>(all: [(&str, &'static str); N]) -> (u16, [Upstream; N]) {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        drop(first);
        let bind = |ip: &str| TcpListener::bind(SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port)).ok();
        let listeners: Vec<_> = all.iter().filter_map(|(ip, name)| Some((bind(ip)?, *name))).collect();
        if let Ok(listeners) = <[_; N]>::try_from(listeners) {
            return (port, listeners.map(|(listener, name)| Upstream::from(listener, move |_| Reply::ok(name))));
        }
    }
    panic!("no port is free on all of {all:?}");
}

fn config(dns: &Dns, endpoints: &str, settings: &str) -> String {
    format!(
        "dns: {{ servers: [\"{}\"]{settings} }}\nupstreams: {{ up: {{ endpoints: [{endpoints}], retries: {{ attempts: 0 }} }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        dns.address()
    )
}

fn gateway(dns: &Dns, port: u16, settings: &str) -> Gateway {
    Gateway::start(&config(dns, &format!("\"orders.test:{port}\""), settings))
}

/// Who answers now.
fn who(gateway: &Gateway) -> String {
    let answers = answers(gateway, 12);
    different(&answers).into_iter().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_address_of_a_name_is_an_endpoint() {
    let (port, _up) = neighbours([("127.0.0.1", "one"), ("127.0.0.2", "two"), ("::1", "six")]);
    let dns = Dns::start(Says::addresses(&["127.0.0.1", "127.0.0.2", "::1"], 300));
    let gateway = gateway(&dns, port, "");
    assert_eq!(who(&gateway), "one six two", "from the first request on");
    let status = gateway.status()["upstreams"].to_string();
    assert!(status.contains(&format!("[::1]:{port}")) && status.contains(&format!("127.0.0.2:{port}")), "{status}");
}

#[test]
fn a_name_with_ipv6_addresses_alone_works() {
    let (port, up) = neighbours([("::1", "six")]);
    let dns = Dns::start(Says::addresses(&["::1"], 300));
    let gateway = gateway(&dns, port, "");
    assert_eq!(who(&gateway), "six");
    assert_eq!(up[0].last().header("host"), Some("test"));
}

#[test]
fn a_changed_record_moves_the_traffic_when_its_time_is_over() {
    let (port, _up) = neighbours([("127.0.0.1", "one"), ("127.0.0.2", "two")]);
    let dns = Dns::start(Says::addresses(&["127.0.0.1"], 2));
    let began = Instant::now();
    let gateway = gateway(&dns, port, "");
    assert_eq!(who(&gateway), "one");
    dns.say(Says::addresses(&["127.0.0.2"], 2));
    eventually("the traffic has moved", || who(&gateway) == "two");
    assert!(began.elapsed() > Duration::from_millis(1800), "not before its time: {:?}", began.elapsed());
    let gone = format!("endpoint=\"127.0.0.1:{port}\"");
    eventually("the metrics forget it", || !gateway.ask_admin("/metrics").text().contains(&gone));
}

#[test]
fn nobody_is_asked_before_the_time_is_over() {
    let (port, _up) = neighbours([("127.0.0.1", "one")]);
    let dns = Dns::start(Says::addresses(&["127.0.0.1"], 60));
    let gateway = gateway(&dns, port, "");
    let before = dns.questions();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(who(&gateway), "one");
    assert_eq!(dns.questions(), before);
}

#[test]
fn the_time_is_kept_within_the_bounds_of_the_configuration() {
    let (port, _up) = neighbours([("127.0.0.1", "one"), ("127.0.0.2", "two")]);
    let dns = Dns::start(Says::addresses(&["127.0.0.1"], 86_400));
    let short = gateway(&dns, port, ", max_ttl: 1s");
    dns.say(Says::addresses(&["127.0.0.2"], 0));
    eventually("a day counts as a second", || who(&short) == "two");

    let patient = gateway(&dns, port, ", min_ttl: 1h, max_ttl: 2h");
    drop(short);
    // What the first one asked last.
    std::thread::sleep(Duration::from_millis(200));
    let before = dns.questions();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(dns.questions(), before, "no time at all counts as an hour");
    assert_eq!(who(&patient), "two");
}

#[test]
fn a_name_server_that_fails_keeps_the_last_good_addresses() {
    let (port, _up) = neighbours([("127.0.0.1", "one"), ("127.0.0.2", "two")]);
    for failing in [Says::Failure, Says::NoSuchName, Says::addresses(&[], 1)] {
        let dns = Dns::start(Says::addresses(&["127.0.0.1"], 1));
        let gateway = gateway(&dns, port, "");
        assert_eq!(who(&gateway), "one");
        dns.say(failing.clone());
        eventually(&format!("{failing:?} is noticed"), || gateway.log().contains("orders.test cannot be resolved"));
        assert_eq!(who(&gateway), "one", "{failing:?}");
        dns.say(Says::addresses(&["127.0.0.2"], 1));
        eventually("it is asked again soon", || who(&gateway) == "two");
        assert_eq!(gateway.log().matches("cannot be resolved").count(), 1, "{}", gateway.log());
    }
}

#[test]
fn a_name_server_that_is_silent_keeps_the_last_good_addresses() {
    let (port, _up) = neighbours([("127.0.0.1", "one")]);
    let dns = Dns::start(Says::addresses(&["127.0.0.1"], 1));
    let gateway = gateway(&dns, port, "");
    let before = dns.questions();
    dns.say(Says::Nothing);
    eventually("it is asked in vain", || dns.questions() > before + 1);
    assert_eq!(who(&gateway), "one");
}

#[test]
fn a_name_without_an_address_is_503_at_once_until_it_has_one() {
    let (port, _up) = neighbours([("127.0.0.1", "one")]);
    let dns = Dns::start(Says::NoSuchName);
    let gateway = gateway(&dns, port, "");
    let mut client = gateway.client();
    let began = Instant::now();
    let answer = client.get("/");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "no_healthy_endpoint"));
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    dns.say(Says::addresses(&["127.0.0.1"], 60));
    eventually("it has an address", || gateway.get("/").status == 200);
}

#[test]
fn a_name_that_fails_does_not_harm_the_endpoints_beside_it() {
    let (port, up) = neighbours([("127.0.0.1", "one")]);
    let dns = Dns::start(Says::NoSuchName);
    let endpoints = format!("\"orders.test:{port}\", \"{}\"", up[0].address());
    let gateway = Gateway::start(&config(&dns, &endpoints, ""));
    assert_eq!(who(&gateway), "one");
}

#[test]
fn a_name_that_a_reload_brings_is_resolved_before_it_takes_over() {
    let (port, _up) = neighbours([("127.0.0.1", "one"), ("127.0.0.2", "two")]);
    let dns = Dns::start(Says::addresses(&["127.0.0.2"], 60));
    let gateway = Gateway::start(&config(&dns, &format!("\"127.0.0.1:{port}\""), ""));
    assert_eq!((who(&gateway).as_str(), dns.questions()), ("one", 0));
    gateway.reload(&config(&dns, &format!("\"orders.test:{port}\""), ""));
    assert_eq!(who(&gateway), "two", "no request finds it without an address");
}

#[test]
fn addresses_outlive_a_reload_while_the_name_server_fails() {
    let (port, _up) = neighbours([("127.0.0.1", "one")]);
    let dns = Dns::start(Says::addresses(&["127.0.0.1"], 1));
    let gateway = gateway(&dns, port, "");
    dns.say(Says::Failure);
    // Another setting, so that the name is looked up anew.
    gateway.reload(&config(&dns, &format!("\"orders.test:{port}\""), ", max_ttl: 100s"));
    assert_eq!(who(&gateway), "one");
}
