//! The handshake by which an authority sees whose name it is: TLS-ALPN-01 ([RFC 8737](https://www.rfc-editor.org/rfc/rfc8737)).

use std::{io, sync::Arc};

use rustls::{
    ServerConfig,
    server::ClientHello,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::server::StartHandshake;

use super::ALPN;

/// The name that an authority looks at: it offers `acme-tls/1` and nothing else. `None` for every other client.
pub fn asked_for(hello: &ClientHello<'_>) -> Option<String> {
    let mut offered = hello.alpn()?;
    let only = offered.next()? == ALPN && offered.next().is_none();
    hello.server_name().filter(|_| only).map(|name| name.trim_end_matches('.').to_ascii_lowercase())
}

/// Shows the certificate that carries the answer. The connection ends with the handshake.
pub async fn answer<S>(start: StartHandshake<S>, certificate: Arc<CertifiedKey>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = start.into_stream(config(certificate).map_err(io::Error::other)?).await?;
    stream.shutdown().await
}

fn config(certificate: Arc<CertifiedKey>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}
