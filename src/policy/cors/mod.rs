//! `cors`: lets pages of other origins read responses ([Fetch, 3.2](https://fetch.spec.whatwg.org/#http-cors-protocol)).
//!
//! # Rules
//!
//! - A preflight (`OPTIONS` with `Origin` and `Access-Control-Request-Method`) is answered with 204, and never gets to
//!   the upstream or to authentication. It gets `Access-Control-Allow-*` if origin, method and headers are all allowed.
//!   Any other `OPTIONS` is a request like every other.
//! - Any other request with an allowed `Origin` gets `Access-Control-Allow-Origin` on its response, also on a refusal by
//!   a later policy. A request of another origin is not refused: without the header, the browser keeps the response from
//!   the page.
//! - `origins`: `https://app.example.com`, `https://*.example.com` for all names below, or `*`.
//! - The upstream's own `Access-Control-*` headers are removed: two answers to one question are none.
//! - Where the answer depends on the origin, the response says so in `Vary`.
//!
//! # For operators
//!
//! - CORS protects the users of browsers. It keeps nobody from sending requests.
//! - `credentials: true` lets pages act as the user who is logged in; it cannot be had together with `*`.
//! - Names below a wildcard include those that others may register, if the domain lets them.
//! - List it before other policies of stage `Guard`, so that their refusals can be read by the page.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - cors: { origins: [https://app.example.com], credentials: true, expose: [x-request-id] }
//! ```

mod origin;

use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use schemars::JsonSchema;
use serde::Deserialize;

pub use self::origin::Origin;
use super::{Flow, Policy, Reply, Stage};
use crate::{
    config::{check::Check, steps, types},
    proxy::context::Context,
    reject::Reject,
    runtime::Build,
};

/// Which pages may read responses.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Cors")]
pub struct Config {
    /// The origins: `https://app.example.com`, `https://*.example.com`, or `*` for all.
    #[schemars(length(min = 1))]
    pub origins: Vec<Origin>,
    /// The methods that a page may use; without it, `GET`, `HEAD`, `POST`, `PUT`, `PATCH` and `DELETE`.
    #[serde(default)]
    pub methods: Vec<types::Method>,
    /// The headers that a page may send; without it, all.
    pub headers: Option<Vec<types::HeaderName>>,
    /// The response headers that a page may read, besides those that it always may.
    #[serde(default)]
    pub expose: Vec<types::HeaderName>,
    /// Whether cookies and other credentials of the browser are used.
    #[serde(default)]
    pub credentials: bool,
    /// How long a browser may remember the answer to a preflight; browsers have limits of their own.
    #[serde(default = "default_max_age")]
    pub max_age: types::Duration,
}

fn default_max_age() -> types::Duration {
    types::Duration::from_secs(600)
}

const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

const PREFLIGHT_VARY: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");

/// What a response may carry; an upstream's are removed.
const OURS: [HeaderName; 7] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
    HeaderName::from_static("access-control-allow-private-network"),
];

/// Answers preflights and marks responses.
#[derive(Debug)]
pub struct Cors {
    origins: Box<[Origin]>,
    /// Every origin gets the same answer, so it does not vary.
    same_for_all: bool,
    methods: Box<[Box<str>]>,
    allow_methods: HeaderValue,
    headers: Option<Box<[HeaderName]>>,
    expose: Option<HeaderValue>,
    credentials: bool,
    max_age: HeaderValue,
}

impl Policy for Cors {
    const STAGE: Stage = Stage::Guard;
    const REFUSES: bool = false;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        if config.origins.is_empty() {
            check.error(&steps!["origins"], "at least one origin is needed");
        }
        if config.credentials && config.origins.contains(&Origin::Any) {
            check.error(
                &steps!["credentials"],
                "with credentials every origin has to be named: `*` would let any page act as the user",
            );
        }
    }

    fn compile(config: &Config, _: &mut Build<'_>) -> Result<Self, String> {
        Self::new(config)
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        if is_preflight(request) {
            let mut head = ResponseHeader::build(StatusCode::NO_CONTENT, Some(8)).map_err(|_error| Reject::Internal)?;
            drop(head.insert_header(header::VARY, PREFLIGHT_VARY));
            self.allow(request, ctx);
            return Ok(Flow::Reply(Box::new(Reply { head, body: bytes::Bytes::new() })));
        }
        if let Some(origin) = self.allowed_origin(request) {
            ctx.response_headers.extend(self.marks(origin));
        }
        Ok(Flow::Continue)
    }

    fn on_response(&self, response: &mut ResponseHeader, ctx: &mut Context) {
        for name in &OURS {
            response.remove_header(name);
        }
        for (name, value) in &ctx.response_headers {
            if OURS.contains(name) {
                drop(response.insert_header(name, value.clone()));
            }
        }
        if !self.same_for_all && !varies_by_origin(response) {
            drop(response.append_header(header::VARY, HeaderValue::from_static("Origin")));
        }
    }
}

impl Cors {
    fn new(config: &Config) -> Result<Self, String> {
        let list = |names: Vec<&str>| HeaderValue::try_from(names.join(", ")).map_err(|error| error.to_string());
        let methods: Vec<&str> = if config.methods.is_empty() {
            METHODS.to_vec()
        } else {
            config.methods.iter().map(types::Method::as_str).collect()
        };
        let names = config.headers.as_ref();
        let expose = config.expose.iter().map(types::HeaderName::as_str).collect();
        Ok(Self {
            same_for_all: config.origins.contains(&Origin::Any) && !config.credentials,
            origins: config.origins.clone().into(),
            methods: methods.iter().map(|method| (*method).into()).collect(),
            allow_methods: list(methods)?,
            headers: names.map(|names| names.iter().map(types::HeaderName::to_http).collect()),
            expose: (!config.expose.is_empty()).then(|| list(expose)).transpose()?,
            credentials: config.credentials,
            max_age: HeaderValue::from(config.max_age.0.as_secs()),
        })
    }

    /// What `Access-Control-Allow-Origin` says to this request.
    fn allowed_origin(&self, request: &RequestHeader) -> Option<HeaderValue> {
        let mut sent = request.headers.get_all(header::ORIGIN).iter();
        let only = sent.next().filter(|_| sent.next().is_none())?;
        if self.same_for_all {
            return Some(HeaderValue::from_static("*"));
        }
        let text = only.to_str().ok()?;
        let allowed = self.origins.iter().any(|origin| origin.takes(text));
        allowed.then(|| only.clone())
    }

    /// The headers of a response that a page of this origin may read.
    fn marks(&self, origin: HeaderValue) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let credentials =
            self.credentials.then(|| (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        let expose = self.expose.clone();
        std::iter::once((header::ACCESS_CONTROL_ALLOW_ORIGIN, origin))
            .chain(credentials)
            .chain(expose.map(|names| (header::ACCESS_CONTROL_EXPOSE_HEADERS, names)))
    }

    /// Puts on the answer to a preflight what the page may do, if it may do all that it asks for.
    fn allow(&self, request: &RequestHeader, ctx: &mut Context) {
        ctx.response_headers.extend(self.answer(request).into_iter().flatten());
    }

    fn answer(&self, request: &RequestHeader) -> Option<impl Iterator<Item = (HeaderName, HeaderValue)>> {
        let asked = request.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
        let origin = self.allowed_origin(request)?;
        if !self.allows_method(request) || asked.is_some_and(|names| !self.allows_headers(names)) {
            return None;
        }
        let headers = asked.map(|names| (header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone()));
        let preflight = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, self.allow_methods.clone()),
            (header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone()),
        ];
        let marks = self.marks(origin);
        let marks = marks.filter(|(name, _)| name != header::ACCESS_CONTROL_EXPOSE_HEADERS);
        Some(marks.chain(preflight).chain(headers))
    }

    fn allows_method(&self, request: &RequestHeader) -> bool {
        let asked = request.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD);
        asked.is_some_and(|asked| self.methods.iter().any(|method| method.as_bytes() == asked))
    }

    fn allows_headers(&self, asked: &HeaderValue) -> bool {
        let Ok(asked) = asked.to_str() else {
            return false;
        };
        let Some(allowed) = &self.headers else {
            return true;
        };
        let mut asked = asked.split(',').map(str::trim).filter(|name| !name.is_empty());
        asked.all(|name| allowed.iter().any(|allowed| allowed.as_str().eq_ignore_ascii_case(name)))
    }
}

fn varies_by_origin(response: &ResponseHeader) -> bool {
    let names = response.headers.get_all(header::VARY).iter();
    names
        .filter_map(|names| names.to_str().ok())
        .flat_map(|names| names.split(','))
        .any(|name| matches!(name.trim(), "*") || name.trim().eq_ignore_ascii_case("origin"))
}

fn is_preflight(request: &RequestHeader) -> bool {
    request.method == http::Method::OPTIONS
        && request.headers.contains_key(header::ORIGIN)
        && request.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(json: &str) -> Cors {
        Cors::new(&serde_json::from_str(json).unwrap()).unwrap()
    }

    fn request(method: &str, headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build(method, b"/", None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    fn preflight(policy: &Cors, origin: &str, method: &str, headers: &str) -> Option<Vec<String>> {
        let sent = [
            ("origin", origin),
            ("access-control-request-method", method),
            ("access-control-request-headers", headers),
        ];
        let request = request("OPTIONS", &sent);
        assert!(is_preflight(&request));
        let lines = policy.answer(&request)?;
        Some(lines.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect())
    }

    #[test]
    fn a_preflight_is_answered_in_full() {
        let policy = policy(r#"{"origins": ["https://app.example.com"], "credentials": true, "expose": ["x-a"]}"#);
        let lines = preflight(&policy, "https://app.example.com", "PUT", "x-a, authorization").unwrap();
        assert_eq!(
            lines,
            [
                "access-control-allow-origin: https://app.example.com",
                "access-control-allow-credentials: true",
                "access-control-allow-methods: GET, HEAD, POST, PUT, PATCH, DELETE",
                "access-control-max-age: 600",
                "access-control-allow-headers: x-a, authorization",
            ]
        );
    }

    #[test]
    fn a_response_varies_by_origin_only_once() {
        let mut head = ResponseHeader::build(200, None).unwrap();
        assert!(!varies_by_origin(&head));
        head.append_header("vary", "Accept-Encoding, origin").unwrap();
        assert!(varies_by_origin(&head));
    }

    #[test]
    fn a_preflight_of_another_origin_method_or_header_gets_nothing() {
        let policy = policy(r#"{"origins": ["https://a.example"], "methods": ["GET"], "headers": ["X-A"]}"#);
        let allowed = |origin, method, headers| preflight(&policy, origin, method, headers).is_some();
        assert!(allowed("https://a.example", "GET", "x-a"));
        assert!(!allowed("https://b.example", "GET", "x-a"));
        assert!(!allowed("https://a.example", "PUT", "x-a"));
        assert!(!allowed("https://a.example", "GET", "x-a, x-b"));
        assert!(!allowed("null", "GET", ""));
    }

    #[test]
    fn options_alone_is_no_preflight() {
        assert!(!is_preflight(&request("OPTIONS", &[("origin", "https://a.example")])));
        let method = ("access-control-request-method", "GET");
        assert!(!is_preflight(&request("OPTIONS", &[method])));
        assert!(!is_preflight(&request("GET", &[("origin", "https://a.example"), method])));
    }

    #[test]
    fn any_origin_gets_a_star_and_two_origins_get_nothing() {
        let policy = policy(r#"{"origins": ["*"]}"#);
        let one = ("origin", "https://a.example");
        assert_eq!(policy.allowed_origin(&request("GET", &[one])).unwrap(), "*");
        assert!(policy.allowed_origin(&request("GET", &[one, one])).is_none());
        assert!(policy.allowed_origin(&request("GET", &[])).is_none());
    }
}
