//! Clients of HTTP/3: one that asks as it should, and one that writes what it likes.

use std::{future::poll_fn, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes};
use h3::client::SendRequest;
use h3_quinn::OpenStreams;
use quinn::{ClientConfig, Connection, Endpoint, VarInt, crypto::rustls::QuicClientConfig};
use rustls::{RootCertStore, crypto::ring, pki_types::CertificateDer};
use tokio::runtime::Runtime;

use super::{Authority, Response};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The name that clients ask for.
pub const NAME: &str = "test";

/// A connection over QUIC.
pub struct Quic {
    pub runtime: Runtime,
    pub connection: Connection,
    endpoint: Endpoint,
}

fn trust(authority: &Authority) -> ClientConfig {
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls(authority)).unwrap()))
}

fn tls(authority: &Authority) -> rustls::ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.der())).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    tls
}

/// Whether a client that was there before may send data before its handshake is over.
pub fn has_early_data(address: SocketAddr, authority: &Authority) -> bool {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut tls = tls(authority);
        tls.enable_early_data = true;
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(config);
        let first = endpoint.connect(address, NAME).unwrap().await.unwrap();
        let connection = h3_quinn::Connection::new(first);
        let (mut driver, requests) = Box::pin(h3::client::new(connection)).await.unwrap();
        tokio::spawn(async move { poll_fn(|cx| driver.poll_close(cx)).await });
        // By then, tickets are there.
        assert_eq!(exchange(requests, request("GET", "/", &[]), Vec::new()).await.unwrap().status, 200);
        endpoint.connect(address, NAME).unwrap().into_0rtt().is_ok()
    })
}

impl Quic {
    /// A connection to this address, if there is somebody with a certificate of the authority.
    pub fn try_connect(address: SocketAddr, authority: &Authority) -> Result<Self, quinn::ConnectionError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (endpoint, connected) = runtime.block_on(async {
            let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
            endpoint.set_default_client_config(trust(authority));
            let connected = endpoint.connect(address, NAME).unwrap().await;
            (endpoint, connected)
        });
        Ok(Self { runtime, connection: connected?, endpoint })
    }

    pub fn connect(address: SocketAddr, authority: &Authority) -> Self {
        Self::try_connect(address, authority).unwrap()
    }

    /// Whether somebody answers at this address in time.
    pub fn is_there(address: SocketAddr, authority: &Authority, within: Duration) -> bool {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
            let connecting = endpoint.connect_with(trust(authority), address, NAME).unwrap();
            tokio::time::timeout(within, connecting).await.is_ok_and(|connected| connected.is_ok())
        })
    }

    /// Does something within the time that anything may take.
    #[track_caller]
    pub fn run<T>(&self, what: impl Future<Output = T>) -> T {
        let done = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, what).await });
        done.expect("within its time")
    }

    /// Writes these bytes on a new stream of one direction.
    pub fn uni(&self, bytes: &[u8]) -> quinn::SendStream {
        self.run(async {
            let mut stream = self.connection.open_uni().await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stream
        })
    }

    /// Writes these bytes as a request, and reads the answer to its end.
    pub fn raw(&self, bytes: &[u8]) -> Result<Vec<u8>, quinn::ReadToEndError> {
        self.run(async {
            let (mut send, mut recv) = self.connection.open_bi().await.unwrap();
            send.write_all(bytes).await.unwrap();
            send.finish().unwrap();
            recv.read_to_end(1 << 20).await
        })
    }

    /// The code with which the other side closes the connection.
    #[track_caller]
    pub fn closed(&self) -> u64 {
        let why = self.run(self.connection.closed());
        let quinn::ConnectionError::ApplicationClosed(closed) = why else { panic!("{why}") };
        closed.error_code.into_inner()
    }
}

impl Drop for Quic {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0x100), b"");
        let endpoint = self.endpoint.clone();
        let _ =
            self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await });
    }
}

/// A client of HTTP/3.
pub struct Http3 {
    pub quic: Quic,
    requests: SendRequest<OpenStreams, Bytes>,
}

/// Sends a request, and reads its answer.
pub async fn exchange(
    mut requests: SendRequest<OpenStreams, Bytes>,
    request: http::Request<()>,
    body: Vec<u8>,
) -> Result<Response, h3::error::StreamError> {
    let mut stream = requests.send_request(request).await?;
    for piece in body.chunks(50_000) {
        // Whoever is refused early need not send the rest.
        if stream.send_data(Bytes::copy_from_slice(piece)).await.is_err() {
            break;
        }
    }
    let _ = stream.finish().await;
    let head = loop {
        let head = stream.recv_response().await?;
        if !head.status().is_informational() {
            break head;
        }
    };
    let headers = head.headers().iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    let mut answer = Response { status: head.status().as_u16(), headers: headers.collect(), body: Vec::new() };
    while let Some(mut piece) = stream.recv_data().await? {
        answer.body.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
    }
    Ok(answer)
}

/// A request to `https://test`.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> http::Request<()> {
    let mut request = http::Request::builder().method(method).uri(format!("https://{NAME}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

impl Http3 {
    pub fn connect(address: SocketAddr, authority: &Authority) -> Self {
        let quic = Quic::connect(address, authority);
        let connection = h3_quinn::Connection::new(quic.connection.clone());
        let (mut driver, requests) = quic.run(h3::client::new(connection)).unwrap();
        quic.runtime.spawn(async move { poll_fn(|cx| driver.poll_close(cx)).await });
        Self { quic, requests }
    }

    /// A handle for requests side by side.
    pub fn requests(&self) -> SendRequest<OpenStreams, Bytes> {
        self.requests.clone()
    }

    /// Sends a request, and reads its answer.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, h3::error::StreamError> {
        self.quic.run(exchange(self.requests(), request(method, path, headers), body.to_vec()))
    }

    #[track_caller]
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.try_send(method, path, headers, body).unwrap()
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], b"")
    }
}

/// A frame.
pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    [&[kind][..], &(0x4000 | length).to_be_bytes(), payload].concat()
}

/// A frame with these fields, none of which is coded.
pub fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut section = vec![0, 0];
    let number = |out: &mut Vec<u8>, pattern: u8, max: usize, value: usize| {
        if value < max {
            out.push(pattern | u8::try_from(value).unwrap());
            return;
        }
        out.push(pattern | u8::try_from(max).unwrap());
        let mut left = value - max;
        while left >= 128 {
            out.push(0x80 | u8::try_from(left % 128).unwrap());
            left /= 128;
        }
        out.push(u8::try_from(left).unwrap());
    };
    for (name, value) in fields {
        number(&mut section, 0x20, 7, name.len());
        section.extend(name.bytes());
        number(&mut section, 0, 127, value.len());
        section.extend(value.bytes());
    }
    frame(1, &section)
}

/// The fields that every request has.
pub fn get(path: &str) -> Vec<(&str, &str)> {
    vec![(":method", "GET"), (":scheme", "https"), (":authority", NAME), (":path", path)]
}

/// GET over HTTP/1.1 on the TCP port of the same number.
pub fn over_tls(address: SocketAddr, authority: &Authority, path: &str) -> Response {
    use std::io::{Read as _, Write as _};
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.der())).unwrap();
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let session = rustls::ClientConnection::new(Arc::new(tls), NAME.try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(session, std::net::TcpStream::connect(address).unwrap());
    stream.write_all(super::request("GET", path, &[("Connection", "close")]).as_bytes()).unwrap();
    let mut raw = Vec::new();
    // Some servers end without a goodbye of TLS.
    let _ = stream.read_to_end(&mut raw);
    let text = String::from_utf8(raw).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned()));
    Response { status, headers: headers.collect(), body: body.as_bytes().to_vec() }
}

/// The first packet of a client, which nobody has answered.
pub fn first_packet(authority: &Authority) -> Vec<u8> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let (address, config) = (socket.local_addr().unwrap(), trust(authority));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut packet = vec![0; 2048];
    runtime.block_on(async {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connecting = endpoint.connect_with(config, address, NAME).unwrap();
        let received = tokio::task::spawn_blocking(move || {
            let length = socket.recv(&mut packet).unwrap();
            packet.truncate(length);
            packet
        });
        let packet = received.await.unwrap();
        drop(connecting);
        packet
    })
}
