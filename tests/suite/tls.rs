//! TLS towards clients, asked by curl and openssl: client certificates, revocation, what belongs to which name, files that change.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};

use crate::support::{Authority, Client, Gateway, Upstream, eventually};

/// A gateway with certificates for `open.test` and `closed.test`; `tls` is what stands beside them.
struct Secure {
    gateway: Gateway,
    servers: Authority,
    clients: Authority,
    folder: tempfile::TempDir,
}

/// Files that clients use, without their endings.
fn issue(authority: &Authority, folder: &Path, file: &str, change: impl FnOnce(&mut CertificateParams)) -> PathBuf {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, file);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    change(&mut params);
    let (certificate, key) = authority.sign(&params);
    fs::write(folder.join(file).with_extension("crt"), certificate).unwrap();
    fs::write(folder.join(file).with_extension("key"), key).unwrap();
    folder.join(file)
}

impl Secure {
    fn start(up: &Upstream, tls: &str, rest: &str) -> Self {
        let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("servers.pem"), servers.pem()).unwrap();
        issue(&clients, folder.path(), "good", |params| {
            params.serial_number = Some(SerialNumber::from(7));
            params.subject_alt_names = vec![SanType::URI("spiffe://example.test/good".try_into().unwrap())];
        });
        let yaml = format!(
            "listeners:
  - address: \"127.0.0.1:0\"
    tls:
      certificates: [{{ cert: open.crt, key: open.key }}, {{ cert: closed.crt, key: closed.key }}]
      {tls}
upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
{rest}",
            up.address()
        );
        let gateway = Gateway::start_with(&yaml, |at, _| {
            fs::write(at.join("clients.pem"), clients.pem()).unwrap();
            fs::write(at.join("clients.crl"), clients.crl(&[])).unwrap();
            for name in ["open", "closed"] {
                write_pair(at, name, servers.pair(&format!("{name}.test")));
            }
        });
        Self { gateway, servers, clients, folder }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// What curl says of a request to a name: status and version, or its exit code. `as_who` is a certificate to show.
    fn curl(&self, name: &str, as_who: Option<&str>, more: &[&str]) -> String {
        let port = self.gateway.address().port();
        let mut command = Command::new("curl");
        command.args(["-s", "-o", "body", "-w", "%{http_code} %{http_version}", "--max-time", "10", "--cacert"]);
        command.arg(self.path("servers.pem")).args(["--resolve", &format!("{name}:{port}:127.0.0.1")]);
        if let Some(who) = as_who {
            command.arg("--cert").arg(self.path(who).with_extension("crt"));
            command.arg("--key").arg(self.path(who).with_extension("key"));
        }
        command.arg(format!("https://{name}:{port}/")).args(more).current_dir(self.folder.path());
        let output = command.output().expect("curl is installed");
        let said = String::from_utf8(output.stdout).unwrap();
        if said.starts_with("000") { format!("failed {}", output.status.code().unwrap()) } else { said }
    }

    fn body(&self) -> String {
        fs::read_to_string(self.path("body")).unwrap()
    }

    /// What `openssl s_client` prints, and whether there was an answer to the request that it sends.
    fn openssl(&self, name: &str, more: &[&str]) -> String {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &self.gateway.address().to_string(), "-servername", name, "-ign_eof"]);
        command.args(more).current_dir(self.folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("openssl is installed");
        let asked = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        // It may have ended already, because the handshake failed. Kept open: at its end it would hang up.
        let mut stdin = child.stdin.take().unwrap();
        let _ = stdin.write_all(asked.as_bytes());
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    fn certificates(&self) -> serde_json::Value {
        self.gateway.status()["certificates"].clone()
    }
}

fn write_pair(folder: &Path, file: &str, (certificate, key): (String, String)) {
    fs::write(folder.join(format!("{file}.crt")), certificate).unwrap();
    fs::write(folder.join(format!("{file}.key")), key).unwrap();
}

const OPEN: &str = "routes: [{ name: all, upstream: up }]\n";
const REQUIRED: &str = "client_certificates: [{ ca: clients.pem, crl: [clients.crl], hosts: [closed.test] }]";

#[test]
fn where_a_certificate_is_required_there_is_no_connection_without_a_valid_one() {
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, REQUIRED, OPEN);
    assert_eq!(secure.curl("open.test", None, &[]), "200 2");
    assert!(secure.curl("closed.test", None, &[]).starts_with("failed"));
    for version in ["--http1.1", "--http2"] {
        assert!(secure.curl("closed.test", Some("good"), &[version]).starts_with("200"), "{version}");
        assert!(secure.curl("closed.test", Some("good"), &[version, "--tls-max", "1.2"]).starts_with("200"));
    }
    secure.gateway.wait_for_metric("torana_tls_handshakes_total{outcome=\"certificate\"}", 1.0);
    assert_eq!(up.seen().len(), 5);
}

#[test]
fn d15_a_certificate_that_is_not_valid_is_refused_however_it_is_not() {
    // Also where an answer is kept.
    let kept = OPEN.replace("upstream: up", "public: true, policies: [{ cache: { ttl: 1h } }], upstream: up");
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, &REQUIRED.replace("hosts: [closed.test]", "mode: optional"), &kept);
    assert_eq!(secure.curl("open.test", Some("good"), &[]), "200 2");
    let folder = secure.folder.path();
    let strangers = Authority::new("strangers");
    issue(&strangers, folder, "stranger", |_| {});
    issue(&secure.clients, folder, "expired", |params| {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    });
    issue(&secure.clients, folder, "early", |params| params.not_before = date_time_ymd(4000, 1, 1));
    issue(&secure.clients, folder, "server", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    for who in ["stranger", "expired", "early", "server"] {
        for version in ["1.2", "1.3"] {
            let said = secure.curl("open.test", Some(who), &["--tls-max", version]);
            assert!(said.starts_with("failed"), "{who} {version}: {said}");
        }
    }
    assert_eq!(secure.curl("open.test", None, &[]), "200 2");
    assert_eq!(secure.curl("open.test", Some("good"), &[]), "200 2");
}

#[test]
fn a_revoked_certificate_is_refused_as_soon_as_the_list_has_changed_also_if_the_session_is_resumed() {
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, REQUIRED, OPEN);
    let shown = ["-cert", "good.crt", "-key", "good.key", "-tls1_2"];
    let first = secure.openssl("closed.test", &[&shown[..], &["-sess_out", "session"]].concat());
    assert!(first.contains("HTTP/1.1 200"), "{first}");
    let again = secure.openssl("closed.test", &[&shown[..], &["-sess_in", "session"]].concat());
    assert!(again.contains("Reused, TLSv1.2") && again.contains("HTTP/1.1 200"), "{again}");
    fs::write(secure.gateway.folder().join("clients.crl"), secure.clients.crl(&[7])).unwrap();
    eventually("it is refused", || secure.curl("closed.test", Some("good"), &[]).starts_with("failed"));
    let resumed = secure.openssl("closed.test", &[&shown[..], &["-sess_in", "session"]].concat());
    assert!(!resumed.contains("HTTP/1.1 200"), "{resumed}");
}

#[test]
fn b08_a_connection_for_one_name_is_not_used_for_another_that_asks_for_certificates() {
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, REQUIRED, OPEN);
    for version in ["--http1.1", "--http2"] {
        for host in ["closed.test", "CLOSED.test:443", "closed.test."] {
            let said = secure.curl("open.test", None, &[version, "-H", &format!("Host: {host}")]);
            assert!(said.starts_with("421"), "{version} {host}: {said}");
            assert!(secure.body().contains("urn:torana:problem:misdirected"));
        }
        let said = secure.curl("closed.test", Some("good"), &[version, "-H", "Host: open.test"]);
        assert!(said.starts_with("421"), "{said}");
        // No rule is different for other names.
        assert!(secure.curl("open.test", None, &[version, "-H", "Host: other.test"]).starts_with("200"));
    }
    assert!(up.seen().iter().all(|seen| seen.header("host") == Some("other.test")));
}

#[test]
fn the_certificate_says_who_is_calling() {
    let up = Upstream::named("hello");
    let policies = "consumers: { billing: { groups: [internal], certificates: [\"uri:spiffe://example.test/good\"] } }
routes:
  - { name: one, match: { hosts: [open.test] }, policies: [{ client_certificate: { consumer_required: true } }], upstream: up }
  - { name: any, match: { hosts: [closed.test] }, policies: [{ client_certificate: {} }], upstream: up }
";
    let secure = Secure::start(&up, "client_certificates: [{ ca: clients.pem, mode: optional }]", policies);
    issue(&secure.clients, secure.folder.path(), "unknown", |_| {});
    assert_eq!(secure.curl("open.test", None, &[]), "401 2");
    assert!(secure.body().contains("this needs valid credentials"));
    assert_eq!(secure.curl("open.test", Some("unknown"), &[]), "401 2");
    let forged = ["-H", "X-Consumer-Id: root", "-H", "X-Consumer-Subject: CN=root"];
    assert_eq!(secure.curl("open.test", Some("good"), &forged), "200 2");
    let seen = up.only();
    assert_eq!(seen.header("x-consumer-id"), Some("billing"));
    assert_eq!(seen.header("x-consumer-groups"), Some("internal"));
    assert!(seen.header("x-consumer-subject").unwrap().contains("CN=good"), "{}", seen.head);
    assert!(!seen.head.contains("root"), "{}", seen.head);
    assert_eq!(secure.curl("closed.test", Some("unknown"), &["--http1.1"]), "200 1.1");
    assert!(up.last().header("x-consumer-id").is_none());
    assert!(up.last().header("x-consumer-subject").unwrap().contains("CN=unknown"));
}

#[test]
fn changed_files_are_served_without_a_reload_and_a_broken_pair_keeps_the_old_one_and_alarms() {
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, "handshake_timeout: 5s", OPEN);
    let failed = "torana_certificate_failed{name=\"open.test\",source=\"file\"}";
    let folder = secure.gateway.folder();
    assert_eq!(secure.curl("open.test", None, &[]), "200 2");
    assert_eq!(secure.gateway.metric(failed), 0.0);
    let expiry = secure.gateway.metric("torana_certificate_expiry_seconds{name=\"open.test\",source=\"file\"}");
    assert!(expiry > 1e9, "{expiry}");
    assert_eq!(secure.certificates()[0]["state"], "valid");

    // The key of another certificate.
    let (certificate, key) = secure.servers.pair("open.test");
    fs::write(folder.join("open.key"), &key).unwrap();
    secure.gateway.wait_for_metric(failed, 1.0);
    assert_eq!(secure.certificates()[0]["state"], "failed");
    assert!(secure.certificates()[0]["error"].as_str().unwrap().contains("do not fit together"));
    assert!(secure.gateway.log().contains("those before are served on"), "{}", secure.gateway.log());
    assert_eq!(secure.curl("open.test", None, &[]), "200 2");

    fs::write(folder.join("open.crt"), certificate).unwrap();
    secure.gateway.wait_for_metric(failed, 0.0);
    let others = Authority::new("others");
    fs::write(secure.path("servers.pem"), others.pem()).unwrap();
    write_pair(folder, "open", others.pair("open.test"));
    eventually("the new certificate is served", || secure.curl("open.test", None, &[]) == "200 2");
    assert_eq!(secure.gateway.status()["generation"], 1);
}

#[test]
fn a_broken_file_keeps_only_itself_from_being_renewed() {
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, REQUIRED, OPEN);
    let folder = secure.gateway.folder();
    let failed = |name, source| {
        secure.gateway.metric(&format!("torana_certificate_failed{{name=\"{name}\",source=\"{source}\"}}"))
    };
    fs::write(folder.join("closed.crt"), "nothing").unwrap();
    fs::write(folder.join("clients.crl"), "nothing").unwrap();
    let others = Authority::new("others");
    write_pair(folder, "open", others.pair("open.test"));
    eventually("what is broken is known", || failed("closed.test", "file") == 1.0);
    assert_eq!(failed("closed.test", "clients"), 1.0);
    assert_eq!(failed("open.test", "file"), 0.0);
    // The certificate that was renewed is served; the other one and the list are those from before.
    fs::write(secure.path("servers.pem"), others.pem() + &secure.servers.pem()).unwrap();
    let served = secure.openssl("open.test", &["-showcerts"]);
    assert!(served.contains("CN = others") || served.contains("CN=others"), "{served}");
    assert_eq!(secure.curl("closed.test", Some("good"), &[]), "200 2");
    let log = secure.gateway.log();
    assert!(log.contains("no certificate in `") && log.contains("no revocation list in `"), "{log}");
}

#[test]
fn a_revocation_list_that_helps_nobody_is_warned_about_also_when_it_comes_later() {
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, REQUIRED, OPEN);
    fs::write(secure.gateway.folder().join("clients.crl"), secure.servers.crl(&[])).unwrap();
    eventually("the stranger is noticed", || secure.gateway.log().contains("is of no authority in"));
    let states = secure.certificates();
    let of_clients = states.as_array().unwrap().iter().find(|one| one["source"] == "clients").unwrap();
    assert_eq!((&of_clients["names"][0], &of_clients["state"]), (&"closed.test".into(), &"valid".into()), "{states}");
}

#[test]
fn an_ocsp_response_is_sent_along_and_a_new_one_is_taken_over() {
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, "handshake_timeout: 5s", OPEN);
    let folder = secure.gateway.folder();
    let without = secure.openssl("open.test", &["-status"]);
    assert!(without.contains("OCSP response: no response sent"), "{without}");
    fs::write(folder.join("ca.pem"), secure.servers.pem()).unwrap();
    fs::write(folder.join("ca.key"), secure.servers.key()).unwrap();
    fs::write(folder.join("index.txt"), "").unwrap();
    let answer = Command::new("openssl")
        .args(["ocsp", "-index", "index.txt", "-rsigner", "ca.pem", "-rkey", "ca.key", "-CA", "ca.pem"])
        .args(["-issuer", "ca.pem", "-cert", "open.crt", "-respout", "open.ocsp", "-ndays", "1"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(folder.join("open.ocsp").exists(), "{}", String::from_utf8_lossy(&answer.stderr));
    let yaml = fs::read_to_string(secure.gateway.file()).unwrap();
    secure.gateway.reload(&yaml.replace("key: open.key }", "key: open.key, ocsp: open.ocsp }"));
    let with = secure.openssl("open.test", &["-status"]);
    assert!(with.contains("OCSP Response Status: successful"), "{with}");
    let other = secure.openssl("closed.test", &["-status"]);
    assert!(other.contains("OCSP response: no response sent"), "{other}");
}

#[test]
fn h03_old_versions_weak_ciphers_unknown_protocols_and_early_data_are_refused() {
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, "handshake_timeout: 5s", OPEN);
    let refused: [&[&str]; 6] = [
        &["-tls1", "-cipher", "DEFAULT@SECLEVEL=0"],
        &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "AES128-SHA"],
        &["-tls1_2", "-cipher", "AES128-GCM-SHA256"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"],
        &["-alpn", "spdy/1"],
    ];
    for options in refused {
        let said = secure.openssl("open.test", options);
        assert!(!said.contains("HTTP/1.1 200") && said.contains("alert"), "{options:?}: {said}");
    }
    let said = secure.openssl("open.test", &["-tls1_3", "-alpn", "http/1.1", "-sess_out", "session"]);
    assert!(said.contains("HTTP/1.1 200") && said.contains("ALPN protocol: http/1.1"), "{said}");
    assert!(said.contains("Max Early Data: 0"), "{said}");
    assert!(secure.openssl("open.test", &["-tls1_3", "-sess_in", "session"]).contains("Reused, TLSv1.3"));
    let said = secure.openssl("open.test", &["-tls1_2"]);
    assert!(said.contains("HTTP/1.1 200") && said.contains("Secure Renegotiation IS supported"), "{said}");
}

#[test]
fn the_oldest_version_can_be_1_3() {
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, "min_version: tls13", OPEN);
    assert!(secure.openssl("open.test", &["-tls1_3"]).contains("HTTP/1.1 200"));
    let said = secure.openssl("open.test", &["-tls1_2"]);
    assert!(said.contains("alert protocol version"), "{said}");
}

#[test]
fn a_client_that_does_not_shake_hands_is_let_go() {
    let up = Upstream::named("hello");
    let secure = Secure::start(&up, "handshake_timeout: 200ms", OPEN);
    let mut silent = Client::connect(secure.gateway.address());
    assert!(silent.is_closed());
    secure.gateway.wait_for_metric("torana_tls_handshakes_total{outcome=\"timed_out\"}", 1.0);
    let mut plain = Client::connect(secure.gateway.address());
    plain.write(b"GET / HTTP/1.1\r\nHost: open.test\r\n\r\n");
    while plain.more().is_some() {}
    secure.gateway.wait_for_metric("torana_tls_handshakes_total{outcome=\"protocol\"}", 1.0);
    assert!(!secure.gateway.log().contains("ERROR"), "{}", secure.gateway.log());
    assert_eq!(up.seen().len(), 0);
}
