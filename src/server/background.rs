//! Background work: the first round of names and keys, then reloads by signal and by file watch.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use pingora::{
    server::ShutdownWatch,
    services::{ServiceReadyNotifier, background::BackgroundService},
};
use tokio::sync::{Mutex, mpsc};

use super::facts::ProcessFacts;
use crate::{
    config::{Report, Validated, listener::Address, telemetry::AdminAddress},
    runtime::Runtime,
    tls::Resolver,
};

/// An editor writes a file in several steps; this is how long they may take.
const SETTLE: Duration = Duration::from_millis(150);

pub(super) struct Background {
    runtime: Arc<Runtime>,
    path: Option<PathBuf>,
    watch: bool,
    bound: Bound,
    reloads: Mutex<mpsc::UnboundedReceiver<()>>,
    facts: Arc<ProcessFacts>,
    /// In the order of the listeners.
    resolvers: Vec<Option<Arc<Resolver>>>,
}

/// What the process is bound to until it ends.
#[derive(Debug, PartialEq, Eq)]
struct Bound {
    workers: Option<u16>,
    listeners: Vec<(Address, bool)>,
    admin: Option<AdminAddress>,
}

impl Bound {
    fn new(config: &Validated) -> Self {
        let listeners = config.listeners.iter();
        Self {
            workers: config.workers,
            listeners: listeners.map(|one| (one.address, one.tls.is_some())).collect(),
            admin: config.admin.as_ref().map(|admin| admin.address.clone()),
        }
    }
}

impl Background {
    pub(super) fn new(
        runtime: Arc<Runtime>,
        path: Option<PathBuf>,
        config: &Validated,
        reloads: mpsc::UnboundedReceiver<()>,
        facts: Arc<ProcessFacts>,
        resolvers: Vec<Option<Arc<Resolver>>>,
    ) -> Self {
        Self {
            runtime,
            path,
            watch: config.reload.watch,
            bound: Bound::new(config),
            reloads: Mutex::new(reloads),
            facts,
            resolvers,
        }
    }

    async fn reload(&self, path: &Path) {
        if let Some(log) = &self.runtime.snapshot().access_log {
            log.reopen();
        }
        let file = path.to_owned();
        let read = tokio::task::spawn_blocking(move || {
            super::load(&file, &mut |warnings| log::warn!("the configuration works, but:\n{warnings}"))
        });
        let outcome = match read.await {
            Ok(Ok(config)) => self.take_over(&config).await,
            Ok(Err(report)) => Err(report),
            Err(error) => {
                log::error!("the reload broke off: {error}");
                return;
            }
        };
        match &outcome {
            Ok(generation) => log::info!("generation {generation} is live"),
            Err(report) => log::error!(
                "the configuration is refused, the one before keeps running: {}\n{report}",
                report.summary()
            ),
        }
        self.runtime.note(outcome.as_ref().copied());
    }

    async fn take_over(&self, config: &Validated) -> Result<u64, Report> {
        let certificates = super::sockets::certificates(config)?;
        let generation = self.runtime.install(config).await?;
        if Bound::new(config) == self.bound {
            for (resolver, fresh) in self.resolvers.iter().zip(certificates) {
                if let (Some(resolver), Some(fresh)) = (resolver, fresh) {
                    resolver.swap(fresh);
                }
            }
        } else {
            log::warn!(
                "`workers`, `listeners` or `admin` changed: that takes a restart; everything else is taken over"
            );
        }
        Ok(generation)
    }

    /// Sends when the file notices. The folder is watched, because editors and `kubectl` replace files.
    fn watch(path: &Path, changed: mpsc::UnboundedSender<()>) -> notify::Result<RecommendedWatcher> {
        let name = path.file_name().map(ToOwned::to_owned);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            let reads = matches!(event.kind, notify::EventKind::Access(_));
            // `..data` is what Kubernetes swaps to change all files of a folder at once.
            let ours = event.paths.iter().any(|path| {
                path.file_name() == name.as_deref() || path.file_name().is_some_and(|file| file == "..data")
            });
            if ours && !reads && changed.send(()).is_err() {
                log::debug!("{name:?} changed while the process stops");
            }
        })?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        watcher.watch(folder.unwrap_or_else(|| Path::new(".")), RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }
}

#[async_trait]
impl BackgroundService for Background {
    async fn start_with_ready_notifier(&self, mut shutdown: ShutdownWatch, ready: ServiceReadyNotifier) {
        self.runtime.warm_up().await;
        self.facts.started();
        ready.notify_ready();
        let (changed, mut notices) = mpsc::unbounded_channel();
        let watcher = match &self.path {
            Some(path) if self.watch => match Self::watch(path, changed.clone()) {
                Ok(watcher) => Some(watcher),
                Err(error) => {
                    log::error!("the configuration file cannot be watched: {error}");
                    None
                }
            },
            Some(_) | None => None,
        };
        let mut reloads = self.reloads.lock().await;
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = second.tick() => {
                    self.runtime.services().clock.sync();
                    continue;
                }
                asked = reloads.recv() => if asked.is_none() { break },
                _ = notices.recv() => tokio::time::sleep(SETTLE).await,
                _ = shutdown.changed() => break,
            }
            // What came meanwhile is covered by the reload that starts now.
            while reloads.try_recv().is_ok() || notices.try_recv().is_ok() {}
            match &self.path {
                Some(path) => self.reload(path).await,
                None => log::warn!("there is no configuration file to read again"),
            }
        }
        drop((watcher, changed));
    }
}
