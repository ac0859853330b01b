//! A new process that does not get to serve leaves the old one serving.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Instant};

use super::{ROUTE, config, is_alive};
use crate::support::{Gateway, Upstream, torana};

fn replace_program(gateway: &Gateway, script: &str) {
    let (new, program) = (gateway.folder().join("next"), gateway.folder().join("torana"));
    fs::write(&new, script).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, program).unwrap();
}

/// Nothing has changed, and it is said why.
#[track_caller]
fn still_serves(gateway: &Gateway, first: u64, why: &str) {
    let (code, said) = gateway.torana(&["upgrade"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("this process keeps serving") && said.contains(why), "{said}");
    assert_eq!(gateway.main(), first);
    assert_eq!(gateway.get("/").status, 200);
    assert!(gateway.log().contains(why));
    let (_, status) = gateway.torana(&["status"]);
    assert!(status.contains("FAILED: "), "{status}");
}

fn start() -> (Gateway, Upstream, u64) {
    let up = Upstream::named("up");
    let gateway = Gateway::replaceable(&config(&up, &format!("upgrade: {{ ready_within: 1s }}\n{ROUTE}")));
    let first = gateway.main();
    (gateway, up, first)
}

#[test]
fn a_program_that_crashes_changes_nothing() {
    let (gateway, _up, first) = start();
    replace_program(&gateway, "#!/bin/sh\nexit 3\n");
    still_serves(&gateway, first, "ended before it was ready (exit status: 3)");
    replace_program(&gateway, "#!/bin/sh\nkill -SEGV $$\n");
    still_serves(&gateway, first, "signal: 11");
    // And then the right one.
    fs::remove_file(gateway.folder().join("torana")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_torana"), gateway.folder().join("torana")).unwrap();
    gateway.upgrade();
    assert_eq!(gateway.get("/").status, 200);
    assert!(gateway.control_status()["last_reload"]["error"].is_null());
}

#[test]
fn a_program_that_is_none_changes_nothing() {
    let (gateway, _up, first) = start();
    replace_program(&gateway, "\u{7f}ELF nonsense");
    still_serves(&gateway, first, "cannot be started");
    fs::remove_file(gateway.folder().join("torana")).unwrap();
    still_serves(&gateway, first, "cannot be started: No such file");
}

#[test]
fn a_program_that_never_gets_ready_is_ended() {
    let (gateway, _up, first) = start();
    replace_program(&gateway, "#!/bin/sh\necho $$ > pid\nexec sleep 600\n");
    still_serves(&gateway, first, "was not ready within 1s");
    let pid = fs::read_to_string(gateway.folder().join("pid")).unwrap();
    assert!(!is_alive(pid.trim().parse().unwrap()));
}

#[test]
fn a_broken_file_is_refused_by_the_new_process_with_the_reason() {
    let (gateway, up, first) = start();
    gateway.write_config(&config(&up, "routes:\n  - { name: a, upstraem: up }\n"));
    still_serves(&gateway, first, "unknown key `upstraem`");
}

#[test]
fn an_address_that_is_taken_is_refused_by_the_new_process() {
    let (gateway, up, first) = start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    gateway.write_config(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\" }}, {{ address: \"{address}\" }}]\n{}",
        config(&up, ROUTE)
    ));
    still_serves(&gateway, first, &format!("cannot listen on {address}"));
}

#[test]
fn a_variable_that_is_set_by_mistake_is_an_error_with_its_name() {
    let up = Upstream::named("up");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("torana.yaml");
    fs::write(&path, format!("listeners: [{{ address: \"127.0.0.1:0\" }}]\n{}", config(&up, ROUTE))).unwrap();
    let output = torana().args(["run", "-c"]).arg(&path).env("TORANA_HANDOVER", "stdin").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("TORANA_HANDOVER is set, but standard input is no socket"), "{said}");
}

#[test]
fn the_control_socket_is_for_its_owner_and_root_alone() {
    let (gateway, _up, _) = start();
    let socket = gateway.folder().join("control.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Even if somebody opens it to all.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(gateway.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    let said = ask_as_nobody(&socket, "upgrade");
    assert!(said.contains("neither root nor the user of the process"), "{said}");
}

fn ask_as_nobody(socket: &Path, what: &str) -> String {
    let script = format!(
        "import socket,os; os.setgid(65534); os.setuid(65534); s=socket.socket(socket.AF_UNIX); s.connect({socket:?}); s.sendall(b'{what}\\n'); print(s.recv(4096).decode())"
    );
    let output = std::process::Command::new("python3").args(["-c", &script]).output().unwrap();
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_control_socket_takes_nonsense_and_silence() {
    use std::io::{Read, Write};
    let (gateway, _up, _) = start();
    let socket = gateway.folder().join("control.sock");
    let ask = |bytes: &[u8]| {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        let _ = stream.write_all(bytes);
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said);
        said
    };
    assert!(
        ask(b"dance\n")
            .contains("there is `status`, `reload`, `upgrade`, `endpoint`, `quota`, `penalty-box` and `cache`")
    );
    assert!(!ask(&[b'x'; 10_000]).contains("done"));
    let began = Instant::now();
    assert_eq!(ask(b"stat"), "", "after {:?}", began.elapsed());
    assert!(gateway.main() > 0);
}
