//! Connections, open files and buffers.

use std::{
    io::Write as _,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use crate::support::{Bare, Client, Gateway, Upstream, eventually, frames::Peer, http2, read_head, request};

fn config(up: SocketAddr, limits: &str) -> String {
    format!(
        "listeners: [{{ address: \"127.0.0.1:0\", h2c: true }}]\n\
         upstreams: {{ up: {{ endpoints: [\"{up}\"] }} }}\n\
         routes: [{{ name: away, match: {{ path: /away }}, redirect: {{ to: / }} }}, {{ name: all, upstream: up }}]\n\
         limits: {{ {limits} }}\n"
    )
}

/// Clients with a connection that has served a request, and waits for the next one.
fn settle(gateway: &Gateway, count: usize) -> Vec<Client> {
    let mut clients: Vec<_> = (0..count).map(|_| gateway.client()).collect();
    assert!(clients.iter_mut().all(|client| client.get("/").status == 200));
    clients
}

#[track_caller]
fn is_turned_away(gateway: &Gateway, why: &str) {
    let mut client = gateway.client();
    let answer = client.get("/too-much");
    assert_eq!((answer.status, answer.problem().as_str()), (503, why));
    assert_eq!((answer.header("retry-after"), answer.header("connection")), (Some("1"), Some("close")));
    assert!(client.is_closed());
}

#[test]
fn a_connection_too_many_is_told_so_and_those_that_are_there_go_on() {
    let up = Upstream::named("up");
    let text = config(up.address(), "connections: 3") + "telemetry: { access_log: {} }\n";
    let gateway = Gateway::start(&text);
    let mut clients = settle(&gateway, 3);
    is_turned_away(&gateway, "overloaded");
    let said = ["\"path\":\"/too-much\"", "\"reject\":\"overloaded\",\"reason\":\"connections\""];
    let is_said = || gateway.log().lines().any(|line| said.iter().all(|part| line.contains(part)));
    eventually("it is in the log", is_said);
    assert!(clients.iter_mut().all(|client| client.get("/").status == 200), "those that are there are served");
    gateway.wait_for_metric("torana_connections", 3.0);
    gateway.wait_for_metric("torana_rejects_total{reject=\"overloaded\",route=\"\"}", 1.0);
    clients.pop();
    eventually("there is room again", || gateway.get("/").status == 200);
    assert!(!up.seen().iter().any(|request| request.target == "/too-much"));
}

#[test]
fn a_reload_changes_how_many_there_may_be() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&config(up.address(), "connections: 2"));
    let mut clients = settle(&gateway, 2);
    assert_eq!(gateway.get("/").status, 503);
    gateway.reload(&config(up.address(), "connections: 4"));
    assert_eq!(gateway.get("/").status, 200);
    gateway.reload(&config(up.address(), "connections: 1"));
    assert_eq!(gateway.get("/").status, 503);
    assert!(clients.iter_mut().all(|client| client.get("/").status == 200), "nobody is thrown out");
}

#[test]
fn one_address_cannot_take_the_room_of_the_others() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&config(up.address(), "connections_per_address: 2"));
    let clients = settle(&gateway, 2);
    is_turned_away(&gateway, "too_many_connections");
    let mut other = Client::connect_from("127.0.0.2".parse().unwrap(), gateway.address());
    assert_eq!(other.get("/").status, 200);
    drop(clients);
    eventually("there is room again", || gateway.get("/").status == 200);
}

#[test]
fn http2_is_told_in_its_own_words() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&config(up.address(), "connections: 1"));
    let clients = settle(&gateway, 1);
    let answer = http2::send(&gateway, "GET", "/", &[], &[]);
    assert_eq!((answer.status, answer.problem().as_str()), (503, "overloaded"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    drop(clients);
    eventually("there is room again", || http2::send(&gateway, "GET", "/", &[], &[]).status == 200);
}

#[test]
fn whoever_connects_and_says_nothing_does_not_keep_others_out_for_long() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&config(up.address(), "connections: 1"));
    let clients = settle(&gateway, 1);
    let mut silent: Vec<_> = (0..50).map(|_| gateway.client()).collect();
    let began = Instant::now();
    assert!(silent.iter_mut().all(Client::is_closed));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(clients);
    eventually("there is room again", || gateway.get("/").status == 200);
}

/// Larger than what sockets hold.
const LARGE: usize = 16 << 20;

/// Asks for something large, and does not read it.
fn slow_readers(gateway: &Gateway, count: usize) -> Vec<Client> {
    let readers: Vec<_> = (0..count).map(|_| gateway.client()).collect();
    for reader in &readers {
        socket2::SockRef::from(reader.stream()).set_recv_buffer_size(4096).unwrap();
        reader.stream().write_all(request("GET", "/large", &[]).as_bytes()).unwrap();
    }
    readers
}

#[test]
fn clients_that_do_not_read_fill_the_buffers_up_to_the_limit_and_no_further() {
    let up = Bare::start(|stream, _| {
        while let Some(head) = read_head(stream) {
            let length = if head.starts_with("GET /large") { LARGE } else { 5 };
            let mut sent = stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes());
            for piece in vec![b'x'; length].chunks(1 << 16) {
                sent = sent.and_then(|()| stream.write_all(piece));
            }
            if sent.is_err() {
                return;
            }
        }
    });
    let gateway = Gateway::start(&config(up.address(), "buffers: 8MiB"));
    let mut kept = settle(&gateway, 1).remove(0);
    let before = gateway.memory();
    let mut first = gateway.client();
    first.write(request("GET", "/large", &[]).as_bytes());
    let mut readers = Vec::new();
    let full = || gateway.status()["buffers"].as_u64().unwrap() >= 8 << 20;
    while !full() {
        readers.extend(slow_readers(&gateway, 5));
        assert!(readers.len() < 200, "{}", gateway.status());
        std::thread::sleep(Duration::from_millis(100));
    }
    is_turned_away(&gateway, "overloaded");
    let answer = kept.get("/");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "overloaded"), "also on a connection that is there");
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 48 << 20, "{} MiB with {} readers", grown >> 20, readers.len());
    let first = first.read();
    assert_eq!((first.status, first.body.len()), (200, LARGE), "what runs goes on");
    drop(readers);
    eventually("the buffers are free", || gateway.status()["buffers"].as_u64().unwrap() < 1 << 20);
    assert_eq!(kept.get("/").status, 200, "the connection is still good");
    assert_eq!(gateway.get("/").status, 200);
}

/// All are taken on before the first one has to wait for its client.
#[test]
fn answers_that_come_all_at_once_and_are_not_taken_are_broken_off_beyond_twice_the_limit() {
    let up = Bare::start(|stream, _| {
        while let Some(head) = read_head(stream) {
            let length = if head.starts_with("GET /large") { 400 << 10 } else { 5 };
            if length > 5 {
                std::thread::sleep(Duration::from_secs(1));
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            if stream.write_all(&[head.into_bytes(), vec![b'x'; length]].concat()).is_err() {
                return;
            }
        }
    });
    let text = config(up.address(), "buffers: 8MiB") + "telemetry: { access_log: {} }\n";
    let gateway = Gateway::start(&text);
    assert_eq!(gateway.get("/").status, 200);
    let before = gateway.memory();
    let mut peers: Vec<Peer> = (0..5).map(|_| Peer::start(gateway.address())).collect();
    for peer in &mut peers {
        // No window for any stream.
        peer.settings(&[(4, 0)]);
        for stream in 0..100 {
            peer.get(1 + 2 * stream, "/large");
        }
        assert!(peer.flush());
    }
    let broken = || gateway.log().matches("buffers: the client does not take its response").count();
    let mut grown = 0;
    eventually("most are broken off", || {
        grown = grown.max(gateway.memory().saturating_sub(before));
        broken() > 300
    });
    assert!(grown < 96 << 20, "{} MiB", grown >> 20);
    drop(peers);
    eventually("the buffers are free", || gateway.status()["buffers"].as_u64().unwrap() < 1 << 20);
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn headers_that_do_not_end_fill_the_buffers_up_to_the_limit_and_no_further() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&config(up.address(), "buffers: 4MiB"));
    let part = format!("GET / HTTP/1.1\r\nHost: test\r\nX-Long: {}", "x".repeat(40 << 10));
    let mut slow: Vec<Client> = Vec::new();
    while gateway.get("/").status == 200 {
        slow.extend((0..5).map(|_| gateway.client()));
        slow.iter_mut().rev().take(5).for_each(|client| client.write(part.as_bytes()));
        assert!(slow.len() < 200, "{}", gateway.status());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(slow.len() > 20, "{}", slow.len());
    let mut first = slow.remove(0);
    drop(slow);
    eventually("there is room again", || gateway.get("/").status == 200);
    first.write(b"\r\n\r\n");
    assert_eq!(first.read().status, 200, "what was begun goes on");
}

#[test]
fn where_files_run_out_what_is_new_is_refused_and_what_runs_goes_on() {
    let up = Upstream::named("up");
    let text = config(up.address(), "connections: 100000");
    let gateway = Gateway::start_with(&text, |_, command| {
        let program = command.get_program().to_owned();
        *command = Command::new("sh");
        command.args(["-c", "ulimit -n 300; exec \"$0\" \"$@\""]).arg(program);
    });
    let mut kept = settle(&gateway, 1).remove(0);
    let mut crowd: Vec<Client> = (0..400).map(|_| gateway.client()).collect();
    // Nothing else is opened for this, and the connection stays whatever the moment.
    eventually("it is noticed", || kept.get("/away").status == 503);
    assert_eq!(kept.get("/away").problem(), "overloaded", "on a connection that is there");
    drop(crowd.drain(..));
    eventually("there is room again", || kept.get("/").status == 200 && gateway.get("/").status == 200);
    assert!(up.seen().len() < 400);
}

#[test]
fn the_limits_are_shown() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&config(up.address(), "connections: 7, connections_per_address: 3, buffers: 1GiB"));
    let limits = &gateway.status()["limits"];
    assert_eq!((&limits["connections"], &limits["connections_per_address"]), (&7.into(), &3.into()));
    assert_eq!(limits["buffers"], 1 << 30);
    gateway.reload(&config(up.address(), ""));
    let limits = &gateway.status()["limits"];
    let [connections, files] = ["connections", "open_files"].map(|name| limits[name].as_u64().unwrap());
    assert_eq!((connections, &limits["connections_per_address"]), (files / 2, &serde_json::Value::Null));
}
