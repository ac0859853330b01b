//! Endpoints that are told who the client is, by the PROXY protocol.

use std::{
    io::{Read, Write},
    sync::{Arc, Mutex},
};

use super::line;
use crate::support::{Authority, Bare, Client, Gateway, eventually, request};

/// What came before the first request of each connection, and how many requests followed.
type Seen = Arc<Mutex<Vec<(Vec<u8>, usize)>>>;

/// Answers requests, and notes what came before them.
fn recorder() -> (Bare, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let bare = Bare::start(move |stream, _| {
        let at = {
            let mut all = noted.lock().unwrap();
            all.push((Vec::new(), 0));
            all.len() - 1
        };
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = stream.read(&mut piece) {
            bytes.extend_from_slice(&piece[..read]);
            let start = bytes.windows(4).position(|four| four == b"GET ");
            let Some(start) = start else {
                noted.lock().unwrap()[at].0.clone_from(&bytes);
                continue;
            };
            if !bytes[start..].ends_with(b"\r\n\r\n") {
                continue;
            }
            {
                let mut all = noted.lock().unwrap();
                if all[at].1 == 0 {
                    all[at].0 = bytes[..start].to_vec();
                }
                all[at].1 += 1;
            }
            bytes.clear();
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup").is_err() {
                return;
            }
        }
    });
    (bare, seen)
}

fn gateway(up: &Bare, settings: &str, rest: &str) -> Gateway {
    Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"], {settings} }} }}\nroutes: [{{ name: r, upstream: up }}]\n{rest}",
        up.address()
    ))
}

#[test]
fn an_endpoint_is_told_the_address_of_the_client_and_where_it_connected_to() {
    let (up, seen) = recorder();
    let gateway = gateway(&up, "proxy_protocol: v1", "");
    let mut client = Client::connect_from("127.0.0.7".parse().unwrap(), gateway.address());
    let (from, to) = (client.stream().local_addr().unwrap(), gateway.address());
    assert_eq!(client.get("/").text(), "up");
    let wanted = format!("PROXY TCP4 127.0.0.7 127.0.0.1 {} {}\r\n", from.port(), to.port());
    assert_eq!(String::from_utf8(seen.lock().unwrap()[0].0.clone()).unwrap(), wanted);
}

#[test]
fn in_version_2_too() {
    let (up, seen) = recorder();
    let gateway = gateway(&up, "proxy_protocol: v2", "");
    let mut client = Client::connect_from("127.0.0.7".parse().unwrap(), gateway.address());
    let (from, to) = (client.stream().local_addr().unwrap(), gateway.address());
    assert_eq!(client.get("/").text(), "up");
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let wanted = super::binary(0x21, 0x11, &[&[127, 0, 0, 7, 127, 0, 0, 1][..], &ports].concat());
    assert_eq!(seen.lock().unwrap()[0].0, wanted);
}

#[test]
fn connections_are_used_again_by_the_same_client_and_by_nobody_else() {
    let (up, seen) = recorder();
    let gateway = gateway(&up, "proxy_protocol: v1", "");
    let mut clients: Vec<_> = (0..3).map(|_| gateway.client()).collect();
    for _ in 0..4 {
        for client in &mut clients {
            assert_eq!(client.get("/").text(), "up");
        }
    }
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.iter().map(|(_, requests)| requests).sum::<usize>(), 12);
    assert!(seen.iter().all(|(_, requests)| *requests <= 4), "{seen:?}");
    let lines: std::collections::BTreeSet<_> = seen.iter().map(|(line, _)| line.clone()).collect();
    assert_eq!(lines.len(), 3, "each client has its own: {seen:?}");
}

#[test]
fn with_no_keepalive_no_connection_is_used_again() {
    let (up, seen) = recorder();
    let gateway = gateway(&up, "proxy_protocol: v1, keepalive: 0s", "");
    let mut client = gateway.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "up");
    }
    assert_eq!(seen.lock().unwrap().len(), 3);
}

#[test]
fn the_client_is_the_one_that_proxies_in_front_name() {
    let (up, seen) = recorder();
    let listener = "listeners: [{ address: \"127.0.0.1:0\", proxy_protocol: { trusted: [127.0.0.1] }, \
                    trusted_proxies: { addresses: [192.0.2.7] } }]";
    let gateway = gateway(&up, "proxy_protocol: v1", listener);
    let said = |introduction: &[u8], headers: &[(&str, &str)]| {
        assert_eq!(super::get(&gateway, introduction, headers).status, 200);
        String::from_utf8(seen.lock().unwrap().last().unwrap().0.clone()).unwrap()
    };
    assert_eq!(said(&line("192.0.2.8"), &[]), "PROXY TCP4 192.0.2.8 10.0.0.1 4711 443\r\n");
    let claim = [("X-Forwarded-For", "198.51.100.1")];
    assert_eq!(said(&line("192.0.2.8"), &claim), "PROXY TCP4 192.0.2.8 10.0.0.1 4711 443\r\n");
    // A header says no port.
    assert_eq!(said(&line("192.0.2.7"), &claim), "PROXY TCP4 198.51.100.1 10.0.0.1 0 443\r\n");
    let v6 = [("X-Forwarded-For", "2001:db8::7")];
    assert_eq!(said(&line("192.0.2.7"), &v6), "PROXY TCP6 2001:db8::7 ::ffff:10.0.0.1 0 443\r\n");
}

#[test]
fn health_checks_speak_for_the_gateway_itself() {
    for (version, local) in [("v1", b"PROXY UNKNOWN\r\n".to_vec()), ("v2", super::binary(0x20, 0, &[]))] {
        for check in ["http: {}, ", ""] {
            let (up, seen) = recorder();
            let settings = format!("proxy_protocol: {version}, health: {{ {check}interval: 100ms }}");
            let gateway = gateway(&up, &settings, "");
            eventually("a check says so", || seen.lock().unwrap().iter().any(|(line, _)| *line == local));
            assert_eq!(gateway.get("/").status, 200);
            assert!(seen.lock().unwrap().iter().any(|(line, requests)| *line != local && *requests == 1));
        }
    }
}

#[test]
fn a_websocket_is_introduced_too() {
    let introduced = Arc::new(Mutex::new(String::new()));
    let noted = Arc::clone(&introduced);
    let up = Bare::start(move |stream, _| {
        let head = crate::support::read_head(stream).unwrap();
        *noted.lock().unwrap() = head.split("\r\n").next().unwrap().to_owned();
        let _ = stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nhi");
        let _ = stream.read(&mut [0; 64]);
    });
    let gateway = gateway(&up, "proxy_protocol: v1", "");
    let mut client = Client::connect_from("127.0.0.7".parse().unwrap(), gateway.address());
    let handshake = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    client.write(request("GET", "/", &handshake).as_bytes());
    assert_eq!(client.read().status, 101);
    let line = introduced.lock().unwrap().clone();
    assert!(line.starts_with("PROXY TCP4 127.0.0.7 127.0.0.1 "), "{line}");
}

#[test]
fn the_header_comes_before_tls() {
    let authority = Authority::new("authority");
    let (server, introduced) = (authority.server("up.example"), Arc::new(Mutex::new(Vec::new())));
    let noted = Arc::clone(&introduced);
    let up = Bare::start(move |stream, _| {
        let mut line = vec![0; 28];
        stream.read_exact(&mut line).unwrap();
        *noted.lock().unwrap() = line;
        let mut tls = rustls::StreamOwned::new(rustls::ServerConnection::new(Arc::clone(&server)).unwrap(), stream);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            tls.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup");
        let _ = tls.flush();
    });
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), authority.pem()).unwrap();
    let tls = format!("proxy_protocol: v2, tls: {{ server_name: up.example, ca: \"{}\" }}", ca.path().display());
    let gateway = gateway(&up, &tls, "");
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.text().as_str()), (200, "up"));
    assert_eq!(&introduced.lock().unwrap()[..16], &super::binary(0x21, 0x11, &[0; 12])[..16]);
}
