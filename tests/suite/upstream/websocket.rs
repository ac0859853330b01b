//! Connections that become something else than HTTP.

use std::{io::Write, time::Duration};

use super::config;
use crate::support::{
    Bare, Gateway, read_head,
    web_socket::{SWITCH, close_code, frame, message, parrot, read_frame, says_again, upgraded},
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
