//! The header of an HTTP/1.1 request, byte for byte: what two parsers could read differently is refused.
//!
//! - Lines end with CRLF, header names are tokens with the colon right behind, nothing is folded, no control characters
//!   ([RFC 9112, 2.2 and 5](https://www.rfc-editor.org/rfc/rfc9112#section-5)).
//! - HTTP/1.1 has exactly one `Host`, HTTP/1.0 at most one.
//! - `Transfer-Encoding` is `chunked`, once, in HTTP/1.1, and then there is no `Content-Length`; `Content-Length` is
//!   digits, once ([RFC 9112, 6](https://www.rfc-editor.org/rfc/rfc9112#section-6)).
//! - `CONNECT` is not spoken.

use pingora::http::RequestHeader;

use super::boundary::Boundary;
use crate::{reject::Reject, route::normalise_host};

/// Pingora itself takes no more headers than this.
const MAX_HEADERS: usize = 256;

/// What a header may have.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// So many headers, at most 256.
    pub headers: usize,
    /// So many bytes of request line.
    pub line: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { headers: MAX_HEADERS, line: usize::MAX }
    }
}

impl Bounds {
    /// Whether the request line is too long already; its end may not be there.
    pub(super) fn line_is_too_long(self, raw: &[u8]) -> bool {
        let begin = raw.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(raw.len());
        let line = raw.get(begin..).unwrap_or_default();
        line.get(..self.line).is_some_and(|line| memchr::memchr(b'\n', line).is_none())
    }
}

/// What no header is.
pub(super) const NOT_HTTP: Reject = Reject::BadRequest("the request is not HTTP/1.1");

/// How far a header has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// The empty line is there.
    Whole,
    /// It is not.
    Partial,
    /// It is not, and more than the limit has come.
    TooLarge,
}

/// How far the header has come; `seen` bytes were looked at before.
pub(super) fn progress(raw: &[u8], seen: usize, max: usize) -> Head {
    // The empty line may have begun in what was seen. A bare LF counts as well: the check refuses it then.
    let from = seen.saturating_sub(3);
    let fresh = raw.get(from..).unwrap_or_default();
    let end = memchr::memchr_iter(b'\n', fresh).find(|at| {
        let before = fresh.get(..*at).unwrap_or_default();
        before.ends_with(b"\n") || before.ends_with(b"\n\r")
    });
    match end {
        Some(at) if from + at < max => Head::Whole,
        Some(_) => Head::TooLarge,
        None if raw.len() > max => Head::TooLarge,
        None => Head::Partial,
    }
}

/// Refuses what servers read differently; says how far the request reaches otherwise.
pub fn check(raw: &[u8], bounds: Bounds) -> Result<Framed, Reject> {
    let mut headers = [const { std::mem::MaybeUninit::uninit() }; MAX_HEADERS];
    let headers = headers.get_mut(..bounds.headers).unwrap_or_default();
    let mut request = httparse::Request::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, raw, headers);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Err(httparse::Error::TooManyHeaders) => return Err(Reject::TooManyHeaders),
        Ok(httparse::Status::Partial) | Err(_) => return Err(NOT_HTTP),
    };
    let head = raw.get(..length).unwrap_or_default();
    if has_bare_line_feed(head) {
        return Err(Reject::BadRequest("a line of the request does not end with CRLF"));
    }
    // With the spaces and the version.
    if request.method.unwrap_or_default().len() + request.path.unwrap_or_default().len() + 10 > bounds.line {
        return Err(Reject::RequestLineTooLong);
    }
    if request.method == Some("CONNECT") {
        return Err(Reject::MethodNotSupported);
    }
    let mut found = Framing::default();
    for header in request.headers.iter() {
        found.see(header)?;
    }
    found.judge(request.version == Some(1))?;
    names_one_host(request.path.unwrap_or_default(), found.host.unwrap_or_default())?;
    let body = match (found.chunked, found.length) {
        // What follows belongs to another protocol if the upstream wants to speak it. Other protocols do not go on.
        (0, 0) if found.web_socket && request.version == Some(1) => Boundary::Open,
        (0, length) => Boundary::Length(length),
        _ => Boundary::CHUNKED,
    };
    Ok(Framed { head: length, body })
}

/// A request that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framed {
    /// The length of its header, in bytes.
    pub head: usize,
    /// What follows of it.
    pub body: Boundary,
}

/// A target is a path, or a URL whose host is that of the header, letter for letter: then no one can take another one. A
/// fragment would be cut off on the way, and something else be asked for than was checked.
fn names_one_host(target: &str, host: &str) -> Result<(), Reject> {
    const WRONG: Reject = Reject::BadRequest("the Host is not valid, or not the one of the request line");
    const NO_TARGET: Reject = Reject::BadRequest("the target of the request is not valid");
    if target.contains(['#', '<', '>', '`', '"']) {
        return Err(NO_TARGET);
    }
    let named = if target.starts_with('/') {
        None
    } else {
        let (scheme, rest) = target.split_once("://").ok_or(NO_TARGET)?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err(NO_TARGET);
        }
        rest.split(['/', '?']).next()
    };
    match (named, host) {
        // HTTP/1.0 without Host.
        (None, "") => Ok(()),
        (Some(named), host) if !host.is_empty() && named != host => Err(WRONG),
        (Some(name), _) | (None, name) => normalise_host(name).map(drop).ok_or(WRONG),
    }
}

/// Whether a line ends without CR. The parser lets no CR through that stands anywhere else, so counting is enough.
fn has_bare_line_feed(head: &[u8]) -> bool {
    let count = |byte| memchr::memchr_iter(byte, head).count();
    count(b'\n') != count(b'\r')
}

/// What decides where a request ends and whom it is for.
#[derive(Default)]
struct Framing<'a> {
    host: Option<&'a str>,
    hosts: usize,
    lengths: usize,
    length: u64,
    chunked: usize,
    web_socket: bool,
}

impl<'a> Framing<'a> {
    fn see(&mut self, header: &httparse::Header<'a>) -> Result<(), Reject> {
        // The length of the name decides for nearly all headers.
        match header.name.len() {
            4 if header.name.eq_ignore_ascii_case("host") => {
                self.hosts += 1;
                let text = std::str::from_utf8(header.value).ok().filter(|text| !text.is_empty());
                self.host = Some(text.ok_or(Reject::BadRequest("the Host is not valid"))?);
            }
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                self.lengths += 1;
                let digits = header.value.iter().all(u8::is_ascii_digit);
                // 18 digits fit into every server's integer.
                if header.value.is_empty() || header.value.len() > 18 || !digits {
                    return Err(Reject::BadRequest("the Content-Length is not a number"));
                }
                self.length = header.value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
            }
            7 if header.name.eq_ignore_ascii_case("upgrade") => {
                self.web_socket |= header.value.eq_ignore_ascii_case(b"websocket");
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                self.chunked += 1;
                if !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Reject::BadRequest("the Transfer-Encoding is not `chunked`"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn judge(&self, http11: bool) -> Result<(), Reject> {
        let wrong = if self.hosts > 1 || (http11 && self.hosts == 0) {
            "the request does not have exactly one Host"
        } else if self.lengths > 1 {
            "the request has more than one Content-Length"
        } else if self.chunked > 1 {
            "the request has more than one Transfer-Encoding"
        } else if self.chunked > 0 && self.lengths > 0 {
            "the request has both Transfer-Encoding and Content-Length"
        } else if self.chunked > 0 && !http11 {
            "a request of HTTP/1.0 has no Transfer-Encoding"
        } else {
            return Ok(());
        };
        Err(Reject::BadRequest(wrong))
    }
}

/// What can be read of a refused request, for the log and for the form of the answer.
pub fn lenient(raw: &[u8]) -> RequestHeader {
    const NAMES: [http::HeaderName; 3] = [http::header::CONTENT_TYPE, http::header::HOST, http::header::USER_AGENT];
    let mut request = lenient_line(raw);
    // Without the last line, which may be half of one.
    let whole = raw.iter().rposition(|b| *b == b'\n').and_then(|end| raw.get(..end)).unwrap_or_default();
    let lines = whole.split(|b| *b == b'\n').skip(1).take_while(|line| !matches!(*line, b"" | b"\r"));
    for line in lines {
        let Some((name, value)) = line.iter().position(|b| *b == b':').and_then(|at| line.split_at_checked(at)) else {
            continue;
        };
        let Some(known) = NAMES.iter().find(|known| name.eq_ignore_ascii_case(known.as_str().as_bytes())) else {
            continue;
        };
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if !request.headers.contains_key(known) && request.insert_header(known.clone(), value).is_err() {
            log::debug!("`{known}` of a refused request is no value");
        }
    }
    request
}

fn lenient_line(raw: &[u8]) -> RequestHeader {
    let line = raw.split(|b| matches!(b, b'\r' | b'\n')).next().unwrap_or_default();
    let mut words = line.split(|b| *b == b' ');
    let method = words.next().and_then(|word| std::str::from_utf8(word).ok());
    let path = words.next().filter(|path| path.starts_with(b"/"));
    match (method, path) {
        (Some(method), Some(path)) if method.len() <= 32 => {
            RequestHeader::build(method, path, None).unwrap_or_else(|_| super::accept::no_request())
        }
        _ => super::accept::no_request(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(raw: &str) -> &'static str {
        check(raw.as_bytes(), Bounds::default()).map_or_else(|reject| reject.code(), |_| "ok")
    }

    #[test]
    fn a_header_is_whole_wherever_the_reads_were_cut() {
        let raw = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody\r\n\r\n";
        let whole = 27;
        for seen in 0..whole {
            for len in seen..raw.len() {
                let wanted = if len >= whole { Head::Whole } else { Head::Partial };
                assert_eq!(progress(&raw[..len], seen.min(len), 1000), wanted, "{seen} {len}");
            }
        }
        assert_eq!(progress(raw, 0, 20), Head::TooLarge);
        assert_eq!(progress(&raw[..25], 0, 20), Head::TooLarge);
    }

    #[test]
    fn plain_requests_pass() {
        for raw in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET http://A:80/x?u=http://b HTTP/1.1\r\nHost: A:80\r\n\r\n",
            "GET HTTPS://a?x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://a HTTP/1.0\r\n\r\n",
            "GET /x?u=http://b HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert_eq!(code(raw), "ok", "{raw}");
        }
    }

    #[test]
    fn framing_that_parsers_disagree_about_is_refused() {
        for headers in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: -1",
            "Content-Length: 0x5",
            "Content-Length: 5 x",
            "Content-Length:",
            "Content-Length: 18446744073709551616",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: identity, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding:\x0bchunked",
            "Host: b",
            ":x",
            "X : y",
            "X: a\r\n b",
            "X: a\0b",
            "X: a\nY: b",
            "X: a\rb",
        ] {
            let raw = format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n");
            assert_eq!(code(&raw), "bad_request", "{headers:?}");
        }
        for raw in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            "GET /\r\n\r\n",
            "GET / a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost:\r\n\r\n",
            "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://A/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://a\\b/ HTTP/1.1\r\nHost: a\\b\r\n\r\n",
            "GET /x#y HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /x?y#z HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /<x> HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http:/a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(code(raw), "bad_request", "{raw:?}");
        }
        assert_eq!(code("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"), "method_not_supported");
    }

    #[test]
    fn the_body_of_a_request_is_what_its_framing_says() {
        let body = |headers: &str| {
            let raw = format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\nrest");
            let framed = check(raw.as_bytes(), Bounds::default()).unwrap();
            assert_eq!(framed.head, raw.len() - 4);
            framed.body
        };
        assert_eq!(body(""), Boundary::Length(0));
        assert_eq!(body("Content-Length: 0012\r\n"), Boundary::Length(12));
        assert_eq!(body("Transfer-Encoding: chunked\r\n"), Boundary::CHUNKED);
        assert_eq!(body("Upgrade: WebSocket\r\n"), Boundary::Open);
        assert_eq!(body("Upgrade: websocket\r\nContent-Length: 0\r\n"), Boundary::Open);
        assert_eq!(body("Upgrade: websocket\r\nContent-Length: 12\r\n"), Boundary::Length(12));
        assert_eq!(body("Upgrade: websocket\r\nTransfer-Encoding: chunked\r\n"), Boundary::CHUNKED);
        assert_eq!(body("Upgrade: h2c\r\n"), Boundary::Length(0));
        assert_eq!(body("Upgrade: h2c\r\nTransfer-Encoding: chunked\r\n"), Boundary::CHUNKED);
    }

    #[test]
    fn too_many_headers_are_refused_as_such() {
        let bounds = |headers| Bounds { headers, ..Bounds::default() };
        let with = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x-a: 1\r\n".repeat(count - 1));
        for most in [1, 100, 256] {
            assert!(check(with(most).as_bytes(), bounds(most)).is_ok(), "{most}");
            assert_eq!(check(with(most + 1).as_bytes(), bounds(most)), Err(Reject::TooManyHeaders), "{most}");
        }
        assert_eq!(check(with(257).as_bytes(), bounds(1000)), Err(Reject::TooManyHeaders));
    }

    #[test]
    fn a_request_line_has_a_length_whether_or_not_its_end_is_there() {
        let bounds = Bounds { line: 20, ..Bounds::default() };
        let line = |line: &str| check(format!("{line}\r\nHost: a\r\n\r\n").as_bytes(), bounds).map(drop);
        assert_eq!(line("GET /1234567 HTTP/1.1"), Err(Reject::RequestLineTooLong));
        assert_eq!(line("GET /123456 HTTP/1.1"), Ok(()));
        assert!(bounds.line_is_too_long(b"GET /1234567890123456"));
        assert!(bounds.line_is_too_long(b"\r\n\r\nGET /1234567890123456 HTTP/1.1\r\n"));
        assert!(!bounds.line_is_too_long(b"GET /12345"));
        assert!(!bounds.line_is_too_long(b"GET /1 HTTP/1.1\r\nHost: a.very.long.name"));
        assert!(!bounds.line_is_too_long(b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n"));
    }
}
