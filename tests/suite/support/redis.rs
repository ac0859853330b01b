//! A real Redis (Debian's `redis-server`) on a free port.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal};

use super::eventually;

/// A server. It ends when it is dropped.
pub struct Redis {
    server: Child,
    address: SocketAddr,
    arguments: Vec<String>,
    folder: tempfile::TempDir,
}

impl Redis {
    /// One that forgets everything when it ends.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same with further arguments.
    pub fn with(arguments: &[&str]) -> Self {
        Self::run(&["--save", ""], arguments)
    }

    /// One that begins with these arguments: a sentinel.
    pub fn with_first(arguments: &[&str]) -> Self {
        Self::run(arguments, &[])
    }

    fn run(first: &[&str], more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().to_str().unwrap().to_owned();
        let arguments: Vec<String> = [first, more].concat().into_iter().map(str::to_owned).collect();
        loop {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            // Somebody else may have taken the port meanwhile.
            if let Some(server) = spawn(address, &arguments, &here) {
                return Self { server, address, arguments, folder };
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.server), signal).unwrap();
    }

    /// Ends it.
    pub fn kill(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }

    /// Starts it again on the same port.
    pub fn restart(&mut self) {
        self.kill();
        let here = self.folder.path().to_str().unwrap().to_owned();
        eventually("it starts again", || {
            let started = spawn(self.address, &self.arguments, &here);
            let is_there = started.is_some();
            if let Some(server) = started {
                self.server = server;
            }
            is_there
        });
    }

    /// What it answers to a command.
    pub fn cli(&self, command: &[&str]) -> String {
        let port = self.address.port().to_string();
        let output = Command::new("redis-cli").args(["-p", &port]).args(command).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(address: SocketAddr, arguments: &[String], folder: &str) -> Option<Child> {
    let port = address.port().to_string();
    let mut server = Command::new("redis-server")
        .args(arguments)
        .args(["--port", &port, "--bind", "127.0.0.1", "--dir", folder, "--daemonize", "no"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("`tests/run setup` was run");
    let mut ended = false;
    eventually("Redis is there, or has ended", || {
        ended = server.try_wait().unwrap().is_some();
        ended || TcpStream::connect(address).is_ok()
    });
    if ended { None } else { Some(server) }
}
