//! Active health checks.
//!
//! - Every endpoint is checked by itself: at once when it appears, then every `interval`, moved by up to a tenth in
//!   either direction so that checks of many endpoints and gateways spread.
//! - A new endpoint counts as healthy. `unhealthy_after` failed checks in a row take it out, `healthy_after` passed
//!   ones bring it back, the first one if no other endpoint is healthy either. A change is logged with the endpoint and the reason; health survives reloads.
//! - Without `http` a check is a connection, with TLS if the upstream has it. With `http` it is a `GET` in the
//!   protocol of the upstream, on a connection of its own, with the same verification of certificates; it passes
//!   with a `status` that is listed, or else 200 to 299. A redirect is not followed.
//! - With `grpc` it is a call of `grpc.health.v1.Health/Check`, and passes with `SERVING`.
//! - A check that takes longer than `timeout`, body included, has failed.

mod check;
mod grpc;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use pingora_load_balancing::{Backend, Extensions, health_check::HealthCheck};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use self::check::Checks;
use super::{endpoint::Endpoint, members::Members};
use crate::{config::health::Health, runtime::Ready};

const TARGET: &str = "torana::health";
/// Shorter intervals count as this: `0s` would be a busy loop.
const SHORTEST: Duration = Duration::from_millis(100);

type Check = Arc<dyn HealthCheck + Send + Sync>;

/// Checks the endpoints of an upstream for as long as it is polled.
pub(super) async fn run(health: Health, members: Arc<Members>, ready: Ready) {
    // Endpoints start healthy, so there is nothing to wait for.
    ready.done();
    let health = Arc::new(health);
    let mut changes = members.changes();
    let mut checks = Checks::new(Arc::clone(&health), Arc::clone(&members));
    let mut probes = Probes::default();
    loop {
        changes.mark_unchanged();
        let set = Arc::clone(&members.set());
        probes.stop_all_but(set.endpoints());
        for endpoint in set.endpoints() {
            if probes.by_endpoint.contains_key(&endpoint.id()) {
                continue;
            }
            match checks.of(endpoint).await {
                Ok(check) => probes.start(Probe {
                    members: Arc::clone(&members),
                    endpoint: Arc::clone(endpoint),
                    health: Arc::clone(&health),
                    check,
                }),
                Err(why) => {
                    let (upstream, endpoint) = (&members.plan.upstream, &endpoint.text);
                    log::error!(target: TARGET, "upstream {upstream}: endpoint {endpoint} cannot be checked: {why}");
                }
            }
        }
        drop(set);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// The running probes; dropping this ends them.
#[derive(Default)]
struct Probes {
    by_endpoint: BTreeMap<u64, AbortHandle>,
    running: JoinSet<()>,
}

impl Probes {
    fn start(&mut self, probe: Probe) {
        let id = probe.endpoint.id();
        self.by_endpoint.insert(id, self.running.spawn(probe.run()));
    }

    fn stop_all_but(&mut self, endpoints: &[Arc<Endpoint>]) {
        self.by_endpoint.retain(|id, probe| {
            let stays = endpoints.iter().any(|endpoint| endpoint.id() == *id);
            if !stays {
                probe.abort();
            }
            stays
        });
        // Lets go of those that ended.
        while self.running.try_join_next().is_some() {}
    }
}

/// The checks of one endpoint.
struct Probe {
    members: Arc<Members>,
    endpoint: Arc<Endpoint>,
    health: Arc<Health>,
    check: Check,
}

impl Probe {
    #[expect(clippy::infinite_loop, reason = "ends by being dropped")]
    async fn run(self) {
        let interval = self.health.interval.0.max(SHORTEST);
        loop {
            let next = Instant::now() + interval.mul_f64(rand::random_range(0.9..1.1));
            let result = self.once().await;
            self.take(result);
            sleep_until(next).await;
        }
    }

    async fn once(&self) -> Result<(), String> {
        let target = Backend { addr: self.endpoint.address().clone(), weight: 1, ext: Extensions::new() };
        let check = Arc::clone(&self.check);
        let limit = self.health.timeout.0;
        // In a task of its own: if it panics, the check has failed, and the next one will be made.
        let task = tokio::spawn(async move { timeout(limit, check.check(&target)).await });
        match task.await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(reason(&error.to_string())),
            Ok(Err(_elapsed)) => Err(format!("no answer within {limit:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn take(&self, result: Result<(), String>) {
        let now = self.members.plan.clock.monotonic();
        let after = match result {
            Ok(()) if self.members.set().endpoints().iter().all(|one| !one.is_healthy()) => 1,
            Ok(()) => self.health.healthy_after.get(),
            Err(_) => self.health.unhealthy_after.get(),
        };
        let Some(healthy) = self.endpoint.state.observe(result.is_ok(), u32::from(after), now) else {
            return;
        };
        self.endpoint.metrics.healthy(healthy);
        let (upstream, endpoint) = (&self.members.plan.upstream, &self.endpoint.text);
        match result {
            Ok(()) => {
                log::info!(target: TARGET, "upstream {upstream}: endpoint {endpoint} is healthy again");
            }
            Err(reason) => {
                log::warn!(target: TARGET, "upstream {upstream}: endpoint {endpoint} is unhealthy: {reason}");
            }
        }
    }
}

/// Shortens the text of Pingora's error: it shows the peer with all its options.
fn reason(error: &str) -> String {
    let parts = error.split(" cause: ");
    let short: Vec<_> = parts
        .filter(|part| !part.contains("PeerOptions {"))
        .map(|part| part.trim().trim_start_matches("context: "))
        .collect();
    short.join(": ")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;
    use pingora::{BError, Error, ErrorType};

    use super::*;
    use crate::upstream::members::tests::members;

    /// What a check does, whatever the endpoint.
    #[derive(Clone, Copy)]
    enum Outcome {
        Pass,
        Fail,
        Hang,
        Panic,
    }

    #[async_trait]
    impl HealthCheck for Outcome {
        async fn check(&self, _: &Backend) -> Result<(), BError> {
            match self {
                Self::Pass => Ok(()),
                Self::Fail => Error::e_explain(ErrorType::ConnectRefused, "nobody listens"),
                Self::Hang => std::future::pending().await,
                Self::Panic => panic!("as Pingora might"),
            }
        }

        fn health_threshold(&self, _: bool) -> usize {
            1
        }
    }

    fn probe(outcome: Outcome) -> Probe {
        let health = "{ unhealthy_after: 2, healthy_after: 3, timeout: 1ms }";
        let members = members(&[("10.0.0.1:80", 1), ("10.0.0.2:80", 1)], "round_robin", &Arc::default(), &[]);
        let endpoint = Arc::clone(&members.set().endpoints()[0]);
        Probe { members, endpoint, health: Arc::new(serde_saphyr::from_str(health).unwrap()), check: Arc::new(outcome) }
    }

    #[tokio::test]
    async fn a_check_that_fails_hangs_or_panics_has_failed() {
        assert_eq!(probe(Outcome::Pass).once().await, Ok(()));
        for (outcome, reason) in
            [(Outcome::Fail, "nobody listens"), (Outcome::Hang, "no answer within 1ms"), (Outcome::Panic, "panic")]
        {
            let error = probe(outcome).once().await.unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn the_reason_in_the_log_is_short() {
        let error = "ConnectRefused context: Fail to connect to BasicPeer { options: PeerOptions { tls: true } } \
                     cause:  context: Fail to connect to 127.0.0.1:5381 cause: Connection refused (os error 111)";
        assert_eq!(reason(error), "Fail to connect to 127.0.0.1:5381: Connection refused (os error 111)");
        assert_eq!(reason(" HTTPStatus context: status 503"), "HTTPStatus context: status 503");
    }

    #[test]
    fn the_thresholds_of_the_configuration_decide() {
        let probe = probe(Outcome::Pass);
        let after = |results: &[bool]| {
            for passed in results {
                probe.take(if *passed { Ok(()) } else { Err("why".into()) });
            }
            probe.endpoint.is_healthy()
        };
        assert!(after(&[false]));
        assert!(after(&[true, false]));
        assert!(!after(&[false]));
        assert!(!after(&[true, true]));
        assert!(after(&[true]));
    }

    #[test]
    fn where_none_is_healthy_the_first_good_check_is_enough() {
        let probe = probe(Outcome::Pass);
        for endpoint in probe.members.set().endpoints() {
            assert_eq!(endpoint.state.observe(false, 1, 1), Some(false));
        }
        probe.take(Ok(()));
        assert!(probe.endpoint.is_healthy());
    }

    #[tokio::test]
    async fn the_probe_of_an_endpoint_that_went_is_stopped() {
        struct Alive(Arc<AtomicU32>);
        impl Drop for Alive {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let alive = Arc::new(AtomicU32::new(2));
        let (one, other) = (Alive(Arc::clone(&alive)), Alive(Arc::clone(&alive)));
        let states = Arc::default();
        let endpoints = [("10.0.0.1:80", 1), ("10.0.0.2:80", 1)];
        let members = members(&endpoints, "round_robin", &states, &[]);
        let set = members.set();
        let mut probes = Probes::default();
        for (endpoint, alive) in set.endpoints().iter().zip([one, other]) {
            let work = probes.running.spawn(async move {
                let _alive = alive;
                std::future::pending::<()>().await;
            });
            probes.by_endpoint.insert(endpoint.id(), work);
        }
        probes.stop_all_but(&set.endpoints()[..1]);
        while probes.running.len() > 1 {
            tokio::task::yield_now().await;
            probes.stop_all_but(&set.endpoints()[..1]);
        }
        assert_eq!(alive.load(Ordering::SeqCst), 1);
        assert!(probes.by_endpoint.contains_key(&set.endpoints()[0].id()));
    }
}
