//! What is used of one quota, by key. It knows neither HTTP nor files.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::period::Window;
use crate::{
    policy::limit_key::Key,
    runtime::State,
    shards::{SHARDS, Shards},
};

/// So many keys are known in each shard.
const MOST: usize = (1 << 20) / SHARDS;

type Shard = HashMap<Key, Account>;

/// All keys of a quota.
#[derive(Debug, Default)]
pub(super) struct Ledger(Shards<Shard>);

/// What one key has used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Account {
    /// The key for people: `consumer:mobile_app`.
    pub(super) label: Box<str>,
    /// By the beginning of each part of the period, in seconds since 1970. What was added to the quota counts as used negatively.
    pub(super) used: BTreeMap<u64, i64>,
    /// Which of two records is newer: one more with each change by an operator.
    pub(super) changes: u64,
}

impl Account {
    fn sum(&mut self, window: Window) -> i64 {
        while let Some(first) = self.used.first_entry()
            && *first.key() < window.oldest
        {
            first.remove();
        }
        self.used.values().sum()
    }

    /// Takes over what another process knows, if that is newer or more.
    fn merge(&mut self, other: Self) {
        if other.changes > self.changes {
            *self = other;
        } else if other.changes == self.changes {
            for (bucket, used) in other.used {
                let own = self.used.entry(bucket).or_default();
                *own = (*own).max(used);
            }
        }
    }
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Whether it passes.
    pub(crate) passes: bool,
    /// What was used before it.
    pub(crate) before: i64,
    /// When some of the quota comes back, in seconds since 1970.
    pub(crate) resets_at: u64,
}

/// What an operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing is used.
    Reset,
    /// So many more, for this period.
    TopUp(u64),
}

impl Ledger {
    pub(super) fn take(&self, key: Key, label: impl FnOnce() -> Box<str>, limit: u64, window: Window) -> Taken {
        let mut shard = self.0.lock(key.1);
        make_room(&mut shard, key, window);
        let account = shard.entry(key).or_insert_with(|| Account { label: label(), ..Account::default() });
        let before = account.sum(window);
        let passes = before < i64::try_from(limit).unwrap_or(i64::MAX);
        if passes {
            *account.used.entry(window.bucket).or_default() += 1;
        }
        let first = account.used.keys().next().copied().unwrap_or(window.bucket);
        Taken { passes, before, resets_at: first.saturating_add(window.lasts) }
    }

    /// Changes every key with this label, and says how many there were.
    pub(super) fn change(&self, label: &str, change: Change, window: Window) -> Vec<Key> {
        let mut changed = Vec::new();
        for mut shard in self.0.each() {
            for (key, account) in shard.iter_mut().filter(|(_, account)| *account.label == *label) {
                account.changes += 1;
                match change {
                    Change::Reset => account.used.clear(),
                    Change::TopUp(more) => {
                        let more = i64::try_from(more).unwrap_or(i64::MAX);
                        let used = account.used.entry(window.bucket).or_default();
                        *used = used.saturating_sub(more);
                    }
                }
                changed.push(*key);
            }
        }
        changed
    }

    /// What a key of a store has used, as the store says: shown, and gone on with when the store is away.
    pub(super) fn note(&self, key: Key, label: impl FnOnce() -> Box<str>, used: i64, window: Window) {
        let mut shard = self.0.lock(key.1);
        make_room(&mut shard, key, window);
        let account = shard.entry(key).or_insert_with(|| Account { label: label(), ..Account::default() });
        account.used.clear();
        account.used.insert(window.bucket, used);
    }

    /// What each key has used.
    pub(super) fn all(&self, window: Window) -> Vec<(Box<str>, i64)> {
        let mut all = Vec::new();
        for mut shard in self.0.each() {
            all.extend(shard.values_mut().map(|account| (account.label.clone(), account.sum(window))));
        }
        all.sort();
        all
    }

    /// Everything, to be kept; what does not count any more is forgotten.
    pub(super) fn records(&self, window: Window) -> BTreeMap<String, Account> {
        let mut records = BTreeMap::new();
        for mut shard in self.0.each() {
            shard.retain(|_, account| account.sum(window) != 0 || !account.used.is_empty());
            records.extend(shard.iter().map(|(key, account)| (name(*key), account.clone())));
        }
        records
    }

    /// Takes over what was kept.
    pub(super) fn merge(&self, records: BTreeMap<String, Account>) {
        for (text, account) in records {
            let Some(key) = named(&text) else { continue };
            let mut shard = self.0.lock(key.1);
            let own = shard.entry(key).or_default();
            if own.label.is_empty() {
                *own = account;
            } else {
                own.merge(account);
            }
        }
    }
}

/// Forgets one of some if there are too many keys: one whose period is over, or else who has used least.
fn make_room(shard: &mut Shard, key: Key, window: Window) {
    if shard.len() < MOST || shard.contains_key(&key) {
        return;
    }
    let used = |account: &Account| account.used.range(window.oldest..).map(|(_, used)| used).sum::<i64>();
    let victim = shard.iter().take(16).min_by_key(|(_, account)| used(account)).map(|(key, _)| *key);
    if let Some(victim) = victim {
        shard.remove(&victim);
    }
}

impl State for Ledger {
    fn export(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(&self.records(Window { bucket: 0, oldest: 0, lasts: 0 })).ok()
    }

    fn import(&self, exported: &[u8]) {
        if let Ok(records) = serde_json::from_slice(exported) {
            self.merge(records);
        }
    }
}

fn name(key: Key) -> String {
    format!("{:016x}{:016x}", key.0, key.1)
}

fn named(text: &str) -> Option<Key> {
    let (first, second) = text.split_at_checked(16)?;
    Some(Key(u64::from_str_radix(first, 16).ok()?, u64::from_str_radix(second, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Window = Window { bucket: 86_400, oldest: 86_400, lasts: 86_400 };

    fn take(ledger: &Ledger, window: Window) -> Taken {
        ledger.take(Key(1, 2), || "a".into(), 3, window)
    }

    #[test]
    fn a_quota_is_used_up_and_comes_back_with_the_next_day() {
        let ledger = Ledger::default();
        let outcomes: Vec<_> = (0..5).map(|_| take(&ledger, DAY)).collect();
        assert_eq!(outcomes.iter().filter(|taken| taken.passes).count(), 3);
        assert_eq!(outcomes[4], Taken { passes: false, before: 3, resets_at: 2 * 86_400 });
        let next = Window { bucket: 2 * 86_400, oldest: 2 * 86_400, lasts: 86_400 };
        assert!(take(&ledger, next).passes);
    }

    #[test]
    fn operators_add_and_forgive_and_the_newer_record_holds() {
        let (ledger, other) = (Ledger::default(), Ledger::default());
        assert_eq!((0..4).filter(|_| take(&ledger, DAY).passes).count(), 3);
        other.import(&ledger.export().unwrap());
        assert!(!take(&other, DAY).passes);
        assert_eq!(ledger.change("a", Change::TopUp(2), DAY), [Key(1, 2)]);
        assert_eq!(ledger.all(DAY), [("a".into(), 1)]);
        assert!(ledger.change("b", Change::Reset, DAY).is_empty());
        // What an older process still says changes nothing.
        ledger.import(&other.export().unwrap());
        assert_eq!(ledger.all(DAY), [("a".into(), 1)]);
        other.import(&ledger.export().unwrap());
        assert!(take(&other, DAY).passes);
        ledger.change("a", Change::Reset, DAY);
        assert_eq!(ledger.all(DAY), [("a".into(), 0)]);
        for broken in [&b""[..], b"[]", b"{\"x\": {}}", b"{\"00\": {\"label\": \"\", \"used\": {}, \"changes\": 0}}"] {
            ledger.import(broken);
        }
    }
}
