//! `cache`: answers that are kept and given again without asking the upstream.
//!
//! # Rules
//!
//! - Only whole answers to GET (HEAD and ranges are answered from them), and only those of which the upstream says how long they may be kept (`Cache-Control`, `Expires`), as
//!   [RFC 9111](https://www.rfc-editor.org/rfc/rfc9111) has it for a shared cache. Where it says nothing, `ttl` does; without `ttl` such an answer is
//!   not kept.
//! - Never kept: `Cache-Control: private` and `no-store`, `Set-Cookie`, `Vary: *`, parts of a resource, errors other than 404 and 410, bodies larger than `max_object`,
//!   and bodies of which nobody can tell whether they are whole.
//! - Everything in the request that routes and identities are made of is part of the key: route, upstream, scheme, `Host`, path and query byte for byte, what trusted
//!   proxies say, who is calling, and `key_headers`. What `Vary` names is, too.
//! - Who calls is asked before: the cache runs last (stage `Serve`), and limits count what it answers. With a policy that authenticates, each caller has
//!   answers of its own; `shared: true` says that all callers get the same. Where nobody knows who calls, nothing is kept.
//! - An old answer is made fresh by asking whether it changed (`If-None-Match`). One request asks; the others wait, or get the old one for
//!   `stale_while_revalidate`. When the upstream fails, the old one is given for `stale_if_error`.
//! - Of requests for what is not there yet, one goes to the upstream, and the others wait for its answer, for up to 5 s.
//! - A request that changes something (POST, PUT, PATCH, DELETE) and succeeds takes what is kept of its URL away.
//! - Clients cannot force a request to the upstream: `no-cache` and `max-age=0` of theirs are ignored, unless `honour_no_cache` is set. `only-if-cached` gets 504
//!   where nothing is kept.
//!
//! # For operators
//!
//! - All routes share `cache.memory` (64 MiB); what was not asked for goes first. A reload keeps answers; a new process begins without any.
//! - `torana cache purge --route NAME`, `--url URL` or `--all` takes answers away; `POST /cache?do=purge&route=NAME` on the admin listener, too.
//! - `Cache-Status` ([RFC 9211](https://www.rfc-editor.org/rfc/rfc9211)) says what happened, as do `cache` in the access log and
//!   `torana_cache_requests_total`.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - cache: { ttl: 60s, stale_if_error: 1h }
//! ```

mod directives;
mod key;
mod rules;
mod shelf;
mod shelves;
mod storage;

use std::sync::Arc;

use http::Method;
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;

pub(crate) use self::{
    directives::Directives,
    key::{key, place, variance},
    rules::why,
};
pub use self::{
    rules::{Outcome, Rules},
    shelves::{Purge, Shelves, Watch},
};
use super::{Flow, Policy, Stage};
use crate::{
    config::{
        check::Check,
        steps,
        types::{Duration, HeaderName, Size},
    },
    proxy::{admit::has_body, context::Context},
    reject::Reject,
    runtime::Build,
};

/// Answers that are kept and given again.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Cache")]
pub struct Config {
    /// How long an answer is fresh of which the upstream does not say it; without it, such an answer is not kept. Not for requests with cookies.
    pub ttl: Option<Duration>,
    /// For so long after that, others get the old answer while one request asks anew. What the upstream says goes first.
    pub stale_while_revalidate: Duration,
    /// For so long after that, the old answer is given when the upstream fails. What the upstream says goes first.
    pub stale_if_error: Duration,
    /// A larger body is not kept.
    pub max_object: Size,
    /// Headers of the request that are part of the key, besides what `Vary` names.
    pub key_headers: Vec<HeaderName>,
    /// Whether all callers get the same answers, on a route that asks who is calling.
    pub shared: bool,
    /// Whether a client that says `Cache-Control: no-cache` or `max-age=0` has the upstream asked.
    pub honour_no_cache: bool,
    /// Whether responses say in `Cache-Status` what happened.
    pub status_header: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ttl: None,
            stale_while_revalidate: Duration::from_secs(0),
            stale_if_error: Duration::from_secs(0),
            max_object: Size(1 << 20),
            key_headers: Vec::new(),
            shared: false,
            honour_no_cache: false,
            status_header: true,
        }
    }
}

/// Has answers kept.
#[derive(Debug)]
pub struct CachePolicy(Arc<Rules>);

impl Policy for CachePolicy {
    const STAGE: Stage = Stage::Serve;
    const REFUSES: bool = false;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        let memory = check.config.cache.memory;
        if check.beside().filter(|policy| policy.config.kind() == "cache").count() > 1 {
            check.error(&[], "there is another `cache` in this list: only one of them would count");
        }
        if config.ttl.is_some_and(|ttl| ttl.0.is_zero()) {
            check.error(
                &steps!["ttl"],
                "for no time at all: leave `ttl` out to keep only what the upstream lets be kept",
            );
        }
        if config.max_object.0 == 0 {
            check.error(&steps!["max_object"], "nothing but empty answers would be kept");
        }
        if config.max_object.0 > memory.0 / 2 {
            let why = format!("at most half of `cache.memory`: {}B", memory.0 / 2);
            check.error(&steps!["max_object"], why);
        }
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        Ok(Self(Arc::new(Rules::compile(config, build))))
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let is_asked = [Method::GET, Method::HEAD].contains(&request.method) && !has_body(request);
        if is_asked && !ctx.upgrade && ctx.grpc.is_none() && (self.0.shared || is_known(ctx)) {
            ctx.cache = Some(Arc::clone(&self.0));
        }
        Ok(Flow::Continue)
    }
}

/// Whether it is clear whose answers are meant: nobody was asked for a name, or there is one.
fn is_known(ctx: &Context) -> bool {
    match &ctx.identity {
        Some(identity) => !identity.key().2.is_empty(),
        None => !ctx.route.as_ref().is_some_and(|route| route.chain.asks_who()),
    }
}
