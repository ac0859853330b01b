//! gRPC and gRPC-Web, spoken by the clients and servers that everyone uses.

mod calls;
mod health;
mod refusals;
mod time;
mod web;

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{
    Authority, Gateway,
    script::{self, Script},
};

/// A gateway with a listener for h2c and one for TLS, before a real server of gRPC.
pub struct Stage {
    pub gateway: Gateway,
    pub server: Script,
    authority: PathBuf,
    _folder: tempfile::TempDir,
}

/// How the server is reached.
#[derive(Clone, Copy, Debug)]
pub enum Up {
    H2c,
    Tls,
}

const LISTENERS: &str = "listeners:
  - { address: \"127.0.0.1:0\", h2c: true }
  - { address: \"127.0.0.1:0\", tls: { certificates: [{ cert: one.crt, key: one.key }] } }
consumers: { app: { api_keys: [key-12345] } }
telemetry: { access_log: { file: access.log } }
";

const OPEN: &str = "routes: [{ name: r, upstream: up }]\n";

/// Asserts that a call ended because the upstream cannot be reached.
fn is_unreachable(seen: &Value) {
    let said = (&seen["code"], &seen["trailing"]["torana-reject"]);
    assert_eq!(said, (&json!("UNAVAILABLE"), &json!("upstream_unreachable")), "{seen}");
}

impl Stage {
    pub fn start(up: Up, rest: &str) -> Self {
        Self::with(up, "", rest)
    }

    /// With these settings of the upstream.
    pub fn with(up: Up, upstream: &str, rest: &str) -> Self {
        let authority = Authority::new("tests");
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (certificate, key) = authority.pair("one.test");
        fs::write(path("ca.pem"), authority.pem()).unwrap();
        fs::write(path("one.crt"), certificate).unwrap();
        fs::write(path("one.key"), key).unwrap();
        let (server, tls) = match up {
            Up::H2c => (Script::start("grpc_server.py", &[]), String::new()),
            Up::Tls => {
                let files = ["one.crt", "one.key"].map(|name| path(name).display().to_string());
                let tls = format!(", tls: {{ ca: {}, server_name: one.test }}", path("ca.pem").display());
                (Script::start("grpc_server.py", &[&files[0], &files[1]]), tls)
            }
        };
        let yaml = format!(
            "{LISTENERS}upstreams: {{ up: {{ endpoints: [\"{}\"], protocol: http2{tls}{upstream} }} }}\n{rest}",
            server.address()
        );
        let gateway = Gateway::start_with(&yaml, |to, _| {
            for name in ["one.crt", "one.key"] {
                fs::copy(path(name), to.join(name)).unwrap();
            }
        });
        Self { gateway, server, authority: path("ca.pem"), _folder: folder }
    }

    /// What a client over h2c sees in a scene.
    #[track_caller]
    pub fn play(&self, scene: &str, given: &[&str]) -> Value {
        let address = self.gateway.address().to_string();
        script::json("grpc_client.py", &[&[address.as_str(), "-", scene][..], given].concat())
    }

    /// The same over TLS.
    #[track_caller]
    pub fn play_over_tls(&self, scene: &str, given: &[&str]) -> Value {
        let address = self.gateway.listener(1).to_string();
        script::json(
            "grpc_client.py",
            &[&[address.as_str(), self.authority.to_str().unwrap(), scene][..], given].concat(),
        )
    }

    /// Connect's client of gRPC-Web, with this version of HTTP; `2` is over TLS.
    #[track_caller]
    pub fn connect(&self, version: &str, scene: &str, given: &[&str]) -> Value {
        let (url, authority) = match version {
            "2" => (format!("https://{}", self.gateway.listener(1)), self.authority.to_str().unwrap()),
            _ => (format!("http://{}", self.gateway.address()), "-"),
        };
        script::json("connect.cjs", &[&[url.as_str(), version, authority, scene][..], given].concat())
    }

    /// The lines of the access log so far.
    pub fn log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.gateway.folder().join("access.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a line of the log that has these members.
    #[track_caller]
    pub fn wait_for_log(&self, wanted: &[(&str, Value)]) {
        let fits = |line: &Value| wanted.iter().all(|(name, value)| &line[*name] == value);
        crate::support::eventually(&format!("{wanted:?} in the log"), || self.log().iter().any(fits));
    }
}
