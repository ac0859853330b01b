//! Maglev's table ([Eisenbud et al., 2016](https://research.google/pubs/pub44824/), 3.4): the endpoints fill the places of a table in turns,
//! each in an order of its own, and a key looks at one place. Shares are exact to one place; when an endpoint goes, a few keys
//! move between those that stay.

use super::rendezvous::mix;

/// Places: prime, so that every step size visits all of them. Hundred times more than endpoints keeps shares within 1 %.
const PLACES: [u64; 2] = [65_537, 655_373];

/// More endpoints have the larger table.
const MANY: usize = 600;

/// The seed of the second of the two numbers that an order is made of.
const SKIP: u64 = 0x5bf0_3635_d1f6_1a9d;

#[derive(Debug)]
pub(in crate::upstream) struct Maglev {
    places: Box<[u16]>,
    endpoints: usize,
}

/// How an endpoint goes through the table.
struct Turn {
    at: u64,
    skip: u64,
    weight: f64,
    owed: f64,
}

impl Turn {
    /// Takes the next free place of its order; there is one.
    fn take(&mut self, places: &mut [Option<u16>], number: u16, size: u64) {
        for _ in 0..size {
            let at = usize::try_from(self.at).unwrap_or(0);
            self.at = (self.at + self.skip) % size;
            if let Some(place @ None) = places.get_mut(at) {
                *place = Some(number);
                return;
            }
        }
    }
}

impl Maglev {
    pub(super) fn new(seeds: &[u64], weights: &[u32]) -> Self {
        let size = if seeds.len() > MANY { PLACES[1] } else { PLACES[0] };
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        let average = total / f64::from(u32::try_from(weights.len()).unwrap_or(u32::MAX));
        let mut turns: Vec<Turn> = seeds
            .iter()
            .zip(weights)
            .map(|(seed, weight)| Turn {
                at: seed % size,
                skip: mix(seed ^ SKIP) % (size - 1) + 1,
                weight: f64::from(*weight) / average,
                owed: 0.0,
            })
            .collect();
        // Whoever comes first in a round has an advantage; addresses decide, not the order in the file.
        let mut order: Vec<usize> = (0..turns.len()).collect();
        order.sort_unstable_by_key(|i| seeds.get(*i).copied());
        Self { places: fill(&mut turns, &order, size), endpoints: seeds.len() }
    }

    /// The endpoint of the key, or that of the next place whose endpoint can be used.
    pub(super) fn pick(&self, key: u64, usable: &impl Fn(usize) -> bool) -> Option<usize> {
        let size = u64::try_from(self.places.len()).ok().filter(|size| *size > 0)?;
        let mut refused = super::Refused::new(self.endpoints);
        let start = usize::try_from(key % size).ok()?;
        let (before, behind) = self.places.split_at_checked(start)?;
        let around = behind.iter().chain(before).take(super::STEPS);
        around.map(|owner| usize::from(*owner)).find(|owner| refused.try_one(*owner, usable))
    }
}

/// Lets the endpoints take places in turns until all are taken; one with half the average weight takes every second turn.
fn fill(turns: &mut [Turn], order: &[usize], size: u64) -> Box<[u16]> {
    if turns.is_empty() {
        return Box::default();
    }
    let mut places: Vec<Option<u16>> = vec![None; usize::try_from(size).unwrap_or(0)];
    let mut left = places.len();
    loop {
        for owner in order {
            let (Some(turn), Ok(number)) = (turns.get_mut(*owner), u16::try_from(*owner)) else { continue };
            turn.owed += turn.weight;
            while turn.owed >= 1.0 {
                turn.owed -= 1.0;
                turn.take(&mut places, number, size);
                left -= 1;
                if left == 0 {
                    return places.into_iter().flatten().collect();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::*, *};

    #[test]
    fn shares_are_those_of_the_weights() {
        for weights in [[1_u32; 5], [1, 2, 3, 4, 5]] {
            let table = Maglev::new(&seeds(5), &weights);
            let mut seen = [0_u32; 5];
            table.places.iter().for_each(|owner| seen[usize::from(*owner)] += 1);
            assert_about(&seen, &weights, 0.01);
        }
    }

    #[test]
    fn few_keys_move_but_those_of_an_endpoint_that_goes() {
        for n in [3_u8, 10, 50] {
            let seeds = seeds(n);
            let weights = vec![1; usize::from(n)];
            let all = Maglev::new(&seeds, &weights);
            for gone in 0..3_usize {
                let rest: Vec<u64> =
                    seeds.iter().copied().enumerate().filter(|(i, _)| *i != gone).map(|(_, s)| s).collect();
                let fewer = Maglev::new(&rest, &weights[1..]);
                let same = |i: usize| {
                    let now = fewer.pick(key(i), &|_| true).unwrap();
                    all.pick(key(i), &|_| true) == Some(if now >= gone { now + 1 } else { now })
                };
                let moved = (0..20_000).filter(|i| !same(*i)).count();
                assert!(moved * usize::from(n) <= 24_000, "{moved} of 20,000 with {n} endpoints, at most 1.2 / {n}");
            }
        }
    }

    #[test]
    fn the_order_of_the_endpoints_does_not_matter() {
        let forward = Maglev::new(&seeds(5), &[1, 2, 3, 4, 5]);
        let mut turned = seeds(5);
        turned.reverse();
        let backward = Maglev::new(&turned, &[5, 4, 3, 2, 1]);
        assert!(
            (0..10_000).all(|i| forward.pick(key(i), &|_| true) == backward.pick(key(i), &|_| true).map(|e| 4 - e))
        );
    }

    #[test]
    fn the_next_place_is_asked_where_an_endpoint_cannot_be_used() {
        let table = Maglev::new(&seeds(3), &[1; 3]);
        for i in 0..1_000 {
            let home = table.pick(key(i), &|_| true).unwrap();
            let now = table.pick(key(i), &|e| e != 1).unwrap();
            assert!(now != 1 && (home == 1 || home == now));
        }
        assert_eq!(table.pick(1, &|_| false), None);
        assert_eq!(Maglev::new(&[], &[]).pick(1, &|_| true), None);
        assert_eq!(Maglev::new(&seeds(2), &[1, 4]).pick(1, &|i| i == 0), Some(0));
    }
}
