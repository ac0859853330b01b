//! `anonymous`: a caller without credentials is this consumer.
//!
//! # Rules
//!
//! - As the last one of [`any_of`](super::any_of) it lets in who shows no credential at all. Who shows one that is not valid is refused
//!   all the same.
//! - On its own, everyone is this consumer. Whoever another policy finds takes its place.
//! - The upstream sees `X-Consumer-Id` and `X-Consumer-Groups` of that consumer.
//!
//! # For operators
//!
//! - Give it a consumer of its own, with its own limits and groups: `rate_limit: { key: consumer }` counts all of them as one.
//!
//! # Example
//!
//! ```yaml
//! consumers:
//!   guest: { groups: [guests] }
//! policies:
//!   - any_of:
//!       - api_key: {}
//!       - anonymous: guest
//! ```

use std::sync::Arc;

use pingora::http::RequestHeader;

use super::{Flow, Policy, Stage};
use crate::{
    config::{check::Check, diagnostic::nearest, types::Name},
    identity::Identity,
    proxy::context::Context,
    reject::Reject,
    runtime::Build,
};

/// Says that the caller is a certain consumer.
#[derive(Debug)]
pub struct Anonymous(Arc<Identity>);

impl Policy for Anonymous {
    const STAGE: Stage = Stage::Authenticate;
    const REFUSES: bool = false;
    type Config = Name;

    fn check(config: &Name, check: &mut Check<'_>) {
        if !check.config.consumers.contains_key(config) {
            let help = nearest(config.as_str(), check.config.consumers.keys().map(Name::as_str));
            let help = help.map(|help| format!("; {help}")).unwrap_or_default();
            check.error(&[], format!("no consumer is named `{config}`{help}"));
        }
    }

    fn compile(config: &Name, build: &mut Build<'_>) -> Result<Self, String> {
        let identity = build.consumers.by_name(config.as_str()).and_then(|identity| identity.consumer.as_ref());
        let consumer = identity.ok_or_else(|| "there is no such consumer".to_owned())?;
        Ok(Self(Arc::new(Identity::anonymous(consumer))))
    }

    async fn on_request(&self, _: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        if ctx.identity.is_none() {
            ctx.identity = Some(Arc::clone(&self.0));
        }
        Ok(Flow::Continue)
    }
}
