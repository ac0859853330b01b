//! Which answers are kept, and for how long.

use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue, header};
use pingora::{
    cache::{
        CacheMeta, CacheMetaDefaults, NoCacheReason,
        RespCacheable::{self, Cacheable, Uncacheable},
        cache_control::{CacheControl, Cacheable as Allowed, InterpretCacheControl as _},
        filters::{calculate_fresh_until, calculate_serve_stale_durations},
    },
    http::{RequestHeader, ResponseHeader},
};
use prometheus::IntCounter;

use super::{Config, Shelves, shelves::Watch};
use crate::runtime::{Build, Seeds};

/// What becomes of a request that may be answered from the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered from the cache.
    Hit,
    /// Answered from the cache although the answer was old.
    Stale,
    /// The upstream said that the old answer still holds.
    Revalidated,
    /// The old answer was replaced.
    Expired,
    /// The upstream's answer was kept.
    Miss,
    /// The upstream's answer was not kept.
    Bypass,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Hit, Self::Stale, Self::Revalidated, Self::Expired, Self::Miss, Self::Bypass];

    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Expired => "expired",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }

    /// The value of `Cache-Status` ([RFC 9211](https://www.rfc-editor.org/rfc/rfc9211)).
    pub const fn status(self) -> &'static str {
        match self {
            Self::Hit => "torana; hit",
            Self::Stale => "torana; hit; detail=stale",
            Self::Revalidated => "torana; fwd=stale; fwd-status=304",
            Self::Expired => "torana; fwd=stale; stored",
            Self::Miss => "torana; fwd=miss; stored",
            Self::Bypass => "torana; fwd=bypass",
        }
    }
}

/// A `cache` policy, compiled.
#[derive(Debug)]
pub struct Rules {
    ttl: Option<Duration>,
    /// How long old answers are good for, in seconds: while one asks anew, and when the upstream fails.
    stale: (u32, u32),
    max_object: usize,
    pub(super) key_headers: Box<[HeaderName]>,
    pub(super) shared: bool,
    honours_no_cache: bool,
    says: bool,
    pub(super) seeds: Seeds,
    shelves: &'static Shelves,
    counts: [IntCounter; 6],
}

/// Statuses whose answers are kept. The first ones also where the upstream says nothing of it
/// ([RFC 9110, 15.1](https://www.rfc-editor.org/rfc/rfc9110#section-15.1)).
const STATUSES: [u16; 10] = [200, 203, 204, 300, 301, 308, 404, 410, 302, 307];
const HEURISTIC: usize = 8;

/// An answer that varies by more headers than this is not kept.
const MAX_VARY: usize = 16;

/// How large the body of an answer may get, told to whoever keeps it.
#[derive(Clone, Copy, Debug)]
pub(super) struct MaxObject(pub(super) usize);

/// A client's wish. Other clients' requests are not to suffer from it, so the URL is not remembered for it.
pub(super) const NO_STORE: &str = "no-store of the client";

impl Rules {
    pub(super) fn compile(config: &Config, build: &Build<'_>) -> Self {
        let seconds = |time: crate::config::types::Duration| u32::try_from(time.0.as_secs()).unwrap_or(u32::MAX);
        Self {
            ttl: config.ttl.map(|ttl| ttl.0),
            stale: (seconds(config.stale_while_revalidate), seconds(config.stale_if_error)),
            max_object: usize::try_from(config.max_object.0).unwrap_or(usize::MAX),
            key_headers: config.key_headers.iter().map(crate::config::types::HeaderName::to_http).collect(),
            shared: config.shared,
            honours_no_cache: config.honour_no_cache,
            says: config.status_header,
            seeds: build.seeds,
            shelves: build.shelves,
            counts: build.metrics.cache.requests(build.scope().split('/').next().unwrap_or_default()),
        }
    }

    /// Where the answers are.
    pub(crate) fn shelves(&self) -> &'static Shelves {
        self.shelves
    }

    /// What hashes keys.
    pub(crate) fn seeds(&self) -> Seeds {
        self.seeds
    }

    /// Whether answers of one caller are for others too.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    /// Counts what became of a request.
    pub(crate) fn count(&self, outcome: Outcome) {
        let at = Outcome::ALL.iter().position(|one| *one == outcome);
        if let Some(count) = at.and_then(|at| self.counts.get(at)) {
            count.inc();
        }
    }

    /// What to say of it, if anything.
    pub(crate) fn says(&self, outcome: Outcome) -> Option<HeaderValue> {
        self.says.then(|| HeaderValue::from_static(outcome.status()))
    }

    /// Whether the client has the upstream asked, and may.
    pub(crate) fn must_ask(&self, request: &RequestHeader) -> bool {
        self.honours_no_cache
            && wishes(request)
                .is_some_and(|wishes| wishes.no_cache() || wishes.max_age().is_ok_and(|age| age == Some(0)))
    }

    /// How an answer is kept, or why it is not. `of_caller`: it is kept for one caller alone; `now` since 1970.
    pub(crate) fn keep(
        &self,
        request: &RequestHeader,
        response: &ResponseHeader,
        (of_caller, watch): (bool, &Watch),
        now: Duration,
    ) -> RespCacheable {
        match self.lasts(request, response, of_caller, SystemTime::UNIX_EPOCH + now) {
            Ok(lasts) => {
                let mut meta = self.meta(lasts, response);
                meta.extensions_mut().insert(watch.ticket);
                Cacheable(meta)
            }
            Err(why) => Uncacheable(why),
        }
    }

    fn meta(&self, (since, until): (SystemTime, SystemTime), response: &ResponseHeader) -> CacheMeta {
        let says = CacheControl::from_resp_headers(response);
        let defaults = CacheMetaDefaults::new(|_| None, self.stale.0, self.stale.1);
        let (while_asking, if_error) = calculate_serve_stale_durations(says.as_ref(), &defaults);
        let mut head = response.clone();
        if let Some(says) = says {
            says.strip_private_headers(&mut head);
        }
        let mut meta = CacheMeta::new(until, since, while_asking, if_error, head);
        meta.extensions_mut().insert(MaxObject(self.max_object));
        meta
    }

    /// From when until when an answer is fresh.
    fn lasts(
        &self,
        request: &RequestHeader,
        response: &ResponseHeader,
        of_caller: bool,
        now: SystemTime,
    ) -> Result<(SystemTime, SystemTime), NoCacheReason> {
        const NOT: NoCacheReason = NoCacheReason::OriginNotCache;
        let headers = &response.headers;
        if wishes(request).is_some_and(|wishes| wishes.no_store()) {
            return Err(NoCacheReason::Custom(NO_STORE));
        }
        let status = STATUSES.iter().position(|status| *status == response.status.as_u16()).ok_or(NOT)?;
        let is_own = headers.contains_key(header::SET_COOKIE) || headers.contains_key(header::CONTENT_RANGE);
        if is_own || !is_whole(response) || vary(response).count() > MAX_VARY || vary(response).any(|name| name == "*")
        {
            return Err(NOT);
        }
        if length(response).is_some_and(|length| length > self.max_object) {
            return Err(NoCacheReason::ResponseTooLarge);
        }
        let says = CacheControl::from_resp_headers(response);
        let is_private = says.as_ref().is_some_and(|says| says.is_cacheable() == Allowed::No);
        let is_for_all = says.as_ref().is_some_and(CacheControl::allow_caching_authorized_req);
        // RFC 9111, 3.5
        let authorized = request.headers.contains_key(header::AUTHORIZATION) && !of_caller;
        if is_private || authorized && !is_for_all {
            return Err(NOT);
        }
        let nothing = CacheMetaDefaults::new(|_| None, 0, 0);
        let said = calculate_fresh_until(now, says.as_ref(), response, false, &nothing);
        let may_guess = status < HEURISTIC && !request.headers.contains_key(header::COOKIE);
        let guessed = || self.ttl.filter(|_| may_guess).and_then(|ttl| now.checked_add(ttl));
        let until = said.or_else(guessed).ok_or(NOT)?;
        // It may come out of another cache.
        let age = Duration::from_secs(number(response, &header::AGE).unwrap_or(0).min(u64::from(u32::MAX)));
        let (since, until) = (now.checked_sub(age).ok_or(NOT)?, until.checked_sub(age).ok_or(NOT)?);
        // What is old at once is worth keeping only if one can ask whether it has changed.
        let can_ask = headers.contains_key(header::ETAG) || headers.contains_key(header::LAST_MODIFIED);
        if until <= now && !can_ask { Err(NOT) } else { Ok((since, until)) }
    }
}

/// Whether one can tell that the body has come to its end.
fn is_whole(response: &ResponseHeader) -> bool {
    response.version >= http::Version::HTTP_2
        || response.status == http::StatusCode::NO_CONTENT
        || response.headers.contains_key(header::CONTENT_LENGTH)
        || response.headers.contains_key(header::TRANSFER_ENCODING)
}

/// What the client says of caches.
pub(crate) fn wishes(request: &RequestHeader) -> Option<CacheControl> {
    request.headers.contains_key(header::CACHE_CONTROL).then(|| CacheControl::from_req_headers(request)).flatten()
}

/// The names in `Vary`.
pub(super) fn vary(response: &ResponseHeader) -> impl Iterator<Item = &str> {
    let all = response.headers.get_all(header::VARY).iter();
    // What is no text names no header, and is not kept.
    let names = all.flat_map(|value| value.to_str().unwrap_or("*").split(','));
    names.map(str::trim).filter(|name| !name.is_empty())
}

/// The length of the body, if it is said.
pub(super) fn length(response: &ResponseHeader) -> Option<usize> {
    number(response, &header::CONTENT_LENGTH).and_then(|length| usize::try_from(length).ok())
}

fn number(response: &ResponseHeader, name: &HeaderName) -> Option<u64> {
    response.headers.get(name)?.to_str().ok()?.trim().parse().ok()
}
