//! `request_id`: gives the id of a request to the upstream and to the client.
//!
//! # Rules
//!
//! - Every request has an id, with or without this policy: 128 random bits, in logs and in problem documents. The policy
//!   sends it upstream in a header (`x-request-id`), and back to the client unless `respond: false`.
//! - With `trust: true` the id that the client sends is taken, if it is there once and has 1 to 128 visible ASCII
//!   characters. Otherwise the client's is replaced.
//!
//! # For operators
//!
//! - `trust: true` is for a gateway behind another one. Whoever can choose ids can make two requests look like one.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - request_id: {}
//! ```

use http::HeaderValue;
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Flow, Policy, Stage, edit::Direction};
use crate::{
    config::{check::Check, steps, types::HeaderName},
    proxy::context::{Context, RequestId as Id},
    reject::Reject,
    runtime::Build,
};

/// How the id of a request is passed on.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "RequestId")]
pub struct Config {
    /// The header with the id; without it, `x-request-id`.
    pub header: Option<HeaderName>,
    /// Whether the id of the client is taken.
    pub trust: bool,
    /// Whether the client gets the id back.
    pub respond: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { header: None, trust: false, respond: true }
    }
}

/// Passes the id of a request on.
#[derive(Debug)]
pub struct RequestId {
    header: http::HeaderName,
    trust: bool,
    respond: bool,
}

impl Policy for RequestId {
    const STAGE: Stage = Stage::Guard;
    const REFUSES: bool = false;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        let name = config.header.as_ref().map(HeaderName::as_str);
        if let Some(why) = name.and_then(|name| Direction::Request.forbids(name)) {
            check.error(&steps!["header"], why);
        }
    }

    fn compile(config: &Config, _: &mut Build<'_>) -> Result<Self, String> {
        Ok(Self {
            header: config.header.as_ref().map_or(http::HeaderName::from_static("x-request-id"), HeaderName::to_http),
            trust: config.trust,
            respond: config.respond,
        })
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        if self.trust
            && let Some(sent) = self.sent(request)
        {
            ctx.request_id = Id::Given(sent.clone());
        }
        let id = ctx.request_id.header_value();
        if self.respond {
            ctx.response_headers.push((self.header.clone(), id.clone()));
        }
        request.insert_header(&self.header, id).map_err(|_error| Reject::Internal)?;
        Ok(Flow::Continue)
    }
}

impl RequestId {
    fn sent<'a>(&self, request: &'a RequestHeader) -> Option<&'a HeaderValue> {
        let mut sent = request.headers.get_all(&self.header).iter();
        let only = sent.next().filter(|_| sent.next().is_none())?;
        let fits = (1..=128).contains(&only.len()) && only.as_bytes().iter().all(u8::is_ascii_graphic);
        fits.then_some(only)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_id_that_is_one_is_taken() {
        let policy = RequestId { header: http::HeaderName::from_static("x-request-id"), trust: true, respond: true };
        let taken = |ids: &[&str]| {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            for id in ids {
                request.append_header("x-request-id", *id).unwrap();
            }
            policy.sent(&request).is_some()
        };
        assert!(taken(&["abc-123"]) && taken(&[&"a".repeat(128)]));
        assert!(!taken(&[]) && !taken(&[""]) && !taken(&[&"a".repeat(129)]));
        assert!(!taken(&["a", "a"]) && !taken(&["a b"]) && !taken(&["é"]));
    }
}
