//! `rate_limit`: at most so many requests.
//!
//! # Rules
//!
//! - Each combination of the parts of `key` has counts of its own: `consumer` (or the subject of the token, if it belongs to no consumer), `group`
//!   or the first of `{ groups: [...] }`, `client_ip`, `route`, `{ header: NAME }`, `{ claim: NAME }`, `{ path_parameter: NAME }`, `{ constant: TEXT }`.
//! - Counting is GCRA, the token bucket without a bucket: `100/s` lets `burst` requests (here 100, if `burst` is not
//!   given) through at once, and from then on one every 10 ms. There is no window whose edge lets twice as many through.
//! - Several limits hold together. A request that one of them refuses is not counted by any.
//! - It is exact: of 1,000 requests at the same time exactly those pass that the limit has room for.
//! - What is refused gets 429 with `Retry-After`. All responses say what is left, as `headers` wants it.
//! - A request counts for `cost`: a number, what a header of the request says (1 without it; no number is 400), or what a header of the answer
//!   says, `{ response_header: NAME }`: such a request needs room for one, and the rest is taken afterwards, whatever is left, but never more than one burst. The
//!   header is taken away.
//!   What costs more than the burst passes only when nothing else was asked for.
//! - `delay: 2s` has a request wait up to so long for its turn before it is refused: so many wait at most as have a turn within that time.
//! - A request that lacks a part of the key is refused with 400, unless `missing_key` says `client_ip` or `skip`.
//! - A limit by who is calling runs in stage `Limit`; every other one runs in stage `Guard`, before anyone is asked for a
//!   credential, so that it also slows down those who guess.
//!
//! # For operators
//!
//! - Counts are kept in this process, where a restart refills them and a reload does not; two gateways let twice as much through. With
//!   `store`, several gateways share them, and neither a restart nor a gateway more changes anything.
//! - An IPv6 client counts as its /64, because whoever has one address has all of these.
//! - A client may send any header it likes: count by one only if something before made sure of it.
//! - `policies` for every route share one count among all routes; add `route` to the key to tell them apart.
//! - Memory is bounded by `max_keys`. If more keys are in use at the same time, the one that has used least is forgotten.
//! - `accuracy: approximate` needs 64 KiB for each limit whatever comes, for floods from many addresses. It counts refused
//!   requests too, and may refuse a key too early because of another one.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - rate_limit: { key: consumer, limits: [100/s, 10_000/h] }
//!   - rate_limit: { key: [route, client_ip], limits: [5/s], burst: 20 }
//! ```

mod approximate;
mod config;
mod gcra;
pub(super) mod headers;
mod leases;
mod scripts;
mod slots;
mod stored;
mod table;

use std::{sync::Arc, time::Duration};

use http::HeaderName;
use pingora::http::{RequestHeader, ResponseHeader};

pub(crate) use self::approximate::Estimate;
pub use self::config::{Accuracy, Config, Cost, Headers, OnFailure, Sync};
use self::{
    gcra::{Ask, Gcra},
    leases::Leases,
    stored::Stored,
    table::Table,
};
use super::{Flow, Policy, Stage, limit_key::LimitKey};
use crate::{
    clock::nanos,
    config::{check::Check, types::Rate},
    proxy::context::{Charge, Context},
    reject::Reject,
    runtime::Build,
};

/// At most so many requests.
#[derive(Debug)]
pub struct RateLimit {
    key: LimitKey,
    by_caller: bool,
    cost: Price,
    /// How long a request waits for its turn, in nanoseconds.
    patience: u64,
    headers: Headers,
    table: Arc<Table>,
    counting: Counting,
}

#[derive(Debug)]
enum Price {
    Fixed(u64),
    Header(HeaderName),
    /// Known afterwards.
    ResponseHeader(HeaderName),
}

#[derive(Debug)]
enum Counting {
    Exact { limits: Box<[Gcra]>, max_keys: usize },
    Approximate(Box<[(Rate, Arc<Estimate>)]>),
    Stored(Stored),
}

impl Policy for RateLimit {
    const STAGE: Stage = Stage::Limit;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        config::check(config, check);
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        let scope = format!("{}/{}", build.scope(), config.limits.len());
        Ok(Self {
            key: LimitKey::compile(&config.key, config.missing_key, build.seeds),
            by_caller: config.key.needs_caller(),
            cost: match &config.cost {
                Cost::Fixed(cost) => Price::Fixed(cost.get()),
                Cost::Header(name) => Price::Header(name.to_http()),
                Cost::ResponseHeader(name) => Price::ResponseHeader(name.to_http()),
            },
            patience: config.delay.map_or(0, |delay| nanos(delay.0)),
            headers: config.headers,
            counting: Counting::compile(config, build, &scope)?,
            table: build.keep_as(scope, || Table::new(config.limits.len())),
        })
    }

    fn stage(&self) -> Stage {
        if self.by_caller { Stage::Limit } else { Stage::Guard }
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let Some(key) = self.key.of(request, ctx)? else { return Ok(Flow::Continue) };
        let ask = Ask { cost: self.cost.of(request)?, patience: self.patience };
        let refused = |retry_after| Reject::RateLimited { retry_after };
        let wait = match &self.counting {
            Counting::Exact { limits, max_keys } => {
                let now = ctx.started.monotonic;
                self.table.take(key, now, ask, (limits, *max_keys), &mut ctx.limits).map_err(refused)?
            }
            Counting::Approximate(limits) => {
                let mut taken = Ok(Duration::ZERO);
                for (rate, count) in limits {
                    let one = count.take(key, *rate, &mut ctx.limits);
                    taken = taken.and_then(|wait| one.map(|()| wait));
                }
                taken.map_err(refused)?
            }
            Counting::Stored(stored) => {
                let mut states = std::mem::take(&mut ctx.limits);
                let parts = || self.key.text(request, ctx);
                let taken = stored.take(key, parts, (ctx.started.monotonic, ask), &mut states).await;
                ctx.limits = states;
                taken?
            }
        };
        if matches!(self.cost, Price::ResponseHeader(_)) {
            let stored = matches!(self.counting, Counting::Stored(_));
            let parts = if stored { self.key.text(request, ctx) } else { Vec::new() };
            ctx.charges.push(Charge { limit: self.id(), key, parts });
        }
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(Flow::Continue)
    }

    fn on_response(&self, response: &mut ResponseHeader, ctx: &mut Context) {
        if let Price::ResponseHeader(name) = &self.cost
            && let Some(at) = ctx.charges.iter().position(|charge| charge.limit == self.id())
        {
            let Charge { key, parts, .. } = ctx.charges.remove(at);
            let told = response.remove_header(name).and_then(|cost| cost.to_str().ok()?.trim().parse::<u64>().ok());
            // One is taken already.
            if let Some(more @ 1..) = told.map(|cost| cost.saturating_sub(1)) {
                match &self.counting {
                    Counting::Exact { limits, .. } => self.table.charge(key, ctx.started.monotonic, more, limits),
                    Counting::Stored(stored) => stored.charge(key, parts, more, ctx.started.monotonic),
                    Counting::Approximate(_) => {}
                }
            }
        }
        headers::tell(&ctx.limits, self.headers, response);
    }
}

impl Price {
    fn of(&self, request: &RequestHeader) -> Result<u64, Reject> {
        match self {
            Self::Fixed(cost) => Ok(*cost),
            Self::ResponseHeader(_) => Ok(1),
            Self::Header(name) => {
                let mut values = request.headers.get_all(name).iter();
                match (values.next(), values.next()) {
                    (None, _) => Some(1),
                    (Some(value), None) => value.to_str().ok().and_then(|text| text.parse().ok()),
                    (Some(_), Some(_)) => None,
                }
                .ok_or(Reject::BadRequest("the header that says what the request costs holds no whole number"))
            }
        }
    }
}

impl RateLimit {
    /// What tells its counts from those of others.
    fn id(&self) -> usize {
        Arc::as_ptr(&self.table).addr()
    }
}

impl Counting {
    fn compile(config: &Config, build: &mut Build<'_>, scope: &str) -> Result<Self, String> {
        let max_keys = usize::try_from(config.max_keys).unwrap_or(usize::MAX);
        if let Some(name) = &config.store {
            let (store, settings) = (build.store(name)?, config.settings());
            let local = build.keep_as(scope.to_owned(), || Table::new(config.limits.len()));
            let leases = settings.batch.map(|batch| (build.keep_as(format!("{scope}/leases"), Leases::default), batch));
            let limits = (compile_limits(config), max_keys);
            let periods: Vec<String> = config.limits.iter().map(|rate| rate.period.as_secs().to_string()).collect();
            let scope = format!("{}:{}", build.scope(), periods.join(","));
            let clock = build.clock.clone();
            return Ok(Self::Stored(Stored::new(&settings, store, &scope, limits, local, leases, clock)));
        }
        Ok(match config.accuracy {
            Accuracy::Exact => Self::Exact { limits: compile_limits(config), max_keys },
            Accuracy::Approximate => {
                let estimate = |rate: &Rate| {
                    let key = format!("{}/{:?}", build.scope(), rate.period);
                    (*rate, build.keep_as(key, || Estimate::new(rate.period)))
                };
                Self::Approximate(config.limits.iter().map(estimate).collect())
            }
        })
    }
}

fn compile_limits(config: &Config) -> Box<[Gcra]> {
    let shortest = config.limits.iter().map(|rate| rate.period).min();
    let compile = |rate: &Rate| {
        let own = config.burst.filter(|_| Some(rate.period) == shortest);
        Gcra::new(*rate, own.unwrap_or(rate.count).get())
    };
    config.limits.iter().map(compile).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::limit_key::Key;

    #[test]
    fn a_burst_is_for_the_shortest_period() {
        let config: Config =
            serde_json::from_str(r#"{"key": "client_ip", "limits": ["100/h", "5/s"], "burst": 20}"#).unwrap();
        let (limits, table) = (compile_limits(&config), Table::new(2));
        let mut states = smallvec::SmallVec::new();
        let mut take = || {
            states.clear();
            let passed = table.take(Key(1, 2), 1, Ask::ONE, (&limits, 1000), &mut states).is_ok();
            (passed, states[0].remaining, states[1].remaining)
        };
        // Never more is said to be left than the limit.
        assert_eq!(take(), (true, 99, 5));
        assert_eq!((0..18).filter(|_| take().0).count(), 18);
        assert_eq!([take(), take()], [(true, 80, 0), (false, 80, 0)]);
    }
}
