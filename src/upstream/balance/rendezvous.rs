//! The same endpoint for the same key: weighted rendezvous hashing.
//!
//! Every endpoint draws a number that depends on the key and on its own address alone, and the best draw wins
//! (Thaler and Ravishankar, 1998; with weights: Schindelhauer and Schomaker, 2005). It follows that
//!
//! - an endpoint that goes takes only its own keys along, spread over the others by weight, and one that comes takes
//!   only what it wins: no key moves between two endpoints that were there before and after;
//! - an unhealthy endpoint is the same case, and its keys return with it;
//! - shares are exact for any weights, and no table has to be sized, built or kept in memory.
//!
//! The price is a look at every endpoint for each request: about 2 ns each with equal weights and 6 ns with others
//! (`rustc -O`, 4 to 1,000 endpoints). The numbers must not change from one version to the next, nor from one gateway
//! to another.

/// Spreads the bits of a number: the finaliser of `SplitMix64`.
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hashes the parts of a key, each with its end marked; FNV-1a, because it is short and will never change.
pub(in crate::upstream) fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut feed = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    for part in parts {
        part.iter().copied().for_each(&mut feed);
        feed(0xff); // in no UTF-8 text
    }
    mix(hash)
}

#[derive(Debug)]
pub(in crate::upstream) struct Rendezvous {
    endpoints: Box<[(u64, f64)]>,
    equal: bool,
}

impl Rendezvous {
    /// One `(seed, weight)` for each endpoint; the seed stands for its address.
    pub(super) fn new(seeds: &[u64], weights: &[u32]) -> Self {
        let endpoints = seeds.iter().zip(weights);
        Self {
            equal: weights.windows(2).all(|pair| pair.first() == pair.last()),
            endpoints: endpoints.map(|(s, w)| (*s, f64::from(*w))).collect(),
        }
    }

    /// The endpoint of the key, or the next best one that can be used.
    pub(super) fn pick(&self, key: u64, usable: &impl Fn(usize) -> bool) -> Option<usize> {
        // Health lies somewhere else in memory, and nearly always the first choice is healthy.
        let first = self.best(key, &|_| true)?;
        if usable(first) {
            return Some(first);
        }
        self.best(key, usable)
    }

    fn best(&self, key: u64, usable: &impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = (f64::INFINITY, None);
        for (i, (seed, weight)) in self.endpoints.iter().enumerate() {
            let draw = unit(mix(key ^ seed));
            // The logarithm only matters between different weights: it does not change an order.
            let cost = if self.equal { -draw } else { -draw.ln() / weight };
            if cost < best.0 && usable(i) {
                best = (cost, Some(i));
            }
        }
        best.1
    }
}

/// A number above 0, up to 1, from the upper 52 bits.
pub(crate) fn unit(bits: u64) -> f64 {
    2.0 - f64::from_bits(0x3ff0_0000_0000_0000 | (bits >> 12))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balance::tests::{assert_shares, counts, key, seeds};

    const KEYS: u64 = 100_000;

    fn all(set: &Rendezvous) -> Vec<usize> {
        (0..KEYS).map(|i| set.pick(key(usize::try_from(i).unwrap()), &|_| true).unwrap()).collect()
    }

    #[test]
    fn keys_are_spread_by_weight() {
        let equal = Rendezvous::new(&seeds(4), &[7; 4]);
        let seen = counts(4, 100_000, |i| equal.pick(key(i), &|_| true));
        assert_shares(&seen, &[1.0; 4]);
        let weighted = Rendezvous::new(&seeds(3), &[1, 3, 6]);
        let seen = counts(3, 100_000, |i| weighted.pick(key(i), &|_| true));
        assert_shares(&seen, &[1.0, 3.0, 6.0]);
    }

    #[test]
    fn no_key_moves_between_endpoints_that_stay() {
        for weights in [[1_u32; 5], [1, 2, 3, 4, 5]] {
            let seeds = seeds(5);
            let with = all(&Rendezvous::new(&seeds, &weights));
            let without = all(&Rendezvous::new(&seeds[..4], &weights[..4]));
            for (before, after) in with.iter().zip(&without) {
                assert!(*before == 4 || before == after);
            }
        }
    }

    #[test]
    fn the_keys_of_a_sick_endpoint_are_spread_and_the_others_stay() {
        let set = Rendezvous::new(&seeds(4), &[1; 4]);
        let mut moved = [0_u32; 4];
        for i in 0..100_000 {
            let home = set.pick(key(i), &|_| true).unwrap();
            let now = set.pick(key(i), &|e| e != 2).unwrap();
            if home == 2 {
                moved[now] += 1;
            } else {
                assert_eq!(home, now);
            }
        }
        assert_shares(&moved, &[1.0, 1.0, 0.0, 1.0]);
    }

    #[test]
    fn the_order_of_the_endpoints_does_not_matter() {
        let forward = Rendezvous::new(&seeds(5), &[1, 2, 3, 4, 5]);
        let mut turned = seeds(5);
        turned.reverse();
        let backward = Rendezvous::new(&turned, &[5, 4, 3, 2, 1]);
        for (a, b) in all(&forward).into_iter().zip(all(&backward)) {
            assert_eq!(a, 4 - b);
        }
    }

    #[test]
    fn the_numbers_never_change() {
        assert_eq!(hash(&[b""]), 0x4f2d_b50f_1240_40cd);
        assert_eq!(hash(&[b"10.0.0.1:8080"]), 0x8da0_edc5_5ef3_de13);
        assert_ne!(hash(&[b"a", b"b"]), hash(&[b"ab"]));
    }

    #[test]
    fn nothing_usable_is_nothing() {
        assert_eq!(Rendezvous::new(&[], &[]).pick(1, &|_| true), None);
        assert_eq!(Rendezvous::new(&seeds(2), &[1, 1]).pick(1, &|_| false), None);
    }
}
