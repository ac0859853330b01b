//! `rate_limit`: at most so many requests.
//!
//! # Rules
//!
//! - Each combination of the parts of `key` has counts of its own: `consumer` (or the subject of the token, if it
//!   belongs to no consumer), `client_ip`, `route`, `{ header: NAME }`.
//! - Counting is GCRA, the token bucket without a bucket: `100/s` lets `burst` requests (here 100, if `burst` is not
//!   given) through at once, and from then on one every 10 ms. There is no window whose edge lets twice as many through.
//! - Several limits hold together. A request that one of them refuses is not counted by any.
//! - It is exact: of 1,000 requests at the same time exactly those pass that the limit has room for.
//! - What is refused gets 429 with `Retry-After`. All responses get `RateLimit-Policy` and `RateLimit`
//!   ([draft 10](https://www.ietf.org/archive/id/draft-ietf-httpapi-ratelimit-headers-10.txt)).
//! - A request that lacks a part of the key is refused with 400, unless `missing_key` says `client_ip` or `skip`.
//! - A limit by `consumer` runs in stage `Limit`; every other one runs in stage `Guard`, before anyone is asked for a
//!   credential, so that it also slows down those who guess.
//!
//! # For operators
//!
//! - Counts are kept in this process. Two gateways let twice as much through.
//! - A reload refills nothing. A restart does.
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

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use pingora::http::{RequestHeader, ResponseHeader};

pub use self::config::{Accuracy, Config, MissingKey, Part, Parts};
use self::{
    approximate::Estimate,
    gcra::{Gcra, Key, KeyHasher, Table},
};
use super::{Flow, Policy, Stage};
use crate::{
    config::{check::Check, types::Rate},
    proxy::context::{Context, LimitState},
    reject::Reject,
    runtime::Build,
};

/// At most so many requests.
#[derive(Debug)]
pub struct RateLimit {
    parts: Box<[Source]>,
    missing: MissingKey,
    table: Arc<Table>,
    counting: Counting,
}

#[derive(Debug)]
enum Counting {
    Exact { limits: Box<[Gcra]>, max_keys: usize },
    Approximate(Box<[(Rate, Arc<Estimate>)]>),
}

#[derive(Debug)]
enum Source {
    Consumer,
    ClientIp,
    Route,
    Header(HeaderName),
}

impl Policy for RateLimit {
    const STAGE: Stage = Stage::Limit;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        config::check(config, check);
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        let parts = config.key.list().iter().map(|part| match part {
            Part::Consumer => Source::Consumer,
            Part::ClientIp => Source::ClientIp,
            Part::Route => Source::Route,
            Part::Header(name) => Source::Header(name.to_http()),
        });
        let (scope, seeds) = (format!("{}/{}", build.scope(), config.limits.len()), build.seeds);
        Ok(Self {
            parts: parts.collect(),
            missing: config.missing_key,
            table: build.keep_as(scope, || Table::new(seeds)),
            counting: Counting::compile(config, build),
        })
    }

    fn stage(&self) -> Stage {
        let by_consumer = self.parts.iter().any(|part| matches!(part, Source::Consumer));
        if by_consumer { Stage::Limit } else { Stage::Guard }
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let key = match (self.key(request, ctx), self.missing) {
            (Some(key), _) => key,
            (None, MissingKey::Reject) => return Err(Reject::LimitKeyMissing),
            (None, MissingKey::Skip) => return Ok(Flow::Continue),
            (None, MissingKey::ClientIp) => {
                let mut key = self.table.key();
                add_address(&mut key, ctx.client_ip);
                key.finish()
            }
        };
        let taken = match &self.counting {
            Counting::Exact { limits, max_keys } => {
                let now = ctx.started.monotonic;
                self.table.take(key, now, limits, *max_keys, &mut ctx.limits)
            }
            Counting::Approximate(limits) => {
                let mut taken = Ok(());
                for (rate, count) in limits {
                    let one = count.take(key, *rate, &mut ctx.limits);
                    taken = taken.and(one);
                }
                taken
            }
        };
        match taken {
            Ok(()) => Ok(Flow::Continue),
            Err(retry_after) => Err(Reject::RateLimited { retry_after }),
        }
    }

    // With several limits in a chain each call writes the same two headers: `limits` has all of them.
    fn on_response(&self, response: &mut ResponseHeader, ctx: &mut Context) {
        if ctx.limits.is_empty() {
            return;
        }
        let (policy, state) = (policy_header(&ctx.limits), state_header(&ctx.limits));
        for (name, text) in [("RateLimit-Policy", policy), ("RateLimit", state)] {
            if let Ok(value) = HeaderValue::try_from(text) {
                drop(response.insert_header(name, value));
            }
        }
    }
}

impl Counting {
    fn compile(config: &Config, build: &mut Build<'_>) -> Self {
        match config.accuracy {
            Accuracy::Exact => Self::Exact {
                limits: compile_limits(config),
                max_keys: usize::try_from(config.max_keys).unwrap_or(usize::MAX),
            },
            Accuracy::Approximate => {
                let estimate = |rate: &Rate| {
                    let key = format!("{}/{:?}", build.scope(), rate.period);
                    (*rate, build.keep_as(key, || Estimate::new(rate.period)))
                };
                Self::Approximate(config.limits.iter().map(estimate).collect())
            }
        }
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

impl RateLimit {
    fn key(&self, request: &RequestHeader, ctx: &Context) -> Option<Key> {
        let mut key = self.table.key();
        for part in &self.parts {
            match part {
                Source::ClientIp => add_address(&mut key, ctx.client_ip),
                Source::Route => key.add(1, ctx.route.as_ref()?.name.as_bytes()),
                Source::Consumer => match ctx.identity.as_ref()?.key() {
                    (_, _, "") => return None,
                    (kind, issuer, name) => {
                        key.add(2, kind.as_bytes());
                        key.add(2, issuer.as_bytes());
                        key.add(2, name.as_bytes());
                    }
                },
                Source::Header(name) => {
                    let mut values = request.headers.get_all(name).iter().peekable();
                    if values.peek().is_none_or(|value| value.is_empty()) {
                        return None;
                    }
                    values.for_each(|value| key.add(3, value.as_bytes()));
                }
            }
        }
        Some(key.finish())
    }
}

fn add_address(key: &mut KeyHasher, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(v4) => key.add(4, &v4.octets()),
        IpAddr::V6(v6) => key.add(6, &(v6.to_bits() >> 64).to_be_bytes()),
    }
}

/// `"100/s";q=100;w=1`
fn policy_header(limits: &[LimitState]) -> String {
    let mut text = String::with_capacity(limits.len() * 32);
    for limit in limits {
        name(&mut text, limit);
        text.push_str(";q=");
        number(&mut text, limit.limit);
        text.push_str(";w=");
        number(&mut text, limit.period.as_secs());
    }
    text
}

/// `"100/s";r=42;t=1`
fn state_header(limits: &[LimitState]) -> String {
    let mut text = String::with_capacity(limits.len() * 32);
    for limit in limits {
        name(&mut text, limit);
        text.push_str(";r=");
        number(&mut text, limit.remaining);
        text.push_str(";t=");
        number(&mut text, whole_seconds(limit.reset));
    }
    text
}

/// The limit as it is written in the file, behind those before it.
fn name(text: &mut String, limit: &LimitState) {
    text.push_str(if text.is_empty() { "\"" } else { ", \"" });
    number(text, limit.limit);
    match limit.period.as_secs() {
        1 => text.push_str("/s\""),
        60 => text.push_str("/m\""),
        3_600 => text.push_str("/h\""),
        86_400 => text.push_str("/d\""),
        other => {
            text.push('/');
            number(text, other);
            text.push_str("s\"");
        }
    }
}

/// Digits, without the machinery of `write!`: every response has some.
fn number(text: &mut String, number: u64) {
    text.push_str(itoa::Buffer::new().format(number));
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_millis() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(limit: u64, seconds: u64, remaining: u64, reset: u64) -> LimitState {
        LimitState { limit, period: Duration::from_secs(seconds), remaining, reset: Duration::from_millis(reset) }
    }

    #[test]
    fn headers_follow_the_draft() {
        let limits = [state(100, 1, 42, 580), state(10_000, 3600, 9_000, 360_000)];
        assert_eq!(policy_header(&limits), r#""100/s";q=100;w=1, "10000/h";q=10000;w=3600"#);
        assert_eq!(state_header(&limits), r#""100/s";r=42;t=1, "10000/h";r=9000;t=360"#);
    }

    #[test]
    fn an_address_is_counted_by_what_its_owner_has() {
        let table = Table::new(crate::runtime::Seeds::random());
        let key = |text: &str| {
            let mut key = table.key();
            add_address(&mut key, text.parse().unwrap());
            key.finish()
        };
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
        assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
    }

    #[test]
    fn a_burst_is_for_the_shortest_period() {
        let config: Config =
            serde_json::from_str(r#"{"key": "client_ip", "limits": ["100/h", "5/s"], "burst": 20}"#).unwrap();
        let (limits, table) = (compile_limits(&config), Table::new(crate::runtime::Seeds::random()));
        let mut states = smallvec::SmallVec::new();
        let mut take = || {
            states.clear();
            let passed = table.take(table.key().finish(), 1, &limits, 1000, &mut states).is_ok();
            (passed, states[0].remaining, states[1].remaining)
        };
        // Never more is said to be left than the limit.
        assert_eq!(take(), (true, 99, 5));
        assert_eq!((0..18).filter(|_| take().0).count(), 18);
        assert_eq!([take(), take()], [(true, 80, 0), (false, 80, 0)]);
    }

    #[test]
    fn a_key_is_one_part_or_a_list() {
        let read = |text: &str| serde_json::from_str::<Parts>(text).map(|parts| parts.list().len());
        assert_eq!(read(r#""consumer""#).unwrap(), 1);
        assert_eq!(read(r#"{"header": "x-tenant"}"#).unwrap(), 1);
        assert_eq!(read(r#"["route", {"header": "x-tenant"}]"#).unwrap(), 2);
        assert!(read(r#""address""#).is_err() && read("7").is_err());
    }
}
