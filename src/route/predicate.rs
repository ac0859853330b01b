//! What a route asks of a request besides host and path.

use http::{HeaderName, Method};
use pingora::http::RequestHeader;
use regex::Regex;

use super::media;
use crate::{
    config::route::{Match, MediaType, ValueKind, ValueMatch},
    identity::are_confusable,
};

/// Methods, headers and query parameters of a route.
#[derive(Debug)]
pub(super) struct Predicates {
    methods: Box<[Method]>,
    headers: Box<[(HeaderName, Value)]>,
    query: Box<[(Box<str>, Value)]>,
    media_type: Option<MediaType>,
}

#[derive(Debug)]
enum Value {
    Exact(Box<str>),
    Present(bool),
    Regex(Regex),
}

impl Predicates {
    pub(super) fn compile(matcher: &Match) -> Self {
        let mut methods: Vec<Method> = matcher.methods.iter().map(crate::config::types::Method::to_http).collect();
        if methods.contains(&Method::GET) && !methods.contains(&Method::HEAD) {
            methods.push(Method::HEAD);
        }
        let headers = matcher.headers.iter();
        let query = matcher.query.iter();
        Self {
            methods: methods.into(),
            headers: headers.map(|(name, value)| (name.to_http(), Value::compile(value))).collect(),
            query: query.map(|(name, value)| (name.as_str().into(), Value::compile(value))).collect(),
            media_type: matcher.media_type.clone(),
        }
    }

    /// How many there are: the more, the earlier the route is asked.
    pub(super) fn count(&self) -> usize {
        usize::from(!self.methods.is_empty())
            + self.headers.len()
            + self.query.len()
            + usize::from(self.media_type.is_some())
    }

    pub(super) fn methods(&self) -> impl Iterator<Item = &Method> {
        self.methods.iter()
    }

    pub(super) fn allow(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }

    /// Whether headers and query parameters fit.
    pub(super) fn fit(&self, request: &RequestHeader) -> Fit {
        let headers = self.headers.iter().map(|(name, value)| value.fits_header(request, name));
        let query = self.query.iter().map(|(name, value)| value.fits_query(request, name));
        let media = self.media_type.as_ref().is_none_or(|wanted| media::fits(wanted, &request.headers));
        let mut all = Fit::from(media);
        for one in headers.chain(query) {
            match one {
                Fit::Ambiguous => return Fit::Ambiguous,
                Fit::No => all = Fit::No,
                Fit::Yes => {}
            }
        }
        all
    }
}

/// Whether a request fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Yes,
    No,
    /// Servers differ in what it says: neither this route nor one that asks for less may have it.
    Ambiguous,
}

impl From<bool> for Fit {
    fn from(fits: bool) -> Self {
        if fits { Self::Yes } else { Self::No }
    }
}

impl Value {
    fn compile(config: &ValueMatch) -> Self {
        match config {
            ValueMatch::Exact(text) => Self::Exact(text.as_str().into()),
            ValueMatch::Kind(ValueKind::Present(present)) => Self::Present(*present),
            ValueMatch::Kind(ValueKind::Regex(regex)) => Self::Regex(regex.regex.clone()),
        }
    }

    /// A value is ambiguous if it comes twice: servers differ in which of the two they take. So is a header that is there only in a
    /// spelling that some take for it.
    fn fits_header(&self, request: &RequestHeader, name: &HeaderName) -> Fit {
        let mut sent = request.headers.get_all(name).iter();
        let (first, second) = (sent.next(), sent.next());
        let elsewhere = || request.headers.keys().any(|other| are_confusable(name.as_str(), other.as_str()));
        match (self, first, second) {
            (_, None, _) if elsewhere() => Fit::Ambiguous,
            (Self::Present(wanted), ..) => (first.is_some() == *wanted).into(),
            (_, None, _) => Fit::No,
            (_, Some(only), None) => only.to_str().is_ok_and(|text| self.fits_text(text)).into(),
            (_, Some(_), Some(_)) => Fit::Ambiguous,
        }
    }

    fn fits_query(&self, request: &RequestHeader, name: &str) -> Fit {
        let query = request.uri.query().unwrap_or_default();
        let mut sent = query_values(query, name);
        let (first, second) = (sent.next(), sent.next());
        match (self, first, second) {
            (Self::Present(wanted), first, _) => (first.is_some() == *wanted).into(),
            (_, None, _) => Fit::No,
            (_, Some(only), None) => self.fits_text(&only).into(),
            (_, Some(_), Some(_)) => Fit::Ambiguous,
        }
    }

    fn fits_text(&self, text: &str) -> bool {
        match self {
            Self::Exact(wanted) => **wanted == *text,
            Self::Regex(regex) => regex.is_match(text),
            Self::Present(wanted) => *wanted,
        }
    }
}

/// The values of a query parameter, decoded.
pub(crate) fn query_values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = std::borrow::Cow<'a, str>> {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name).then(|| decode(value))
    })
}

/// Decodes `%XX` and `+`; what is not valid stays as it is.
pub(crate) fn decode(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = after;
        match (byte, escaped) {
            (b'%', Some(value)) => {
                bytes.push(value);
                rest = after.get(2..).unwrap_or_default();
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::pattern::anchored;

    #[test]
    fn query_parameters_are_decoded_in_name_and_value() {
        let values: Vec<_> = query_values("a=1&%61=x%20y+z&b=3&a", "a").collect();
        assert_eq!(values, ["1", "x y z", ""]);
        assert_eq!(query_values("a=%zz%", "a").next().unwrap(), "%zz%");
    }

    #[test]
    fn expressions_are_anchored() {
        assert!(Regex::new(&anchored("a|b")).unwrap().is_match("b"));
        assert!(!Regex::new(&anchored("a|b")).unwrap().is_match("ab"));
    }
}
