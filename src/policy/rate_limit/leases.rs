//! What a gateway may let through without asking: requests that the store has granted ahead, and a few that it is told about afterwards.
//!
//! - The first requests of a key pass at once, up to `batch`, and are owed to the store.
//! - From then on the store is asked in the background for up to `batch` ahead whenever half of that is used, and told what is owed.
//! - A request that costs more than `batch` passes only when the store has granted that much.
//! - When it has none left, the key is refused until it says there is one again.
//!
//! So a gateway lets through at most `batch` requests that the store does not know of yet, and holds at most `batch` that it granted
//! earlier: all gateways together never let more through than the limit and 2 × `batch` for each of them. What is held and not used
//! within a second is gone: nobody gets that.

use std::time::Duration;

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::{
    policy::limit_key::Key,
    runtime::State,
    shards::{SHARDS, Shards},
};

/// How long what was granted ahead may be used, in nanoseconds.
const HELD: u64 = 1_000_000_000;

/// An answer that takes longer than this is lost, in nanoseconds.
const LOST: u64 = 10_000_000_000;

/// All keys of a limit.
#[derive(Debug, Default)]
pub(super) struct Leases {
    shards: Shards<HashMap<Key, Lease>>,
}

impl State for Leases {}

/// What is known of a key.
#[derive(Debug, Default)]
struct Lease {
    /// Granted ahead, and until when.
    granted: u64,
    held_until: u64,
    /// What may still pass without the store.
    free: u64,
    /// What has passed without it.
    owed: u64,
    /// When it was asked, if no answer has come since.
    asked_at: u64,
    /// Nothing passes before this.
    refused_until: u64,
    /// When each limit is all there again, as far as is known.
    full_at: SmallVec<[u64; 2]>,
    last: u64,
}

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// Whether it passes, or how long to wait.
    pub(super) passes: Result<(), Duration>,
    /// What the store is to be asked: what is owed, and how many more are wanted.
    pub(super) ask: Option<(u64, u64)>,
    /// When each limit is all there again, as far as is known.
    pub(super) full_at: SmallVec<[u64; 2]>,
}

impl Leases {
    pub(super) fn take(&self, key: Key, cost: u64, batch: u64, now: u64, max_keys: usize) -> Taken {
        let mut shard = self.shards.lock(key.1);
        if shard.len() >= max_keys.div_ceil(SHARDS) && !shard.contains_key(&key) {
            make_room(&mut shard, now);
        }
        let lease = shard.entry(key).or_insert_with(|| Lease { free: batch, ..Lease::default() });
        let passes = lease.take(cost, batch, now);
        let wants = batch.max(cost).saturating_sub(lease.granted);
        let on_its_way = lease.asked_at != 0 && now.saturating_sub(lease.asked_at) < LOST;
        let due = now >= lease.refused_until && (lease.granted <= batch / 2 || lease.granted < cost);
        let ask = (!on_its_way && due && (lease.owed > 0 || wants > 0)).then(|| {
            lease.asked_at = now.max(1);
            (std::mem::take(&mut lease.owed), wants)
        });
        Taken { passes, ask, full_at: lease.full_at.clone() }
    }

    /// The store has answered: so many were granted, or there is one again after so long.
    pub(super) fn granted(&self, key: Key, (granted, wait): (u64, Duration), batch: u64, now: u64, used: &[u64]) {
        let mut shard = self.shards.lock(key.1);
        let Some(lease) = shard.get_mut(&key) else { return };
        lease.asked_at = 0;
        lease.full_at = used.iter().map(|used| now.saturating_add(*used)).collect();
        if granted > 0 {
            lease.granted = lease.granted.saturating_add(granted);
            lease.held_until = now.saturating_add(HELD);
            lease.free = batch;
        } else {
            lease.free = 0;
            lease.refused_until = now.saturating_add(crate::clock::nanos(wait));
        }
    }

    /// The store has not answered: what was to be told to it is owed still.
    pub(super) fn lost(&self, key: Key, owed: u64) {
        if let Some(lease) = self.shards.lock(key.1).get_mut(&key) {
            lease.asked_at = 0;
            lease.owed = lease.owed.saturating_add(owed);
        }
    }

    /// Something has cost more than was known.
    pub(super) fn owe(&self, key: Key, cost: u64) {
        if let Some(lease) = self.shards.lock(key.1).get_mut(&key) {
            lease.owed = lease.owed.saturating_add(cost);
        }
    }
}

impl Lease {
    fn take(&mut self, cost: u64, batch: u64, now: u64) -> Result<(), Duration> {
        self.last = now;
        if self.held_until < now {
            self.granted = 0;
        }
        if self.refused_until != 0 && now >= self.refused_until {
            // There is one again, and the store is told of what passes until it has answered.
            self.refused_until = 0;
            self.free = batch;
        }
        if let Some(left) = self.granted.checked_sub(cost) {
            self.granted = left;
        } else if let Some(left) = self.free.checked_sub(cost) {
            self.free = left;
            self.owed = self.owed.saturating_add(cost);
        } else {
            return Err(Duration::from_nanos(self.refused_until.saturating_sub(now).max(1_000_000)));
        }
        Ok(())
    }
}

/// Forgets who has not come for the longest time, of some that are looked at; who owes nothing goes first.
fn make_room(shard: &mut HashMap<Key, Lease>, now: u64) {
    let candidates = shard.iter().take(16);
    let victim = candidates.min_by_key(|(_, lease)| (lease.owed > 0, lease.refused_until > now, lease.last));
    let victim = victim.map(|(key, _)| *key);
    if let Some(victim) = victim {
        shard.remove(&victim);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_few_pass_before_the_store_has_answered_and_are_owed_to_it() {
        let (leases, key) = (Leases::default(), Key(1, 2));
        let take = |now| leases.take(key, 1, 4, now, 1000);
        assert_eq!(take(MS), Taken { passes: Ok(()), ask: Some((1, 4)), full_at: SmallVec::new() });
        // The question is on its way.
        assert_eq!([(); 4].map(|()| take(MS).passes.is_ok()), [true, true, true, false]);
        leases.granted(key, (4, Duration::ZERO), 4, 2 * MS, &[MS]);
        assert_eq!(take(2 * MS).ask, None);
        // Half is used: what has passed meanwhile is told, and more is wanted.
        assert_eq!(take(2 * MS).ask, Some((3, 2)));
        leases.granted(key, (0, Duration::from_millis(10)), 4, 3 * MS, &[MS]);
        assert_eq!([(); 3].map(|()| take(3 * MS).passes), [Ok(()), Ok(()), Err(Duration::from_millis(10))]);
        assert_eq!(take(12 * MS).passes, Err(Duration::from_millis(1)));
        assert_eq!(take(13 * MS).ask, Some((1, 4)), "and then it is asked again");
    }

    #[test]
    fn what_could_not_be_told_is_owed_still_and_what_is_not_used_is_gone() {
        let (leases, key) = (Leases::default(), Key(1, 2));
        let take = |now| leases.take(key, 1, 2, now, 1000);
        assert_eq!(take(MS).ask, Some((1, 2)));
        leases.lost(key, 1);
        assert_eq!(take(2 * MS).ask, Some((2, 2)));
        leases.granted(key, (2, Duration::ZERO), 2, 2 * MS, &[MS]);
        let later = take(2 * MS + HELD + 1);
        assert_eq!((later.passes, later.ask), (Ok(()), Some((1, 2))));
    }
}
