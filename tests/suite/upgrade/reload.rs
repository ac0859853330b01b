//! A reload takes over what only a new process can, and a start survives a broken file.

use std::{fs, net::TcpStream};

use super::{ROUTE, config, is_alive};
use crate::support::{Gateway, Upstream, eventually, torana};

#[test]
fn a_listener_that_is_added_or_removed_leads_to_a_new_process() {
    let up = Upstream::named("up");
    let gateway = Gateway::replaceable(&config(&up, ROUTE));
    let first = gateway.main();
    let two = format!(
        "listeners: [{{ address: \"127.0.0.1:0\" }}, {{ address: \"127.0.0.1:0\", max_requests: 7 }}]\n{}",
        config(&up, ROUTE)
    );
    gateway.write_config(&two);
    let (code, said) = gateway.torana(&["reload"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("listeners changed: handing over to a new process"), "{said}");
    assert_ne!(gateway.main(), first);
    let status = gateway.control_status();
    let listeners: Vec<&str> =
        status["listeners"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    assert_eq!((listeners.len(), listeners[0]), (2, &*gateway.address().to_string()));
    let added: std::net::SocketAddr = listeners[1].parse().unwrap();
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(crate::support::Client::connect(added).get("/").status, 200);

    gateway.write_config(&config(&up, ROUTE));
    let (code, said) = gateway.torana(&["reload"]);
    assert_eq!(code, Some(0), "{said}");
    eventually("nobody listens there any more", || TcpStream::connect(added).is_err());
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn what_a_listener_asks_of_its_clients_is_taken_over() {
    let up = Upstream::named("up");
    let gateway = Gateway::replaceable(&config(&up, ROUTE));
    gateway.write_config(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", max_requests: 1 }}]\nworkers: 1\n{}",
        config(&up, ROUTE)
    ));
    let (code, said) = gateway.torana(&["reload"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("listeners, workers changed"), "{said}");
    assert_eq!(gateway.client().get("/").header("connection"), Some("close"));
}

#[test]
fn a_broken_file_with_other_listeners_changes_nothing() {
    let up = Upstream::named("up");
    let gateway = Gateway::replaceable(&config(&up, ROUTE));
    let first = gateway.main();
    gateway.write_config("workers: 1\nroutes: [{ name: a, upstream: nowhere }]\n");
    let (code, said) = gateway.torana(&["reload"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("nowhere"), "{said}");
    assert_eq!((gateway.main(), gateway.get("/").status), (first, 200));
}

#[test]
fn a_start_with_a_broken_file_falls_back_to_the_last_good_one_and_alarms() {
    let up = Upstream::named("up");
    let mut gateway = Gateway::replaceable(&config(&up, ROUTE));
    eventually("it is kept", || gateway.folder().join("last-good.yaml").exists());
    gateway.signal(rustix::process::Signal::TERM);
    gateway.wait();
    gateway.write_config(&config(&up, "routes: [{ name: a, upstraem: up, upstream: up }]\n"));
    gateway.restart();
    assert_eq!(gateway.get("/").status, 200);
    let (_, said) = gateway.torana(&["status"]);
    assert!(said.contains("ALARM") && said.contains("upstraem"), "{said}");
    assert_eq!(gateway.metric("torana_config_fallback"), 1.0);
    assert_eq!(gateway.metric("torana_config_last_reload_success"), 0.0);
    assert!(gateway.log().contains("ALARM: "));
    // An upgrade would not get further with that file.
    let (code, _) = gateway.torana(&["upgrade"]);
    assert_eq!(code, Some(1));
    assert_eq!(gateway.get("/").status, 200);
    // The broken file did not replace the good one, and a good one ends the alarm.
    let kept = fs::read_to_string(gateway.folder().join("last-good.yaml")).unwrap();
    assert!(!kept.contains("upstraem"));
    gateway.write_config(&config(&up, "routes: [{ name: b, upstream: up }]\n"));
    let (code, said) = gateway.torana(&["reload"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(gateway.metric("torana_config_fallback"), 0.0);
    assert!(fs::read_to_string(gateway.folder().join("last-good.yaml")).unwrap().contains("name: b"));
}

#[test]
fn without_a_file_that_worked_a_broken_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("torana.yaml");
    fs::write(&path, "listeners: nonsense\n").unwrap();
    let run =
        torana().args(["run", "--last-good", "-c"]).arg(&path).arg("--state").arg(folder.path()).output().unwrap();
    let said = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(2), "{said}");
    assert!(said.contains("there is no last configuration that worked"), "{said}");
}

#[test]
fn a_file_that_is_watched_leads_to_a_new_process_too() {
    let up = Upstream::named("up");
    let watch = "reload: { watch: true }\n";
    let gateway = Gateway::replaceable(&config(&up, &format!("{watch}{ROUTE}")));
    let first = gateway.main();
    gateway.write_config(&format!("workers: 1\n{}", config(&up, &format!("{watch}{ROUTE}"))));
    eventually("another process serves", || gateway.main() != first);
    eventually("the old process ends", || !is_alive(first));
    assert_eq!(gateway.get("/").status, 200);
}
