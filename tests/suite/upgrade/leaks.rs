//! However often a configuration or a process is changed, nothing piles up.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use super::config;
use crate::support::{Gateway, Upstream};

/// Everything that can pile up: a name with its task, a health check, a limit, policies.
fn yaml(up: &Upstream, round: usize) -> String {
    let rest = format!(
        "policies: [{{ rate_limit: {{ key: client_ip, limits: [1000000/s] }} }}]\nroutes:\n  - {{ name: a, policies: [{{ response_headers: {{ set: {{ x-round: \"{round}\" }} }} }}], upstream: up }}\n  - {{ name: b{round}, match: {{ path: /b }}, upstream: other }}\n"
    );
    config(up, &rest).replace(
        "upstreams: {",
        &format!(
            "upstreams: {{ other: {{ endpoints: [\"localhost:{}\"], health: {{ interval: {}ms }} }},",
            up.address().port(),
            1000 + round
        ),
    )
}

fn reload(gateway: &Gateway, yaml: &str) {
    gateway.write_config(yaml);
    let mut control = UnixStream::connect(gateway.folder().join("control.sock")).unwrap();
    control.write_all(b"reload\n").unwrap();
    let mut said = String::new();
    control.read_to_string(&mut said).unwrap();
    assert!(said.contains("is live"), "{said}");
}

/// Resident memory once what the last reload needed is given back.
fn settled(gateway: &Gateway) -> usize {
    let sample = |_| {
        thread::sleep(Duration::from_millis(100));
        gateway.memory()
    };
    (0..25).map(sample).min().unwrap()
}

/// Open files and threads of a process.
fn counts(pid: u64) -> (usize, usize) {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    (count("fd"), count("task"))
}

#[test]
fn a_thousand_reloads_under_load_leave_no_memory_socket_or_thread_behind() {
    let up = Upstream::named("up");
    let gateway = Gateway::replaceable(&yaml(&up, 0));
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut client = gateway.client();
            while !over.load(Ordering::Relaxed) {
                let response = client.get("/");
                assert_eq!(response.status, 200);
                // After `max_requests`.
                if response.header("connection") == Some("close") {
                    client = gateway.client();
                }
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        let pid = gateway.main();
        for round in 1..=50 {
            reload(&gateway, &yaml(&up, round));
        }
        let (memory, (files, threads)) = (settled(&gateway), counts(pid));
        for round in 51..=1000 {
            reload(&gateway, &yaml(&up, round));
        }
        let (memory_after, (files_after, threads_after)) = (settled(&gateway), counts(pid));
        over.store(true, Ordering::Relaxed);
        load.join().unwrap();
        println!(
            "{memory} -> {memory_after} bytes, {files} -> {files_after} files, {threads} -> {threads_after} threads"
        );
        assert!(memory_after * 10 <= memory * 11, "{memory} -> {memory_after} bytes");
        assert!(files_after <= files + 8, "{files} -> {files_after} open files");
        assert!(threads_after <= threads + 4, "{threads} -> {threads_after} threads");
    });
    assert!(answered.into_inner() > 1000);
}

#[test]
fn processes_that_take_over_one_after_the_other_are_all_alike() {
    let up = Upstream::named("up");
    let gateway = Gateway::replaceable(&config(&up, super::ROUTE));
    let mut after = Vec::new();
    for _ in 0..10 {
        let pid = gateway.upgrade();
        assert_eq!(gateway.get("/").status, 200);
        after.push(counts(pid));
    }
    let (first, last) = (after[1], after[9]);
    assert!(last.0 <= first.0 + 2, "open files: {after:?}");
}
