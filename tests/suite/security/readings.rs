//! What the gateway and a server behind it could read differently.

use std::{
    io::{Read as _, Write as _},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use super::{guarded, only_saw};
use crate::support::{
    Bare, Gateway, Reply, Upstream, eventually, http2, read_head, request,
    web_socket::{SWITCH, UPGRADE, frame, says_again},
};

/// Servers decode them before they look for what the path leads to.
#[test]
fn an_escape_that_a_path_does_not_need_is_no_way_to_another_route() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
consumers: {{ mobile: {{ api_keys: [a-key-for-tests] }} }}
routes:
  - {{ name: delete, match: {{ path: \"/v1/things:delete\" }}, upstream: up, policies: [{{ api_key: {{}} }}] }}
  - {{ name: admin, match: {{ path: {{ prefix: \"/@admin\" }} }}, upstream: up, policies: [{{ api_key: {{}} }}] }}
  - {{ name: all, upstream: up }}
",
        up.address()
    ));
    for path in
        ["/v1/things:delete", "/v1/things%3Adelete", "/v1/things%3adelete", "/@admin", "/%40admin/x", "/%40%61dmin"]
    {
        assert_eq!(gateway.get(path).problem(), "unauthenticated", "{path}");
    }
    only_saw(&up, &[]);
    assert_eq!(gateway.get("/a%3Ab%2Bc").text(), "up");
    assert_eq!(up.last().target, "/a:b%2Bc");
}

/// [RFC 9113, 8.2.1](https://www.rfc-editor.org/rfc/rfc9113#section-8.2.1): a server of HTTP/1.1 would take it away.
#[test]
fn white_space_around_a_value_over_http2_is_refused() {
    let up = Upstream::named("up");
    let gateway = h2c(&up);
    for value in [" admin", "admin ", "\tadmin", "admin\t", " "] {
        let answer = http2::send(&gateway, "GET", "/", &[("x-role", value)], &[]);
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad_request"), "{value:?}");
    }
    only_saw(&up, &[]);
    assert_eq!(http2::send(&gateway, "GET", "/", &[("x-role", "the admin"), ("x-none", "")], &[]).status, 200);
}

fn h2c(up: &Upstream) -> Gateway {
    Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", h2c: true, max_body_size: 1KiB }}]
upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
routes: [{{ name: all, upstream: up }}]
",
        up.address()
    ))
}

#[test]
fn a_header_over_http2_that_is_too_large_is_refused_as_over_http1() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", h2c: true, max_header_size: 4KiB }}]
telemetry: {{ access_log: {{}} }}
upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
routes: [{{ name: all, upstream: up }}]
",
        up.address()
    ));
    let large = "v".repeat(5000);
    let answer = http2::send(&gateway, "GET", "/too-large", &[("x-large", &large)], &[]);
    assert_eq!((answer.status, answer.problem().as_str()), (431, "header_too_large"));
    gateway.wait_for_metric("torana_rejects_total{reject=\"header_too_large\",route=\"\"}", 1.0);
    eventually("it is in the log", || gateway.log().contains("\"path\":\"/too-large\""));
    assert_eq!(http2::send(&gateway, "GET", "/", &[("x-large", &large[..3000])], &[]).status, 200);
}

#[test]
fn a_media_type_alone_is_no_way_past_the_limit_of_bodies() {
    let up = Upstream::named("up");
    let gateway = h2c(&up);
    for kind in ["application/grpc", "application/grpc+x", "application/grpc;a"] {
        let answer = gateway.send("POST", "/", &[("Content-Type", kind), ("Content-Length", "100000")]);
        assert_eq!(answer.header("torana-reject"), Some("body_too_large"), "{kind}");
        // Nor over HTTP/2, to an upstream that does not speak it.
        let answer = http2::send(&gateway, "POST", "/", &[("content-type", kind)], &[50_000, 50_000]);
        assert_eq!(answer.header("torana-reject"), Some("body_too_large"), "{kind}");
    }
    only_saw(&up, &[]);
}

#[test]
fn what_can_be_taken_for_the_length_of_a_body_is_refused() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for (name, value) in [("Transfer_Encoding", "chunked"), ("Content.Length", "5"), ("Transfer~Encoding", "chunked")] {
        let answer = gateway.send("GET", "/", &[(name, value)]);
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad_request"), "{name}");
    }
    only_saw(&up, &[]);
}

#[test]
fn no_claim_about_the_way_of_a_request_goes_on() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for name in [
        "X-Forwarded-Ssl",
        "X-Forwarded-Scheme",
        "X-Forwarded-Client-Cert",
        "X-Forwarded-User",
        "X-Client-Ip",
        "True-Client-Ip",
        "X-Cluster-Client-Ip",
        "X-Envoy-External-Address",
        "X-Original-Host",
        "X-Host",
        "Front-End-Https",
        "X-Scheme",
        "X~Forwarded~Ssl",
        "X~Consumer~Id",
        "X-Consumer+Id",
        "X!Consumer!Id",
    ] {
        assert_eq!(gateway.send("GET", "/", &[(name, "forged-value")]).status, 200, "{name}");
        assert!(!up.last().head.contains("forged-value"), "{}", up.last().head);
    }
}

/// An upstream that takes its answer for the end of the request would read the body as the next one, and answer that to
/// whoever comes next.
#[test]
fn a_body_behind_an_early_answer_reaches_nobody_elses_connection() {
    let asked = std::sync::Arc::new(AtomicUsize::new(0));
    let up = Bare::start({
        let asked = std::sync::Arc::clone(&asked);
        move |stream, _| {
            while let Some(head) = read_head(stream) {
                let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
                if target == "/smuggled" {
                    asked.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(300));
                }
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len());
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        }
    });
    let gateway = guarded(up.address());
    for _ in 0..5 {
        let smuggled = request("GET", "/smuggled", &[]);
        let length = smuggled.len().to_string();
        let mut client = gateway.client();
        client.write(request("POST", "/x", &[("Expect", "100-continue"), ("Content-Length", &length)]).as_bytes());
        let first = client.read();
        assert!(first.status == 200 || first.status == 100, "{first:?}");
        client.try_write(smuggled.as_bytes());
        std::thread::sleep(Duration::from_millis(50));
        for i in 0..3 {
            let target = format!("/victim/{i}");
            assert_eq!(gateway.get(&target).text(), target);
        }
    }
}

#[test]
fn an_upgrade_goes_well_behind_an_interim_response_in_the_same_packet() {
    let up = Bare::start(|stream, _| {
        read_head(stream);
        stream.write_all(&[b"HTTP/1.1 100 Continue\r\n\r\n", SWITCH].concat()).unwrap();
        let mut byte = [0; 1];
        let mut said = Vec::new();
        while stream.read(&mut byte).is_ok_and(|read| read == 1) {
            said.push(byte[0]);
            if said.len() == 6 + 5 {
                let text: Vec<u8> = said[6..].iter().zip(said[2..6].iter().cycle()).map(|(b, mask)| b ^ mask).collect();
                stream.write_all(&frame(0x81, &text, false)).unwrap();
                said.clear();
            }
        }
    });
    let gateway = guarded(up.address());
    let mut client = gateway.client();
    client.write(request("GET", "/chat", &UPGRADE).as_bytes());
    let mut answer = client.read();
    while answer.status < 101 {
        answer = client.read();
    }
    assert_eq!(answer.status, 101);
    says_again(&mut client, "hello");
}

#[test]
fn codings_that_servers_read_differently_are_no_answer() {
    for (head, status) in [
        ("200 OK\r\nTransfer-Encoding: chunked, gzip", 502),
        ("200 OK\r\nTransfer-Encoding: xchunked", 502),
        ("200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 0", 502),
        ("200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 502),
        ("204 No Content\r\nTransfer-Encoding: chunked", 204),
        ("200 OK\r\nContent-Length: 0\r\nContent-Length: 0", 200),
    ] {
        let raw = format!("HTTP/1.1 {head}\r\n\r\n");
        let up = Upstream::start(move |_| Reply::raw(raw.clone()));
        let answer = guarded(up.address()).get("/");
        assert_eq!(answer.status, status, "{head}");
        let lengths = answer.headers.iter().filter(|(name, _)| name == "content-length").count();
        assert!(lengths <= 1 && answer.header("transfer-encoding").is_none(), "{head}: {answer:?}");
    }
}

#[test]
fn a_connection_that_is_somebodys_is_nobody_elses_however_the_scheme_is_written() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for credentials in ["NTLM abc", "NTLM\tabc", "Negotiate abc"] {
        let before = up.connections();
        assert_eq!(gateway.send("GET", "/", &[("Authorization", credentials)]).status, 200);
        assert_eq!(gateway.get("/").status, 200);
        eventually("there was a connection of its own", || up.connections() > before);
    }
}

#[test]
fn what_comes_behind_an_answer_without_a_body_goes_nowhere_over_http2_either() {
    for status in [204, 304] {
        let address = http2::with_body(status);
        let gateway = Gateway::start(&format!(
            "listeners: [{{ address: 127.0.0.1:0, h2c: true }}]\nadmin: {{ address: 127.0.0.1:0 }}\n\
             upstreams: {{ up: {{ endpoints: ['{address}'], protocol: http2 }} }}\n\
             routes: [{{ name: all, upstream: up }}]\n"
        ));
        let answer = http2::send(&gateway, "GET", "/", &[], &[]);
        assert_eq!((answer.status, answer.text().as_str()), (status, ""));
        let mut client = gateway.client();
        for _ in 0..2 {
            let answer = client.get("/");
            assert_eq!((answer.status, answer.text().as_str()), (status, ""));
        }
    }
}
