//! Answers that the gateway makes itself: refusals as problem documents, replies of policies, redirects.
//!
//! They pass through the response phase of the chain like those of upstreams, so that CORS and security headers are on
//! every answer. They leave the connection usable, unless what follows on it may not be a request.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
    time::timeout,
};
use pingora_proxy::Session;

use super::{context::Context, grpc};
use crate::{
    grpc::{Kind, Status},
    policy::{Form, Reply},
    problem::{self, Problem},
    reject::Reject,
};

/// Whether the client has the header of its answer: behind it comes a body, or another protocol, and no other answer.
pub(super) fn has_begun(session: &Session) -> bool {
    let is_last = |status: StatusCode| !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS;
    session.response_written().is_some_and(|head| is_last(head.status))
}

/// Answers with a problem document, or a status of gRPC.
pub(super) async fn refuse(session: &mut Session, ctx: &mut Context, reject: Reject) -> Result<()> {
    let answer = answer(&reject, session.req_header(), ctx)?;
    let closes = reject.closes_connection();
    if closes {
        session.set_keepalive(None);
    }
    ctx.reject = Some(reject);
    reply(session, ctx, answer).await?;
    if closes && !session.as_downstream().is_custom() && !session.req_header().headers.contains_key(header::EXPECT) {
        read_on(session, MAX_LINGER, Duration::from_millis(500)).await;
    }
    Ok(())
}

/// How much of a refused body is read over HTTP/1.1: a connection that is closed with unread data is reset, and the answer may
/// be lost with it.
const MAX_LINGER: usize = 8 << 20;

/// What the client can read: a problem document, or a status of gRPC.
fn answer(reject: &Reject, to: &RequestHeader, ctx: &mut Context) -> Result<Reply> {
    match grpc::kind(to) {
        Some(kind) => {
            ctx.grpc_status = Status::of(reject).code().parse().ok();
            grpc::answer(reject, kind, to.headers.get(header::CONTENT_TYPE))
        }
        None => problem(reject, ctx),
    }
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

/// Has the session of the request stay with the endpoint that answered it, where the upstream wants that.
pub(super) fn stick(request: &RequestHeader, response: &mut ResponseHeader, ctx: &Context) {
    let Some(upstream) = ctx.upstream() else { return };
    let cookie = ctx.attempt.lease.as_ref().and_then(|lease| upstream.stick(request, lease, ctx.secure));
    let Some(cookie) = cookie else { return };
    // A cache would give every client the same endpoint.
    let set = response.append_header(header::SET_COOKIE, cookie).and_then(|_| keep_private(response));
    if let Err(error) = set {
        log::debug!("a cookie could not be set: {error}");
    }
}

/// A refusal for a request that Pingora never sees, with what policies add to every answer.
pub(super) fn whole_answer(reject: &Reject, to: &RequestHeader, ctx: &mut Context) -> Result<Reply> {
    let mut answer = answer(reject, to, ctx)?;
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
    // Those of gRPC-Web send one message, mostly without saying how long it is.
    let is_web = length.is_none() && matches!(grpc::kind(request), Some(Kind::Web | Kind::WebText));
    !request.headers.contains_key(header::EXPECT)
        && (is_web || length.is_some_and(|length| length.parse().is_ok_and(|length: usize| length <= MAX_DRAIN)))
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
    if no_body && let Some(stream) = session.as_downstream_mut().as_custom_mut() {
        // Pingora would send the end by itself, later; a client of gRPC wants it with the header.
        stream.write_response_header(Box::new(head), true).await?;
    } else {
        session.write_response_header(Box::new(head), no_body).await?;
        if !no_body {
            session.write_response_body(Some(body), true).await?;
        }
    }
    settle(session).await;
    Ok(())
}

/// Answers what depends on the body of the request.
pub(super) async fn form(session: &mut Session, ctx: &mut Context, form: Form) -> Result<()> {
    match read_form(session, form).await {
        Ok(answer) => reply(session, ctx, answer).await,
        Err(reject) => refuse(session, ctx, reject).await,
    }
}

/// Reads the body that an answer depends on, and makes the answer.
async fn read_form(session: &mut Session, form: Form) -> Result<Reply, Reject> {
    let mut body = BytesMut::new();
    ask_for_body(session).await.map_err(|_error| FORM_BROKEN)?;
    let reading = async {
        while let Some(piece) = session.read_request_body().await.map_err(|_error| FORM_BROKEN)? {
            if body.len() + piece.len() > form.max {
                return Err(Reject::BodyTooLarge);
            }
            body.extend_from_slice(&piece);
        }
        Ok(())
    };
    match timeout(FORM_TIME, reading).await {
        Ok(read) => read?,
        Err(_) => return Err(Reject::SLOW_BODY),
    }
    (form.then)(body.freeze()).await
}

/// Tells a client that waits for that to send its body. The upstream need not be asked once more.
pub(super) async fn ask_for_body(session: &mut Session) -> Result<()> {
    if session.req_header().headers.contains_key(header::EXPECT) {
        // Pingora would close the connection behind the answer, as if this were one.
        session.set_close_on_response_before_downstream_finish(false);
        session.as_mut().write_continue_response().await?;
        session.set_close_on_response_before_downstream_finish(true);
        session.req_header_mut().remove_header(&header::EXPECT);
    }
    Ok(())
}

/// How long a form may take.
const FORM_TIME: Duration = Duration::from_secs(10);

const FORM_BROKEN: Reject = Reject::BadRequest("the body of the request breaks off");

/// Reads on for a moment, if a request of HTTP/2 is not whole yet. Its stream is reset when it is dropped, and what comes
/// for it then makes the `h2` crate throw away what is not sent yet: the answer.
pub(super) async fn settle(session: &mut Session) {
    if !session.as_downstream().is_custom() || session.as_mut().is_body_done() {
        return;
    }
    read_on(session, MAX_DRAIN, Duration::from_secs(1)).await;
}

/// Throws away so much of the body of a request, for so long.
async fn read_on(session: &mut Session, mut left: usize, time: Duration) {
    let rest = async {
        while left > 0
            && !session.as_mut().is_body_done()
            && let Ok(Some(piece)) = session.read_request_body().await
        {
            left = left.saturating_sub(piece.len());
        }
    };
    // Whether it ends by itself makes no difference.
    drop(timeout(time, rest).await);
}

/// Whether another response to the same request follows.
pub(super) fn is_interim(response: &ResponseHeader) -> bool {
    response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS
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
        // Each is one of its own, beside those of the upstream.
        if name == header::SET_COOKIE {
            keep_private(head)?;
            head.append_header(name, value)?;
        } else {
            head.insert_header(name, value)?;
        }
    }
    if let Some(alternative) = ctx.connection.as_ref().and_then(|connection| connection.alternative.as_ref()) {
        head.insert_header(header::ALT_SVC, alternative.clone())?;
    }
    Ok(())
}

/// Whoever keeps answers on the way must not give one's cookie to another.
fn keep_private(head: &mut ResponseHeader) -> Result<()> {
    let said = head.headers.get_all(header::CACHE_CONTROL).iter();
    let mut words = said.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',').map(str::trim));
    if !words.any(|word| ["no-store", "private"].iter().any(|one| word.eq_ignore_ascii_case(one))) {
        head.insert_header(header::CACHE_CONTROL, "private, no-cache")?;
    }
    Ok(())
}

/// The same as bytes, and how many of them are the body. The connection is closed behind it.
pub(super) fn raw_answer(reject: &Reject, to: &RequestHeader, ctx: &mut Context) -> Result<(StatusCode, Vec<u8>, u64)> {
    let Reply { mut head, body } = whole_answer(reject, to, ctx)?;
    head.insert_header(header::CONNECTION, "close")?;
    let status = head.status;
    let reason = status.canonical_reason().unwrap_or_default();
    let mut raw = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    head.header_to_h1_wire(&mut raw);
    raw.extend_from_slice(b"\r\n");
    raw.extend_from_slice(&body);
    Ok((status, raw, u64::try_from(body.len()).unwrap_or(u64::MAX)))
}

/// A redirect to `location`; `None` if the request made it something that is no header value.
pub(super) fn redirect(status: StatusCode, location: &str) -> Option<Reply> {
    let location = HeaderValue::from_str(location).ok()?;
    let mut head = ResponseHeader::build(status, Some(4)).ok()?;
    head.insert_header(header::LOCATION, location).ok()?;
    Some(Reply { head, body: Bytes::new() })
}
