//! `listeners`: addresses on which the gateway accepts requests.

use std::{net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    acme::AcmeCertificate,
    route::HostPattern,
    types::{Duration, Size, text_type},
};

/// An address on which the gateway accepts requests.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Where to listen: `0.0.0.0:8080`, `[::]:8080`. Port 0 takes any free port and logs it.
    pub address: Address,
    /// Terminates TLS; without it the listener speaks plain text.
    pub tls: Option<Tls>,
    /// Also speak HTTP/2 with prior knowledge on a plain-text listener.
    #[serde(default)]
    pub h2c: bool,
    /// How long an idle connection is kept.
    #[serde(default = "default_idle")]
    pub idle_timeout: Duration,
    /// How long a client may take to send the whole header of a request, from its first byte.
    #[serde(default = "default_header")]
    pub header_timeout: Duration,
    /// How long a client may pause within a request body or while it takes a response.
    #[serde(default = "default_body")]
    pub body_timeout: Duration,
    /// How large the header of a request may be, with its request line.
    #[serde(default = "default_header_size")]
    pub max_header_size: Size,
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

fn default_requests() -> u32 {
    100_000
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
