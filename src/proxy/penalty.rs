//! Addresses that keep being refused are let in no more for a while (`limits.penalty_box`).
//!
//! - Counted are the requests of an address (IPv6 by /64), and those of them whose status is one of `statuses`, for `within`; then anew. `after` refusals that are
//!   at least `share` of its requests put it in for `time`.
//! - Who is in it is turned away: new connections and requests on those that it has get 429 (`penalty_box`) with `Retry-After`. They cost no more than that,
//!   and are not counted, so it ends by itself. Addresses of `spare` are never put in.
//! - Behind a trusted proxy the address is the client's, as it says; such a client is turned away request by request.
//! - Memory is bounded: with too many addresses (262,144) those with the fewest refusals are forgotten.
//! - A reload forgets nobody. Another process begins with an empty one.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::MutexGuard;

use crate::{clock::nanos, config::limits, networks::Networks, shards::Shards};

/// So many addresses are counted in each shard.
const MOST: usize = 4096;

/// When an address is put in, and for how long.
#[derive(Debug)]
pub struct Rules {
    after: u32,
    within: u64,
    share: u64,
    statuses: Box<[u16]>,
    time: u64,
    spare: Networks,
}

impl Rules {
    /// As the file says.
    pub fn compile(config: &limits::PenaltyBox) -> Self {
        Self {
            after: config.after.get(),
            within: nanos(config.within.0),
            share: config.share.0.into(),
            statuses: config.statuses.clone().into(),
            time: nanos(config.time.0),
            spare: Networks::new(&config.spare),
        }
    }
}

/// All addresses that are counted, or in it.
#[derive(Debug, Default)]
pub(super) struct PenaltyBox {
    shards: Shards<HashMap<IpAddr, Record>>,
    hasher: RandomState,
    /// How many were put in and have not been let out: with none, nobody is looked for.
    boxed: AtomicUsize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    since: u64,
    requests: u32,
    refused: u32,
    /// 0 for an address that is not in it.
    until: u64,
}

/// An address that is in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boxed {
    /// The address; of IPv6 the first one of its /64.
    pub address: IpAddr,
    /// For so many seconds more.
    pub seconds_left: u64,
    /// How many of its requests had been refused.
    pub refused: u32,
}

impl PenaltyBox {
    fn shard(&self, address: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, Record>> {
        self.shards.lock(self.hasher.hash_one(address))
    }

    /// How long the address stays in it; none if it is not.
    pub(super) fn left(&self, address: IpAddr, now: u64) -> Option<Duration> {
        if self.boxed.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut shard = self.shard(address);
        let Entry::Occupied(mut record) = shard.entry(address) else { return None };
        let until = record.get().until;
        if until == 0 {
            return None;
        }
        if until <= now {
            *record.get_mut() = Record::default();
            self.boxed.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Duration::from_nanos(until - now))
    }

    /// Counts a request that ended with this status; true if the address is in it from now on.
    pub(super) fn note(&self, rules: &Rules, address: IpAddr, status: u16, now: u64) -> bool {
        let refused = rules.statuses.contains(&status);
        let mut shard = self.shard(address);
        if !shard.contains_key(&address) {
            if rules.spare.contains(address) {
                return false;
            }
            if shard.len() >= MOST {
                let victim = make_room(&mut shard, rules, now);
                if victim.is_some_and(|record| record.until != 0) {
                    self.boxed.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        let record = shard.entry(address).or_default();
        if record.until != 0 {
            return false;
        }
        if now.saturating_sub(record.since) > rules.within {
            *record = Record { since: now, ..Record::default() };
        }
        record.requests = record.requests.saturating_add(1);
        record.refused = record.refused.saturating_add(refused.into());
        let is_share = u64::from(record.refused) * 100 >= rules.share * u64::from(record.requests);
        if !refused || record.refused < rules.after || !is_share {
            return false;
        }
        record.until = now.saturating_add(rules.time).max(1);
        self.boxed.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Who is in it.
    pub(super) fn list(&self, now: u64) -> Vec<Boxed> {
        let mut all = Vec::new();
        for shard in self.shards.each() {
            let boxed = shard.iter().filter(|(_, record)| record.until > now);
            all.extend(boxed.map(|(address, record)| Boxed {
                address: *address,
                seconds_left: (record.until - now) / 1_000_000_000,
                refused: record.refused,
            }));
        }
        all.sort();
        all
    }

    /// Lets an address out; false if it was not in it.
    pub(super) fn release(&self, address: IpAddr) -> bool {
        let was = self.shard(address).remove(&address).is_some_and(|record| record.until != 0);
        if was {
            self.boxed.fetch_sub(1, Ordering::Relaxed);
        }
        was
    }
}

/// Forgets one of some: who has not been refused lately, or who was refused least; of those who are in it, who would be let out next.
fn make_room(shard: &mut HashMap<IpAddr, Record>, rules: &Rules, now: u64) -> Option<Record> {
    let order = |record: &Record| {
        let is_late = now.saturating_sub(record.since) > rules.within;
        (record.until.saturating_sub(now), !is_late, record.refused)
    };
    let victim = shard.iter().take(16).min_by_key(|(_, record)| order(record)).map(|(address, _)| *address);
    shard.remove(&victim?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rules() -> Rules {
        let text = r#"{"after": 3, "within": "10s", "share": "50%", "time": "1m", "spare": ["10.0.0.0/8"]}"#;
        Rules::compile(&serde_json::from_str(text).unwrap())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_is_refused_too_often_is_in_it_for_a_while() {
        let (penalties, rules, one) = (PenaltyBox::default(), rules(), address("192.0.2.1"));
        let note = |status, now| penalties.note(&rules, one, status, now);
        assert!(!note(404, SECOND) && !note(401, SECOND) && penalties.left(one, SECOND).is_none());
        assert!(note(429, 2 * SECOND));
        assert_eq!(penalties.left(one, 3 * SECOND), Some(Duration::from_secs(59)));
        assert_eq!(penalties.left(address("192.0.2.2"), 3 * SECOND), None);
        assert_eq!(penalties.list(3 * SECOND)[0].refused, 3);
        assert_eq!(penalties.left(one, 62 * SECOND), None);
        assert!(!note(404, 62 * SECOND), "and it begins anew");
    }

    #[test]
    fn a_few_refusals_among_many_requests_or_in_a_long_time_are_none() {
        let (penalties, rules) = (PenaltyBox::default(), rules());
        let note = |one: &str, status, now| penalties.note(&rules, address(one), status, now);
        assert!(!note("192.0.2.1", 404, SECOND));
        assert!(!(0..10).any(|_| note("192.0.2.1", 200, SECOND)));
        assert!(!(0..8).any(|_| note("192.0.2.1", 404, SECOND)));
        assert!(!(0..10).any(|_| note("192.0.2.4", 200, SECOND)) && !(0..9).any(|_| note("192.0.2.4", 404, SECOND)));
        assert!(note("192.0.2.4", 404, SECOND), "half of all, also of those before the first refusal");
        assert!(!(0..20).any(|i| note("192.0.2.2", 404, (1 + i * 6) * SECOND)), "two in ten seconds");
        assert!(!(0..20).any(|_| note("10.1.2.3", 404, SECOND)), "spared");
        assert!(!(0..20).any(|_| note("192.0.2.3", 500, SECOND)), "the fault of the service");
    }

    #[test]
    fn operators_let_out_and_memory_is_bounded() {
        let (penalties, rules, one) = (PenaltyBox::default(), rules(), address("192.0.2.1"));
        (0..3).for_each(|_| {
            penalties.note(&rules, one, 404, SECOND);
        });
        for i in 0..500_000_u32 {
            penalties.note(&rules, IpAddr::from((0x2000_0000_u32 + i).to_be_bytes()), 404, SECOND);
        }
        let known: usize = penalties.shards.each().map(|shard| shard.len()).sum();
        assert!(known <= crate::shards::SHARDS * MOST, "{known}");
        assert!(penalties.left(one, SECOND).is_some(), "who is in it stays");
        assert!(penalties.release(one) && !penalties.release(one));
        assert_eq!(penalties.left(one, SECOND), None);
    }
}
