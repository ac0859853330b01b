//! `deprecation`: says that a version of an API is on its way out, and until when it is there.
//!
//! # Rules
//!
//! - Every response of the route carries `Deprecation` with the day since when that holds
//!   ([RFC 9745](https://www.rfc-editor.org/rfc/rfc9745)), and with `sunset` the day on which it may be gone, in `Sunset`
//!   ([RFC 8594](https://www.rfc-editor.org/rfc/rfc8594)). Days begin in UTC.
//! - `link` is where people read about it, `successor` the version to use instead: both are added to `Link`, as `rel="deprecation"` and
//!   `rel="successor-version"`.
//! - What the upstream says in `Deprecation` or `Sunset` is replaced.
//!
//! # For operators
//!
//! - It changes nothing else: when the day has come, the route goes on until you remove it.
//! - Versions are told apart by the routes: by path, by header (`match.headers`), or by media type (`match.media_type`).
//! - Who still calls is in the access log, by route and consumer.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - deprecation: { since: "2026-01-31", sunset: "2026-12-31", successor: "https://api.example.com/v2" }
//! ```

use std::str::FromStr;

use http::{HeaderName, HeaderValue, header::LINK};
use pingora::http::{RequestHeader, ResponseHeader};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Flow, Policy, Stage};
use crate::{
    config::{check::Check, steps, types::text_type},
    date,
    proxy::context::Context,
    reject::Reject,
    runtime::Build,
};

const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// Since when and until when.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Deprecation")]
pub struct Config {
    /// Since when it should not be used any more.
    pub since: Day,
    /// From when on it may be gone.
    pub sunset: Option<Day>,
    /// A page about it.
    pub link: Option<Address>,
    /// The version to use instead.
    pub successor: Option<Address>,
}

/// A day, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(pub u64);

impl FromStr for Day {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        date::day(text).map(Self).ok_or_else(|| "expected a day, such as `2026-12-31`".into())
    }
}
text_type!(Day, "a day, such as `2026-12-31`", "^[0-9]{4}-[0-9]{2}-[0-9]{2}$");

/// An address that may stand in `Link`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(String);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"');
        if text.is_empty() || !text.bytes().all(fits) || text.parse::<http::Uri>().is_err() {
            return Err("expected an address, such as `https://api.example.com/v2`".into());
        }
        Ok(Self(text.to_owned()))
    }
}
text_type!(Address, "an address, such as `https://api.example.com/v2`", "^.+$");

/// Puts its headers on responses.
#[derive(Debug)]
pub struct Deprecation {
    since: HeaderValue,
    sunset: Option<HeaderValue>,
    links: Box<[HeaderValue]>,
}

impl Policy for Deprecation {
    const STAGE: Stage = Stage::Transform;
    const REFUSES: bool = false;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        if config.sunset.is_some_and(|sunset| sunset < config.since) {
            check.error(&steps!["sunset"], "it would be gone before it is deprecated: `since` is later");
        }
    }

    fn compile(config: &Config, _: &mut Build<'_>) -> Result<Self, String> {
        let value = |text: String| HeaderValue::from_str(&text).map_err(|error| error.to_string());
        let link = |address: &Option<Address>, relation: &str| {
            address.as_ref().map(|address| value(format!("<{}>; rel=\"{relation}\"", address.0)))
        };
        let links = [link(&config.link, "deprecation"), link(&config.successor, "successor-version")];
        Ok(Self {
            since: value(format!("@{}", config.since.0))?,
            sunset: config.sunset.map(|sunset| value(date::to_http(sunset.0))).transpose()?,
            links: links.into_iter().flatten().collect::<Result<_, _>>()?,
        })
    }

    async fn on_request(&self, _: &mut RequestHeader, _: &mut Context) -> Result<Flow, Reject> {
        Ok(Flow::Continue)
    }

    fn on_response(&self, response: &mut ResponseHeader, _: &mut Context) {
        let mut outcome = response.insert_header(DEPRECATION, self.since.clone());
        match &self.sunset {
            Some(sunset) => outcome = outcome.and_then(|()| response.insert_header(SUNSET, sunset.clone())),
            None => drop(response.remove_header(&SUNSET)),
        }
        for link in &self.links {
            outcome = outcome.and_then(|()| response.append_header(LINK, link.clone()).map(drop));
        }
        if let Err(error) = outcome {
            log::debug!("deprecation: {error}");
        }
    }
}
