//! Connections that become something else than HTTP.

use std::{io::Write, time::Duration};

use super::config;
use crate::support::{
    Bare, Gateway, read_head, request,
    web_socket::{SWITCH, UPGRADE, close_code, frame, message, parrot, read_frame, says_again, upgraded},
};

#[test]
fn messages_go_both_ways_after_a_switch() {
    let up = parrot();
    let gateway = Gateway::start(&config(&[up.address()], ""));
    let mut client = upgraded(&gateway);
    for i in 0..20 {
        says_again(&mut client, &format!("message {i}"));
    }
    says_again(&mut client, &"long ".repeat(20_000));
    says_again(&mut upgraded(&gateway), "another one");
    says_again(&mut client, "and the first one");
    assert_eq!(up.connections(), 2, "nobody else gets the connection");
}

#[test]
fn silence_outlasts_every_timeout() {
    let up = parrot();
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", body_timeout: 300ms, idle_timeout: 300ms }}]\n{}",
        config(&[up.address()], "timeouts: { read: 300ms, write: 300ms }, keepalive: 300ms")
    ));
    let mut client = upgraded(&gateway);
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(900));
        says_again(&mut client, "still there");
    }
}

#[test]
fn the_end_of_one_side_is_the_end_of_the_other() {
    let up = parrot();
    let gateway = Gateway::start(&config(&[up.address()], ""));
    let mut client = upgraded(&gateway);
    says_again(&mut client, "hello");
    client.stream().shutdown(std::net::Shutdown::Write).unwrap();
    assert!(client.is_closed());

    let leaving = Bare::start(|stream, _| {
        read_head(stream);
        stream.write_all(SWITCH).unwrap();
    });
    let gateway = Gateway::start(&config(&[leaving.address()], ""));
    assert!(upgraded(&gateway).is_closed());
}

#[test]
fn no_answer_is_written_into_another_protocol() {
    let up = parrot();
    let gateway = Gateway::start(&config(&[up.address()], "timeouts: { total: 500ms }"));
    let mut client = upgraded(&gateway);
    says_again(&mut client, "in time");
    std::thread::sleep(Duration::from_millis(700));
    assert!(client.try_write(&message("too late")));
    assert_eq!(close_code(&mut client), 1001);
    gateway.wait_for_metric("torana_rejects_total{reject=\"deadline_exceeded\",route=\"r\"}", 1.0);
}

#[test]
fn no_handshake_is_lost_beside_plain_requests_to_a_fast_endpoint() {
    // With the end of the empty body and the response there at the same time, Pingora alone loses one in a hundred.
    let up = Bare::start(|stream, _| {
        while let Some(head) = read_head(stream) {
            if !head.to_ascii_lowercase().contains("upgrade: websocket") {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
                continue;
            }
            stream.write_all(SWITCH).unwrap();
            while let Some((first, payload)) = read_frame(stream) {
                stream.write_all(&frame(first, &payload, false)).unwrap();
            }
        }
    });
    let gateway = Gateway::start(&config(&[up.address()], ""));
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = gateway.client();
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                client.get("/plain");
            }
        });
        let talk = || (0..300).for_each(|_| says_again(&mut upgraded(&gateway), "hello"));
        let talks = [scope.spawn(talk), scope.spawn(talk), scope.spawn(talk)];
        let outcomes = talks.map(std::thread::ScopedJoinHandle::join);
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(outcomes.iter().all(Result::is_ok));
    });
}

#[test]
fn a_request_behind_a_handshake_that_is_not_answered_yet_waits_for_its_turn() {
    let up = Bare::start(|stream, _| {
        while let Some(head) = read_head(stream) {
            if head.to_ascii_lowercase().contains("upgrade: websocket") {
                std::thread::sleep(Duration::from_millis(200));
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
    });
    let gateway = Gateway::start(&config(&[up.address()], ""));
    let mut client = gateway.client();
    client.write(request("GET", "/handshake", &UPGRADE).as_bytes());
    std::thread::sleep(Duration::from_millis(50));
    client.write(request("GET", "/next", &[]).as_bytes());
    assert_eq!((client.read().status, client.read().status), (200, 200));
    // And with the handshake in one piece.
    client.write((request("GET", "/handshake", &UPGRADE) + &request("GET", "/next", &[])).as_bytes());
    assert_eq!((client.read().status, client.read().status), (200, 200));
}

#[test]
fn frames_before_the_answer_to_the_handshake_pass_like_others_and_are_checked_like_others() {
    let up = Bare::start(|stream, _| {
        read_head(stream);
        std::thread::sleep(Duration::from_millis(100));
        stream.write_all(SWITCH).unwrap();
        while let Some((first, payload)) = read_frame(stream) {
            stream.write_all(&frame(first, &payload, false)).unwrap();
        }
    });
    let gateway = Gateway::start(&config(&[up.address()], ""));
    let handshake = request("GET", "/", &UPGRADE).into_bytes();
    let hello = message("hello");
    let echo = || (0x81, b"hello".to_vec());
    // With the handshake whole, with a part of it there, and before the answer.
    for cut in [hello.len(), 3, 0] {
        let mut client = gateway.client();
        client.write(&[&handshake, &hello[..cut]].concat());
        std::thread::sleep(Duration::from_millis(20));
        client.write(&hello[cut..]);
        assert_eq!(client.read().status, 101);
        assert_eq!(read_frame(&mut client.stream()).unwrap(), echo());
        says_again(&mut client, "and what comes later");
    }
    // Without a mask.
    let mut client = gateway.client();
    client.write(&[&handshake[..], &frame(0x81, b"hello", false)].concat());
    assert_eq!(client.read().status, 101);
    assert_eq!(close_code(&mut client), 1002);
}
