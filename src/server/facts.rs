//! What the admin listener tells of this process.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use parking_lot::Mutex;
use pingora::apps::http_app::HttpServer;
use tokio::sync::mpsc;

use super::{
    certificates::Terminators,
    drain::{Stop, Switches},
    handover::Predecessor,
    sockets::{Socket, Sockets},
};
use crate::{
    admin::{
        Admin, Boxed, Facts,
        status::{Cache, Endpoint, Limits, Reload, Route, Status, Upstream},
    },
    config::telemetry,
    policy::{
        cache::Purge,
        quota::{Change, Used},
    },
    proxy::{in_flight::Kind, penalty, room::Room},
    runtime::{Action, Runtime, Snapshot, max_files},
    telemetry::tls_metrics::Standing,
    tls::state::CertificateState,
    upstream,
};

/// What is known of the process.
pub(super) struct ProcessFacts {
    runtime: Arc<Runtime>,
    listeners: Vec<String>,
    /// Those of them that HTTP/3 is spoken beside.
    http3: Vec<String>,
    admin: Option<String>,
    switches: Switches,
    stop: mpsc::UnboundedSender<Stop>,
    room: Room,
    started: AtomicBool,
    began: u64,
    predecessor: Option<Predecessor>,
    /// The process that has taken over; 0 for none.
    successor: AtomicU32,
    fallback: Mutex<Option<String>>,
    terminators: Terminators,
}

impl ProcessFacts {
    pub(super) fn new(
        runtime: Arc<Runtime>,
        sockets: &Sockets,
        switches: Switches,
        stop: mpsc::UnboundedSender<Stop>,
        room: Room,
        predecessor: Option<Predecessor>,
        (fallback, terminators): (Option<String>, Terminators),
    ) -> Self {
        runtime.services().metrics.fallback(fallback.is_some());
        Self {
            listeners: sockets.listeners.iter().map(Socket::shown).collect(),
            http3: {
                let beside = sockets.quic.iter().filter_map(|(position, _)| sockets.listeners.get(*position));
                beside.map(Socket::shown).collect()
            },
            admin: sockets.admin.as_ref().map(Socket::shown),
            began: runtime.services().clock.monotonic(),
            started: AtomicBool::new(false),
            runtime,
            switches,
            stop,
            room,
            predecessor,
            successor: AtomicU32::new(0),
            fallback: Mutex::new(fallback),
            terminators,
        }
    }

    /// The first round of background work is done: requests are served from now on.
    pub(super) fn started(&self) {
        for listener in &self.listeners {
            log::info!("listening on {listener}");
        }
        for listener in &self.http3 {
            log::info!("HTTP/3 on {listener} (UDP)");
        }
        if let Some(admin) = &self.admin {
            log::info!("admin on {admin}");
        }
        self.started.store(true, Ordering::Release);
        log::info!("ready: generation {}", self.runtime.snapshot().generation);
    }

    /// One line for `systemctl status`.
    pub(super) fn summary(&self) -> String {
        let generation = self.runtime.snapshot().generation;
        let last = self.runtime.last_reload();
        match (last.error, &*self.fallback.lock()) {
            (_, Some(why)) => format!("ALARM: serves the last configuration that worked, because {why}"),
            (Some(why), None) => format!("serves generation {generation}; the last reload failed: {why}"),
            (None, None) => format!("serves generation {generation} on {}", self.listeners.join(", ")),
        }
    }

    /// This process cannot take over.
    pub(super) fn exit(&self) {
        if self.stop.send(Stop::Signal("the end of the process before")).is_err() {
            log::debug!("this process ends already");
        }
    }

    /// Another process has taken over.
    pub(super) fn replaced(&self, pid: u32) {
        self.successor.store(pid, Ordering::Release);
    }

    /// The process that has taken over.
    pub(super) fn successor(&self) -> Option<u32> {
        Some(self.successor.load(Ordering::Acquire)).filter(|pid| *pid != 0)
    }

    /// Whether the file was broken when the process started.
    pub(super) fn is_fallback(&self) -> bool {
        self.fallback.lock().is_some()
    }

    /// The file works again.
    pub(super) fn recovered(&self) {
        *self.fallback.lock() = None;
        self.runtime.services().metrics.fallback(false);
    }

    /// Counts what is not counted as it happens.
    pub(super) fn count(&self) {
        super::files::count(&self.room);
    }

    /// How it stands with the certificates of all listeners.
    fn certificates(&self) -> Vec<CertificateState> {
        let now = self.runtime.services().clock.unix().as_secs();
        let mut all = self.terminators.states(now);
        all.extend(self.runtime.snapshot().acme.iter().flat_map(|acme| acme.states(now)));
        all
    }

    fn is_stopping(&self) -> bool {
        *self.switches.stop.borrow()
    }
}

impl Facts for ProcessFacts {
    fn ready(&self) -> Result<(), Vec<String>> {
        let mut reasons = Vec::new();
        if !self.started.load(Ordering::Acquire) {
            reasons.push("names and keys are still being fetched".to_owned());
        }
        if self.is_stopping() {
            reasons.push("the process stops".to_owned());
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    fn metrics(&self) -> Vec<u8> {
        let metrics = &self.runtime.services().metrics;
        let count = |kind| self.room.flights().count(kind);
        metrics.holds(count(Kind::Connection), count(Kind::Request), self.room.buffers());
        metrics.penalties(self.room.penalties().len());
        metrics.cache.holds(self.runtime.services().shelves.holds());
        let snapshot = self.runtime.snapshot();
        metrics.show_upstreams(&mut snapshot.upstreams.values().map(|upstream| upstream.now_shown()));
        let certificates = self.certificates();
        metrics.tls.certificates(&mut certificates.iter().map(|one| Standing {
            name: one.names.first().map_or("", String::as_str),
            source: one.source.name(),
            not_after: one.not_after,
            failed: one.error.is_some(),
        }));
        metrics.encode()
    }

    fn penalties(&self) -> Vec<Boxed> {
        let shown = |one: penalty::Boxed| Boxed {
            address: one.address.to_string(),
            seconds_left: one.seconds_left,
            refused: one.refused,
        };
        self.room.penalties().into_iter().map(shown).collect()
    }

    fn release(&self, address: IpAddr) -> Result<String, String> {
        if self.room.release(address) {
            Ok(format!("{address} is let in again"))
        } else {
            Err(format!("{address} is not in the penalty box"))
        }
    }

    fn purge(&self, what: &Purge) -> Result<String, String> {
        let snapshot = self.runtime.snapshot();
        if let Purge::Route(name) = what
            && !snapshot.routes.targets().iter().any(|route| *route.name == **name)
        {
            return Err(format!("no route is named `{name}`"));
        }
        let services = self.runtime.services();
        let gone = services.shelves.take_away(what, services.seeds)?;
        log::info!("{gone} kept answers are taken away: {what:?}");
        Ok(format!("{gone} kept {} taken away", if gone == 1 { "answer is" } else { "answers are" }))
    }

    fn quotas(&self) -> Vec<Used> {
        self.runtime.snapshot().quotas.iter().flat_map(|quota| quota.used()).collect()
    }

    fn change_quota(&self, quota: &str, key: &str, change: Change) -> Result<String, String> {
        change_quota(&self.runtime.snapshot(), quota, key, change)
    }

    fn stand(&self, upstream: &str, address: &str, standing: upstream::Standing) -> Result<String, String> {
        stand(&self.runtime.snapshot(), upstream, address, standing)
    }

    fn status(&self) -> Status {
        let snapshot = self.runtime.snapshot();
        let clock = &self.runtime.services().clock;
        let last = self.runtime.last_reload();
        let (entries, bytes) = self.runtime.services().shelves.holds();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            uptime_seconds: clock.monotonic().saturating_sub(self.began) / 1_000_000_000,
            generation: snapshot.generation,
            draining: self.is_stopping(),
            successor: self.successor(),
            predecessor: self.predecessor.as_ref().and_then(|before| *before.draining().borrow()),
            fallback: self.fallback.lock().clone(),
            connections: self.room.flights().count(Kind::Connection),
            in_flight: self.room.flights().count(Kind::Request),
            web_sockets: self.room.flights().count(Kind::WebSocket),
            buffers: self.room.buffers(),
            cache: Cache { entries, bytes },
            limits: Limits {
                connections: snapshot.capacity.connections,
                connections_per_address: snapshot.capacity.connections_per_address,
                buffers: snapshot.capacity.buffers,
                open_files: max_files(),
            },
            last_reload: Reload { ok: last.error.is_none(), at: last.at.as_secs(), error: last.error },
            listeners: self.listeners.clone(),
            certificates: self.certificates(),
            routes: snapshot
                .routes
                .targets()
                .iter()
                .map(|route| Route {
                    name: route.name.to_string(),
                    policies: route.chain.kinds().map(|(_, kind)| kind).collect(),
                    canary: match &route.action {
                        Action::Split(split) => split.canary().map(|canary| canary.status()),
                        Action::Forward(_) | Action::Redirect { .. } => None,
                    },
                })
                .collect(),
            upstreams: snapshot
                .upstreams
                .values()
                .map(|upstream| Upstream {
                    name: upstream.name().to_owned(),
                    panic: upstream.is_in_panic(),
                    circuit: upstream.circuit(),
                    sources: upstream.sources(),
                    concurrency_limit: upstream.learnt_limit(),
                    endpoints: upstream.endpoints().into_iter().map(Endpoint::from).collect(),
                })
                .collect(),
        }
    }
}

/// Changes what a key has used; an error says what there is instead.
fn change_quota(snapshot: &Snapshot, name: &str, key: &str, change: Change) -> Result<String, String> {
    if change == Change::TopUp(0) {
        return Err("0 requests more change nothing".into());
    }
    let mut named = snapshot.quotas.iter().filter(|quota| quota.name() == name).peekable();
    if named.peek().is_none() {
        let known: Vec<&str> = snapshot.quotas.iter().map(|quota| quota.name()).collect();
        return Err(format!("no quota is named `{name}`; there is {}", known.join(", ")));
    }
    let mut found = false;
    for quota in named {
        found |= quota.change(key, change);
    }
    if !found {
        return Err(format!("{key} has used nothing of {name}"));
    }
    Ok(match change {
        Change::Reset => format!("{key} begins anew with {name}"),
        Change::TopUp(more) => format!("{key} has {more} requests more of {name} in this period"),
    })
}

/// Has an endpoint stand like this; an error says what there is instead.
fn stand(snapshot: &Snapshot, name: &str, address: &str, standing: upstream::Standing) -> Result<String, String> {
    let known = snapshot.upstreams.values().find(|one| one.name() == name).ok_or_else(|| {
        let names: Vec<&str> = snapshot.upstreams.values().map(|one| one.name()).collect();
        format!("no upstream is named `{name}`; there is {}", names.join(", "))
    })?;
    match known.stand(address, standing) {
        Some(before) if before == standing => Ok(format!("{name} {address} is {standing} already")),
        Some(before) => Ok(format!("{name} {address} is {standing} now; it was {before}")),
        None => {
            let addresses: Vec<_> = known.endpoints().into_iter().map(|one| one.address).collect();
            Err(format!("{name} has no endpoint {address}; there is {}", addresses.join(", ")))
        }
    }
}

impl From<upstream::EndpointStatus> for Endpoint {
    fn from(known: upstream::EndpointStatus) -> Self {
        Self {
            address: known.address.to_string(),
            weight: known.weight,
            priority: known.priority,
            zone: known.zone.as_deref().map(str::to_owned),
            healthy: known.healthy,
            ejected: known.ejected,
            standing: known.standing,
            in_flight: known.in_flight,
        }
    }
}

/// The admin listener's application.
pub(super) fn app(admin: &telemetry::Admin, facts: &Arc<ProcessFacts>) -> HttpServer<Admin> {
    let facts: Arc<dyn Facts> = Arc::<ProcessFacts>::clone(facts);
    HttpServer::new_app(Admin::new(facts, admin.hosts.iter().map(ToString::to_string), admin.changes))
}
