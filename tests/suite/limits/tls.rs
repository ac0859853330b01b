//! The same behind TLS.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::support::{Authority, Gateway, Reply, Upstream, eventually, request};

type Client = StreamOwned<ClientConnection, TcpStream>;

struct Secure {
    gateway: Gateway,
    client: Arc<ClientConfig>,
}

impl Secure {
    fn start(listener: &str, up: &Upstream) -> Self {
        let authority = Authority::new("servers");
        let yaml = format!(
            "listeners: [{{ address: \"127.0.0.1:0\", tls: {{ certificates: [{{ cert: a.crt, key: a.key }}] }}, {listener} }}]
upstreams: {{ up: {{ endpoints: [\"{}\"], retries: {{ attempts: 0 }} }} }}
routes: [{{ name: all, upstream: up }}]
",
            up.address()
        );
        let gateway = Gateway::start_with(&yaml, |at, _| {
            let (certificate, key) = authority.pair("a.test");
            fs::write(at.join("a.crt"), certificate).unwrap();
            fs::write(at.join("a.key"), key).unwrap();
        });
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { gateway, client: Arc::new(client) }
    }

    fn connect(&self) -> Client {
        let socket = TcpStream::connect(self.gateway.address()).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        StreamOwned::new(ClientConnection::new(Arc::clone(&self.client), "a.test".try_into().unwrap()).unwrap(), socket)
    }
}

/// The header of an answer, and as much as it says of its body.
fn answer(client: &mut Client) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    client.read_exact(&mut body).unwrap();
    (head, body)
}

/// Sends a byte in each record, one every 50 ms, until there is an answer; returns that.
fn trickle(client: &mut Client, begin: &str) -> String {
    client.write_all(begin.as_bytes()).unwrap();
    for _ in 0..200 {
        std::thread::sleep(Duration::from_millis(50));
        client.sock.set_nonblocking(true).unwrap();
        let mut byte = [0];
        // What comes before the answer are tickets, a few hundred bytes at once.
        let is_answered = client.sock.peek(&mut byte).is_ok() && {
            let _ = client.conn.read_tls(&mut client.sock);
            client.conn.process_new_packets().unwrap().plaintext_bytes_to_read() > 0
        };
        client.sock.set_nonblocking(false).unwrap();
        if is_answered || client.write_all(b"a").is_err() {
            break;
        }
    }
    answer(client).0
}

#[test]
fn slow_headers_and_slow_bodies_are_too_slow_behind_tls_too() {
    let up = Upstream::named("up");
    let secure = Secure::start("header_timeout: 1s, body_timeout: 1s, min_body_rate: 10KiB/s", &up);
    for begin in
        ["GET / HTTP/1.1\r\nHost: a.test\r\nx-a: ".to_owned(), request("POST", "/", &[("Content-Length", "1000")])]
    {
        let head = trickle(&mut secure.connect(), &begin);
        assert!(head.starts_with("http/1.1 408 "), "{head}");
    }
    let mut silent = secure.connect();
    silent.conn.complete_io(&mut silent.sock).unwrap();
    let began = Instant::now();
    while silent.sock.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(up.seen().is_empty());
}

#[test]
fn slow_readers_are_given_up_behind_tls_too() {
    let up = Upstream::start(|_| Reply::ok(vec![b'x'; 32 << 20]));
    let secure = Secure::start("body_timeout: 1s, min_body_rate: 10KiB/s", &up);
    let mut client = secure.connect();
    client.conn.complete_io(&mut client.sock).unwrap();
    client.write_all(request("GET", "/", &[]).as_bytes()).unwrap();
    eventually("it is gone", || secure.gateway.metric("torana_connections") == 0.0);
    secure.gateway.wait_for_metric("torana_rejects_total{reject=\"client_timeout\",route=\"all\"}", 1.0);
}

#[test]
fn what_is_sent_in_records_of_any_size_arrives_as_it_was() {
    let up = Upstream::start(|seen| Reply::ok(seen.body.clone()));
    let secure = Secure::start("", &up);
    let mut client = secure.connect();
    // Together they go over every boundary between records, reads and buffers.
    for size in [1, 100, 4095, 4096, 4097, 16_383, 16_384, 16_385, 100_000, 3 << 20] {
        let body: Vec<u8> = (0..size).map(|i: u32| u8::try_from(i % 251).unwrap()).collect();
        client.write_all(request("POST", "/", &[("Content-Length", &size.to_string())]).as_bytes()).unwrap();
        for piece in body.chunks(7001) {
            client.write_all(piece).unwrap();
        }
        let (head, echoed) = answer(&mut client);
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert!(echoed == body, "{size} bytes");
    }
}

#[test]
fn five_hundred_idle_connections_take_little_memory_behind_tls_too() {
    const CONNECTIONS: usize = 500;
    let up = Upstream::named("up");
    let secure = Secure::start("idle_timeout: 1h", &up);
    let ask = |_| {
        let mut client = secure.connect();
        client.write_all(request("GET", "/", &[]).as_bytes()).unwrap();
        assert!(answer(&mut client).0.starts_with("http/1.1 200 "));
        client
    };
    // What the first requests need for good.
    let warm: Vec<_> = (0..64).map(ask).collect();
    let before = secure.gateway.memory();
    let clients: Vec<_> = (0..CONNECTIONS).map(ask).collect();
    let each = secure.gateway.memory().saturating_sub(before) / CONNECTIONS;
    assert!(each < 48 << 10, "{each} bytes for each");
    drop((warm, clients));
}
