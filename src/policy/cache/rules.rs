//! Which answers are kept, and for how long.

use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue, header};
use pingora::{
    cache::{
        CacheMeta, NoCacheReason,
        RespCacheable::{self, Cacheable, Uncacheable},
        filters::calculate_expires_header_time,
    },
    http::{RequestHeader, ResponseHeader},
};

use super::{
    Config, Shelves,
    directives::{Directives, Seconds},
};
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

/// Why an answer is not kept, as the log and `Cache-Status` have it.
pub(crate) mod why {
    use pingora::cache::NoCacheReason::{self, Custom};

    /// Because of the request, or because something failed: other requests of the key are not to suffer from it.
    pub(super) const AUTHORIZATION: NoCacheReason = Custom("authorization");
    pub(super) const CLIENT: NoCacheReason = Custom("client_no_store");
    pub(super) const COOKIE: NoCacheReason = Custom("cookie");
    pub(super) const STATUS: NoCacheReason = Custom("status");
    /// Only the whole answer to a GET is kept.
    pub(crate) const NOT_WHOLE: NoCacheReason = Custom("head_or_range");
    /// Because of the answer: the next requests of the key do not wait for each other.
    pub(super) const EVENTS: NoCacheReason = Custom("event_stream");
    pub(super) const NO_LENGTH: NoCacheReason = Custom("no_length");
    pub(crate) const NO_STORE: NoCacheReason = Custom("no_store");
    pub(super) const OLD: NoCacheReason = Custom("old");
    pub(super) const PART: NoCacheReason = Custom("part");
    pub(crate) const PRIVATE: NoCacheReason = Custom("private");
    pub(super) const SET_COOKIE: NoCacheReason = Custom("set_cookie");
    pub(super) const UNSAID: NoCacheReason = Custom("no_lifetime");
    pub(super) const VARY: NoCacheReason = Custom("vary");

    /// Whether this is no reason to think that other requests have the same fate.
    pub(crate) fn is_of_request(reason: &str) -> bool {
        // The last one is Pingora's.
        let of_request = [AUTHORIZATION, CLIENT, COOKIE, STATUS, NOT_WHOLE, Custom("304 on miss")];
        of_request.iter().any(|one| matches!(one, Custom(own) if *own == reason))
    }
}

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
        }
    }

    /// The largest body that is kept, in bytes.
    pub(crate) fn max_object(&self) -> usize {
        self.max_object
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

    /// What to say of it, if anything.
    pub(crate) fn says(&self, outcome: Outcome, why: Option<&'static str>) -> Option<HeaderValue> {
        match why.filter(|_| self.says) {
            Some(why) => HeaderValue::try_from(format!("{}; detail={why}", outcome.status())).ok(),
            None => self.says.then(|| HeaderValue::from_static(outcome.status())),
        }
    }

    /// Whether the client has the upstream asked, and may.
    pub(crate) fn must_ask(&self, request: &RequestHeader) -> bool {
        self.honours_no_cache && {
            let wishes = Directives::of(&request.headers);
            wishes.no_cache || wishes.max_age == Seconds::Said(0)
        }
    }

    /// How an answer is kept, or why it is not. `of_caller`: it is kept for one caller alone; `now` since 1970.
    pub(crate) fn keep(
        &self,
        request: &RequestHeader,
        response: &ResponseHeader,
        of_caller: bool,
        now: Duration,
    ) -> RespCacheable {
        let says = Directives::of(&response.headers);
        let now = SystemTime::UNIX_EPOCH + now;
        let lasts =
            self.may_keep(request, response, says, of_caller).and_then(|()| self.lasts(request, response, says, now));
        match lasts {
            Ok((since, until)) => {
                let (asking, failing) = says.stale(self.stale);
                let mut meta = CacheMeta::new(until, since, asking, failing, response.clone());
                meta.extensions_mut().insert(MaxObject(self.max_object));
                Cacheable(meta)
            }
            Err(why) => Uncacheable(why),
        }
    }

    /// Whether an answer may be kept at all.
    fn may_keep(
        &self,
        request: &RequestHeader,
        response: &ResponseHeader,
        says: Directives,
        of_caller: bool,
    ) -> Result<(), NoCacheReason> {
        let headers = &response.headers;
        if Directives::of(&request.headers).no_store {
            return Err(why::CLIENT);
        }
        if !STATUSES.contains(&response.status.as_u16()) {
            return Err(why::STATUS);
        }
        // RFC 9111, 3.5
        let is_for_all = says.public || says.must_revalidate || says.s_maxage != Seconds::Unsaid;
        if request.headers.contains_key(header::AUTHORIZATION) && !of_caller && !is_for_all {
            return Err(why::AUTHORIZATION);
        }
        let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let is_endless = kind.get(..17).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"));
        let is_odd = vary(response).count() > MAX_VARY || vary(response).any(|name| name == "*");
        let hindrances = [
            (says.no_store, why::NO_STORE),
            (says.private, why::PRIVATE),
            (headers.contains_key(header::SET_COOKIE), why::SET_COOKIE),
            (headers.contains_key(header::CONTENT_RANGE), why::PART),
            (is_endless, why::EVENTS),
            (is_odd, why::VARY),
            (!is_whole(response), why::NO_LENGTH),
        ];
        if let Some((_, why)) = hindrances.into_iter().find(|(is, _)| *is) {
            return Err(why);
        }
        match length(response) {
            Some(length) if length > self.max_object => Err(NoCacheReason::ResponseTooLarge),
            Some(_) | None => Ok(()),
        }
    }

    /// From when until when an answer is fresh.
    fn lasts(
        &self,
        request: &RequestHeader,
        response: &ResponseHeader,
        says: Directives,
        now: SystemTime,
    ) -> Result<(SystemTime, SystemTime), NoCacheReason> {
        let headers = &response.headers;
        let after = |seconds: u32| now.checked_add(Duration::from_secs(seconds.into())).ok_or(why::OLD);
        let until = match says.lifetime() {
            Some(seconds) => after(seconds)?,
            None => match calculate_expires_header_time(response) {
                Some(time) => time,
                None if headers.contains_key(header::PRAGMA) || headers.contains_key(header::EXPIRES) => {
                    return Err(why::OLD);
                }
                None => {
                    let is_usual = STATUSES.iter().take(HEURISTIC).any(|status| *status == response.status.as_u16());
                    let ttl = self.ttl.filter(|_| is_usual).ok_or(why::UNSAID)?;
                    if request.headers.contains_key(header::COOKIE) {
                        return Err(why::COOKIE);
                    }
                    now.checked_add(ttl).ok_or(why::OLD)?
                }
            },
        };
        // It may come out of another cache.
        let age = Duration::from_secs(number(response, &header::AGE).unwrap_or(0).min(u64::from(u32::MAX)));
        let (since, until) = (now.checked_sub(age).ok_or(why::OLD)?, until.checked_sub(age).ok_or(why::OLD)?);
        // What is old at once is worth keeping only if one can ask whether it has changed.
        let can_ask = headers.contains_key(header::ETAG) || headers.contains_key(header::LAST_MODIFIED);
        if until <= now && !can_ask { Err(why::OLD) } else { Ok((since, until)) }
    }
}

/// Whether one can tell that the body has come to its end.
fn is_whole(response: &ResponseHeader) -> bool {
    response.version >= http::Version::HTTP_2
        || response.status == http::StatusCode::NO_CONTENT
        || response.headers.contains_key(header::CONTENT_LENGTH)
        || response.headers.contains_key(header::TRANSFER_ENCODING)
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
