//! TLS and HTTP/2 towards clients, asked by curl.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{Authority, Gateway, Reply, Upstream};

/// A gateway that serves `one.test` and `*.two.test` over TLS; `plain` is a listener with h2c.
struct Secure {
    gateway: Gateway,
    authority: PathBuf,
    folder: tempfile::TempDir,
}

const LISTENERS: &str = "listeners:
  - address: \"127.0.0.1:0\"
    tls: { certificates: [{ cert: one.crt, key: one.key }, { cert: two.crt, key: two.key }] }
  - { address: \"127.0.0.1:0\", h2c: true }
consumers: { app: { api_keys: [key-1] } }
";

fn write_pair(folder: &Path, file: &str, (certificate, key): (String, String)) {
    fs::write(folder.join(format!("{file}.crt")), certificate).unwrap();
    fs::write(folder.join(format!("{file}.key")), key).unwrap();
}

impl Secure {
    fn start(up: &Upstream, rest: &str) -> Self {
        let authority = Authority::new("tests");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        fs::write(&path, authority.pem()).unwrap();
        let yaml = format!("{LISTENERS}upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\n{rest}", up.address());
        let gateway = Gateway::start_with(&yaml, |folder, _| {
            write_pair(folder, "one", authority.pair("one.test"));
            write_pair(folder, "two", authority.pair("*.two.test"));
        });
        Self { gateway, authority: path, folder }
    }

    /// What curl prints: the body, and on the last line the version and the status.
    fn curl(&self, name: &str, path: &str, arguments: &[&str]) -> String {
        let port = self.gateway.address().port();
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "10", "-w", "\n%{http_version} %{http_code}", "--cacert"])
            .arg(&self.authority)
            .args(["--resolve", &format!("{name}:{port}:127.0.0.1"), &format!("https://{name}:{port}{path}")])
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .expect("curl is installed");
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    }

    /// The same without TLS, with HTTP/2 from the first byte.
    fn h2c(&self, path: &str, arguments: &[&str]) -> String {
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "10", "-w", "\n%{http_version} %{http_code}", "--http2-prior-knowledge"])
            .arg(format!("http://{}{path}", self.gateway.listener(1)))
            .args(arguments)
            .output()
            .expect("curl is installed");
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    }
}

const OPEN: &str = "routes: [{ name: all, upstream: up }]\n";
const CLOSED: &str = "routes: [{ name: all, policies: [{ api_key: { header: x-api-key } }], upstream: up }]\n";

#[test]
fn both_versions_of_http_are_spoken_over_tls() {
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, OPEN);
    assert_eq!(secure.curl("one.test", "/", &["--http1.1"]), "hello\n1.1 200");
    assert_eq!(up.last().header("x-forwarded-proto"), Some("https"));
    assert_eq!(secure.curl("one.test", "/", &["--http2"]), "hello\n2 200");
    let seen = up.last();
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    let host = format!("one.test:{}", secure.gateway.address().port());
    assert_eq!(seen.header("host"), Some(host.as_str()));
}

#[test]
fn the_certificate_is_the_one_for_the_name() {
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, OPEN);
    for name in ["one.test", "a.two.test"] {
        assert_eq!(secure.curl(name, "/", &[]), "hello\n2 200", "{name}");
    }
    for name in ["three.test", "a.b.two.test"] {
        let said = secure.curl(name, "/", &[]);
        assert!(said.contains("no alternative certificate subject name matches"), "{name}: {said}");
    }
}

#[test]
fn new_certificates_are_used_after_a_reload_and_broken_ones_are_not() {
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, OPEN);
    let folder = secure.gateway.folder();
    let config = fs::read_to_string(secure.gateway.file()).unwrap();
    let other = Authority::new("others");
    let path = secure.folder.path().join("other.pem");
    fs::write(&path, other.pem()).unwrap();
    write_pair(folder, "one", other.pair("one.test"));
    assert_eq!(secure.curl("one.test", "/", &[]), "hello\n2 200", "before the reload");
    secure.gateway.reload(&config);
    let trusting = ["--cacert", path.to_str().unwrap()];
    assert_eq!(secure.curl("one.test", "/", &trusting), "hello\n2 200");
    fs::write(folder.join("one.key"), "no key").unwrap();
    secure.gateway.reload(&config);
    assert_eq!(secure.gateway.status()["last_reload"]["ok"], false);
    assert_eq!(secure.curl("one.test", "/", &trusting), "hello\n2 200");
}

#[test]
fn a_key_that_is_not_the_certificates_is_refused() {
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, OPEN);
    let config = fs::read_to_string(secure.gateway.file()).unwrap();
    let folder = secure.gateway.folder();
    fs::copy(folder.join("two.key"), folder.join("one.key")).unwrap();
    secure.gateway.reload(&config);
    let error = secure.gateway.status()["last_reload"]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("torana.yaml:5:49") && error.contains("do not fit together"), "{error}");
}

#[test]
fn http2_is_spoken_without_tls_where_the_listener_says_so() {
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, OPEN);
    assert_eq!(secure.h2c("/", &[]), "hello\n2 200");
    assert_eq!(up.last().header("x-forwarded-proto"), Some("http"));
    let mut client = crate::support::Client::connect(secure.gateway.listener(1));
    assert_eq!(client.get("/").text(), "hello");
}

#[test]
fn policies_run_on_http2_as_well() {
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, CLOSED);
    for arguments in [&[][..], &["-X", "OPTIONS"], &["-I"], &["-H", "x-api-key: wrong"]] {
        assert!(secure.h2c("/", arguments).ends_with("2 401"), "{arguments:?}");
        assert!(secure.curl("one.test", "/", arguments).ends_with("2 401"), "{arguments:?}");
    }
    assert!(secure.h2c("/", &[]).contains("urn:torana:problem:unauthenticated"));
    assert!(up.seen().is_empty());
    let key = ["-H", "x-api-key: key-1", "-H", "X-Consumer-Id: root", "-H", "x_consumer_id: root"];
    assert_eq!(secure.h2c("/", &key), "hello\n2 200");
    let seen = up.only();
    assert_eq!(seen.header("x-consumer-id"), Some("app"));
    assert!(!seen.head.contains("root") && !seen.head.contains("key-1"), "{}", seen.head);
}

#[test]
fn bodies_go_both_ways_over_http2() {
    let up = Upstream::start(|seen| Reply::ok(seen.body.clone()));
    let secure = Secure::start(&up, OPEN);
    let (sent, received) = (secure.folder.path().join("sent"), secure.folder.path().join("received"));
    let body: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(&sent, &body).unwrap();
    let said = secure.curl("one.test", "/", &["--data-binary", "@sent", "-o", "received"]);
    assert_eq!(said, "\n2 200");
    assert!(fs::read(received).unwrap() == body);
    assert_eq!(up.only().method, "POST");
}

#[test]
fn what_a_path_may_not_be_it_may_not_be_over_http2_either() {
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, OPEN);
    for path in ["/a/..%2fb", "/a%00", "/..;/a", "/%zz"] {
        assert!(secure.h2c(path, &["--path-as-is"]).ends_with("2 400"), "{path}");
    }
    assert!(up.seen().is_empty());
    assert!(secure.h2c("/a/%2e%2e/b//c", &["--path-as-is"]).ends_with("2 200"));
    assert_eq!(up.only().target, "/b/c");
}

#[test]
fn a_connection_too_many_is_told_so_over_tls_in_both_versions() {
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, &format!("{OPEN}limits: {{ connections: 1 }}\n"));
    let mut client = crate::support::Client::connect(secure.gateway.listener(1));
    assert_eq!(client.get("/").status, 200);
    for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let said = secure.curl("one.test", "/", &[option]);
        assert!(said.contains("problem:overloaded") && said.ends_with(&format!("\n{version} 503")), "{said}");
    }
    drop(client);
    crate::support::eventually("there is room", || secure.curl("one.test", "/", &["--http2"]) == "hello\n2 200");
}
