//! What the upstream sees: path, `Host`, and the headers that the gateway alone may write.
//!
//! This runs after Pingora has taken the hop-by-hop headers away, for each try anew: a client cannot nominate what is
//! added here for removal.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Uri, header};
use pingora::{Error, ErrorType, http::RequestHeader};

use super::{
    context::{Context, Copying},
    forwarded::{self, Told},
    grpc, hygiene, spelling,
};
use crate::{
    identity::fold,
    reject::Reject,
    route::{path, rules::Rule},
    upstream::Upstream,
};

// As text, because of a `HeaderName` Pingora would copy the spelling.
const X_FORWARDED_FOR: &str = "x-forwarded-for";
const X_FORWARDED_PROTO: &str = "x-forwarded-proto";
const X_FORWARDED_HOST: &str = "x-forwarded-host";
const X_FORWARDED_PORT: &str = "x-forwarded-port";
const TRACEPARENT: &str = "traceparent";

/// What a client may claim about the way that its request came, and the gateway neither believes nor always replaces.
const CLAIMS: [&str; 21] = [
    "cf-connecting-ip",
    "fastly-client-ip",
    "forwarded",
    "front-end-https",
    "true-client-ip",
    "x-auth-request-redirect",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-host",
    "x-mirrored-from",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-method",
    "x-original-uri",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
    "x-scheme",
    "x-url-scheme",
    "x-forwarded",
];

/// Begins a copy of the request for the upstream of `mirror`.
pub(super) fn copy(request: &RequestHeader, has_body: bool, ctx: &mut Context) {
    let Some(mirror) = ctx.route.as_ref().and_then(|route| route.mirror.as_ref()) else { return };
    match &mut ctx.copying {
        // Another try: Pingora begins the body anew.
        Copying::Waiting(copy) => copy.restart(),
        Copying::Over => {}
        Copying::No if ctx.upgrade => {}
        Copying::No => {
            let copy = mirror.begin(request, has_body, ctx);
            ctx.copying = copy.map_or(Copying::Over, |copy| Copying::Waiting(Box::new(copy)));
        }
    }
}

/// Adds a piece of the body to the copy.
pub(super) fn copy_piece(piece: Option<&Bytes>, end: bool, ctx: &mut Context) {
    let Some(mirror) = ctx.route.as_ref().and_then(|route| route.mirror.as_ref()) else { return };
    ctx.copying = match std::mem::replace(&mut ctx.copying, Copying::Over) {
        Copying::Waiting(copy) => {
            let copy = mirror.add(*copy, piece, end, ctx);
            copy.map_or(Copying::Over, |copy| Copying::Waiting(Box::new(copy)))
        }
        other @ (Copying::No | Copying::Over) => other,
    };
}

/// Says how many milliseconds are left, where the upstream wants to know.
fn tell_deadline(request: &mut RequestHeader, upstream: &Upstream, ctx: &Context) -> pingora::Result<()> {
    let Some(name) = upstream.deadline_header() else { return Ok(()) };
    request.remove_header(name);
    if let Some(deadline) = ctx.deadline {
        let left = deadline.saturating_sub(ctx.attempt.started) / 1_000_000;
        request.insert_header(name.clone(), left)?;
    }
    Ok(())
}

/// Whether a header of the client's says something about the way of the request that only the gateway may say. An
/// upstream that makes variables of headers cannot tell `X_Forwarded_For` or
/// `X.Forwarded.For` from `X-Forwarded-For`.
pub(super) fn is_claim(name: &str) -> bool {
    // Nearly no name gets any further.
    if !matches!(name.as_bytes().first(), Some(b'x' | b'f' | b't' | b'c')) {
        return false;
    }
    if !hygiene::is_confusable(name) {
        // These two are written anew for each request.
        let anew = matches!(name, X_FORWARDED_FOR | X_FORWARDED_PROTO);
        return CLAIMS.contains(&name) || (name.starts_with("x-forwarded-") && !anew);
    }
    let name: String = name.bytes().map(|byte| char::from(fold(byte))).collect();
    CLAIMS.contains(&&*name) || name.starts_with("x-forwarded-")
}

/// Writes what the upstream gets.
pub(super) fn relay(
    request: &mut RequestHeader,
    sent: &RequestHeader,
    ctx: &mut Context,
    via: &HeaderValue,
) -> pingora::Result<()> {
    grpc::relay(request, ctx)?;
    let Some(route) = &ctx.route else {
        return Error::e_explain(ErrorType::InternalError, "no route");
    };
    let host = sent.headers.get(header::HOST);
    if let Some(own) = &route.host {
        request.insert_header(header::HOST, own.clone())?;
        if let Some(host) = host.filter(|_| ctx.told.as_ref().is_none_or(|told| told.host.is_none())) {
            request.insert_header(X_FORWARDED_HOST, host.clone())?;
        }
    } else if host.is_none() {
        // HTTP/1.0 knows none, but the upstream is spoken to in HTTP/1.1.
        request.insert_header(header::HOST, HeaderValue::from_static(""))?;
    }
    let hops = match (&ctx.connection, &ctx.told) {
        (None, _) => None,
        (Some(connection), None) => Some(connection.client_value.clone()),
        (Some(connection), Some(told)) => Some(pass_on(told, request, &connection.client_value)?),
    };
    if let Some(upstream) = ctx.upstream() {
        if upstream.says_forwarded() {
            request.insert_header(header::FORWARDED, forwarded::whole(ctx, host))?;
        }
        tell_deadline(request, upstream, ctx)?;
    }
    let proto = HeaderValue::from_static(if ctx.secure { "https" } else { "http" });
    introduce(request, ctx, (proto, hops), via)?;
    if ctx.confusable && !route.hygiene.lets(Rule::ConfusableHeaders) {
        hygiene::drop_twins(request);
    }
    Ok(())
}

/// Says what every upstream is told: how the client came, over whom, in which trace, by whom it was sent on, and who it is.
fn introduce(
    request: &mut RequestHeader,
    ctx: &Context,
    (proto, hops): (HeaderValue, Option<HeaderValue>),
    via: &HeaderValue,
) -> pingora::Result<()> {
    const FOR: HeaderName = HeaderName::from_static(X_FORWARDED_FOR);
    const PROTO: HeaderName = HeaderName::from_static(X_FORWARDED_PROTO);
    const PARENT: HeaderName = HeaderName::from_static(TRACEPARENT);
    let own = [Some((PROTO, proto)), hops.map(|hops| (FOR, hops)), Some((PARENT, ctx.trace.header_value()))];
    let identity = ctx.identity.as_ref().map(|identity| identity.headers()).unwrap_or_default();
    let all = own.into_iter().flatten().chain(identity.iter().cloned());
    // Past Pingora where it keeps no spelling: it makes each name anew, which costs more than all the rest of this module.
    if request.version == http::Version::HTTP_11 && spelling::may_part(request) {
        spelling::edit_request(request, |headers| {
            headers.reserve(spelling::ADDED + identity.len());
            for (name, value) in all {
                headers.insert(name, value);
            }
            headers.append(header::VIA, via.clone());
        });
        return Ok(());
    }
    for (name, value) in all {
        request.insert_header(name, value)?;
    }
    request.append_header(header::VIA, via.clone())?;
    Ok(())
}

/// Puts the path in that the upstream sees. It is brought into normal form once more: a parameter that stands for
/// nothing leaves `//` behind, which could be the beginning of a host.
pub(super) fn rewrite(request: &mut RequestHeader, sent: &RequestHeader, ctx: &Context) -> Result<(), Reject> {
    let Some(rewrite) = ctx.route.as_ref().and_then(|route| route.rewrite.as_ref()) else {
        return Ok(());
    };
    let path = rewrite.apply(sent.uri.path(), &ctx.params);
    let normal = path::normalise(&path).map_err(Reject::BadPath)?;
    let whole = match sent.uri.query() {
        Some(query) => format!("{}?{query}", normal.path),
        None => normal.path.into_owned(),
    };
    let uri =
        Uri::try_from(whole).map_err(|_error| Reject::BadRequest("the path is not valid once it is rewritten"))?;
    request.set_uri(uri);
    Ok(())
}

/// Says what trusted proxies said, and returns all hops.
fn pass_on(told: &Told, request: &mut RequestHeader, peer: &HeaderValue) -> pingora::Result<HeaderValue> {
    for (name, value) in [(X_FORWARDED_HOST, &told.host), (X_FORWARDED_PORT, &told.port)] {
        if let Some(value) = value {
            request.insert_header(name, value.clone())?;
        }
    }
    Ok(told.for_value(peer))
}
