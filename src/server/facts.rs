//! What the admin listener tells of this process.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use pingora::apps::http_app::HttpServer;
use tokio::sync::watch;

use super::sockets::Sockets;
use crate::{
    admin::{
        Admin, Facts,
        status::{Endpoint, Reload, Route, Status, Upstream},
    },
    config::telemetry,
    proxy::in_flight::Flights,
    runtime::Runtime,
};

/// What is known of the process.
pub(super) struct ProcessFacts {
    runtime: Arc<Runtime>,
    listeners: Vec<String>,
    admin: Option<String>,
    stopped: watch::Receiver<bool>,
    flights: Flights,
    started: AtomicBool,
    began: u64,
}

impl ProcessFacts {
    pub(super) fn new(
        runtime: Arc<Runtime>,
        sockets: &Sockets,
        stopped: watch::Receiver<bool>,
        flights: Flights,
    ) -> Self {
        Self {
            listeners: sockets.listeners.iter().map(|socket| socket.name.clone()).collect(),
            admin: sockets.admin.as_ref().map(|socket| socket.name.clone()),
            began: runtime.services().clock.monotonic(),
            started: AtomicBool::new(false),
            runtime,
            stopped,
            flights,
        }
    }

    /// The first round of background work is done: requests are served from now on.
    pub(super) fn started(&self) {
        for listener in &self.listeners {
            log::info!("listening on {listener}");
        }
        if let Some(admin) = &self.admin {
            log::info!("admin on {admin}");
        }
        self.started.store(true, Ordering::Release);
        log::info!("ready: generation {}", self.runtime.snapshot().generation);
    }
}

impl Facts for ProcessFacts {
    fn ready(&self) -> Result<(), Vec<String>> {
        let mut reasons = Vec::new();
        if !self.started.load(Ordering::Acquire) {
            reasons.push("names and keys are still being fetched".to_owned());
        }
        if *self.stopped.borrow() {
            reasons.push("the process stops".to_owned());
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    fn metrics(&self) -> Vec<u8> {
        self.runtime.services().metrics.encode()
    }

    fn status(&self) -> Status {
        let snapshot = self.runtime.snapshot();
        let clock = &self.runtime.services().clock;
        let last = self.runtime.last_reload();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            uptime_seconds: clock.monotonic().saturating_sub(self.began) / 1_000_000_000,
            generation: snapshot.generation,
            draining: *self.stopped.borrow(),
            in_flight: self.flights.count(),
            last_reload: Reload { ok: last.error.is_none(), at: last.at.as_secs(), error: last.error },
            listeners: self.listeners.clone(),
            routes: snapshot
                .routes
                .targets()
                .iter()
                .map(|route| Route {
                    name: route.name.to_string(),
                    policies: route.chain.kinds().map(|(_, kind)| kind).collect(),
                })
                .collect(),
            upstreams: snapshot
                .upstreams
                .values()
                .map(|upstream| Upstream {
                    name: upstream.name().to_owned(),
                    endpoints: upstream.endpoints().into_iter().map(Endpoint::from).collect(),
                })
                .collect(),
        }
    }
}

impl From<crate::upstream::EndpointStatus> for Endpoint {
    fn from(known: crate::upstream::EndpointStatus) -> Self {
        Self {
            address: known.address.to_string(),
            weight: known.weight,
            healthy: known.healthy,
            in_flight: known.in_flight,
        }
    }
}

/// The admin listener's application.
pub(super) fn app(admin: &telemetry::Admin, facts: &Arc<ProcessFacts>) -> HttpServer<Admin> {
    let facts: Arc<dyn Facts> = Arc::<ProcessFacts>::clone(facts);
    HttpServer::new_app(Admin::new(facts, admin.hosts.iter().map(ToString::to_string)))
}
