//! Reads the body of a request before an upstream is asked, where a policy looks at it ([`waf`](crate::policy::waf)).
//!
//! Pingora keeps what is read of a body, up to 64 KiB, and sends that to the upstream. Of a longer one it keeps nothing: what was read of it is
//! put before the rest.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header;
use pingora::{Error, Result, time::timeout};
use pingora_proxy::Session;

use super::{Gateway, context::Context, respond};
use crate::reject::Reject;

/// What was read of a body that is too long to be looked at, and passes.
#[derive(Debug, Default)]
pub struct Overrun(Option<Bytes>);

impl Overrun {
    /// Puts what was read before the next piece. A last piece of nothing, such as a frame without data that ends a stream, is none: over HTTP/1.1
    /// Pingora would write it as a chunk of nothing, which is the end of a body, and then the end. (In the middle it knows better, and takes none for the end.)
    pub(super) fn put_before(&mut self, piece: &mut Option<Bytes>, end: bool) {
        if end && piece.as_ref().is_some_and(Bytes::is_empty) {
            *piece = None;
        }
        let Some(read) = self.0.take() else { return };
        *piece = Some(match piece.take() {
            None => read,
            Some(next) => {
                let mut whole = BytesMut::with_capacity(read.len() + next.len());
                whole.extend_from_slice(&read);
                whole.extend_from_slice(&next);
                whole.freeze()
            }
        });
    }
}

/// What came of reading.
enum Body {
    Whole(Bytes),
    /// It is longer, and this was read of it.
    Longer(Bytes),
    /// It says that it is longer.
    Unread,
}

/// Lets those policies look that wait for the body.
pub(super) async fn inspect(gateway: &Gateway, session: &mut Session, ctx: &mut Context) -> Result<Result<(), Reject>> {
    let inspections = std::mem::take(&mut ctx.inspections);
    let longest = inspections.iter().map(|one| one.max_body()).max().unwrap_or_default();
    let all_pass = inspections.iter().all(|one| one.lets_long_pass());
    let body = match read(gateway, session, ctx, longest, all_pass).await? {
        Ok(body) => body,
        Err(reject) => return Ok(Err(reject)),
    };
    let whole = if let Body::Whole(body) = &body { Some(body) } else { None };
    for inspection in inspections {
        let max = inspection.max_body();
        let fits = whole.filter(|body| body.len() <= max);
        if let Err(reject) = inspection.finish(fits, session.req_header(), ctx).await {
            return Ok(Err(reject));
        }
    }
    if let Body::Longer(read) = body {
        if session.as_mut().is_body_done() && session.as_ref().retry_buffer_truncated() {
            // Nothing would come to put it before.
            return Ok(Err(Reject::BodyTooLarge));
        }
        if session.as_ref().retry_buffer_truncated() {
            ctx.overrun = Overrun(Some(read));
        }
    }
    Ok(Ok(()))
}

async fn read(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut Context,
    max: usize,
    may_pass: bool,
) -> Result<Result<Body, Reject>> {
    if declared(session).is_some_and(|length| length > max) {
        return Ok(Ok(Body::Unread));
    }
    respond::ask_for_body(session).await?;
    session.as_mut().enable_retry_buffering();
    let left = match gateway.remaining(ctx) {
        Ok(left) => left,
        Err(reject) => return Ok(Err(reject)),
    };
    let reading = pieces(gateway, session, ctx, max, may_pass);
    match timeout(left.unwrap_or(Duration::MAX), reading).await {
        Ok(read) => read,
        Err(_) => Ok(Err(Reject::DeadlineExceeded)),
    }
}

async fn pieces(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut Context,
    max: usize,
    may_pass: bool,
) -> Result<Result<Body, Reject>> {
    let mut held = BytesMut::new();
    while let Some(piece) = session.read_request_body().await.map_err(Error::into_down)? {
        let read = u64::try_from(session.body_bytes_read()).unwrap_or(u64::MAX);
        ctx.bodies.request(gateway.room(), read);
        if let Err(reject) = ctx.body_read(read) {
            return Ok(Err(reject));
        }
        held.extend_from_slice(&piece);
        if held.len() > max {
            return Ok(if may_pass { Ok(Body::Longer(held.freeze())) } else { Err(Reject::BodyTooLarge) });
        }
    }
    Ok(Ok(Body::Whole(held.freeze())))
}

/// How long the client says that the body is.
fn declared(session: &Session) -> Option<usize> {
    session.req_header().headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
