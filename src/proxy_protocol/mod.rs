//! The PROXY protocol, versions 1 and 2
//! ([specification](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt)): what a proxy says of a connection
//! before anything else is said on it. This is the format alone; [`proxy::arrival`](crate::proxy) reads it from clients'
//! connections, [`upstream`](crate::upstream) writes it to endpoints.
//!
//! # What is read
//!
//! - Version 1: one line of at most 107 bytes, `PROXY TCP4 SOURCE DESTINATION PORT PORT` with single spaces, `TCP6`, or
//!   `PROXY UNKNOWN` with anything behind it. Addresses and numbers in their usual form: no leading zeros, no zones.
//! - Version 2: `LOCAL`, whatever stands behind it; `PROXY` with TCP over IPv4 or IPv6, a Unix stream, or `UNSPEC`.
//!   Datagrams and values that are not assigned are refused.
//! - TLVs have to fit into the length exactly. That of the checksum (CRC32C) is verified if there is one; others are
//!   skipped.
//! - Longer than 16 KiB is no header: that is room for a client's certificate, which some proxies pass on.
//!
//! Whoever reads never takes a byte that does not belong to the header.
//!
//! Crates for this were looked at: what is needed is small, must never read too far, and has to verify the checksum, which
//! `ppp` 2.3 leaves to its users.

mod crc32c;
mod read;
mod write;

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::Deserialize;

pub use self::{
    read::{Malformed, Progress, begins, read},
    write::write,
};

/// The first bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The first bytes of version 1.
const PROXY: &[u8; 6] = b"PROXY ";

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ProxyProtocolVersion")]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What a header says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The proxy speaks for itself, such as with a health check.
    Local,
    /// It does not know for whom it speaks.
    Unknown,
    /// It speaks for a client that came over TCP.
    Tcp {
        /// Where the client is.
        client: SocketAddr,
        /// Where it connected to.
        server: SocketAddr,
    },
    /// It speaks for a client that came over a Unix socket.
    Unix,
}
