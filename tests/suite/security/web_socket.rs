//! Rows A9 and E13: the switch to another protocol, and frames of WebSockets.

use std::{io::Write, time::Duration};

use crate::support::{
    Client, Gateway, Reply, Upstream, eventually, request,
    script::Script,
    web_socket::{UPGRADE, close_code, frame, message, read_frame},
};

/// A gateway before a real server of WebSockets.
fn stage(limits: &str) -> (Gateway, Script) {
    let server = Script::start("ws_server.py", &[]);
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes: [{{ name: r, web_socket: {{ {limits} }}, upstream: up }}]\n",
        server.address()
    ));
    (gateway, server)
}

fn open(gateway: &Gateway) -> Client {
    let mut client = gateway.client();
    client.write(request("GET", "/", &UPGRADE).as_bytes());
    assert_eq!(client.read().status, 101);
    client.write(&message("hello"));
    assert_eq!(read_frame(&mut client.stream()).unwrap(), (0x81, b"hello".to_vec()));
    client
}

/// What the server was told last.
#[track_caller]
fn server_hears(server: &Script, count: usize, code: u16) {
    let closed = || server.said().into_iter().filter(|line| line.starts_with("closed")).collect::<Vec<_>>();
    eventually("the server knows", || closed().len() == count);
    assert!(closed()[count - 1].starts_with(&format!("closed {code} ")), "{:?}", closed());
}

#[test]
fn e13_a_websocket_frame_of_a_gigabyte() {
    let (gateway, server) = stage("");
    let mut client = open(&gateway);
    let before = gateway.memory();
    client.write(&[&[0x82, 0xff][..], &(1_u64 << 30).to_be_bytes(), &[1, 2, 3, 4]].concat());
    // It is refused by its header, whatever comes behind it.
    for _ in 0..64 {
        if !client.try_write(&[0; 16 << 10]) {
            break;
        }
    }
    assert_eq!(close_code(&mut client), 1009);
    server_hears(&server, 1, 1001);
    assert!(gateway.memory() < before + (8 << 20), "{} {before}", gateway.memory());
    gateway.wait_for_metric("torana_rejects_total{reject=\"web_socket_too_large\",route=\"r\"}", 1.0);
    // The header in pieces.
    let mut client = open(&gateway);
    for byte in [&[0x82, 0xff][..], &(1_u64 << 30).to_be_bytes()].concat() {
        client.write(&[byte]);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(close_code(&mut client), 1009);
    server_hears(&server, 2, 1001);
}

#[test]
fn e13_a_websocket_message_fragmented_for_ever() {
    let (gateway, server) = stage("max_message: 1MiB");
    let mut client = open(&gateway);
    client.write(&frame(0x01, b"x", true));
    let sent = (0..10_000).take_while(|_| client.try_write(&frame(0x00, &[b'x'; 1000], true))).count();
    assert!(sent > 1000, "{sent}");
    assert_eq!(close_code(&mut client), 1009);
    server_hears(&server, 1, 1001);
    // By fragments with nothing in them.
    let (gateway, server) = stage("max_message: 2000B");
    let mut client = open(&gateway);
    client.write(&frame(0x01, b"x", true));
    let _ = (0..3_000).take_while(|_| client.try_write(&frame(0x00, b"", true))).count();
    assert_eq!(close_code(&mut client), 1009);
    server_hears(&server, 1, 1001);
}

#[test]
fn e13_a_websocket_frame_of_a_client_without_mask() {
    let (gateway, server) = stage("");
    for bad in [
        frame(0x81, b"no mask", false),
        frame(0x83, b"opcode", true),
        frame(0xc1, b"reserved bit", true),
        frame(0x80, b"of no message", true),
        frame(0x89, &[0; 126], true),
        frame(0x09, b"half a ping", true),
        [frame(0x01, b"a", true), frame(0x81, b"b", true)].concat(),
        vec![0x81, 0xfe, 0, 1, 0, 0, 0, 0, 0],
    ] {
        let ended = server.said().iter().filter(|line| line.starts_with("closed")).count();
        let mut client = open(&gateway);
        client.write(&bad);
        assert_eq!(close_code(&mut client), 1002, "{bad:?}");
        server_hears(&server, ended + 1, 1001);
    }
    gateway.wait_for_metric("torana_rejects_total{reject=\"web_socket_invalid\",route=\"r\"}", 8.0);
}

#[test]
fn e13_a_websocket_that_says_nothing() {
    let (gateway, server) = stage("idle_timeout: 1s");
    let mut silent = open(&gateway);
    let mut talking = open(&gateway);
    let mut stalled = open(&gateway);
    // In the middle of a frame: no close frame fits in for the server.
    stalled.write(&frame(0x82, &[0; 1000], true)[..500]);
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(250));
        talking.write(&frame(0x89, b"", true));
        assert_eq!(read_frame(&mut talking.stream()).unwrap().0, 0x8a);
    }
    assert_eq!(close_code(&mut silent), 1001);
    assert_eq!(close_code(&mut stalled), 1001);
    let closed = |code: &str| server.said().iter().filter(|line| line.starts_with(&format!("closed {code} "))).count();
    eventually("the server knows", || (closed("1001"), closed("1006")) == (1, 1));
    talking.write(&message("still here"));
    assert_eq!(read_frame(&mut talking.stream()).unwrap().1, b"still here");
    talking.stream().flush().unwrap();
}

#[test]
fn a09_bytes_behind_an_upgrade_that_the_upstream_answers_with_200() {
    for (status, method) in [(200, "GET"), (404, "GET"), (204, "GET"), (200, "POST")] {
        let up = Upstream::start(move |_| Reply::new(status, if status == 204 { "" } else { "no" }));
        let gateway = Gateway::start(&format!(
            "consumers: {{ app: {{ api_keys: [key-12345] }} }}
upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
routes:
  - {{ name: open, match: {{ path: /open }}, upstream: up }}
  - {{ name: admin, match: {{ path: /admin }}, policies: [{{ api_key: {{ header: x-api-key }} }}], upstream: up }}\n",
            up.address()
        ));
        for behind in [request("GET", "/admin", &[]).into_bytes(), message("GET /admin")] {
            let wanted = if behind.starts_with(b"GET") { 401 } else { 400 };
            let before = up.seen().len();
            let mut client = gateway.client();
            client.write(&[request(method, "/open", &UPGRADE).into_bytes(), behind].concat());
            let first = client.read_answer_to(method);
            assert_ne!(first.status, 101);
            // What follows is a request of its own, with all that is asked of it: frames are none.
            assert_eq!(client.try_read("GET").map(|next| next.status), Some(wanted));
            let seen = &up.seen()[before..];
            assert!(seen.len() <= 1, "{seen:?}");
            assert!(seen.iter().all(|one| one.target == "/open" && one.body.is_empty()), "{seen:?}");
        }
    }
}
