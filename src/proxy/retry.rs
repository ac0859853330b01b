//! Whether to try again, on another endpoint.
//!
//! - A connection that could not be opened is tried again for every method: nothing was sent.
//! - A connection that broke before the response began, and a 502, 503 or 504 where the upstream asks for it, are tried
//!   again for idempotent methods only ([RFC 9110, 9.2.2](https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2)), and
//!   only if the body of the request is still there whole.
//! - A stream of HTTP/2 that the endpoint says it has not looked at is tried again for every method
//!   ([RFC 9113, 8.7](https://www.rfc-editor.org/rfc/rfc9113#section-8.7)), like a pooled connection that was closed.
//! - A pooled connection that the endpoint had closed meanwhile is no failure of the endpoint; such a try is repeated
//!   under the same rules, and does not count against the number of attempts: an endpoint that dies leaves a pool of
//!   such connections behind.

use http::StatusCode;
use pingora::{Error, ErrorSource, ErrorType, Result, http::ResponseHeader};
use pingora_proxy::Session;
use rustix::io::Errno;

use super::{context::Context, finish::seconds, hop, respond::has_begun, upstream};
use crate::{config::upstream::RetryOn, reject::Reject};

/// So many closed connections may come out of the pool for one request. The attempts come on top; all tries together
/// stay below the number that Pingora allows.
const MAX_STALE: u8 = 4;

/// The status of gRPC for a service that cannot be reached.
const UNAVAILABLE: u16 = 14;

/// Whether one more try is allowed for this reason.
fn may_retry(ctx: &Context, on: RetryOn) -> bool {
    upstream(ctx).is_some_and(|upstream| {
        let retries = upstream.retries();
        ctx.attempt.tries.saturating_sub(ctx.attempt.stale) <= retries.attempts && retries.on.contains(&on)
    })
}

/// Notes that the endpoint in use failed this request.
fn give_up_endpoint(ctx: &mut Context) {
    if let Some(lease) = ctx.attempt.lease.take() {
        lease.metrics().failed();
        if let Some(upstream) = upstream(ctx) {
            upstream.failed(&lease, ctx.attempt.started);
        }
        ctx.attempt.failed.push(lease.id());
        ctx.attempt.lost = Some(lease);
    }
}

#[expect(clippy::unnecessary_box_returns, reason = "what Pingora hands over and takes back")]
pub(super) fn connect_failed(ctx: &mut Context, mut error: Box<Error>) -> Box<Error> {
    ctx.attempt.turn = None;
    if is_out_of_files(&error) {
        // Not the endpoint's fault, and another one would not help.
        ctx.attempt.lease = None;
        ctx.reject = Some(Reject::Overloaded("open files"));
        error.set_retry(false);
        return error;
    }
    give_up_endpoint(ctx);
    error.set_retry(may_retry(ctx, RetryOn::ConnectFailure));
    error
}

fn is_out_of_files(error: &Error) -> bool {
    let system = error.root_cause().downcast_ref::<std::io::Error>();
    system
        .and_then(std::io::Error::raw_os_error)
        .is_some_and(|code| [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error).contains(&code))
}

/// Whether the request may be sent once more as it was.
fn is_repeatable(session: &Session) -> bool {
    session.req_header().method.is_idempotent() && !session.as_ref().retry_buffer_truncated()
}

#[expect(clippy::unnecessary_box_returns, reason = "what Pingora hands over and takes back")]
pub(super) fn broken(session: &Session, ctx: &mut Context, error: Box<Error>, reused: bool) -> Box<Error> {
    let mut error = error;
    let upstream_broke = *error.esource() == ErrorSource::Upstream;
    if ctx.reject.is_some() || !upstream_broke {
        // A refusal of the gateway's, or a client that is gone; a retry that `answered` asked for stays.
        let asked = ctx.attempt.again;
        ctx.attempt.again = false;
        error.set_retry(asked && is_repeatable(session));
        return error;
    }
    let untouched = is_untouched(&error) && !session.as_ref().retry_buffer_truncated();
    if untouched && !has_begun(session) && ctx.attempt.stale < MAX_STALE {
        ctx.attempt.stale += 1;
        error.set_retry(true);
        ctx.attempt.lease = None;
        return error;
    }
    if has_begun(session) || !is_repeatable(session) {
        give_up_endpoint(ctx);
        error.set_retry(false);
        return error;
    }
    if ctx.attempt.again {
        ctx.attempt.again = false;
        error.set_retry(true);
        return error;
    }
    if reused && is_closed(&error) && ctx.attempt.stale < MAX_STALE {
        // Closed by the endpoint between two requests: not its failure, and the same one may be asked again.
        ctx.attempt.stale += 1;
        error.set_retry(true);
        ctx.attempt.lease = None;
        return error;
    }
    let timed_out = matches!(error.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout);
    give_up_endpoint(ctx);
    error.set_retry(!timed_out && may_retry(ctx, RetryOn::Reset));
    error
}

/// Whether the endpoint said that it did nothing with the request: it refused the stream, or says goodbye.
fn is_untouched(error: &Error) -> bool {
    error.root_cause().downcast_ref::<h2::Error>().is_some_and(|error| {
        error.is_remote()
            && (error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
                || error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR))
    })
}

fn is_closed(error: &Error) -> bool {
    matches!(error.etype(), ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError)
}

/// Counts an answer, or throws it away to ask another endpoint. The times are how long it took, and now, in nanoseconds.
pub(super) fn answered(
    session: &Session,
    response: &ResponseHeader,
    ctx: &mut Context,
    (took, now): (u64, u64),
) -> Result<()> {
    ctx.attempt.bodiless = hop::is_bodiless(response.status);
    let gateway_error = matches!(
        response.status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    );
    if let (Some(lease), Some(upstream)) = (&ctx.attempt.lease, upstream(ctx)) {
        lease.metrics().answered(response.status.as_u16(), seconds(took));
        // An answer without a body says how the call went at once.
        let unavailable = ctx.grpc_status == Some(UNAVAILABLE);
        upstream.answered(lease, gateway_error || unavailable, took, now);
    }
    if !gateway_error || !may_retry(ctx, RetryOn::GatewayError) || !is_repeatable(session) {
        return Ok(());
    }
    // Only if there is another endpoint: otherwise the client gets this answer.
    let Some(lease) = &ctx.attempt.lease else {
        return Ok(());
    };
    let tried = lease.id();
    ctx.attempt.failed.push(tried);
    let another = upstream(ctx)
        .and_then(|upstream| upstream.choose(session.req_header(), ctx, now))
        .is_some_and(|other| !ctx.attempt.failed.contains(&other.id()));
    if !another {
        return Ok(());
    }
    ctx.attempt.again = true;
    let mut error = Error::explain(ErrorType::HTTPStatus(response.status.as_u16()), "asking another endpoint");
    error.set_retry(true);
    Err(error.into_up())
}
