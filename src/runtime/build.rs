//! What compilation has at hand, and where it puts what it finds.

use std::{collections::BTreeMap, fmt, future::Future, pin::Pin, sync::Arc};

use tokio::sync::watch;

use super::{
    ask::{Asker, Bounds, Connections},
    carry::{Carry, State},
};
use crate::{
    clock::Clock,
    config::{Diagnostic, Place, Step, Validated, types::Name},
    identity::Consumers,
    policy::{cache::Shelves, oidc::Jar, quota::Quota},
    store::Store,
    telemetry::metrics::Metrics,
    upstream::Upstream,
};

/// Things that exist once in a process, whatever is loaded.
#[derive(Clone, Debug)]
pub struct Services {
    /// Where time comes from.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Only finds out whether a configuration would work: nothing is opened for writing.
    pub probe: bool,
    /// Hashes what counters are kept by.
    pub seeds: Seeds,
    /// The answers that `cache` keeps.
    pub shelves: &'static Shelves,
}

impl Services {
    /// What a process begins with.
    pub fn new(clock: Clock, seeds: Seeds) -> Self {
        let metrics = Arc::new(Metrics::new());
        let shelves = Shelves::new(clock.clone(), metrics.cache.evictions());
        Self { clock, metrics, probe: false, seeds, shelves }
    }

    /// The same for whoever only wants to know whether a configuration would work.
    #[must_use]
    pub fn probing(self) -> Self {
        Self { probe: true, ..self }
    }
}

/// What keyed hashes are seeded with, so that nobody outside can predict or collide them. A process that takes over from
/// another one has the same.
#[derive(Clone, Copy)]
pub struct Seeds(pub [u64; 4]);

impl Seeds {
    /// New ones.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Debug for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seeds(..)")
    }
}

/// Compilation of one snapshot.
#[derive(Debug)]
pub struct Build<'a> {
    /// Where time comes from.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The consumers of the file.
    pub consumers: Arc<Consumers>,
    /// The upstreams of the file, for policies that ask one.
    pub(super) upstreams: BTreeMap<Name, Arc<Upstream>>,
    /// Cookies that no upstream gets to see.
    pub(super) cookies: Vec<Arc<Jar>>,
    /// The quotas, for operators.
    pub(crate) quotas: Vec<Arc<Quota>>,
    /// Only finds out whether the configuration would work: nothing is opened for writing.
    pub probe: bool,
    /// Hashes what counters are kept by.
    pub seeds: Seeds,
    /// The answers that `cache` keeps.
    pub shelves: &'static Shelves,
    config: &'a Validated,
    previous: Option<&'a Carry>,
    scope: String,
    pub(super) kept: Carry,
    pub(super) tasks: Vec<Task>,
    pub(super) found: Vec<Diagnostic>,
}

impl<'a> Build<'a> {
    pub(super) fn new(config: &'a Validated, previous: Option<&'a Carry>, services: &Services) -> Self {
        Self {
            clock: services.clock.clone(),
            metrics: Arc::clone(&services.metrics),
            probe: services.probe,
            seeds: services.seeds,
            shelves: services.shelves,
            consumers: Arc::new(Consumers::compile(&config.consumers.all)),
            upstreams: BTreeMap::new(),
            cookies: Vec::new(),
            quotas: Vec::new(),
            config,
            previous,
            scope: String::new(),
            kept: Carry::default(),
            tasks: Vec::new(),
            found: Vec::new(),
        }
    }

    /// The configuration that is compiled.
    pub fn config(&self) -> &'a Validated {
        self.config
    }

    /// Names what is compiled next: its state is kept under this name.
    pub fn enter(&mut self, scope: String) {
        self.scope = scope;
    }

    /// The name of what is compiled.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// The state that what is compiled had before the reload, or a fresh one.
    pub fn keep<T: State>(&mut self, fresh: impl FnOnce() -> T) -> Arc<T> {
        let key = self.scope.clone();
        self.keep_as(key, fresh)
    }

    /// The same for state that is shared by all who name the same key: `jwks:https://...`.
    pub fn keep_as<T: State>(&mut self, key: String, fresh: impl FnOnce() -> T) -> Arc<T> {
        self.kept.keep(self.previous, key, fresh)
    }

    /// The upstream of this name; none if it could not be compiled, which is reported already.
    pub fn upstream(&self, name: &Name) -> Option<Arc<Upstream>> {
        self.upstreams.get(name).map(Arc::clone)
    }

    /// What asks the upstream of this name. That it is there was checked.
    pub fn asker(&mut self, name: &Name, bounds: Bounds) -> Result<Asker, String> {
        let upstream = self.upstream(name).ok_or_else(|| format!("no upstream is named `{name}`"))?;
        let connections = self.keep_as("asked".into(), Connections::default);
        Ok(Asker::new(upstream, connections, bounds))
    }

    /// The store of this name. That it is there was checked.
    pub fn store(&mut self, name: &Name) -> Result<Arc<Store>, String> {
        let config = self.config;
        let settings = config.stores.get(name).ok_or_else(|| format!("no store is named `{name}`"))?;
        Store::compile(name, settings, self)
    }

    /// Names cookies that no upstream gets to see, whatever its route.
    pub fn session_cookies(&mut self, jar: Jar) -> Arc<Jar> {
        if let Some(known) = self.cookies.iter().find(|known| ***known == jar) {
            return Arc::clone(known);
        }
        let jar = Arc::new(jar);
        self.cookies.push(Arc::clone(&jar));
        jar
    }

    /// Adds work that goes on in the background for as long as a snapshot asks for it.
    pub fn background(&mut self, task: Task) {
        if self.tasks.iter().all(|known| known.key != task.key) {
            self.tasks.push(task);
        }
    }

    /// Where something stands in the file.
    pub fn place(&self, way: &[Step]) -> Place {
        self.config.place(way)
    }

    /// Reports what makes the file unusable.
    pub fn fail(&mut self, why: Diagnostic) {
        self.found.push(why);
    }
}

/// Work in the background. It runs from the first snapshot that asks for its key to the last one that does;
/// a snapshot with the same key leaves it alone.
pub struct Task {
    /// What it does, and with which settings.
    pub key: String,
    pub(super) start: Box<dyn FnOnce(Ready) -> Running + Send>,
}

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Task {
    /// Work that says when it has done for the first time what requests wait for. It is ended by being dropped.
    pub fn new<F>(key: String, work: impl FnOnce(Ready) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self { key, start: Box::new(move |ready| Box::pin(work(ready))) }
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Task").field(&self.key).finish()
    }
}

/// Says that a [`Task`] has done its first round, well or badly; dropping it says so too.
#[derive(Debug)]
pub struct Ready(pub(super) watch::Sender<bool>);

impl Ready {
    /// The first round is done: a new snapshot need not wait any longer.
    pub fn done(self) {
        drop(self);
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}
