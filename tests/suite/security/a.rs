//! Framing and smuggling.

use std::{
    io::{Read, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{guarded, guarded_with, only_saw, refused};
use crate::support::{Bare, Reply, Upstream, eventually, read_head, request};

const BAD: (u16, &str) = (400, "bad_request");

/// What would be a request of its own if the gateway and the upstream disagreed.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: test\r\n\r\n";

/// That a POST with these headers is refused, whatever follows, and reaches no one.
#[track_caller]
fn refuses(headers: &[&str]) {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for headers in headers {
        for behind in ["0\r\n\r\n", "hello", HIDDEN] {
            let bytes = format!("POST / HTTP/1.1\r\nHost: test\r\n{headers}\r\n\r\n{behind}");
            let (status, code) = refused(&gateway, bytes.as_bytes());
            assert_eq!((status, code.as_str()), BAD, "{headers:?}");
        }
    }
    assert_eq!(gateway.get("/after").text(), "up");
    only_saw(&up, &["/after"]);
}

#[test]
fn a01_content_length_with_transfer_encoding() {
    refuses(&[
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        "content-length: 5\r\nTRANSFER-ENCODING: CHUNKED",
        "Content-Length: 5\r\nTransfer-Encoding: identity",
    ]);
}

#[test]
fn a02_content_length_that_is_no_single_number() {
    refuses(&[
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5, 5",
        "Content-Length: 5,6",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: -0",
        "Content-Length: 0x5",
        "Content-Length: 5 junk",
        "Content-Length: 5;",
        "Content-Length: 5\t5",
        "Content-Length: 5.0",
        "Content-Length: 1e1",
        "Content-Length: 1_0",
        "Content-Length: \"5\"",
        "Content-Length:",
        "Content-Length: 18446744073709551616",
        "Content-Length: 9223372036854775808",
        "Content-Length: 99999999999999999999999999999999999999",
        "Content-Length: \u{665}",
    ]);
}

#[test]
fn a03_transfer_encoding_that_is_not_chunked_once() {
    refuses(&[
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding:\x0cchunked",
        "Transfer-Encoding: chunked\x00",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding:",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
    ]);
}

#[test]
fn a03_names_that_only_look_like_transfer_encoding_frame_nothing() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    let send = |name| {
        let mut client = gateway.client();
        client.write(request("POST", "/", &[("Content-Length", "3"), (name, "chunked")]).as_bytes());
        client.try_write(b"0\r\n");
        client.read_answer_to("POST")
    };
    // Some servers cannot tell these from the real one.
    for name in ["Transfer_Encoding", "Transfer.Encoding"] {
        assert_eq!(send(name).status, 400, "{name}");
    }
    only_saw(&up, &[]);
    assert_eq!(send("X-Transfer-Encoding").text(), "up");
    assert_eq!((up.last().body.as_slice(), up.last().header("transfer-encoding")), (&b"0\r\n"[..], None));
}

#[test]
fn a04_transfer_encoding_in_http_1_0() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for headers in ["", "Connection: keep-alive\r\n", "Content-Length: 5\r\n"] {
        let bytes =
            format!("POST / HTTP/1.0\r\nHost: test\r\n{headers}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}");
        let (status, code) = refused(&gateway, bytes.as_bytes());
        assert_eq!((status, code.as_str()), BAD, "{headers:?}");
    }
    only_saw(&up, &[]);
}

#[test]
fn a05_connection_cannot_name_what_concerns_everyone() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for named in
        ["Content-Length", "Transfer-Encoding", "Host", "Authorization", "X-Forwarded-For, X-Consumer-Id", "Via"]
    {
        for chunked in [false, true] {
            let framing = if chunked { ("Transfer-Encoding", "chunked") } else { ("Content-Length", "5") };
            let mut client = gateway.client();
            let headers =
                [framing, ("Connection", named), ("X-Api-Key", "a-key-for-tests"), ("Authorization", "Basic YTpi")];
            client.write(request("POST", "/admin", &headers).as_bytes());
            client.write(if chunked { b"5\r\nhello\r\n0\r\n\r\n" } else { b"hello" });
            assert_eq!(client.read_answer_to("POST").text(), "up", "{named}");
            let seen = up.last();
            assert_eq!(seen.body, b"hello", "{named}");
            assert_eq!(seen.header("content-length").is_some(), !chunked, "{named}: {}", seen.head);
            assert_eq!(seen.header("transfer-encoding").is_some(), chunked, "{named}: {}", seen.head);
            assert_eq!(seen.header("host"), Some("test"), "{named}");
            assert_eq!(seen.header("authorization"), Some("Basic YTpi"), "{named}");
            assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"), "{named}");
            assert_eq!(seen.header("x-consumer-id"), Some("mobile"), "{named}");
            assert!(seen.header("via").is_some(), "{named}");
        }
    }
}

#[test]
fn a06_the_body_of_a_get_is_a_body() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        for chunked in [false, true] {
            let mut client = gateway.client();
            let length = HIDDEN.len().to_string();
            let framing = if chunked { ("Transfer-Encoding", "chunked") } else { ("Content-Length", length.as_str()) };
            let body = if chunked { format!("{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len()) } else { HIDDEN.into() };
            client.write((request(method, "/outer", &[framing]) + &body).as_bytes());
            assert_eq!(client.read_answer_to(method).status, 200, "{method}");
            assert_eq!((up.last().method.as_str(), up.last().body.as_slice()), (method, HIDDEN.as_bytes()));
            // The connection goes on behind the body, not within.
            assert_eq!(client.get("/next").status, 200);
            assert_eq!(up.last().target, "/next");
        }
    }
    assert_eq!(up.seen().len(), 16);
    assert!(up.seen().iter().all(|seen| seen.target != "/hidden"));
}

#[test]
fn a06_an_upstream_that_ignores_the_body_of_a_get_desyncs_no_one() {
    // It takes the body for the next request on the connection.
    let up = Bare::start(|stream, _| {
        while let Some(head) = read_head(stream) {
            let target = head.split(' ').nth(1).unwrap().to_owned();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    let gateway = guarded(up.address());
    for method in ["GET", "HEAD"] {
        for _ in 0..20 {
            let mut attacker = gateway.client();
            let length = HIDDEN.len().to_string();
            attacker.write((request(method, "/outer", &[("Content-Length", &length)]) + HIDDEN).as_bytes());
            assert_eq!(attacker.read_answer_to(method).status, 200);
            assert_eq!(gateway.get("/victim").text(), "/victim");
        }
    }
}

#[test]
fn a07_an_answer_of_the_gateway_leaves_no_body_behind() {
    let up = Upstream::named("up");
    let gateway = guarded_with(
        up.address(),
        ", policies: [{ cors: { origins: [\"https://a.example\"] } }] }\n  - { name: away, match: { path: /away }, redirect: { to: /there }",
    );
    let preflight = [("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET")];
    for (method, path, status, more) in [("GET", "/away", 308, &[][..]), ("OPTIONS", "/", 204, &preflight)] {
        for size in [HIDDEN.len(), 100_000, 1_000_000] {
            let mut client = gateway.client();
            let length = size.to_string();
            let headers = [&[("Content-Length", length.as_str())][..], more].concat();
            let body = HIDDEN.to_owned() + &"x".repeat(size - HIDDEN.len());
            client.write(request(method, path, &headers).as_bytes());
            client.try_write(body.as_bytes());
            client.try_write(HIDDEN.replace("hidden", "next").as_bytes());
            let first = client.read_answer_to(method);
            assert_eq!(first.status, status, "{method} {size}");
            // Either the body was read to its end, or nothing more is.
            match client.try_read("GET") {
                Some(answer) => assert_eq!(answer.text(), "up", "{method} {size}"),
                None => assert_eq!(first.header("connection"), Some("close"), "{method} {size}"),
            }
        }
    }
    let targets: Vec<String> = up.seen().into_iter().map(|seen| seen.target).collect();
    assert!(targets.iter().all(|target| target == "/next"), "{targets:?}");
}

#[test]
fn a08_the_body_of_a_refused_request_is_never_a_request() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for (framing, body) in [
        (("Content-Length", HIDDEN.len().to_string()), HIDDEN.to_owned()),
        (("Content-Length", "200000".into()), HIDDEN.to_owned() + &"x".repeat(200_000 - HIDDEN.len())),
        (("Transfer-Encoding", "chunked".into()), format!("{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len())),
    ] {
        let mut client = gateway.client();
        client.write(request("POST", "/admin", &[(framing.0, &framing.1)]).as_bytes());
        client.try_write(body.as_bytes());
        client.try_write(request("GET", "/next", &[]).as_bytes());
        let refusal = client.read_answer_to("POST");
        assert_eq!((refusal.status, refusal.problem().as_str()), (401, "unauthenticated"));
        match client.try_read("GET") {
            Some(answer) => assert_eq!(answer.text(), "up"),
            None => assert_eq!(refusal.header("connection"), Some("close")),
        }
    }
    let targets: Vec<String> = up.seen().into_iter().map(|seen| seen.target).collect();
    assert!(!targets.is_empty() && targets.iter().all(|target| target == "/next"), "{targets:?}");
}

#[test]
fn a10_connect_opens_no_tunnel() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for target in ["test:443", "test", "/", "http://test/", "127.0.0.1:80", "*"] {
        for host in ["test:443", "test"] {
            let bytes = format!("CONNECT {target} HTTP/1.1\r\nHost: {host}\r\n\r\n{HIDDEN}");
            let (status, code) = refused(&gateway, bytes.as_bytes());
            assert_eq!((status, code.as_str()), (405, "method_not_supported"), "{target}");
        }
    }
    only_saw(&up, &[]);
}

#[test]
fn a11_chunks_that_are_none() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for body in [
        "FFFFFFFFFFFFFFFFF\r\nx\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nx\r\n0\r\n\r\n",
        "5;ext=\nhello\r\n0\r\n\r\n",
        "5;ext=\n\r\nhello\r\n0\r\n\r\n",
        "5;\x00\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhelloworld\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\n",
        "5\r\nhello\r\n0\r\n\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";ext\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\nX: y\r\n folded\r\n\r\n",
    ] {
        for head in ["POST / HTTP/1.1\r\n", "POST /admin HTTP/1.1\r\n", "GET /nowhere HTTP/1.1\r\n"] {
            let bytes = format!("{head}Host: test\r\nTransfer-Encoding: chunked\r\n\r\n{body}{HIDDEN}");
            let (status, code) = refused(&gateway, bytes.as_bytes());
            assert_eq!((status, code.as_str()), BAD, "{body:?}");
        }
    }
    assert_eq!(gateway.get("/after").text(), "up");
    only_saw(&up, &["/after"]);
}

#[test]
fn a11_a_chunk_that_is_none_behind_good_ones_never_ends_the_request() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for bad in ["5;ext=\nhello\r\n0\r\n\r\n", "5\nhello\r\n0\r\n\r\n", "zz\r\n", "0\n\n", "0\r\nX\r\n\r\n"] {
        let mut client = gateway.client();
        client.write(request("POST", "/", &[("Transfer-Encoding", "chunked")]).as_bytes());
        client.write(b"5\r\nhello\r\n");
        // The good part is on its way to the upstream.
        std::thread::sleep(Duration::from_millis(100));
        client.write((bad.to_owned() + HIDDEN).as_bytes());
        let answer = client.read_answer_to("POST");
        assert_eq!((answer.status, answer.problem().as_str()), BAD, "{bad:?}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.is_closed());
    }
    only_saw(&up, &[]);
}

#[test]
fn a11_trailers_and_extensions_do_not_go_on() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let up = Bare::start(move |stream, _| {
        let mut all = Vec::new();
        let mut piece = [0; 4096];
        while !all.ends_with(b"0\r\n\r\n") {
            let read = stream.read(&mut piece).unwrap();
            assert!(read > 0, "{:?}", String::from_utf8_lossy(&all));
            all.extend_from_slice(&piece[..read]);
        }
        seen.lock().unwrap().push(String::from_utf8(all).unwrap());
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nup").unwrap();
    });
    let gateway = guarded(up.address());
    for trailer in [
        "Content-Length: 7",
        "Authorization: Bearer x",
        "Transfer-Encoding: chunked",
        "Host: evil",
        "X-Consumer-Id: root",
    ] {
        let mut client = gateway.client();
        client.write(request("POST", "/", &[("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum")]).as_bytes());
        client.write(format!("5;ext=\"a b\"\r\nhello\r\n0;last\r\n{trailer}\r\nX-Sum: 1\r\n\r\n").as_bytes());
        assert_eq!(client.read_answer_to("POST").text(), "up", "{trailer}");
        let whole = heads.lock().unwrap().pop().unwrap();
        let (head, body) = whole.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "5\r\nhello\r\n0\r\n\r\n");
        let is_framing = trailer == "Transfer-Encoding: chunked";
        assert!(is_framing || !whole.to_ascii_lowercase().contains(&trailer.to_ascii_lowercase()), "{whole}");
        assert!(!head.to_ascii_lowercase().contains("trailer"), "{head}");
    }
}

#[test]
fn a12_lines_that_are_no_headers() {
    refuses(&[
        ":x",
        ": x",
        " X: y",
        "\tX: y",
        "X : y",
        "X\t: y",
        "X",
        "X y: z",
        "X: folded\r\n more",
        "X: folded\r\n\tmore",
        "X: nul\0byte",
        "X: bare\rreturn",
        "X: bare\nfeed",
        "X: y\r\r\nZ: z",
        "X: y\n\r\nZ: z",
        "X\0: y",
        "X\u{e9}: y",
        "X(: y",
        "\"X\": y",
        "X: \x01",
        "X: \x1b[31m",
        "X: \x7f",
    ]);
}

#[test]
fn a15_expectations_desync_nothing() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    // Answers at once, and reads the body only where it belongs to the request.
    let up = Bare::start(move |stream, _| {
        while let Some(head) = read_head(stream) {
            count.fetch_add(1, Ordering::SeqCst);
            let target = head.split(' ').nth(1).unwrap().to_owned();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
            let expects = head.to_ascii_lowercase().contains("content-length: 5");
            if expects && stream.read_exact(&mut [0; 5]).is_err() {
                return;
            }
        }
    });
    let gateway = guarded(up.address());
    let expect =
        |value: &str| format!("POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: {value}\r\n\r\n");
    let mut victim = gateway.client();
    for i in 0..1000 {
        let path = format!("/victim/{i}");
        // Of any kind, in turn, with and without the body that was announced.
        match i % 8 {
            0 => {
                let mut attacker = gateway.client();
                attacker.write(expect("100-continue").as_bytes());
                assert_eq!(attacker.read_answer_to("POST").text(), "/a");
                attacker.try_write(b"hello");
            }
            1 => {
                let mut attacker = gateway.client();
                attacker.write((expect("100-continue") + "hello").as_bytes());
                assert_eq!(attacker.read_answer_to("POST").text(), "/a");
            }
            2 => {
                let mut attacker = gateway.client();
                attacker.write((expect("100-continue") + HIDDEN).as_bytes());
                let answer = attacker.read_answer_to("POST");
                assert_eq!(answer.text(), "/a");
            }
            3 => {
                for value in ["100-continue, x", "100-continue\r\nExpect: 100-continue", "x", ""] {
                    let (status, code) = refused(&gateway, (expect(value) + "hello").as_bytes());
                    assert_eq!((status, code.as_str()), (417, "expectation_failed"), "{value}");
                }
            }
            _ => {}
        }
        let answer = victim.get(&path);
        assert_eq!(answer.text(), path);
        if answer.header("connection") == Some("close") {
            victim = gateway.client();
        }
    }
    assert!(served.load(Ordering::SeqCst) >= 1000);
}

#[test]
fn a15_an_expectation_without_a_body_goes_nowhere() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for head in [
        "GET / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: test\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi",
        "GET / HTTP/1.0\r\nHost: test\r\nExpect: anything\r\n\r\n",
    ] {
        let mut client = gateway.client();
        client.write(head.as_bytes());
        assert_eq!(client.read().text(), "up", "{head}");
        assert_eq!(up.last().header("expect"), None, "{head}");
    }
}

/// A gateway before an upstream that answers the first request on each connection with these bytes, and every other one
/// with its target. Returns what a client got for the first one, and then for another one.
fn answers(raw: &str) -> (Option<u16>, Vec<u8>) {
    let raw = raw.to_owned();
    let up = Bare::start(move |stream, _| {
        while let Some(head) = read_head(stream) {
            let target = head.split(' ').nth(1).unwrap().to_owned();
            let answer = if target == "/first" {
                raw.clone()
            } else {
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len())
            };
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    let gateway = guarded(up.address());
    let mut client = gateway.client();
    client.write(request("GET", "/first", &[]).as_bytes());
    let first = client.try_read("GET");
    // Whatever became of it, nobody gets a piece of it.
    for i in 0..8 {
        let target = format!("/other/{i}");
        client.try_write(request("GET", &target, &[]).as_bytes());
        if let Some(answer) = client.try_read("GET") {
            assert_eq!(answer.text(), target);
        } else {
            client = gateway.client();
            assert_eq!(client.get(&target).text(), target);
        }
    }
    let body = first.as_ref().map(|answer| answer.body.clone()).unwrap_or_default();
    (first.map(|answer| answer.status), body)
}

#[test]
fn a16_answers_that_could_be_two() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for (raw, status, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello".to_owned(), Some(502), None),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello".into(), Some(502), None),
        (format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello{evil}"), Some(200), Some("hello")),
        (format!("HTTP/1.1 204 No Content\r\n\r\n{evil}"), Some(204), Some("")),
        (format!("HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil{evil}"), Some(204), Some("")),
        (format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil{evil}"), Some(304), Some("")),
        (
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n{evil}"),
            Some(200),
            Some("hello"),
        ),
        ("HTTP/1.1 100 Continue\r\n\r\n".repeat(1000), Some(502), None),
        ("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(1000), Some(502), None),
    ] {
        let (got, text) = answers(&raw);
        assert_eq!(got, status, "{raw:.80}");
        if let Some(body) = body {
            assert_eq!(String::from_utf8_lossy(&text), body, "{raw:.80}");
        }
    }
}

/// The chunks are what counts (RFC 9112, 6.3), for the gateway and for the client.
#[test]
fn a16_a_length_beside_chunks_goes_nowhere() {
    for length in [3, 5, 1000] {
        let raw = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        );
        let up = Upstream::start(move |_| Reply::raw_open(raw.clone()));
        let gateway = guarded(up.address());
        let mut client = gateway.client();
        for _ in 0..3 {
            let answer = client.get("/");
            assert_eq!((answer.text().as_str(), answer.header("content-length")), ("hello", None));
        }
    }
}

#[test]
fn a16_a_client_of_http_1_0_gets_no_interim_answer() {
    let up = Upstream::start(|_| {
        Reply::raw("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup")
    });
    let gateway = guarded(up.address());
    let mut client = gateway.client();
    client.write(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n");
    while client.more().is_some() {}
    let got = String::from_utf8(client.peeked().to_vec()).unwrap();
    assert!(got.starts_with("HTTP/1.1 200") && got.ends_with("up"), "{got}");
}

#[test]
fn a17_bytes_before_the_handshake_are_no_answer() {
    let plain = Bare::start(|stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        let _ = stream.read(&mut [0; 4096]);
    });
    let gateway = crate::support::Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"], tls: {{ server_name: up.example }}, retries: {{ attempts: 0 }} }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        plain.address()
    ));
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream_unreachable"));
}

#[test]
fn a17_bytes_before_the_request_are_no_answer() {
    let up = Bare::start(|stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nevil");
        let _ = stream.read(&mut [0; 4096]);
    });
    let gateway = guarded(up.address());
    // Which of the two is faster with its first bytes is for nobody to say; what comes first is found out sooner or later.
    eventually("the upstream was faster than the request", || {
        let answer = gateway.get("/");
        answer.status == 502 && answer.problem() == "upstream_invalid"
    });
}

#[test]
fn a17_bytes_that_nobody_asked_for_end_the_connection() {
    let sent = Arc::new(AtomicUsize::new(0));
    let up = Bare::start({
        let sent = Arc::clone(&sent);
        move |stream, before| {
            while let Some(head) = read_head(stream) {
                let target = head.split(' ').nth(1).unwrap().to_owned();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len());
                stream.write_all(answer.as_bytes()).unwrap();
                if before == 0 {
                    std::thread::sleep(Duration::from_millis(100));
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    });
    let gateway = guarded(up.address());
    let mut client = gateway.client();
    assert_eq!(client.get("/1").text(), "/1");
    eventually("the upstream spoke unasked", || sent.load(Ordering::SeqCst) == 1);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(client.get("/2").text(), "/2");
    assert_eq!(up.connections(), 2);
}
