//! How requests meet the policy [`cache`](crate::policy::cache): what Pingora's cache asks, and what is said of it.

use std::time::Duration;

use http::Method;
use pingora::{
    Error,
    cache::{CacheKey, CacheMeta, CachePhase, ForcedFreshness, NoCacheReason, RespCacheable, key::HashBinary},
    http::{RequestHeader, ResponseHeader},
};
use pingora_proxy::Session;

use super::{blame, context::Context, respond};
use crate::{
    policy::cache::{self, Outcome},
    reject::Reject,
    runtime::Services,
};

const CACHE_STATUS: &str = "cache-status";

/// Has the request answered from the cache, if its policy says so and nothing comes behind its header.
pub(super) fn begin(session: &mut Session, ctx: &mut Context) {
    if !session.is_body_empty() {
        ctx.cache = None;
    }
    if let Some(rules) = &ctx.cache {
        rules.shelves().serve(&mut session.cache);
    }
}

/// What its answer is kept under.
pub(super) fn key(request: &RequestHeader, ctx: &Context) -> pingora::Result<CacheKey> {
    let Some(rules) = &ctx.cache else {
        return Error::e_explain(pingora::ErrorType::InternalError, "nothing is kept");
    };
    Ok(cache::key(rules, request, ctx))
}

/// Which of several answers it is.
pub(super) fn variance(meta: &CacheMeta, request: &RequestHeader, ctx: &Context) -> Option<HashBinary> {
    cache::variance(ctx.cache.as_ref()?.seeds(), meta.response_header(), request)
}

/// Whether a kept answer is asked for anew although it is fresh.
pub(super) fn forced(request: &RequestHeader, ctx: &Context) -> Option<ForcedFreshness> {
    let must_ask = ctx.cache.as_ref().is_some_and(|rules| rules.must_ask(request));
    must_ask.then_some(ForcedFreshness::ForceExpired)
}

/// Whether the upstream may be asked. From here on, what is taken away is not put back by an older answer.
pub(super) fn may_ask(session: &Session, ctx: &mut Context) -> Result<(), Reject> {
    let Some(rules) = &ctx.cache else { return Ok(()) };
    if cache::wishes(session.req_header()).is_some_and(|wishes| wishes.only_if_cached()) {
        return Err(Reject::NotCached);
    }
    ctx.watch = session.cache.maybe_cache_key().and_then(|key| rules.shelves().watch(key));
    Ok(())
}

/// Whether an answer is kept.
pub(super) fn keep(request: &RequestHeader, response: &ResponseHeader, ctx: &Context, now: Duration) -> RespCacheable {
    let (Some(rules), Some(watch)) = (&ctx.cache, &ctx.watch) else {
        return RespCacheable::Uncacheable(NoCacheReason::OriginNotCache);
    };
    let of_caller = ctx.identity.is_some() && !rules.is_shared();
    rules.keep(request, response, (of_caller, watch), now)
}

/// Whether an old answer is good enough: while another request asks for a new one, or because the upstream failed.
pub(super) fn may_be_old(session: &Session, ctx: &mut Context, error: Option<&Error>) -> bool {
    let Some(error) = error else {
        // Whoever has to ask waits for the answer: a request of its own in the background would have to pass all policies once more.
        return !session.cache.is_cache_lock_writer();
    };
    let failed = match &ctx.reject {
        Some(reject) => reject.blames_upstream() || *reject == Reject::DeadlineExceeded,
        None => blame::reject(error).is_some_and(|reject| reject.blames_upstream()),
    };
    if failed {
        ctx.reject = None;
    }
    failed
}

/// What became of a request.
pub(super) fn outcome(session: &Session) -> Outcome {
    match session.cache.phase() {
        CachePhase::Hit => Outcome::Hit,
        CachePhase::Stale | CachePhase::StaleUpdating => Outcome::Stale,
        CachePhase::Revalidated | CachePhase::RevalidatedNoCache(_) => Outcome::Revalidated,
        CachePhase::Expired => Outcome::Expired,
        CachePhase::Miss => Outcome::Miss,
        CachePhase::Disabled(_) | CachePhase::Uninit | CachePhase::Bypass | CachePhase::CacheKey => Outcome::Bypass,
    }
}

/// Says what became of a request, on its way back, and takes away what it changed.
pub(super) fn note(session: &Session, response: &mut ResponseHeader, ctx: &Context, services: &Services) {
    if let Some(said) = ctx.cache.as_ref().and_then(|rules| rules.says(outcome(session)))
        && let Err(error) = response.append_header(CACHE_STATUS, said)
    {
        log::debug!("a header could not be added: {error}");
    }
    let request = session.req_header();
    // RFC 9111, 4.4
    let changes = !is_safe(&request.method) && response.status.as_u16() < 400 && !respond::is_interim(response);
    if changes && !services.shelves.are_idle() {
        services.shelves.outdate(cache::place(services.seeds, ctx.secure, &ctx.host, request.raw_path()));
    }
}

fn is_safe(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS].contains(method)
}

/// Counts what became of a request, once.
pub(super) fn end(session: &Session, ctx: &mut Context) {
    ctx.watch = None;
    let Some(rules) = &ctx.cache else { return };
    // What was refused on the way never came here.
    if matches!(session.cache.phase(), CachePhase::Disabled(NoCacheReason::NeverEnabled)) {
        return;
    }
    let outcome = outcome(session);
    rules.count(outcome);
    ctx.cached = Some(outcome);
}
