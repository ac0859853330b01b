//! Which endpoint a request goes to.
//!
//! | `balance` | choice |
//! |---|---|
//! | `round_robin` | one after the other, by weight, in an order without bursts |
//! | `least_requests` | of two random endpoints the one with fewer requests in flight for its weight |
//! | `random` | any, by weight |
//! | `hash` | by the request's key: the same endpoint as long as it is healthy; at random if the request has no key |
//!
//! An algorithm is built once for a set of endpoints and only reads it from then on. It is told which endpoints can
//! be used for this request (healthy, and not tried already), allocates nothing and takes no lock.

mod key;
pub(super) mod rendezvous;
mod round_robin;
mod weights;

use rand::Rng;

pub(super) use self::key::Key;
use self::{rendezvous::Rendezvous, round_robin::RoundRobin, weights::Weights};
use crate::config::upstream::Balance;

/// An algorithm over a set of endpoints, which it knows by position.
#[derive(Debug)]
pub(super) enum Balancer {
    RoundRobin(RoundRobin),
    LeastRequests(Weights),
    Random(Weights),
    Hash(Rendezvous, Weights),
}

impl Balancer {
    /// `seeds` stand for the addresses of the endpoints.
    pub(super) fn new(balance: &Balance, seeds: &[u64], weights: &[u32]) -> Self {
        match balance {
            Balance::RoundRobin => Self::RoundRobin(RoundRobin::new(weights, rand::random())),
            Balance::LeastRequests => Self::LeastRequests(Weights::new(weights)),
            Balance::Random => Self::Random(Weights::new(weights)),
            Balance::Hash(_) => Self::Hash(Rendezvous::new(seeds, weights), Weights::new(weights)),
        }
    }

    /// Chooses among the endpoints that can be used. `cheaper(a, b)` says whether `a` has less to do than `b`.
    pub(super) fn pick(
        &self,
        key: Option<u64>,
        rng: &mut impl Rng,
        usable: &impl Fn(usize) -> bool,
        cheaper: &impl Fn(usize, usize) -> bool,
    ) -> Option<usize> {
        match (self, key) {
            (Self::RoundRobin(robin), _) => robin.pick(rng, usable),
            (Self::Hash(rendezvous, _), Some(key)) => rendezvous.pick(key, usable),
            (Self::Random(weights) | Self::Hash(_, weights), _) => weights.pick(rng, usable),
            (Self::LeastRequests(weights), _) => {
                let one = weights.pick(rng, usable)?;
                // On a tie the first draw stands: an idle upstream is used by weight.
                let other = weights.pick(rng, &|i| i != one && usable(i));
                Some(other.filter(|other| cheaper(*other, one)).unwrap_or(one))
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::RefCell;

    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    /// How often each of `n` endpoints was chosen.
    pub(in crate::upstream) fn counts(
        n: usize,
        times: usize,
        mut pick: impl FnMut(usize) -> Option<usize>,
    ) -> Vec<u32> {
        let mut seen = vec![0; n];
        for i in 0..times {
            seen[pick(i).unwrap()] += 1;
        }
        seen
    }

    /// Every count is within five standard deviations of what its share predicts.
    pub(in crate::upstream) fn assert_shares(seen: &[u32], shares: &[f64]) {
        let total: f64 = seen.iter().map(|n| f64::from(*n)).sum();
        let whole: f64 = shares.iter().sum();
        for (n, share) in seen.iter().zip(shares) {
            let p = share / whole;
            let deviation = (total * p * (1.0 - p)).sqrt();
            let off = (f64::from(*n) - total * p).abs();
            assert!(off <= 5.0 * deviation, "{seen:?} against {shares:?}");
        }
    }

    fn least_requests(weights: &[u32]) -> Balancer {
        Balancer::new(&Balance::LeastRequests, &[], weights)
    }

    #[test]
    fn an_idle_upstream_is_used_by_weight() {
        let mut rng = StdRng::seed_from_u64(1);
        let balancer = least_requests(&[1, 2, 5]);
        let seen = counts(3, 80_000, |_| balancer.pick(None, &mut rng, &|_| true, &|_, _| false));
        assert_shares(&seen, &[1.0, 2.0, 5.0]);
    }

    #[test]
    fn the_busier_of_two_is_never_chosen() {
        let mut rng = StdRng::seed_from_u64(2);
        let balancer = least_requests(&[1, 1, 1]);
        let busy = [9, 5, 1];
        let seen = counts(3, 30_000, |_| balancer.pick(None, &mut rng, &|_| true, &|a, b| busy[a] < busy[b]));
        // The busiest loses against whoever is drawn beside it; the idlest wins two of three pairs.
        assert_eq!(seen[0], 0);
        assert_shares(&seen, &[0.0, 1.0, 2.0]);
    }

    #[test]
    fn a_slow_endpoint_gets_fewer_requests() {
        // Every endpoint takes one request off its queue in each round, but the first only in every fourth.
        let mut rng = StdRng::seed_from_u64(3);
        let balancer = least_requests(&[1; 4]);
        let queues = RefCell::new([0_u32; 4]);
        let mut seen = [0_u32; 4];
        for round in 0..10_000 {
            for _ in 0..3 {
                let cheaper = |a: usize, b: usize| queues.borrow()[a] < queues.borrow()[b];
                let chosen = balancer.pick(None, &mut rng, &|_| true, &cheaper).unwrap();
                queues.borrow_mut()[chosen] += 1;
                seen[chosen] += 1;
            }
            for (i, queue) in queues.borrow_mut().iter_mut().enumerate() {
                *queue = queue.saturating_sub(u32::from(i > 0 || round % 4 == 0));
            }
        }
        assert!(seen[0] * 2 < seen[1], "{seen:?}");
        assert!(queues.borrow().iter().all(|queue| *queue < 50));
    }

    #[test]
    fn a_single_usable_endpoint_is_chosen_by_every_algorithm() {
        let mut rng = StdRng::seed_from_u64(4);
        let seeds = [11, 22, 33];
        let hash = Balance::Hash(crate::config::upstream::HashKey::Path);
        for balance in [Balance::RoundRobin, Balance::LeastRequests, Balance::Random, hash] {
            let balancer = Balancer::new(&balance, &seeds, &[1, 1, 1]);
            for key in [None, Some(7), Some(8), Some(9)] {
                let chosen = balancer.pick(key, &mut rng, &|i| i == 1, &|_, _| true);
                assert_eq!(chosen, Some(1), "{balance:?}");
                let chosen = balancer.pick(key, &mut rng, &|_| false, &|_, _| true);
                assert_eq!(chosen, None, "{balance:?}");
            }
        }
    }

    #[test]
    fn a_request_without_a_key_goes_anywhere() {
        let mut rng = StdRng::seed_from_u64(5);
        let hash = Balance::Hash(crate::config::upstream::HashKey::Consumer);
        let balancer = Balancer::new(&hash, &[11, 22], &[1, 3]);
        let seen = counts(2, 40_000, |_| balancer.pick(None, &mut rng, &|_| true, &|_, _| false));
        assert_shares(&seen, &[1.0, 3.0]);
    }
}
