//! Values with placeholders that are filled in from the request.
//!
//! | placeholder | stands for |
//! |---|---|
//! | `{request_id}` | the id of the request |
//! | `{client_ip}` | the address of the client |
//! | `{host}` | the host asked for, in lower case, without port |
//! | `{method}` | the method |
//! | `{scheme}` | `http` or `https`, as the client came |
//! | `{path}` | the path, in its normal form |
//! | `{query}` | the query with its `?`; nothing if there is none |
//! | `{route}` | the name of the route |
//! | `{consumer}` | the name of the caller, once a policy knows |
//! | `{metadata.NAME}` | what the file says of the consumer |
//! | `{claim.NAME}` | a claim of the token, or one at the end of a path (`realm.roles`); the items of a list are joined with `,` |
//! | `{header.NAME}` | a header; several values are joined with `, ` |
//! | `{query.NAME}` | a query parameter, as it was sent: escapes are not decoded |
//! | `{cookie.NAME}` | a cookie |
//! | `{path.NAME}` | a parameter of the route's template, as it stands in the path |
//!
//! - `{{` and `}}` are braces.
//! - What the request does not have is left out; so is a query parameter or cookie that it has twice, because upstreams
//!   differ in which of the two they take.
//! - A value with a character that cannot stand in a header (control characters, anything but ASCII) is left out as a
//!   whole. A request can therefore never make a second header or a second line.

use std::{borrow::Cow, fmt::Write as _, str::FromStr};

use http::HeaderName;
use pingora::http::RequestHeader;

use serde_json::Value;

use super::claims;
use crate::{
    config::{consumer::Metadata, diagnostic::nearest, types::text_type},
    proxy::context::Context,
};

/// What may stand between braces.
const NAMES: &[&str] = &[
    "request_id",
    "client_ip",
    "host",
    "method",
    "scheme",
    "path",
    "query",
    "route",
    "consumer",
    "metadata.NAME",
    "claim.NAME",
    "header.NAME",
    "query.NAME",
    "cookie.NAME",
    "path.NAME",
];

/// A text with placeholders; the [module](self) lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Box<[Piece]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    /// Known without the request's header: also while a response is on its way.
    Known(Known),
    Request(Part),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    RequestId,
    ClientIp,
    Host,
    Scheme,
    Route,
    Consumer,
    Metadata(Box<str>),
    Claim(Box<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Method,
    Path,
    Query,
    Header(HeaderName),
    Argument(Box<str>),
    Cookie(Box<str>),
    Param(Box<str>),
}

impl Template {
    /// The text for this request; borrowed, without an allocation, if there is no placeholder.
    pub fn render(&self, request: &RequestHeader, ctx: &Context) -> Cow<'_, str> {
        self.fill(Some(request), ctx)
    }

    /// The text, as far as it is known without the header of the request.
    pub fn render_late(&self, ctx: &Context) -> Cow<'_, str> {
        self.fill(None, ctx)
    }

    /// The text, if it has no placeholder.
    pub fn literal(&self) -> Option<&str> {
        match &*self.0 {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether something in it comes from the header of the request.
    pub fn needs_request(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Request(_)))
    }

    /// The names that stand as `{path.NAME}`.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Request(Part::Param(name)) => Some(&**name),
            Piece::Text(_) | Piece::Known(_) | Piece::Request(_) => None,
        })
    }

    fn fill(&self, request: Option<&RequestHeader>, ctx: &Context) -> Cow<'_, str> {
        if let Some(text) = self.literal() {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(64);
        for piece in &self.0 {
            let before = out.len();
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Known(known) => known.write(&mut out, ctx),
                Piece::Request(part) => {
                    if let Some(request) = request {
                        part.write(&mut out, request, ctx);
                    }
                }
            }
            let added = out.bytes().skip(before);
            if !matches!(piece, Piece::Text(_)) && !added.into_iter().all(fits_in_header) {
                out.truncate(before);
            }
        }
        Cow::Owned(out)
    }
}

/// Visible ASCII, space and tab: what [`http::HeaderValue::from_str`] takes.
fn fits_in_header(byte: u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\t')
}

impl Known {
    fn write(&self, out: &mut String, ctx: &Context) {
        match self {
            Self::RequestId => out.push_str(&ctx.request_id.text()),
            // A client on a Unix socket has none.
            Self::ClientIp if ctx.client_ip.is_unspecified() => out.push_str("unknown"),
            Self::ClientIp => _ = write!(out, "{}", ctx.client_ip.to_canonical()),
            Self::Host => out.push_str(&ctx.host),
            Self::Scheme => out.push_str(if ctx.secure { "https" } else { "http" }),
            Self::Route => out.push_str(ctx.route.as_ref().map_or("", |route| &route.name)),
            Self::Consumer => {
                out.push_str(ctx.identity.as_ref().map_or("", |identity| identity.name()));
            }
            Self::Metadata(name) => {
                let consumer = ctx.identity.as_ref().and_then(|identity| identity.consumer.as_ref());
                match consumer.and_then(|consumer| consumer.metadata.get(&**name)) {
                    Some(Metadata::Bool(value)) => _ = write!(out, "{value}"),
                    Some(Metadata::Number(value)) => _ = write!(out, "{value}"),
                    Some(Metadata::Text(value)) => out.push_str(value),
                    None => {}
                }
            }
            Self::Claim(name) => {
                let token = ctx.identity.as_ref().and_then(|identity| identity.token.as_ref());
                let claims = token.and_then(|token| token.claims.as_deref());
                if let Some(value) = claims.and_then(|claims| claims::find(claims, name)) {
                    write_claim(out, value);
                }
            }
        }
    }
}

impl Part {
    fn write(&self, out: &mut String, request: &RequestHeader, ctx: &Context) {
        let found = match self {
            Self::Method => Some(request.method.as_str()),
            Self::Path => Some(request.uri.path()),
            Self::Query => {
                let query = request.uri.query();
                out.push_str(if query.is_some() { "?" } else { "" });
                query
            }
            Self::Header(name) => return write_header(out, request, name),
            Self::Argument(name) => single(arguments(request.uri.query(), name)),
            Self::Cookie(name) => single(cookies(request, name)).and_then(|value| std::str::from_utf8(value).ok()),
            Self::Param(name) => ctx.param(request.uri.path(), name),
        };
        out.push_str(found.unwrap_or_default());
    }
}

/// Texts, numbers, yes and no, and lists of them; what has parts of its own is left out.
fn write_claim(out: &mut String, value: &Value) {
    match value {
        Value::Null | Value::Object(_) => {}
        Value::Bool(value) => _ = write!(out, "{value}"),
        Value::Number(value) => _ = write!(out, "{value}"),
        Value::String(text) => out.push_str(text),
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                if !item.is_array() {
                    write_claim(out, item);
                }
            }
        }
    }
}

fn write_header(out: &mut String, request: &RequestHeader, name: &HeaderName) {
    for (i, value) in request.headers.get_all(name).iter().enumerate() {
        if let Ok(text) = value.to_str() {
            out.push_str(if i == 0 { "" } else { ", " });
            out.push_str(text);
        }
    }
}

/// The only one of several values; two are none, because they may be read differently.
fn single<T>(mut values: impl Iterator<Item = T>) -> Option<T> {
    values.next().filter(|_| values.next().is_none())
}

/// The values of a query parameter, as they stand there.
fn arguments<'a>(query: Option<&'a str>, name: &str) -> impl Iterator<Item = &'a str> {
    let pairs = query.into_iter().flat_map(|query| query.split('&'));
    pairs.filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// The values of a cookie, in all `Cookie` headers: HTTP/2 may split them. Other cookies may have any bytes.
pub(super) fn cookies<'a>(request: &'a RequestHeader, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let headers = request.headers.get_all(http::header::COOKIE).iter();
    headers.flat_map(|value| value.as_bytes().split(|byte| *byte == b';')).filter_map(move |pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (pair.get(..at)?, pair.get(at + 1..)?);
        (key.trim_ascii() == name.as_bytes()).then_some(value.trim_ascii())
    })
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.bytes().all(fits_in_header) {
            return Err("a value consists of visible ASCII characters, spaces and tabs".into());
        }
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, brace, after)) = next_brace(rest) {
            plain.push_str(before);
            if let Some(after) = after.strip_prefix(brace) {
                plain.push(brace);
                rest = after;
                continue;
            }
            if brace == '}' {
                return Err("a `}` without its `{`; write `}}` for the character itself".into());
            }
            let (name, after) =
                after.split_once('}').ok_or("a `{` without its `}`; write `{{` for the character itself")?;
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain).into()));
            }
            pieces.push(placeholder(name)?);
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain.into()));
        }
        Ok(Self(pieces.into()))
    }
}
text_type!(Template, "a text, with placeholders such as `{client_ip}` and `{path.id}`", "");

/// What stands before the next brace, the brace, and what stands behind it.
fn next_brace(text: &str) -> Option<(&str, char, &str)> {
    let at = text.find(['{', '}'])?;
    let (before, rest) = text.split_at(at);
    let brace = rest.chars().next()?;
    Some((before, brace, rest.strip_prefix(brace)?))
}

fn placeholder(name: &str) -> Result<Piece, String> {
    let known = match name {
        "request_id" => Piece::Known(Known::RequestId),
        "client_ip" => Piece::Known(Known::ClientIp),
        "host" => Piece::Known(Known::Host),
        "scheme" => Piece::Known(Known::Scheme),
        "route" => Piece::Known(Known::Route),
        "consumer" => Piece::Known(Known::Consumer),
        "method" => Piece::Request(Part::Method),
        "path" => Piece::Request(Part::Path),
        "query" => Piece::Request(Part::Query),
        _ => return named_placeholder(name),
    };
    Ok(known)
}

fn named_placeholder(name: &str) -> Result<Piece, String> {
    let part = match name.split_once('.') {
        Some((_, "")) => return Err(format!("`{{{name}}}` lacks a name behind the dot")),
        Some(("metadata", name)) => return Ok(Piece::Known(Known::Metadata(name.into()))),
        Some(("claim", name)) => return Ok(Piece::Known(Known::Claim(name.into()))),
        Some(("header", header)) => {
            Part::Header(header.parse().map_err(|_error| format!("`{{{name}}}` has no valid header name"))?)
        }
        Some(("query", argument)) => Part::Argument(argument.into()),
        Some(("cookie", cookie)) => Part::Cookie(cookie.into()),
        Some(("path", param)) => Part::Param(param.into()),
        Some(_) | None => return Err(unknown(name)),
    };
    Ok(Piece::Request(part))
}

fn unknown(name: &str) -> String {
    let help = nearest(name, NAMES.iter().copied()).unwrap_or_default();
    format!("`{{{name}}}` is not a placeholder; {help}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<Template>().unwrap_err()
    }

    #[test]
    fn a_text_without_placeholders_is_literal() {
        let template: Template = "a {{b}} c".parse().unwrap();
        assert_eq!(template.literal(), Some("a {b} c"));
        assert!(!template.needs_request());
        assert_eq!("".parse::<Template>().unwrap().literal(), Some(""));
    }

    #[test]
    fn placeholders_are_read() {
        let template: Template = "{client_ip}/{path.id}?{path.rest}{query.a}".parse().unwrap();
        assert_eq!(template.params().collect::<Vec<_>>(), ["id", "rest"]);
        assert!(template.needs_request() && template.literal().is_none());
        for name in NAMES {
            assert!(format!("{{{name}}}").parse::<Template>().is_ok(), "{name}");
        }
    }

    #[test]
    fn mistakes_name_what_was_meant() {
        assert_eq!(error("{clientip}"), "`{clientip}` is not a placeholder; did you mean `client_ip`?");
        assert!(error("{headers.x}").contains("header.NAME"));
        for text in ["{", "a}", "{a", "{{}", "{}}", "{header.}", "{header.a b}", "a\r\nb"] {
            assert!(text.parse::<Template>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_stands_twice_is_left_out() {
        assert_eq!(single(arguments(Some("a=1&b=2"), "a")), Some("1"));
        assert_eq!(single(arguments(Some("a=1&a=2"), "a")), None);
        assert_eq!(single(arguments(Some("ab=1&a"), "a")), Some(""));
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.append_header("cookie", "a=1; b=2").unwrap();
        request.append_header("cookie", "c=x=y;b=3").unwrap();
        assert_eq!(single(cookies(&request, "a")), Some(&b"1"[..]));
        assert_eq!(single(cookies(&request, "b")), None);
        assert_eq!(single(cookies(&request, "c")), Some(&b"x=y"[..]));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[{}a-z._]{0,24}") {
            drop(text.parse::<Template>());
        }
    }
}
