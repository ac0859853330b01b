//! The end of a request: what is logged and counted, once.

use std::sync::atomic::Ordering;

use pingora::{Error, http::RequestHeader};

use super::{Gateway, context::Context};
use crate::{runtime::Action, telemetry::access_log::Entry};

/// How a request ended, as far as Pingora knows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct End<'a> {
    pub(super) status: Option<u16>,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) error: Option<&'a Error>,
}

impl Gateway {
    /// Logs and counts, once for each request.
    pub(super) fn finish(&self, request: &RequestHeader, ctx: &Context, end: &End<'_>) {
        let now = self.now();
        let duration = now.saturating_sub(ctx.started.monotonic);
        if let Some(connection) = &ctx.connection {
            connection.last_end.store(now, Ordering::Relaxed);
        }
        let metrics = match &ctx.route {
            Some(route) => &route.metrics,
            None => &ctx.snapshot.unrouted,
        };
        metrics.finished(end.status.unwrap_or(0), seconds(duration), ctx.reject.as_ref());
        end_of_version(ctx, end.status, duration);
        if let Some(log) = &ctx.snapshot.access_log {
            log.write(&Entry {
                ctx,
                request,
                status: end.status,
                sent: end.sent,
                received: end.received,
                duration,
                error: end.error,
            });
        }
    }
}

/// Says how a version of the service did, where a route has several. What clients broke off says nothing.
fn end_of_version(ctx: &Context, status: Option<u16>, duration: u64) {
    let (Some(route), Some(version)) = (&ctx.route, ctx.version) else { return };
    if let (Action::Split(split), Some(status)) = (&route.action, status) {
        split.ended(version, status >= 500, ctx.attempt.first_byte.unwrap_or(duration));
    }
}

// Times of requests are far from the 52 bits in which a float is exact.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "no lossless way exists")]
pub(super) fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
