//! Whether to try again, on another endpoint.
//!
//! - A connection that could not be opened is tried again for every method: nothing was sent.
//! - What else the upstream's `retries.on` names is tried again for idempotent methods
//!   ([RFC 9110, 9.2.2](https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2)) and requests with `Idempotency-Key`, and only if the
//!   body of the request is still there whole, and nothing went to the client.
//! - A stream of HTTP/2 that the endpoint says it has not looked at is tried again for every method
//!   ([RFC 9113, 8.7](https://www.rfc-editor.org/rfc/rfc9113#section-8.7)), like a pooled connection that was closed.
//! - A pooled connection that the endpoint had closed meanwhile is no failure of the endpoint; such a try is repeated
//!   under the same rules, and does not count against the number of attempts: an endpoint that dies leaves a pool of
//!   such connections behind.
//! - An answer is asked for again at another endpoint that has not failed the request. If there is none, or the answer is 429, the same
//!   ones are asked again after the time that `Retry-After` says; without it, or with more than `max_backoff`, the client gets the answer.
//! - Before other retries a random time passes, up to `backoff`, and twice as much with each further one.
//! - All of that comes out of the budget of the upstream, but for closed connections, which cost nobody anything.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use pingora::{Error, ErrorSource, ErrorType, Result, http::ResponseHeader};
use pingora_proxy::Session;
use rustix::io::Errno;

use super::{context::Context, hop, respond::has_begun};
use crate::{
    config::retries::{GrpcCode, RetryOn},
    reject::Reject,
    upstream::{Exchange, Failure, Outcome},
};

/// So many closed connections may come out of the pool for one request. The attempts come on top; all tries together
/// stay below the number that Pingora allows.
const MAX_STALE: u8 = 4;

/// The status of gRPC for a service that cannot be reached.
const UNAVAILABLE: u16 = 14;

/// Why a try that failed is not repeated, as the access log has it.
mod why {
    pub(super) const ATTEMPTS: &str = "attempts";
    pub(super) const BEGUN: &str = "begun";
    pub(super) const BODY: &str = "body";
    pub(super) const BUDGET: &str = "budget";
    pub(super) const METHOD: &str = "method";
    pub(super) const NO_OTHER_ENDPOINT: &str = "no_other_endpoint";
    pub(super) const NOT_LISTED: &str = "not_listed";
}

/// Whether one more try is allowed for one of these reasons.
fn may_retry(ctx: &mut Context, on: &[RetryOn]) -> bool {
    let Some(retries) = ctx.upstream().map(|upstream| upstream.retries()) else { return false };
    let used = ctx.attempt.tries.saturating_sub(ctx.attempt.stale);
    let hindrance = if !on.iter().any(|on| retries.on.contains(on)) {
        Some(why::NOT_LISTED)
    } else if used > retries.attempts {
        Some(why::ATTEMPTS)
    } else {
        None
    };
    ctx.attempt.unretried = hindrance;
    hindrance.is_none()
}

/// Whether there is something left for one more try; says when it begins.
fn pay(ctx: &mut Context, asked: Option<Duration>) -> bool {
    let Some(upstream) = ctx.upstream() else { return false };
    let retries = upstream.retries();
    let done = u32::from(ctx.attempt.tries.saturating_sub(ctx.attempt.stale).saturating_sub(1));
    let most = retries.backoff.0.saturating_mul(1 << done.min(10)).min(retries.max_backoff.0);
    let pause = asked.unwrap_or_else(|| most.mul_f64(rand::random()));
    let paid = upstream.pay_for_retry();
    if paid {
        ctx.attempt.pause = Some(pause).filter(|pause| !pause.is_zero());
    } else {
        ctx.attempt.unretried = Some(why::BUDGET);
    }
    paid
}

/// Notes who answers, if that is not who was asked first.
pub(super) fn note_hedge(ctx: &mut Context, now: u64) {
    let Some(won) = ctx.attempt.exchange.as_ref().and_then(Exchange::won) else { return };
    let slow = ctx.attempt.lease.replace(won.lease);
    if let (Some(slow), Some(upstream)) = (slow, ctx.upstream()) {
        upstream.outrun(&slow, now.saturating_sub(ctx.attempt.asked), now);
    }
    ctx.attempt.asked = won.asked;
}

/// Notes that the endpoint in use failed this request.
fn give_up_endpoint(ctx: &mut Context, failure: Failure) {
    if let Some(lease) = ctx.attempt.lease.take() {
        if let Some(upstream) = ctx.upstream() {
            upstream.failed(&lease, ctx.attempt.pass.as_ref(), failure, ctx.attempt.asked);
        }
        ctx.attempt.failed.push(lease.id());
        ctx.attempt.lost = Some(lease.name());
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
    give_up_endpoint(ctx, Failure::Connect);
    error.set_retry(may_retry(ctx, &[RetryOn::ConnectFailure]) && pay(ctx, None));
    error
}

fn is_out_of_files(error: &Error) -> bool {
    let system = error.root_cause().downcast_ref::<std::io::Error>();
    system
        .and_then(std::io::Error::raw_os_error)
        .is_some_and(|code| [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error).contains(&code))
}

/// With it, a server does a request once however often it comes
/// ([draft-ietf-httpapi-idempotency-key-header](https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/)).
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Whether the request may be sent once more as it was, and nothing of an answer has been sent to the client.
fn is_repeatable(session: &Session, ctx: &mut Context) -> bool {
    let head = session.req_header();
    let is_idempotent = head.method.is_idempotent() || head.headers.contains_key(IDEMPOTENCY_KEY);
    let hindrance = if has_begun(session) {
        Some(why::BEGUN)
    } else if !is_idempotent {
        Some(why::METHOD)
    } else {
        session.as_ref().retry_buffer_truncated().then_some(why::BODY)
    };
    ctx.attempt.unretried = hindrance.or(ctx.attempt.unretried);
    hindrance.is_none()
}

#[expect(clippy::unnecessary_box_returns, reason = "what Pingora hands over and takes back")]
pub(super) fn broken(session: &Session, ctx: &mut Context, error: Box<Error>, reused: bool) -> Box<Error> {
    let mut error = error;
    note_hedge(ctx, ctx.upstream().map_or(0, |upstream| upstream.now()));
    let reused = reused || ctx.attempt.exchange.as_ref().is_some_and(Exchange::was_reused);
    let upstream_broke = *error.esource() == ErrorSource::Upstream;
    if ctx.reject.is_some() || !upstream_broke {
        // A refusal of the gateway's, or a client that is gone; a retry that `answered` asked for stays.
        let asked = ctx.attempt.again;
        ctx.attempt.again = false;
        error.set_retry(asked && is_repeatable(session, ctx));
        return error;
    }
    let untouched = is_untouched(&error) && !session.as_ref().retry_buffer_truncated();
    if untouched && !has_begun(session) && ctx.attempt.stale < MAX_STALE && pay(ctx, Some(Duration::ZERO)) {
        ctx.attempt.stale += 1;
        error.set_retry(true);
        ctx.attempt.lease = None;
        return error;
    }
    if !is_repeatable(session, ctx) {
        give_up_endpoint(ctx, Failure::Answer);
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
    give_up_endpoint(ctx, Failure::Answer);
    let reason = if timed_out { RetryOn::Timeout } else { RetryOn::Reset };
    error.set_retry(may_retry(ctx, &[reason]) && pay(ctx, None));
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
    // An answer without a body says how the call went at once.
    let code = ctx.grpc_status.filter(|_| response.headers.contains_key("grpc-status"));
    if let (Some(lease), Some(upstream)) = (&ctx.attempt.lease, ctx.upstream()) {
        lease.metrics().answered(response.status.as_u16(), took);
        let failure = (gateway_error || code == Some(UNAVAILABLE)).then_some(Failure::Answer);
        let took = ctx.attempt.took.unwrap_or(took);
        upstream.ended(lease, ctx.attempt.pass.as_ref(), Outcome { failure, took, now });
    }
    let own = code.map_or(RetryOn::Status(response.status.as_u16()), |code| RetryOn::Grpc(GrpcCode(code)));
    let on = [own, RetryOn::GatewayError];
    if !may_retry(ctx, on.get(..if gateway_error { 2 } else { 1 }).unwrap_or_default()) {
        // That most answers are no failure goes without saying.
        ctx.attempt.unretried = ctx.attempt.unretried.filter(|why| gateway_error || *why != why::NOT_LISTED);
        return Ok(());
    }
    if !is_repeatable(session, ctx) {
        return Ok(());
    }
    let Some(lease) = &ctx.attempt.lease else {
        return Ok(());
    };
    ctx.attempt.failed.push(lease.id());
    let another = ctx.upstream().is_some_and(|upstream| upstream.has_another(&ctx.attempt.failed, now));
    // That too much is asked is said of all of them.
    let asked = if another && response.status != StatusCode::TOO_MANY_REQUESTS {
        None
    } else {
        let Some(asked) = retry_after(&response.headers, ctx) else {
            ctx.attempt.unretried = Some(why::NO_OTHER_ENDPOINT);
            return Ok(());
        };
        Some(asked)
    };
    if !pay(ctx, asked) {
        return Ok(());
    }
    ctx.grpc_status = None;
    // It is not busy with this request any more, and may be asked again.
    ctx.attempt.lost = ctx.attempt.lease.take().map(|lease| lease.name());
    ctx.attempt.again = true;
    let mut error = Error::explain(ErrorType::HTTPStatus(response.status.as_u16()), "asking another endpoint");
    error.set_retry(true);
    Err(error.into_up())
}

/// How long the endpoint asks to wait, if it says so and that is not too long.
fn retry_after(headers: &HeaderMap, ctx: &Context) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    let asked = Duration::from_secs(seconds);
    (asked <= ctx.upstream()?.retries().max_backoff.0).then_some(asked)
}
