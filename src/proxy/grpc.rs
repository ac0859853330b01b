//! Refusals for clients of gRPC and gRPC-Web: what a problem document is for others.
//!
//! Before the response has begun, a client of gRPC gets a response that is nothing but a header, one of gRPC-Web one
//! whose body is a frame of trailers. After that the status comes as trailers, if what came before ends with a whole
//! message; otherwise the stream is reset.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};
use pingora_proxy::Session;

use super::{context::Context, respond::settle};
use crate::{
    clock::nanos,
    grpc::{self, Kind, Status},
    policy::{
        Reply,
        grpc_web::{Bridge, trailer_frame},
    },
    reject::Reject,
};

/// What the client of a request speaks, if it is gRPC.
pub(super) fn kind(request: &RequestHeader) -> Option<Kind> {
    request.headers.get(header::CONTENT_TYPE).and_then(Kind::of)
}

/// What a refusal says to such a client.
fn metadata(reject: &Reject) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(4);
    map.insert("grpc-status", HeaderValue::from_static(Status::of(reject).code()));
    map.insert("grpc-message", grpc::message(&reject.to_string()));
    map.insert("torana-reject", HeaderValue::from_static(reject.code()));
    if let Reject::RateLimited { retry_after } = reject {
        let millis = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
        map.insert("grpc-retry-pushback-ms", HeaderValue::from(millis.max(1)));
    }
    map
}

/// The refusal as a whole response.
pub(super) fn answer(reject: &Reject, kind: Kind, sent: Option<&HeaderValue>) -> Result<Reply> {
    let mut head = ResponseHeader::build(StatusCode::OK, Some(8))?;
    let media = sent.cloned().unwrap_or_else(|| HeaderValue::from_static(kind.base()));
    head.insert_header(header::CONTENT_TYPE, media)?;
    if let Some((name, value)) = reject.header() {
        head.insert_header(name, value)?;
    }
    let metadata = metadata(reject);
    let body = match kind {
        Kind::Grpc => {
            for (name, value) in &metadata {
                head.insert_header(name.clone(), value.clone())?;
            }
            Bytes::new()
        }
        Kind::Web | Kind::WebText => {
            let mut bridge = Bridge::new(kind);
            bridge.begin();
            bridge.trailers(&metadata).unwrap_or_else(|| trailer_frame(&metadata))
        }
    };
    Ok(Reply { head, body })
}

/// Ends a response that has begun with the status, where that can still be said.
pub(super) async fn end(session: &mut Session, ctx: &mut Context, reject: &Reject) -> Result<()> {
    let speaks = session.response_written().and_then(|head| head.headers.get(header::CONTENT_TYPE)).and_then(Kind::of);
    let metadata = metadata(reject);
    if speaks == Some(Kind::Grpc)
        && let Some(stream) = session.as_downstream_mut().as_custom_mut()
    {
        stream.write_trailers(metadata).await?;
    } else if let Some(frame) = ctx.grpc_web.as_ref().and_then(|bridge| bridge.cut(&metadata)) {
        session.write_response_body(Some(frame), true).await?;
    } else {
        return Ok(());
    }
    ctx.grpc_status = Status::of(reject).code().parse().ok();
    settle(session).await;
    Ok(())
}

/// What of a request concerns gRPC: what its client speaks, and how long it waits.
pub(super) fn look_at(request: &RequestHeader, ctx: &mut Context) -> Result<(), Reject> {
    ctx.grpc = kind(request);
    let Some(value) = ctx.grpc.and_then(|_| request.headers.get("grpc-timeout")) else {
        return Ok(());
    };
    let time = grpc::timeout(value).ok_or(Reject::BadRequest("the grpc-timeout is not valid"))?;
    ctx.deadline = Some(ctx.started.monotonic.saturating_add(nanos(time)));
    Ok(())
}

/// Makes a request to an upstream one of gRPC, if its client speaks it in some form.
pub(super) fn relay(request: &mut RequestHeader, ctx: &mut Context) -> Result<()> {
    if ctx.grpc.is_none() {
        return Ok(());
    }
    if let Some(bridge) = &mut ctx.grpc_web {
        bridge.restart();
        let media = request.headers.get(header::CONTENT_TYPE).and_then(|sent| Kind::Grpc.translate(sent));
        request.insert_header(
            header::CONTENT_TYPE,
            media.unwrap_or_else(|| HeaderValue::from_static("application/grpc")),
        )?;
        if bridge.kind() == Kind::WebText {
            request.remove_header(&header::CONTENT_LENGTH);
        }
    }
    if request.version == http::Version::HTTP_2 && (ctx.grpc == Some(Kind::Grpc) || ctx.grpc_web.is_some()) {
        // Pingora takes it off what comes in HTTP/1.1; without it, a server takes the gateway for one that loses trailers.
        request.insert_header(header::TE, HeaderValue::from_static("trailers"))?;
    }
    if let Some(deadline) = ctx.deadline {
        let left = Duration::from_nanos(deadline.saturating_sub(ctx.attempt.started));
        request.insert_header("grpc-timeout", grpc::timeout_value(left))?;
    }
    Ok(())
}

/// Notes the status that an upstream says, among its headers or trailers.
pub(super) fn note_status(headers: &HeaderMap, ctx: &mut Context) {
    if ctx.grpc.is_some()
        && let Some(status) = headers.get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok())
    {
        ctx.grpc_status = Some(status);
    }
}
