//! Connections that begin with the PROXY protocol.

use std::time::{Duration, Instant};

use super::{V4, begin, binary, config, get, line, start};
use crate::support::{Client, Gateway, Upstream, eventually, request};

const TRUSTED: &str = "proxy_protocol: { trusted: [127.0.0.1] }";

fn refused(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metric(&format!("torana_proxy_protocol_refused_total{{reason=\"{reason}\"}}"))
}

#[test]
fn a_trusted_proxy_says_who_the_client_is_in_both_versions() {
    let (gateway, up) = start(TRUSTED, "telemetry: { access_log: {} }");
    let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 15], &[1], &[0, 1, 0, 2]].concat();
    let tlvs = [&V4[..], &[0xea, 0, 3, 1, 2, 3], &[4, 0, 0]].concat();
    for (introduction, client) in [
        (line("192.0.2.7"), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:192.0.2.8 ::ffff:10.0.0.1 1 2\r\n".to_vec(), "192.0.2.8"),
        (binary(0x21, 0x11, &V4), "192.0.2.7"),
        (binary(0x21, 0x11, &tlvs), "192.0.2.7"),
        (binary(0x21, 0x21, &v6), "2001:db8::7"),
        // Who is not known, or the proxy itself, has the address of the proxy.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (binary(0x20, 0, &[]), "127.0.0.1"),
        (binary(0x21, 0, &[]), "127.0.0.1"),
        (binary(0x21, 0x31, &[b'/'; 216]), "127.0.0.1"),
    ] {
        let answer = get(&gateway, &introduction, &[("X-Forwarded-For", "203.0.113.1")]);
        assert_eq!((answer.status, answer.text().as_str()), (200, "up"), "{introduction:?}");
        assert_eq!(up.last().header("x-forwarded-for"), Some(client), "{introduction:?}");
    }
    let is_said = || {
        gateway.log().contains("\"peer_ip\":\"127.0.0.1\",") && gateway.log().contains("\"client_ip\":\"2001:db8::7\"")
    };
    eventually("client and proxy are in the log", is_said);
    let about_itself = |line: &str| line.contains("\"client_ip\":\"127.0.0.1\"") && line.contains("peer_ip");
    assert!(!gateway.log().lines().any(about_itself));
}

#[test]
fn a_header_that_comes_byte_by_byte_is_read_and_a_connection_is_kept() {
    let (gateway, up) = start(TRUSTED, "");
    for introduction in [line("192.0.2.7"), binary(0x21, 0x11, &V4)] {
        let mut client = gateway.client();
        for byte in introduction {
            client.write(&[byte]);
            std::thread::sleep(Duration::from_millis(1));
        }
        for _ in 0..3 {
            assert_eq!(client.get("/").status, 200);
            assert_eq!(up.last().header("x-forwarded-for"), Some("192.0.2.7"));
        }
    }
}

#[test]
fn policies_see_the_client_and_not_the_proxy() {
    let policies =
        "policies: [{ ip_restriction: { deny: [192.0.2.9] } }, { rate_limit: { key: client_ip, limits: [1/h] } }]";
    let (gateway, _up) = start(TRUSTED, policies);
    let status = |ip: &str| get(&gateway, &line(ip), &[]).status;
    assert_eq!(["192.0.2.9", "192.0.2.7", "192.0.2.7", "192.0.2.8"].map(status), [403, 200, 429, 200]);
}

#[test]
fn h2c_is_spoken_behind_a_header() {
    let (gateway, up) = start(&format!("h2c: true, {TRUSTED}"), "");
    let mut client = begin(&gateway, &binary(0x21, 0x11, &V4));
    // Preface, SETTINGS, and GET / with `:authority: test` in HPACK without Huffman coding.
    let block = b"\x82\x86\x84\x41\x04test";
    let headers = [&[0, 0, u8::try_from(block.len()).unwrap(), 1, 5, 0, 0, 0, 1][..], block].concat();
    client.write(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], &headers].concat());
    eventually("the request arrives", || up.seen().len() == 1);
    assert_eq!(up.only().header("x-forwarded-for"), Some("192.0.2.7"));
}

#[test]
fn a_header_may_be_missing_if_the_listener_says_so() {
    let (gateway, up) = start("h2c: true, proxy_protocol: { trusted: [127.0.0.1], required: false }", "");
    for (introduction, client) in [
        (line("192.0.2.7"), "192.0.2.7"),
        (binary(0x21, 0x11, &V4), "192.0.2.7"),
        (Vec::new(), "127.0.0.1"),
        (b"\r\n".to_vec(), "127.0.0.1"),
    ] {
        assert_eq!(get(&gateway, &introduction, &[]).status, 200, "{introduction:?}");
        assert_eq!(up.last().header("x-forwarded-for"), Some(client), "{introduction:?}");
    }
    // Methods that begin like a header.
    for method in ["P", "PUT", "PROPFIND"] {
        let mut client = begin(&gateway, request(method, "/", &[("Content-Length", "0")]).as_bytes());
        assert!([200, 405].contains(&client.read().status), "{method}");
    }
    assert_eq!(crate::support::http2::send(&gateway, "GET", "/", &[], &[]).status, 200);
    // What begins like a header and is none.
    assert!(begin(&gateway, b"PROXY / HTTP/1.1\r\nHost: test\r\n\r\n").is_closed());
    gateway.wait_for_metric("torana_proxy_protocol_refused_total{reason=\"malformed\"}", 1.0);
}

#[test]
fn others_can_be_let_in_as_clients_and_cannot_say_who_they_are() {
    let (gateway, up) = start("proxy_protocol: { trusted: [127.0.0.1], others: direct }", "");
    let from = |ip: &str, bytes: &[u8]| {
        let mut client = Client::connect_from(ip.parse().unwrap(), gateway.address());
        client.write(&[bytes, request("GET", "/", &[]).as_bytes()].concat());
        client.read().status
    };
    assert_eq!(from("127.0.0.2", b""), 200);
    assert_eq!(up.last().header("x-forwarded-for"), Some("127.0.0.2"));
    assert_eq!(from("127.0.0.2", &line("192.0.2.7")), 400);
    assert_eq!(from("127.0.0.2", &binary(0x21, 0x11, &V4)), 400);
    assert_eq!(from("127.0.0.1", &line("192.0.2.7")), 200);
    assert_eq!(up.seen().len(), 2);
}

#[test]
fn a_header_has_its_time_and_no_more() {
    let (gateway, _up) = start(&format!("header_timeout: 300ms, {TRUSTED}"), "");
    for part in [&b""[..], b"PROXY TCP4 192.0", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02"] {
        let began = Instant::now();
        assert!(begin(&gateway, part).is_closed(), "{part:?}");
        assert!(began.elapsed() >= Duration::from_millis(250), "{part:?}: {:?}", began.elapsed());
    }
    gateway.wait_for_metric("torana_proxy_protocol_refused_total{reason=\"timed_out\"}", 3.0);
}

#[test]
fn one_client_cannot_take_the_room_of_the_others_behind_a_proxy_and_the_proxy_not_all_there_is() {
    let up = Upstream::named("up");
    let limits = "limits: { connections: 12, connections_per_address: 2 }";
    let gateway = Gateway::start(&config(up.address(), TRUSTED, limits));
    let keep = |ip: &str| {
        let mut client = begin(&gateway, &line(ip));
        (client.get("/").status, client)
    };
    let first: Vec<_> = (0..2).map(|_| keep("192.0.2.7")).collect();
    assert!(first.iter().all(|(status, _)| *status == 200));
    assert_eq!(keep("192.0.2.7").0, 503);
    let others: Vec<_> = (1..=4).map(|i| keep(&format!("192.0.2.{}", 10 + i))).collect();
    assert!(others.iter().all(|(status, _)| *status == 200), "the proxy's own address is not counted");
    // Connections that say nothing count too.
    let silent: Vec<_> = (0..6).map(|_| gateway.client()).collect();
    gateway.wait_for_metric("torana_connections", 12.0);
    assert_eq!(keep("192.0.2.20").0, 503);
    drop(silent);
    eventually("there is room again", || keep("192.0.2.20").0 == 200);
    drop(first);
    eventually("the client has room again", || keep("192.0.2.7").0 == 200);
}

#[test]
fn whom_to_believe_is_changed_by_a_reload_without_another_process() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&config(up.address(), TRUSTED, ""));
    let pid = gateway.status()["pid"].clone();
    let address = gateway.address();
    gateway.reload(&config(up.address(), "proxy_protocol: { trusted: [127.0.0.2] }", ""));
    assert!(begin(&gateway, &line("192.0.2.7")).is_closed());
    assert_eq!(refused(&gateway, "untrusted"), 1.0);
    eventually("it is in the log", || gateway.log().contains("it is not one of `trusted`"));
    let mut trusted = Client::connect_from("127.0.0.2".parse().unwrap(), address);
    trusted.write(&line("192.0.2.7"));
    assert_eq!(trusted.get("/").status, 200);
    gateway.reload(&config(up.address(), "", ""));
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(gateway.status()["pid"], pid);
}

#[test]
fn the_header_comes_before_tls() {
    use std::io::{Read as _, Write as _};
    let (up, folder) = (Upstream::named("up"), tempfile::tempdir().unwrap());
    let authority = crate::support::Authority::new("authority");
    let (certificate, key) = authority.pair("a.example");
    for (name, text) in [("a.crt", &certificate), ("a.key", &key)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let at = |name: &str| folder.path().join(name).display().to_string();
    let tls = format!("tls: {{ certificates: [{{ cert: \"{}\", key: \"{}\" }}] }}", at("a.crt"), at("a.key"));
    let gateway = Gateway::start(&config(up.address(), &format!("{TRUSTED}, {tls}"), ""));
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(
        rustls::pki_types::pem::PemObject::pem_slice_iter(authority.pem().as_bytes()).map(Result::unwrap),
    );
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = std::sync::Arc::new(client.with_root_certificates(roots).with_no_client_auth());
    for introduction in [line("192.0.2.7"), binary(0x21, 0x11, &V4)] {
        let connection = rustls::ClientConnection::new(std::sync::Arc::clone(&client), "a.example".try_into().unwrap());
        let mut tcp = begin(&gateway, &introduction).stream().try_clone().unwrap();
        let mut tls = rustls::Stream { conn: &mut connection.unwrap(), sock: &mut tcp };
        tls.write_all(request("GET", "/", &[("Connection", "close")]).as_bytes()).unwrap();
        let mut answer = String::new();
        // The end of the connection may come without a goodbye.
        let _ = tls.read_to_string(&mut answer);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("up"), "{answer}");
        assert_eq!(up.last().header("x-forwarded-for"), Some("192.0.2.7"));
        assert_eq!(up.last().header("x-forwarded-proto"), Some("https"));
    }
}
