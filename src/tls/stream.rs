//! A client's connection behind TLS, and what is known of it once the handshake is over.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use pingora::protocols::{ALPN, Shutdown, Ssl, Stream, tls::SslDigest};
use rustls::ProtocolVersion;
use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::{
    client::{ClientCertificate, Rules},
    reads::Below,
};
use crate::layer::{known_by, writes_as};

/// What TLS found out about a connection.
#[derive(Debug)]
pub struct Session {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite, by its IANA name.
    pub cipher: &'static str,
    /// The name that the client asked for, in lower case.
    pub server_name: Option<Box<str>>,
    /// The client's certificate, verified.
    pub client: Option<ClientCertificate>,
    rules: Arc<Rules>,
    rule: Option<usize>,
}

impl Session {
    /// What a finished handshake says; `rule` is the one of `rules` that it was made under.
    pub(super) fn new(stream: &TlsStream<Below>, rules: Arc<Rules>, rule: Option<usize>) -> Self {
        let (_, tls) = stream.get_ref();
        let version = match tls.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        };
        let suite = tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let leaf = tls.peer_certificates().and_then(|chain| chain.first());
        Self {
            version,
            cipher: suite.unwrap_or_default(),
            server_name: tls.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase().into()),
            client: leaf.and_then(|leaf| ClientCertificate::read(leaf)),
            rules,
            rule,
        }
    }

    /// What is known of a connection over QUIC, where nobody is asked for a certificate.
    pub fn quic(server_name: Option<&str>) -> Self {
        Self {
            version: "TLSv1.3",
            cipher: "",
            server_name: server_name.map(|name| name.trim_end_matches('.').to_ascii_lowercase().into()),
            client: None,
            rules: Arc::default(),
            rule: None,
        }
    }

    /// Whether the connection may be used for requests for this host: the same rule about client certificates holds for it
    /// ([RFC 9110, 7.4](https://www.rfc-editor.org/rfc/rfc9110#section-7.4)).
    pub fn is_for(&self, host: &str) -> bool {
        self.rules.is_empty() || self.rules.find(Some(host)).copied() == self.rule
    }
}

/// The connection.
#[derive(Debug)]
pub(super) struct Secured {
    inner: TlsStream<Below>,
    digest: Arc<SslDigest>,
    alpn: Option<ALPN>,
}

impl Secured {
    pub(super) fn new(inner: TlsStream<Below>, session: &Session) -> Self {
        let alpn = match inner.get_ref().1.alpn_protocol() {
            Some(b"h2") => Some(ALPN::H2),
            Some(_) => Some(ALPN::H1),
            None => None,
        };
        let digest = Arc::new(SslDigest::new(session.cipher, session.version, None, None, Vec::new()));
        Self { inner, digest, alpn }
    }

    fn below(&self) -> &Stream {
        &self.inner.get_ref().0.inner
    }

    fn below_mut(&mut self) -> &mut Stream {
        &mut self.inner.get_mut().0.inner
    }
}

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

#[async_trait]
impl Shutdown for Secured {
    async fn shutdown(&mut self) {
        if let Err(error) = self.inner.shutdown().await {
            log::trace!("shutdown of TLS: {error}");
        }
    }
}

impl Ssl for Secured {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        Some(Arc::clone(&self.digest))
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.alpn.clone()
    }
}

writes_as!(inner, Secured);
known_by!(Secured, below, below_mut);
