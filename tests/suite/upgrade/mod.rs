//! One process takes over from another; what goes wrong on the way changes nothing.

mod drain;
mod failures;
mod leaks;
mod reload;
mod selftest;

use rustix::process::Signal;

use crate::support::{Gateway, Reply, Upstream, eventually};

fn config(up: &Upstream, rest: &str) -> String {
    format!("upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\n{rest}", up.address())
}

const ROUTE: &str = "routes: [{ name: a, upstream: up }]\n";

/// Whether a process is there.
pub fn is_alive(pid: u64) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn an_upgrade_replaces_the_process_on_the_same_addresses() {
    let up = Upstream::named("up");
    let gateway = Gateway::replaceable(&config(&up, ROUTE));
    let first = gateway.main();
    let (code, said) = gateway.torana(&["upgrade"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("has taken over from process {first} (version ")), "{said}");
    let second = gateway.main();
    assert_ne!(first, second);
    eventually("the old process ends", || !is_alive(first));
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(gateway.status()["pid"], second);
    let third = gateway.upgrade();
    assert_eq!((gateway.get("/").status, gateway.main()), (200, third));
}

#[test]
fn sigusr2_and_sigquit_upgrade_too() {
    let up = Upstream::named("up");
    for signal in [Signal::USR2, Signal::QUIT] {
        let gateway = Gateway::replaceable(&config(&up, ROUTE));
        let first = gateway.main();
        gateway.signal(signal);
        eventually("another process serves", || gateway.main() != first);
        assert_eq!(gateway.get("/").status, 200);
    }
}

#[test]
fn limits_count_on_in_the_new_process() {
    let up = Upstream::named("up");
    let limited =
        "routes: [{ name: a, policies: [{ rate_limit: { key: client_ip, limits: [5/h] } }], upstream: up }]\n";
    let gateway = Gateway::replaceable(&config(&up, limited));
    for used in 1..=4 {
        let answer = gateway.get("/");
        assert_eq!(answer.status, 200);
        assert!(answer.header("ratelimit").unwrap().contains(&format!("r={}", 5 - used)));
        gateway.upgrade();
    }
    assert_eq!([gateway.get("/").status, gateway.get("/").status], [200, 429]);
}

#[test]
fn the_new_process_knows_who_is_sick() {
    let sick = Upstream::start(|request| Reply::new(if request.target == "/healthz" { 500 } else { 200 }, "sick"));
    let well = Upstream::named("well");
    let yaml = |health: &str| {
        format!(
            "upstreams:\n  up:\n    endpoints: [\"{}\", \"{}\"]\n    health: {{ http: {{ path: /healthz }}, {health} }}\n{ROUTE}",
            sick.address(),
            well.address()
        )
    };
    let gateway = Gateway::replaceable(&yaml("interval: 100ms, unhealthy_after: 1"));
    let series = format!("torana_endpoint_healthy{{endpoint=\"{}\",upstream=\"up\"}} 0", sick.address());
    let is_sick = || gateway.ask_admin("/metrics").text().contains(&series);
    eventually("the endpoint is found sick", is_sick);
    // The new process would need a hundred hours to find out by itself.
    gateway.write_config(&yaml("interval: 1h, unhealthy_after: 100"));
    gateway.upgrade();
    assert!(is_sick());
    for _ in 0..10 {
        assert_eq!(gateway.get("/").text(), "well");
    }
}

#[test]
fn status_tells_people_what_they_want_to_know() {
    let up = Upstream::named("up");
    let gateway = Gateway::replaceable(&config(&up, ROUTE));
    let (code, said) = gateway.torana(&["status"]);
    assert_eq!(code, Some(0), "{said}");
    for part in [
        env!("CARGO_PKG_VERSION"),
        &format!("process {}", gateway.main()),
        "generation   1",
        &gateway.address().to_string(),
        "up: 1 of 1 endpoints can be used",
    ] {
        assert!(said.contains(part), "{part} in\n{said}");
    }
    gateway.write_config("routes: nonsense\n");
    let (code, said) = gateway.torana(&["reload"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("refused") && said.contains("torana.yaml:"), "{said}");
    let (_, said) = gateway.torana(&["status"]);
    assert!(said.contains("FAILED: ") && said.contains("generation   1"), "{said}");
    gateway.write_config(&config(&up, "routes: [{ name: b, match: { path: /b }, upstream: up }]\n"));
    let (code, said) = gateway.torana(&["reload"]);
    assert_eq!((code, said.as_str()), (Some(0), "generation 2 is live\n"));
    assert_eq!(gateway.get("/a").status, 404);
}

#[test]
fn a_gateway_that_is_not_there_is_said_to_be_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    let output = crate::support::torana().args(["status", "--socket"]).arg(&socket).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("none.sock") && said.contains("is the gateway running"), "{said}");
}
