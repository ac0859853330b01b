//! Clients and servers in other languages, from `tests/suite/scripts`. `tests/run setup` installs what they need.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use super::eventually;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a script by its name: Python, or Node.js if it ends so.
fn command(name: &str) -> Command {
    let (script, tools) = (root().join("tests/suite/scripts").join(name), root().join("target/tools"));
    let mut command = if Path::new(name).extension().is_some_and(|extension| extension == "cjs") {
        let mut node = Command::new("node");
        node.env("NODE_PATH", tools.join("node/node_modules"));
        node
    } else {
        Command::new(tools.join("bin/python"))
    };
    command.arg(script);
    command
}

/// Runs a script to its end; what it printed.
#[track_caller]
pub fn run(name: &str, arguments: &[&str]) -> String {
    let output = command(name).args(arguments).output().expect("`tests/run setup` was run");
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} {arguments:?}: {}\n{said}{wrong}", output.status);
    said.into_owned()
}

/// The same where the script prints JSON.
#[track_caller]
pub fn json(name: &str, arguments: &[&str]) -> serde_json::Value {
    let said = run(name, arguments);
    serde_json::from_str(said.trim()).unwrap_or_else(|error| panic!("{name} {arguments:?}: {error}: {said}"))
}

/// A script that runs until this is dropped.
pub struct Script {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Script {
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        let mut child = command(name)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`tests/run setup` was run");
        let said = Arc::new(Mutex::new(Vec::new()));
        let (stdout, lines) = (child.stdout.take().unwrap(), Arc::clone(&said));
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        Self { child, said }
    }

    /// Every line that it printed so far.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it prints this line.
    #[track_caller]
    pub fn wait_for(&self, line: &str) {
        eventually(line, || self.said().iter().any(|said| said == line));
    }

    /// Where it listens: what it prints behind `port`.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        let port = || self.said().iter().find_map(|line| line.strip_prefix("port ")?.parse::<u16>().ok());
        eventually("the script listens", || port().is_some());
        ([127, 0, 0, 1], port().unwrap()).into()
    }

    /// Ends it as the system would a program that is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.kill();
    }
}
