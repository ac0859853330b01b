//! A seeded simulation of balancer, health, outliers, circuit and budget with a clock that the test moves: a million requests against endpoints
//! that fail, recover, are drained and enabled, come and go. What must always hold is checked after every request.

use std::sync::Arc;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    Failure, Lease, Standing,
    breaker::{Breaker, Circuit},
    members::{Members, tests::simulated},
    outliers::most,
    set::Wish,
};
use crate::{clock::Clock, config::breaker::Errors};

const REQUESTS: usize = 1_000_000;
const ENDPOINTS: usize = 12;
const MS: u64 = 1_000_000;

/// The world outside: how endpoints really are.
struct World {
    members: Arc<Members>,
    clock: Clock,
    rng: StdRng,
    /// How likely each fails a request, in percent.
    failing: [u32; ENDPOINTS],
    breaker: Arc<Breaker>,
    errors: Errors,
    begun: usize,
    retries: usize,
    refused: usize,
    under_way: Vec<(u64, Lease, bool)>,
}

impl World {
    fn new(balance: &str, seed: u64) -> Self {
        let clock = Clock::manual(std::time::Duration::from_secs(1));
        let rest = format!(
            "balance: {balance}, slow_start: 2s,
             outliers: {{ consecutive_failures: 4, ejected_for: 2s, max_ejected_for: 10s, failure_rate: {{ requests: 30 }} }}"
        );
        Self {
            members: simulated(ENDPOINTS, &rest, &clock),
            clock,
            rng: StdRng::seed_from_u64(seed),
            failing: [0; ENDPOINTS],
            breaker: Arc::default(),
            errors: serde_saphyr::from_str("{ requests: 50, open_for: 1s, window: 2s }").unwrap(),
            begun: 0,
            retries: 0,
            refused: 0,
            under_way: Vec::new(),
        }
    }

    fn now(&self) -> u64 {
        self.clock.monotonic()
    }

    fn number(address: &str) -> usize {
        let (ip, _) = address.rsplit_once(':').unwrap();
        ip.rsplit('.').next().unwrap().parse::<usize>().unwrap() - 2
    }

    /// Something happens to an endpoint.
    fn disturb(&mut self) {
        let which = self.rng.random_range(0..ENDPOINTS);
        let now = self.now();
        let set = Arc::clone(&self.members.set());
        let endpoint = set.endpoints().iter().find(|one| Self::number(&one.text) == which).unwrap();
        match self.rng.random_range(0..10) {
            0..2 => self.failing[which] = [5, 60, 100][self.rng.random_range(0..3)],
            2..6 => self.failing[which] = 0,
            6 => drop(self.members.plan.states.stand(&endpoint.text, Standing::Draining, now)),
            7..9 => drop(self.members.plan.states.stand(&endpoint.text, Standing::Enabled, now)),
            // As the checks would find it.
            _ => drop(endpoint.state.observe(self.failing[which] < 50, 1, now)),
        }
    }

    fn request(&mut self, times: usize) {
        let now = self.now();
        self.begun += 1;
        self.members.plan.states.budget.deposit(20);
        let circuit = self.breaker.circuit(now);
        let probe = match self.breaker.admit(&self.errors, now) {
            Ok(probe) => probe,
            Err(after) => {
                assert!(circuit != Circuit::Closed && after > 0);
                self.refused += 1;
                return;
            }
        };
        assert!(circuit != Circuit::Open, "nothing passes an open circuit");
        let mut failed: Vec<u64> = Vec::new();
        for attempt in 0..=times {
            if attempt > 0 {
                if !self.members.plan.states.budget.withdraw() {
                    break;
                }
                self.retries += 1;
            }
            let Some(lease) = self.choose(&failed) else { break };
            let bad = self.rng.random_range(0..100) < self.failing[Self::number(lease.address())];
            self.breaker.record(&self.errors, "simulated", bad, probe.as_ref(), now);
            if bad {
                failed.push(lease.id());
                self.members.failed(lease.endpoint(), Failure::Answer, now);
            } else {
                self.members.succeeded(lease.endpoint());
            }
            let ends = now + self.rng.random_range(1..30) * MS;
            self.under_way.push((ends, lease, bad));
            if !bad {
                break;
            }
        }
        drop(probe);
    }

    /// Chooses as a request does, and looks whether that may be chosen.
    fn choose(&mut self, failed: &[u64]) -> Option<Lease> {
        let now = self.now();
        let key = Some(self.rng.random());
        let set = Arc::clone(&self.members.set());
        let usable = set.endpoints().iter().filter(|one| one.is_usable(now)).count();
        let Some(chosen) = set.choose(&Wish { key, home: None, failed, now }, &mut self.rng) else {
            assert_eq!(usable, 0, "whoever can be used is used");
            return None;
        };
        assert_eq!(chosen.state.standing(), Standing::Enabled, "never a drained endpoint");
        assert!(chosen.is_healthy() && !chosen.state.is_ejected(now));
        let untried = set.endpoints().iter().any(|one| one.is_usable(now) && !failed.contains(&one.id()));
        assert!(!untried || !failed.contains(&chosen.id()), "never one that failed while another is left");
        Some(Lease::new(Arc::clone(chosen)))
    }

    fn look(&self) {
        let (now, set) = (self.now(), self.members.set());
        let out = set.endpoints().iter().filter(|one| one.state.is_ejected(now)).count();
        assert!(out <= most(ENDPOINTS, 50), "{out} are out");
        assert!(self.retries * 5 <= self.begun + 50, "{} retries of {} requests", self.retries, self.begun);
        let in_flight: u32 = set.endpoints().iter().map(|one| one.in_flight()).sum();
        assert_eq!(usize::try_from(in_flight).unwrap(), self.under_way.len());
    }
}

#[test]
fn what_must_hold_holds_for_a_million_requests_whatever_happens() {
    let balances = [
        "round_robin",
        "least_requests",
        "peak_ewma",
        "random",
        "{ hash: path }",
        "{ ring_hash: { key: path, load: 150% } }",
        "{ maglev: { key: path } }",
    ];
    let (mut refused, mut retries) = (0, 0);
    for (seed, balance) in (7..).zip(balances) {
        let mut world = World::new(balance, seed);
        for i in 0..REQUESTS / balances.len() {
            if i.is_multiple_of(200) {
                world.disturb();
            }
            world.clock.advance(std::time::Duration::from_micros(500));
            if i.is_multiple_of(2_000) {
                let now = world.now();
                world.members.readmit(now);
                let outliers = world.members.plan.outliers;
                world.members.compare(&outliers, now);
            }
            let now = world.now();
            world.under_way.retain(|(ends, ..)| *ends > now);
            world.request(2);
            if i.is_multiple_of(50) {
                world.look();
            }
        }
        world.under_way.clear();
        world.look();
        refused += world.refused;
        retries += world.retries;
    }
    // Otherwise nothing was put to the test.
    assert!(refused > 1_000 && retries > 5_000, "{refused} refused, {retries} retries");
}
