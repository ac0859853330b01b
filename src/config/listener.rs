//! `listeners`: addresses on which the gateway accepts requests.

use std::{fmt, net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    acme::AcmeCertificate,
    http3::Http3,
    route::HostPattern,
    types::{ByteRate, Duration, Name, Size, SocketPath, text_type},
};
use crate::networks::Peer;

/// An address on which the gateway accepts requests.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Where to listen: `0.0.0.0:8080`, `[::]:8080`, `unix:/run/torana/http.sock`. Port 0 takes any free port and logs it.
    pub address: BindAddress,
    /// Who may connect to a Unix socket, as `chmod` takes it; without it `0660`.
    pub mode: Option<Mode>,
    /// Connections begin with a header of the PROXY protocol, version 1 or 2, that says who the client is.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Proxies in front of the gateway whose headers say who the client is.
    pub trusted_proxies: Option<TrustedProxies>,
    /// Connections that are handed on as they are, to an upstream, without a look at what is said on them.
    #[serde(default)]
    pub passthrough: Vec<Passthrough>,
    /// Terminates TLS; without it the listener speaks plain text.
    pub tls: Option<Tls>,
    /// Also speak HTTP/2 with prior knowledge on a plain-text listener.
    #[serde(default)]
    pub h2c: bool,
    /// What HTTP/2 may take up on a connection.
    #[serde(default)]
    pub http2: Http2,
    /// Also speak HTTP/3, on the UDP port of the same number; for listeners with `tls`. `true` or its settings.
    #[serde(default)]
    pub http3: Http3,
    /// How long a connection is kept between two requests.
    #[serde(default = "default_idle")]
    pub idle_timeout: Duration,
    /// How long a client may take to send the whole header of a request: of the first one from the start of the
    /// connection or the end of its TLS handshake, of others from their first byte.
    #[serde(default = "default_header")]
    pub header_timeout: Duration,
    /// How long a client may pause within a request body or while it takes a response.
    #[serde(default = "default_body")]
    pub body_timeout: Duration,
    /// How fast a client has to send a body and to take a response, in the long run; it may fall behind by
    /// `body_timeout`. Time that the gateway or an upstream needs does not count. `0B/s` asks for no rate.
    #[serde(default = "default_body_rate")]
    pub min_body_rate: ByteRate,
    /// How large the body of a request may be where the route has no `request_size`; `0B` sets no limit. What is said in
    /// WebSockets and gRPC streams does not count.
    #[serde(default = "default_body_size")]
    pub max_body_size: Size,
    /// How large the header of a request may be, with its request line.
    #[serde(default = "default_header_size")]
    pub max_header_size: Size,
    /// How many headers a request may have.
    #[serde(default = "default_headers")]
    pub max_headers: u16,
    /// How long the request line may be, with method, target and version.
    #[serde(default = "default_request_line")]
    pub max_request_line: Size,
    /// After so many requests a connection is closed.
    #[serde(default = "default_requests")]
    pub max_requests: u32,
}

fn default_idle() -> Duration {
    Duration::from_secs(75)
}

fn default_header() -> Duration {
    Duration::from_secs(10)
}

fn default_body() -> Duration {
    Duration::from_secs(60)
}

fn default_header_size() -> Size {
    Size(64 << 10)
}

fn default_body_rate() -> ByteRate {
    ByteRate(500)
}

fn default_body_size() -> Size {
    Size(100 << 20)
}

fn default_headers() -> u16 {
    128
}

fn default_request_line() -> Size {
    Size(16 << 10)
}

fn default_requests() -> u32 {
    100_000
}

/// What HTTP/2 may take up on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http2 {
    /// How many streams there may be at once.
    pub max_concurrent_streams: u32,
    /// How much of a request body may be on its way on a stream before the upstream has taken it.
    pub stream_window: Size,
    /// The same for all streams of a connection together.
    pub connection_window: Size,
}

impl Default for Http2 {
    fn default() -> Self {
        Self { max_concurrent_streams: 100, stream_window: Size(64 << 10), connection_window: Size(1 << 20) }
    }
}

/// Certificates of a listener, at least one. The first one is used where no name fits, those of files first.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificates from files; each serves the names that it carries.
    #[serde(default)]
    pub certificates: Vec<Certificate>,
    /// Certificates that an authority issues and renews: see `acme`.
    #[serde(default)]
    pub acme: Vec<AcmeCertificate>,
    /// Who has to show a certificate: rules for some names, or for all. Without any, nobody is asked for one.
    #[serde(default)]
    pub client_certificates: Vec<ClientCertificates>,
    /// The oldest version of TLS that is spoken.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// How long a handshake may take.
    #[serde(default = "default_header")]
    pub handshake_timeout: Duration,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            certificates: Vec::new(),
            acme: Vec::new(),
            client_certificates: Vec::new(),
            min_version: TlsVersion::default(),
            handshake_timeout: default_header(),
        }
    }
}

/// Connections that are handed on as they are.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Passthrough {
    /// TLS connections for these names: `db.example.com`, `*.example.com`. None: every connection, whatever is spoken on it.
    #[serde(default)]
    pub hosts: Vec<HostPattern>,
    /// The upstream that they are handed to.
    pub upstream: Name,
    /// A connection on which nothing is said for so long is closed.
    #[serde(default = "default_tunnel_idle")]
    pub idle_timeout: Duration,
}

fn default_tunnel_idle() -> Duration {
    Duration::from_secs(3600)
}

/// A certificate with its key. The files are watched: what changes is taken over without a reload.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// PEM file with the certificate, followed by its chain.
    pub cert: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
    /// DER file with an OCSP response to send along, as `openssl ocsp -respout` writes it.
    pub ocsp: Option<PathBuf>,
}

/// Who has to show a certificate.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificates {
    /// The names that this holds for: `api.example.com`, `*.example.com`. None: every name without a rule of its own.
    #[serde(default)]
    pub hosts: Vec<HostPattern>,
    /// PEM file with the authorities that certificates of clients are trusted by.
    pub ca: PathBuf,
    /// Whether a client may come without one.
    #[serde(default)]
    pub mode: ClientMode,
    /// PEM files with revocation lists; if there are any, every authority of a chain needs one.
    #[serde(default)]
    pub crl: Vec<PathBuf>,
}

/// Whether a client may come without a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientMode {
    /// There is no connection without one.
    #[default]
    Required,
    /// It may; one that is shown has to be valid.
    Optional,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TlsVersion {
    /// TLS 1.2 ([RFC 5246](https://www.rfc-editor.org/rfc/rfc5246)).
    #[default]
    Tls12,
    /// TLS 1.3 ([RFC 8446](https://www.rfc-editor.org/rfc/rfc8446)).
    Tls13,
}

/// An IP address with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(pub SocketAddr);

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|_error| "expected an IP address with a port, such as `0.0.0.0:8080` or `[::]:8080`".into())
    }
}
text_type!(Address, "an IP address with a port, such as `0.0.0.0:8080`", "^.+:[0-9]+$");

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BindAddress {
    /// An IP address with a port.
    Ip(Address),
    /// A Unix socket.
    Unix(PathBuf),
}

impl BindAddress {
    /// The IP address with its port.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(address.0),
            Self::Unix(_) => None,
        }
    }
}

impl std::str::FromStr for BindAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return path.parse().map(|SocketPath(path)| Self::Unix(path));
        }
        text.parse().map(Self::Ip)
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.0.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
text_type!(BindAddress, "an IP address with a port, or `unix:/path`", "^(unix:/.+|.+:[0-9]+)$");

/// The permissions of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

impl Default for Mode {
    fn default() -> Self {
        Self(0o660)
    }
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = (3..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o777);
        mode.map(Self).ok_or_else(|| "expected permissions in octal digits, such as \"0660\"".into())
    }
}
text_type!(Mode, "permissions in octal digits and quotes, such as \"0660\"", "^0?[0-7]{3}$");

/// Who may say for whom a connection is, and who has to.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// Peers that may begin with a header: addresses, networks, `unix` for whoever connects to a Unix socket.
    #[schemars(length(min = 1))]
    pub trusted: Vec<Peer>,
    /// Whether they must. If not, the first bytes of a connection say whether there is a header.
    #[serde(default = "yes")]
    pub required: bool,
    /// What becomes of connections of all others.
    #[serde(default)]
    pub others: Others,
}

fn yes() -> bool {
    true
}

/// What becomes of connections of peers that may not say for whom they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Others {
    /// They are closed.
    #[default]
    Close,
    /// They are clients themselves, and speak without a header.
    Direct,
}

/// Proxies whose headers say who the client is.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustedProxies {
    /// Addresses and networks of the proxies, `unix` for whoever connects to a Unix socket.
    #[schemars(length(min = 1))]
    pub addresses: Vec<Peer>,
    /// The header that they write.
    #[serde(default)]
    pub header: ForwardedBy,
}

/// A header in which proxies say for whom a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ForwardedBy {
    /// `X-Forwarded-For`, with `-Proto`, `-Host` and `-Port` beside it.
    #[default]
    XForwardedFor,
    /// `Forwarded` ([RFC 7239](https://www.rfc-editor.org/rfc/rfc7239)).
    Forwarded,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_octal() {
        assert_eq!(("0660".parse(), "666".parse()), (Ok(Mode(0o660)), Ok(Mode(0o666))));
        for text in ["", "66", "0o660", "0688", "1777", "07777", "rw", "+660"] {
            assert!(text.parse::<Mode>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_is_written_as_it_is_read() {
        for text in ["127.0.0.1:80", "[::1]:8080", "unix:/run/torana/http.sock"] {
            assert_eq!(text.parse::<BindAddress>().unwrap().to_string(), text);
        }
        for text in ["unix:run/a", "unix:", "80", "localhost:80"] {
            assert!(text.parse::<BindAddress>().is_err(), "{text}");
        }
    }
}
