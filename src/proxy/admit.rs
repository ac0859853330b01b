//! The request phase: hygiene, route, policies. It works on the header alone, so that it can be driven without a socket.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Uri, header};
use pingora::http::RequestHeader;

use super::{
    context::{Context, HostName, Params, Version},
    grpc, hop, hygiene, relay, respond, spelling,
};
use crate::{
    clock::nanos,
    identity,
    policy::Flow,
    reject::Reject,
    route::{
        Found, normalise_host, path,
        rules::{Rule, Rules},
    },
    runtime::{Action, Route},
};

/// Lets a request on to its upstream, answers it, or refuses it.
pub async fn admit(request: &mut RequestHeader, ctx: &mut Context, instance: &str) -> Result<Flow, Reject> {
    let broken = hygiene(request, ctx, instance)?;
    let found = route(request, ctx);
    if !broken.is_empty() {
        hygiene::judge(broken, request, ctx)?;
    }
    found?;
    let route = match &ctx.route {
        None => return Err(Reject::RouteNotFound),
        Some(route) if route.chain.is_empty() && matches!(route.action, Action::Forward(_)) => {
            strip_sessions(request, ctx)?;
            bound_body(request, ctx)?;
            return Ok(Flow::Continue);
        }
        Some(route) => Arc::clone(route),
    };
    // Policies write headers, too.
    spelling::forget_in_request(request, ctx);
    match route.chain.on_request(request, ctx).await? {
        Flow::Continue => strip_sessions(request, ctx)?,
        reply @ (Flow::Reply(_) | Flow::Read(_)) => return Ok(reply),
    }
    match &route.action {
        Action::Forward(_) => {
            bound_body(request, ctx)?;
            Ok(Flow::Continue)
        }
        Action::Split(split) => {
            let (at, drawn) = split.choose(request, ctx);
            ctx.version = Some(Version { at, drawn });
            let total = ctx.upstream().and_then(|upstream| upstream.timeouts().total);
            bound_time(ctx, route.timeout, total.map(|total| total.0));
            bound_body(request, ctx)?;
            Ok(Flow::Continue)
        }
        Action::Redirect { to, status } => {
            let location = to.render(request, ctx);
            let reply = respond::redirect(*status, &location);
            let reply = reply.ok_or(Reject::BadRequest("the target of the redirect is not valid"))?;
            Ok(Flow::Reply(Box::new(reply)))
        }
    }
}

/// Whoever has the cookie of a session is its user: no upstream needs to be.
fn strip_sessions(request: &mut RequestHeader, ctx: &Context) -> Result<(), Reject> {
    if ctx.snapshot.cookies.is_empty() || !request.headers.contains_key(header::COOKIE) {
        return Ok(());
    }
    ctx.snapshot.cookies.iter().try_for_each(|jar| jar.strip(request))
}

/// Whether there is a body behind the header of an HTTP/1.1 request.
pub(crate) fn has_body(request: &RequestHeader) -> bool {
    let length = request.headers.get(header::CONTENT_LENGTH).map(HeaderValue::as_bytes);
    request.headers.contains_key(header::TRANSFER_ENCODING)
        || length.is_some_and(|length| length.iter().any(|digit| *digit != b'0'))
}

/// Where no policy says how large the body may be, the listener does.
fn bound_body(request: &RequestHeader, ctx: &mut Context) -> Result<(), Reject> {
    let listener = ctx.connection.as_ref().and_then(|connection| connection.limits.max_body);
    if ctx.max_body.is_some() || listener.is_none() || streams_messages(request, ctx) {
        return Ok(());
    }
    ctx.max_body = listener;
    let length = request.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    // What is no number was refused long ago.
    ctx.body_read(length.and_then(|length| length.parse().ok()).unwrap_or(0))
}

/// A stream of gRPC messages may go on for days; the messages have a size, and it has none. Only what can be one is taken for one: the
/// media type alone would let anybody past the limit.
pub(crate) fn streams_messages(request: &RequestHeader, ctx: &Context) -> bool {
    let speaks_http2 = ctx.route.as_ref().is_some_and(|route| route.speaks_http2());
    if request.method != Method::POST || request.version < http::Version::HTTP_2 || !speaks_http2 {
        return false;
    }
    let kind = request.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let rest = kind.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| rest.first().is_none_or(|next| matches!(next, b'+' | b';' | b' ')))
}

/// Brings the request into the form in which it is matched, authorised and sent on, or refuses it. Returns the rules
/// that it breaks: whether that is let through depends on the route.
fn hygiene(request: &mut RequestHeader, ctx: &mut Context, instance: &str) -> Result<Rules, Reject> {
    if request.method == Method::CONNECT || request.method == Method::TRACE {
        return Err(Reject::MethodNotSupported);
    }
    ctx.host = host(request)?;
    if let Some(tls) = ctx.connection.as_ref().and_then(|connection| connection.tls.as_ref())
        && !tls.is_for(&ctx.host)
    {
        return Err(Reject::Misdirected);
    }
    if let Some(authority) = request.uri.authority().filter(|_| !request.headers.contains_key(header::HOST)) {
        // As it was sent, with the port: an upstream that speaks HTTP/1.1 needs it.
        let host = HeaderValue::from_str(authority.as_str());
        if host.is_ok_and(|host| request.insert_header(header::HOST, host).is_err()) {
            return Err(Reject::Internal);
        }
    }
    let mut broken = normalise_target(request)?;
    let found = Survey::of(request);
    if found.expect {
        hygiene::expectation(request)?;
    }
    if found.method_override {
        broken.insert(Rule::MethodOverride);
    }
    if found.framing {
        return Err(Reject::BadRequest("a header can be taken for Content-Length or Transfer-Encoding"));
    }
    if found.doomed {
        clean_headers(request);
    }
    ctx.confusable = found.confusable;
    ctx.binding = found.expect || found.credentials;
    ctx.upgrade = found.upgrade && !has_body(request);
    if found.upgrade && !ctx.upgrade {
        // Where a body is to come, nothing can be said in another protocol; one may be declined (RFC 9110, 7.8).
        request.remove_header(&header::UPGRADE);
    }
    if found.connection {
        // `Connection: X-Consumer-Id` would take away what the gateway adds (CVE-2024-45410 and others).
        hop::clean_request(request);
    }
    if found.via && passed_before(request, instance) {
        return Err(Reject::Loop);
    }
    if found.content {
        grpc::look_at(request, ctx)?;
    }
    if found.trace
        && let Some(parent) = request.headers.get("traceparent")
    {
        ctx.trace = ctx.trace.continued(parent);
    }
    Ok(hygiene::examine(request, broken, found.confusable))
}

/// Which headers there are to look at. One pass over the names costs less than looking each of them up.
#[expect(clippy::struct_excessive_bools, reason = "findings that have nothing to do with each other")]
#[derive(Default)]
struct Survey {
    connection: bool,
    upgrade: bool,
    content: bool,
    via: bool,
    trace: bool,
    doomed: bool,
    expect: bool,
    credentials: bool,
    method_override: bool,
    confusable: bool,
    framing: bool,
}

impl Survey {
    fn of(request: &RequestHeader) -> Self {
        let mut found = Self::default();
        for name in request.headers.keys() {
            match name.as_str() {
                "connection" => found.connection = true,
                "upgrade" => found.upgrade = true,
                "content-type" => found.content = true,
                "via" => found.via = true,
                "traceparent" => found.trace = true,
                "expect" => found.expect = true,
                "authorization" => found.credentials = true,
                name if hygiene::is_method_override(name) => found.method_override = true,
                name => {
                    found.doomed |= is_doomed(name);
                    if hygiene::is_confusable(name) {
                        found.confusable = true;
                        found.framing |= hygiene::is_framing(name);
                    }
                }
            }
        }
        found
    }
}

/// What only the gateway may say.
fn is_doomed(name: &str) -> bool {
    identity::is_reserved(name) || name == "proxy" || relay::is_claim(name)
}

/// The host, which stands in `Host` and for HTTP/2 in `:authority`; if in both, they must agree.
fn host(request: &RequestHeader) -> Result<HostName, Reject> {
    const NO_HOST: Reject = Reject::BadRequest("the Host is missing or not valid");
    let authority = request.uri.authority().map(http::uri::Authority::as_str);
    let mut sent = request.headers.get_all(header::HOST).iter();
    let (first, second) = (sent.next(), sent.next());
    if second.is_some() {
        return Err(NO_HOST);
    }
    let first = first.map(|value| value.to_str().map_err(|_error| NO_HOST)).transpose()?;
    let normal = |text| normalise_host(text).and_then(|host| HostName::from(&host).ok()).ok_or(NO_HOST);
    match (authority, first) {
        (Some(authority), Some(host)) => {
            let (one, other) = (normal(authority)?, normal(host)?);
            if one != other {
                return Err(Reject::BadRequest("the Host is not the one of the request line"));
            }
            Ok(one)
        }
        (Some(one), None) | (None, Some(one)) => normal(one),
        // HTTP/1.0 has no Host; such a request takes routes for any host.
        (None, None) if request.version == http::Version::HTTP_10 => Ok(HostName::new()),
        (None, None) => Err(NO_HOST),
    }
}

/// Puts the path into its one normal form, and the target into origin form (`/path?query`).
fn normalise_target(request: &mut RequestHeader) -> Result<Rules, Reject> {
    let raw = std::str::from_utf8(request.raw_path())
        .map_err(|_error| Reject::BadRequest("the target of the request is not ASCII"))?;
    let is_h2 = request.version == http::Version::HTTP_2;
    let target = if raw.starts_with('/') || is_h2 { Cow::Borrowed(raw) } else { Cow::Owned(origin_form(raw)?) };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&*target, None),
    };
    let path::Normal { path: normal, mut broken } = path::normalise(path).map_err(Reject::BadPath)?;
    for byte in query.unwrap_or_default().bytes() {
        match byte {
            b'#' | 0..=b' ' | 0x7f => {
                return Err(Reject::BadRequest("the query has a character that does not belong into one"));
            }
            b';' => broken.insert(Rule::QuerySemicolon),
            _ => {}
        }
    }
    if matches!((&normal, &target), (Cow::Borrowed(_), Cow::Borrowed(_))) && request.uri.path() == path {
        return Ok(broken);
    }
    let mut whole = normal.into_owned();
    if let Some(query) = query {
        whole.push('?');
        whole.push_str(query);
    }
    let uri = Uri::try_from(whole).map_err(|_error| Reject::BadRequest("the target of the request is not valid"))?;
    request.set_uri(uri);
    Ok(broken)
}

/// The path and query of `http://host/path?query`. Anything else (`*`, `host:port`, `path`) is no request for a gateway.
fn origin_form(raw: &str) -> Result<String, Reject> {
    let rest = raw
        .get(..8)
        .and_then(|start| {
            let start = start.to_ascii_lowercase();
            let scheme = ["http://", "https://"].into_iter().find(|scheme| start.starts_with(scheme))?;
            raw.get(scheme.len()..)
        })
        .ok_or(Reject::BadPath(path::PathError::NotAbsolute))?;
    let slash = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at_checked(slash).unwrap_or((rest, ""));
    if authority.is_empty() || authority.contains('@') {
        return Err(Reject::BadRequest("the target of the request is not valid"));
    }
    Ok(if target.starts_with('/') { target.to_owned() } else { format!("/{target}") })
}

fn clean_headers(request: &mut RequestHeader) {
    let names: Vec<_> = request.headers.keys().filter(|name| is_doomed(name.as_str())).cloned().collect();
    for name in names {
        request.remove_header(&name);
    }
}

/// Whether the gateway's own name stands in `Via` ([RFC 9110, 7.6.3](https://www.rfc-editor.org/rfc/rfc9110#section-7.6.3)).
fn passed_before(request: &RequestHeader, instance: &str) -> bool {
    let all = request.headers.get_all(header::VIA);
    all.iter().any(|value| memchr::memmem::find(value.as_bytes(), instance.as_bytes()).is_some())
}

fn route(request: &RequestHeader, ctx: &mut Context) -> Result<(), Reject> {
    let path = request.uri.path();
    let routes = &ctx.snapshot.routes;
    match routes.find(&ctx.host, path, &request.method, request) {
        Found::Route(route, params) => {
            let route = Arc::clone(route);
            take(ctx, route, params);
            Ok(())
        }
        Found::WrongMethod(methods) => {
            if let Some(asked) = preflight(request)
                && let Found::Route(route, params) = routes.find(&ctx.host, path, &asked, request)
                && route.chain.has("cors")
            {
                let route = Arc::clone(route);
                take(ctx, route, params);
                return Ok(());
            }
            let names: Vec<&str> = methods.iter().map(|method| method.as_str()).collect();
            let allow = HeaderValue::from_str(&names.join(", "));
            let allow = allow.unwrap_or_else(|_| HeaderValue::from_static(""));
            Err(Reject::MethodNotAllowed { allow })
        }
        Found::Ambiguous => Err(Reject::BadRequest("what routes are chosen by is there twice, or in another spelling")),
        Found::Nothing => Err(Reject::RouteNotFound),
    }
}

fn take(ctx: &mut Context, route: Arc<Route>, params: Params) {
    let total = match &route.action {
        Action::Forward(upstream) => upstream.timeouts().total.map(|total| total.0),
        // Which one it is depends on who is calling.
        Action::Split(_) | Action::Redirect { .. } => None,
    };
    bound_time(ctx, route.timeout, total);
    ctx.params = params;
    ctx.route = Some(route);
}

/// The exchange may take as long as both allow. What the client itself gives has been noted already.
fn bound_time(ctx: &mut Context, route: Option<Duration>, upstream: Option<Duration>) {
    let own = deadline(ctx.started.monotonic, route, upstream);
    ctx.deadline = ctx.deadline.into_iter().chain(own).min();
}

/// The method that a CORS preflight asks about. It is answered by the `cors` policy of the route for that method; the
/// upstream never sees it.
fn preflight(request: &RequestHeader) -> Option<Method> {
    if request.method != Method::OPTIONS || !request.headers.contains_key(header::ORIGIN) {
        return None;
    }
    let asked = request.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(asked.as_bytes()).ok()
}

fn deadline(started: u64, route: Option<Duration>, upstream: Option<Duration>) -> Option<u64> {
    let shortest = match (route, upstream) {
        (Some(one), Some(other)) => one.min(other),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => return None,
    };
    Some(started.saturating_add(nanos(shortest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, headers: &[(&str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        for (name, value) in headers {
            request.append_header(name.to_string(), *value).unwrap();
        }
        request
    }

    fn target(raw: &str) -> Result<String, &'static str> {
        let mut request = request(raw, &[]);
        let broken = normalise_target(&mut request).map_err(|reject| reject.code())?;
        if let Some(rule) = broken.iter().next() {
            return Err(rule.name());
        }
        Ok(String::from_utf8_lossy(request.raw_path()).into_owned())
    }

    #[test]
    fn the_target_that_goes_on_is_the_one_that_was_matched() {
        for (raw, wanted) in [
            ("/a?b=c", Ok("/a?b=c")),
            ("/a/../b?x=%2e%2e/", Ok("/b?x=%2e%2e/")),
            ("http://a/x?y", Ok("/x?y")),
            ("HTTP://a", Ok("/")),
            ("https://a?y", Ok("/?y")),
            ("noslash", Err("bad_path")),
            ("*", Err("bad_path")),
            ("http://u@a/x", Err("bad_request")),
            ("/a%2fb", Err("encoded_slash")),
            ("/a?b=c;d=e", Err("query_semicolon")),
        ] {
            assert_eq!(target(raw).as_deref(), wanted.as_ref().copied(), "{raw}");
        }
    }

    #[test]
    fn a_client_cannot_set_or_remove_what_the_gateway_says() {
        let mut sent = request(
            "/",
            &[
                ("x-consumer-id", "root"),
                ("X_Consumer_Groups", "admin"),
                ("proxy", "http://evil"),
                ("connection", "close, X-Consumer-Id, x-other"),
                ("x-other", "for the gateway alone"),
                ("x-third", "kept"),
            ],
        );
        clean_headers(&mut sent);
        hop::clean_request(&mut sent);
        let mut left: Vec<_> = sent.headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(left, ["connection: close", "x-third: kept"]);
    }

    #[test]
    fn host_and_authority_must_agree() {
        assert_eq!(host(&request("/", &[("host", "A.example:80")])).unwrap().as_str(), "a.example");
        assert_eq!(host(&request("http://a/x", &[("host", "a:80")])).unwrap().as_str(), "a");
        for (target, hosts) in [
            ("http://a/x", &[("host", "b")][..]),
            ("/", &[]),
            ("/", &[("host", "a"), ("host", "a")]),
            ("/", &[("host", "a/b")]),
        ] {
            let mut sent = request(target, hosts);
            sent.set_uri(target.parse().unwrap());
            assert!(host(&sent).is_err(), "{target} {hosts:?}");
        }
    }
}
