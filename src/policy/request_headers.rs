//! `request_headers`: changes the headers that the upstream sees.
//!
//! # Rules
//!
//! - `remove`, `set` and `add` are done in this order. All values are made beforehand, so a header can be renamed:
//!   `remove: [x-old]` with `set: { x-new: "{header.x-old}" }`.
//! - Values are [templates](super::template). What the request does not have is left out; if nothing is left of a value
//!   of `set`, the header is removed, so that a client's own never takes its place.
//! - Headers of the connection (`connection`, `transfer-encoding`, ...), `content-length`, `host` and `x-consumer-*`
//!   cannot be changed. `host` is a setting of the route.
//!
//! # For operators
//!
//! - It runs in stage `Transform`: after authentication, so `{consumer}` is known, and credentials that the gateway has
//!   taken away are not there any more.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - request_headers:
//!       set: { x-tenant: "{path.tenant}", x-real-ip: "{client_ip}" }
//!       remove: [x-debug]
//! ```

use pingora::http::RequestHeader;

use super::{
    Flow, Policy, Stage,
    edit::{self, Direction, Edit},
};
use crate::{config::check::Check, proxy::context::Context, reject::Reject, runtime::Build};

pub use super::edit::Config;

/// Changes the headers that the upstream sees.
#[derive(Debug)]
pub struct RequestHeaders(Edit);

impl Policy for RequestHeaders {
    const STAGE: Stage = Stage::Transform;
    const REFUSES: bool = false;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        edit::check(config, Direction::Request, check);
    }

    fn compile(config: &Config, _: &mut Build<'_>) -> Result<Self, String> {
        Ok(Self(Edit::compile(config)))
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        self.0.apply_to_request(request, ctx);
        Ok(Flow::Continue)
    }
}
