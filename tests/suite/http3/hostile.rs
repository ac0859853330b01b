//! What no client should send, and what clients send that are none.

use std::{net::UdpSocket, time::Duration};

use super::{ROUTE, config, echo, start, write_certificate};
use crate::support::{
    Authority, Gateway, Reply, Upstream, eventually,
    http3::{Http3, NAME, Quic, first_packet, frame, get, headers, over_tls},
};

/// What is on a control stream that says nothing.
const CONTROL: [u8; 3] = [0, 4, 0];

/// The status of an answer, which is one of those in the static table.
fn status(answer: &[u8]) -> u16 {
    // Type, length, a prefix of two bytes, and the first field.
    let at = answer.windows(2).position(|pair| pair == [0, 0]).unwrap() + 2;
    match answer[at..] {
        [index @ 0xc0..=0xfe, ..] => match index & 0x3f {
            24 => 103,
            25 => 200,
            26 => 304,
            27 => 404,
            28 => 503,
            other => panic!("{other}"),
        },
        [0xff, index, ..] => match index {
            0 => 100,
            1 => 204,
            2 => 206,
            3 => 302,
            4 => 400,
            5 => 403,
            6 => 421,
            7 => 425,
            8 => 500,
            other => panic!("{other}"),
        },
        // Literal with the name of the table: the length, and the text.
        [0x5f, 9, 3, ref text @ ..] => std::str::from_utf8(&text[..3]).unwrap().parse().unwrap(),
        ref other => panic!("{other:?}"),
    }
}

fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [get("/"), more.to_vec()].concat()
}

#[test]
fn a_request_that_two_parsers_could_read_differently_is_refused() {
    let up = Upstream::start(echo);
    let (gateway, authority) = start(&up, "true", ROUTE);
    let quic = Quic::connect(gateway.address(), &authority);
    let _control = quic.uni(&CONTROL);
    for (fields, wanted) in [
        (with(&[]), 200),
        (with(&[("host", NAME)]), 200),
        (with(&[("te", "trailers")]), 200),
        (with(&[("content-length", "0")]), 200),
        (with(&[("host", "other")]), 400),
        (with(&[("connection", "close")]), 400),
        (with(&[("transfer-encoding", "chunked")]), 400),
        (with(&[("upgrade", "websocket")]), 400),
        (with(&[("X-Upper", "1")]), 400),
        (with(&[("x-own", "a\r\nx: y")]), 400),
        (with(&[("x-own", "a\0")]), 400),
        (with(&[("content-length", "1")]), 400),
        (with(&[("content-length", "0"), ("content-length", "0")]), 400),
        (with(&[(":path", "/other")]), 400),
        (with(&[("x-own", "1"), (":path", "/other")]), 400),
        (with(&[(":protocol", "websocket")]), 400),
        (vec![(":method", "CONNECT"), (":authority", "test:443")], 405),
        (vec![(":method", "GET"), (":scheme", "http"), (":authority", NAME), (":path", "/")], 400),
        (vec![(":method", "GET"), (":scheme", "https"), (":path", "/")], 400),
        (get("http://other/"), 400),
        (get("/a b"), 400),
        (get("/a#b"), 400),
    ] {
        let answer = quic.raw(&headers(&fields)).unwrap();
        assert_eq!(status(&answer), wanted, "{fields:?}");
    }
    assert_eq!(up.seen().len(), 4, "{:#?}", up.seen());
    gateway.wait_for_metric("torana_rejects_total{reject=\"bad_request\",route=\"\"}", 17.0);
}

#[test]
fn a_body_is_as_long_as_its_content_length() {
    let up = Upstream::start(echo);
    let (gateway, authority) = start(&up, "true", ROUTE);
    let client = Http3::connect(gateway.address(), &authority);
    for (length, body) in [("5", &b"1234"[..]), ("3", b"1234"), ("0", b"1")] {
        let answer = client.try_send("POST", "/", &[("content-length", length)], body);
        assert!(answer.as_ref().map_or(true, |answer| answer.status == 400), "{length}: {answer:?}");
    }
    assert!(up.seen().iter().all(|seen| seen.body.is_empty()), "{:#?}", up.seen());
    assert_eq!(client.send("POST", "/", &[("content-length", "4")], b"1234").text(), "1234");
}

#[test]
fn headers_beyond_the_limit_are_431_and_never_kept() {
    let up = Upstream::start(echo);
    let (gateway, authority) = start(&up, "true\n    max_header_size: 4KiB", ROUTE);
    let quic = Quic::connect(gateway.address(), &authority);
    let value = "v".repeat(3000);
    assert_eq!(status(&quic.raw(&headers(&[get("/"), vec![("x-own", &*value)]].concat())).unwrap()), 200);
    let many: Vec<_> = (0..50).map(|_| ("x-own", &value[..50])).collect();
    assert_eq!(status(&quic.raw(&headers(&[get("/"), many].concat())).unwrap()), 431);
    let huge = "v".repeat(8000);
    assert_eq!(status(&quic.raw(&headers(&[get("/"), vec![("x-own", &*huge)]].concat())).unwrap()), 431);
    // A header that says that it is an exabyte long is not waited for.
    let endless = [&[1, 0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..], &[b'v'; 100]].concat();
    assert_eq!(status(&quic.raw(&endless).unwrap()), 431);
    gateway.wait_for_metric("torana_rejects_total{reject=\"header_too_large\",route=\"\"}", 3.0);
}

#[test]
fn whoever_does_not_speak_http3_is_told_so() {
    let up = Upstream::start(echo);
    let (gateway, authority) = start(&up, "true", ROUTE);
    let request = headers(&get("/"));
    let post: Vec<_> = [vec![(":method", "POST")], get("/")[1..].to_vec()].concat();
    for (what, bytes, code) in [
        ("data before a header", frame(0, b"x"), 0x105),
        ("settings on a request", [&request[..], &frame(4, b"")].concat(), 0x105),
        ("a frame of HTTP/2", [&request[..], &frame(9, b"")].concat(), 0x105),
        ("a request cut off", vec![1, 10, 0, 0], 0x106),
        ("a body cut off", [&headers(&post)[..], &[0, 10, b'x']].concat(), 0x106),
        ("a reference to no table", frame(1, &[2, 0, 0x80]), 0x200),
        ("data behind trailers", [&headers(&post)[..], &headers(&[("a", "b")]), &frame(0, b"x")].concat(), 0x105),
        (
            "more that is unknown than there should be",
            [&headers(&post)[..], &frame(0x21, &[0; 16_000]), &frame(0x21, &[0; 1000])].concat(),
            0x107,
        ),
    ] {
        let quic = Quic::connect(gateway.address(), &authority);
        drop(quic.raw(&bytes));
        assert_eq!(quic.closed(), code, "{what}");
    }
    for (what, bytes, code) in [
        ("no settings", vec![0, 7, 1, 0], 0x10a),
        ("settings twice", vec![0, 4, 0, 4, 0], 0x105),
        ("a setting twice", vec![0, 4, 4, 6, 1, 6, 1], 0x109),
        ("a setting of HTTP/2", vec![0, 4, 2, 2, 1], 0x109),
        ("endless settings", vec![0, 4, 0x80, 0x10, 0, 0], 0x107),
        ("data on the control stream", vec![0, 4, 0, 0, 1, b'x'], 0x105),
        ("a push", vec![1, 0], 0x103),
        ("an encoder with a table", vec![2, 0x3f, 0x10], 0x201),
    ] {
        let quic = Quic::connect(gateway.address(), &authority);
        let _open = quic.uni(&bytes);
        assert_eq!(quic.closed(), code, "{what}");
    }
    let quic = Quic::connect(gateway.address(), &authority);
    let _first = quic.uni(&CONTROL);
    let _second = quic.uni(&CONTROL);
    assert_eq!(quic.closed(), 0x103, "two control streams");
    assert_eq!(Http3::connect(gateway.address(), &authority).get("/").status, 200);
}

#[test]
fn what_is_allowed_between_frames_is_ignored() {
    let up = Upstream::start(echo);
    let (gateway, authority) = start(&up, "true", ROUTE);
    let quic = Quic::connect(gateway.address(), &authority);
    // An unknown stream, an unknown frame, an unknown setting.
    let _grease = [quic.uni(&[0x21, 1, 2, 3]), quic.uni(&[0, 0x21, 1, 0]), quic.uni(&[2, 0x20]), quic.uni(&[3, 0x40])];
    let post: Vec<_> = [vec![(":method", "POST")], get("/")[1..].to_vec()].concat();
    let request = [
        frame(0x21, b"grease"),
        headers(&post),
        frame(0, b""),
        frame(0, b"on"),
        frame(0x21, b"grease"),
        frame(0, b""),
        frame(0, b"e"),
        headers(&[("x-trailer", "1")]),
        frame(0x21, b"grease"),
    ]
    .concat();
    // The control stream began with a frame that is no setting.
    assert_eq!(quic.closed(), 0x10a);
    let quic = Quic::connect(gateway.address(), &authority);
    let _control = quic.uni(&[0, 4, 2, 0x21, 1, 0x21, 1, 0]);
    assert_eq!(status(&quic.raw(&request).unwrap()), 200);
    assert_eq!(up.only().body, b"one");
}

#[test]
fn a_header_that_does_not_come_is_408_and_an_idle_connection_ends() {
    let up = Upstream::start(echo);
    let (gateway, authority) = start(&up, "true\n    header_timeout: 300ms\n    idle_timeout: 700ms", ROUTE);
    let quic = Quic::connect(gateway.address(), &authority);
    let answer = quic.run(async {
        let (mut send, mut recv) = quic.connection.open_bi().await.unwrap();
        send.write_all(&headers(&get("/"))[..10]).await.unwrap();
        recv.read_to_end(1 << 20).await.unwrap()
    });
    assert_eq!(status(&answer), 408);
    assert_eq!(quic.closed(), 0x100, "idle");
    eventually("the connection is gone", || gateway.metric("torana_connections") == 0.0);
}

#[test]
fn connections_beyond_the_limit_are_closed() {
    let up = Upstream::named("up");
    let (gateway, authority) = start(&up, "true", &format!("limits: {{ connections_per_address: 2 }}\n{ROUTE}"));
    let clients = [(); 2].map(|()| Http3::connect(gateway.address(), &authority));
    let third = Quic::connect(gateway.address(), &authority);
    assert_eq!(third.closed(), 0x107);
    gateway.wait_for_metric("torana_rejects_total{reject=\"too_many_connections\",route=\"\"}", 1.0);
    assert_eq!(clients[0].get("/").text(), "up");
    drop(clients);
    eventually("there is room again", || {
        let client = Quic::connect(gateway.address(), &authority);
        client.raw(&headers(&get("/"))).is_ok()
    });
}

#[test]
fn under_load_clients_have_to_show_that_they_get_what_is_sent() {
    let up = Upstream::named("up");
    let (gateway, authority) = start(&up, "{ max_handshakes: 8 }", ROUTE);
    // Addresses that never answer: each holds one attempt until its time is over.
    let silent: Vec<_> = (0..8)
        .map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(&first_packet(&authority), gateway.address()).unwrap();
            socket
        })
        .collect();
    let client = Http3::connect(gateway.address(), &authority);
    assert_eq!(client.get("/").text(), "up");
    let kind = |socket: &UdpSocket| {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut packet = [0; 2048];
        socket.recv(&mut packet).map(|_| packet[0] >> 4 & 3).ok()
    };
    let answers: Vec<_> = silent.iter().map(kind).collect();
    // The types of packets: 0 begins a connection, 3 asks to come back.
    assert!(answers.contains(&Some(3)), "{answers:?}");
    assert!(answers.iter().filter(|answer| **answer == Some(0)).count() <= 2, "{answers:?}");
}

#[test]
fn what_is_no_quic_is_nobodys() {
    let up = Upstream::named("up");
    let (gateway, authority) = start(&up, "true", ROUTE);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in [0, 1, 5, 20, 1200, 9000] {
        for first in [0x00, 0x40, 0x80, 0xc0, 0xff] {
            let mut packet = vec![first; length];
            packet.iter_mut().skip(7).enumerate().for_each(|(at, byte)| *byte = u8::try_from(at % 251).unwrap());
            socket.send_to(&packet, gateway.address()).unwrap();
        }
    }
    assert_eq!(Http3::connect(gateway.address(), &authority).get("/").text(), "up");
    assert_eq!(over_tls(gateway.address(), &authority, "/").text(), "up");
}

#[test]
fn without_http3_the_udp_port_is_free() {
    let up = Upstream::start(|_| Reply::ok("up"));
    let authority = Authority::new("http3");
    let yaml = config(&up, "false", ROUTE);
    let gateway = Gateway::start_with(&yaml, |folder, _| write_certificate(folder, &authority));
    assert!(UdpSocket::bind(gateway.address()).is_ok());
    assert_eq!(over_tls(gateway.address(), &authority, "/").header("alt-svc"), None);
}
