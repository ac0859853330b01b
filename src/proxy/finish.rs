//! The end of a request: what is logged and counted, once.

use std::sync::atomic::Ordering;

use pingora::{Error, ErrorSource, http::RequestHeader};
use pingora_proxy::{FailToProxy, Session};

use super::{Gateway, blame, context::Context, grpc, respond};
use crate::{reject::Reject, runtime::Action, telemetry::access_log::Entry};

/// How a request ended, as far as Pingora knows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct End<'a> {
    pub(super) status: Option<u16>,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) error: Option<&'a Error>,
}

impl Gateway {
    /// Answers for what went wrong, if the client is still there.
    pub(super) async fn give_up(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        let reject = ctx.reject.take().or_else(|| blame::reject(error));
        let mut error_code = 0;
        let Some(mut reject) = reject else {
            return FailToProxy { error_code, can_reuse_downstream: false };
        };
        // The deadline bounds every other time-out: it is the one to name, and to look for in the configuration.
        if matches!(reject, Reject::UpstreamTimeout | Reject::ClientTimeout(_)) && self.is_over(ctx) {
            reject = Reject::DeadlineExceeded;
        }
        if respond::has_begun(session) {
            if let Err(error) = grpc::end(session, ctx, &reject).await {
                log::debug!("a refusal could not be sent: {error}");
            }
            ctx.reject = Some(reject);
        } else {
            error_code = reject.status().as_u16();
            session.set_keepalive(None);
            // Response headers of an earlier try are not those of this answer.
            if let Err(error) = respond::refuse(session, ctx, reject).await {
                log::debug!("a refusal could not be sent: {error}");
            }
        }
        FailToProxy { error_code, can_reuse_downstream: false }
    }

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
        if let Some(status) = end.status {
            self.room().note(ctx.client_ip, status, now, &ctx.snapshot.capacity);
        }
        metrics.finished(end.status.unwrap_or(0), duration, ctx.reject.as_ref());
        end_of_version(ctx, end, duration);
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

/// Says how a version of the service did, where a route has several and the shares chose it. What ended by the client's fault says nothing.
fn end_of_version(ctx: &Context, end: &End<'_>, duration: u64) {
    let (Some(route), Some(version)) = (&ctx.route, ctx.version.filter(|version| version.drawn)) else { return };
    if ctx.attempt.tries == 0 && ctx.cached.is_some() {
        // It came from the cache: nobody was asked.
        return;
    }
    if let (Action::Split(split), Some(failed)) = (&route.action, failed(ctx, end)) {
        split.ended(version.at, failed, ctx.attempt.took.unwrap_or(duration));
    }
}

/// Statuses of gRPC that are the server's fault: unknown, unimplemented, internal, unavailable, data loss.
const FAULTS: [u16; 5] = [2, 12, 13, 14, 15];

/// Whether the upstream failed; nothing where nobody knows.
fn failed(ctx: &Context, end: &End<'_>) -> Option<bool> {
    if ctx.old_instead {
        return Some(true);
    }
    match &ctx.reject {
        Some(reject) if reject.blames_upstream() => return Some(true),
        // A client of gRPC says itself how long it waits.
        Some(Reject::DeadlineExceeded) => return ctx.grpc.is_none().then_some(true),
        Some(_) => return None,
        None => {}
    }
    if let Some(error) = end.error {
        return (*error.esource() == ErrorSource::Upstream).then_some(true);
    }
    let grpc = ctx.grpc.is_some() && ctx.grpc_status.is_some_and(|status| FAULTS.contains(&status));
    end.status.map(|status| status >= 500 || grpc)
}
