//! Keys and the times of their limits, side by side in memory.
//!
//! Among millions of keys a lookup costs what the memory takes to answer, once for each place that is touched. Here that is one: a slot holds its key
//! and its times next to each other, and whoever finds it taken looks into the next (open addressing with linear probing; what is removed is
//! closed up by moving the others back, Knuth 6.4, algorithm R). General tables touch two or three places.

use crate::policy::limit_key::Key;

/// The words of a key.
const KEY: usize = 2;

/// How many slots are looked at when one has to go.
const SAMPLE: usize = 16;

/// A table of keys with the same number of times each.
#[derive(Debug)]
pub(super) struct Slots {
    /// Slot by slot: the key, never zero in a slot that is taken, and the times.
    words: Vec<u64>,
    stride: usize,
    /// One less than the number of slots, a power of two.
    mask: usize,
    len: usize,
    /// Where the next search for an entry that can go begins.
    hand: usize,
}

impl Slots {
    /// An empty table for keys with so many times each.
    pub(super) fn new(times: usize) -> Self {
        // Slots of 32 bytes do not lie across lines of the cache.
        let stride = (KEY + times).next_multiple_of(4);
        Self { words: Vec::new(), stride, mask: 0, len: 0, hand: 0 }
    }

    /// The times of a key that is known.
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut [u64]> {
        let at = self.search(key).ok()?;
        self.times_mut(at)
    }

    /// The times of a key, all zero if it is new. Beyond `room` keys another one is forgotten for it: one that loses nothing by it `now` if there
    /// is one among those looked at, or else the one that loses least. A key that is in use is far ahead of the others.
    pub(super) fn entry(&mut self, key: Key, now: u64, room: usize) -> &mut [u64] {
        let at = match self.search(key) {
            Ok(at) => at,
            Err(free) => {
                let at = if self.make_room(now, room) { self.search(key).unwrap_or_else(|free| free) } else { free };
                self.put(at, key)
            }
        };
        self.times_mut(at).unwrap_or_default()
    }

    /// Every key with its times.
    pub(super) fn each(&self) -> impl Iterator<Item = (Key, &[u64])> {
        self.words.chunks_exact(self.stride).filter_map(|slot| match slot.split_first_chunk() {
            Some(([first, second], times)) if *first != 0 => Some((Key(*first, *second), times)),
            _ => None,
        })
    }

    /// Where a key is, or the slot that it would get.
    fn search(&self, key: Key) -> Result<usize, usize> {
        let key = stored(key);
        let mut at = self.home(key.0);
        loop {
            match self.key_at(at) {
                Some(found) if found == key => return Ok(at),
                Some(Key(1.., _)) => at = (at + 1) & self.mask,
                Some(Key(0, _)) | None => return Err(at),
            }
        }
    }

    fn home(&self, first: u64) -> usize {
        usize::try_from(first).unwrap_or_default() & self.mask
    }

    fn key_at(&self, at: usize) -> Option<Key> {
        let [first, second] = self.words.get(at * self.stride..)?.first_chunk()?;
        Some(Key(*first, *second))
    }

    fn times_mut(&mut self, at: usize) -> Option<&mut [u64]> {
        self.words.get_mut(at * self.stride + KEY..(at + 1) * self.stride)
    }

    /// Puts a new key where [`search`](Self::search) said; returns where it is, with all times zero.
    fn put(&mut self, at: usize, key: Key) -> usize {
        let key = stored(key);
        let at = if self.key_at(at).is_none() || self.len * 4 > self.mask * 3 {
            self.grow();
            self.search(key).unwrap_or_else(|free| free)
        } else {
            at
        };
        if let Some(slot) = self.words.get_mut(at * self.stride..).and_then(<[u64]>::first_chunk_mut) {
            *slot = [key.0, key.1];
            self.len += 1;
        }
        at
    }

    fn grow(&mut self) {
        let slots = if self.words.is_empty() { 8 } else { (self.mask + 1) * 2 };
        let old = std::mem::replace(&mut self.words, vec![0; slots * self.stride]);
        self.mask = slots - 1;
        for slot in old.chunks_exact(self.stride) {
            if let Some([first @ 1_u64..=u64::MAX, second]) = slot.first_chunk().copied()
                && let Err(free) = self.search(Key(first, second))
                && let Some(to) = self.words.get_mut(free * self.stride..(free + 1) * self.stride)
            {
                to.copy_from_slice(slot);
            }
        }
    }

    /// Forgets a key if there are `room` of them; says whether it did.
    fn make_room(&mut self, now: u64, room: usize) -> bool {
        if self.len < room.max(1) {
            return false;
        }
        let mut victim: Option<(u64, usize)> = None;
        let mut seen = 0;
        for _ in 0..=self.mask {
            self.hand = (self.hand + 1) & self.mask;
            let (Some(Key(1.., _)), Some(times)) = (self.key_at(self.hand), self.times_mut(self.hand)) else {
                continue;
            };
            // When nothing is lost if it is forgotten.
            let idle_at = times.iter().copied().max().unwrap_or(0);
            if victim.is_none_or(|(least, _)| idle_at < least) {
                victim = Some((idle_at, self.hand));
            }
            seen += 1;
            if idle_at <= now || seen == SAMPLE {
                break;
            }
        }
        if let Some((_, at)) = victim {
            self.remove(at);
        }
        victim.is_some()
    }

    /// Empties a slot, and moves back into it what lies behind it only because it was taken.
    fn remove(&mut self, at: usize) {
        let (mut hole, mut next) = (at, (at + 1) & self.mask);
        while let Some(Key(first @ 1.., _)) = self.key_at(next) {
            let from_home = next.wrapping_sub(self.home(first)) & self.mask;
            if from_home >= next.wrapping_sub(hole) & self.mask {
                self.words.copy_within(next * self.stride..(next + 1) * self.stride, hole * self.stride);
                hole = next;
            }
            next = (next + 1) & self.mask;
        }
        if let Some(slot) = self.words.get_mut(hole * self.stride..(hole + 1) * self.stride) {
            slot.fill(0);
            self.len -= 1;
        }
    }
}

/// The form in which a key is in a slot: zero is for those that are free.
fn stored(key: Key) -> Key {
    Key(key.0.max(1), key.1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    proptest::proptest! {
        /// Few homes, so that keys get in each other's way and around the end.
        #[test]
        fn what_is_put_in_is_found_until_it_is_forgotten(
            steps in proptest::collection::vec((0_u64..40, 0_u64..3, 1_u64..9), 1..400),
            room in 1_usize..30,
        ) {
            let (mut slots, mut model) = (Slots::new(1), HashMap::new());
            for (first, second, value) in steps {
                let key = Key(first * 5, second);
                let times = slots.entry(key, 0, room);
                let known = times[0];
                times[0] = value;
                if known != 0 {
                    proptest::prop_assert_eq!(model.insert(key, value), Some(known));
                } else {
                    model.insert(key, value);
                }
                let found: HashMap<Key, u64> = slots.each().map(|(key, times)| (key, times[0])).collect();
                proptest::prop_assert_eq!(found.len(), slots.len);
                proptest::prop_assert!(slots.len <= room);
                model.retain(|key, _| found.contains_key(&stored(*key)));
                let known = |(key, value): (&Key, &u64)| slots.get_mut(*key).is_some_and(|times| times[0] == *value);
                proptest::prop_assert!(model.iter().all(known));
                proptest::prop_assert_eq!(model.len(), found.len());
            }
        }
    }

    #[test]
    fn a_table_without_keys_knows_none() {
        let mut slots = Slots::new(2);
        assert!(slots.get_mut(Key(1, 2)).is_none());
        assert_eq!(slots.each().count(), 0);
        assert_eq!(slots.entry(Key(0, 0), 1, 0).len(), 2);
        assert_eq!(slots.len, 1);
    }
}
