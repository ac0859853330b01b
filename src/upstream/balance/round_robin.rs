//! Smooth weighted round robin, without a lock.
//!
//! The order is that of nginx: weights 5, 1, 1 give `a a b a c a a`, never `a a a a a b c`. nginx finds it one step
//! at a time in counters behind a lock; here the whole round is laid out when the endpoint set is built, and a
//! request only advances one atomic counter.

use std::sync::atomic::{AtomicUsize, Ordering};

use rand::Rng;

use super::weights::Weights;

/// The longest round. Weights that need more are rounded to fit; an endpoint keeps at least one turn.
const LONGEST: u64 = 4096;

/// So many turns are skipped because their endpoint cannot be used, before the choice is left to chance by weight.
const SKIPS: u32 = 64;

#[derive(Debug)]
pub(in crate::upstream) struct RoundRobin {
    round: Box<[usize]>,
    turn: AtomicUsize,
    weights: Weights,
}

impl RoundRobin {
    /// `turn` is where in the round to begin: a random number, so that gateways that start together do not all
    /// send their first request to the same endpoint.
    pub(super) fn new(weights: &[u32], turn: u32) -> Self {
        Self {
            round: lay_out(&fit(weights)),
            turn: AtomicUsize::new(usize::try_from(turn).unwrap_or(0)),
            weights: Weights::new(weights),
        }
    }

    /// The next endpoint that can be used.
    pub(super) fn pick(&self, rng: &mut impl Rng, usable: &impl Fn(usize) -> bool) -> Option<usize> {
        for _ in 0..SKIPS {
            // A skipped turn is used up. If each request looked for a substitute by itself, the one behind a sick
            // endpoint in the round would get all of its share.
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let next = *self.round.get(turn.checked_rem(self.round.len())?)?;
            if usable(next) {
                return Some(next);
            }
        }
        self.weights.pick(rng, usable)
    }
}

/// Divides by the greatest common divisor, and scales down what is still too much for one round.
fn fit(weights: &[u32]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |a, b| gcd(a, u64::from(*b))).max(1);
    let reduced = weights.iter().map(|weight| u64::from(*weight) / divisor);
    let total: u64 = reduced.clone().sum();
    if total <= LONGEST {
        return reduced.collect();
    }
    reduced.map(|weight| (weight * LONGEST).div_ceil(total)).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    match a.checked_rem(b) {
        None => a,
        Some(rest) => gcd(b, rest),
    }
}

/// Each step everybody gains its weight, and the richest has its turn and pays for all.
fn lay_out(weights: &[u64]) -> Box<[usize]> {
    if weights.iter().all(|weight| *weight == 1) {
        return (0..weights.len()).collect();
    }
    let total: i64 = weights.iter().map(|w| i64::try_from(*w).unwrap_or(0)).sum();
    let mut current = vec![0_i64; weights.len()];
    (0..total)
        .map(|_| {
            let mut richest = (i64::MIN, 0);
            for (i, (now, weight)) in current.iter_mut().zip(weights).enumerate() {
                *now += i64::try_from(*weight).unwrap_or(0);
                if *now > richest.0 {
                    richest = (*now, i);
                }
            }
            if let Some(now) = current.get_mut(richest.1) {
                *now -= total;
            }
            richest.1
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::upstream::balance::tests::{assert_shares, counts};

    fn picks(robin: &RoundRobin, n: usize, usable: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut rng = StdRng::seed_from_u64(1);
        (0..n).map(|_| robin.pick(&mut rng, &usable).unwrap()).collect()
    }

    #[test]
    fn the_order_is_smooth_like_that_of_nginx() {
        let robin = RoundRobin::new(&[5, 1, 1], 0);
        let round = [0, 0, 1, 0, 2, 0, 0];
        assert_eq!(picks(&robin, 14, |_| true), [round, round].concat());
        assert_eq!(picks(&RoundRobin::new(&[1, 1, 1], 1), 6, |_| true), [1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn the_share_of_a_sick_endpoint_goes_to_all_the_others() {
        let robin = RoundRobin::new(&[1, 1, 1, 1], 0);
        let seen = picks(&robin, 9, |i| i != 1);
        assert_eq!(seen, [0, 2, 3, 0, 2, 3, 0, 2, 3]);
    }

    #[test]
    fn a_common_divisor_does_not_make_the_round_longer() {
        assert_eq!(RoundRobin::new(&[300, 100], 0).round.len(), 4);
        assert_eq!(RoundRobin::new(&[65_535; 3], 0).round.len(), 3);
    }

    #[test]
    fn extreme_weights_stay_bounded_and_everybody_has_a_turn() {
        let robin = RoundRobin::new(&[65_535, 1, 32_767], 0);
        assert!(robin.round.len() <= 4096 + 3);
        for i in 0..3 {
            assert!(robin.round.contains(&i));
        }
        // Only the one with a single turn in thousands is left: found without a long search.
        assert_eq!(picks(&robin, 3, |i| i == 1), [1, 1, 1]);
    }

    #[test]
    fn every_endpoint_gets_exactly_its_share_from_many_threads() {
        let robin = RoundRobin::new(&[1, 2, 3], 0);
        let seen: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| picks(&robin, 6_000, |_| true))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let count = |which| seen.iter().filter(|i| **i == which).count();
        assert_eq!([count(0), count(1), count(2)], [4_000, 8_000, 12_000]);
    }

    #[test]
    fn without_endpoints_there_is_no_turn() {
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(RoundRobin::new(&[], 7).pick(&mut rng, &|_| true), None);
        assert_eq!(RoundRobin::new(&[1, 2], 7).pick(&mut rng, &|_| false), None);
    }

    #[test]
    fn shares_hold_when_weights_are_rounded() {
        let robin = RoundRobin::new(&[9_973, 19_946, 39_887], 0);
        let mut rng = StdRng::seed_from_u64(1);
        let seen = counts(3, 70_000, |_| robin.pick(&mut rng, &|_| true));
        assert_shares(&seen, &[9_973.0, 19_946.0, 39_887.0]);
    }
}
