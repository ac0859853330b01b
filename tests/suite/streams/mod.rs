//! What lasts: WebSockets, event streams; and every pair of protocols, one after the other.

mod events;
mod matrix;
mod web_socket;

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::{Authority, Gateway, script::Script};

/// Certificates for `one.test`, in files.
pub struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    pub fn new() -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("tests"));
        let (certificate, key) = authority.pair("one.test");
        for (name, text) in [("ca.pem", authority.pem()), ("one.crt", certificate), ("one.key", key)] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A gateway with these files: the first listener speaks HTTP/1.1 and h2c, the second one TLS.
    pub fn gateway(&self, rest: &str) -> Gateway {
        let listeners = "listeners:
  - { address: \"127.0.0.1:0\", h2c: true }
  - { address: \"127.0.0.1:0\", tls: { certificates: [{ cert: one.crt, key: one.key }] } }
consumers: { app: { api_keys: [key-12345] } }
telemetry: { access_log: { file: access.log } }
";
        Gateway::start_with(&format!("{listeners}{rest}"), |to: &Path, _| {
            for name in ["one.crt", "one.key"] {
                fs::copy(self.path(name), to.join(name)).unwrap();
            }
        })
    }

    /// A server that speaks TLS with them.
    pub fn server(&self, script: &str) -> Script {
        let files = ["one.crt", "one.key"].map(|name| self.path(name).display().to_string());
        Script::start(script, &[&files[0], &files[1]])
    }

    /// The settings of an upstream that trusts them.
    pub fn tls(&self) -> String {
        format!("tls: {{ ca: {}, server_name: one.test }}", self.path("ca.pem").display())
    }
}
