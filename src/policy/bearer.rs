//! Tokens of bearers: where they are in a request, and what is answered if they are not accepted
//! ([RFC 6750](https://www.rfc-editor.org/rfc/rfc6750)).

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, header::AUTHORIZATION};
use pingora::http::RequestHeader;

use super::{
    place::{self, Authorization, Found, Place},
    scopes,
};
use crate::{
    config::types,
    reject::{Reject, Shown},
};

/// Where the token may be.
#[derive(Debug)]
pub(super) struct Source {
    /// A header instead of `Authorization: Bearer`.
    header: Option<HeaderName>,
    /// Where it may be as well.
    places: Box<[Place]>,
}

impl Source {
    /// As a file names them.
    pub(super) fn new(header: Option<&types::HeaderName>, query: Option<&str>, cookie: Option<&str>) -> Self {
        Self { header: header.map(types::HeaderName::to_http), places: Place::all(None, query, cookie).into() }
    }

    /// See [`Policy::evidence`](super::Policy::evidence).
    pub(super) fn evidence(&self) -> Vec<String> {
        let header = self.header.clone().map_or_else(|| "bearer".to_owned(), |name| Place::Header(name).evidence());
        std::iter::once(header).chain(self.places.iter().map(Place::evidence)).collect()
    }

    /// The one token of a request; credentials of another kind are none. The error is why what there is cannot be one.
    pub(super) fn token<'a>(&self, request: &'a RequestHeader) -> Result<Option<Cow<'a, str>>, &'static str> {
        match (self.in_header(request)?, place::find(&self.places, request)) {
            (token, Found::Nothing) => Ok(token.map(Cow::Borrowed)),
            (None, Found::One(Cow::Borrowed(bytes))) => {
                std::str::from_utf8(bytes).map(|token| Some(Cow::Borrowed(token))).map_err(|_error| MALFORMED)
            }
            (None, Found::One(Cow::Owned(bytes))) => {
                String::from_utf8(bytes).map(|token| Some(Cow::Owned(token))).map_err(|_error| MALFORMED)
            }
            (_, Found::One(_) | Found::Several) => Err(SEVERAL),
        }
    }

    fn in_header<'a>(&self, request: &'a RequestHeader) -> Result<Option<&'a str>, &'static str> {
        let Some(name) = &self.header else {
            return match place::authorization(request, "Bearer") {
                Authorization::One(token) => Ok(Some(token)),
                Authorization::Nothing | Authorization::Other => Ok(None),
                Authorization::Malformed => Err(MALFORMED),
                Authorization::Several => Err(SEVERAL),
            };
        };
        let mut sent = request.headers.get_all(name).iter();
        match (sent.next(), sent.next()) {
            (None, _) => Ok(None),
            (Some(only), None) => only.to_str().map(|text| Some(bare(text))).map_err(|_error| MALFORMED),
            (Some(_), Some(_)) => Err(SEVERAL),
        }
    }

    /// Takes the token away.
    pub(super) fn remove(&self, request: &mut RequestHeader) -> Result<(), Reject> {
        request.remove_header(self.header.as_ref().unwrap_or(&AUTHORIZATION));
        self.places.iter().try_for_each(|place| place.remove(request))
    }
}

const SEVERAL: &str = "the request has more than one token";
const MALFORMED: &str = "the token is malformed";

/// Some write `Bearer` into headers of their own as well.
fn bare(text: &str) -> &str {
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_matches(' '),
        Some(_) | None => text,
    }
}

/// What is answered, by what is missing.
#[derive(Debug)]
pub(super) struct Challenges {
    no_token: HeaderValue,
    pub(super) invalid: HeaderValue,
    pub(super) insufficient: HeaderValue,
}

impl Challenges {
    /// For a realm, and the scopes that are asked for.
    pub(super) fn new(realm: &str, wanted: &[String]) -> Result<Self, String> {
        let value = |text: String| HeaderValue::try_from(text).map_err(|error| error.to_string());
        Ok(Self {
            no_token: value(format!("Bearer realm=\"{realm}\""))?,
            invalid: value(format!("Bearer realm=\"{realm}\", error=\"invalid_token\""))?,
            insufficient: scopes::insufficient(realm, &wanted.iter().map(String::as_str).collect::<Vec<_>>())?,
        })
    }

    /// The refusal of what was shown.
    pub(super) fn refuse(&self, shown: Shown, reason: &'static str) -> Reject {
        let challenge = match shown {
            Shown::Nothing => self.no_token.clone(),
            Shown::Foreign | Shown::Wrong => self.invalid.clone(),
        };
        Reject::Unauthenticated { challenge, shown, reason }
    }
}
