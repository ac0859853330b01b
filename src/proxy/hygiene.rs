//! What servers read differently in a request that is well framed, and what its route says to that.
//!
//! [`admit`](super::admit) finds the route by the normal form of the request, together with the rules that the request
//! breaks. Only then is judged: what the route does not let through is refused, or taken away where a header is all there
//! is to it. Requests that no route takes are held to every rule.

use std::{os::fd::RawFd, time::Duration};

use http::{HeaderName, HeaderValue, Method, Version, header};
use pingora::{http::RequestHeader, protocols::l4::ext::get_tcp_info, upstreams::peer::HttpPeer};
use pingora_proxy::Session;
use smallvec::SmallVec;

use super::context::Context;
use crate::{
    identity::{are_confusable, fold},
    reject::Reject,
    route::rules::{Lenience, Rule, Rules},
};

/// Headers of which there is one, or none: servers differ in which one they take.
const SINGLE: [HeaderName; 14] = [
    header::AUTHORIZATION,
    header::CONTENT_LOCATION,
    header::CONTENT_TYPE,
    header::DATE,
    header::FROM,
    header::IF_MODIFIED_SINCE,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::MAX_FORWARDS,
    header::ORIGIN,
    header::PROXY_AUTHORIZATION,
    header::RANGE,
    header::REFERER,
    header::USER_AGENT,
];

/// Headers that have some frameworks take the request for one with another method than was authorised.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method", "x-http-method-override", "x-method-override"];

/// What to use instead of a method that nobody knows.
const KNOWN_METHODS: &str = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT";

pub(super) fn is_method_override(name: &str) -> bool {
    METHOD_OVERRIDES.contains(&name)
}

/// Whether a name is one that a server which makes variables of headers can take for another one.
pub(super) fn is_confusable(name: &str) -> bool {
    // To look at every byte is quicker than to stop at one that nearly no name has.
    name.bytes().fold(false, |found, byte| found | (fold(byte) != byte))
}

/// Whether a confusable name can be taken for one that says how long the body is.
pub(super) fn is_framing(name: &str) -> bool {
    [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].iter().any(|framing| are_confusable(name, framing.as_str()))
}

/// The rules that method and headers break. What is said by a single look at the names is in `rules` already.
pub(super) fn examine(request: &RequestHeader, mut rules: Rules, confusable: bool) -> Rules {
    let known = matches!(
        request.method,
        Method::GET | Method::POST | Method::PUT | Method::DELETE | Method::HEAD | Method::PATCH | Method::OPTIONS
    );
    if !known {
        rules.insert(Rule::UnknownMethods);
    }
    // Nearly no request has any header twice.
    if request.headers.len() > request.headers.keys_len() && SINGLE.iter().any(|name| is_twice(request, name)) {
        rules.insert(Rule::DuplicateHeaders);
    }
    if confusable && !twins(request).is_empty() {
        rules.insert(Rule::ConfusableHeaders);
    }
    rules
}

fn is_twice(request: &RequestHeader, name: &HeaderName) -> bool {
    request.headers.get_all(name).iter().nth(1).is_some()
}

/// Confusable names that stand beside another one that they can be taken for. Sorted rather than compared each with each: there may
/// be a hundred.
fn twins(request: &RequestHeader) -> SmallVec<[HeaderName; 2]> {
    let folded = |name: &HeaderName| name.as_str().bytes().map(fold).collect::<SmallVec<[u8; 32]>>();
    let mut all: Vec<_> = request.headers.keys().map(|name| (folded(name), name)).collect();
    all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let groups = all.chunk_by(|(one, _), (other, _)| one == other).filter(|group| group.len() > 1);
    groups.flatten().map(|(_, name)| *name).filter(|name| is_confusable(name.as_str())).cloned().collect()
}

/// Takes away what can be taken for a header that policies or the gateway wrote: at this point, the client's own
/// twins were refused already.
pub(super) fn drop_twins(request: &mut RequestHeader) {
    for name in twins(request) {
        request.remove_header(&name);
    }
}

/// Gives a request a connection to the upstream of its own, if nobody else may get it afterwards. An upstream that does not
/// expect a body takes it for the next request, and would answer that one to someone else.
pub(super) fn keep_apart(session: &mut Session, peer: &mut HttpPeer, ctx: &Context) {
    let plain = matches!(session.req_header().method, Method::GET | Method::HEAD);
    // Whoever waits for 100 Continue may send a body behind an answer that an upstream takes for the end of the request.
    let waits = ctx.binding && session.req_header().headers.contains_key(header::EXPECT) && !session.is_body_empty();
    let bound = ctx.binding && is_bound(session.req_header());
    let spoils = bound || waits || (plain && !session.is_body_empty());
    // Streams of HTTP/2 have nothing to do with each other.
    if spoils && peer.options.alpn.get_min_http_version() == 1 {
        peer.options.idle_timeout = Some(Duration::ZERO);
        peer.group_key = rand::random();
    }
}

/// After so many interim responses the real one has to come.
const MAX_INTERIM: u8 = 16;

/// Counts an interim response.
pub(super) fn interim(ctx: &mut Context) -> Result<(), Reject> {
    ctx.attempt.interim = ctx.attempt.interim.saturating_add(1);
    if ctx.attempt.interim > MAX_INTERIM { Err(Reject::UpstreamInvalid) } else { Ok(()) }
}

/// Refuses a new connection on which a server of HTTP/1.1 has spoken before it was asked: whatever that is, it is no answer to
/// the request. TLS lets nothing through before its handshake, and HTTP/2 may begin on either side.
pub(super) fn unasked(peer: &HttpPeer, socket: RawFd) -> Result<(), Reject> {
    if peer.is_tls() || peer.options.alpn.get_min_http_version() != 1 {
        return Ok(());
    }
    // Of a Unix socket there is nothing to be learned.
    let received = get_tcp_info(socket).map_or(0, |info| info.tcpi_bytes_received);
    if received == 0 { Ok(()) } else { Err(Reject::UpstreamInvalid) }
}

/// Whether the credentials are bound to the connection that they come on: whoever comes next on it would be taken for
/// the same one ([RFC 4559, 6](https://www.rfc-editor.org/rfc/rfc4559#section-6)).
fn is_bound(request: &RequestHeader) -> bool {
    let sent = request.headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let scheme = sent.trim_ascii_start().split(u8::is_ascii_whitespace).next().unwrap_or_default();
    scheme.eq_ignore_ascii_case(b"negotiate") || scheme.eq_ignore_ascii_case(b"ntlm")
}

/// Refuses what the route does not let through, and notes what it lets through for a trial.
pub(super) fn judge(mut broken: Rules, request: &mut RequestHeader, ctx: &mut Context) -> Result<(), Reject> {
    let route = ctx.route.clone();
    if route.as_ref().is_none_or(|route| route.names_methods) {
        // A method that the route names is known to it; and if none takes it, that is said with the methods that are.
        broken.remove(Rule::UnknownMethods);
    }
    let lenience = route.as_ref().map_or_else(Lenience::default, |route| route.hygiene);
    let mut refused = broken.without(lenience.allowed).without(lenience.shadowed);
    if refused.contains(Rule::MethodOverride) {
        for name in METHOD_OVERRIDES {
            request.remove_header(name);
        }
        refused.remove(Rule::MethodOverride);
    }
    match refused.iter().next() {
        None => {}
        Some(Rule::UnknownMethods) => {
            return Err(Reject::MethodNotAllowed { allow: HeaderValue::from_static(KNOWN_METHODS) });
        }
        Some(rule) => return Err(Reject::Irregular(rule)),
    }
    for rule in broken.within(lenience.shadowed).iter() {
        if let Some(count) = route.as_ref().and_then(|route| route.shadow.as_ref()) {
            count.inc();
        }
        ctx.would_reject.push(rule.name());
    }
    Ok(())
}

/// There is one expectation, and it stands once ([RFC 9110, 10.1.1](https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1)).
/// Where no body waits for the answer, or the client knows none, it does not go on.
pub(super) fn expectation(request: &mut RequestHeader) -> Result<(), Reject> {
    if request.version == Version::HTTP_10 {
        request.remove_header(&header::EXPECT);
        return Ok(());
    }
    let mut sent = request.headers.get_all(header::EXPECT).iter();
    match (sent.next(), sent.next()) {
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"100-continue") => {}
        _ => return Err(Reject::ExpectationFailed),
    }
    let length = request.headers.get(header::CONTENT_LENGTH);
    let empty = length.map_or(request.version == Version::HTTP_11, |length| length.as_bytes() == b"0");
    if empty && !request.headers.contains_key(header::TRANSFER_ENCODING) {
        request.remove_header(&header::EXPECT);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build(method, b"/", None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    fn broken(method: &str, headers: &[(&'static str, &str)]) -> Vec<Rule> {
        let request = request(method, headers);
        let confusable = request.headers.keys().any(|name| is_confusable(name.as_str()));
        examine(&request, Rules::default(), confusable).iter().collect()
    }

    #[test]
    fn what_servers_read_differently_is_found() {
        assert_eq!(broken("GET", &[("cookie", "a"), ("cookie", "b"), ("x_a", "1"), ("x-b", "2")]), []);
        for method in ["get", "GETX", "PROPFIND", "G"] {
            assert_eq!(broken(method, &[]), [Rule::UnknownMethods], "{method}");
        }
        for name in ["authorization", "content-type", "user-agent"] {
            assert_eq!(broken("GET", &[(name, "a"), (name, "a")]), [Rule::DuplicateHeaders], "{name}");
        }
        for (one, other) in [("x-role", "x_role"), ("x.role", "x_role"), ("a_b-c", "a-b_c")] {
            assert_eq!(broken("GET", &[(one, "a"), (other, "b")]), [Rule::ConfusableHeaders], "{one} {other}");
        }
    }

    #[test]
    fn twins_go_and_what_they_are_taken_for_stays() {
        let mut request = request("GET", &[("x-role", "a"), ("x_role", "b"), ("x.role", "c"), ("x_other", "d")]);
        drop_twins(&mut request);
        let mut left: Vec<_> = request.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-role", "x_other"]);
    }

    #[test]
    fn there_is_one_expectation() {
        for (headers, stays) in [
            (&[("expect", "100-continue"), ("content-length", "5")][..], Some(true)),
            (&[("expect", "100-Continue"), ("transfer-encoding", "chunked")], Some(true)),
            (&[("expect", "100-continue"), ("content-length", "0")], Some(false)),
            (&[("expect", "100-continue")], Some(false)),
            (&[("expect", "100-continue"), ("expect", "100-continue")], None),
            (&[("expect", "100-continue, x")], None),
            (&[("expect", "")], None),
        ] {
            let mut request = request("POST", headers);
            let stayed = expectation(&mut request).ok().map(|()| request.headers.contains_key("expect"));
            assert_eq!(stayed, stays, "{headers:?}");
        }
    }
}
