use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustls::{ClientConnection, StreamOwned};
use serde_json::{Value, json};

use super::front::{Front, client};
use crate::support::{Authority, Dns, Gateway, Says, Upstream, eventually};

/// Asks until the answer is yes: what takes as long as certificates live takes longer than usual.
#[track_caller]
pub fn in_time(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(90);
    while !is_so() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Let's Encrypt's test server. It ends when it is dropped.
pub struct Pebble {
    child: Child,
    address: SocketAddr,
    management: SocketAddr,
    folder: tempfile::TempDir,
}

/// A key of an external account that Pebble knows.
pub const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

impl Pebble {
    /// It looks for challenges on these ports; `rest` goes into its configuration. `rejectsNonces` is how many nonces of a
    /// hundred it refuses, which clients have to take.
    fn start(authority: &Authority, http: u16, tls: u16, dns: SocketAddr, rest: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = authority.pair("127.0.0.1");
        fs::write(folder.path().join("cert.pem"), certificate).unwrap();
        fs::write(folder.path().join("key.pem"), key).unwrap();
        fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        // Others may take the ports meanwhile.
        for _ in 0..5 {
            let free = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
            let [address, management] = free.each_ref().map(|free| free.local_addr().unwrap());
            drop(free);
            let mut config = json!({
                "listenAddress": address.to_string(), "managementListenAddress": management.to_string(),
                "certificate": "cert.pem", "privateKey": "key.pem", "httpPort": http, "tlsPort": tls,
            });
            config.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            fs::write(folder.path().join("config.json"), json!({ "pebble": config }).to_string()).unwrap();
            let log = fs::File::create(folder.path().join("log")).unwrap();
            let mut child = Command::new("pebble")
                .args(["-config", "config.json", "-dnsserver", &dns.to_string()])
                .env("PEBBLE_VA_NOSLEEP", "1")
                .env("PEBBLE_AUTHZREUSE", "0")
                .env("PEBBLE_WFE_NONCEREJECT", rest["rejectsNonces"].as_u64().unwrap_or(0).to_string())
                .current_dir(folder.path())
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .expect("pebble is installed: tests/run setup");
            let mut ended = false;
            eventually("pebble listens", || {
                ended = child.try_wait().unwrap().is_some();
                let listens = |address| TcpStream::connect(address).is_ok();
                ended || (listens(address) && listens(management))
            });
            if !ended {
                return Self { child, address, management, folder };
            }
        }
        panic!("pebble does not start: {}", fs::read_to_string(folder.path().join("log")).unwrap());
    }

    /// The certificate of the authority that clients have to trust, as a file.
    pub fn root(&self) -> PathBuf {
        let path = self.folder.path().join("root.pem");
        let output = Command::new("curl")
            .args(["-sSf", "--cacert", "ca.pem", "-o", "root.pem", &format!("https://{}/roots/0", self.management)])
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        path
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("--- log of pebble ---\n{log}\n---");
        }
    }
}

/// A gateway with certificates by ACME for `a.test` and `b.test`: its first listener is without TLS, its second one with.
pub struct World {
    pub gateway: Gateway,
    pub front: Front,
    pub dns: Dns,
    pub upstream: Upstream,
    authority: Authority,
    pebble: Option<Pebble>,
    folder: tempfile::TempDir,
    section: String,
}

impl World {
    /// Without an authority yet; `section` goes into `acme`.
    pub fn new(section: &str) -> Self {
        Self::with(section, Upstream::named("hello"))
    }

    pub fn with(section: &str, upstream: Upstream) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("tests");
        fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        let front = Front::start(&authority);
        let yaml = yaml(&front, &folder, &upstream, section);
        Self {
            gateway: Gateway::replaceable(&yaml),
            dns: Dns::start(Says::addresses(&["127.0.0.1"], 1)),
            front,
            upstream,
            authority,
            pebble: None,
            folder,
            section: section.to_owned(),
        }
    }

    /// The configuration `text`, with the addresses of this world and its authority.
    pub fn example(text: &str) -> Self {
        let mut world = Self::new("");
        let authority = format!("directory: https://{}/dir\n  ca: {}", world.front.address(), world.ca().display());
        let parts = [
            ("0.0.0.0:80 ", "127.0.0.1:0 "),
            ("0.0.0.0:443\n", "127.0.0.1:0\n"),
            ("127.0.0.1:9000", &world.upstream.address().to_string()),
            ("  storage: /var/lib/torana/acme ", &format!("  {authority} ")),
        ];
        let mut yaml = text.to_owned();
        for (from, to) in parts {
            assert!(yaml.contains(from), "{from}");
            yaml = yaml.replace(from, to);
        }
        world.gateway = Gateway::replaceable(&yaml);
        world.pebble(&json!({}));
        world
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// With an authority; `rest` goes into Pebble's configuration.
    pub fn start(section: &str, rest: &Value) -> Self {
        let mut world = Self::new(section);
        world.pebble(rest);
        world
    }

    /// Starts another authority that knows nothing of the one before.
    pub fn pebble(&mut self, rest: &Value) {
        let (http, tls) = (self.gateway.listener(0).port(), self.gateway.listener(1).port());
        let pebble = Pebble::start(&self.authority, http, tls, self.dns.address(), rest);
        self.front.passes_on_to(pebble.address);
        self.pebble = Some(pebble);
    }

    /// Its file, with something else in `acme`.
    pub fn yaml(&self, section: &str) -> String {
        yaml(&self.front, &self.folder, &self.upstream, section)
    }

    pub fn same(&self) -> String {
        self.yaml(&self.section)
    }

    /// How it stands with the certificate.
    pub fn certificate(&self) -> Value {
        self.gateway.control_status()["certificates"][0].clone()
    }

    /// Waits until it is in this state.
    #[track_caller]
    pub fn wait_for(&self, state: &str) -> Value {
        let mut last = Value::Null;
        in_time(&format!("the certificate is {state}"), || {
            last = self.certificate();
            last["state"] == state
        });
        last
    }

    /// What curl says that trusts this authority; the body if all is well.
    pub fn curl(&self, name: &str) -> String {
        let port = self.gateway.listener(1).port();
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "20", "--cacert"])
            .arg(self.pebble.as_ref().unwrap().root())
            .args(["--resolve", &format!("{name}:{port}:127.0.0.1"), &format!("https://{name}:{port}/")])
            .output()
            .expect("curl is installed");
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    }

    /// What OpenSSL says of the handshake for a name.
    pub fn handshake(&self, name: &str, arguments: &[&str]) -> String {
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &self.gateway.listener(1).to_string(), "-servername", name])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("openssl is installed");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// A certificate for this name from another authority, `tests`, and its key.
    pub fn pair(&self, name: &str) -> (String, String) {
        self.authority.pair(name)
    }

    /// A connection that stays open.
    pub fn connection(&self, name: &str) -> Open {
        let root = fs::read_to_string(self.pebble.as_ref().unwrap().root()).unwrap();
        let stream = TcpStream::connect(self.gateway.listener(1)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let connection = ClientConnection::new(client(&root), name.to_owned().try_into().unwrap()).unwrap();
        Open(BufReader::new(StreamOwned::new(connection, stream)))
    }

    /// The files that are kept, by their ending.
    pub fn kept(&self, ending: &str) -> Vec<PathBuf> {
        let folder = self.gateway.folder().join("acme");
        let authority = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
        let files = fs::read_dir(authority).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|other| other == ending)).collect()
    }
}

/// A TLS connection over HTTP/1.1.
pub struct Open(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Open {
    /// The body of the answer.
    pub fn get(&mut self, path: &str) -> String {
        self.0.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n").as_bytes()).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the connection is closed");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }
}

fn yaml(front: &Front, folder: &tempfile::TempDir, upstream: &Upstream, section: &str) -> String {
    format!(
        "listeners:
  - {{ address: \"127.0.0.1:0\" }}
  - {{ address: \"127.0.0.1:0\", tls: {{ acme: [{{ domains: [a.test, b.test] }}] }} }}
acme:
  directory: https://{}/dir
  ca: {}
  terms_agreed: true
  contact: [ops@a.test]
  {}
upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
routes: [{{ name: all, upstream: up }}]
",
        front.address(),
        folder.path().join("ca.pem").display(),
        section.replace('\n', "\n  "),
        upstream.address()
    )
}
