//! How the gateway connects to the endpoints of an upstream: protocol, TLS, reuse.

use std::{fs, path::Path, sync::Arc, time::Duration};

use pingora::{
    connectors::ConnectorOptions,
    protocols::{TcpKeepalive, l4::socket::SocketAddr, tls::CaType},
    tls::{RootCertStore, ServerName},
    upstreams::peer::{HttpPeer, PeerOptions, Scheme},
    utils::tls::WrappedX509,
};
use x509_parser::{certificate::X509Certificate, pem::Pem, prelude::FromDer};

use super::introduce;
use crate::digest::sha256;
use crate::{
    config::{
        endpoint::Target,
        upstream::{Protocol, Upstream},
    },
    proxy_protocol::{Said, Version, write},
};

/// So many requests share one HTTP/2 connection.
pub(super) const STREAMS: usize = 100;

/// What the kernel takes in for a connection of HTTP/1.1: enough for a gigabit in a second where a round trip takes a millisecond.
const RECEIVE_BUFFER: usize = 128 << 10;

/// The kernel takes no more for its buffers.
const MAX_BUFFER: usize = 1 << 30;

/// What all connections of an upstream have in common.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) protocol: Protocol,
    pub(super) tls: Option<Tls>,
    keepalive: Option<Duration>,
    /// In bytes; without it the kernel decides.
    pub(super) receive_buffer: Option<usize>,
    /// Says who the client is on every connection.
    pub(super) proxy_protocol: Option<Version>,
    /// Pingora reuses a connection for a peer with the same address, server name and verification. This number
    /// stands for what it does not compare: the authorities, the protocol, and what a connection begins with.
    pub(super) group: u64,
}

#[derive(Debug)]
pub(super) struct Tls {
    server_name: Option<Arc<str>>,
    pub(super) ca: Option<Arc<CaType>>,
    pub(super) verify: bool,
}

impl Connection {
    /// The error names the key below the upstream that is to blame.
    pub(super) fn compile(config: &Upstream) -> Result<Self, (&'static str, String)> {
        let how = (config.protocol, config.proxy_protocol, config.receive_buffer);
        let mut group = format!("{how:?}").into_bytes();
        let tls = match &config.tls {
            None => None,
            Some(tls) => {
                let server_name = tls.server_name.as_deref();
                if let Some(name) = server_name {
                    ServerName::try_from(name).map_err(|_invalid| {
                        let message = format!("`{name}` is neither a DNS name nor an IP address");
                        ("tls", message)
                    })?;
                }
                let ca = match &tls.ca {
                    None => None,
                    Some(path) => Some(
                        authorities(path, &mut group)
                            .map_err(|why| ("tls", format!("authorities in {}: {why}", path.display())))?,
                    ),
                };
                Some(Tls { server_name: server_name.map(Into::into), ca, verify: tls.verify })
            }
        };
        let digest = sha256(&group);
        let group = digest.first_chunk().copied().unwrap_or_default();
        Ok(Self {
            protocol: config.protocol,
            tls,
            keepalive: config.keepalive.map(|time| time.0),
            receive_buffer: receive_buffer(config),
            proxy_protocol: config.proxy_protocol,
            group: u64::from_be_bytes(group),
        })
    }

    /// The name that certificates must carry, if the file says so.
    pub(super) fn own_name(&self) -> Option<Arc<str>> {
        match &self.tls {
            // Without TLS nobody asks.
            None => Some("".into()),
            Some(tls) => tls.server_name.clone(),
        }
    }

    /// The name that the certificate of an endpoint must carry, also sent as SNI; empty without TLS.
    pub(super) fn server_name(&self, target: &Target) -> Result<Arc<str>, (&'static str, String)> {
        let Some(tls) = &self.tls else {
            return Ok("".into());
        };
        match (&tls.server_name, target) {
            (Some(name), _) => Ok(Arc::clone(name)),
            (None, Target::Dns { host, .. }) => Ok(host.as_str().into()),
            // Without a name there would be nothing to compare the certificate with.
            (None, Target::Ip(_) | Target::Unix(_)) => {
                let message =
                    format!("endpoint {target} has no name that its certificate could carry: set `server_name`");
                Err(("tls", message))
            }
        }
    }

    /// A peer without timeouts.
    pub(super) fn peer(&self, address: SocketAddr, server_name: &str) -> HttpPeer {
        HttpPeer {
            _address: address,
            scheme: Scheme::from_tls_bool(self.tls.is_some()),
            sni: server_name.to_owned(),
            proxy: None,
            client_cert_key: None,
            group_key: self.group,
            options: self.options(),
        }
    }

    pub(super) fn options(&self) -> PeerOptions {
        let mut options = PeerOptions::new();
        match self.protocol {
            Protocol::Http1 => options.set_http_version(1, 1),
            Protocol::Http2 => {
                options.set_http_version(2, 2);
                options.max_h2_streams = STREAMS;
            }
        }
        if let Some(tls) = &self.tls {
            options.verify_cert = tls.verify;
            options.verify_hostname = tls.verify;
            options.ca.clone_from(&tls.ca);
        }
        options.idle_timeout = self.keepalive;
        options.tcp_recv_buf = self.receive_buffer;
        if let Some(version) = self.proxy_protocol {
            // Requests say more; what has no client is the gateway's own.
            introduce::begin_with(&mut options, &write(version, &Said::Local).into());
        }
        // Finds peers that vanished while a response takes long, and keeps idle connections alive in NAT tables.
        options.tcp_keepalive = Some(TcpKeepalive {
            idle: Duration::from_mins(1),
            interval: Duration::from_secs(10),
            count: 3,
            user_timeout: Duration::ZERO,
        });
        options
    }
}

/// For a connector of its own.
pub(super) fn connector_options(connection: &Connection) -> ConnectorOptions {
    let mut options = ConnectorOptions::new(1);
    let system = connection.tls.as_ref().is_some_and(|tls| tls.ca.is_none());
    if !system {
        // Each connector would keep a copy of the system's authorities, which nobody asks here.
        options.ca_file = Some("/dev/null".into());
    }
    options
}

fn receive_buffer(config: &Upstream) -> Option<usize> {
    match (config.receive_buffer, config.protocol) {
        (Some(size), _) => Some(usize::try_from(size.0).unwrap_or(MAX_BUFFER).min(MAX_BUFFER)).filter(|size| *size > 0),
        (None, Protocol::Http1) => Some(RECEIVE_BUFFER),
        (None, Protocol::Http2) => None,
    }
}

/// Reads and checks a PEM file: Pingora would panic at a certificate that cannot be parsed, and fail requests with
/// one that cannot be an authority.
fn authorities(path: &Path, group: &mut Vec<u8>) -> Result<Arc<CaType>, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let mut store = RootCertStore::empty();
    let mut found = Vec::new();
    for block in Pem::iter_from_buffer(&text) {
        let block = block.map_err(|error| error.to_string())?;
        if block.label != "CERTIFICATE" {
            return Err(format!("expected certificates, found a {}", block.label));
        }
        group.extend_from_slice(&block.contents);
        store.add(block.contents.clone().into()).map_err(|error| error.to_string())?;
        let certificate = WrappedX509::try_new(block.contents, |der| {
            X509Certificate::from_der(der).map(|(_, certificate)| certificate)
        });
        found.push(certificate.map_err(|error| error.to_string())?);
    }
    if found.is_empty() {
        return Err("the file has no certificate".into());
    }
    Ok(found.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn config(rest: &str) -> Upstream {
        let text = format!("{{ endpoints: [127.0.0.1:80], {rest} }}");
        serde_saphyr::from_str(&text).unwrap()
    }

    fn compile(rest: &str) -> Result<Connection, (&'static str, String)> {
        Connection::compile(&config(rest))
    }

    fn peer(connection: &Connection, server_name: &str) -> HttpPeer {
        let address = SocketAddr::Inet(([127, 0, 0, 1], 80).into());
        connection.peer(address, server_name)
    }

    fn authority(name: &str) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&key).unwrap().pem()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn with_ca(file: &tempfile::NamedTempFile) -> Result<Connection, (&'static str, String)> {
        compile(&format!("tls: {{ ca: {} }}", file.path().display()))
    }

    #[test]
    fn certificates_are_verified_unless_told_otherwise() {
        let peer_of = |rest| peer(&compile(rest).unwrap(), "a.example");
        let verified = peer_of("tls: {}");
        assert!(verified.is_tls() && verified.options.verify_cert);
        assert!(verified.options.verify_hostname);
        let not = peer_of("tls: { verify: false }");
        assert!(!not.options.verify_cert && !not.options.verify_hostname);
        assert!(!peer_of("tls: null").is_tls());
    }

    #[test]
    fn the_name_in_the_certificate_is_the_one_given_or_that_of_the_endpoint() {
        let target = |text: &str| text.parse::<Target>().unwrap();
        let name = |rest: &str, text: &str| {
            let name = compile(rest).unwrap().server_name(&target(text));
            name.map(|name| name.to_string())
        };
        assert_eq!(name("tls: null", "10.0.0.1:80").unwrap(), "");
        assert_eq!(name("tls: {}", "a.example:443").unwrap(), "a.example");
        let given = "tls: { server_name: b.example }";
        assert_eq!(name(given, "a.example:443").unwrap(), "b.example");
        assert_eq!(name(given, "unix:/run/a.sock").unwrap(), "b.example");
        for text in ["10.0.0.1:443", "unix:/run/a.sock"] {
            let (key, message) = name("tls: {}", text).unwrap_err();
            assert_eq!(key, "tls");
            assert!(message.contains(text), "{message}");
        }
        assert!(compile("tls: { server_name: 10.0.0.1 }").is_ok());
        for wrong in ["''", "a b", "'https://a.example'"] {
            let rest = format!("tls: {{ server_name: {wrong} }}");
            assert_eq!(compile(&rest).unwrap_err().0, "tls", "{wrong}");
        }
    }

    #[test]
    fn authorities_come_from_the_file() {
        let both = file(&(authority("one") + &authority("two")));
        let connection = with_ca(&both).unwrap();
        assert_eq!(peer(&connection, "a").options.ca.unwrap().len(), 2);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_refused_with_the_reason() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (text, reason) in
            [("", "no certificate"), ("not PEM at all", "no certificate"), (key.as_str(), "PRIVATE KEY"), (broken, "")]
        {
            let (at, message) = with_ca(&file(text)).unwrap_err();
            assert_eq!(at, "tls");
            assert!(message.contains(reason), "{message}");
        }
        let (at, message) = compile("tls: { ca: /does/not/exist.pem }").unwrap_err();
        assert_eq!(at, "tls");
        assert!(message.contains("/does/not/exist.pem"), "{message}");
    }

    #[test]
    fn connections_are_shared_only_with_the_same_authorities_and_protocol() {
        let (one, other) = (file(&authority("one")), file(&authority("two")));
        let groups = [
            compile("tls: {}").unwrap().group,
            compile("tls: {}, protocol: http2").unwrap().group,
            compile("tls: {}, proxy_protocol: v1").unwrap().group,
            compile("tls: {}, proxy_protocol: v2").unwrap().group,
            with_ca(&one).unwrap().group,
            with_ca(&other).unwrap().group,
        ];
        for (i, group) in groups.iter().enumerate() {
            assert!(!groups[i + 1..].contains(group));
        }
        assert_eq!(groups[4], with_ca(&one).unwrap().group);
    }

    #[test]
    fn what_the_kernel_takes_in_is_bounded_unless_streams_have_windows() {
        let of = |rest| peer(&compile(rest).unwrap(), "").options.tcp_recv_buf;
        assert_eq!(of("protocol: http1"), Some(RECEIVE_BUFFER));
        assert_eq!(of("protocol: http2"), None);
        assert_eq!(of("protocol: http2, receive_buffer: 1MiB"), Some(1 << 20));
        assert_eq!(of("receive_buffer: 0B"), None);
        assert_eq!(of("receive_buffer: 1000GiB"), Some(MAX_BUFFER));
    }

    #[test]
    fn the_protocol_decides_about_alpn_and_streams() {
        use pingora::upstreams::peer::ALPN;
        let one = peer(&compile("protocol: http1").unwrap(), "");
        assert_eq!((one.options.alpn, one.options.max_h2_streams), (ALPN::H1, 1));
        let two = peer(&compile("protocol: http2").unwrap(), "");
        assert_eq!((two.options.alpn, two.options.max_h2_streams), (ALPN::H2, 100));
    }

    #[test]
    fn idle_connections_are_kept_as_long_as_configured() {
        let idle = |rest| peer(&compile(rest).unwrap(), "").options.idle_timeout;
        assert_eq!(idle("keepalive: 1m"), Some(Duration::from_mins(1)));
        assert_eq!(idle("protocol: http1"), None);
        assert_eq!(idle("keepalive: 0s"), Some(Duration::ZERO));
    }
}
