//! HTTP/2 towards clients: what Torana adds to the crate that speaks it.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::support::{
    Bare, Gateway, Reply, Upstream, eventually,
    frames::{DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, Peer, WHOLE, field, fields, get, post},
    read_head,
};

/// A gateway with one listener that speaks HTTP/2 from the first byte.
fn start(up: std::net::SocketAddr, listener: &str, rest: &str) -> Gateway {
    Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", h2c: true{listener} }}]
upstreams: {{ up: {{ endpoints: [\"{up}\"] }} }}
consumers: {{ app: {{ api_keys: [key-1] }} }}\n{rest}"
    ))
}

const OPEN: &str = "routes: [{ name: all, upstream: up }]\n";
const CLOSED: &str = "routes: [{ name: all, policies: [{ api_key: {} }], upstream: up }]\n";

#[test]
fn the_settings_are_those_of_the_listener() {
    let up = Upstream::named("hello");
    let http2 = ", max_header_size: 20KiB, http2: { max_concurrent_streams: 7, stream_window: 128KiB, connection_window: 256KiB }";
    let gateway = start(up.address(), http2, OPEN);
    let peer = Peer::start(gateway.address());
    let [streams, window, headers, connect] = [3, 4, 6, 8].map(|id| peer.setting(id));
    // Up to twice the limit the gateway refuses by itself, with a reason.
    assert_eq!((streams, window, headers, connect), (Some(7), Some(128 << 10), Some(40 << 10), Some(1)));
    let peer = Peer::start(start(up.address(), "", OPEN).address());
    assert_eq!((peer.setting(3), peer.setting(4)), (Some(100), Some(64 << 10)));
}

#[test]
fn a_thousand_streams_go_over_one_connection() {
    let up = Upstream::start(|seen| Reply::ok(seen.target.clone()));
    let gateway = start(up.address(), "", OPEN);
    let mut peer = Peer::start(gateway.address());
    for batch in 0..20 {
        let streams = (0..50).map(|at| (batch * 50 + at) * 2 + 1);
        for stream in streams.clone() {
            peer.get(stream, &format!("/{stream}"));
        }
        let mut bodies = std::collections::HashMap::<u32, Vec<u8>>::new();
        let mut open = 50;
        while open > 0 {
            let frame = peer.next().unwrap();
            match frame.kind {
                DATA => bodies.entry(frame.stream).or_default().extend_from_slice(&frame.payload),
                HEADERS => {}
                4 | 8 => continue,
                other => panic!("{other}: {frame:?}"),
            }
            open -= usize::from(frame.flags & END_STREAM != 0);
        }
        for stream in streams {
            assert_eq!(bodies[&stream], format!("/{stream}").as_bytes());
        }
        let total: usize = bodies.values().map(Vec::len).sum();
        peer.window(0, u32::try_from(total).unwrap());
    }
    assert_eq!(up.seen().len(), 1000);
}

#[test]
fn after_as_many_requests_as_are_allowed_comes_goodbye_and_none_is_lost() {
    let up = Upstream::named("hello");
    let gateway = start(up.address(), ", max_requests: 3", OPEN);
    let mut peer = Peer::start(gateway.address());
    for stream in [1, 3] {
        peer.get(stream, "/");
        assert_eq!(peer.answer(stream).unwrap().0, 200);
    }
    // The fourth one is on its way when the gateway says goodbye.
    peer.get(5, "/").get(7, "/");
    let mut answers = 0;
    let mut last = None;
    loop {
        match peer.next() {
            Ok(frame) if frame.kind == HEADERS => answers += 1,
            Ok(frame) if frame.kind == 7 => last = Some((frame.number(0), frame.number(4))),
            // The gateway asks whether its goodbye was heard.
            Ok(frame) if frame.kind == 6 => drop(peer.frame(6, 1, 0, &frame.payload)),
            Ok(_) => {}
            Err(end) => {
                assert_eq!(end, Outcome::Closed);
                break;
            }
        }
    }
    assert_eq!((answers, last), (2, Some((7, 0))));
    assert_eq!(up.seen().len(), 4);
}

#[test]
fn a_head_has_no_body_and_interim_responses_arrive() {
    let up = Upstream::start(|seen| match seen.target.as_str() {
        "/early" => {
            Reply::raw("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        }
        _ => Reply::ok("hello"),
    });
    let gateway = start(up.address(), "", OPEN);
    let mut peer = Peer::start(gateway.address());
    let head = fields(&[(":method", "HEAD"), (":scheme", "http"), (":path", "/"), (":authority", "test")]);
    peer.frame(HEADERS, WHOLE, 1, &head);
    assert_eq!(peer.answer(1), Ok((200, Vec::new())));
    peer.get(3, "/early");
    assert_eq!(
        (peer.outcome(), peer.outcome(), peer.outcome()),
        (Outcome::Answer(103), Outcome::Answer(200), Outcome::Data(2))
    );
}

#[test]
fn a_body_of_which_nothing_comes_is_answered_with_408() {
    let up = Upstream::named("hello");
    let gateway = start(up.address(), ", body_timeout: 500ms", OPEN);
    let mut peer = Peer::start(gateway.address());
    peer.post(1, "/").frame(DATA, 0, 1, b"begun");
    let (status, body) = peer.answer(1).unwrap();
    assert_eq!(status, 408, "{}", String::from_utf8_lossy(&body));
    assert!(String::from_utf8_lossy(&body).contains("client_timeout"));
    // The connection goes on, and what still comes of the body does no harm.
    peer.frame(DATA, END_STREAM, 1, b"and ended").get(3, "/");
    assert_eq!(peer.answer(3).unwrap().0, 200);
    assert!(up.seen().iter().all(|seen| seen.method == "GET"));
    gateway.wait_for_metric("torana_rejects_total{reject=\"client_timeout\",route=\"all\"}", 1.0);
}

#[test]
fn a_body_that_trickles_is_answered_with_408() {
    let up = Upstream::named("hello");
    let gateway = start(up.address(), ", body_timeout: 1s, min_body_rate: 1KiB/s", OPEN);
    let mut peer = Peer::start(gateway.address());
    peer.post(1, "/").patience(Duration::from_millis(200));
    let mut told = Outcome::Silence;
    for _ in 0..50 {
        told = peer.frame(DATA, 0, 1, b"x").outcome();
        if told != Outcome::Silence {
            break;
        }
    }
    assert_eq!(told, Outcome::Answer(408));
}

#[test]
fn a_response_that_is_not_taken_is_given_up() {
    let up = Upstream::start(|_| Reply::ok(vec![b'x'; 4 << 20]));
    let gateway = start(up.address(), ", body_timeout: 500ms", OPEN);
    let mut peer = Peer::start(gateway.address());
    peer.get(1, "/");
    assert_eq!(peer.until(Outcome::Reset(8)), Ok(()));
    peer.window(0, 1 << 20).get(3, "/").window(3, 1 << 24).window(0, 1 << 24);
    assert_eq!(peer.answer(3).unwrap().1.len(), 4 << 20);
    eventually("no request is left", || gateway.status()["requests"]["in_flight"].as_u64().unwrap_or(0) == 0);
}

#[test]
fn a_header_has_its_deadline_however_slowly_it_comes() {
    let up = Upstream::named("hello");
    let gateway = start(up.address(), ", header_timeout: 600ms", OPEN);
    // A preface that does not come.
    let mut silent = Peer::bare(gateway.address());
    silent.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n");
    assert_eq!(silent.until(Outcome::Closed), Ok(()));
    // A header in pieces, each in time.
    let mut slow = Peer::start(gateway.address());
    let bytes = crate::support::frames::frame(HEADERS, WHOLE, 1, &get("/"));
    slow.patience(Duration::from_millis(100));
    let mut told = Outcome::Silence;
    for byte in bytes.iter().take(30) {
        told = slow.raw(&[*byte]).outcome();
        if told != Outcome::Silence {
            break;
        }
    }
    assert_eq!(told, Outcome::Goaway(11));
    assert!(up.seen().is_empty());
}

#[test]
fn plain_tunnels_are_refused_and_the_connection_goes_on() {
    let up = Upstream::named("hello");
    let gateway = start(up.address(), "", OPEN);
    let mut peer = Peer::start(gateway.address());
    peer.frame(HEADERS, END_HEADERS, 1, &fields(&[(":method", "CONNECT"), (":authority", "test:443")]));
    let (status, body) = peer.answer(1).unwrap();
    assert_eq!(status, 405);
    assert!(String::from_utf8_lossy(&body).contains("method_not_supported"));
    peer.frame(HEADERS, END_HEADERS, 3, &connect("/", &[(":protocol", "connect-udp")]));
    assert_eq!(peer.answer(3).unwrap().0, 405);
    peer.get(5, "/");
    assert_eq!(peer.answer(5).unwrap().0, 200);
    assert_eq!(up.seen().len(), 1);
    gateway.wait_for_metric("torana_rejects_total{reject=\"method_not_supported\",route=\"\"}", 2.0);
}

fn connect(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let head = [(":method", "CONNECT"), (":scheme", "http"), (":path", path), (":authority", "test")];
    fields(&[&head[..], more].concat())
}

/// The server of the script, until it is dropped.
struct Echo {
    child: Child,
    address: std::net::SocketAddr,
}

fn script(arguments: &[&str]) -> Command {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/bin/python");
    let mut command = Command::new(folder);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/scripts/websocket_over_http2.py")).args(arguments);
    command
}

impl Echo {
    fn start() -> Self {
        let mut child = script(&["serve"]).stdout(Stdio::piped()).spawn().expect("`tests/run setup` was run");
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self { child, address: ([127, 0, 0, 1], port.trim().parse().unwrap()).into() }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn talk(gateway: &Gateway, headers: &[&str]) -> String {
    let port = gateway.address().port().to_string();
    let output = script(&[&["talk", &port], headers].concat()).output().unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn a_websocket_goes_over_a_stream_with_clients_and_servers_of_others() {
    let echo = Echo::start();
    let gateway = start(echo.address, "", OPEN);
    let said = talk(&gateway, &["sec-websocket-protocol: chat", "x-say: welcome"]);
    let wanted = "status 200\nprotocol chat\nleftovers []\nfirst welcome\nlarge True\nping Pong\nclose 4000 as you wish\nend StreamEnded\n";
    assert_eq!(said, wanted);
    gateway.wait_for_metric("torana_requests_total{route=\"all\",status=\"1xx\"}", 1.0);
}

#[test]
fn policies_run_on_a_websocket_over_http2() {
    let echo = Echo::start();
    let gateway = start(echo.address, "", CLOSED);
    for headers in [&[][..], &["x-api-key: wrong"], &["x-consumer-id: root"]] {
        let said = talk(&gateway, headers);
        assert!(said.starts_with("status 401\n"), "{headers:?}: {said}");
    }
    let said = talk(&gateway, &["x-api-key: key-1"]);
    assert!(said.contains("status 200") && said.ends_with("end StreamEnded\n"), "{said}");
}

#[test]
fn the_upstream_sees_a_handshake_and_nothing_before_it_has_agreed() {
    // Answers without switching, and says what came behind the handshake.
    let up = Bare::start(|stream, _| {
        let head = read_head(stream).unwrap();
        let lower = head.to_ascii_lowercase();
        assert!(lower.starts_with("get /chat?x=1 http/1.1\r\n"), "{head}");
        for line in [
            "host: test",
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            "sec-websocket-key: ",
        ] {
            assert!(lower.contains(&format!("\r\n{line}")), "{line}: {head}");
        }
        assert!(lower.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{head}");
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let more = std::io::Read::read(stream, &mut [0; 64]).unwrap_or(0);
        let body = format!("{more} more");
        write!(stream, "HTTP/1.1 403 Forbidden\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    });
    let gateway = start(up.address(), "", OPEN);
    let mut peer = Peer::start(gateway.address());
    // As if there were a request within.
    peer.frame(HEADERS, END_HEADERS, 1, &connect("/chat?x=1", &[(":protocol", "websocket")])).frame(
        DATA,
        0,
        1,
        b"GET /admin HTTP/1.1\r\nhost: test\r\n\r\n",
    );
    assert_eq!(peer.answer(1), Ok((403, b"0 more".to_vec())));
    assert_eq!(up.connections(), 1);
}

#[test]
fn a_switch_that_nobody_asked_for_is_refused_over_http2_as_well() {
    let up = Upstream::start(|_| {
        Reply::raw("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
    });
    let gateway = start(up.address(), "", OPEN);
    let mut peer = Peer::start(gateway.address());
    peer.get(1, "/");
    assert_eq!(peer.answer(1).unwrap().0, 502);
}

#[test]
fn the_client_of_a_websocket_that_goes_away_takes_the_upstream_with_it() {
    let up = Bare::start(|stream, _| {
        drop(read_head(stream));
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n").unwrap();
        // Until the gateway closes it.
        let mut buffer = [0; 64];
        while let Ok(1..) = std::io::Read::read(stream, &mut buffer) {}
    });
    let gateway = start(up.address(), "", OPEN);
    let open = || gateway.metric("torana_requests_in_flight");
    let mut peer = Peer::start(gateway.address());
    peer.frame(HEADERS, END_HEADERS, 1, &connect("/", &[(":protocol", "websocket")]));
    peer.frame(HEADERS, END_HEADERS, 3, &connect("/", &[(":protocol", "websocket")]));
    assert_eq!(peer.until(Outcome::Answer(200)), Ok(()));
    assert_eq!(peer.until(Outcome::Answer(200)), Ok(()));
    peer.frame(3, 0, 1, &8_u32.to_be_bytes());
    peer.flush();
    eventually("one is left", || (open() - 1.0).abs() < 0.5);
    peer.frame(DATA, END_STREAM, 3, b"bye").ping();
    assert_eq!(peer.until(Outcome::Pong), Ok(()));
    eventually("none is left", || open() < 0.5);
}

#[test]
fn cookies_in_pieces_reach_the_upstream_as_one() {
    let up = Upstream::named("hello");
    let gateway = start(up.address(), "", OPEN);
    let mut peer = Peer::start(gateway.address());
    let block = [get("/"), field("cookie", "a=1"), field("x-other", "y"), field("cookie", "b=2")].concat();
    peer.frame(HEADERS, WHOLE, 1, &block);
    assert_eq!(peer.answer(1).unwrap().0, 200);
    assert_eq!(up.only().header("cookie"), Some("a=1; b=2"));
}

#[test]
fn uploads_are_read_no_faster_than_the_upstream_takes_them() {
    // Reads the header, and of the body nothing for a while.
    let up = Bare::start(|stream, _| {
        drop(read_head(stream));
        std::thread::sleep(Duration::from_secs(1));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        let mut buffer = vec![0; 1 << 16];
        while let Ok(1..) = std::io::Read::read(stream, &mut buffer) {}
    });
    let gateway = start(up.address(), "", OPEN);
    let before = gateway.memory();
    let mut peer = Peer::start(gateway.address());
    peer.frame(HEADERS, END_HEADERS, 1, &post("/"));
    let (mut window, mut sent) = (64 << 10, 0_usize);
    peer.patience(Duration::from_millis(10));
    loop {
        while window >= 16_384 {
            peer.frame(DATA, 0, 1, &[b'x'; 16_384]);
            (window, sent) = (window - 16_384, sent + 16_384);
        }
        match peer.next() {
            Ok(frame) if frame.kind == 8 && frame.stream == 1 => window += frame.number(0),
            Ok(frame) if frame.kind == HEADERS => break,
            Ok(_) | Err(Outcome::Silence) => {}
            Err(end) => panic!("{end:?}"),
        }
    }
    assert!(gateway.memory() < before + (32 << 20), "{} bytes for {sent} sent", gateway.memory() - before);
}

#[test]
fn a_body_ends_once_also_if_its_end_comes_in_a_frame_of_its_own() {
    let (told, bodies) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let up = Bare::start(move |stream, _| {
        drop(read_head(stream));
        let mut body = Vec::new();
        let mut buffer = [0; 1024];
        while !body.ends_with(b"0\r\n\r\n") {
            let read = std::io::Read::read(stream, &mut buffer).unwrap();
            body.extend_from_slice(&buffer[..read]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        while let Ok(read @ 1..) = std::io::Read::read(stream, &mut buffer) {
            body.extend_from_slice(&buffer[..read]);
        }
        told.lock().unwrap().send(String::from_utf8(body).unwrap()).unwrap();
    });
    let gateway = start(up.address(), "", OPEN);
    for frames in [&[(0, "hello"), (END_STREAM, "")][..], &[(0, ""), (0, "hel"), (0, ""), (0, "lo"), (END_STREAM, "")]]
    {
        let mut peer = Peer::start(gateway.address());
        peer.frame(HEADERS, END_HEADERS, 1, &post("/"));
        peer.flush();
        for (flags, piece) in frames {
            std::thread::sleep(Duration::from_millis(30));
            peer.frame(DATA, *flags, 1, piece.as_bytes());
            peer.flush();
        }
        assert_eq!(peer.answer(1).unwrap().0, 200);
        let body = bodies.recv_timeout(Duration::from_secs(5)).unwrap();
        let ends = body.matches("0\r\n\r\n").count();
        assert!(ends == 1 && body.ends_with("0\r\n\r\n"), "{body:?}");
    }
}
