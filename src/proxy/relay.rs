//! What the upstream sees: path, `Host`, and the headers that the gateway alone may write.
//!
//! This runs after Pingora has taken the hop-by-hop headers away, for each try anew: a client cannot nominate what is
//! added here for removal.

use http::{HeaderName, HeaderValue, Uri, header};
use pingora::{Error, ErrorType, Result, http::RequestHeader};

use super::context::Context;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What a client may claim about the way that its request came, and the gateway does not believe.
const CLAIMS: [&str; 5] =
    ["forwarded", "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-server", "x-original-url"];

/// Writes what the upstream gets.
pub(super) fn relay(request: &mut RequestHeader, sent: &RequestHeader, ctx: &Context, via: &HeaderValue) -> Result<()> {
    let Some(route) = &ctx.route else {
        return Error::e_explain(ErrorType::InternalError, "no route");
    };
    if let Some(rewrite) = &route.rewrite {
        let path = rewrite.apply(sent.uri.path(), &ctx.params);
        let whole = match sent.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.into_owned(),
        };
        let uri =
            Uri::try_from(whole).map_err(|error| Error::because(ErrorType::InternalError, "rewritten path", error))?;
        request.set_uri(uri);
    }
    let original = sent.headers.get(header::HOST).cloned();
    let original = original.or_else(|| HeaderValue::from_str(&ctx.host).ok());
    if let Some(host) = &original {
        request.insert_header(X_FORWARDED_HOST, host.clone())?;
    }
    if let Some(host) = route.host.as_ref().or(original.as_ref()) {
        request.insert_header(header::HOST, host.clone())?;
    }
    for claim in CLAIMS {
        request.remove_header(claim);
    }
    let proto = if ctx.secure { "https" } else { "http" };
    request.insert_header(X_FORWARDED_PROTO, HeaderValue::from_static(proto))?;
    if let Some(connection) = &ctx.connection {
        request.insert_header(X_FORWARDED_FOR, connection.client_value.clone())?;
        request.insert_header(X_REAL_IP, connection.client_value.clone())?;
    }
    request.insert_header(TRACEPARENT, ctx.trace.header_value())?;
    request.append_header(header::VIA, via.clone())?;
    if let Some(identity) = &ctx.identity {
        for (name, value) in identity.headers() {
            request.insert_header(name.clone(), value.clone())?;
        }
    }
    Ok(())
}
