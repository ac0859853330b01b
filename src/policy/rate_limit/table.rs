//! The state of all keys: a sharded, bounded table with the times of [`Gcra`].
//!
//! All limits of a key are looked at and moved on under one lock: either all or none.

use std::time::Duration;

use super::{
    gcra::{Ask, Gcra},
    slots::Slots,
};
use crate::{
    policy::limit_key::Key,
    proxy::context::LimitStates,
    runtime::State,
    shards::{SHARDS, Shards},
};

/// The state of all keys. It outlives the configuration.
#[derive(Debug)]
pub(super) struct Table {
    shards: Shards<Slots>,
    /// How many limits each key has.
    limits: usize,
}

impl Table {
    /// An empty table for so many limits at once.
    pub(super) fn new(limits: usize) -> Self {
        Self { shards: Shards::new(|| Slots::new(limits)), limits }
    }

    /// Takes a request from every limit, and says how long it has to wait; or takes it from none, and says how long it would have had to. The
    /// state of the limits is added to `states` either way. At most about `max_keys` keys are remembered.
    pub(super) fn take(
        &self,
        key: Key,
        now: u64,
        ask: Ask,
        (limits, max_keys): (&[Gcra], usize),
        states: &mut LimitStates,
    ) -> Result<Duration, Duration> {
        let mut shard = self.shards.lock(key.1);
        take(shard.entry(key, now, max_keys.div_ceil(SHARDS)), now, ask, limits, states)
    }

    /// Takes something that was not known before, whatever is left.
    pub(super) fn charge(&self, key: Key, now: u64, cost: u64, limits: &[Gcra]) {
        if let Some(times) = self.shards.lock(key.1).get_mut(key) {
            for (limit, full_at) in limits.iter().zip(times) {
                *full_at = limit.charge(*full_at, now, cost);
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.each().map(|shard| shard.each().count()).sum()
    }
}

fn take(
    times: &mut [u64],
    now: u64,
    ask: Ask,
    limits: &[Gcra],
    states: &mut LimitStates,
) -> Result<Duration, Duration> {
    let mut outcome = Ok(0);
    for (limit, full_at) in limits.iter().zip(&mut *times) {
        *full_at = limit.settle(*full_at, now);
        outcome = match (outcome, limit.next(*full_at, now, ask)) {
            (Ok(wait), Ok((_, own))) => Ok(wait.max(own)),
            (Ok(_), Err(early)) | (Err(early), Ok(_)) => Err(early),
            (Err(early), Err(own)) => Err(early.max(own)),
        };
    }
    for (limit, full_at) in limits.iter().zip(times) {
        if outcome.is_ok()
            && let Ok((next, _)) = limit.next(*full_at, now, ask)
        {
            *full_at = next;
        }
        states.push(limit.state(*full_at, now));
    }
    outcome.map(Duration::from_nanos).map_err(Duration::from_nanos)
}

/// The format of what is exported: for each key its 128 bits, how many limits it has, and when each is all there again,
/// in little endian.
const FORMAT: u8 = 1;

impl State for Table {
    fn export(&self) -> Option<Vec<u8>> {
        let count = u8::try_from(self.limits).ok()?;
        let mut out = vec![FORMAT];
        for shard in self.shards.each() {
            for (key, times) in shard.each() {
                out.extend_from_slice(&key.0.to_le_bytes());
                out.extend_from_slice(&key.1.to_le_bytes());
                out.push(count);
                times.iter().take(self.limits).for_each(|at| out.extend_from_slice(&at.to_le_bytes()));
            }
        }
        Some(out)
    }

    fn import(&self, exported: &[u8]) {
        let Some((&FORMAT, mut rest)) = exported.split_first() else {
            return;
        };
        while let Some((key, times, after)) = read(rest) {
            rest = after;
            let mut shard = self.shards.lock(key.1);
            if shard.get_mut(key).is_none() {
                shard.entry(key, 0, usize::MAX).iter_mut().zip(times).for_each(|(own, told)| *own = told);
            }
        }
    }
}

/// What [`Table::export`](State::export) wrote for a key, and what comes behind it.
fn read(bytes: &[u8]) -> Option<(Key, impl Iterator<Item = u64>, &[u8])> {
    let (words, rest) = bytes.split_first_chunk::<16>()?;
    let mut key = numbers(words);
    let (&count, rest) = rest.split_first()?;
    let (times, rest) = rest.split_at_checked(usize::from(count) * 8)?;
    Some((Key(key.next()?, key.next()?), numbers(times), rest))
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (numbers, _) = bytes.as_chunks();
    numbers.iter().map(|number| u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    use super::*;
    use crate::{
        config::types::Rate,
        policy::limit_key::{KeyHasher, Sink as _},
        runtime::Seeds,
    };

    const SECOND: u64 = 1_000_000_000;

    fn limit(rate: &str) -> Gcra {
        let rate: Rate = rate.parse().unwrap();
        Gcra::new(rate, rate.count.get())
    }

    fn key(text: &str) -> Key {
        let mut key = KeyHasher::new(Seeds([1, 2, 3, 4]));
        key.add(0, text.as_bytes());
        key.finish()
    }

    fn passes(table: &Table, key: Key, now: u64, limits: &[Gcra]) -> bool {
        table.take(key, now, Ask::ONE, (limits, 1000), &mut LimitStates::new()).is_ok()
    }

    fn count(table: &Table, key: Key, now: u64, limits: &[Gcra], tries: usize) -> usize {
        (0..tries).filter(|_| passes(table, key, now, limits)).count()
    }

    #[test]
    fn the_edge_of_a_window_lets_nothing_more_through() {
        let (table, limits) = (Table::new(1), [limit("100/s")]);
        let one = key("a");
        let start = 50 * SECOND;
        assert_eq!(count(&table, one, start + 990_000_000, &limits, 200), 100);
        assert_eq!(count(&table, one, start + 1_010_000_000, &limits, 200), 2);
    }

    #[test]
    fn a_thousand_requests_at_once_get_exactly_the_limit() {
        let (table, limits) = (Table::new(1), [limit("100/h")]);
        let (one, passed) = (key("a"), AtomicUsize::new(0));
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
        let (table, limits) = (Table::new(2), [limit("2/s"), limit("1000/h")]);
        let one = key("a");
        let mut states = LimitStates::new();
        for _ in 0..50 {
            states.clear();
            _ = table.take(one, SECOND, Ask::ONE, (&limits, 1000), &mut states);
        }
        let remaining: Vec<_> = states.iter().map(|state| state.remaining).collect();
        assert_eq!(remaining, [0, 998]);
    }

    #[test]
    fn a_refusal_says_exactly_when_to_come_back() {
        let (table, limits) = (Table::new(1), [limit("1/10s")]);
        let (one, now) = (key("a"), 7 * SECOND);
        assert!(passes(&table, one, now, &limits));
        let wait = table.take(one, now + SECOND, Ask::ONE, (&limits, 10), &mut LimitStates::new());
        assert_eq!(wait, Err(Duration::from_secs(9)));
        assert!(!passes(&table, one, now + 10 * SECOND - 1, &limits));
        assert!(passes(&table, one, now + 10 * SECOND, &limits));
    }

    #[test]
    fn a_limit_that_was_raised_does_not_block_on() {
        let table = Table::new(1);
        let one = key("a");
        assert_eq!(count(&table, one, SECOND, &[limit("1/h")], 9), 1);
        assert!(!passes(&table, one, 2 * SECOND, &[limit("10/s")]));
        assert!(passes(&table, one, 2 * SECOND + 100_000_000, &[limit("10/s")]));
    }

    #[test]
    fn requests_that_come_out_of_order_get_no_more() {
        let (table, limits) = (Table::new(1), [limit("100/s")]);
        let one = key("a");
        assert_eq!(count(&table, one, 10 * SECOND, &limits, 200), 100);
        assert_eq!(count(&table, one, 9 * SECOND, &limits, 200), 0);
        assert_eq!(count(&table, one, 10 * SECOND, &limits, 200), 0);
    }

    #[test]
    fn keys_without_number_stay_within_the_bound_and_spare_the_busy_one() {
        let (table, limits) = (Table::new(1), [limit("100/h")]);
        let busy = key("busy");
        assert_eq!(count(&table, busy, SECOND, &limits, 200), 100);
        let mut let_through = 0;
        for i in 0..20_000 {
            assert!(passes(&table, key(&format!("k{i}")), SECOND, &limits));
            let_through += count(&table, busy, SECOND, &limits, usize::from(i % 100 == 0));
        }
        assert_eq!(let_through, 0);
        assert!(table.len() <= 1000 + SHARDS);
    }

    #[test]
    fn another_process_goes_on_where_this_one_stopped() {
        let limits = [limit("10/h"), limit("1000/d")];
        let (old, new) = (Table::new(2), Table::new(2));
        for who in 0..100 {
            count(&old, key(&format!("k{who}")), SECOND, &limits, 7);
        }
        let exported = old.export().unwrap();
        new.import(&exported);
        assert_eq!(count(&new, key("k77"), SECOND, &limits, 20), 3);
        assert_eq!(new.len(), 100);
        for broken in [&[][..], &[9, 1], &exported[..exported.len() - 3]] {
            Table::new(2).import(broken);
        }
    }

    #[test]
    fn a_request_may_cost_more_and_never_more_than_there_is() {
        let (table, limits) = (Table::new(2), [limit("100/s"), limit("10_000/h")]);
        let cost = |cost| Ask { cost, patience: 0 };
        let take = |now, ask| table.take(key("a"), now, ask, (&limits, 1000), &mut LimitStates::new());
        assert_eq!([take(SECOND, cost(60)), take(SECOND, cost(30))], [Ok(Duration::ZERO); 2]);
        assert_eq!(take(SECOND, cost(11)), Err(Duration::from_millis(10)));
        assert_eq!(take(SECOND, cost(10)), Ok(Duration::ZERO));
        assert_eq!(take(SECOND, cost(0)), Ok(Duration::ZERO));
        // All there ever is, when all is there.
        assert_eq!(take(SECOND, cost(u64::MAX)), Err(Duration::from_secs(36)));
        table.charge(key("b"), SECOND, 5, &limits);
        assert_eq!(take(50_000 * SECOND, cost(u64::MAX)), Ok(Duration::ZERO));
        // What is known afterwards is taken whatever is left.
        table.charge(key("a"), 50_000 * SECOND, 5, &limits);
        assert_eq!(take(50_000 * SECOND, cost(1)), Err(Duration::from_millis(2160)));
    }

    #[test]
    fn who_is_patient_waits_for_his_turn_and_not_longer_than_he_would() {
        let (table, limits) = (Table::new(1), [limit("10/s")]);
        let ask = Ask { cost: 1, patience: SECOND / 2 };
        let waits: Vec<_> =
            (0..17).map(|_| table.take(key("a"), SECOND, ask, (&limits, 1000), &mut LimitStates::new())).collect();
        let at = |n: usize| waits[n].map(|wait| wait.as_millis());
        assert_eq!([at(0), at(9), at(10), at(14)], [Ok(0), Ok(0), Ok(100), Ok(500)]);
        assert_eq!(waits[15], Err(Duration::from_millis(600)), "and nothing is taken for him");
        assert_eq!(waits[16], waits[15]);
    }

    /// A million requests at random times of a simulated clock: in no stretch of time more than burst and rate; and where there is always somebody who
    /// asks, no fewer than the rate.
    #[test]
    fn a_million_requests_get_what_a_model_says_and_never_more() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        for (rate, burst, always) in
            [("7/3s", 7, false), ("100/s", 20, false), ("1000/m", 1, false), ("100/s", 20, true), ("7/3s", 7, true)]
        {
            let rate: Rate = rate.parse().unwrap();
            let (table, limits) = (Table::new(1), [Gcra::new(rate, burst)]);
            let (count, period) = (i128::from(rate.count.get()), i128::try_from(rate.period.as_nanos()).unwrap());
            let interval = u64::try_from(rate.period.as_nanos()).unwrap() / rate.count.get();
            // Requests and time in one unit: `period` for a request, `count` for a nanosecond.
            let (mut now, mut passed, mut least) = (SECOND, 0_i128, 0_i128);
            for _ in 0..200_000 {
                now += match random(100) {
                    _ if always => random(interval / 2) + 1,
                    0 => random(100 * interval),
                    1..=9 => 0,
                    _ => random(2 * interval),
                };
                let given = i128::from(now - SECOND) * count;
                least = least.min(passed * period - given);
                passed += i128::from(passes(&table, key("a"), now, &limits));
                let more = passed * period - given - least;
                assert!(more <= i128::from(burst) * period, "{rate:?}: {more} at {now}");
            }
            if always {
                let given = i128::from(now - SECOND) * count;
                assert!(passed * period >= given - period, "{rate:?}: {passed}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_stretch_of_time_gets_more_than_burst_and_rate(
            steps in proptest::collection::vec(0_u64..400_000_000, 1..200),
        ) {
            let (table, limits) = (Table::new(1), [limit("5/s")]);
            let one = key("a");
            let (start, mut now, mut passed) = (SECOND, SECOND, 0);
            for step in steps {
                now += step;
                passed += u64::from(passes(&table, one, now, &limits));
                proptest::prop_assert!(passed <= 5 + (now - start) * 5 / SECOND);
            }
        }
    }
}
