//! A hash ring (Karger et al., 1997): each endpoint stands at many points of a circle, in proportion to its weight, and a key
//! belongs to the next point behind it.
//!
//! With [`POINTS`] points for an endpoint of average weight, shares are off by some 3 %; which points an endpoint has depends on
//! its address and its share alone, so with equal weights the keys of one that goes are spread over all others, and no others move.

use super::rendezvous::mix;

/// Points for an endpoint of average weight.
const POINTS: u64 = 1024;

/// No endpoint has more, whatever its weight.
const MOST: u64 = 16_384;

#[derive(Debug)]
pub(in crate::upstream) struct Ring {
    /// Where the points stand, ordered, beside the endpoints that they belong to: a search reads only these.
    points: Box<[u64]>,
    owners: Box<[u16]>,
    endpoints: usize,
}

impl Ring {
    pub(super) fn new(seeds: &[u64], weights: &[u32]) -> Self {
        let total: u64 = weights.iter().copied().map(u64::from).sum::<u64>().max(1);
        let each = POINTS * u64::try_from(weights.len()).unwrap_or(1);
        let mut points: Vec<(u64, u16)> = Vec::new();
        for (owner, (seed, weight)) in (0..=u16::MAX).zip(seeds.iter().zip(weights)) {
            let own = (each.saturating_mul(u64::from(*weight)) / total).clamp(1, MOST);
            let mut at = *seed;
            for _ in 0..own {
                at = at.wrapping_add(0x9e37_79b9_7f4a_7c15);
                points.push((mix(at), owner));
            }
        }
        points.sort_unstable();
        Self {
            points: points.iter().map(|(at, _)| *at).collect(),
            owners: points.iter().map(|(_, owner)| *owner).collect(),
            endpoints: seeds.len(),
        }
    }

    /// The endpoint of the key, or the next one on the ring that can be used.
    pub(super) fn pick(&self, key: u64, usable: &impl Fn(usize) -> bool) -> Option<usize> {
        let start = self.points.partition_point(|at| *at < key);
        let (before, behind) = self.owners.split_at_checked(start)?;
        let around = behind.iter().chain(before);
        // The points of an endpoint that cannot be used come again and again; the ring has each many times.
        let mut refused = super::Refused::new(self.endpoints);
        around.take(super::STEPS).map(|owner| usize::from(*owner)).find(|owner| refused.try_one(*owner, usable))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::*, *};

    fn ring(n: u8, weights: &[u32]) -> Ring {
        Ring::new(&seeds(n), weights)
    }

    #[test]
    fn shares_are_about_those_of_the_weights() {
        for weights in [[1_u32; 5], [1, 2, 3, 4, 5]] {
            let ring = ring(5, &weights);
            let seen = counts(5, 100_000, |i| ring.pick(key(i), &|_| true));
            assert_about(&seen, &weights, 0.12);
        }
    }

    #[test]
    fn only_the_keys_of_an_endpoint_that_goes_move() {
        let all = ring(10, &[1; 10]);
        let fewer = Ring::new(&seeds(10)[..9], &[1; 9]);
        let moved = (0..100_000).filter(|i| all.pick(key(*i), &|_| true) != fewer.pick(key(*i), &|_| true));
        let moved = moved.inspect(|i| assert_eq!(all.pick(key(*i), &|_| true), Some(9))).count();
        assert!(moved <= 12_000, "{moved} of 100,000, at most 1.2 / 10");
    }

    #[test]
    fn the_keys_of_one_that_cannot_be_used_are_spread_over_the_others() {
        let ring = ring(5, &[1; 5]);
        let mut moved = [0; 5];
        for i in 0..100_000 {
            let (home, now) = (ring.pick(key(i), &|_| true).unwrap(), ring.pick(key(i), &|e| e != 2).unwrap());
            if home == 2 {
                moved[now] += 1;
            } else {
                assert_eq!(home, now);
            }
        }
        assert!(moved[2] == 0 && [0, 1, 3, 4].iter().all(|i| moved[*i] > 3_000), "{moved:?}");
    }

    #[test]
    fn extreme_weights_and_no_endpoint_at_all_are_no_problem() {
        assert_eq!(ring(0, &[]).pick(1, &|_| true), None);
        assert_eq!(ring(2, &[1, 65_535]).pick(1, &|_| false), None);
        assert_eq!(ring(2, &[1, 65_535]).pick(1, &|i| i == 0), Some(0));
    }
}
