//! Answers that the gateway makes itself: refusals as problem documents, replies of policies, redirects.
//!
//! They pass through the response phase of the chain like those of upstreams, so that CORS and security headers are on
//! every answer. They leave the connection usable, unless what follows on it may not be a request.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};
use pingora_proxy::Session;

use super::context::Context;
use crate::{
    policy::Reply,
    problem::{self, Problem},
    reject::Reject,
};

/// Whether the client has the header of its answer: behind it comes a body, or another protocol, and no other answer.
pub(super) fn has_begun(session: &Session) -> bool {
    let is_last = |status: StatusCode| !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS;
    session.response_written().is_some_and(|head| is_last(head.status))
}

/// Answers with a problem document.
pub(super) async fn refuse(session: &mut Session, ctx: &mut Context, reject: Reject) -> Result<()> {
    let answer = problem(&reject, ctx)?;
    if reject.closes_connection() {
        session.set_keepalive(None);
    }
    ctx.reject = Some(reject);
    reply(session, ctx, answer).await
}

fn problem(reject: &Reject, ctx: &Context) -> Result<Reply> {
    let body = Bytes::from(Problem::new(reject, &ctx.request_id.text()).to_json());
    let mut head = ResponseHeader::build(reject.status(), Some(8))?;
    head.insert_header(header::CONTENT_TYPE, problem::MEDIA_TYPE)?;
    head.insert_header(header::CACHE_CONTROL, "no-store")?;
    if let Some((name, value)) = reject.header() {
        head.insert_header(name, value)?;
    }
    Ok(Reply { head, body })
}

/// A refusal for a request that Pingora never sees, with what policies add to every answer.
pub(super) fn whole_problem(reject: &Reject, ctx: &mut Context) -> Result<Reply> {
    let mut answer = problem(reject, ctx)?;
    finish_head(&mut answer.head, ctx)?;
    answer.head.insert_header(header::CONTENT_LENGTH, answer.body.len())?;
    Ok(answer)
}

/// A body that is not wanted is read up to this length to keep the connection; behind a larger one it is closed.
const MAX_DRAIN: usize = 64 << 10;

/// Whether the rest of the request is soon read and thrown away. Pingora does that after the answer, within a second.
fn is_soon_drained(request: &RequestHeader) -> bool {
    // A client that waits for 100 Continue sends its body only after it has seen the answer, or not at all.
    let length = request.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    !request.headers.contains_key(header::EXPECT)
        && length.is_some_and(|length| length.parse().is_ok_and(|length: usize| length <= MAX_DRAIN))
}

/// Sends an answer; the length is added here.
pub(super) async fn reply(session: &mut Session, ctx: &mut Context, reply: Reply) -> Result<()> {
    let Reply { mut head, body } = reply;
    if is_soon_drained(session.req_header()) {
        session.set_close_on_response_before_downstream_finish(false);
    }
    finish_head(&mut head, ctx)?;
    if may_have_length(head.status) {
        head.insert_header(header::CONTENT_LENGTH, body.len())?;
    }
    let no_body = body.is_empty() || session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(head), no_body).await?;
    if no_body {
        return Ok(());
    }
    session.write_response_body(Some(body), true).await
}

/// [RFC 9110, 8.6](https://www.rfc-editor.org/rfc/rfc9110#section-8.6)
fn may_have_length(status: StatusCode) -> bool {
    !status.is_informational() && status != StatusCode::NO_CONTENT
}

/// The response phase: policies, last one first, then the headers that they asked for in the request phase.
pub(super) fn finish_head(head: &mut ResponseHeader, ctx: &mut Context) -> Result<()> {
    match &ctx.route {
        Some(route) if route.chain.is_empty() => {}
        Some(route) => Arc::clone(route).chain.on_response(head, ctx),
        None => Arc::clone(&ctx.snapshot).fallback.on_response(head, ctx),
    }
    for (name, value) in ctx.response_headers.drain(..) {
        head.insert_header(name, value)?;
    }
    Ok(())
}

/// The same as bytes. The connection is closed behind it.
pub(super) fn raw_problem(reject: &Reject, ctx: &mut Context) -> Result<Vec<u8>> {
    let Reply { mut head, body } = whole_problem(reject, ctx)?;
    head.insert_header(header::CONNECTION, "close")?;
    let status = reject.status();
    let reason = status.canonical_reason().unwrap_or_default();
    let mut raw = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    head.header_to_h1_wire(&mut raw);
    raw.extend_from_slice(b"\r\n");
    raw.extend_from_slice(&body);
    Ok(raw)
}

/// A redirect to `location`; `None` if the request made it something that is no header value.
pub(super) fn redirect(status: StatusCode, location: &str) -> Option<Reply> {
    let location = HeaderValue::from_str(location).ok()?;
    let mut head = ResponseHeader::build(status, Some(4)).ok()?;
    head.insert_header(header::LOCATION, location).ok()?;
    Some(Reply { head, body: Bytes::new() })
}
