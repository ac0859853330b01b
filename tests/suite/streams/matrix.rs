//! Every protocol of clients with every protocol of upstreams, asked by curl.

use std::{fs, process::Command};

use super::Certificates;
use crate::support::{Gateway, script::Script, web_socket::UPGRADE};

/// What an upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http1,
    Http1Tls,
    Unix,
    H2c,
    H2Tls,
}

pub const KINDS: [Kind; 5] = [Kind::Http1, Kind::Http1Tls, Kind::Unix, Kind::H2c, Kind::H2Tls];

impl Kind {
    /// A server that speaks it, and the settings of its upstream.
    pub fn start(self, certificates: &Certificates, settings: &str) -> (Script, String) {
        let [certificate, key, ca, socket] =
            ["one.crt", "one.key", "ca.pem", "up.sock"].map(|name| certificates.path(name).display().to_string());
        let arguments = match self {
            Self::Http1 => &["http1"][..],
            Self::Http1Tls => &["http1_tls", &certificate, &key],
            Self::Unix => &["unix", &socket],
            Self::H2c => &["h2c"],
            Self::H2Tls => &["h2_tls", &certificate, &key],
        };
        if self == Self::Unix {
            // Of a server that was here before.
            let _ = fs::remove_file(&socket);
        }
        let server = Script::start("http_server.cjs", arguments);
        let endpoint = match self {
            Self::Unix => {
                server.address();
                format!("unix:{socket}")
            }
            Self::Http1 | Self::Http1Tls | Self::H2c | Self::H2Tls => server.address().to_string(),
        };
        let tls = format!(", tls: {{ ca: {ca}, server_name: one.test }}");
        let rest = match self {
            Self::Http1 | Self::Unix => String::new(),
            Self::Http1Tls => tls,
            Self::H2c => ", protocol: http2".into(),
            Self::H2Tls => tls + ", protocol: http2",
        };
        let settings = if settings.is_empty() { String::new() } else { format!(", {settings}") };
        (server, format!("{{ endpoints: [\"{endpoint}\"]{rest}{settings} }}"))
    }

    const fn speaks_http2(self) -> bool {
        matches!(self, Self::H2c | Self::H2Tls)
    }
}

/// How curl asks.
const VERSIONS: [&str; 3] = ["1.1", "2", "2c"];

struct Asked<'a> {
    gateway: &'a Gateway,
    certificates: &'a Certificates,
    version: &'a str,
}

impl Asked<'_> {
    /// What curl prints; on the last line the version and the status.
    fn curl(&self, path: &str, arguments: &[&str]) -> String {
        let port = self.gateway.listener(1).port();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "60", "-w", "\n%{http_version} %{http_code}"]);
        match self.version {
            "1.1" => curl.arg("--http1.1").arg(format!("http://{}{path}", self.gateway.address())),
            "2c" => curl.arg("--http2-prior-knowledge").arg(format!("http://{}{path}", self.gateway.address())),
            _ => curl
                .args(["--http2", "--resolve", &format!("one.test:{port}:127.0.0.1"), "--cacert"])
                .arg(self.certificates.path("ca.pem"))
                .arg(format!("https://one.test:{port}{path}")),
        };
        let output = curl.args(arguments).output().expect("curl is installed");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// The last line of it.
    fn end(&self, status: u16) -> String {
        format!("{} {status}", self.version.trim_end_matches('c'))
    }
}

const KEY: [&str; 2] = ["-H", "x-api-key: key-12345"];

fn with_key<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&KEY[..], arguments].concat()
}

#[test]
fn requests_of_every_form_pass_between_every_pair_of_protocols_with_a_key_and_not_without() {
    let certificates = Certificates::new();
    for kind in KINDS {
        let (_server, upstream) = kind.start(&certificates, "");
        let gateway = certificates.gateway(&format!(
            "upstreams: {{ up: {upstream} }}\nroutes: [{{ name: r, policies: [{{ api_key: {{ header: x-api-key }} }}], upstream: up }}]\n"
        ));
        for version in VERSIONS {
            let asked = Asked { gateway: &gateway, certificates: &certificates, version };
            let what = format!("{version} to {kind:?}");
            forms_pass(&asked, kind, &what);
            large_bodies_pass(&asked, &what);
            nothing_passes_without_a_key(&asked, &what);
        }
        assert_eq!(gateway.send("GET", "/seen", &UPGRADE).problem(), "unauthenticated", "{kind:?}");
        let log = fs::read_to_string(gateway.folder().join("access.log")).unwrap();
        let passed = log.lines().filter(|line| line.contains("\"reject\"")).all(|line| !line.contains("\"endpoint\""));
        assert!(passed, "what is refused asks no endpoint:\n{log}");
    }
}

fn forms_pass(asked: &Asked<'_>, kind: Kind, what: &str) {
    let plain = asked.curl("/seen", &with_key(&[]));
    assert!(plain.starts_with("{\"method\":\"GET\"") && plain.ends_with(&asked.end(200)), "{what}: {plain}");
    assert!(plain.contains("\"x-consumer-id\":\"app\"") && !plain.contains("key-12345"), "{what}: {plain}");
    let spoken = if kind.speaks_http2() { "\"version\":\"2.0\"" } else { "\"version\":\"1.1\"" };
    assert!(plain.contains(spoken), "{what}: {plain}");
    let head = asked.curl("/echo", &with_key(&["-I"]));
    assert!(head.contains("x-method: HEAD") && head.ends_with(&asked.end(200)), "{what}: {head}");
    let options = asked.curl("/seen", &with_key(&["-X", "OPTIONS"]));
    assert!(options.starts_with("{\"method\":\"OPTIONS\""), "{what}: {options}");
    for body in ["a small body", ""] {
        let echoed = asked.curl("/echo", &with_key(&["-d", body]));
        assert_eq!(echoed, format!("{body}\n{}", asked.end(200)), "{what}");
    }
    let trailers = asked.curl("/trailers", &with_key(&["-i"]));
    assert!(trailers.contains("body") && trailers.ends_with(&asked.end(200)), "{what}: {trailers}");
    // Those of HTTP/1.1 end at the gateway, on either side.
    let passed = kind.speaks_http2() && asked.version != "1.1";
    assert_eq!(trailers.contains("x-sum: 42"), passed, "{what}: {trailers}");
}

fn large_bodies_pass(asked: &Asked<'_>, what: &str) {
    let [sent, received] = ["sent", "received"].map(|name| asked.certificates.path(name));
    let large: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(&sent, &large).unwrap();
    let upload = format!("@{}", sent.display());
    // HTTP/2 has no chunks: there curl leaves that header out.
    for chunked in [&[][..], &["-H", "Transfer-Encoding: chunked"]] {
        let _ = fs::remove_file(&received);
        let arguments = [&["--data-binary", &upload, "-o", received.to_str().unwrap()][..], chunked].concat();
        assert_eq!(asked.curl("/echo", &with_key(&arguments)), format!("\n{}", asked.end(200)), "{what}");
        assert!(fs::read(&received).unwrap() == large, "{what}");
    }
}

fn nothing_passes_without_a_key(asked: &Asked<'_>, what: &str) {
    for arguments in [&[][..], &["-I"], &["-X", "OPTIONS"], &["-d", "body"], &["-d", ""], &["-H", "x-api-key: wrong"]] {
        let refused = asked.curl("/seen", arguments);
        assert!(refused.ends_with(&asked.end(401)), "{what} {arguments:?}: {refused}");
    }
}
