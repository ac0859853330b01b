//! An immutable set of endpoints with the algorithm over it.
//!
//! - Endpoints of the same priority and on the same side of the border of the gateway's zone are a *tier*. The first tier gets all
//!   requests while at least five of seven of its endpoints, by weight, can be used. With fewer, each that is left carries at most 1.4
//!   times its share, and the rest goes to the next tier; if no tier is left, to all that can be used. (Envoy's priority levels
//!   with their overprovisioning factor of 140 %.)
//! - If less than `panic_threshold` of all endpoints can be used, health and ejections count no longer, what operators want does.
//! - A session stays with its endpoint as long as that is healthy, also where it is drained.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rand::Rng;

use super::{
    balance::{Balancer, rendezvous::mix, unit},
    endpoint::{Endpoint, Rank},
    state::Standing,
};
use crate::clock::{nanos, seconds};
use crate::config::{
    balance::{Balance, Table},
    types::Percent,
    upstream::Upstream,
};

/// So much more than its share an endpoint is trusted to carry.
const SPARE: f64 = 1.4;

/// The least part of its share that an endpoint gets while it starts slowly.
const SLOWEST: f64 = 0.1;

/// What decides besides the algorithm.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) balance: Balance,
    pub(super) slow_start: Option<Duration>,
    /// Of 1.
    pub(super) panic_threshold: f64,
}

impl Rules {
    pub(super) fn new(config: &Upstream) -> Self {
        Self {
            balance: config.balance.clone(),
            slow_start: config.slow_start.map(|time| time.0),
            panic_threshold: config.panic_threshold.share(),
        }
    }

    /// How many times its even share of the requests in flight an endpoint may have.
    pub(super) fn bound(&self) -> Option<f64> {
        match &self.balance {
            Balance::RingHash(Table { load, .. }) | Balance::Maglev(Table { load, .. }) => load.map(Percent::share),
            Balance::RoundRobin | Balance::LeastRequests | Balance::PeakEwma | Balance::Random | Balance::Hash(_) => {
                None
            }
        }
    }

    /// Whether endpoints are chosen by how long they take.
    pub(super) fn by_latency(&self) -> bool {
        self.balance == Balance::PeakEwma
    }

    /// In nanoseconds; keys would move if those that have them started slowly.
    fn ramp(&self) -> Option<u64> {
        let time = self.slow_start.filter(|time| !time.is_zero())?;
        match &self.balance {
            Balance::RoundRobin | Balance::LeastRequests | Balance::PeakEwma | Balance::Random => Some(nanos(time)),
            Balance::Hash(_) | Balance::RingHash(_) | Balance::Maglev(_) => None,
        }
    }
}

/// What is known about a request that wants an endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wish<'a> {
    /// The hash of its key.
    pub(super) key: Option<u64>,
    /// The seed of the endpoint that its session is at.
    pub(super) home: Option<u64>,
    /// Endpoints, by identity, that failed it.
    pub(super) failed: &'a [u64],
    /// On the monotonic clock.
    pub(super) now: u64,
}

/// All endpoints of an upstream at one time. A DNS answer makes another set.
#[derive(Debug)]
pub(super) struct EndpointSet {
    /// Ordered by tier.
    endpoints: Box<[Arc<Endpoint>]>,
    tiers: Box<[Tier]>,
    weight: f64,
    panic_threshold: f64,
    ramp: Option<u64>,
    bound: Option<f64>,
    by_latency: bool,
}

#[derive(Debug)]
struct Tier {
    range: Range<usize>,
    weight: f64,
    balancer: Balancer,
}

impl EndpointSet {
    pub(super) fn new(mut endpoints: Vec<Arc<Endpoint>>, rules: &Rules) -> Self {
        endpoints.sort_by_key(|endpoint| endpoint.rank);
        let ranks: Vec<Rank> = endpoints.iter().map(|endpoint| endpoint.rank).collect();
        let mut start = 0;
        let tiers = ranks.chunk_by(|one, other| one == other).filter_map(|tier| {
            let range = start..start + tier.len();
            start = range.end;
            let members = endpoints.get(range.clone())?;
            let seeds: Vec<u64> = members.iter().map(|endpoint| endpoint.seed).collect();
            let weights: Vec<u32> = members.iter().map(|endpoint| endpoint.weight).collect();
            let balancer = Balancer::new(&rules.balance, &seeds, &weights);
            Some(Tier { range, weight: weight_of(members, |_| true), balancer })
        });
        Self {
            tiers: tiers.collect(),
            weight: weight_of(&endpoints, |_| true),
            panic_threshold: rules.panic_threshold,
            ramp: rules.ramp(),
            bound: rules.bound(),
            by_latency: rules.by_latency(),
            endpoints: endpoints.into(),
        }
    }

    pub(super) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Whether too few endpoints can be used to go by that.
    pub(super) fn is_in_panic(&self, now: u64) -> bool {
        self.panic_threshold > 0.0 && usable_weight(&self.endpoints, now) < self.panic_threshold * self.weight
    }

    /// Chooses an endpoint that can be used, if possible one that is not among those that `failed`.
    pub(super) fn choose(&self, wish: &Wish<'_>, rng: &mut impl Rng) -> Option<&Arc<Endpoint>> {
        let now = wish.now;
        if let Some(home) = self.home(wish) {
            return Some(home);
        }
        if self.is_in_panic(now) {
            let enabled = |e: &Endpoint| e.state.standing() == Standing::Enabled && e.has_room();
            return self
                .pick(wish, rng, &|e| enabled(e) && !wish.failed.contains(&e.id()))
                .or_else(|| self.pick(wish, rng, &enabled));
        }
        let fits = |e: &Endpoint| e.is_usable(now) && e.has_room();
        let untried = |e: &Endpoint| fits(e) && !wish.failed.contains(&e.id());
        let chosen = match (self.ramp, self.bound) {
            (None, None) => None,
            (Some(ramp), _) => {
                let coin = rng.random();
                self.pick(wish, rng, &|e| untried(e) && has_warmed_up(e, ramp, now, coin))
            }
            (None, Some(bound)) => {
                let most = self.bounded_load(bound);
                self.pick(wish, rng, &|e| untried(e) && f64::from(e.in_flight()) < (most * f64::from(e.weight)).ceil())
            }
        };
        let chosen = chosen.or_else(|| self.pick(wish, rng, &untried));
        if chosen.is_some() || wish.failed.is_empty() {
            return chosen;
        }
        self.pick(wish, rng, &fits)
    }

    /// Whether some endpoint could be used if it were not so busy.
    pub(super) fn is_busy(&self, now: u64) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.is_usable(now) && !endpoint.has_room())
    }

    /// The endpoint of the session, if it is still to be used.
    fn home(&self, wish: &Wish<'_>) -> Option<&Arc<Endpoint>> {
        let home = wish.home?;
        let home = self.endpoints.iter().find(|endpoint| endpoint.seed == home)?;
        (home.keeps_sessions(wish.now) && home.has_room() && !wish.failed.contains(&home.id())).then_some(home)
    }

    fn pick(&self, wish: &Wish<'_>, rng: &mut impl Rng, fits: &impl Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
        let first = self.first_tier(wish, rng);
        let order = std::iter::once(first).chain((0..self.tiers.len()).filter(|i| *i != first));
        for tier in order.filter_map(|i| self.tiers.get(i)) {
            let members = self.endpoints.get(tier.range.clone())?;
            let usable = |i: usize| members.get(i).is_some_and(|endpoint| fits(endpoint));
            let cheaper = |a: usize, b: usize| match (members.get(a), members.get(b)) {
                (Some(a), Some(b)) if self.by_latency => a.answers_before(b, wish.now),
                (Some(a), Some(b)) => a.is_cheaper_than(b),
                _ => false,
            };
            if let Some(chosen) = tier.balancer.pick(wish.key, rng, &usable, &cheaper) {
                return members.get(chosen);
            }
        }
        None
    }

    /// The tier that this request goes to, unless nothing in it fits.
    fn first_tier(&self, wish: &Wish<'_>, rng: &mut impl Rng) -> usize {
        if self.tiers.len() < 2 {
            return 0;
        }
        let carries = |tier: &Tier| {
            let members = self.endpoints.get(tier.range.clone()).unwrap_or_default();
            (free_weight(members, wish.now) / tier.weight * SPARE).min(1.0)
        };
        // The same key, the same tier.
        let roll = wish.key.map_or_else(|| rng.random::<f64>(), |key| 1.0 - unit(mix(key ^ SPILL)));
        let mut all = 0.0;
        for (i, tier) in self.tiers.iter().enumerate() {
            all += carries(tier);
            if roll < all {
                return i;
            }
        }
        // Not even all together carry everything: each gets its part.
        let mut below = 0.0;
        let found = self.tiers.iter().position(|tier| {
            below += carries(tier);
            roll * all < below
        });
        found.unwrap_or(0)
    }

    /// Requests in flight that an endpoint of weight 1 may have.
    fn bounded_load(&self, bound: f64) -> f64 {
        let total = self.endpoints.first().and_then(|endpoint| endpoint.total.as_ref());
        let in_flight = total.map_or(0, |total| total.load(Ordering::Relaxed));
        bound * (f64::from(in_flight) + 1.0) / self.weight
    }
}

/// Makes the tier of a key independent of its endpoint.
const SPILL: u64 = 0x2545_f491_4f6c_dd1d;

/// The weight of those that fit.
fn weight_of(endpoints: &[Arc<Endpoint>], fits: impl Fn(&Endpoint) -> bool) -> f64 {
    endpoints.iter().filter(|endpoint| fits(endpoint)).map(|endpoint| f64::from(endpoint.weight)).sum()
}

fn usable_weight(endpoints: &[Arc<Endpoint>], now: u64) -> f64 {
    weight_of(endpoints, |endpoint| endpoint.is_usable(now))
}

fn free_weight(endpoints: &[Arc<Endpoint>], now: u64) -> f64 {
    weight_of(endpoints, |endpoint| endpoint.is_usable(now) && endpoint.has_room())
}

/// Whether an endpoint that starts slowly gets this request: the longer it is there, the more often.
fn has_warmed_up(endpoint: &Endpoint, ramp: u64, now: u64, coin: u64) -> bool {
    let since = endpoint.state.since();
    let age = now.saturating_sub(since);
    if since == 0 || age >= ramp {
        return true;
    }
    unit(mix(coin ^ endpoint.seed)) <= (seconds(age) / seconds(ramp)).max(SLOWEST)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::upstream::{
        balance::tests::{assert_about, key},
        members::{
            Members,
            tests::{numbered, with},
        },
    };

    const SECOND: u64 = 1_000_000_000;

    fn ranked(ranks: &[(u8, bool)], rest: &str) -> Arc<Members> {
        let names: Vec<String> = (1..=ranks.len()).map(|i| format!("10.0.0.{i}:80")).collect();
        let rank = |(priority, remote): (u8, bool)| Rank { priority, remote };
        let endpoints: Vec<_> = names.iter().zip(ranks).map(|(name, at)| (name.as_str(), 1, rank(*at))).collect();
        with(&endpoints, rest, &Arc::default(), &[], &crate::clock::Clock::default())
    }

    fn sicken(members: &Members, which: &[usize]) {
        for i in which {
            members.set().endpoints()[*i].state.observe(false, 1, 1);
        }
    }

    /// How often each endpoint, in the order of the set, is chosen by 20,000 requests.
    fn spread(members: &Members, now: u64, wish: impl Fn(usize) -> Wish<'static>) -> Vec<u32> {
        let mut rng = StdRng::seed_from_u64(1);
        let set = members.set();
        let mut seen = vec![0; set.endpoints().len()];
        for i in 0..20_000 {
            if let Some(chosen) = set.choose(&Wish { now, ..wish(i) }, &mut rng) {
                seen[set.endpoints().iter().position(|one| one.id() == chosen.id()).unwrap()] += 1;
            }
        }
        seen
    }

    fn any(_: usize) -> Wish<'static> {
        Wish::default()
    }

    #[test]
    fn a_lower_priority_is_used_for_what_the_higher_one_cannot_carry() {
        let members = ranked(&[[(0, false); 5], [(1, false); 5]].concat(), "");
        assert_eq!(spread(&members, 1, any)[5..], [0; 5]);
        sicken(&members, &[0]);
        assert_eq!(spread(&members, 1, any)[5..], [0; 5], "four of five carry everything");
        sicken(&members, &[1, 2]);
        let seen = spread(&members, 1, any);
        assert_about(&[seen[..5].iter().sum(), seen[5..].iter().sum()], &[56, 44], 0.05);
        sicken(&members, &[3, 4]);
        assert_eq!(spread(&members, 1, any)[..5], [0; 5]);
        sicken(&members, &[5, 6, 7, 8]);
        assert_eq!(spread(&members, 1, any)[9], 20_000, "whoever is left");
        sicken(&members, &[9]);
        assert_eq!(spread(&members, 1, any).iter().sum::<u32>(), 0);
    }

    #[test]
    fn the_own_zone_comes_before_others_of_the_same_priority() {
        let members = ranked(&[(0, true), (1, false), (0, false)], "");
        let set = members.set();
        let order: Vec<&str> = set.endpoints().iter().map(|endpoint| &*endpoint.text).collect();
        assert_eq!(order, ["10.0.0.3:80", "10.0.0.1:80", "10.0.0.2:80"]);
        assert_eq!(spread(&members, 1, any), [20_000, 0, 0]);
        sicken(&members, &[0]);
        assert_eq!(spread(&members, 1, any), [0, 20_000, 0]);
    }

    #[test]
    fn a_key_stays_with_its_tier_while_that_is_as_healthy_as_before() {
        let members = ranked(&[(0, false), (0, false), (1, false), (1, false)], "balance: { hash: path }");
        sicken(&members, &[0]);
        let chosen = |seed: u64| {
            let mut rng = StdRng::seed_from_u64(seed);
            let set = members.set();
            let pick = |i| set.choose(&Wish { key: Some(key(i)), now: 1, ..Wish::default() }, &mut rng).unwrap().id();
            (0..1_000).map(pick).collect::<Vec<_>>()
        };
        assert_eq!(chosen(1), chosen(2));
    }

    #[test]
    fn an_endpoint_that_is_new_gets_its_share_little_by_little() {
        for balance in ["round_robin", "random"] {
            let members = numbered(2, &format!("balance: {balance}, slow_start: 10s"));
            members.set().endpoints()[1].state.observe(false, 1, 1);
            members.set().endpoints()[1].state.observe(true, 1, 100 * SECOND);
            for (seconds, part) in [(0, 0.1), (5, 0.5), (9, 0.9), (10, 1.0)] {
                let seen = spread(&members, (100 + seconds) * SECOND, any);
                // By chance half of this part; in turns as if its weight were this part.
                let share = f64::from(seen[1]) / 20_000.0;
                assert!(share > part / 2.0 * 0.9 && share < part / (1.0 + part) * 1.1, "{balance} {seconds}: {seen:?}");
            }
            sicken(&members, &[0]);
            assert_eq!(spread(&members, 100 * SECOND, any), [0, 20_000], "it is the only one");
        }
    }

    #[test]
    fn where_too_few_can_be_used_all_are_but_those_that_operators_took_out() {
        let members = numbered(4, "panic_threshold: 50%");
        sicken(&members, &[0, 1]);
        assert_eq!(spread(&members, 1, any)[..2], [0, 0]);
        assert!(!members.set().is_in_panic(1));
        members.set().endpoints()[2].state.stand(Standing::Disabled, 1);
        assert!(members.set().is_in_panic(1));
        let seen = spread(&members, 1, any);
        assert!(seen[2] == 0 && [0, 1, 3].iter().all(|i| seen[*i] > 5_000), "{seen:?}");
        sicken(&members, &[3]);
        assert!(spread(&members, 1, any)[3] > 5_000);
    }

    #[test]
    fn a_session_stays_where_it_is_also_while_that_is_drained() {
        let members = numbered(3, "");
        let set = members.set();
        let home = &set.endpoints()[1];
        let stays = |_| Wish { home: Some(home.seed), ..Wish::default() };
        assert_eq!(spread(&members, 1, stays), [0, 20_000, 0]);
        home.state.stand(Standing::Draining, 1);
        assert_eq!(spread(&members, 1, stays), [0, 20_000, 0]);
        assert_eq!(spread(&members, 1, any)[1], 0, "nobody new");
        home.state.stand(Standing::Disabled, 1);
        assert_eq!(spread(&members, 1, stays)[1], 0);
        home.state.stand(Standing::Enabled, 1);
        sicken(&members, &[1]);
        assert_eq!(spread(&members, 1, stays)[1], 0);
        assert_eq!(spread(&members, 1, |_| Wish { home: Some(7), ..Wish::default() })[1], 0, "nobody's number");
    }

    #[test]
    fn one_popular_key_does_not_overload_its_endpoint() {
        for table in ["ring_hash", "maglev"] {
            let members = numbered(4, &format!("balance: {{ {table}: {{ key: path, load: 125% }} }}"));
            let mut rng = StdRng::seed_from_u64(1);
            let set = members.set();
            let wish = Wish { key: Some(key(1)), now: 1, ..Wish::default() };
            let leases: Vec<_> = (0..400)
                .map(|_| crate::upstream::Lease::new(Arc::clone(set.choose(&wish, &mut rng).unwrap())))
                .collect();
            let most = set.endpoints().iter().map(|endpoint| endpoint.in_flight()).max().unwrap();
            assert!((100..=126).contains(&most), "{most} of 400 at one of four");
            drop(leases);
            assert_eq!(set.endpoints()[0].total.as_ref().unwrap().load(Ordering::Relaxed), 0);
            let home = set.choose(&wish, &mut rng).unwrap().id();
            assert!((0..100).all(|_| set.choose(&wish, &mut rng).unwrap().id() == home), "idle, it is always the same");
        }
    }

    #[test]
    fn the_endpoint_that_answers_sooner_gets_more() {
        let members = numbered(3, "balance: peak_ewma");
        let set = members.set();
        for (endpoint, millis) in set.endpoints().iter().zip([1, 1, 50]) {
            endpoint.state.latency.observe(millis * 1_000_000, SECOND);
        }
        let seen = spread(&members, SECOND, any);
        assert_eq!(seen[2], 0);
        // Two that cost the same share what is left.
        assert!(seen[0] > 5_000 && seen[1] > 5_000, "{seen:?}");
    }
}
