//! WebSockets on a stream ([RFC 8441](https://www.rfc-editor.org/rfc/rfc8441)).
//!
//! `CONNECT` with `:protocol: websocket` becomes a connection of HTTP/1.1 on which a handshake comes: a `GET` that asks for an
//! upgrade. It is served like any other connection ([`http1`](crate::proxy::http1)), so that hygiene, routes, policies and
//! what guards WebSockets are the same, and the upstream sees the same. What is written to it goes through
//! [`Answer`]. Until the upstream has agreed, nothing that the client sends is read.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Buf as _, Bytes, BytesMut};
use h2::{RecvStream, server::SendResponse};
use http::{HeaderName, HeaderValue, Method, Uri, Version, header};
use pingora::{
    http::RequestHeader,
    protocols::{
        Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
        UniqueID, UniqueIDType, raw_connect::ProxyDigest, tls::SslDigest,
    },
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer::Answer;
use crate::reject::Reject;

/// A stream, as a connection of HTTP/1.1.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// What is still to be read of the handshake, and then of a piece that came.
    ahead: Bytes,
    body: RecvStream,
    answer: Answer,
    /// Waits for the upstream to agree.
    reader: Option<Waker>,
    digest: Arc<Digest>,
}

impl Tunnel {
    pub(super) fn new(
        request: &RequestHeader,
        body: RecvStream,
        respond: SendResponse<Bytes>,
        digest: Arc<Digest>,
    ) -> Self {
        Self { ahead: raw(request), body, answer: Answer::new(respond), reader: None, digest }
    }

    /// Until there is an answer, nothing comes but the end.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.answer.is_done() || self.answer.poll_gone(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if me.ahead.is_empty() {
            if !me.answer.is_switched() {
                return me.poll_silence(cx);
            }
            match ready!(me.body.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(piece) => me.ahead = piece.map_err(io::Error::other)?,
            }
            me.body.flow_control().release_capacity(me.ahead.len()).map_err(io::Error::other)?;
        }
        let count = me.ahead.len().min(buf.remaining());
        buf.put_slice(me.ahead.get(..count).unwrap_or_default());
        me.ahead.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.answer.poll_write(cx, buf))?;
        if (self.answer.is_switched() || self.answer.is_done())
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.answer.end();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.answer.end();
    }
}

#[async_trait]
impl Shutdown for Tunnel {
    async fn shutdown(&mut self) {
        self.answer.end();
    }
}

impl UniqueID for Tunnel {
    fn id(&self) -> UniqueIDType {
        // It is in no pool.
        0
    }
}

impl Ssl for Tunnel {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.digest.ssl_digest.clone()
    }
}

impl GetTimingDigest for Tunnel {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.digest.timing_digest.clone()
    }

    fn get_read_pending_time(&self) -> Duration {
        Duration::ZERO
    }

    fn get_write_pending_time(&self) -> Duration {
        Duration::ZERO
    }
}

impl GetProxyDigest for Tunnel {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.digest.proxy_digest.clone()
    }

    fn set_proxy_digest(&mut self, _: ProxyDigest) {}
}

impl GetSocketDigest for Tunnel {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.digest.socket_digest.clone()
    }

    fn set_socket_digest(&mut self, _: SocketDigest) {}
}

impl Peek for Tunnel {}

/// Makes a handshake of HTTP/1.1 of `CONNECT`, if it asks for a WebSocket, and says whether that is so; any other tunnel is
/// refused.
pub(super) fn translate(request: &mut RequestHeader) -> Result<bool, Reject> {
    if request.method != Method::CONNECT {
        return Ok(false);
    }
    let protocol = request.extensions.get::<h2::ext::Protocol>();
    if protocol.is_none_or(|protocol| !protocol.as_str().eq_ignore_ascii_case("websocket")) {
        return Err(Reject::MethodNotSupported);
    }
    let Some(path) = request.uri.path_and_query().cloned() else {
        return Err(Reject::BadRequest("the target of the request is not valid"));
    };
    let authority = request.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if let Some(host) = authority {
        let same = request.headers.get_all(header::HOST).iter().all(|other| *other == host);
        if !same {
            return Err(Reject::BadRequest("the Host is not the one of the request line"));
        }
        put(request, header::HOST, host)?;
    }
    request.set_method(Method::GET);
    request.set_version(Version::HTTP_11);
    request.set_uri(Uri::from(path));
    put(request, header::CONNECTION, HeaderValue::from_static("upgrade"))?;
    put(request, header::UPGRADE, HeaderValue::from_static("websocket"))?;
    put(request, header::SEC_WEBSOCKET_KEY, key())?;
    if !request.headers.contains_key(header::SEC_WEBSOCKET_VERSION) {
        put(request, header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))?;
    }
    Ok(true)
}

fn put(request: &mut RequestHeader, name: HeaderName, value: HeaderValue) -> Result<(), Reject> {
    request.insert_header(name, value).map_err(|_error| Reject::Internal)
}

/// 16 random bytes in base64. It proves nothing but that the upstream knows the handshake.
fn key() -> HeaderValue {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut random: u128 = rand::random();
    let mut text = [b'='; 24];
    for place in text.iter_mut().take(21) {
        let digit = usize::try_from(random & 63).unwrap_or_default();
        *place = DIGITS.get(digit).copied().unwrap_or(b'A');
        random >>= 6;
    }
    // Of the last digit only two bits belong to the bytes.
    if let Some(place) = text.get_mut(21) {
        *place = b'A';
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="))
}

/// The header as it would come over HTTP/1.1.
fn raw(request: &RequestHeader) -> Bytes {
    let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut raw = BytesMut::from(format!("{} {target} HTTP/1.1\r\n", request.method).as_bytes());
    for (name, value) in &request.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            raw.extend_from_slice(part);
        }
    }
    raw.extend_from_slice(b"\r\n");
    raw.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(protocol: Option<&'static str>, headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request =
            http::Request::builder().method("CONNECT").uri("https://a.test:80/chat?x=1").version(Version::HTTP_2);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        if let Some(protocol) = protocol {
            request.extensions_mut().insert(h2::ext::Protocol::from_static(protocol));
        }
        request.into_parts().0.into()
    }

    #[test]
    fn a_connect_for_a_web_socket_becomes_a_handshake() {
        let handshake = || {
            let mut request = connect(Some("websocket"), &[("sec-websocket-protocol", "chat")]);
            assert_eq!(translate(&mut request), Ok(true));
            String::from_utf8(raw(&request).to_vec()).unwrap()
        };
        let text = handshake();
        assert!(text.starts_with("GET /chat?x=1 HTTP/1.1\r\n") && text.ends_with("\r\n\r\n"), "{text}");
        for line in [
            "host: a.test:80",
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            "sec-websocket-protocol: chat",
        ] {
            assert!(text.contains(&format!("\r\n{line}\r\n")), "{line}: {text}");
        }
        let key = text.split("sec-websocket-key: ").nth(1).unwrap().split("\r\n").next().unwrap();
        assert!(key.len() == 24 && key.ends_with("A=="), "{key}");
        assert_ne!(text, handshake());
    }

    #[test]
    fn other_tunnels_and_hosts_that_disagree_are_refused() {
        for protocol in [None, Some("connect-udp"), Some("")] {
            let refused = translate(&mut connect(protocol, &[]));
            assert_eq!(refused, Err(Reject::MethodNotSupported), "{protocol:?}");
        }
        let refused = translate(&mut connect(Some("websocket"), &[("host", "b.test")]));
        assert_eq!(refused.unwrap_err().code(), "bad_request");
    }
}
