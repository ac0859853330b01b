//! How long, and how fast.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use super::{chunked, is_known, start, still_serves};
use crate::support::{Bare, Client, Gateway, Reply, Upstream, eventually, read_head, request};

/// Sends this byte by byte, one every 100 ms, until the gateway has answered; returns status and code of the answer.
fn trickle(client: &mut Client, bytes: impl Iterator<Item = u8>) -> (u16, String) {
    client.set_timeout(Duration::from_millis(100));
    for byte in bytes.take(150) {
        client.try_write(&[byte]);
        let mut first = [0];
        if client.stream().peek(&mut first).is_ok() {
            break;
        }
    }
    client.set_timeout(Duration::from_secs(15));
    let answer = client.read();
    let code = answer.problem();
    assert!(client.is_closed());
    (answer.status, code)
}

#[test]
fn a_header_has_a_time_in_all_however_its_bytes_come() {
    let up = Upstream::named("up");
    let gateway = start("header_timeout: 1s", up.address());
    let began = Instant::now();
    let endless = b"GET / HTTP/1.1\r\nHost: a\r\nx-a: ".iter().copied().chain(std::iter::repeat(b'a'));
    assert_eq!(trickle(&mut gateway.client(), endless.clone()), (408, "client_timeout".into()));
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
    // The same for one that is not the first of its connection.
    let mut client = gateway.client();
    assert_eq!(client.get("/").status, 200);
    assert_eq!(trickle(&mut client, endless), (408, "client_timeout".into()));
    is_known(&gateway, "client_timeout", "", 2.0);
    assert_eq!(up.seen().len(), 1);
}

#[test]
fn the_log_knows_whose_header_was_too_slow_and_by_which_limit() {
    let up = Upstream::named("up");
    let gateway = start("header_timeout: 1s", up.address());
    let mut client = gateway.client();
    client.write(b"POST /slow HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: snail\r\nX-Half: ");
    assert_eq!(client.read().status, 408);
    let line = || {
        let log = gateway.log();
        let found = log.lines().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        found.filter(|line| line["path"] == "/slow")
    };
    eventually("it is in the log", || line().is_some());
    let line = line().unwrap();
    assert_eq!((&line["host"], &line["user_agent"]), (&"shop.test".into(), &"snail".into()), "{line}");
    assert_eq!(line["reason"], "`header_timeout` of the listener", "{line}");
    assert!(line["duration_ms"].as_f64().unwrap() > 900.0 && line["bytes_sent"].as_u64().unwrap() > 50, "{line}");
}

#[test]
fn whoever_connects_and_says_nothing_has_the_time_for_a_header() {
    let up = Upstream::named("up");
    let gateway = start("header_timeout: 1s, idle_timeout: 8760h", up.address());
    let (mut silent, mut used) = (gateway.client(), gateway.client());
    assert_eq!(used.get("/").status, 200);
    assert!(silent.is_closed(), "and nothing is said to it");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(used.get("/").status, 200, "between two requests there is more time");
}

#[test]
fn a_body_that_trickles_is_too_slow_although_it_never_pauses() {
    let up = Upstream::named("up");
    let gateway = start("body_timeout: 1s", up.address());
    let whole = request("POST", "/", &[("Content-Length", "1000")]);
    let mut client = gateway.client();
    client.write(whole.as_bytes());
    assert_eq!(trickle(&mut client, std::iter::repeat(b'x')), (408, "client_timeout".into()));
    let mut client = gateway.client();
    client.write(chunked("/").as_bytes());
    assert_eq!(trickle(&mut client, b"1\r\nx\r\n".iter().copied().cycle()), (408, "client_timeout".into()));
    // The wish for another protocol is no way around.
    let wish = [("Content-Length", "1000"), ("Connection", "upgrade"), ("Upgrade", "websocket")];
    let mut client = gateway.client();
    client.write(request("POST", "/", &wish).as_bytes());
    assert_eq!(trickle(&mut client, std::iter::repeat(b'x')), (408, "client_timeout".into()));
    is_known(&gateway, "client_timeout", "all", 3.0);
    assert!(up.seen().is_empty());
    still_serves(&gateway);
}

/// Sends a body of 30 pieces, one every 100 ms.
fn upload(gateway: &Gateway, piece: &[u8]) -> u16 {
    let mut client = gateway.client();
    client.write(request("POST", "/", &[("Content-Length", &(30 * piece.len()).to_string())]).as_bytes());
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(100));
        client.try_write(piece);
    }
    client.read_answer_to("POST").status
}

#[test]
fn a_body_that_keeps_up_may_take_longer_than_a_pause() {
    let up = Upstream::named("up");
    let gateway = start("body_timeout: 1s", up.address());
    assert_eq!(upload(&gateway, &[b'x'; 500]), 200);
    let gateway = start("body_timeout: 1s, min_body_rate: 0B/s", up.address());
    assert_eq!(upload(&gateway, b"x"), 200, "without a least rate only pauses count");
    let gateway = start("body_timeout: 1s, min_body_rate: 100KiB/s", up.address());
    assert_eq!(upload(&gateway, &[b'x'; 500]), 408);
}

#[test]
fn a_pause_of_the_upstream_is_none_of_the_client() {
    let up = Bare::start(|stream, _| {
        read_head(stream).unwrap();
        // The client has sent all of it long ago.
        std::thread::sleep(Duration::from_millis(2500));
        let mut left = 4 << 20;
        let mut piece = vec![0; 1 << 16];
        while left > 0 {
            left -= stream.read(&mut piece).unwrap();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    let gateway = start("body_timeout: 1s", up.address());
    let mut client = gateway.client();
    client.write(request("POST", "/", &[("Content-Length", &(4 << 20).to_string())]).as_bytes());
    client.write(&vec![b'x'; 4 << 20]);
    assert_eq!(client.read_answer_to("POST").status, 200);
}

#[test]
fn a_body_that_was_announced_and_does_not_come_is_waited_for_as_long_as_a_pause() {
    let up = Bare::start(|stream, _| {
        read_head(stream).unwrap();
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        let _ = stream.read(&mut [0; 100]);
    });
    let gateway = start("body_timeout: 1s", up.address());
    let mut client = gateway.client();
    let began = Instant::now();
    client.write(request("POST", "/", &[("Content-Length", "10"), ("Expect", "100-continue")]).as_bytes());
    let answer = client.read();
    assert_eq!((answer.status, answer.problem().as_str()), (408, "client_timeout"));
    assert!(client.is_closed());
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
}

/// Larger than what sockets hold.
const LARGE: usize = 32 << 20;

fn large() -> Upstream {
    Upstream::start(|_| Reply::ok(vec![b'x'; LARGE]))
}

/// A client with little room in its socket that has asked for something large.
fn reader(gateway: &Gateway) -> Client {
    let client = gateway.client();
    socket2::SockRef::from(client.stream()).set_recv_buffer_size(4096).unwrap();
    client.stream().write_all(request("GET", "/", &[]).as_bytes()).unwrap();
    client
}

#[test]
fn an_answer_that_is_taken_byte_by_byte_is_given_up() {
    let up = large();
    let gateway = start("body_timeout: 1s, min_body_rate: 10KiB/s", up.address());
    let mut readers: Vec<_> = (0..3).map(|_| reader(&gateway)).collect();
    eventually("they are gone", || {
        for client in &mut readers {
            let _ = client.stream().read(&mut [0]);
        }
        gateway.metric("torana_connections") == 0.0
    });
    is_known(&gateway, "client_timeout", "all", 3.0);
}

/// The kernel holds some of the answer, and has room for more only when much of it is gone: meanwhile nothing can be written.
#[test]
fn an_answer_that_is_taken_steadily_may_take_longer_than_a_pause() {
    let up = large();
    let gateway = start("body_timeout: 1s, min_body_rate: 10KiB/s", up.address());
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // As on a network, where the client says by small steps that it has taken something.
    socket.set_tcp_mss(1400).unwrap();
    socket.set_recv_buffer_size(32 << 10).unwrap();
    socket.connect(&gateway.address().into()).unwrap();
    let mut client = TcpStream::from(socket);
    client.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    client.write_all(request("GET", "/", &[]).as_bytes()).unwrap();
    let (mut taken, mut piece, began) = (0, vec![0; 1 << 20], Instant::now());
    while taken < LARGE {
        let is_slow = began.elapsed() < Duration::from_secs(5);
        let most = if is_slow { 4 << 10 } else { piece.len() };
        let read = client.read(&mut piece[..most]).unwrap();
        assert!(read > 0, "it ended behind {taken} bytes after {:?}", began.elapsed());
        taken += read;
        if is_slow {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
