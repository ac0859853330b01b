//! What goes over the wire in both directions, byte for byte where it matters.

use std::{io::Write, net::TcpStream, time::Duration};

use super::gateway;
use crate::support::{Bare, Client, Gateway, Reply, Upstream, read_head, request};

/// A gateway to an upstream that answers with these bytes and closes the connection.
fn answering(raw: impl Into<Vec<u8>>) -> (Gateway, Upstream) {
    let raw = raw.into();
    let up = Upstream::start(move |_| Reply::raw(raw.clone()));
    (gateway(&[up.address()], "retries: { attempts: 0 }"), up)
}

/// Ten mebibytes in which no two places look alike.
fn big() -> Vec<u8> {
    (0_u32..(10 << 20) / 4).flat_map(|i| (i.wrapping_mul(2_654_435_761)).to_le_bytes()).collect()
}

/// Sends in another thread, so that neither side waits for the other.
fn send_beside(client: &Client, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
    let mut stream: TcpStream = client.stream().try_clone().unwrap();
    std::thread::spawn(move || stream.write_all(&bytes).unwrap())
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in body.chunks(size) {
        bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

#[test]
fn ten_mebibytes_arrive_whole_in_both_directions() {
    let up = Upstream::start(|request| Reply::ok(request.body.clone()));
    let gateway = gateway(&[up.address()], "");
    let body = big();
    let mut client = gateway.client();
    client.write(request("POST", "/", &[("Content-Length", &body.len().to_string())]).as_bytes());
    let sender = send_beside(&client, body.clone());
    assert!(client.read_answer_to("POST").body == body);
    sender.join().unwrap();
}

#[test]
fn ten_mebibytes_in_chunks_arrive_whole_in_both_directions() {
    let up = Upstream::start(|request| {
        let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        bytes.extend(chunked(&request.body, 70_001));
        Reply::raw_open(bytes)
    });
    let gateway = gateway(&[up.address()], "");
    let body = big();
    let mut client = gateway.client();
    for _ in 0..2 {
        client.write(request("PUT", "/", &[("Transfer-Encoding", "chunked")]).as_bytes());
        let sender = send_beside(&client, chunked(&body, 33_333));
        let answer = client.read_answer_to("PUT");
        sender.join().unwrap();
        assert!(answer.body == body);
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
        assert_eq!(up.last().header("content-length"), None);
    }
    assert_eq!(up.connections(), 1);
}

#[test]
fn a_request_is_passed_on_while_it_arrives_and_so_is_the_answer() {
    let up = Bare::start(|stream, _| {
        let head = read_head(stream).unwrap();
        assert!(head.to_ascii_lowercase().contains("transfer-encoding: chunked"), "{head}");
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for _ in 0..3 {
            // `4\r\nping\r\n`, answered before the next one is there
            std::io::Read::read_exact(stream, &mut [0; 9]).unwrap();
            stream.write_all(b"4\r\npong\r\n").unwrap();
        }
        std::io::Read::read_exact(stream, &mut [0; 5]).unwrap();
        stream.write_all(b"0\r\n\r\n").unwrap();
    });
    let gateway = gateway(&[up.address()], "");
    let mut client = gateway.client();
    client.write(request("POST", "/", &[("Transfer-Encoding", "chunked")]).as_bytes());
    for _ in 0..3 {
        client.write(b"4\r\nping\r\n");
        client.more().unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    client.write(b"0\r\n\r\n");
    assert_eq!(client.read_answer_to("POST").text(), "pongpongpong");
}

#[test]
fn an_answer_without_a_length_ends_with_the_connection_and_the_client_keeps_its_own() {
    for head in
        ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n"]
    {
        let (gateway, _up) = answering(format!("{head}until the end"));
        let mut client = gateway.client();
        for _ in 0..2 {
            assert_eq!(client.get("/").text(), "until the end", "{head}");
        }
    }
}

#[test]
fn an_answer_that_breaks_off_is_never_taken_for_a_whole_one() {
    for raw in [
        "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nnot twenty",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    ] {
        let (gateway, _up) = answering(raw);
        let mut client = gateway.client();
        client.write(request("GET", "/", &[]).as_bytes());
        assert!(client.try_read("GET").is_none(), "{raw:?}");
    }
}

#[test]
fn a_head_that_is_not_http_is_502() {
    for head in [
        "garbage\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 99 Low\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: nul\0byte\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
        "\x15\x03\x03\x00\x02\x02\x46\r\n\r\n",
    ] {
        let (gateway, _up) = answering(head);
        let answer = gateway.get("/");
        assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream_invalid"), "{head:?}");
    }
}

#[test]
fn a_head_without_end_is_502() {
    let many: String = (0..300).map(|i| format!("X-{i}: 1\r\n")).collect();
    let large = format!("X-Large: {}\r\n", "x".repeat(3 << 20));
    for headers in [many, large] {
        let (gateway, _up) = answering(format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: 0\r\n\r\n"));
        let answer = gateway.get("/");
        assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream_invalid"));
    }
}

#[test]
fn a_length_beside_chunks_does_not_reach_the_client() {
    let (gateway, _up) =
        answering("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    let answer = gateway.get("/");
    assert_eq!((answer.text().as_str(), answer.header("content-length")), ("hello", None));
}

#[test]
fn an_answer_cannot_add_headers_by_a_line_feed() {
    let (gateway, _up) = answering("HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b=c\r\nContent-Length: 0\r\n\r\n");
    let answer = gateway.get("/");
    assert_eq!(answer.header("set-cookie"), None, "{answer:?}");
}

#[test]
fn hop_by_hop_headers_of_a_request_end_at_the_gateway() {
    let up = Upstream::named("up");
    let gateway = gateway(&[up.address()], "");
    let answer = gateway.send(
        "GET",
        "/",
        &[
            ("Connection", "keep-alive, X-Mine"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("TE", "trailers"),
            ("Upgrade", "h2c"),
            ("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA"),
            ("X-Mine", "for the gateway"),
            ("X-Other", "for the upstream"),
        ],
    );
    assert_eq!(answer.text(), "up");
    let seen = up.only();
    for name in ["connection", "keep-alive", "proxy-connection", "te", "upgrade", "http2-settings", "x-mine"] {
        assert_eq!(seen.header(name), None, "{name}: {}", seen.head);
    }
    assert_eq!(seen.header("x-other"), Some("for the upstream"));
}

#[test]
fn hop_by_hop_headers_of_an_answer_end_at_the_gateway() {
    let (gateway, _up) = answering(
        "HTTP/1.1 200 OK\r\nConnection: close, X-Mine\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\nUpgrade: h2c\r\nX-Mine: for the gateway\r\nX-Other: for the client\r\nContent-Length: 2\r\n\r\nup",
    );
    let mut client = gateway.client();
    for _ in 0..2 {
        // The upstream's connection ends, the client's goes on.
        let answer = client.get("/");
        assert_eq!(answer.text(), "up");
        for name in ["keep-alive", "proxy-connection", "upgrade", "x-mine"] {
            assert_eq!(answer.header(name), None, "{name}: {answer:?}");
        }
        assert_ne!(answer.header("connection"), Some("close"));
        assert_eq!(answer.header("x-other"), Some("for the client"));
    }
}

#[test]
fn the_host_is_kept_or_set_as_the_route_says() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes:\n  - {{ name: kept, match: {{ path: /kept }}, upstream: up }}\n  - {{ name: set, match: {{ path: /set }}, host: {{ set: \"inner.example:81\" }}, upstream: up }}\n",
        up.address()
    ));
    let outer = "Outer.Example:8080";
    for (path, host, forwarded) in [("/kept", outer, None), ("/set", "inner.example:81", Some(outer))] {
        gateway.send("GET", path, &[("Host", outer)]);
        let seen = up.last();
        assert_eq!(seen.header("host"), Some(host));
        assert_eq!(seen.header("x-forwarded-host"), forwarded);
    }
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it_from_the_upstream() {
    let up = Bare::start(|stream, _| {
        let head = read_head(stream).unwrap().to_ascii_lowercase();
        assert!(head.contains("expect: 100-continue"), "{head}");
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        std::io::Read::read_exact(stream, &mut [0; 5]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nthere").unwrap();
    });
    let gateway = gateway(&[up.address()], "");
    let mut client = gateway.client();
    client.write(request("POST", "/", &[("Content-Length", "5"), ("Expect", "100-continue")]).as_bytes());
    client.more().expect("100 Continue, before any of the body is sent");
    client.write(b"hello");
    assert_eq!(client.read_answer_to("POST").text(), "there");
}

#[test]
fn a_client_that_waits_for_100_continue_may_get_a_refusal_instead() {
    let up = Bare::start(|stream, _| {
        read_head(stream).unwrap();
        stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").unwrap();
        read_head(stream);
    });
    let gateway = gateway(&[up.address()], "");
    let mut client = gateway.client();
    client.write(request("POST", "/", &[("Content-Length", "5"), ("Expect", "100-continue")]).as_bytes());
    let answer = client.read_answer_to("POST");
    assert_eq!((answer.status, answer.text().as_str()), (413, "no"));
    assert_eq!(answer.header("connection"), Some("close"), "what follows on the connection may not be a request");
}

#[test]
fn an_answer_that_comes_before_the_body_is_sent_reaches_the_client() {
    let up = Bare::start(|stream, _| {
        read_head(stream).unwrap();
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").unwrap();
        std::thread::sleep(Duration::from_secs(1));
    });
    let gateway = gateway(&[up.address()], "");
    let mut client = gateway.client();
    client.write(request("POST", "/", &[("Content-Length", "1000000")]).as_bytes());
    client.write(b"only the beginning");
    let answer = client.read_answer_to("POST");
    assert_eq!((answer.status, answer.text().as_str()), (401, "no"));
}

#[test]
fn an_answer_to_head_and_one_without_a_body_keep_their_headers() {
    let up = Upstream::start(|request| match request.target.as_str() {
        "/204" => Reply::new(204, "").header("X-Mine", "yes"),
        "/304" => Reply::raw_open("HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\nX-Mine: yes\r\n\r\n"),
        _ => Reply::ok("twelve bytes").header("X-Mine", "yes"),
    });
    let gateway = gateway(&[up.address()], "");
    let mut client = gateway.client();
    for (method, path, status, length) in
        [("HEAD", "/", 200, Some("12")), ("GET", "/204", 204, None), ("GET", "/304", 304, None)]
    {
        client.write(request(method, path, &[("If-None-Match", "\"v1\"")]).as_bytes());
        let answer = client.read_answer_to(method);
        assert_eq!((answer.status, answer.header("content-length")), (status, length), "{method} {path}");
        assert_eq!((answer.header("x-mine"), answer.header("transfer-encoding")), (Some("yes"), None));
        assert_eq!((up.last().method.as_str(), up.last().header("if-none-match")), (method, Some("\"v1\"")));
    }
    assert_eq!(client.get("/").text(), "twelve bytes");
}

#[test]
fn a_switch_of_protocols_that_nobody_asked_for_is_502() {
    let (gateway, _up) =
        answering("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream_invalid"));
}

#[test]
fn what_the_upstream_says_of_itself_reaches_the_client_unchanged() {
    let up = Upstream::start(|_| {
        Reply::new(418, "short and stout")
            .header("Set-Cookie", "a=1")
            .header("Set-Cookie", "b=2")
            .header("X-UTF", "gr\u{fc}n")
    });
    let gateway = gateway(&[up.address()], "");
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.text().as_str()), (418, "short and stout"));
    let cookies: Vec<_> =
        answer.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, v)| v.as_str()).collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    assert_eq!(answer.header("x-utf"), Some("gr\u{fc}n"));
}

#[test]
fn a_client_of_http_1_0_gets_no_chunks() {
    let up = Upstream::start(|_| {
        Reply::raw_open("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    });
    let gateway = gateway(&[up.address()], "");
    for connection in ["", "Connection: keep-alive\r\n"] {
        let mut client = gateway.client();
        client.write(format!("GET / HTTP/1.0\r\nHost: test\r\n{connection}\r\n").as_bytes());
        let answer = client.read();
        assert_eq!((answer.text().as_str(), answer.header("transfer-encoding")), ("hello", None), "{answer:?}");
        assert_eq!(answer.header("connection"), Some("close"));
    }
}

#[test]
fn a_side_that_does_not_read_is_waited_for_without_hoarding_for_it() {
    const HUGE: usize = 96 << 20;
    let up = Bare::start(|stream, _| {
        if read_head(stream).unwrap().starts_with("POST") {
            std::thread::sleep(Duration::from_secs(2));
            return;
        }
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {HUGE}\r\n\r\n").as_bytes()).unwrap();
        let piece = vec![b'x'; 1 << 20];
        while stream.write_all(&piece).is_ok() {}
    });
    let gateway = gateway(&[up.address()], "");
    assert_eq!(gateway.send("GET", "/nowhere", &[("Host", "a b")]).status, 400);
    let before = gateway.memory();
    let mut download = gateway.client();
    download.write(request("GET", "/", &[]).as_bytes());
    let mut upload = gateway.client();
    upload.write(request("POST", "/", &[("Content-Length", &HUGE.to_string())]).as_bytes());
    let mut stream = upload.stream().try_clone().unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    // Ends when nobody takes any more.
    let piece = vec![b'x'; 1 << 20];
    let taken = (0..HUGE >> 20).take_while(|_| stream.write_all(&piece).is_ok()).count();
    assert!(taken < HUGE >> 20, "all of it was taken");
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 24 << 20, "{} MiB", grown >> 20);
}
