//! The line of a connection that was handed on as it is.

use super::{json::Object, line};
use crate::{proxy::context::Context, telemetry::tunnel_metrics::TunnelEnd};

/// What the log tells of such a connection.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel<'a> {
    /// The state of the connection, with the name that was asked for as its host.
    pub ctx: &'a Context,
    /// Where it was handed to.
    pub upstream: &'a str,
    /// How it ended.
    pub end: TunnelEnd,
    /// Bytes that went to the client.
    pub sent: u64,
    /// Bytes that came from the client.
    pub received: u64,
    /// From arrival to end, in nanoseconds.
    pub duration: u64,
}

impl Tunnel<'_> {
    pub(super) fn format(&self, out: &mut Vec<u8>) {
        let ctx = self.ctx;
        let mut line = Object::begin(out);
        line.with("time", |out| line::push_time(out, ctx.started.unix));
        line::format_client(ctx, &mut line);
        line.text("protocol", if ctx.host.is_empty() { "TCP" } else { "TLS" });
        if !ctx.host.is_empty() {
            line.text("host", &ctx.host);
        }
        line.number("bytes_sent", self.sent);
        line.number("bytes_received", self.received);
        line.millis("duration_ms", self.duration);
        line.text("upstream", self.upstream);
        if let Some(lease) = &ctx.attempt.lease {
            line.text("endpoint", lease.address());
        }
        line.number("tries", ctx.attempt.tries.into());
        line.text("outcome", self.end.name());
        line.end();
    }
}
