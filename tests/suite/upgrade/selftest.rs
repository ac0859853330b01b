//! `torana selftest upgrade`: that nothing is lost, and that what is lost is found.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::support::torana;

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = torana().args(["selftest", "upgrade"]).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code(), text)
}

#[test]
fn twenty_reloads_and_ten_upgrades_lose_nothing() {
    // Beside all other tests; by itself it has a higher rate.
    let (code, said) = run(&["--reloads", "20", "--upgrades", "10", "--rate", "400"]);
    assert_eq!(code, Some(0), "{said}");
    for part in
        ["upgrade 10 of 10", "reload 20 of 20 (broken, refused)", "sent to the upstream twice: 0", "nothing was lost"]
    {
        assert!(said.contains(part), "{part} in\n{said}");
    }
}

#[test]
fn the_report_can_be_read_by_programs() {
    let output = torana()
        .args(["selftest", "upgrade", "--reloads", "1", "--upgrades", "1", "--rate", "100", "--json"])
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report["good"].as_bool(), report["twice"].as_u64()), (Some(true), Some(0)), "{report:#}");
    let names: Vec<_> = report["clients"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["keep-alive", "new connections", "HTTP/2", "WebSocket", "slow uploads", "slow downloads"]);
}

#[test]
fn a_program_that_loses_requests_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("torana");
    // Its first process is killed after a second, as if it had crashed.
    let script =
        format!("#!/bin/sh\n{} \"$@\" & pid=$!\nsleep 1\nkill -9 $pid\nsleep 1\n", env!("CARGO_BIN_EXE_torana"));
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let (code, said) =
        run(&["--reloads", "8", "--upgrades", "0", "--rate", "100", "--program", program.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("FAILED") && said.contains("refused: cannot connect"), "{said}");
    assert!(said.contains("the log of the gateway is "), "{said}");
    let log = said.split("the log of the gateway is ").nth(1).unwrap().lines().next().unwrap();
    fs::remove_dir_all(std::path::Path::new(log).parent().unwrap()).unwrap();
}

#[test]
fn a_program_that_does_not_start_is_an_error() {
    let (code, said) = run(&["--program", "/bin/false"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("the gateway did not start"), "{said}");
}
