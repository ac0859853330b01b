//! An immutable set of endpoints with the algorithm over it.

use std::sync::Arc;

use rand::Rng;

use super::{
    balance::{Balancer, rendezvous},
    endpoint::Endpoint,
};
use crate::config::upstream::Balance;

/// All endpoints of an upstream at one time. A DNS answer makes another set.
#[derive(Debug)]
pub(super) struct EndpointSet {
    endpoints: Box<[Arc<Endpoint>]>,
    balancer: Balancer,
}

impl EndpointSet {
    pub(super) fn new(endpoints: Vec<Arc<Endpoint>>, balance: &Balance) -> Self {
        let seed = |endpoint: &Arc<Endpoint>| rendezvous::hash(&[endpoint.text.as_bytes()]);
        let seeds: Vec<u64> = endpoints.iter().map(seed).collect();
        let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
        Self { balancer: Balancer::new(balance, &seeds, &weights), endpoints: endpoints.into() }
    }

    pub(super) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Chooses a healthy endpoint, if possible one that is not among those that `failed`.
    pub(super) fn choose(&self, key: Option<u64>, failed: &[u64], rng: &mut impl Rng) -> Option<&Arc<Endpoint>> {
        let healthy = |i: usize| self.endpoints.get(i).filter(|e| e.is_healthy());
        let untried = |i: usize| healthy(i).is_some_and(|e| !failed.contains(&e.id()));
        let cheaper = |a: usize, b: usize| match (self.endpoints.get(a), self.endpoints.get(b)) {
            (Some(a), Some(b)) => a.is_cheaper_than(b),
            _ => false,
        };
        let mut chosen = self.balancer.pick(key, rng, &untried, &cheaper);
        if chosen.is_none() && !failed.is_empty() {
            let any = |i: usize| healthy(i).is_some();
            chosen = self.balancer.pick(key, rng, &any, &cheaper);
        }
        self.endpoints.get(chosen?)
    }
}
