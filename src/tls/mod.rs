//! TLS of listeners.
//!
//! - **Certificates by name** ([`certificates`]): the one whose name the client asks for (SNI), exact before wildcard, the first one of
//!   the listener where no name fits. With each an OCSP response from a file, if there is one.
//! - **Client certificates** ([`client`]): rules by name say who has to show one, which authorities are trusted, and what is revoked. A
//!   request for a host under another rule than the one that the connection was made under is answered with 421.
//! - **Certificates by ACME** ([`acme`]): issued and renewed by an authority.
//! - TLS 1.2 and 1.3 with forward secrecy and authenticated encryption only; no renegotiation, no compression, no data before the handshake is
//!   over (0-RTT), so that nothing can be played again. HTTP/2 and HTTP/1.1 by ALPN. Sessions are resumed by tickets, whose keys
//!   live in the process: after an upgrade clients shake hands anew.
//! - **Files are watched** ([`files`]): a changed certificate, key, OCSP response, authority or revocation list is taken over within
//!   seconds, without a reload. What cannot be used is said in log, metric and status, and the one before stays, while the others go on. Connections keep what they
//!   were opened with.

pub mod acme;
pub mod certificates;
pub mod client;
pub mod files;
pub mod hello;
pub mod names;
mod reads;
pub mod state;
pub mod stream;
pub mod terminator;

pub use self::{certificates::Certificates, terminator::Terminator};
