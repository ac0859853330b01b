//! Whoever is woken at night finds the reason in the log.

use std::{fs, net::TcpStream};

use crate::support::{Authority, Bare, Gateway, Reply, Upstream, eventually};

const LOG: &str = "telemetry: { access_log: { file: access.log } }\n";

/// The last line of the access log, once there are as many.
#[track_caller]
fn line(gateway: &Gateway, count: usize) -> serde_json::Value {
    let mut text = String::new();
    eventually("the line is written", || {
        text = fs::read_to_string(gateway.folder().join("access.log")).unwrap_or_default();
        text.lines().count() >= count && text.ends_with('\n')
    });
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn each_way_in_which_tls_to_an_upstream_fails_is_told_apart() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let plain = Upstream::named("plain");
    let cases = [
        (Upstream::tls(ours.server("b.test"), |_| Reply::ok("")), "certificate not valid for name"),
        (Upstream::tls(theirs.server("a.test"), |_| Reply::ok("")), "UnknownIssuer"),
        (Upstream::tls(ours.expired_server("a.test"), |_| Reply::ok("")), "certificate expired"),
        (plain, "handshake eof"),
    ];
    for (up, why) in cases {
        let yaml = format!(
            "{LOG}upstreams: {{ up: {{ endpoints: [\"{}\"], tls: {{ server_name: a.test, ca: ca.pem }} }} }}\nroutes: [{{ name: a, upstream: up }}]\n",
            up.address()
        );
        let gateway = Gateway::start_with(&yaml, |folder, _| fs::write(folder.join("ca.pem"), ours.pem()).unwrap());
        assert_eq!(gateway.get("/").problem(), "upstream_unreachable");
        let error = line(&gateway, 1)["error"].as_str().unwrap().to_owned();
        assert!(error.contains(why), "{why} in {error}");
    }
}

#[test]
fn a_request_without_an_endpoint_names_the_upstream() {
    let gateway = Gateway::start(&format!(
        "{LOG}upstreams: {{ up: {{ endpoints: [\"nowhere.invalid:80\"] }} }}\nroutes: [{{ name: a, upstream: up }}]\n"
    ));
    assert_eq!(gateway.get("/").problem(), "no_healthy_endpoint");
    let line = line(&gateway, 1);
    assert_eq!((line["upstream"].as_str(), line.get("error")), (Some("up"), None), "{line}");
}

#[test]
fn what_was_wrong_with_a_request_or_a_key_is_in_the_log() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "{LOG}upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nconsumers: {{ app: {{ api_keys: [a-long-key] }} }}\nroutes: [{{ name: a, policies: [{{ api_key: {{}} }}], upstream: up }}]\n",
        up.address()
    ));
    gateway.send("GET", "/", &[("X-Api-Key", "another-key")]);
    assert_eq!(line(&gateway, 1)["reason"], "the API key is not valid");
    gateway.get("/");
    assert_eq!(line(&gateway, 2)["reason"], "the request has no API key");
    let mut client = gateway.client();
    client.write(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert_eq!(client.read().status, 400);
    assert!(line(&gateway, 3)["reason"].as_str().unwrap().contains("Host"));
}

#[test]
fn an_upstream_of_http_1_0_makes_no_client_close_its_connection() {
    let up = Bare::start(|stream, _| {
        use std::io::Write as _;
        crate::support::read_head(stream).unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
    });
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes: [{{ name: a, upstream: up }}]\n",
        up.address()
    ));
    let mut client = gateway.client();
    client.write(crate::support::request("GET", "/", &[]).as_bytes());
    while client.more().is_some_and(|_| !client.peeked().ends_with(b"ok")) {}
    assert!(client.peeked().starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(client.peeked()));
    assert_eq!(client.read().header("connection"), Some("keep-alive"));
    assert_eq!(client.get("/").text(), "ok");
}

#[test]
fn connections_without_a_handshake_are_no_errors() {
    let up = Upstream::named("up");
    let gateway = Gateway::start_with(
        &format!(
            "listeners: [{{ address: \"127.0.0.1:0\", tls: {{ certificates: [{{ cert: a.crt, key: a.key }}] }} }}]\nupstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes: [{{ name: a, upstream: up }}]\n",
            up.address()
        ),
        |folder, _| {
            let (cert, key) = Authority::new("tests").pair("a.test");
            fs::write(folder.join("a.crt"), cert).unwrap();
            fs::write(folder.join("a.key"), key).unwrap();
        },
    );
    for _ in 0..3 {
        drop(TcpStream::connect(gateway.address()).unwrap());
        let mut client = gateway.client();
        client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        while client.more().is_some() {}
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(!gateway.log().contains("ERROR"), "{}", gateway.log());
}
