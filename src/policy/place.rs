//! Where a credential is in a request: finds it, and takes it away.

use std::{borrow::Cow, fmt::Write as _};

use http::{
    HeaderName, HeaderValue, Uri,
    header::{AUTHORIZATION, COOKIE},
};
use pingora::http::RequestHeader;

use super::template::cookies;
use crate::{
    config::{check::Check, steps, types},
    identity::is_reserved,
    reject::Reject,
};

/// Where a credential is.
#[derive(Debug)]
pub(super) enum Place {
    Header(HeaderName),
    Query(Box<str>),
    Cookie(Box<str>),
}

/// What there was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    Nothing,
    One(Cow<'a, [u8]>),
    Several,
}

impl Place {
    /// Those that a file names.
    pub(super) fn all(header: Option<&types::HeaderName>, query: Option<&str>, cookie: Option<&str>) -> Vec<Self> {
        let header = header.map(|name| Self::Header(name.to_http()));
        let query = query.map(|name| Self::Query(name.into()));
        let cookie = cookie.map(|name| Self::Cookie(name.into()));
        header.into_iter().chain(query).chain(cookie).collect()
    }

    /// What it is called in challenges and among [`evidence`](super::Policy::evidence): its kind, and its name.
    pub(super) fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Header(name) => ("header", name.as_str()),
            Self::Query(name) => ("query", name),
            Self::Cookie(name) => ("cookie", name),
        }
    }

    /// The same in one text. What is in `Authorization` is told apart by its scheme.
    pub(super) fn evidence(&self) -> String {
        let (kind, name) = self.parts();
        format!("{kind} {name}")
    }

    /// The credential, as it was meant: escapes of a query are decoded.
    pub(super) fn find<'a>(&self, request: &'a RequestHeader) -> Found<'a> {
        match self {
            Self::Header(name) => {
                let values = request.headers.get_all(name).iter();
                only(values.map(|value| Cow::Borrowed(value.as_bytes())))
            }
            Self::Query(name) => {
                only(pairs(request).filter(|(key, _)| *decode(key) == *name.as_bytes()).map(|(_, value)| decode(value)))
            }
            Self::Cookie(name) => only(cookies(request, name).map(Cow::Borrowed)),
        }
    }

    /// Takes the credential away, and changes nothing else. A request that it cannot be taken away from goes nowhere.
    pub(super) fn remove(&self, request: &mut RequestHeader) -> Result<(), Reject> {
        match self {
            Self::Header(name) => {
                request.remove_header(name);
                Ok(())
            }
            Self::Query(name) => remove_argument(request, name),
            Self::Cookie(name) => remove_cookies(request, |key| key == name.as_bytes()),
        }
    }
}

/// The one credential that stands in any of these places.
pub(super) fn find<'a>(places: &[Place], request: &'a RequestHeader) -> Found<'a> {
    let mut found = Found::Nothing;
    for place in places {
        found = match (found, place.find(request)) {
            (found, Found::Nothing) => found,
            (Found::Nothing, one) => one,
            (Found::One(_) | Found::Several, Found::One(_) | Found::Several) => Found::Several,
        };
    }
    found
}

/// What `Authorization` says, with its scheme.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Authorization<'a> {
    Nothing,
    /// Of the scheme that was asked for.
    One(&'a str),
    /// Of another scheme.
    Other,
    /// Of this scheme, and not as it should be.
    Malformed,
    Several,
}

/// The credential of this scheme in `Authorization` ([RFC 9110, 11.6.2](https://www.rfc-editor.org/rfc/rfc9110#section-11.6.2)).
pub(super) fn authorization<'a>(request: &'a RequestHeader, scheme: &str) -> Authorization<'a> {
    let mut sent = request.headers.get_all(AUTHORIZATION).iter();
    let (Some(only), second) = (sent.next(), sent.next()) else {
        return Authorization::Nothing;
    };
    if second.is_some() {
        return Authorization::Several;
    }
    let bytes = only.as_bytes();
    let end = bytes.iter().position(|byte| !is_token(*byte)).unwrap_or(bytes.len());
    let (named, rest) = bytes.split_at_checked(end).unwrap_or((bytes, b""));
    if !named.eq_ignore_ascii_case(scheme.as_bytes()) {
        return Authorization::Other;
    }
    // Servers that are not so strict would find a credential in it.
    match std::str::from_utf8(rest).ok().and_then(|rest| rest.strip_prefix(' ')) {
        Some(credential) if rest.is_ascii() => Authorization::One(credential.trim_matches(' ')),
        Some(_) | None => Authorization::Malformed,
    }
}

/// [RFC 9110, 5.6.2](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2)
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Looks at the names of places: `header`, `query`, `cookie`.
pub(super) fn check(header: Option<&types::HeaderName>, names: [(&str, Option<&str>); 2], check: &mut Check<'_>) {
    if header.is_some_and(|name| is_reserved(name.as_str())) {
        check.error(&steps!["header"], "only the gateway sets `x-consumer-*`: a client's is removed before it is read");
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    for (key, name) in names {
        if name.is_some_and(|name| name.is_empty() || !name.bytes().all(fits)) {
            check.error(&steps![key], "a name consists of letters, digits, `_`, `-` and `.`");
        }
    }
}

fn only<'a>(mut values: impl Iterator<Item = Cow<'a, [u8]>>) -> Found<'a> {
    match (values.next(), values.next()) {
        (None, _) => Found::Nothing,
        (Some(value), None) => Found::One(value),
        (Some(_), Some(_)) => Found::Several,
    }
}

fn pairs(request: &RequestHeader) -> impl Iterator<Item = (&str, &str)> {
    let parts = request.uri.query().into_iter().flat_map(|query| query.split('&'));
    parts.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Writes what needs no escape anywhere as it is ([RFC 3986, 2.3](https://www.rfc-editor.org/rfc/rfc3986#section-2.3)), all else as `%XX`.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(*byte)),
            byte => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

/// Decodes `%XX` once; what is no escape stays as it is.
pub(super) fn decode(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'%', [high, low, after @ ..]) if digit(*high).is_some() && digit(*low).is_some() => {
                out.push(digit(*high).unwrap_or(0) << 4 | digit(*low).unwrap_or(0));
                rest = after;
            }
            _ => out.push(byte),
        }
    }
    Cow::Owned(out)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn remove_argument(request: &mut RequestHeader, name: &str) -> Result<(), Reject> {
    let mut target = String::from(request.uri.path());
    let kept = request.uri.query().into_iter().flat_map(|query| query.split('&'));
    let kept = kept.filter(|pair| {
        let key = pair.split_once('=').map_or(*pair, |(key, _)| key);
        *decode(key) != *name.as_bytes()
    });
    for (i, pair) in kept.enumerate() {
        target.push(if i == 0 { '?' } else { '&' });
        target.push_str(pair);
    }
    let mut parts = request.uri.clone().into_parts();
    parts.path_and_query = Some(target.parse().map_err(|_error| Reject::Internal)?);
    let uri = Uri::from_parts(parts).map_err(|_error| Reject::Internal)?;
    request.set_uri(uri);
    Ok(())
}

/// Whether there is a cookie of this name.
pub(super) fn has_cookie(request: &RequestHeader, name: &str) -> bool {
    cookies(request, name).next().is_some()
}

/// Takes the cookies away that have such names.
pub(super) fn remove_cookies(request: &mut RequestHeader, doomed: impl Fn(&[u8]) -> bool) -> Result<(), Reject> {
    let mut kept: Vec<u8> = Vec::new();
    for value in request.headers.get_all(COOKIE) {
        for pair in value.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii) {
            let key = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
            if !doomed(key) && !pair.is_empty() {
                kept.extend_from_slice(if kept.is_empty() { b"" } else { b"; " });
                kept.extend_from_slice(pair);
            }
        }
    }
    request.remove_header(&COOKIE);
    if kept.is_empty() {
        return Ok(());
    }
    let value = HeaderValue::from_bytes(&kept).map_err(|_error| Reject::Internal)?;
    request.insert_header(COOKIE, value).map_err(|_error| Reject::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    fn one(key: &str) -> Found<'_> {
        Found::One(Cow::Borrowed(key.as_bytes()))
    }

    #[test]
    fn a_header_that_stands_twice_is_never_the_first() {
        let place = Place::Header(HeaderName::from_static("x-api-key"));
        let sent = request("/", &[("x-api-key", "a")]);
        assert_eq!(place.find(&sent), one("a"));
        let sent = request("/", &[("X-Api-Key", "a"), ("x-api-key", "a")]);
        assert_eq!(place.find(&sent), Found::Several);
        assert_eq!(place.find(&request("/", &[])), Found::Nothing);
    }

    #[test]
    fn a_query_parameter_is_found_and_taken_away_in_every_spelling() {
        let place = Place::Query("api_key".into());
        let mut sent = request("/a%20b?x=1&api%5Fkey=s%2fx&y=%31", &[]);
        assert_eq!(place.find(&sent), one("s/x"));
        place.remove(&mut sent).unwrap();
        assert_eq!(sent.raw_path(), b"/a%20b?x=1&y=%31");
        let mut sent = request("/?api_key=s", &[]);
        place.remove(&mut sent).unwrap();
        assert_eq!(sent.raw_path(), b"/");
        let sent = request("/?api_key=s&api%5fkey=t", &[]);
        assert_eq!(place.find(&sent), Found::Several);
    }

    #[test]
    fn only_that_cookie_is_taken_away() {
        let place = Place::Cookie("key".into());
        let mut sent = request("/", &[("cookie", "a=1; key=s; b=2"), ("cookie", "c=3")]);
        assert_eq!(place.find(&sent), one("s"));
        place.remove(&mut sent).unwrap();
        let left: Vec<_> = sent.headers.get_all("cookie").iter().collect();
        assert_eq!(left, ["a=1; b=2; c=3"]);
        let mut sent = request("/", &[("cookie", "key=s")]);
        place.remove(&mut sent).unwrap();
        assert!(!sent.headers.contains_key("cookie"));
    }

    #[test]
    fn credentials_in_two_places_are_never_the_first() {
        let places = Place::all(Some(&"x-api-key".parse().unwrap()), Some("key"), Some("key"));
        let headers = &[("x-api-key", "a"), ("cookie", "key=a")];
        assert_eq!(find(&places, &request("/", &headers[..1])), one("a"));
        assert_eq!(find(&places, &request("/?key=a", &headers[..1])), Found::Several);
        assert_eq!(find(&places, &request("/", headers)), Found::Several);
        assert_eq!(find(&places, &request("/", &[])), Found::Nothing);
    }

    #[test]
    fn an_authorization_is_one_of_its_scheme() {
        let sent = |values: &[&str]| {
            let headers: Vec<_> = values.iter().map(|value| ("authorization", *value)).collect();
            let request = request("/", &headers);
            match authorization(&request, "Bearer") {
                Authorization::Nothing => "nothing".to_owned(),
                Authorization::One(credential) => format!("one {credential}"),
                Authorization::Other => "other".to_owned(),
                Authorization::Malformed => "malformed".to_owned(),
                Authorization::Several => "several".to_owned(),
            }
        };
        assert_eq!(sent(&[]), "nothing");
        assert_eq!(sent(&["Basic YTpi"]), "other");
        for odd in ["Bearer", "bearer\ta", "Bearer,a", "Bearer \u{e9}"] {
            assert_eq!(sent(&[odd]), "malformed", "{odd}");
        }
        assert_eq!(sent(&["BearerX a"]), "other");
        assert_eq!(sent(&["bearer  a.b.c "]), "one a.b.c");
        assert_eq!(sent(&["Bearer a.b.c", "Bearer a.b.c"]), "several");
        assert_eq!(sent(&["Basic YTpi", "Bearer a.b.c"]), "several");
    }

    #[test]
    fn a_cookie_is_found_beside_others_of_any_bytes() {
        let place = Place::Cookie("key".into());
        let mut sent = request("/", &[("cookie", "key =s; x=\u{e9}")]);
        assert_eq!(place.find(&sent), one("s"));
        place.remove(&mut sent).unwrap();
        assert_eq!(sent.headers["cookie"].as_bytes(), "x=\u{e9}".as_bytes());
        let sent = request("/", &[("cookie", "key=s"), ("cookie", "key=t; x=\u{e9}")]);
        assert_eq!(place.find(&sent), Found::Several);
    }

    #[test]
    fn a_form_has_nothing_that_could_end_a_value() {
        assert_eq!(encode(b"a-Z_0.~"), "a-Z_0.~");
        assert_eq!(encode("a&b=c d+\u{e9}".as_bytes()), "a%26b%3Dc%20d%2B%C3%A9");
    }

    #[test]
    fn escapes_are_decoded_once() {
        assert_eq!(*decode("%41%2541%zz%4"), *b"A%41%zz%4");
    }
}
