//! The limiter itself: GCRA over a sharded, bounded table. It knows neither HTTP nor configuration.
//!
//! For each key and limit the table holds one number, the time at which the limit would be all there again if no
//! request came any more. A request moves it on by one interval, and is refused if it would then lie further ahead than
//! the burst allows. All limits of a key are looked at and moved on under one lock: either all or none.

use std::{
    hash::{Hash, Hasher},
    time::Duration,
};

use hashbrown::{HashTable, hash_table::Entry};
use parking_lot::Mutex;
use siphasher::sip::SipHasher13;
use smallvec::SmallVec;

use crate::{
    clock::nanos,
    config::types::Rate,
    proxy::context::{LimitState, LimitStates},
    runtime::{Seeds, State},
};

/// Enough that workers rarely meet at one.
const SHARDS: usize = 64;

/// How many entries are looked at when one has to go.
const SAMPLE: usize = 16;

/// A request is older than this only if something else is wrong: a minute, in nanoseconds.
const DISORDER: u64 = 60_000_000_000;

/// One limit, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gcra {
    /// Between two requests that come as fast as the rate allows. Rounded up: never more than the rate.
    interval: u64,
    /// How far ahead the time may lie: the burst, as time.
    capacity: u64,
    limit: u64,
    period: Duration,
}

impl Gcra {
    /// A limit that lets `burst` requests through at once.
    pub(super) fn new(rate: Rate, burst: u64) -> Self {
        let period = nanos(rate.period);
        let interval = period.div_ceil(rate.count.get());
        Self {
            interval,
            // A year at most: far enough, and sums cannot overflow.
            capacity: interval.saturating_mul(burst).min(366 * 86_400 * 1_000_000_000),
            limit: rate.count.get(),
            period: rate.period,
        }
    }

    /// The time if this request passes, or how long to wait.
    fn next(&self, full_at: u64, now: u64) -> Result<u64, u64> {
        let next = full_at.max(now).saturating_add(self.interval);
        match next.checked_sub(now.saturating_add(self.capacity)) {
            None | Some(0) => Ok(next),
            Some(early) => Err(early),
        }
    }

    /// A limit that was lower before a reload must not block for longer than this one ever would. Only what lies much
    /// too far ahead can come from there: requests do not come in the order of their times, so a little is usual, and to
    /// cut that off would give away requests.
    fn settle(&self, full_at: u64, now: u64) -> u64 {
        let most = now.saturating_add(self.capacity);
        if full_at > most.saturating_add(DISORDER) { most } else { full_at }
    }

    fn state(&self, full_at: u64, now: u64) -> LimitState {
        let used = full_at.saturating_sub(now).min(self.capacity);
        LimitState {
            limit: self.limit,
            period: self.period,
            // What a burst allows beyond the limit is not promised: it would not be there in the next period.
            remaining: ((self.capacity - used) / self.interval.max(1)).min(self.limit),
            reset: Duration::from_nanos(used),
        }
    }
}

/// What is counted by, as 128 bits that nobody outside can predict or make collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u64, u64);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
        state.write_u64(self.1);
    }
}

/// Makes a [`Key`] of its parts without an allocation.
#[derive(Debug)]
pub(super) struct KeyHasher(SipHasher13, SipHasher13);

impl KeyHasher {
    /// Adds a part. Its kind and length are hashed with it, so that `a`, `bc` is not `ab`, `c`.
    pub(super) fn add(&mut self, kind: u8, part: &[u8]) {
        for hasher in [&mut self.0, &mut self.1] {
            hasher.write_u8(kind);
            hasher.write_usize(part.len());
            hasher.write(part);
        }
    }

    pub(super) fn finish(&self) -> Key {
        Key(self.0.finish(), self.1.finish())
    }
}

/// The state of all keys. It outlives the configuration.
#[derive(Debug)]
pub(super) struct Table {
    shards: Box<[Mutex<Shard>]>,
    seeds: Seeds,
}

#[derive(Debug, Default)]
struct Shard {
    slots: HashTable<Slot>,
    /// Where the next search for an entry that can go begins.
    hand: usize,
}

#[derive(Debug)]
struct Slot {
    key: Key,
    /// For each limit, when it is all there again.
    full_at: SmallVec<[u64; 2]>,
}

impl Slot {
    /// When nothing is lost if the entry is forgotten.
    fn idle_at(&self) -> u64 {
        self.full_at.iter().copied().max().unwrap_or(0)
    }
}

impl Table {
    /// A key of another process is the same key here if both have the same `seeds`.
    pub(super) fn new(seeds: Seeds) -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), seeds }
    }

    /// Starts a key.
    pub(super) fn key(&self) -> KeyHasher {
        let [a, b, c, d] = self.seeds.0;
        KeyHasher(SipHasher13::new_with_keys(a, b), SipHasher13::new_with_keys(c, d))
    }

    /// Takes one request from every limit, or from none, and says how long to wait. The state of the limits is
    /// added to `states` either way. At most about `max_keys` keys are remembered.
    pub(super) fn take(
        &self,
        key: Key,
        now: u64,
        limits: &[Gcra],
        max_keys: usize,
        states: &mut LimitStates,
    ) -> Result<(), Duration> {
        let Some(shard) = self.shard(key) else {
            return Ok(());
        };
        let mut shard = shard.lock();
        shard.make_room(key, now, max_keys.div_ceil(SHARDS));
        let entry = shard.slots.entry(key.0, |slot| slot.key == key, |slot| slot.key.0);
        let mut slot = match entry {
            Entry::Occupied(slot) => slot,
            Entry::Vacant(empty) => empty.insert(Slot { key, full_at: SmallVec::new() }),
        };
        slot.get_mut().take(now, limits, states)
    }

    fn shard(&self, key: Key) -> Option<&Mutex<Shard>> {
        self.shards.get(usize::try_from(key.1).unwrap_or_default() % SHARDS)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().slots.len()).sum()
    }
}

/// The format of what is exported: for each key its 128 bits, how many limits it has, and when each is all there again,
/// in little endian.
const FORMAT: u8 = 1;

impl State for Table {
    fn export(&self) -> Option<Vec<u8>> {
        let mut out = vec![FORMAT];
        for shard in &self.shards {
            for slot in &shard.lock().slots {
                let Ok(count) = u8::try_from(slot.full_at.len()) else { continue };
                out.extend_from_slice(&slot.key.0.to_le_bytes());
                out.extend_from_slice(&slot.key.1.to_le_bytes());
                out.push(count);
                slot.full_at.iter().for_each(|at| out.extend_from_slice(&at.to_le_bytes()));
            }
        }
        Some(out)
    }

    fn import(&self, exported: &[u8]) {
        let Some((&FORMAT, mut rest)) = exported.split_first() else {
            return;
        };
        while let Some((slot, after)) = Slot::read(rest) {
            rest = after;
            let Some(shard) = self.shard(slot.key) else { continue };
            let mut shard = shard.lock();
            let entry = shard.slots.entry(slot.key.0, |other| other.key == slot.key, |slot| slot.key.0);
            if let Entry::Vacant(empty) = entry {
                empty.insert(slot);
            }
        }
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*number), rest))
}

impl Slot {
    /// What [`Table::export`](State::export) wrote for a key, and what comes behind it.
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (first, rest) = number(bytes)?;
        let (second, rest) = number(rest)?;
        let (&count, mut rest) = rest.split_first()?;
        let mut full_at = SmallVec::new();
        for _ in 0..count {
            let (at, after) = number(rest)?;
            full_at.push(at);
            rest = after;
        }
        Some((Self { key: Key(first, second), full_at }, rest))
    }

    fn take(&mut self, now: u64, limits: &[Gcra], states: &mut LimitStates) -> Result<(), Duration> {
        self.full_at.resize(limits.len(), 0);
        let mut wait = 0;
        for (limit, full_at) in limits.iter().zip(&mut self.full_at) {
            *full_at = limit.settle(*full_at, now);
            if let Err(early) = limit.next(*full_at, now) {
                wait = wait.max(early);
            }
        }
        for (limit, full_at) in limits.iter().zip(&mut self.full_at) {
            if wait == 0
                && let Ok(next) = limit.next(*full_at, now)
            {
                *full_at = next;
            }
            states.push(limit.state(*full_at, now));
        }
        if wait == 0 { Ok(()) } else { Err(Duration::from_nanos(wait)) }
    }
}

impl Shard {
    /// Forgets an entry if `key` is new and there is no room for it: one that lost nothing by it if there is one
    /// among those looked at, or else the one that loses least. A key that is in use is far ahead of the others.
    fn make_room(&mut self, key: Key, now: u64, room: usize) {
        if self.slots.len() < room.max(1) || self.slots.find(key.0, |slot| slot.key == key).is_some() {
            return;
        }
        let buckets = self.slots.num_buckets().max(1);
        let mut victim: Option<(u64, usize)> = None;
        let mut seen = 0;
        for _ in 0..buckets {
            self.hand = (self.hand + 1) % buckets;
            let Some(slot) = self.slots.get_bucket(self.hand) else {
                continue;
            };
            let idle_at = slot.idle_at();
            if victim.is_none_or(|(least, _)| idle_at < least) {
                victim = Some((idle_at, self.hand));
            }
            seen += 1;
            if idle_at <= now || seen == SAMPLE {
                break;
            }
        }
        if let Some((_, at)) = victim
            && let Ok(slot) = self.slots.get_bucket_entry(at)
        {
            drop(slot.remove());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limit(rate: &str) -> Gcra {
        let rate: Rate = rate.parse().unwrap();
        Gcra::new(rate, rate.count.get())
    }

    fn key(table: &Table, text: &str) -> Key {
        let mut key = table.key();
        key.add(0, text.as_bytes());
        key.finish()
    }

    fn passes(table: &Table, key: Key, now: u64, limits: &[Gcra]) -> bool {
        table.take(key, now, limits, 1000, &mut LimitStates::new()).is_ok()
    }

    fn count(table: &Table, key: Key, now: u64, limits: &[Gcra], tries: usize) -> usize {
        (0..tries).filter(|_| passes(table, key, now, limits)).count()
    }

    #[test]
    fn the_edge_of_a_window_lets_nothing_more_through() {
        let (table, limits) = (Table::new(Seeds::random()), [limit("100/s")]);
        let one = key(&table, "a");
        let start = 50 * SECOND;
        assert_eq!(count(&table, one, start + 990_000_000, &limits, 200), 100);
        assert_eq!(count(&table, one, start + 1_010_000_000, &limits, 200), 2);
    }

    #[test]
    fn a_thousand_requests_at_once_get_exactly_the_limit() {
        let (table, limits) = (Table::new(Seeds::random()), [limit("100/h")]);
        let (one, passed) = (key(&table, "a"), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mine = count(&table, one, SECOND, &limits, 125);
                    passed.fetch_add(mine, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(passed.into_inner(), 100);
    }

    #[test]
    fn a_request_that_one_limit_refuses_takes_nothing_from_the_others() {
        let (table, limits) = (Table::new(Seeds::random()), [limit("2/s"), limit("1000/h")]);
        let one = key(&table, "a");
        let mut states = SmallVec::new();
        for _ in 0..50 {
            states.clear();
            _ = table.take(one, SECOND, &limits, 1000, &mut states);
        }
        let remaining: Vec<_> = states.iter().map(|state| state.remaining).collect();
        assert_eq!(remaining, [0, 998]);
    }

    #[test]
    fn a_refusal_says_exactly_when_to_come_back() {
        let (table, limits) = (Table::new(Seeds::random()), [limit("1/10s")]);
        let (one, now) = (key(&table, "a"), 7 * SECOND);
        assert!(passes(&table, one, now, &limits));
        let wait = table.take(one, now + SECOND, &limits, 10, &mut LimitStates::new());
        assert_eq!(wait, Err(Duration::from_secs(9)));
        assert!(!passes(&table, one, now + 10 * SECOND - 1, &limits));
        assert!(passes(&table, one, now + 10 * SECOND, &limits));
    }

    #[test]
    fn a_limit_that_was_raised_does_not_block_on() {
        let table = Table::new(Seeds::random());
        let one = key(&table, "a");
        assert_eq!(count(&table, one, SECOND, &[limit("1/h")], 9), 1);
        assert!(!passes(&table, one, 2 * SECOND, &[limit("10/s")]));
        assert!(passes(&table, one, 2 * SECOND + 100_000_000, &[limit("10/s")]));
    }

    #[test]
    fn requests_that_come_out_of_order_get_no_more() {
        let (table, limits) = (Table::new(Seeds::random()), [limit("100/s")]);
        let one = key(&table, "a");
        assert_eq!(count(&table, one, 10 * SECOND, &limits, 200), 100);
        assert_eq!(count(&table, one, 9 * SECOND, &limits, 200), 0);
        assert_eq!(count(&table, one, 10 * SECOND, &limits, 200), 0);
    }

    #[test]
    fn keys_without_number_stay_within_the_bound_and_spare_the_busy_one() {
        let (table, limits) = (Table::new(Seeds::random()), [limit("100/h")]);
        let busy = key(&table, "busy");
        assert_eq!(count(&table, busy, SECOND, &limits, 200), 100);
        let mut let_through = 0;
        for i in 0..20_000 {
            assert!(passes(&table, key(&table, &format!("k{i}")), SECOND, &limits));
            let_through += count(&table, busy, SECOND, &limits, usize::from(i % 100 == 0));
        }
        assert_eq!(let_through, 0);
        assert!(table.len() <= 1000 + SHARDS);
    }

    #[test]
    fn another_process_goes_on_where_this_one_stopped() {
        let (seeds, limits) = (Seeds::random(), [limit("10/h"), limit("1000/d")]);
        let (old, new) = (Table::new(seeds), Table::new(seeds));
        for who in 0..100 {
            count(&old, key(&old, &format!("k{who}")), SECOND, &limits, 7);
        }
        let exported = old.export().unwrap();
        new.import(&exported);
        assert_eq!(count(&new, key(&new, "k77"), SECOND, &limits, 20), 3);
        assert_eq!(new.len(), 100);
        for broken in [&[][..], &[9, 1], &exported[..exported.len() - 3]] {
            Table::new(seeds).import(broken);
        }
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let table = Table::new(Seeds::random());
        let make = |parts: &[(u8, &str)]| {
            let mut key = table.key();
            for (kind, part) in parts {
                key.add(*kind, part.as_bytes());
            }
            key.finish()
        };
        assert_ne!(make(&[(0, "a"), (0, "bc")]), make(&[(0, "ab"), (0, "c")]));
        assert_ne!(make(&[(0, "a")]), make(&[(1, "a")]));
        assert_eq!(make(&[(0, "a")]), make(&[(0, "a")]));
    }

    proptest::proptest! {
        #[test]
        fn no_stretch_of_time_gets_more_than_burst_and_rate(
            steps in proptest::collection::vec(0_u64..400_000_000, 1..200),
        ) {
            let (table, limits) = (Table::new(Seeds::random()), [limit("5/s")]);
            let one = key(&table, "a");
            let (start, mut now, mut passed) = (SECOND, SECOND, 0);
            for step in steps {
                now += step;
                passed += u64::from(passes(&table, one, now, &limits));
                proptest::prop_assert!(passed <= 5 + (now - start) * 5 / SECOND);
            }
        }
    }
}
