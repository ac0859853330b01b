//! Limits that several gateways share: counted by the [store](crate::store).
//!
//! - `sync: exact` asks the store for each request, in one round trip; together the gateways let through exactly what the limit has room for.
//! - `sync: leased` asks in the [background](super::leases), and no request waits.
//! - While the store is away, `on_failure` says what holds: nothing (`open`), nobody passes (`closed`, 503), or each gateway counts for itself
//!   (`local`).

use std::{sync::Arc, time::Duration};

use redis::Script;

use super::{
    config::{OnFailure, Settings},
    gcra::{Ask, Gcra},
    leases::Leases,
    scripts,
    table::Table,
};
use crate::{
    clock::Clock, digest::sha256, policy::limit_key::Key, proxy::context::LimitStates, reject::Reject, store::Store,
};

/// Longer than anything is ever ahead, in microseconds.
const FOR_EVER: i64 = 1 << 52;

/// What a limit of several gateways needs.
#[derive(Debug)]
pub(super) struct Stored(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    /// Goes before every key: the store's own, the policy, the limits.
    prefix: String,
    limits: Box<[Gcra]>,
    max_keys: usize,
    on_failure: OnFailure,
    local: Arc<Table>,
    leases: Option<(Arc<Leases>, u64)>,
    clock: Clock,
    take: Script,
    lease: Script,
}

impl Stored {
    pub(super) fn new(
        settings: &Settings,
        store: Arc<Store>,
        scope: &str,
        (limits, max_keys): (Box<[Gcra]>, usize),
        local: Arc<Table>,
        leases: Option<(Arc<Leases>, u64)>,
        clock: Clock,
    ) -> Self {
        let prefix = format!("{}:{scope}:", store.prefix());
        Self(Arc::new(Shared {
            store,
            prefix,
            limits,
            max_keys,
            on_failure: settings.on_failure,
            local,
            leases,
            clock,
            take: scripts::take(),
            lease: scripts::lease(),
        }))
    }

    /// Takes a request, and says how long it has to wait. `parts` is the key for the store.
    pub(super) async fn take(
        &self,
        key: Key,
        parts: impl FnOnce() -> Vec<u8>,
        (now, ask): (u64, Ask),
        states: &mut LimitStates,
    ) -> Result<Duration, Reject> {
        let shared = &self.0;
        if !shared.store.is_up() {
            return shared.without_store(key, (now, ask), states);
        }
        if let Some((leases, batch)) = &shared.leases {
            let cost = ask.cost.min(shared.most());
            let taken = leases.take(key, cost, *batch, now, shared.max_keys);
            for (i, limit) in shared.limits.iter().enumerate() {
                states.push(limit.state(taken.full_at.get(i).copied().unwrap_or(0), now));
            }
            if let Some(question) = taken.ask {
                tokio::spawn(Arc::clone(shared).lease(key, shared.name(&parts()), question));
            }
            return taken.passes.map(|()| Duration::ZERO).map_err(|retry_after| Reject::RateLimited { retry_after });
        }
        let arguments = shared.arguments(&[micros(ask.patience)], ask.cost);
        let Ok(answer) = shared.store.run(&shared.take, &shared.name(&parts()), &arguments).await else {
            return shared.without_store(key, (now, ask), states);
        };
        let (passes, wait, used) = read(&answer);
        for (limit, used) in shared.limits.iter().zip(used) {
            states.push(limit.state(now.saturating_add(used), now));
        }
        if passes == 0 { Err(Reject::RateLimited { retry_after: wait }) } else { Ok(wait) }
    }

    /// Takes what nobody asked for before, in the background.
    pub(super) fn charge(&self, key: Key, parts: Vec<u8>, cost: u64, now: u64) {
        let shared = Arc::clone(&self.0);
        let cost = cost.min(shared.most());
        if !shared.store.is_up() {
            return shared.charge_here(key, cost, now);
        }
        if let Some((leases, _)) = &shared.leases {
            return leases.owe(key, cost);
        }
        tokio::spawn(async move {
            let arguments = shared.arguments(&[FOR_EVER], cost);
            if shared.store.run(&shared.take, &shared.name(&parts), &arguments).await.is_err() {
                shared.charge_here(key, cost, now);
            }
        });
    }
}

impl Shared {
    fn name(&self, parts: &[u8]) -> Vec<u8> {
        let digest = sha256(parts);
        format!("{}{}", self.prefix, hex::encode(digest.get(..16).unwrap_or_default())).into_bytes()
    }

    /// As many as there ever are at once: nothing costs more.
    fn most(&self) -> u64 {
        let most = |limit: &Gcra| {
            let (interval, capacity) = limit.shape();
            capacity / interval.max(1)
        };
        self.limits.iter().map(most).max().unwrap_or(1)
    }

    fn charge_here(&self, key: Key, cost: u64, now: u64) {
        if self.on_failure == OnFailure::Local {
            self.local.charge(key, now, cost, &self.limits);
        }
    }

    /// Those that go before, and two for each limit: what a request of this cost takes, and how much there is.
    fn arguments(&self, first: &[i64], cost: u64) -> Vec<i64> {
        let mut all = first.to_vec();
        for limit in &self.limits {
            let (interval, capacity) = limit.shape();
            // As many as there are, however a microsecond rounds.
            let one = micros(interval).max(1);
            let most = one.saturating_mul(whole(capacity / interval.max(1))).min(FOR_EVER);
            all.push(one.saturating_mul(whole(cost)).min(most));
            all.push(most);
        }
        all
    }

    fn without_store(&self, key: Key, (now, ask): (u64, Ask), states: &mut LimitStates) -> Result<Duration, Reject> {
        match self.on_failure {
            OnFailure::Open => Ok(Duration::ZERO),
            OnFailure::Closed => Err(Reject::LimitUnavailable),
            OnFailure::Local => {
                let taken = self.local.take(key, now, ask, (&self.limits, self.max_keys), states);
                taken.map_err(|retry_after| Reject::RateLimited { retry_after })
            }
        }
    }

    async fn lease(self: Arc<Self>, key: Key, name: Vec<u8>, (owed, wanted): (u64, u64)) {
        let Some((leases, batch)) = &self.leases else { return };
        let arguments = self.arguments(&[whole(owed), whole(wanted)], 1);
        match self.store.run(&self.lease, &name, &arguments).await {
            Ok(answer) => {
                let (granted, wait, used) = read(&answer);
                let used: Vec<u64> = used.collect();
                leases.granted(key, (granted, wait), *batch, self.clock.monotonic(), &used);
            }
            Err(_away) => leases.lost(key, owed),
        }
    }
}

/// What a script returns: a number, a time, and how much of each limit is used, in nanoseconds.
fn read(answer: &[i64]) -> (u64, Duration, impl Iterator<Item = u64>) {
    let at = |i: usize| answer.get(i).copied().and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
    let used = answer.iter().skip(2).map(|used| u64::try_from(*used).unwrap_or(0).saturating_mul(1000));
    (at(0), Duration::from_micros(at(1)), used)
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(FOR_EVER).min(FOR_EVER)
}

/// Rounded up: never more than the rate.
fn micros(nanos: u64) -> i64 {
    whole(nanos.div_ceil(1000))
}
