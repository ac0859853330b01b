//! Which endpoints an upstream has at the moment: those in the file, and what DNS knows for the names in the file.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr as IpAndPort,
    os::unix::net::SocketAddr as UnixAddress,
    sync::Arc,
};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use pingora::protocols::l4::socket::SocketAddr;
use tokio::sync::watch;

use super::{
    balance::rendezvous,
    connection::Connection,
    discover::{Found, Member},
    endpoint::{Endpoint, Rank},
    outliers::Rule,
    resolve::Resolved,
    set::{EndpointSet, Rules},
    state::States,
};
use crate::{
    clock::Clock,
    config::{endpoint::Target, types::Name},
    telemetry::metrics::Metrics,
};

/// Where endpoints come from, with what the file says about them.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) origin: Origin,
    pub(super) weight: u32,
    pub(super) rank: Rank,
    pub(super) zone: Option<Arc<str>>,
    /// The name that the certificate must carry; empty without TLS.
    pub(super) server_name: Arc<str>,
}

/// An address, or something that stands for any number of them.
#[derive(Debug)]
pub(super) enum Origin {
    Address(SocketAddr),
    Name(Arc<Resolved>, u16),
    /// What another source knows.
    Found {
        found: Arc<Found>,
        /// The zone of the gateway.
        here: Option<Arc<str>>,
    },
}

impl Origin {
    /// `resolved` finds what is known about a name.
    pub(super) fn new(target: &Target, resolved: impl FnOnce(&str) -> Arc<Resolved>) -> Result<Self, String> {
        Ok(match target {
            Target::Ip(address) => Self::Address(SocketAddr::Inet(*address)),
            Target::Dns { host, port } => Self::Name(resolved(host), *port),
            Target::Unix(path) => {
                Self::Address(SocketAddr::Unix(UnixAddress::from_pathname(path).map_err(|error| error.to_string())?))
            }
        })
    }
}

impl Source {
    /// What another source knows. `name` is what certificates must carry, if the file says so.
    pub(super) fn found(found: Arc<Found>, name: Option<Arc<str>>, zone: Option<&Name>) -> Self {
        Self {
            origin: Origin::Found { found, here: zone.map(|zone| zone.as_str().into()) },
            weight: 1,
            rank: Rank::default(),
            zone: None,
            server_name: name.unwrap_or_default(),
        }
    }

    /// The endpoints of now.
    fn endpoints(&self) -> Vec<Merged> {
        let own = |address: SocketAddr| Merged {
            address,
            weight: self.weight,
            rank: self.rank,
            zone: self.zone.clone(),
            server_name: Arc::clone(&self.server_name),
        };
        match &self.origin {
            Origin::Address(address) => vec![own(address.clone())],
            Origin::Name(resolved, port) => {
                let known = resolved.addresses().into_iter();
                known.map(|ip| own(SocketAddr::Inet(IpAndPort::new(ip, *port)))).collect()
            }
            Origin::Found { found, here } => {
                let members = found.members().into_iter();
                members.filter_map(|member| self.merge(member, here.as_deref())).collect()
            }
        }
    }

    fn merge(&self, member: Member, here: Option<&str>) -> Option<Merged> {
        let address = match member.address {
            Target::Ip(address) => SocketAddr::Inet(address),
            Target::Unix(path) => SocketAddr::Unix(UnixAddress::from_pathname(path).ok()?),
            Target::Dns { .. } => return None,
        };
        let remote = here.is_some() && member.zone.as_deref() != here;
        Some(Merged {
            address,
            weight: member.weight.into(),
            rank: Rank { priority: member.priority, remote },
            zone: member.zone.map(Into::into),
            server_name: Arc::clone(&self.server_name),
        })
    }
}

/// What an endpoint set is made from.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) upstream: Arc<str>,
    pub(super) sources: Vec<Source>,
    pub(super) rules: Rules,
    pub(super) connection: Connection,
    /// Whether health checks run.
    pub(super) checked: bool,
    pub(super) outliers: Rule,
    /// Requests that an endpoint may be busy with.
    pub(super) max_in_flight: u32,
    pub(super) states: Arc<States>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
}

/// The endpoint set of an upstream, built again with every change in DNS.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) plan: Plan,
    set: ArcSwap<EndpointSet>,
    /// Counts the sets; also makes sure that only one is built at a time, so that none overwrites a newer one.
    built: Mutex<watch::Sender<u64>>,
}

impl Members {
    pub(super) fn new(plan: Plan) -> Arc<Self> {
        let members = Arc::new(Self {
            set: ArcSwap::from_pointee(EndpointSet::new(Vec::new(), &plan.rules)),
            built: Mutex::new(watch::Sender::new(0)),
            plan,
        });
        for source in &members.plan.sources {
            // First follow, then build: an answer that comes in between is not missed.
            match &source.origin {
                Origin::Address(_) => {}
                Origin::Name(resolved, _) => resolved.follow(Arc::downgrade(&members)),
                Origin::Found { found, .. } => found.follow(Arc::downgrade(&members)),
            }
        }
        members.rebuild();
        members
    }

    /// The endpoints of now.
    pub(super) fn set(&self) -> Guard<Arc<EndpointSet>> {
        self.set.load()
    }

    /// Tells when there is another set.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.built.lock().subscribe()
    }

    /// Builds the set from what is known now.
    pub(super) fn rebuild(&self) {
        let built = self.built.lock();
        let before = self.set.load_full();
        self.plan.states.sweep();
        // What was there when the process began has been used for as long as anybody remembers.
        let since = if self.plan.states.is_fresh() { 0 } else { self.plan.clock.monotonic() };
        let endpoints: Vec<_> =
            self.merged().into_iter().map(|(text, merged)| Arc::new(self.endpoint(text, merged, since))).collect();
        let there: HashSet<&str> = endpoints.iter().map(|new| &*new.text).collect();
        let gone: HashSet<&str> =
            before.endpoints().iter().map(|old| &*old.text).filter(|old| !there.contains(old)).collect();
        self.set.store(Arc::new(EndpointSet::new(endpoints, &self.plan.rules)));
        if !gone.is_empty() {
            // Addresses come and go without a reload, and would pile up in the metrics.
            let ours = &*self.plan.upstream;
            self.plan.metrics.retain(&|_| true, &|upstream, endpoint| upstream != ours || !gone.contains(endpoint));
        }
        built.send_modify(|count| *count += 1);
    }

    /// Each address once: it is one endpoint, however often it is named, with the sum of its weights and the best of its ranks.
    fn merged(&self) -> BTreeMap<Arc<str>, Merged> {
        let mut merged = BTreeMap::<Arc<str>, Merged>::new();
        for one in self.plan.sources.iter().flat_map(Source::endpoints) {
            let text = match &one.address {
                SocketAddr::Inet(address) => address.to_string(),
                SocketAddr::Unix(_) => format!("unix:{}", one.address),
            };
            merged
                .entry(text.into())
                .and_modify(|known| {
                    known.weight = known.weight.saturating_add(one.weight);
                    known.rank = known.rank.min(one.rank);
                })
                .or_insert(one);
        }
        merged
    }

    fn endpoint(&self, text: Arc<str>, merged: Merged, since: u64) -> Endpoint {
        let plan = &self.plan;
        let endpoint = Endpoint {
            seed: rendezvous::hash(&[text.as_bytes()]),
            weight: merged.weight,
            rank: merged.rank,
            zone: merged.zone,
            checked: plan.checked,
            max_in_flight: plan.max_in_flight,
            state: plan.states.of(&text, since),
            metrics: plan.metrics.endpoint(&plan.upstream, &text),
            peer: plan.connection.peer(merged.address, &merged.server_name),
            total: plan.rules.bound().map(|_| Arc::clone(&plan.states.in_flight)),
            text,
        };
        endpoint.metrics.healthy(endpoint.is_healthy());
        endpoint
    }
}

/// What an address has of the sources that name it.
#[derive(Clone, Debug)]
struct Merged {
    address: SocketAddr,
    weight: u32,
    rank: Rank,
    zone: Option<Arc<str>>,
    server_name: Arc<str>,
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::IpAddr;

    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{
        config::upstream::Upstream as Config,
        upstream::{EndpointStatus, Lease, set::Wish},
    };

    fn config(rest: &str) -> Config {
        serde_saphyr::from_str(&format!("{{ endpoints: [], {rest} }}")).unwrap()
    }

    /// Endpoints with weights and ranks, with what else the file says.
    pub(in crate::upstream) fn with(
        endpoints: &[(&str, u32, Rank)],
        rest: &str,
        states: &Arc<States>,
        names: &[&Arc<Resolved>],
        clock: &Clock,
    ) -> Arc<Members> {
        let known = |host: &str| {
            let mut names = names.iter();
            Arc::clone(names.find(|known| known.host() == host).unwrap())
        };
        let sources = endpoints.iter().map(|(target, weight, rank)| Source {
            origin: Origin::new(&target.parse().unwrap(), known).unwrap(),
            weight: *weight,
            rank: *rank,
            zone: None,
            server_name: "".into(),
        });
        let config = config(rest);
        Members::new(Plan {
            upstream: "orders".into(),
            sources: sources.collect(),
            rules: Rules::new(&config),
            connection: Connection::compile(&config).unwrap(),
            checked: true,
            outliers: config.outliers.map_or_else(Rule::unreachable, Rule::all),
            max_in_flight: crate::upstream::max_in_flight(&config),
            states: Arc::clone(states),
            metrics: Arc::new(Metrics::new()),
            clock: clock.clone(),
        })
    }

    /// Endpoints with weights, as after a reload: `states` and `names` are what was there before.
    pub(in crate::upstream) fn members(
        endpoints: &[(&str, u32)],
        balance: &str,
        states: &Arc<States>,
        names: &[&Arc<Resolved>],
    ) -> Arc<Members> {
        let endpoints: Vec<_> = endpoints.iter().map(|(target, weight)| (*target, *weight, Rank::default())).collect();
        with(&endpoints, &format!("balance: {balance}"), states, names, &Clock::default())
    }

    /// So many endpoints of one weight, with what else the file says.
    pub(in crate::upstream) fn numbered(n: usize, rest: &str) -> Arc<Members> {
        simulated(n, rest, &Clock::default())
    }

    /// The same with a clock that the test moves.
    pub(in crate::upstream) fn simulated(n: usize, rest: &str, clock: &Clock) -> Arc<Members> {
        let names: Vec<String> = (1..=n).map(|i| format!("10.0.{}.{}:80", i / 250, i % 250 + 1)).collect();
        let endpoints: Vec<_> = names.iter().map(|name| (name.as_str(), 1, Rank::default())).collect();
        with(&endpoints, rest, &Arc::default(), &[], clock)
    }

    /// So many endpoints with these `outliers`.
    pub(in crate::upstream) fn with_outliers(n: usize, outliers: &str) -> Arc<Members> {
        numbered(n, &format!("outliers: {outliers}"))
    }

    fn lease(members: &Members, key: Option<u64>, failed: &[u64]) -> Option<Lease> {
        let mut rng = StdRng::seed_from_u64(1);
        let set = members.set();
        let chosen = set.choose(&Wish { key, failed, ..Wish::default() }, &mut rng)?;
        Some(Lease::new(Arc::clone(chosen)))
    }

    fn status(members: &Members) -> Vec<EndpointStatus> {
        let set = members.set();
        set.endpoints().iter().map(|e| EndpointStatus::of(e, 0)).collect()
    }

    fn weights(members: &Members) -> Vec<(String, u32)> {
        let endpoints = status(members).into_iter();
        endpoints.map(|e| (e.address.to_string(), e.weight)).collect()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    fn sicken(members: &Members, address: &str) {
        let set = members.set();
        let mut endpoints = set.endpoints().iter();
        let sick = endpoints.find(|e| *e.text == *address).unwrap();
        assert_eq!(sick.state.observe(false, 1, 1), Some(false));
    }

    #[test]
    fn an_address_that_is_named_twice_is_one_endpoint_with_both_weights() {
        let members = members(
            &[("10.0.0.1:80", 1), ("unix:/run/a.sock", 5), ("10.0.0.1:80", 2), ("[::1]:80", 1)],
            "round_robin",
            &Arc::default(),
            &[],
        );
        let expected = [("10.0.0.1:80", 3), ("[::1]:80", 1), ("unix:/run/a.sock", 5)];
        let expected: Vec<_> = expected.map(|(a, w)| (a.to_owned(), w)).into();
        assert_eq!(weights(&members), expected);
    }

    #[test]
    fn the_endpoints_follow_dns_and_those_that_stay_keep_their_state() {
        let name = Arc::new(Resolved::new("a.example"));
        let members = members(&[("a.example:80", 2)], "round_robin", &Arc::default(), &[&name]);
        assert!(lease(&members, None, &[]).is_none());

        let mut changes = members.changes();
        changes.mark_unchanged();
        name.set(&ips(&["10.0.0.1", "10.0.0.2"]), &ips(&["2001:db8::1"]));
        assert!(changes.has_changed().unwrap());
        assert_eq!(weights(&members).len(), 3);
        sicken(&members, "10.0.0.1:80");

        name.set(&ips(&["10.0.0.1", "10.0.0.3"]), &[]);
        let now: Vec<_> = status(&members).into_iter().map(|e| (e.address.to_string(), e.weight, e.healthy)).collect();
        assert_eq!(now, [("10.0.0.1:80".to_owned(), 2, false), ("10.0.0.3:80".to_owned(), 2, true)]);
    }

    #[test]
    fn a_reload_keeps_addresses_health_and_load_and_takes_new_weights() {
        let (states, name) = (Arc::default(), Arc::new(Resolved::new("a.example")));
        name.set(&ips(&["10.0.0.7"]), &[]);
        let before = members(&[("10.0.0.1:80", 1), ("a.example:80", 1)], "round_robin", &states, &[&name]);
        sicken(&before, "10.0.0.1:80");
        let held = lease(&before, None, &[]).unwrap();
        assert_eq!(held.address(), "10.0.0.7:80");

        let after = members(&[("10.0.0.1:80", 1), ("a.example:80", 9)], "random", &states, &[&name]);
        drop(before);
        let now = status(&after);
        assert!(!now[0].healthy);
        assert_eq!((now[1].weight, now[1].in_flight), (9, 1));
        assert_eq!(lease(&after, None, &[]).unwrap().id(), held.id());
        drop(held);
        assert_eq!(status(&after)[1].in_flight, 0);
    }

    #[test]
    fn what_failed_or_is_unhealthy_is_avoided_by_every_algorithm() {
        for balance in [
            "round_robin",
            "least_requests",
            "peak_ewma",
            "random",
            "{ hash: path }",
            "{ ring_hash: { key: path } }",
            "{ maglev: { key: path } }",
        ] {
            let members =
                members(&[("10.0.0.1:80", 1), ("10.0.0.2:80", 1), ("10.0.0.3:80", 1)], balance, &Arc::default(), &[]);
            sicken(&members, "10.0.0.2:80");
            for key in 0..50 {
                let first = lease(&members, Some(key), &[]).unwrap();
                let second = lease(&members, Some(key), &[first.id()]).unwrap();
                let both = [first.id(), second.id()];
                assert_ne!(both[0], both[1]);
                for lease in [&first, &second] {
                    assert_ne!(lease.address(), "10.0.0.2:80");
                }
                // All healthy ones have failed: one of them again, never the unhealthy one.
                let third = lease(&members, Some(key), &both).unwrap();
                assert!(both.contains(&third.id()));
            }
            sicken(&members, "10.0.0.1:80");
            sicken(&members, "10.0.0.3:80");
            assert!(lease(&members, Some(1), &[]).is_none());
        }
    }

    #[test]
    fn the_busier_endpoint_is_avoided_by_least_requests() {
        let members = members(&[("10.0.0.1:80", 1), ("10.0.0.2:80", 1)], "least_requests", &Arc::default(), &[]);
        let held: Vec<_> = (0..10).map(|_| lease(&members, None, &[]).unwrap()).collect();
        assert!(status(&members).iter().all(|e| e.in_flight == 5));
        drop(held);
        assert!(status(&members).iter().all(|e| e.in_flight == 0));
    }

    #[test]
    fn without_health_checks_an_old_verdict_does_not_count() {
        let members = members(&[("10.0.0.1:80", 1)], "random", &Arc::default(), &[]);
        let set = members.set();
        let old = &set.endpoints()[0];
        assert_eq!(old.state.observe(false, 1, 1), Some(false));
        let unchecked = Endpoint {
            text: Arc::clone(&old.text),
            seed: old.seed,
            weight: 1,
            rank: old.rank,
            zone: None,
            total: None,
            checked: false,
            max_in_flight: 1,
            state: Arc::clone(&old.state),
            metrics: old.metrics.clone(),
            peer: old.peer.clone(),
        };
        assert!(!old.is_healthy() && unchecked.is_healthy());
    }
}
