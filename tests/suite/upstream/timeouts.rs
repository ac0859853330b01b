//! How long things may take, and what is said when they take longer.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use super::gateway;
use crate::support::{Bare, Busy, Gateway, Reply, Response, Upstream, eventually, read_head, request};

fn timed(gateway: &Gateway) -> (Response, Duration) {
    let mut client = gateway.client();
    let began = Instant::now();
    let answer = client.get("/");
    (answer, began.elapsed())
}

/// Fails unless it took that long, and not much longer.
#[track_caller]
fn about(took: Duration, millis: u64) {
    let expected = Duration::from_millis(millis);
    assert!(took + Duration::from_millis(30) > expected && took < expected + Duration::from_millis(1500), "{took:?}");
}

/// Writes bytes one by one for as long as somebody listens.
fn trickle(stream: &mut TcpStream, bytes: impl Iterator<Item = u8>, pause: Duration) {
    stream.set_nodelay(true).unwrap();
    for byte in bytes {
        if stream.write_all(&[byte]).is_err() {
            return;
        }
        std::thread::sleep(pause);
    }
}

#[test]
fn a_connection_that_does_not_come_about_is_504() {
    let busy = Busy::new();
    let gateway = gateway(&[busy.address()], "timeouts: { connect: 400ms }, retries: { attempts: 0 }");
    let (answer, took) = timed(&gateway);
    assert_eq!((answer.status, answer.problem().as_str()), (504, "upstream_timeout"));
    about(took, 400);
}

#[test]
fn a_tls_handshake_that_does_not_come_about_is_504() {
    let silent =
        Bare::start(|stream, _| drop(stream.read(&mut [0; 1]).map(|_| std::thread::sleep(Duration::from_secs(4)))));
    let gateway = gateway(
        &[silent.address()],
        "timeouts: { connect: 400ms }, retries: { attempts: 0 }, tls: { server_name: a.example, verify: false }",
    );
    let (answer, took) = timed(&gateway);
    assert_eq!((answer.status, answer.problem().as_str()), (504, "upstream_timeout"));
    about(took, 400);
}

#[test]
fn an_upstream_that_never_answers_is_504() {
    let up = Upstream::start(|_| Reply::ok("late").after(Duration::from_secs(10)));
    let gateway = gateway(&[up.address()], "timeouts: { read: 400ms }");
    let (answer, took) = timed(&gateway);
    assert_eq!((answer.status, answer.problem().as_str()), (504, "upstream_timeout"));
    about(took, 400);
}

#[test]
fn the_read_timeout_counts_from_one_read_to_the_next() {
    let up = Bare::start(|stream, _| {
        read_head(stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n").unwrap();
        trickle(stream, b"hello world\n".iter().copied(), Duration::from_millis(80));
    });
    let gateway = gateway(&[up.address()], "timeouts: { read: 500ms }");
    let (answer, took) = timed(&gateway);
    assert_eq!(answer.text(), "hello world\n");
    assert!(took > Duration::from_millis(800), "longer than the time-out: {took:?}");
}

#[test]
fn a_body_that_stalls_is_cut_off() {
    let up = Upstream::start(|_| Reply::raw_open("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"));
    let gateway = gateway(&[up.address()], "timeouts: { read: 400ms }");
    let mut client = gateway.client();
    let began = Instant::now();
    client.write(request("GET", "/", &[]).as_bytes());
    assert!(client.try_read("GET").is_none());
    about(began.elapsed(), 400);
}

#[test]
fn an_upstream_that_does_not_take_the_body_is_504() {
    let up = Bare::start(|stream, _| {
        read_head(stream);
        std::thread::sleep(Duration::from_secs(8));
    });
    let gateway = gateway(&[up.address()], "timeouts: { write: 400ms, read: 600ms }");
    let mut client = gateway.client();
    client.write(request("POST", "/", &[("Content-Length", "100000000")]).as_bytes());
    let mut sending = client.stream().try_clone().unwrap();
    let sender = std::thread::spawn(move || while sending.write_all(&[b'x'; 1 << 12]).is_ok() {});
    let began = Instant::now();
    let answer = client.read_answer_to("POST");
    assert_eq!((answer.status, answer.problem().as_str()), (504, "upstream_timeout"));
    // It might have answered without taking the body: that is waited for.
    about(began.elapsed(), 600);
    drop(client);
    sender.join().unwrap();
}

#[test]
fn the_total_time_is_a_504_of_its_own() {
    let up = Upstream::start(|_| Reply::ok("late").after(Duration::from_secs(10)));
    let gateway = gateway(&[up.address()], "timeouts: { total: 400ms }");
    let (answer, took) = timed(&gateway);
    assert_eq!((answer.status, answer.problem().as_str()), (504, "deadline_exceeded"));
    about(took, 400);
}

#[test]
fn the_shorter_of_the_times_of_route_and_upstream_counts() {
    let up = Upstream::start(|_| Reply::ok("late").after(Duration::from_secs(10)));
    for (of_route, of_upstream) in [("400ms", "9s"), ("9s", "400ms")] {
        let gateway = Gateway::start(&format!(
            "upstreams: {{ up: {{ endpoints: [\"{}\"], timeouts: {{ total: {of_upstream} }} }} }}\nroutes: [{{ name: r, timeout: {of_route}, upstream: up }}]\n",
            up.address()
        ));
        let (answer, took) = timed(&gateway);
        assert_eq!((answer.status, answer.problem().as_str()), (504, "deadline_exceeded"));
        about(took, 400);
    }
}

#[test]
fn a_head_that_is_complete_only_after_the_total_time_is_too_late() {
    let up = Bare::start(|stream, _| {
        read_head(stream);
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".iter().copied();
        trickle(stream, head, Duration::from_millis(25));
    });
    let gateway = gateway(&[up.address()], "timeouts: { total: 600ms }");
    let (answer, took) = timed(&gateway);
    assert_eq!((answer.status, answer.problem().as_str()), (504, "deadline_exceeded"));
    about(took, 900);
}

#[test]
fn a_body_that_trickles_in_is_cut_off_after_the_total_time() {
    let up = Bare::start(|stream, _| {
        read_head(stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n").unwrap();
        trickle(stream, std::iter::repeat_n(b'x', 100), Duration::from_millis(50));
    });
    let gateway = gateway(&[up.address()], "timeouts: { total: 600ms }");
    let mut client = gateway.client();
    let began = Instant::now();
    client.write(request("GET", "/", &[]).as_bytes());
    assert!(client.try_read("GET").is_none());
    about(began.elapsed(), 600);
    gateway.wait_for_metric("torana_rejects_total{reject=\"deadline_exceeded\",route=\"r\"}", 1.0);
}

#[test]
fn a_client_that_trickles_its_body_does_not_outlast_the_total_time() {
    let up = Upstream::named("up");
    let gateway = gateway(&[up.address()], "timeouts: { total: 600ms }");
    let mut client = gateway.client();
    client.write(request("POST", "/", &[("Content-Length", "100")]).as_bytes());
    let mut sending = client.stream().try_clone().unwrap();
    let sender =
        std::thread::spawn(move || trickle(&mut sending, std::iter::repeat_n(b'x', 100), Duration::from_millis(50)));
    let began = Instant::now();
    let answer = client.read_answer_to("POST");
    assert_eq!((answer.status, answer.problem().as_str()), (504, "deadline_exceeded"));
    about(began.elapsed(), 600);
    drop(client);
    sender.join().unwrap();
}

#[test]
fn the_total_time_includes_the_tries() {
    let busy: Vec<Busy> = (0..6).map(|_| Busy::new()).collect();
    let addresses: Vec<_> = busy.iter().map(Busy::address).collect();
    let gateway = gateway(&addresses, "timeouts: { connect: 250ms, total: 700ms }, retries: { attempts: 5 }");
    let (answer, took) = timed(&gateway);
    assert_eq!((answer.status, answer.problem().as_str()), (504, "deadline_exceeded"));
    about(took, 700);
}

#[test]
fn a_time_that_is_over_for_one_request_is_not_over_for_the_next() {
    let up = Upstream::start(|request| {
        Reply::ok("up").after(Duration::from_millis(if request.target == "/slow" { 900 } else { 0 }))
    });
    let gateway = gateway(&[up.address()], "timeouts: { read: 300ms, total: 2s }");
    for _ in 0..2 {
        assert_eq!(gateway.get("/slow").problem(), "upstream_timeout");
        for _ in 0..5 {
            assert_eq!(gateway.get("/").text(), "up");
        }
    }
    eventually("nothing is in flight", || gateway.status()["upstreams"].to_string().contains("\"in_flight\":0"));
}
