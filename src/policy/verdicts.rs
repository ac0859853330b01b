//! Remembers what was found out about tokens, so that a token costs one check and not one for each request.
//!
//! A token is remembered by its SHA-256 digest, together with the set of keys that it was checked with: when the set
//! changes, nothing that the old one said holds any more.

use std::{
    fmt::Debug,
    hash::{BuildHasherDefault, Hasher},
};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::runtime::State;

const SHARDS: usize = 64;

/// 64 times this many tokens are remembered.
const PER_SHARD: usize = 1024;

/// How many entries are looked at when one has to go.
const SAMPLE: usize = 8;

/// What was found out about a token.
#[derive(Clone, Debug)]
pub(super) struct Verdict<T> {
    pub(super) found: T,
    /// Seconds since 1970: from, and before.
    pub(super) valid: (u64, u64),
    /// The set of keys that it was checked with.
    pub(super) keys: u64,
}

/// The digest of a token.
pub(super) type Digest = [u8; 32];

/// Verdicts by token. They outlive the configuration, as long as it says the same about tokens.
#[derive(Debug)]
pub(super) struct Verdicts<T> {
    shards: Box<[Mutex<Shard<T>>]>,
    /// How many a shard holds.
    size: usize,
}

/// Another process finds the verdicts out again.
impl<T: Debug + Send + 'static> State for Verdicts<T> {}

type Shard<T> = HashMap<Digest, Verdict<T>, BuildHasherDefault<First>>;

/// A digest is random already: its first bytes are as good a hash as any.
#[derive(Debug, Default)]
struct First(u64);

impl Hasher for First {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    // The length comes before the bytes.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

impl<T: Clone> Verdicts<T> {
    pub(super) fn new() -> Self {
        Self::of_size(PER_SHARD)
    }

    /// For what takes more room than a verdict: 64 times so many.
    pub(super) fn of_size(size: usize) -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), size }
    }

    fn shard(&self, token: &Digest) -> Option<&Mutex<Shard<T>>> {
        let last = token.last().copied().map(usize::from);
        self.shards.get(last? % SHARDS)
    }

    /// What is known of a token, with these keys, at this time.
    pub(super) fn find(&self, token: &Digest, keys: u64, now: u64) -> Option<T> {
        let shard = self.shard(token)?.lock();
        let known = shard.get(token)?;
        let holds = known.keys == keys && (known.valid.0..known.valid.1).contains(&now);
        holds.then(|| known.found.clone())
    }

    /// Remembers a token that is not known at this time; whether that was so.
    pub(super) fn claim(&self, token: Digest, verdict: Verdict<T>, now: u64) -> bool {
        let Some(shard) = self.shard(&token) else {
            return false;
        };
        let mut shard = shard.lock();
        if shard.get(&token).is_some_and(|known| (known.valid.0..known.valid.1).contains(&now)) {
            return false;
        }
        self.put(&mut shard, token, verdict);
        true
    }

    /// Remembers a token. If there is no room, one that is over soon is forgotten for it.
    pub(super) fn insert(&self, token: Digest, verdict: Verdict<T>) {
        if let Some(shard) = self.shard(&token) {
            self.put(&mut shard.lock(), token, verdict);
        }
    }

    fn put(&self, shard: &mut Shard<T>, token: Digest, verdict: Verdict<T>) {
        if shard.len() >= self.size && !shard.contains_key(&token) {
            let sample = shard.iter().take(SAMPLE);
            let first = sample.min_by_key(|(_, known)| (known.keys == verdict.keys, known.valid.1));
            if let Some(first) = first.map(|(token, _)| *token) {
                shard.remove(&first);
            }
        }
        shard.insert(token, verdict);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::digest;

    fn verdict(keys: u64, valid: (u64, u64)) -> Verdict<()> {
        Verdict { found: (), valid, keys }
    }

    #[test]
    fn a_verdict_holds_for_its_keys_and_its_time() {
        let (verdicts, token) = (Verdicts::new(), digest(b"token"));
        verdicts.insert(token, verdict(7, (100, 200)));
        assert!(verdicts.find(&token, 7, 100).is_some());
        assert!(verdicts.find(&token, 7, 199).is_some());
        assert!(verdicts.find(&token, 7, 200).is_none());
        assert!(verdicts.find(&token, 7, 99).is_none());
        assert!(verdicts.find(&token, 8, 150).is_none());
        assert!(verdicts.find(&digest(b"Token"), 7, 150).is_none());
    }

    #[test]
    fn a_token_is_claimed_once_while_that_holds() {
        let (verdicts, token) = (Verdicts::new(), digest(b"token"));
        assert!(verdicts.claim(token, verdict(0, (0, 200)), 100));
        assert!(!verdicts.claim(token, verdict(0, (0, 300)), 199));
        assert!(verdicts.claim(token, verdict(0, (0, 300)), 200));
    }

    #[test]
    fn tokens_without_number_stay_within_the_bound() {
        let verdicts = Verdicts::new();
        for i in 0..SHARDS * PER_SHARD * 2 {
            verdicts.insert(digest(&i.to_le_bytes()), verdict(1, (0, 10)));
        }
        let all: usize = verdicts.shards.iter().map(|shard| shard.lock().len()).sum();
        assert!(all <= SHARDS * PER_SHARD);
        let last = digest(&(SHARDS * PER_SHARD * 2 - 1).to_le_bytes());
        assert!(verdicts.find(&last, 1, 5).is_some());
    }
}
