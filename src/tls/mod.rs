//! stub
use pingora::listeners::tls::TlsSettings;
/// stub: the error names the certificate by index
pub fn settings(_: &crate::config::listener::Tls) -> Result<TlsSettings, (usize, String)> { Err((0, String::new())) }
