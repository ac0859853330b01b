//! `listeners`: addresses on which the gateway accepts requests.

use std::{net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::types::{Duration, Size, text_type};

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

/// Certificates of a listener. The first one is used where no name fits.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// At least one certificate; each serves the names that it carries.
    #[schemars(length(min = 1))]
    pub certificates: Vec<Certificate>,
}

/// A certificate with its key.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// PEM file with the certificate, followed by its chain.
    pub cert: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
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
