//! Random choice by weight.

use rand::Rng;

/// How often a random draw is repeated because it hit an endpoint that cannot be used, before all are counted.
const DRAWS: u32 = 8;

/// The weights of an endpoint set, added up so that a draw is a binary search.
#[derive(Debug)]
pub(in crate::upstream) struct Weights(Box<[u64]>);

impl Weights {
    pub(super) fn new(weights: &[u32]) -> Self {
        let sums = weights.iter().scan(0_u64, |sum, weight| {
            *sum += u64::from(*weight);
            Some(*sum)
        });
        Self(sums.collect())
    }

    /// Any endpoint that can be used, by weight; `None` if there is none.
    pub(super) fn pick(&self, rng: &mut impl Rng, usable: &impl Fn(usize) -> bool) -> Option<usize> {
        let total = self.0.last().copied().filter(|total| *total > 0)?;
        for _ in 0..DRAWS {
            let at = rng.random_range(0..total);
            let drawn = self.0.partition_point(|sum| *sum <= at);
            if usable(drawn) {
                return Some(drawn);
            }
        }
        self.count(rng, usable)
    }

    /// The same by looking at every endpoint: exact when few of many can be used.
    fn count(&self, rng: &mut impl Rng, usable: &impl Fn(usize) -> bool) -> Option<usize> {
        let total: u64 = self.each().filter(|(i, _)| usable(*i)).map(|(_, w)| w).sum();
        if total == 0 {
            return None;
        }
        let mut left = rng.random_range(0..total);
        let mut last = None;
        for (i, weight) in self.each().filter(|(i, _)| usable(*i)) {
            if left < weight {
                return Some(i);
            }
            left -= weight;
            last = Some(i);
        }
        // Health changed between the two passes.
        last
    }

    fn each(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let before = std::iter::once(0).chain(self.0.iter().copied());
        self.0.iter().zip(before).map(|(sum, before)| sum - before).enumerate()
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::upstream::balance::tests::{assert_shares, counts};

    #[test]
    fn every_endpoint_gets_its_share() {
        let mut rng = StdRng::seed_from_u64(1);
        let weights = Weights::new(&[1, 2, 5]);
        let seen = counts(3, 80_000, |_| weights.pick(&mut rng, &|_| true));
        assert_shares(&seen, &[1.0, 2.0, 5.0]);
    }

    #[test]
    fn the_share_of_what_cannot_be_used_goes_to_the_others_by_weight() {
        let mut rng = StdRng::seed_from_u64(2);
        let weights = Weights::new(&[1, 3, 1000, 4]);
        let seen = counts(4, 80_000, |_| weights.pick(&mut rng, &|i| i != 2));
        assert_shares(&seen, &[1.0, 3.0, 0.0, 4.0]);
    }

    #[test]
    fn nothing_usable_is_nothing() {
        let mut rng = StdRng::seed_from_u64(3);
        assert_eq!(Weights::new(&[]).pick(&mut rng, &|_| true), None);
        assert_eq!(Weights::new(&[1, 2]).pick(&mut rng, &|_| false), None);
    }
}
