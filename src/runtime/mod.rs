//! What runs: one compiled snapshot, swapped as a whole, and the state that survives the swap.
//!
//! [`Runtime::install`] compiles a validated file beside the running snapshot, starts the background work that is new,
//! waits a bounded time for what requests would have to wait for (names, keys), and swaps. A request keeps the
//! snapshot that it started with; if anything fails, the old one keeps running.

pub mod ask;
mod build;
mod capacity;
mod carry;
mod passthrough;
mod snapshot;
mod supervisor;
mod trust;

use std::{collections::HashSet, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use self::supervisor::Supervisor;
pub use self::{
    build::{Build, Ready, Seeds, Services, Task},
    capacity::{Capacity, max_files},
    carry::{Carry, Exported, State},
    passthrough::{Passthrough, Passthroughs},
    snapshot::{Action, Compiled, Route, Snapshot},
    trust::{Introductions, Proxies, Trust},
};
use crate::config::{Report, Validated};

/// How long a new snapshot waits for names and keys before it goes live without them.
const MAX_WARM_UP: Duration = Duration::from_secs(5);

/// The running configuration of a process.
#[derive(Debug)]
pub struct Runtime {
    current: ArcSwap<Snapshot>,
    services: Services,
    last: Mutex<LastReload>,
    /// Held while a snapshot is installed: reloads come one after the other.
    supervisor: AsyncMutex<Supervisor>,
    first_tasks: Mutex<Vec<Task>>,
    /// Snapshots that requests may still run under. The last one to let go of a snapshot takes it apart, which is much
    /// work if it has many routes: that is never to be a request.
    retired: Mutex<Vec<Arc<Snapshot>>>,
}

/// What became of the last attempt to load a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastReload {
    /// When, since 1970.
    pub at: Duration,
    /// Why it failed, in one line; `None` if it did not.
    pub error: Option<String>,
}

impl Runtime {
    /// Compiles the first snapshot. Its background work starts with [`warm_up`](Self::warm_up).
    pub fn new(config: &Validated, services: Services) -> Result<Self, Report> {
        let compiled = Snapshot::compile(config, None, &services).map_err(|found| config.report(found))?;
        services.metrics.reloaded(true, compiled.snapshot.generation);
        services.shelves.allow(config.cache.memory.0);
        Ok(Self {
            last: Mutex::new(LastReload { at: services.clock.unix(), error: None }),
            current: ArcSwap::from_pointee(compiled.snapshot),
            services,
            supervisor: AsyncMutex::default(),
            first_tasks: Mutex::new(compiled.tasks),
            retired: Mutex::default(),
        })
    }

    /// The snapshot for a request that starts now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// What exists once in the process.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// What became of the last attempt to load a configuration.
    pub fn last_reload(&self) -> LastReload {
        self.last.lock().clone()
    }

    /// Starts the background work of the first snapshot on the current tokio runtime, and waits for its first round.
    pub async fn warm_up(&self) {
        let tasks = std::mem::take(&mut *self.first_tasks.lock());
        let mut supervisor = self.supervisor.lock().await;
        supervisor.start(tasks, MAX_WARM_UP).await;
    }

    /// Compiles a file and swaps to it, or says why not and changes nothing.
    pub async fn install(&self, config: &Validated) -> Result<u64, Report> {
        let mut supervisor = self.supervisor.lock().await;
        let previous = self.current.load_full();
        let compiled =
            Snapshot::compile(config, Some(&previous), &self.services).map_err(|found| config.report(found))?;
        let wanted: Vec<String> = compiled.tasks.iter().map(|task| task.key.clone()).collect();
        supervisor.start(compiled.tasks, MAX_WARM_UP).await;
        let generation = compiled.snapshot.generation;
        self.current.store(Arc::new(compiled.snapshot));
        self.services.shelves.allow(config.cache.memory.0);
        self.retired.lock().push(previous);
        self.sweep();
        supervisor.retain(&wanted);
        self.retain_metrics(config);
        Ok(generation)
    }

    /// What another process needs to go on: counters, health, keys.
    pub fn export(&self) -> Exported {
        self.current.load().carry.export()
    }

    /// Takes over what another process exported.
    pub fn import(&self, exported: &Exported) {
        let snapshot = self.current.load();
        snapshot.carry.import(exported);
        snapshot.upstreams.values().for_each(|upstream| upstream.show_health());
    }

    /// Takes apart snapshots that no request runs under any more. Called every second, off the request threads.
    pub fn sweep(&self) {
        let (used, unused): (Vec<_>, Vec<_>) =
            std::mem::take(&mut *self.retired.lock()).into_iter().partition(|one| Arc::strong_count(one) > 1);
        self.retired.lock().extend(used);
        drop(unused);
    }

    /// Notes what became of an attempt to load a configuration, for status and metrics.
    pub fn note(&self, outcome: Result<u64, &Report>) {
        let generation = self.current.load().generation;
        self.services.metrics.reloaded(outcome.is_ok(), generation);
        *self.last.lock() = LastReload { at: self.services.clock.unix(), error: outcome.err().map(Report::summary) };
    }

    /// Notes why a new process could not take over.
    pub fn note_failure(&self, why: &str) {
        self.services.metrics.reloaded(false, self.current.load().generation);
        let why = why.lines().next().unwrap_or_default().to_owned();
        *self.last.lock() = LastReload { at: self.services.clock.unix(), error: Some(why) };
    }

    /// Forgets the series of what is not configured any more.
    fn retain_metrics(&self, config: &Validated) {
        let routes: HashSet<&str> = config.routes.iter().map(|route| route.name.as_str()).collect();
        let snapshot = self.current.load();
        let endpoints: HashSet<(&str, Arc<str>)> = snapshot
            .upstreams
            .values()
            .flat_map(|upstream| upstream.endpoints().into_iter().map(|one| (upstream.name(), one.address)))
            .collect();
        self.services
            .metrics
            .retain(&|route| route.is_empty() || route == "*" || routes.contains(route), &|upstream, endpoint| {
                endpoints.contains(&(upstream, endpoint.into()))
            });
    }
}
