//! Proxies in front of the gateway, and endpoints behind it, that are told who the client is.

mod claims;
pub(crate) mod haproxy;
mod receive;
mod rows;
mod send;

use std::{fs, net::SocketAddr, path::Path, process::Child, process::Command};

use socket2::{Domain, Socket, Type};

use crate::support::{Client, Gateway, Response, Upstream, eventually, request};

/// A file with one listener that has these settings, and one route to `up`.
fn config(up: SocketAddr, listener: &str, rest: &str) -> String {
    format!(
        "listeners: [{{ address: \"127.0.0.1:0\", {listener} }}]\n{rest}\n\
         upstreams: {{ up: {{ endpoints: [\"{up}\"] }} }}\nroutes: [{{ name: r, upstream: up }}]\n"
    )
}

/// A gateway for [`config`], in front of an upstream that answers `up`.
fn start(listener: &str, rest: &str) -> (Gateway, Upstream) {
    let up = Upstream::named("up");
    (Gateway::start(&config(up.address(), listener, rest)), up)
}

/// A connection that begins with these bytes.
fn begin(gateway: &Gateway, bytes: &[u8]) -> Client {
    let mut client = gateway.client();
    client.write(bytes);
    client
}

/// GET on a connection that begins with these bytes.
fn get(gateway: &Gateway, introduction: &[u8], headers: &[(&str, &str)]) -> Response {
    let mut client = begin(gateway, &[introduction, request("GET", "/", headers).as_bytes()].concat());
    client.read()
}

/// A line of version 1.
fn line(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 10.0.0.1 4711 443\r\n").into_bytes()
}

/// A header of version 2.
fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, block].concat()
}

/// 192.0.2.7:4711 to 10.0.0.1:443.
const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x67, 1, 0xbb];

/// A port that other programs can listen on while this is there, and that nobody else is given.
pub(crate) struct Reserved(Socket);

impl Reserved {
    pub(crate) fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }
}

/// A program that runs until it is dropped.
pub(crate) struct Program {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Program {
    /// Starts it with this file, and waits until it answers `ready`. `@FOLDER@` stands for its own folder.
    fn start(mut command: Command, flag: &str, config: &str, ready: impl Fn(&Path) -> bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("program.conf");
        fs::write(&file, config.replace("@FOLDER@", folder.path().to_str().unwrap())).unwrap();
        let child = command.arg(flag).arg(&file).current_dir(folder.path()).spawn().unwrap();
        let path = folder.path().to_owned();
        let mut program = Self { child, _folder: folder };
        eventually("the program listens", || {
            assert!(program.child.try_wait().unwrap().is_none(), "it ended: {config}");
            ready(&path)
        });
        program
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}
