//! Listeners on Unix sockets.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    process::Command,
};

use crate::support::{Authority, Gateway, Upstream, eventually, torana, unix::ask};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";

fn config(folder: &Path, listener: &str, rest: &str, up: &Upstream) -> String {
    format!(
        "listeners: [{{ address: \"unix:{}\", {listener} }}]\n{rest}\n\
         upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        folder.join("http.sock").display(),
        up.address()
    )
}

/// Asks with the client that people use.
fn curl(path: &Path, arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20", "--unix-socket"])
        .arg(path)
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn curl_is_served_over_http1_and_h2c() {
    let (folder, up) = (tempfile::tempdir().unwrap(), Upstream::named("up"));
    let text = config(folder.path(), "h2c: true", "telemetry: { access_log: {} }", &up);
    let gateway = Gateway::start(&text);
    let path = folder.path().join("http.sock");
    assert_eq!(curl(&path, &["http://test/a"]), "up");
    let both = ["--http2-prior-knowledge", "-w", " %{http_version}", "http://test/b"];
    assert_eq!(curl(&path, &both), "up 2");
    // Who comes over a Unix socket has no address, and cannot claim one.
    assert_eq!(curl(&path, &["-H", "X-Forwarded-For: 192.0.2.7", "http://test/c"]), "up");
    for (request, target) in up.seen().iter().zip(["/a", "/b", "/c"]) {
        assert_eq!((request.target.as_str(), request.header("x-forwarded-for")), (target, Some("unknown")));
    }
    eventually("they are in the log", || gateway.log().matches("\"client_ip\":\"unix\"").count() == 3);
    assert!(gateway.log().contains(&format!("listening on unix:{}", path.display())));
}

#[test]
fn tls_is_spoken_over_a_unix_socket() {
    let (folder, up) = (tempfile::tempdir().unwrap(), Upstream::named("up"));
    let authority = Authority::new("authority");
    let (certificate, key) = authority.pair("a.example");
    for (name, text) in [("a.crt", &certificate), ("a.key", &key), ("ca.pem", &authority.pem())] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let at = |name: &str| folder.path().join(name).display().to_string();
    let tls = format!("tls: {{ certificates: [{{ cert: \"{}\", key: \"{}\" }}] }}", at("a.crt"), at("a.key"));
    let _gateway = Gateway::start(&config(folder.path(), &tls, "", &up));
    let path = folder.path().join("http.sock");
    for (version, wanted) in [("--http1.1", "up 1.1"), ("--http2", "up 2")] {
        let said = curl(&path, &["--cacert", &at("ca.pem"), version, "-w", " %{http_version}", "https://a.example/"]);
        assert_eq!(said, wanted);
    }
    assert_eq!(up.last().header("x-forwarded-proto"), Some("https"));
}

#[test]
fn the_socket_has_the_permissions_of_the_file_also_after_an_upgrade() {
    let (folder, up) = (tempfile::tempdir().unwrap(), Upstream::named("up"));
    let path = folder.path().join("http.sock");
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    let gateway = Gateway::replaceable(&config(folder.path(), "", "", &up));
    assert_eq!(mode(), 0o660);
    assert!(ask(&path, GET).ends_with("up"));
    gateway.upgrade();
    assert_eq!(mode(), 0o660);
    assert!(ask(&path, GET).ends_with("up"));
    // What a process is bound to is changed by handing over to another one.
    let before = gateway.main();
    gateway.write_config(&config(folder.path(), "mode: \"0606\"", "", &up));
    let (code, said) = gateway.torana(&["reload"]);
    assert_eq!(code, Some(0), "{said}");
    assert_ne!(gateway.main(), before, "{said}");
    assert_eq!(mode(), 0o606);
    assert!(ask(&path, GET).ends_with("up"));
}

#[test]
fn what_a_crash_left_is_replaced_and_anything_else_is_not() {
    let (folder, up) = (tempfile::tempdir().unwrap(), Upstream::named("up"));
    let path = folder.path().join("http.sock");
    let text = config(folder.path(), "", "", &up);
    drop(UnixListener::bind(&path).unwrap());
    let gateway = Gateway::start(&text);
    assert!(ask(&path, GET).ends_with("up"));
    let refused = || {
        let file = folder.path().join("torana.yaml");
        fs::write(&file, &text).unwrap();
        let output = torana().arg("run").arg("-c").arg(&file).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refused();
    assert!(
        said.contains(&format!("cannot listen on unix:{}", path.display())) && said.contains("another process"),
        "{said}"
    );
    assert!(ask(&path, GET).ends_with("up"), "the one that is there serves on");
    drop(gateway);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    assert!(refused().contains("it exists and is no socket"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn all_who_come_over_a_unix_socket_share_a_limit_by_address() {
    let (folder, up) = (tempfile::tempdir().unwrap(), Upstream::named("up"));
    let policies = "policies: [{ rate_limit: { key: client_ip, limits: [2/h] } }]";
    let _gateway = Gateway::start(&config(folder.path(), "", policies, &up));
    let path = folder.path().join("http.sock");
    let status = || ask(&path, GET).split(' ').nth(1).unwrap().to_owned();
    assert_eq!([status(), status(), status()], ["200", "200", "429"]);
}
