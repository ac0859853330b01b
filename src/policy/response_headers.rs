//! `response_headers`: changes the headers that the client sees.
//!
//! # Rules
//!
//! - `remove`, `set` and `add` are done in this order, on every response, the gateway's own refusals included.
//! - Values are [templates](super::template). What is not there is left out; if nothing is left of a value of `set`, the
//!   header is removed.
//! - Headers of the connection (`connection`, `transfer-encoding`, ...) and `content-length` cannot be changed.
//!
//! # For operators
//!
//! - Placeholders that read the request itself (`{method}`, `{path}`, `{query}`, `{header.NAME}`, ...) are filled in when
//!   the request comes by in stage `Transform`. If it was refused before that, they are empty; the others never are.
//! - What other policies put on responses (`RateLimit`, CORS, `X-Request-Id`) is put there afterwards.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - response_headers:
//!       set: { strict-transport-security: max-age=31536000 }
//!       remove: [server, x-powered-by]
//! ```

use pingora::http::{RequestHeader, ResponseHeader};

use super::{
    Flow, Policy, Stage,
    edit::{self, Direction, Edit},
};
use crate::{config::check::Check, proxy::context::Context, reject::Reject, runtime::Build};

pub use super::edit::Config;

/// Changes the headers that the client sees.
#[derive(Debug)]
pub struct ResponseHeaders(Edit);

impl Policy for ResponseHeaders {
    const STAGE: Stage = Stage::Transform;
    const REFUSES: bool = false;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        edit::check(config, Direction::Response, check);
    }

    fn compile(config: &Config, _: &mut Build<'_>) -> Result<Self, String> {
        Ok(Self(Edit::compile(config)))
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        self.0.capture(request, ctx);
        Ok(Flow::Continue)
    }

    fn on_response(&self, response: &mut ResponseHeader, ctx: &mut Context) {
        self.0.apply_to_response(response, ctx);
    }
}
