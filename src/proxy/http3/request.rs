//! The header of a request: from fields to what the rest of the gateway works on.
//!
//! As strict as for the other versions: what two parsers could read differently is refused, with a problem document.
//!
//! - Each of `:method`, `:scheme`, `:path` exactly once, `:authority` at most once, before all other fields; no others
//!   ([RFC 9114, 4.3](https://www.rfc-editor.org/rfc/rfc9114#section-4.3)).
//! - Names are tokens in small letters; values have no control characters, and no space at either end.
//! - No headers about the connection; `TE` is `trailers` or nothing
//!   ([RFC 9114, 4.2](https://www.rfc-editor.org/rfc/rfc9114#section-4.2)).
//! - The scheme is `https`. The host stands in `:authority` or `Host`; if in both, it is the same one.
//! - `Content-Length` is digits, once. That the body is as long is checked while it is read.
//! - `CONNECT` is not spoken.

use http::{HeaderName, HeaderValue, Method, Version, header};
use pingora::http::RequestHeader;

use super::qpack;
use crate::{
    proxy::{accept::no_request, connection::Limits},
    reject::Reject,
};

/// A request that may pass.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) head: RequestHeader,
    /// How long the body is, if the client says so.
    pub(super) length: Option<u64>,
}

/// Why it may not.
#[derive(Debug)]
pub(super) enum Refused {
    /// The section cannot be decoded: an error of the connection.
    Section,
    /// The request is answered with this; what could be read of it is for the log.
    With(Reject, Box<RequestHeader>),
}

/// Makes a request of the section of its header.
pub(super) fn read(section: &[u8], limits: &Limits) -> Result<Request, Refused> {
    let mut fields = Fields { max: limits.max_headers, max_target: limits.max_line, ..Fields::default() };
    let mut left = limits.max_header;
    let seen = qpack::decode(section, |name, value| {
        left = left.checked_sub(name.len() + value.len() + qpack::OVERHEAD).ok_or(Reject::HeaderTooLarge)?;
        fields.see(name, value)
    });
    let seen = seen.map_err(|qpack::Malformed| Refused::Section)?;
    match seen {
        Ok(()) => fields.judge(),
        Err(reject) => Err(fields.refuse(reject)),
    }
}

#[derive(Default)]
struct Fields {
    /// How many headers there may be, and how long the target.
    max: usize,
    max_target: usize,
    method: Option<Method>,
    https: Option<bool>,
    authority: Option<HeaderValue>,
    path: Option<Vec<u8>>,
    headers: Vec<(HeaderName, HeaderValue)>,
    cookie: Vec<u8>,
    length: Option<u64>,
}

const TWICE: Reject = Reject::BadRequest("a pseudo-header is not what it has to be, or there twice");

/// Puts it there if there is none.
fn once<T>(place: &mut Option<T>, value: Option<T>) -> Result<(), Reject> {
    if place.is_some() || value.is_none() {
        return Err(TWICE);
    }
    *place = value;
    Ok(())
}

impl Fields {
    fn see(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reject> {
        if name.starts_with(b":") {
            return self.pseudo(name, value);
        }
        if self.headers.len() >= self.max {
            return Err(Reject::TooManyHeaders);
        }
        let wrong = |_| Reject::BadRequest("the name or value of a header is not valid");
        let name = HeaderName::from_lowercase(name)
            .map_err(|_error| Reject::BadRequest("the name of a header is not valid"))?;
        if value.trim_ascii() != value {
            return Err(Reject::BadRequest("the value of a header begins or ends with a space"));
        }
        match name.as_str() {
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" => {
                return Err(Reject::BadRequest("HTTP/3 has no headers about the connection"));
            }
            "te" if value != b"trailers" => return Err(Reject::BadRequest("the TE is not `trailers`")),
            "content-length" => self.content_length(value)?,
            "cookie" => {
                // May come in crumbs, which only HTTP/2 and HTTP/3 understand (RFC 9114, 4.2.1).
                if !self.cookie.is_empty() {
                    self.cookie.extend_from_slice(b"; ");
                }
                self.cookie.extend_from_slice(value);
                return HeaderValue::from_bytes(value).map(drop).map_err(wrong);
            }
            _ => {}
        }
        self.headers.push((name, HeaderValue::from_bytes(value).map_err(wrong)?));
        Ok(())
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reject> {
        if !self.headers.is_empty() || !self.cookie.is_empty() {
            return Err(Reject::BadRequest("a pseudo-header comes behind a header"));
        }
        let value = Some(value).filter(|value| !value.is_empty());
        match name {
            b":method" => once(&mut self.method, value.and_then(|value| Method::from_bytes(value).ok())),
            b":scheme" => once(&mut self.https, value.map(|value| value.eq_ignore_ascii_case(b"https"))),
            b":authority" => once(&mut self.authority, value.and_then(|value| HeaderValue::from_bytes(value).ok())),
            b":path" => once(&mut self.path, value.map(<[u8]>::to_vec)),
            _ => Err(Reject::BadRequest("there is no such pseudo-header")),
        }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Reject> {
        // 18 digits fit into every server's integer.
        if self.length.is_some() || value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
            return Err(Reject::BadRequest("the Content-Length is not a number"));
        }
        self.length = Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')));
        Ok(())
    }

    fn judge(mut self) -> Result<Request, Refused> {
        let wrong = self.wrong();
        if let Some(reject) = wrong {
            return Err(self.refuse(reject));
        }
        let length = self.length;
        match self.head() {
            Some(head) => Ok(Request { head, length }),
            None => Err(self.refuse(Reject::BadRequest("the target of the request is not valid"))),
        }
    }

    /// What is wrong with the request as a whole.
    fn wrong(&self) -> Option<Reject> {
        if self.method == Some(Method::CONNECT) {
            return Some(Reject::MethodNotSupported);
        }
        if self.method.is_none() || self.path.is_none() {
            return Some(Reject::BadRequest("a pseudo-header is missing"));
        }
        if self.https != Some(true) {
            return Some(Reject::BadRequest("the scheme is not `https`"));
        }
        let target = self.path.as_deref().unwrap_or_default();
        if target.len() > self.max_target {
            return Some(Reject::RequestLineTooLong);
        }
        // What a parser of URIs would drop, or take for something else.
        if !target.starts_with(b"/") || target.iter().any(|byte| matches!(byte, b'#' | 0..=b' ' | 0x7f..)) {
            return Some(Reject::BadRequest("the target of the request is not valid"));
        }
        let mut hosts = self.headers.iter().filter(|(name, _)| *name == header::HOST).map(|(_, value)| value);
        match (&self.authority, hosts.next(), hosts.next()) {
            (None, Some(_), None) | (Some(_), None, None) => None,
            (Some(authority), Some(host), None) if authority.as_bytes().eq_ignore_ascii_case(host.as_bytes()) => None,
            _ => Some(Reject::BadRequest("the Host is missing, or there are several")),
        }
    }

    fn head(&mut self) -> Option<RequestHeader> {
        let method = self.method.clone()?;
        let target = self.path.as_deref()?;
        let mut head = RequestHeader::build_no_case(method, target, Some(self.headers.len() + 8)).ok()?;
        head.set_version(Version::HTTP_3);
        for (name, value) in self.headers.drain(..) {
            head.append_header(name, value).ok()?;
        }
        if let Some(authority) = self.authority.take() {
            head.insert_header(header::HOST, authority).ok()?;
        }
        if !self.cookie.is_empty() {
            head.insert_header(header::COOKIE, std::mem::take(&mut self.cookie)).ok()?;
        }
        Some(head)
    }

    fn refuse(mut self, reject: Reject) -> Refused {
        let head = self.head().unwrap_or_else(|| {
            let mut head = no_request();
            head.set_version(Version::HTTP_3);
            head
        });
        Refused::With(reject, Box::new(head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A section of literal fields.
    fn section(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut out = vec![0, 0];
        for (name, value) in fields {
            // Lengths below 7 and 127 take one byte; longer names take two.
            if name.len() < 7 {
                out.push(0x20 | u8::try_from(name.len()).unwrap());
            } else {
                out.extend([0x27, u8::try_from(name.len() - 7).unwrap()]);
            }
            out.extend(name.bytes());
            out.push(u8::try_from(value.len()).unwrap());
            out.extend(value.bytes());
        }
        out
    }

    const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/x?y")];

    fn limits(max_header: usize) -> Limits {
        let listener = serde_json::from_str(r#"{ "address": "127.0.0.1:1" }"#).unwrap();
        Limits { max_header, max_line: 1000, ..Limits::new(&listener) }
    }

    fn with(more: &[(&str, &str)]) -> Result<Request, Refused> {
        read(&section(&[&GET, more].concat()), &limits(4096))
    }

    fn code(refused: Result<Request, Refused>) -> &'static str {
        match refused {
            Ok(_) => "passed",
            Err(Refused::Section) => "section",
            Err(Refused::With(reject, _)) => reject.code(),
        }
    }

    #[test]
    fn a_request_is_one_like_any_other() {
        let fields =
            [("cookie", "a=1"), ("x-own", "1"), ("cookie", "b=2"), ("content-length", "12"), ("te", "trailers")];
        let Request { head, length } = with(&fields).unwrap();
        assert_eq!((head.method.as_str(), head.uri.to_string().as_str()), ("GET", "/x?y"));
        assert_eq!(head.headers.get("host").unwrap(), "a");
        assert_eq!(head.headers.get("cookie").unwrap(), "a=1; b=2");
        assert_eq!((head.version, length), (Version::HTTP_3, Some(12)));
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        for (name, value) in [
            ("connection", "close"),
            ("keep-alive", "1"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("te", "gzip"),
            ("X-Large", "1"),
            ("x own", "1"),
            ("x-own", "a\r\nb: c"),
            ("x-own", " a"),
            ("x-own", "a "),
            ("", "1"),
            ("host", "b"),
            ("content-length", "+1"),
            ("content-length", ""),
            (":path", "/y"),
            (":status", "200"),
            (":protocol", "websocket"),
        ] {
            assert_eq!(code(with(&[(name, value)])), "bad_request", "{name}: {value}");
        }
        assert_eq!(code(with(&[("content-length", "1"), ("content-length", "1")])), "bad_request");
        assert_eq!(code(with(&[("host", "a")])), "passed");
        assert_eq!(code(with(&[("host", "a"), ("host", "a")])), "bad_request");
        assert_eq!(code(with(&[("x-own", "1"), (":method", "GET")])), "bad_request");
    }

    #[test]
    fn pseudo_headers_are_whole_and_valid() {
        for (name, value, wanted) in [
            (":method", "CONNECT", "method_not_supported"),
            (":method", "", "bad_request"),
            (":method", "G T", "bad_request"),
            (":scheme", "http", "bad_request"),
            (":scheme", "HTTPS", "passed"),
            (":authority", "", "bad_request"),
            (":authority", "a\n", "bad_request"),
            (":path", "", "bad_request"),
            (":path", "x", "bad_request"),
            (":path", "*", "bad_request"),
            (":path", "http://a/", "bad_request"),
            (":path", "/a b", "bad_request"),
            (":path", "/a#b", "bad_request"),
            (":path", "/\u{e4}", "bad_request"),
        ] {
            let fields = GET.map(|(own, before)| if own == name { (own, value) } else { (own, before) });
            assert_eq!(code(read(&section(&fields), &limits(4096))), wanted, "{name}: {value}");
        }
        for missing in [":method", ":scheme", ":path", ":authority"] {
            let fields: Vec<_> = GET.into_iter().filter(|(name, _)| *name != missing).collect();
            assert_eq!(code(read(&section(&fields), &limits(4096))), "bad_request", "{missing}");
        }
    }

    #[test]
    fn headers_have_limits() {
        let value = "v".repeat(100);
        let many: Vec<_> = (0..30).map(|_| ("x-own", value.as_str())).collect();
        assert_eq!(code(with(&many[..20])), "passed");
        assert_eq!(code(with(&many)), "header_too_large");
        let small: Vec<_> = (0..129).map(|_| ("x", "")).collect();
        assert_eq!(code(read(&section(&[&GET, &*small].concat()), &limits(1 << 20))), "too_many_headers");
        assert_eq!(code(read(&section(&[&GET, &small[1..]].concat()), &limits(1 << 20))), "passed");
        assert_eq!(code(read(&[0, 0, 0x80], &limits(4096))), "section");
    }
}
