//! In which letters the names of headers are written.
//!
//! Pingora keeps a second map with the spelling of each name, copies it with the header, and searches and writes both for each change; and
//! it makes each name anew that is put in. Names mean the same in all letters
//! ([RFC 9110, 5.1](https://www.rfc-editor.org/rfc/rfc9110#section-5.1)), so that map is given up unless the upstream's
//! `header_names` asks for it. Headers without it are changed past Pingora, name by name as the `http` crate has them.

use http::HeaderMap;
use pingora::http::{RequestHeader, ResponseHeader};

use super::context::Context;
use crate::config::upstream::HeaderNames;

/// So many headers are added for every upstream.
pub(super) const ADDED: usize = 4;

/// Whether nobody wants to know the spelling on the way to this upstream and back.
fn is_nothing(ctx: &Context) -> bool {
    ctx.upstream().is_some_and(|upstream| upstream.header_names() == HeaderNames::Lower)
}

/// Forgets how the client spelled the names of a request's headers.
pub(super) fn forget_in_request(request: &mut RequestHeader, ctx: &Context) {
    if is_nothing(ctx) && request.has_case() && is_its_uri(request) {
        // The copy for the upstream has room for as many.
        edit_request(request, |headers| headers.reserve(ADDED));
    }
}

/// Forgets how the upstream spelled the names of a response's headers.
pub(super) fn forget_in_response(response: &mut ResponseHeader, ctx: &Context) {
    if is_nothing(ctx) && response.has_case() {
        edit_response(response, |_| {});
    }
}

/// Whether [`edit_request`] loses nothing.
pub(crate) fn may_part(request: &RequestHeader) -> bool {
    !request.has_case() && is_its_uri(request)
}

/// Whether the target that is sent is the one that stands in the URI.
fn is_its_uri(request: &RequestHeader) -> bool {
    request.uri.path_and_query().is_some_and(|target| target.as_str().as_bytes() == request.raw_path())
}

/// Changes the headers of a request past Pingora, which loses their spelling, and a target that is not the URI.
pub(crate) fn edit_request(request: &mut RequestHeader, change: impl FnOnce(&mut HeaderMap)) {
    let (nothing, ()) = http::Request::new(()).into_parts();
    let mut parts: http::request::Parts = std::mem::replace(request, RequestHeader::from(nothing)).into();
    change(&mut parts.headers);
    *request = RequestHeader::from(parts);
}

/// Changes the headers of a response past Pingora, which loses their spelling.
pub(crate) fn edit_response(response: &mut ResponseHeader, change: impl FnOnce(&mut HeaderMap)) {
    let usual = response.status.canonical_reason();
    let reason = response.get_reason_phrase().filter(|reason| Some(*reason) != usual).map(str::to_owned);
    let (nothing, ()) = http::Response::new(()).into_parts();
    let mut parts: http::response::Parts = std::mem::replace(response, ResponseHeader::from(nothing)).into();
    change(&mut parts.headers);
    *response = ResponseHeader::from(parts);
    if reason.is_some() && response.set_reason_phrase(reason.as_deref()).is_err() {
        log::debug!("the reason of a response could not be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_keeps_all_but_the_spelling() {
        for (status, reason) in [(200, "OK"), (200, "Fine"), (299, "Odd"), (404, "")] {
            let mut response = ResponseHeader::build(status, None).unwrap();
            response.set_version(http::Version::HTTP_10);
            response.set_reason_phrase(Some(reason)).unwrap();
            for value in ["1", "2"] {
                response.append_header("X-ONE", value).unwrap();
            }
            edit_response(&mut response, |headers| drop(headers.insert("x-two", "3".parse().unwrap())));
            assert_eq!((response.status.as_u16(), response.version), (status, http::Version::HTTP_10));
            assert_eq!(response.get_reason_phrase(), Some(reason));
            let mut raw = Vec::new();
            response.header_to_h1_wire(&mut raw);
            assert_eq!(String::from_utf8(raw).unwrap(), "x-one: 1\r\nx-one: 2\r\nx-two: 3\r\n");
        }
    }
}
