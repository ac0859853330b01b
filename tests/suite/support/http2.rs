//! A client of HTTP/2 without TLS.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Version;
use pingora::{
    connectors::http::Connector, http::RequestHeader, protocols::http::client::HttpSession, upstreams::peer::HttpPeer,
};

use super::{Gateway, Response};

/// Sends a request with a body in these pieces.
async fn exchange(gateway: &Gateway, request: RequestHeader, body: Vec<Bytes>) -> pingora::Result<Response> {
    let mut peer = HttpPeer::new(gateway.address(), false, String::new());
    peer.options.set_http_version(2, 2);
    let connector = Connector::new(None);
    let (mut session, _) = Box::pin(connector.get_http_session(&peer)).await?;
    assert!(matches!(session, HttpSession::H2(_)));
    session.write_request_header(Box::new(request)).await?;
    for piece in body {
        if session.write_request_body(piece, false).await.is_err() {
            break;
        }
    }
    // Whoever is refused early need not send the rest.
    drop(session.finish_request_body().await);
    session.read_response_header().await?;
    let head = session.response_header().unwrap();
    assert_eq!(head.version, Version::HTTP_2);
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    let mut answer = Response { status: head.status.as_u16(), headers: headers.collect(), body: Vec::new() };
    while let Some(piece) = session.read_response_body().await? {
        answer.body.extend_from_slice(&piece);
    }
    Ok(answer)
}

/// A request with a body in pieces of these sizes; for the host `test` if none is given.
pub fn send(gateway: &Gateway, method: &str, target: &str, headers: &[(&str, &str)], body: &[usize]) -> Response {
    send_pieces(gateway, method, target, headers, body.iter().map(|size| vec![b'x'; *size].into()).collect())
}

/// The same with a body of these pieces.
pub fn send_pieces(
    gateway: &Gateway,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: Vec<Bytes>,
) -> Response {
    let (hosts, headers): (Vec<_>, Vec<_>) =
        headers.iter().copied().partition(|(name, _)| name.eq_ignore_ascii_case("host"));
    let target = format!("http://{}{target}", hosts.first().map_or("test", |(_, host)| host));
    let mut request = RequestHeader::build(method, b"/", None).unwrap();
    request.set_uri(target.parse().unwrap());
    request.set_version(Version::HTTP_2);
    for (name, value) in headers {
        request.append_header(name.to_owned(), value).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(exchange(gateway, request, body)).unwrap()
}

/// A server without TLS that answers everything with `answer` and `grpc-status: 0` as a trailer, until the test ends.
pub fn with_trailers() -> SocketAddr {
    serve(200, true)
}

/// A server without TLS that answers everything with this status and `answer`, whether or not it may have a body.
pub fn with_body(status: u16) -> SocketAddr {
    serve(status, false)
}

fn serve(status: u16, has_trailers: bool) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, status, has_trailers));
            }
        });
    });
    address
}

async fn answer(stream: tokio::net::TcpStream, status: u16, has_trailers: bool) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(asked) = connection.accept().await {
        let (_, mut respond) = asked?;
        let head = http::Response::builder().status(status).body(()).unwrap();
        let mut body = respond.send_response(head, false)?;
        body.send_data(Bytes::from_static(b"answer"), !has_trailers)?;
        if has_trailers {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            body.send_trailers(trailers)?;
        }
    }
    Ok(())
}
