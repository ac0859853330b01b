//! HTTP/3: the same gateway over QUIC.

mod hostile;
mod life;
mod third_party;

use std::{fs, time::Duration};

use crate::support::{
    Authority, Gateway, Recorded, Reply, Upstream, eventually,
    http3::{Http3, NAME, exchange, request},
};

/// A file with one listener that speaks HTTP/3 like this, and one upstream.
fn config(upstream: &Upstream, http3: &str, rest: &str) -> String {
    format!(
        "listeners:\n  - address: 127.0.0.1:0\n    tls: {{ certificates: [{{ cert: tls.crt, key: tls.key }}] }}\n    http3: {http3}\n\
         upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\n{rest}",
        upstream.address()
    )
}

const ROUTE: &str = "routes: [{ name: a, upstream: up }]\n";

fn write_certificate(folder: &std::path::Path, authority: &Authority) {
    let (cert, key) = authority.pair(NAME);
    fs::write(folder.join("tls.crt"), cert).unwrap();
    fs::write(folder.join("tls.key"), key).unwrap();
}

/// A gateway with that file.
fn start(upstream: &Upstream, http3: &str, rest: &str) -> (Gateway, Authority) {
    let authority = Authority::new("http3");
    let gateway =
        Gateway::start_with(&config(upstream, http3, rest), |folder, _| write_certificate(folder, &authority));
    (gateway, authority)
}

fn echo(request: &Recorded) -> Reply {
    Reply::ok(request.body.clone()).header("x-method", &request.method)
}

#[test]
fn a_request_over_http3_goes_the_way_of_every_other() {
    let up = Upstream::start(echo);
    let log = "telemetry: { access_log: { file: access.log } }\n";
    let (gateway, authority) = start(&up, "true", &format!("{ROUTE}{log}"));
    let client = Http3::connect(gateway.address(), &authority);
    let answer = client.send("GET", "/a/../b?c=d", &[("x-own", "1"), ("cookie", "a=1"), ("cookie", "b=2")], b"");
    assert_eq!((answer.status, answer.header("x-method")), (200, Some("GET")));
    assert!(answer.header("date").is_some() && answer.header("connection").is_none());
    let seen = up.only();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/b?c=d"));
    for (name, value) in [
        ("host", NAME),
        ("x-own", "1"),
        ("cookie", "a=1; b=2"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "https"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    assert_eq!(seen.header("transfer-encoding"), None, "a GET has no body");
    eventually("the request is in the log", || {
        fs::read_to_string(gateway.folder().join("access.log")).is_ok_and(|log| log.contains("HTTP/3"))
    });
}

#[test]
fn bodies_of_every_kind_arrive_whole() {
    let up = Upstream::start(echo);
    let (gateway, authority) = start(&up, "true", ROUTE);
    let client = Http3::connect(gateway.address(), &authority);
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    for length in [0, 1, 1000, 100_000, large.len()] {
        let body = &large[..length];
        let answer = client.send("POST", "/", &[], body);
        assert!(answer.body == body, "{length} bytes without a length");
        let answer = client.send("PUT", "/", &[("content-length", &length.to_string())], body);
        assert!(answer.body == body, "{length} bytes");
        assert_eq!(answer.header("content-length"), Some(&*length.to_string()));
    }
    let answer = client.send("HEAD", "/", &[], b"");
    assert_eq!((answer.status, answer.body.len(), answer.header("x-method")), (200, 0, Some("HEAD")));
}

#[test]
fn refusals_are_problem_documents_and_counted() {
    let up = Upstream::named("up");
    let rest = "consumers: { ann: { api_keys: [\"0123456789abcdef\"] } }\nroutes:\n  - { name: open, match: { path: /open, methods: [GET] }, upstream: up }\n  - name: closed\n    match: { path: /closed }\n    policies: [{ api_key: { header: x-api-key } }, { rate_limit: { key: consumer, limits: [1/h] } }]\n    upstream: up\n";
    let (gateway, authority) = start(&up, "true", rest);
    let client = Http3::connect(gateway.address(), &authority);
    let key = [("x-api-key", "0123456789abcdef")];
    for (method, path, headers, status, code) in [
        ("GET", "/nowhere", &[][..], 404, "route_not_found"),
        ("PUT", "/open", &[], 405, "method_not_allowed"),
        ("GET", "/closed", &[], 401, "unauthenticated"),
        ("GET", "/closed", &key, 200, ""),
        ("GET", "/closed", &key, 429, "rate_limited"),
        ("GET", "/a%2fb", &[], 400, "bad_path"),
        ("HEAD", "/nowhere", &[], 404, ""),
    ] {
        let answer = client.send(method, path, headers, b"");
        assert_eq!(answer.status, status, "{method} {path}");
        if !code.is_empty() {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            assert!(answer.text().contains(code), "{}", answer.text());
        }
    }
    gateway.wait_for_metric("torana_rejects_total{reject=\"route_not_found\",route=\"\"}", 2.0);
    assert_eq!(client.get("/open").text(), "up", "the connection is as good as before");
}

#[test]
fn many_requests_share_a_connection_and_wait_for_none() {
    let up = Upstream::start(|request| {
        let slow = request.target.starts_with("/slow");
        Reply::ok(request.target.clone()).after(Duration::from_millis(if slow { 1000 } else { 0 }))
    });
    let (gateway, authority) = start(&up, "{ max_concurrent_streams: 40 }", ROUTE);
    let client = Http3::connect(gateway.address(), &authority);
    let answers = client.quic.run(async {
        let ask = |n: usize| {
            let path = format!("{}{n}", if n == 0 { "/slow" } else { "/" });
            tokio::spawn(exchange(client.requests(), request("GET", &path, &[]), Vec::new()))
        };
        let mut asked: Vec<_> = (0..200).map(ask).collect();
        let slow = asked.remove(0);
        let mut answers = Vec::new();
        for one in asked {
            answers.push(one.await.unwrap().unwrap());
        }
        assert!(!slow.is_finished(), "the slow one holds up nobody");
        answers.push(slow.await.unwrap().unwrap());
        answers
    });
    assert_eq!(answers.len(), 200);
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(answers[41].text(), "/42");
    gateway.wait_for_metric("torana_connections", 1.0);
}

#[test]
fn tcp_tells_of_http3_and_http3_does_not() {
    let up = Upstream::start(|_| Reply::ok("up").header("alt-svc", "h2=\":1\""));
    for (http3, age) in
        [("true", Some(86_400)), ("{ alt_svc_max_age: 60s }", Some(60)), ("{ alt_svc_max_age: 0s }", None)]
    {
        let (gateway, authority) = start(&up, http3, ROUTE);
        let told = |path: &str| {
            let answer = crate::support::http3::over_tls(gateway.address(), &authority, path);
            answer.header("alt-svc").map(str::to_owned)
        };
        let wanted = age.map(|age| format!("h3=\":{}\"; ma={age}", gateway.address().port()));
        assert_eq!(told("/"), wanted.clone().or_else(|| Some("h2=\":1\"".into())));
        assert_eq!(told("/%2f"), wanted, "a refusal tells it as well");
        let client = Http3::connect(gateway.address(), &authority);
        assert_eq!(client.get("/%2f").header("alt-svc"), None);
    }
}

#[test]
fn a_reload_changes_certificates_and_breaks_no_connection() {
    let up = Upstream::named("up");
    let (gateway, authority) = start(&up, "true", ROUTE);
    let client = Http3::connect(gateway.address(), &authority);
    assert_eq!(client.get("/").text(), "up");
    let other = Authority::new("other");
    write_certificate(gateway.folder(), &other);
    gateway.reload(&config(&up, "true", ROUTE));
    assert_eq!(client.get("/").text(), "up", "the connection goes on");
    assert!(crate::support::http3::Quic::try_connect(gateway.address(), &authority).is_err());
    assert_eq!(Http3::connect(gateway.address(), &other).get("/").text(), "up");
}
