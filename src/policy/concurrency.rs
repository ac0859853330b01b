//! `concurrency`: at most so many requests at the same time.
//!
//! # Rules
//!
//! - Each combination of the parts of `key` has `max` places ([what a key is made of](super::limit_key)).
//! - A request has its place from here until its response is over; a WebSocket or a stream until it ends. The place is given back exactly once,
//!   however that is: the end, a client that leaves, an error, a refusal by a later policy.
//! - Without a free place it waits in `queue`, in the order of arrival, for at most `timeout`; without `queue`, or when that is full, it gets 429 with
//!   `Retry-After: 1`.
//! - By who is calling it runs in stage `Limit`, otherwise in stage `Guard`.
//!
//! # For operators
//!
//! - Each gateway counts for itself, and during an upgrade each of the two processes.
//! - A reload forgets no place; with a smaller `max`, those who have one keep it.
//! - A client that leaves the queue is noticed when its turn comes.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - concurrency: { key: consumer, max: 10, queue: { length: 100, timeout: 1s } }
//! ```

use std::{num::NonZeroU32, sync::Arc};

use hashbrown::HashMap;
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Flow, Policy, Stage,
    limit_key::{Key, LimitKey, MissingKey, Parts},
};
use crate::{
    config::{breaker::Queue, check::Check, route::Priority, steps},
    gate::{Gate, Place},
    proxy::context::Context,
    reject::Reject,
    runtime::{Build, State},
    shards::Shards,
};

/// At most so many requests at the same time.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Concurrency")]
pub struct Config {
    /// What is counted by, as for `rate_limit`.
    pub key: Parts,
    /// How many may be under way.
    pub max: NonZeroU32,
    /// Where the others wait; without it they are refused.
    pub queue: Option<Queue>,
    /// What happens to a request that lacks what is counted by.
    #[serde(default)]
    pub missing_key: MissingKey,
}

/// Lets only so many requests go on at once.
#[derive(Debug)]
pub struct Concurrency {
    key: LimitKey,
    by_caller: bool,
    max: u32,
    queue: Option<Queue>,
    gates: Arc<Gates>,
}

impl Policy for Concurrency {
    const STAGE: Stage = Stage::Limit;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        config.key.check(config.missing_key, check);
        if let Some(queue) = config.queue {
            check.takes_time(&steps!["queue", "timeout"], queue.timeout);
        }
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        Ok(Self {
            key: LimitKey::compile(&config.key, config.missing_key, build.seeds),
            by_caller: config.key.needs_caller(),
            max: config.max.get(),
            queue: config.queue,
            gates: build.keep(Gates::default),
        })
    }

    fn stage(&self) -> Stage {
        if self.by_caller { Stage::Limit } else { Stage::Guard }
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        if let Some(key) = self.key.of(request, ctx)? {
            let held = self.gates.enter(key, self.max, self.queue).await.ok_or(Reject::ConcurrencyLimited)?;
            ctx.places.push(held);
        }
        Ok(Flow::Continue)
    }
}

/// The gates of all keys that have requests under way.
#[derive(Debug, Default)]
struct Gates(Shards<HashMap<Key, Arc<Gate>>>);

impl State for Gates {}

impl Gates {
    async fn enter(self: &Arc<Self>, key: Key, max: u32, queue: Option<Queue>) -> Option<Held> {
        let gate = Arc::clone(self.0.lock(key.1).entry(key).or_insert_with(|| Gate::new(max)));
        if gate.limit() != max {
            gate.set_limit(max);
        }
        // Made before it waits: whoever leaves the queue takes the gate away too, if nobody else needs it.
        let mut held = Held { place: None, gate: Some(gate), key, gates: Arc::clone(self) };
        let gate = held.gate.clone()?;
        let place = gate.enter(Priority::Normal, queue).await;
        drop(gate);
        held.place = Some(place.ok()?);
        Some(held)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.each().map(|shard| shard.len()).sum()
    }
}

/// A place of a request; given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    place: Option<Place>,
    gate: Option<Arc<Gate>>,
    key: Key,
    gates: Arc<Gates>,
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.place.take());
        let mut shard = self.gates.0.lock(self.key.1);
        drop(self.gate.take());
        // Whoever else needs it has it in hand: nobody gets it but here, under this lock.
        if shard.get(&self.key).is_some_and(|gate| Arc::strong_count(gate) == 1) {
            shard.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_forgotten_with_its_last_place_whoever_gives_up() {
        let gates = Arc::new(Gates::default());
        let queue = Queue { timeout: crate::config::types::Duration::from_millis(20), ..Queue::default() };
        let key = Key(1, 2);
        let one = gates.enter(key, 1, None).await.unwrap();
        assert!(gates.enter(key, 1, None).await.is_none());
        assert!(gates.enter(Key(3, 4), 1, None).await.is_some(), "another key has a place of its own");
        assert!(gates.enter(key, 1, Some(queue)).await.is_none());
        // One that is dropped while it waits.
        let waiting =
            tokio::time::timeout(std::time::Duration::from_millis(5), gates.enter(key, 1, Some(Queue::default())));
        assert!(waiting.await.is_err());
        assert_eq!(gates.len(), 1);
        let next = tokio::spawn({
            let gates = Arc::clone(&gates);
            async move { gates.enter(key, 1, Some(Queue::default())).await }
        });
        tokio::task::yield_now().await;
        drop(one);
        let next = next.await.unwrap().unwrap();
        assert_eq!(gates.len(), 1);
        drop(next);
        assert_eq!(gates.len(), 0);
    }

    #[tokio::test]
    async fn a_request_that_panics_gives_its_place_back() {
        let gates = Arc::new(Gates::default());
        let key = Key(1, 2);
        // As in the gateway: the places lie in what is kept for the request, which its task owns.
        let request = tokio::spawn({
            let gates = Arc::clone(&gates);
            async move {
                let _place = gates.enter(key, 1, None).await.unwrap();
                panic!("as a policy might");
            }
        });
        assert!(request.await.unwrap_err().is_panic());
        assert_eq!(gates.len(), 0);
        // Neither lock nor gate is the worse for it.
        assert!(gates.enter(key, 1, None).await.is_some());
    }
}
