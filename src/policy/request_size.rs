//! `request_size`: how large the body of a request may be.
//!
//! # Rules
//!
//! - A `Content-Length` above `max` gets 413 at once, before the body is read.
//! - A body without a length is counted while it passes. If it becomes too large the exchange ends; with 413, if the
//!   response has not begun.
//! - `require_length: true` refuses a body without a length: 411.
//! - Of several such policies the smallest `max` holds. It goes before `max_body_size` of the listener, also where it
//!   allows more.
//! - What is said in a WebSocket is no body.
//!
//! # For operators
//!
//! - Without this policy `max_body_size` of the listener holds. Bodies are passed on piece by piece: their size is no
//!   matter of memory.
//! - An upload in chunks may reach the upstream in part before it proves too large.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - request_size: { max: 10MiB }
//! ```

use http::{Method, header};
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Flow, Policy, Stage};
use crate::{config::types::Size, proxy::context::Context, reject::Reject, runtime::Build};

/// How large the body of a request may be.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RequestSize")]
pub struct Config {
    /// The largest body that is let through: `64KiB`, `10MiB`.
    pub max: Size,
    /// Whether the client has to say beforehand how large the body is.
    #[serde(default)]
    pub require_length: bool,
}

/// Refuses large bodies.
#[derive(Debug)]
pub struct RequestSize {
    max: u64,
    require_length: bool,
}

impl Policy for RequestSize {
    const STAGE: Stage = Stage::Guard;
    type Config = Config;

    fn compile(config: &Config, _: &mut Build<'_>) -> Result<Self, String> {
        Ok(Self { max: config.max.0, require_length: config.require_length })
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        self.look_at(request)?;
        ctx.max_body = Some(ctx.max_body.map_or(self.max, |max| max.min(self.max)));
        Ok(Flow::Continue)
    }
}

impl RequestSize {
    fn look_at(&self, request: &RequestHeader) -> Result<(), Reject> {
        match request.headers.get(header::CONTENT_LENGTH) {
            // A length that is not a number was refused long ago; if not, it is certainly too large.
            Some(length) if number(length.as_bytes()).is_none_or(|length| length > self.max) => {
                Err(Reject::BodyTooLarge)
            }
            None if self.require_length && may_have_body(request) => Err(Reject::LengthRequired),
            Some(_) | None => Ok(()),
        }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// HTTP/2 announces no body in its header, so the methods that usually have one count as having one.
fn may_have_body(request: &RequestHeader) -> bool {
    request.headers.contains_key(header::TRANSFER_ENCODING)
        || [Method::POST, Method::PUT, Method::PATCH].contains(&request.method)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_at(policy: &RequestSize, method: &str, headers: &[(&'static str, &str)]) -> Result<(), Reject> {
        let mut request = RequestHeader::build(method, b"/", None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        policy.look_at(&request)
    }

    #[test]
    fn a_length_above_the_limit_is_refused_at_once() {
        let policy = RequestSize { max: 10, require_length: false };
        let post = |length: &str| look_at(&policy, "POST", &[("content-length", length)]);
        assert_eq!(post("10"), Ok(()));
        assert_eq!(post("11"), Err(Reject::BodyTooLarge));
        assert_eq!(post("99999999999999999999"), Err(Reject::BodyTooLarge));
        assert_eq!(look_at(&policy, "POST", &[]), Ok(()));
    }

    #[test]
    fn a_length_can_be_required() {
        let policy = RequestSize { max: 10, require_length: true };
        let chunked = [("transfer-encoding", "chunked")];
        assert_eq!(look_at(&policy, "GET", &[]), Ok(()));
        assert_eq!(look_at(&policy, "GET", &chunked), Err(Reject::LengthRequired));
        assert_eq!(look_at(&policy, "POST", &[]), Err(Reject::LengthRequired));
        assert_eq!(look_at(&policy, "POST", &[("content-length", "0")]), Ok(()));
    }
}
