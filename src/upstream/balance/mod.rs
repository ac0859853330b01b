//! Which endpoint a request goes to.
//!
//! | `balance` | choice |
//! |---|---|
//! | `round_robin` | one after the other, by weight, in an order without bursts |
//! | `least_requests` | of two random endpoints the one with fewer requests in flight for its weight |
//! | `peak_ewma` | of two random endpoints the one that is likely to answer first, by what it took lately and has to do |
//! | `random` | any, by weight |
//! | `hash`, `ring_hash`, `maglev` | by the request's key: the same endpoint as long as it is healthy; at random if the request has no key |
//!
//! An algorithm is built once for a set of endpoints and only reads it from then on. It is told which endpoints can
//! be used for this request (healthy, and not tried already), allocates nothing and takes no lock.
//!
//! | for 100 endpoints | time of a pick (`cargo bench -- balance`) | when one goes, keys that move besides its own |
//! |---|---|---|
//! | `hash` (rendezvous) | grows with the endpoints | none |
//! | `ring_hash` | a search among 1,024 points for each | none with equal weights |
//! | `maglev` | one look | a few |

mod key;
mod maglev;
pub(super) mod rendezvous;
mod ring;
mod round_robin;
mod weights;

use rand::Rng;

pub use self::key::{Key, cookie};
pub(super) use self::rendezvous::unit;
use self::{maglev::Maglev, rendezvous::Rendezvous, ring::Ring, round_robin::RoundRobin, weights::Weights};
use crate::config::balance::Balance;

/// An algorithm over a set of endpoints, which it knows by position.
#[derive(Debug)]
pub(super) enum Balancer {
    RoundRobin(RoundRobin),
    /// By requests in flight, or by what they are likely to cost.
    Cheaper(Weights),
    Random(Weights),
    Hash(Table, Weights),
}

/// Finds the endpoint of a key.
#[derive(Debug)]
pub(super) enum Table {
    Rendezvous(Rendezvous),
    Ring(Ring),
    Maglev(Maglev),
}

impl Table {
    fn pick(&self, key: u64, usable: &impl Fn(usize) -> bool) -> Option<usize> {
        match self {
            Self::Rendezvous(table) => table.pick(key, usable),
            Self::Ring(ring) => ring.pick(key, usable),
            Self::Maglev(table) => table.pick(key, usable),
        }
    }
}

/// So far a table is walked for an endpoint that can be used, before the choice is left to chance.
const STEPS: usize = 4096;

/// Remembers which of the first endpoints could not be used, so that walking on in a table ends when none can, and asks none
/// twice that it knows.
struct Refused {
    known: u128,
    left: usize,
}

impl Refused {
    const fn new(endpoints: usize) -> Self {
        Self { known: 0, left: endpoints }
    }

    /// Whether this one can be used. With more than 128 endpoints the others are asked each time.
    fn try_one(&mut self, owner: usize, usable: &impl Fn(usize) -> bool) -> bool {
        let bit = u32::try_from(owner).ok().and_then(|owner| 1_u128.checked_shl(owner)).unwrap_or(0);
        if self.left == 0 || self.known & bit != 0 {
            return false;
        }
        if usable(owner) {
            return true;
        }
        if bit != 0 {
            self.known |= bit;
            self.left -= 1;
        }
        false
    }
}

impl Balancer {
    /// `seeds` stand for the addresses of the endpoints.
    pub(super) fn new(balance: &Balance, seeds: &[u64], weights: &[u32]) -> Self {
        match balance {
            Balance::RoundRobin => Self::RoundRobin(RoundRobin::new(weights, rand::random())),
            Balance::LeastRequests | Balance::PeakEwma => Self::Cheaper(Weights::new(weights)),
            Balance::Random => Self::Random(Weights::new(weights)),
            Balance::Hash(_) => Self::Hash(Table::Rendezvous(Rendezvous::new(seeds, weights)), Weights::new(weights)),
            Balance::RingHash(_) => Self::Hash(Table::Ring(Ring::new(seeds, weights)), Weights::new(weights)),
            Balance::Maglev(_) => Self::Hash(Table::Maglev(Maglev::new(seeds, weights)), Weights::new(weights)),
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
            (Self::Hash(table, weights), Some(key)) => table.pick(key, usable).or_else(|| weights.pick(rng, usable)),
            (Self::Random(weights) | Self::Hash(_, weights), _) => weights.pick(rng, usable),
            (Self::Cheaper(weights), _) => {
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

    pub(in crate::upstream) fn seeds(n: u8) -> Vec<u64> {
        (1..=n).map(|i| rendezvous::hash(&[format!("10.0.0.{i}:8080").as_bytes()])).collect()
    }

    pub(in crate::upstream) fn key(i: usize) -> u64 {
        rendezvous::hash(&[format!("user-{i}").as_bytes()])
    }

    /// Every count is within this part of what its share says.
    pub(in crate::upstream) fn assert_about(seen: &[u32], weights: &[u32], off: f64) {
        let part = |of: &[u32], i: usize| f64::from(of[i]) / f64::from(of.iter().sum::<u32>());
        for i in 0..seen.len() {
            let ratio = part(seen, i) / part(weights, i);
            assert!((ratio - 1.0).abs() < off, "{seen:?} for {weights:?}");
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
        let hash = Balance::Hash(crate::config::balance::HashKey::Path);
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
        let hash = Balance::Hash(crate::config::balance::HashKey::Consumer);
        let balancer = Balancer::new(&hash, &[11, 22], &[1, 3]);
        let seen = counts(2, 40_000, |_| balancer.pick(None, &mut rng, &|_| true, &|_, _| false));
        assert_shares(&seen, &[1.0, 3.0]);
    }
}
