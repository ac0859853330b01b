//! How requests meet the policy [`cache`](crate::policy): what Pingora's cache asks, and what is said of it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use pingora::{
    Error, ErrorType, Result,
    cache::{CacheKey, CacheMeta, CachePhase, ForcedFreshness, NoCacheReason, RespCacheable, key::HashBinary},
    http::{RequestHeader, ResponseHeader},
    protocols::http::conditional_filter::not_modified_filter,
};
use pingora_proxy::{RangeType, Session, range_header_filter};

use super::{blame, context::Context};
use crate::{
    policy::cache::{self, Outcome},
    reject::Reject,
    runtime::Services,
};

const CACHE_STATUS: &str = "cache-status";

/// Has the request answered from the cache, if its policy says so and nothing comes behind its header.
pub(super) fn begin(session: &mut Session, ctx: &mut Context, left: Option<Duration>) {
    if !session.is_body_empty() {
        ctx.cache = None;
    }
    if let Some(rules) = &ctx.cache {
        rules.shelves().serve(&mut session.cache, left);
    }
}

/// What its answer is kept under.
pub(super) fn key(request: &RequestHeader, ctx: &Context) -> Result<CacheKey> {
    let Some(rules) = &ctx.cache else {
        return Error::e_explain(ErrorType::InternalError, "nothing is kept");
    };
    Ok(cache::key(rules, request, ctx))
}

/// Which of several answers it is.
pub(super) fn variance(meta: &CacheMeta, request: &RequestHeader, ctx: &Context) -> Option<HashBinary> {
    cache::variance(ctx.cache.as_ref()?.seeds(), meta.response_header(), request)
}

/// Whether a kept answer is asked for anew although it is fresh.
pub(super) fn forced(request: &RequestHeader, is_fresh: bool, ctx: &Context) -> Option<ForcedFreshness> {
    if !is_fresh && !is_whole(request) {
        // It is for the upstream, which is asked for no more than this.
        return Some(ForcedFreshness::ForceMiss);
    }
    let must_ask = ctx.cache.as_ref().is_some_and(|rules| rules.must_ask(request));
    must_ask.then_some(ForcedFreshness::ForceExpired)
}

/// Whether all of an answer is asked for: only then it is kept. Pingora ends an exchange as soon as the client has all that it asked for.
fn is_whole(request: &RequestHeader) -> bool {
    request.method == Method::GET && !request.headers.contains_key(header::RANGE)
}

/// The upstream has to be asked, and its answer may be kept.
pub(super) fn miss(session: &mut Session) {
    if is_whole(session.req_header()) {
        session.cache.cache_miss();
    } else {
        session.cache.disable(cache::why::NOT_WHOLE);
    }
}

/// Whether the answer is on its way to the cache: the client gets all of it then, whatever it has already.
fn is_coming_in(session: &Session) -> bool {
    matches!(session.cache.phase(), CachePhase::Miss | CachePhase::Expired)
}

/// Whether the client has this already.
pub(super) fn is_known(session: &Session, response: &ResponseHeader) -> bool {
    !is_coming_in(session) && not_modified_filter(session.req_header(), response)
}

/// Whether the upstream may be asked. From here on, what is taken away is not put back by an older answer.
pub(super) fn may_ask(
    session: &Session,
    ctx: &mut Context,
    left: std::result::Result<Option<Duration>, Reject>,
) -> std::result::Result<(), Reject> {
    let Some(rules) = &ctx.cache else { return Ok(()) };
    if cache::Directives::of(&session.req_header().headers).only_if_cached {
        return Err(Reject::NotCached);
    }
    // Waiting for another request's answer took some time.
    left?;
    ctx.watch = session.cache.maybe_cache_key().and_then(|key| rules.shelves().watch(key));
    Ok(())
}

/// Whether an answer is kept.
pub(super) fn keep(session: &Session, response: &ResponseHeader, ctx: &Context, now: Duration) -> RespCacheable {
    let (Some(rules), Some(watch)) = (&ctx.cache, &ctx.watch) else {
        return RespCacheable::Uncacheable(NoCacheReason::OriginNotCache);
    };
    let of_caller = ctx.identity.is_some() && !rules.is_shared();
    let mut kept = rules.keep(session.req_header(), response, of_caller, now);
    match &mut kept {
        RespCacheable::Cacheable(meta) => watch.mark(meta),
        RespCacheable::Uncacheable(why)
            if session.cache.phase() == CachePhase::Stale && is_withdrawn(*why, response) =>
        {
            watch.outdate();
        }
        RespCacheable::Uncacheable(_) => {}
    }
    kept
}

/// Whether the upstream, asked about an old answer, says that it is not to be given any more.
fn is_withdrawn(why: NoCacheReason, response: &ResponseHeader) -> bool {
    [cache::why::NO_STORE, cache::why::PRIVATE].contains(&why) || matches!(response.status.as_u16(), 404 | 410)
}

/// Gives up an answer that says that the upstream failed, where an old one is given instead. Everybody who judges endpoints has seen it by now.
pub(super) fn instead(session: &Session, response: &ResponseHeader, ctx: &mut Context) -> Result<()> {
    if ctx.cache.is_none() || !response.status.is_server_error() || !session.cache.can_serve_stale_error() {
        return Ok(());
    }
    ctx.old_instead = true;
    Error::e_explain(ErrorType::HTTPStatus(response.status.as_u16()), "an old answer is given")
}

/// Holds the body of an answer that is kept until all of it is there: were it sent on as it comes, a client that takes it slowly would keep all
/// others waiting for it.
pub(super) fn hold(session: &Session, piece: &mut Option<Bytes>, end: bool, ctx: &mut Context) {
    let Some(rules) = ctx.cache.as_ref().filter(|_| is_coming_in(session)) else { return };
    let is_too_much = ctx.held.len() + piece.as_ref().map_or(0, Bytes::len) > rules.max_object();
    if end && ctx.held.is_empty() {
        return;
    }
    if let Some(piece) = piece.take() {
        ctx.held.extend_from_slice(&piece);
    }
    if (end || is_too_much) && !ctx.held.is_empty() {
        *piece = Some(std::mem::take(&mut ctx.held).freeze());
    }
}

/// Which part of an answer is asked for. Pingora's own reading makes nonsense of a range without a byte in it.
pub(super) fn range(session: &Session, response: &mut ResponseHeader) -> RangeType {
    /// More parts than this are not made.
    const MAX_PARTS: usize = 16;
    let request = session.req_header();
    let is_empty = response.headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0");
    let is_weak = request.headers.get(header::IF_RANGE).is_some_and(|version| version.as_bytes().starts_with(b"W/"));
    let ranges = request.headers.get(header::RANGE).map(HeaderValue::as_bytes).unwrap_or_default();
    // `-0`, alone or among others.
    let has_nothing = ranges.split(|byte| matches!(byte, b',' | b'=')).any(|range| {
        let range = range.trim_ascii();
        range.first() == Some(&b'-') && range.iter().skip(1).all(|digit| *digit == b'0')
    });
    // RFC 9110, 14.2: a range may always be ignored, and for other methods than GET it has to be.
    if is_coming_in(session) || request.method != Method::GET || is_empty || is_weak || has_nothing {
        return RangeType::None;
    }
    range_header_filter(request, response, Some(MAX_PARTS))
}

/// Whether an old answer is good enough: while another request asks for a new one, or because the upstream failed.
pub(super) fn may_be_old(session: &Session, ctx: &mut Context, error: Option<&Error>) -> bool {
    let Some(error) = error else {
        // Whoever has to ask waits for the answer: a request of its own in the background would have to pass all policies once more.
        return !session.cache.is_cache_lock_writer();
    };
    let failed = match (&ctx.reject, error.etype()) {
        (Some(reject), _) => reject.blames_upstream() || *reject == Reject::DeadlineExceeded,
        // Pingora asks before anybody else has seen the answer: retries, breakers and counters come first.
        (None, ErrorType::HTTPStatus(_)) => ctx.old_instead,
        (None, _) => blame::reject(error).is_some_and(|reject| reject.blames_upstream()),
    };
    if failed {
        ctx.reject = None;
        ctx.old_instead = true;
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
    if let Some(said) = ctx.cache.as_ref().and_then(|rules| rules.says(outcome(session), why(session)))
        && let Err(error) = response.append_header(CACHE_STATUS, said)
    {
        log::debug!("a header could not be added: {error}");
    }
    let request = session.req_header();
    // RFC 9111, 4.4
    let changes = !request.method.is_safe() && response.status.as_u16() < 400;
    if changes && !services.shelves.are_idle() {
        services.shelves.outdate(cache::place(services.seeds, ctx.secure, &ctx.host, request.raw_path()));
    }
}

/// Counts what became of a request, once. What was refused, here or on the way, says nothing of the cache.
pub(super) fn end(session: &Session, ctx: &mut Context) {
    ctx.watch = None;
    let is_meant = !matches!(session.cache.phase(), CachePhase::Disabled(NoCacheReason::NeverEnabled));
    if ctx.cache.is_none() || !is_meant || ctx.reject.is_some() {
        return;
    }
    let outcome = outcome(session);
    if let Some(route) = &ctx.route {
        route.metrics.cached(outcome);
    }
    ctx.cached = Some((outcome, why(session)));
}

/// Why an answer was not kept, if it was not.
fn why(session: &Session) -> Option<&'static str> {
    let CachePhase::Disabled(reason) = session.cache.phase() else { return None };
    if let NoCacheReason::Custom(why) = reason {
        // One of Pingora's own is a sentence.
        return Some(if why.contains(' ') { "odd_304" } else { why });
    }
    (reason == NoCacheReason::ResponseTooLarge).then_some("too_large")
}
