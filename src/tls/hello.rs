//! The name that a client asks for, read without terminating TLS: what was read is there again for whoever goes on.

use std::io;

use pingora::protocols::Stream;
use rustls::server::Acceptor;

/// A header of a record: type, version, length ([RFC 8446, 5.1](https://www.rfc-editor.org/rfc/rfc8446#section-5.1)).
const RECORD: usize = 5;

/// More than this is no `ClientHello` that anybody sends.
const MAX: usize = 64 << 10;

/// What a connection begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// TLS, for this name in lower case if the client gives one.
    Tls(Option<Box<str>>),
    /// Something else.
    Other,
}

/// Reads what the client says first. The stream is as it was then.
pub async fn peek(stream: &mut Stream) -> io::Result<Hello> {
    let mut first = [0; 1];
    stream.try_peek(&mut first).await?;
    // A handshake begins with a record of type 22.
    if first != [22] {
        return Ok(Hello::Other);
    }
    let mut seen = vec![0; RECORD];
    loop {
        // A hello may stand in several records.
        let at = seen.len() - RECORD;
        stream.try_peek(&mut seen).await?;
        let Some(&[22, _, _, high, low]) = seen.get(at..) else {
            return Ok(Hello::Other);
        };
        seen.resize(at + RECORD + usize::from(u16::from_be_bytes([high, low])), 0);
        stream.try_peek(&mut seen).await?;
        if let Some(hello) = parse(&seen)? {
            return Ok(hello);
        }
        if seen.len() > MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        seen.resize(seen.len() + RECORD, 0);
    }
}

/// `None` if more has to come.
fn parse(mut bytes: &[u8]) -> io::Result<Option<Hello>> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes)?;
    }
    let accepted = acceptor.accept().map_err(|(error, _alert)| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let name = |name: &str| name.trim_end_matches('.').to_ascii_lowercase().into();
    Ok(accepted.map(|accepted| Hello::Tls(accepted.client_hello().server_name().map(name))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(name: &str) -> Vec<u8> {
        let roots = rustls::RootCertStore::empty();
        let config =
            rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
        let mut sent = Vec::new();
        client.write_tls(&mut sent).unwrap();
        sent
    }

    #[test]
    fn the_name_is_known_once_the_hello_is_whole() {
        let sent = hello("A.example.test");
        assert_eq!(parse(&sent).unwrap(), Some(Hello::Tls(Some("a.example.test".into()))));
        assert_eq!(parse(&sent[..sent.len() - 1]).unwrap(), None);
        assert_eq!(parse(&hello("192.0.2.1")).unwrap(), Some(Hello::Tls(None)));
    }

    #[test]
    fn a_hello_in_several_records_is_put_together() {
        let sent = hello("a.example.test");
        let pieces = sent[RECORD..].chunks(50);
        let records: Vec<u8> =
            pieces.flat_map(|piece| [&[22, 3, 1, 0, u8::try_from(piece.len()).unwrap()][..], piece].concat()).collect();
        assert_eq!(parse(&records).unwrap(), Some(Hello::Tls(Some("a.example.test".into()))));
    }

    #[test]
    fn what_is_no_hello_is_an_error() {
        assert!(parse(&[22, 3, 1, 0, 4, 9, 0, 0, 0]).is_err());
    }
}
