//! `bandwidth`: how fast bodies pass.
//!
//! # Rules
//!
//! - `request` and `response` are bytes in a second, each direction by itself. Nothing is refused: what is too fast is read and sent on later, and the other
//!   side is slowed down by its own windows and buffers.
//! - Without `key`, each connection of a client has the whole of it; over HTTP/2 and HTTP/3 all its streams share it. With `key`, all requests with the same
//!   key do ([what a key is made of](super::limit_key)).
//! - A tenth of a second passes at once, and at least 64 KiB: small answers are not slowed down.
//! - What is said in a WebSocket counts too. Headers do not.
//!
//! # For operators
//!
//! - Each gateway counts for itself.
//! - `min_body_rate` of a listener looks at what a client fails to send or take, not at what is held back here.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - bandwidth: { response: 1MiB/s }
//!   - bandwidth: { key: consumer, request: 10MiB/s, response: 50MiB/s }
//! ```

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hashbrown::HashMap;
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Flow, Policy, Stage,
    limit_key::{Key, KeyHasher, LimitKey, MissingKey, Parts, Sink as _},
};
use crate::{
    clock::Clock,
    config::{check::Check, steps, types::ByteRate},
    proxy::context::Context,
    reject::Reject,
    runtime::{Build, Seeds, State},
    shards::Shards,
};

/// How fast bodies pass.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Bandwidth")]
pub struct Config {
    /// Who shares it, as for `rate_limit`; without it, each connection of a client has the whole of it.
    pub key: Option<Parts>,
    /// From clients: `10MiB/s`.
    pub request: Option<ByteRate>,
    /// To clients.
    pub response: Option<ByteRate>,
    /// What happens to a request that lacks what is counted by.
    #[serde(default)]
    pub missing_key: MissingKey,
}

/// The way of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Request,
    /// To it.
    Response,
}

/// Slows bodies down.
#[derive(Debug)]
pub struct Bandwidth {
    key: Option<LimitKey>,
    by_caller: bool,
    seeds: Seeds,
    rates: Arc<Rates>,
    buckets: Arc<Buckets>,
    clock: Clock,
}

#[derive(Debug)]
struct Rates {
    request: Option<u64>,
    response: Option<u64>,
}

impl Policy for Bandwidth {
    const STAGE: Stage = Stage::Limit;
    // Only for lack of a key.
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        if let Some(key) = &config.key {
            key.check(config.missing_key, check);
        }
        if config.request.is_none() && config.response.is_none() {
            check.error(&[], "how fast? Write `request: 1MiB/s` or `response: 1MiB/s`");
        }
        for (way, rate) in [("request", config.request), ("response", config.response)] {
            if rate.is_some_and(|rate| rate.0 < 1024) {
                check.error(&steps![way], "nothing would pass: at least `1KiB/s`");
            }
        }
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        Ok(Self {
            key: config.key.as_ref().map(|key| LimitKey::compile(key, config.missing_key, build.seeds)),
            by_caller: config.key.as_ref().is_some_and(Parts::needs_caller),
            seeds: build.seeds,
            rates: Arc::new(Rates {
                request: config.request.map(|rate| rate.0),
                response: config.response.map(|rate| rate.0),
            }),
            buckets: build.keep(Buckets::default),
            clock: build.clock.clone(),
        })
    }

    fn stage(&self) -> Stage {
        if self.by_caller { Stage::Limit } else { Stage::Guard }
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let key = match &self.key {
            Some(key) => key.of(request, ctx)?,
            None => ctx.connection.as_ref().map(|connection| {
                let mut key = KeyHasher::new(self.seeds);
                key.add(11, &Arc::as_ptr(connection).addr().to_le_bytes());
                key.finish()
            }),
        };
        if let Some(key) = key {
            ctx.paces.push(Pace {
                key,
                rates: Arc::clone(&self.rates),
                buckets: Arc::clone(&self.buckets),
                clock: self.clock.clone(),
                last: [(0, 0); 2],
            });
        }
        Ok(Flow::Continue)
    }
}

/// A tenth of a second, and at least so much, passes at once.
const AT_ONCE: u64 = 64 << 10;

const SECOND: u64 = 1_000_000_000;

/// Keys that have not been used for so long begin anew, in nanoseconds: they have nothing left to wait for.
const FORGOTTEN: u64 = SECOND;

/// When what was let through has passed at the rate of each direction.
/// For each key, that of requests and that of responses.
#[derive(Debug, Default)]
struct Buckets(Shards<HashMap<Key, [u64; 2]>>);

impl State for Buckets {}

/// How fast the bodies of a request pass, by one policy.
#[derive(Debug)]
pub struct Pace {
    key: Key,
    rates: Arc<Rates>,
    buckets: Arc<Buckets>,
    clock: Clock,
    /// In each direction, when the last piece may pass, and the time that it takes.
    last: [(u64, u64); 2],
}

impl Drop for Pace {
    /// Whoever leaves while a piece is held back gives its time to the others.
    fn drop(&mut self) {
        let now = self.clock.monotonic();
        for (at, (until, time)) in self.last.into_iter().enumerate().filter(|(_, (until, _))| *until > now) {
            if let Some(passed) =
                self.buckets.0.lock(self.key.1).get_mut(&self.key).and_then(|passed| passed.get_mut(at))
            {
                *passed = passed.saturating_sub(time.min(until));
            }
        }
    }
}

impl Pace {
    /// How long to wait behind so many bytes.
    fn wait(&mut self, direction: Direction, bytes: u64, now: u64) -> Duration {
        let (at, rate) = match direction {
            Direction::Request => (0, self.rates.request),
            Direction::Response => (1, self.rates.response),
        };
        let Some(rate) = rate else { return Duration::ZERO };
        let time =
            |bytes: u64| u64::try_from(u128::from(bytes) * u128::from(SECOND) / u128::from(rate)).unwrap_or(u64::MAX);
        let mut shard = self.buckets.0.lock(self.key.1);
        if shard.len() == shard.capacity() && !shard.contains_key(&self.key) {
            // Before it grows: whoever is long through needs no place.
            shard.retain(|_, passed| passed.iter().any(|passed| passed.saturating_add(FORGOTTEN) > now));
        }
        let passed = shard.entry(self.key).or_default();
        let Some(passed) = passed.get_mut(at) else { return Duration::ZERO };
        *passed = (*passed).max(now).saturating_add(time(bytes));
        let at_once = time(AT_ONCE.max(rate / 10));
        let until = passed.saturating_sub(at_once);
        drop(shard);
        if let Some(last) = self.last.get_mut(at) {
            *last = (until, time(bytes));
        }
        Duration::from_nanos(until.saturating_sub(now))
    }
}

/// How long to wait behind this piece of a body, if at all.
pub fn delay(paces: &mut [Pace], piece: Option<&Bytes>, direction: Direction, now: u64) -> Option<Duration> {
    let bytes = u64::try_from(piece?.len()).unwrap_or(u64::MAX);
    paces.iter_mut().map(|pace| pace.wait(direction, bytes, now)).max().filter(|wait| !wait.is_zero())
}

/// Waits behind this piece of a request's body.
pub async fn slow_down(ctx: &mut Context, piece: Option<&Bytes>, now: u64) {
    if let Some(wait) = delay(&mut ctx.paces, piece, Direction::Request, now) {
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(buckets: &Arc<Buckets>, key: Key) -> Pace {
        let rates = Rates { request: None, response: Some(1 << 20) };
        let clock = Clock::manual(Duration::from_secs(1));
        Pace { key, rates: Arc::new(rates), buckets: Arc::clone(buckets), clock, last: [(0, 0); 2] }
    }

    #[test]
    fn a_mebibyte_takes_a_second_but_for_what_passes_at_once() {
        let buckets = Arc::new(Buckets::default());
        let (mut one, mut two, mut other) =
            (pace(&buckets, Key(1, 2)), pace(&buckets, Key(1, 2)), pace(&buckets, Key(3, 4)));
        let wait = |pace: &mut Pace, bytes, now| pace.wait(Direction::Response, bytes, now).as_millis();
        assert_eq!(wait(&mut one, 64 << 10, SECOND), 0);
        // A tenth of a second is gone, and what both send is one.
        assert_eq!(wait(&mut two, 1 << 20, SECOND), 62 + 1000 - 100);
        assert_eq!(wait(&mut other, 64 << 10, SECOND), 0);
        assert_eq!(one.wait(Direction::Request, 1 << 30, SECOND), Duration::ZERO);
        assert_eq!(wait(&mut one, 1 << 10, 3 * SECOND), 0);
    }

    #[test]
    fn who_leaves_gives_the_time_that_he_waits_for_to_the_others() {
        let buckets = Arc::new(Buckets::default());
        for _ in 0..100 {
            let mut leaving = pace(&buckets, Key(1, 2));
            leaving.wait(Direction::Response, 1 << 20, SECOND);
        }
        assert_eq!(pace(&buckets, Key(1, 2)).wait(Direction::Response, 1 << 10, SECOND), Duration::ZERO);
    }

    #[test]
    fn keys_that_are_long_through_are_forgotten() {
        let buckets = Arc::new(Buckets::default());
        for key in 0..100_000 {
            pace(&buckets, Key(key, key)).wait(Direction::Response, 1, key * SECOND);
        }
        let kept: usize = buckets.0.each().map(|shard| shard.len()).sum();
        assert!(kept < 1000, "{kept}");
    }
}
