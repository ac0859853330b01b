//! Headers that are meant for the next hop alone ([RFC 9110, 7.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1)).
//!
//! Pingora takes the well-known ones off a request, behind the policies. Here the ones that `Connection` names go: those
//! of a request before a policy sees it, so that a client cannot name what the gateway adds later, and those of a response
//! before it reaches the client, together with the well-known ones.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use smallvec::SmallVec;

use crate::reject::Reject;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Options of `Connection` that are no names of headers.
const OPTIONS: [&str; 3] = ["close", "keep-alive", "upgrade"];

/// Headers that are meant for everyone on the way, whatever `Connection` says: framing, credentials, what caches go by,
/// and who was involved. Naming them is forbidden, and an attack where something in front of the gateway added them.
fn is_end_to_end(name: &HeaderName) -> bool {
    const ALL: [HeaderName; 12] = [
        header::HOST,
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::AUTHORIZATION,
        header::COOKIE,
        header::SET_COOKIE,
        header::CACHE_CONTROL,
        header::VARY,
        header::VIA,
    ];
    ALL.contains(name)
        || matches!(name.as_str(), "forwarded" | "traceparent" | "tracestate" | "x-real-ip")
        || name.as_str().starts_with("x-forwarded-")
}

/// What `Connection` lists, in small letters.
fn listed(headers: &HeaderMap) -> impl Iterator<Item = String> {
    let values = headers.get_all(header::CONNECTION).iter();
    let tokens = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    tokens.map(|token| String::from_utf8_lossy(token.trim_ascii()).to_ascii_lowercase())
}

/// The headers that `Connection` names and that may go.
fn named(headers: &HeaderMap) -> SmallVec<[HeaderName; 4]> {
    listed(headers)
        .filter(|token| !OPTIONS.contains(&token.as_str()))
        .filter_map(|token| HeaderName::try_from(token).ok())
        .filter(|name| !is_end_to_end(name))
        .collect()
}

/// Whether `Connection` is one option and nothing else, as it is nearly always.
fn names_nothing(headers: &HeaderMap) -> bool {
    let plain =
        |value: &HeaderValue| OPTIONS.iter().any(|option| value.as_bytes().eq_ignore_ascii_case(option.as_bytes()));
    headers.get_all(header::CONNECTION).iter().all(plain)
}

/// Whether a request has nothing that Pingora would take off it.
pub(super) fn is_end_to_end_only(headers: &HeaderMap) -> bool {
    let is_hop_by_hop = |name: &HeaderName| {
        matches!(
            name.as_str(),
            "connection"
                | "http2-settings"
                | "keep-alive"
                | "proxy-authenticate"
                | "proxy-authorization"
                | "proxy-connection"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
        )
    };
    !headers.keys().any(is_hop_by_hop)
}

/// Takes the headers off that `Connection` names, and leaves of `Connection` what is no name.
pub(super) fn clean_request(request: &mut RequestHeader) {
    if names_nothing(&request.headers) {
        return;
    }
    for name in named(&request.headers) {
        request.remove_header(&name);
    }
    let options: SmallVec<[String; 2]> =
        listed(&request.headers).filter(|token| OPTIONS.contains(&token.as_str())).collect();
    request.remove_header(&header::CONNECTION);
    if let Ok(value) = HeaderValue::try_from(options.join(", "))
        && !options.is_empty()
        && request.insert_header(header::CONNECTION, value).is_err()
    {
        log::debug!("the Connection header could not be cleaned");
    }
}

/// Takes off what an upstream said to the gateway alone. `Connection` itself is Pingora's to write.
pub(super) fn clean_response(response: &mut ResponseHeader) {
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    let (mut connection, mut others) = (false, false);
    for name in response.headers.keys() {
        connection |= name == header::CONNECTION;
        others |= matches!(name.as_str(), "keep-alive" | "proxy-connection" | "upgrade");
    }
    if connection && !names_nothing(&response.headers) {
        for name in named(&response.headers) {
            response.remove_header(&name);
        }
    }
    if others {
        for name in [KEEP_ALIVE, PROXY_CONNECTION, header::UPGRADE] {
            response.remove_header(&name);
        }
    }
}

/// Brings what a response says about its length into one form, or says that there is none: servers differ in what they make of
/// other codings than `chunked` ([RFC 9112, 6.1](https://www.rfc-editor.org/rfc/rfc9112#section-6.1)). Responses without a body have no coding.
pub(super) fn frame_response(response: &mut ResponseHeader) -> Result<(), Reject> {
    let mut codings = response.headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(first) = codings.next() {
        let is_chunked = first.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
        let has_no_body = response.status.is_informational() || response.status == StatusCode::NO_CONTENT;
        if has_no_body {
            response.remove_header(&header::TRANSFER_ENCODING);
        } else if !is_chunked {
            return Err(Reject::UpstreamInvalid);
        }
    }
    let mut lengths = response.headers.get_all(header::CONTENT_LENGTH).iter();
    if let (Some(first), Some(_)) = (lengths.next(), lengths.next()) {
        // Pingora has refused those that differ.
        let first = first.clone();
        drop(response.insert_header(header::CONTENT_LENGTH, first));
    }
    Ok(())
}

/// Whether a response with this status has no body, whatever comes behind it
/// ([RFC 9110, 6.4.1](https://www.rfc-editor.org/rfc/rfc9110#section-6.4.1)). Behind one to HEAD, `h2` lets nothing through.
pub(super) fn is_bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// A client of HTTP/1.0 knows no chunks ([RFC 9112, 6.1](https://www.rfc-editor.org/rfc/rfc9112#section-6.1)): its body
/// ends with the connection. Returns whether that is so.
pub(super) fn unchunk(response: &mut ResponseHeader) -> bool {
    response.remove_header(&header::TRANSFER_ENCODING).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_connection_names_goes_but_what_concerns_everyone_stays() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in [
            ("connection", "Close, X-Mine, bad name"),
            ("connection", "Host,Content-Length , x-forwarded-for, Via, Authorization"),
            ("x-mine", "1"),
            ("host", "a"),
            ("content-length", "0"),
            ("x-forwarded-for", "b"),
            ("via", "c"),
            ("authorization", "d"),
        ] {
            request.append_header(name, value).unwrap();
        }
        clean_request(&mut request);
        assert_eq!(request.headers.get("connection").unwrap(), "close");
        let left: Vec<_> = request.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left.len(), 6, "{left:?}");
        assert!(!left.contains(&"x-mine"));
    }

    /// Those that Pingora takes off, and no others: a request with one of them is left to it.
    #[test]
    fn a_request_for_the_next_hop_is_known_by_any_of_its_headers() {
        for (name, value) in [
            ("Connection", "x"),
            ("HTTP2-Settings", "x"),
            ("Keep-Alive", "x"),
            ("Proxy-Authenticate", "x"),
            ("Proxy-Authorization", "x"),
            ("Proxy-Connection", "x"),
            ("TE", "trailers"),
            ("Trailer", "x"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "x"),
        ] {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            request.append_header("host", "a").unwrap();
            request.append_header("x-te", "b").unwrap();
            assert!(is_end_to_end_only(&request.headers));
            request.append_header(name, value).unwrap();
            assert!(!is_end_to_end_only(&request.headers), "{name}");
        }
    }

    #[test]
    fn a_switch_of_protocols_keeps_its_headers() {
        for (status, stays) in [(101, true), (200, false), (426, false)] {
            let mut response = ResponseHeader::build(status, None).unwrap();
            response.insert_header("connection", "upgrade").unwrap();
            response.insert_header("upgrade", "websocket").unwrap();
            clean_response(&mut response);
            assert_eq!(response.headers.contains_key("upgrade"), stays, "{status}");
        }
    }
}
