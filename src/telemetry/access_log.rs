//! stub
use crate::{config::telemetry, proxy::context::Context, runtime::Build};
use std::sync::Arc;
/// stub
#[derive(Debug)]
pub struct AccessLog;
impl AccessLog {
    /// stub
    pub fn compile(_: Option<&telemetry::AccessLog>, _: &mut Build<'_>) -> Option<Arc<Self>> {
        None
    }
    /// stub
    pub fn reopen(&self) {}
    /// stub
    pub fn flush(&self) {}
    /// stub
    pub fn write(&self, _: &Entry<'_>) {}
}
/// What is logged of a request, once, at its end.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The context.
    pub ctx: &'a Context,
    /// The request, as matched.
    pub request: &'a pingora::http::RequestHeader,
    /// The status that went to the client, if any did.
    pub status: Option<u16>,
    /// Bytes of the response body that went to the client.
    pub sent: u64,
    /// Bytes of the request body that came from the client.
    pub received: u64,
    /// From arrival to end, in nanoseconds.
    pub duration: u64,
    /// What Pingora says went wrong, if anything did.
    pub error: Option<&'a pingora::Error>,
}
