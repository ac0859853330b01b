//! Background work: the first round of names and keys, then what the process is asked to do, one thing after the other.
//!
//! What a running process cannot change (its sockets, its threads) is changed by handing over to a new process, so that a
//! reload always takes over the whole file. A hand-over waits until the process before has ended: there are never more
//! than two.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use pingora::{
    server::ShutdownWatch,
    services::{ServiceReadyNotifier, background::BackgroundService},
};
use tokio::sync::{Mutex, mpsc, watch};

use super::{
    asks::{Ask, What},
    bound::Bound,
    certificates::Terminators,
    control::Control,
    drain::Stop,
    facts::ProcessFacts,
    handover::{self, Offer, Predecessor, Successor},
    heartbeat::Heartbeat,
    last_good::LastGood,
    reader::Reader,
    sockets::Kept,
    systemd, watcher,
};
use crate::{
    admin::status::Draining,
    config::{Report, Validated},
    runtime::Runtime,
};

/// An editor writes a file in several steps; this is how long they may take.
const SETTLE: Duration = Duration::from_millis(150);

pub(super) struct Background {
    pub(super) runtime: Arc<Runtime>,
    /// Where the configuration is read again; the demo has none.
    pub(super) path: Option<PathBuf>,
    pub(super) program: PathBuf,
    pub(super) bound: Bound,
    pub(super) asks: Mutex<mpsc::UnboundedReceiver<Ask>>,
    pub(super) stop: mpsc::UnboundedSender<Stop>,
    pub(super) facts: Arc<ProcessFacts>,
    pub(super) terminators: Terminators,
    /// Second descriptors of the sockets, until another process has them.
    pub(super) kept: parking_lot::Mutex<Vec<Kept>>,
    pub(super) predecessor: Option<Predecessor>,
    pub(super) ready_within: Duration,
    pub(super) heartbeat: Heartbeat,
    pub(super) last_good: LastGood,
    pub(super) control: Option<Arc<Control>>,
    pub(super) reader: Reader,
}

impl Background {
    /// Takes over from the process before, if there is one, and says that requests are served.
    async fn begin(&self, ready: ServiceReadyNotifier) {
        self.runtime.warm_up().await;
        let Some(before) = self.predecessor.clone() else {
            self.facts.started();
            ready.notify_ready();
            systemd::ready(&self.facts.summary());
            return;
        };
        let asking = before.clone();
        let state = tokio::task::spawn_blocking(move || asking.ready()).await.map_err(std::io::Error::other);
        match state.and_then(|state| state) {
            Ok(state) => self.runtime.import(&state),
            Err(error) => {
                log::error!("process {} did not hand over: {error}", before.pid());
                self.facts.exit();
                return;
            }
        }
        if let Some(control) = &self.control {
            control.take_over();
        }
        self.facts.started();
        ready.notify_ready();
        let (asking, facts) = (before.clone(), Arc::clone(&self.facts));
        let follow = move || {
            if let Err(error) = asking.serving() {
                log::warn!("process {} did not wait to be replaced: {error}", asking.pid());
            }
            log::info!("took over from process {}", asking.pid());
            systemd::ready(&facts.summary());
            asking.follow();
        };
        if let Err(error) = std::thread::Builder::new().name("predecessor".into()).spawn(follow) {
            log::error!("the process before cannot be followed: {error}");
        }
    }

    /// Does what is asked, or keeps it for later.
    async fn answer(&self, ask: Ask, later: &mut Vec<Ask>) {
        match ask.what {
            What::Reload => self.reload(ask, later).await,
            What::Upgrade => self.upgrade(ask, later).await,
            What::Reopen => {
                self.reopen();
                ask.end(Ok("the access log is open again".into()));
            }
        }
    }

    fn reopen(&self) {
        if let Some(log) = &self.runtime.snapshot().access_log {
            log.reopen();
        }
    }

    async fn reload(&self, ask: Ask, later: &mut Vec<Ask>) {
        let Some(path) = &self.path else {
            return ask.end(Err("there is no configuration file to read again".into()));
        };
        self.reopen();
        systemd::reloading();
        let outcome = match self.reader.read(path.clone()).await {
            Ok(Ok(config)) if !self.bound.fits(&config) => match super::probe(&config) {
                Ok(_) => return self.replace(ask, later, &self.bound.difference(&config)).await,
                Err(report) => Err(report),
            },
            Ok(Ok(config)) => self.take_over(&config).await,
            Ok(Err(report)) => Err(report),
            Err(error) => return ask.end(Err(format!("the reload broke off: {error}"))),
        };
        self.note(path, outcome, &ask);
    }

    /// Says what came of a reload, everywhere.
    fn note(&self, path: &Path, outcome: Result<u64, Report>, ask: &Ask) {
        match outcome {
            Ok(generation) => {
                self.runtime.note(Ok(generation));
                self.last_good.save(path);
                self.facts.recovered();
                ask.end(Ok(format!("generation {generation} is live")));
            }
            Err(report) => {
                self.runtime.note(Err(&report));
                let summary = report.summary();
                ask.end(Err(format!(
                    "the configuration is refused, the one before keeps running: {summary}\n{report}"
                )));
            }
        }
        systemd::ready(&self.facts.summary());
    }

    async fn take_over(&self, config: &Validated) -> Result<u64, Report> {
        let read = super::certificates::read(config)?;
        let generation = self.runtime.install(config).await?;
        self.terminators.swap(read, &self.runtime);
        Ok(generation)
    }

    async fn upgrade(&self, ask: Ask, later: &mut Vec<Ask>) {
        if self.path.is_none() {
            return ask.end(Err("the demo cannot be upgraded: its endpoints would end with this process".into()));
        }
        self.replace(ask, later, "an upgrade was asked for").await;
    }

    /// Hands over to a new process, or does it later if the one before this still has something to do.
    async fn replace(&self, ask: Ask, later: &mut Vec<Ask>, why: &str) {
        if let Some(Draining { pid, requests, seconds_left, .. }) = self.still_there() {
            ask.progress(format!(
                "{why}: waiting until process {pid} has ended, which has {requests} requests left and takes at most {seconds_left} s"
            ));
            later.push(ask);
            return;
        }
        ask.progress(format!("{why}: handing over to a new process"));
        systemd::status("hands over to a new process");
        match self.hand_over(&ask).await {
            Ok(successor) => {
                let (pid, version) = (successor.pid, &successor.version);
                let (own, me) = (env!("CARGO_PKG_VERSION"), std::process::id());
                ask.end(Ok(format!(
                    "process {pid} (version {version}) has taken over from process {me} (version {own})"
                )));
                ask.heard().await;
                self.end(Stop::Replaced(successor));
            }
            Err(why) => {
                self.runtime.note_failure(&why);
                systemd::ready(&self.facts.summary());
                ask.end(Err(format!("the hand-over failed, this process keeps serving: {why}")));
            }
        }
    }

    fn end(&self, why: Stop) {
        if self.stop.send(why).is_err() {
            log::debug!("this process ends already");
        }
    }

    async fn hand_over(&self, ask: &Ask) -> Result<Successor, String> {
        let kept = std::mem::take(&mut *self.kept.lock());
        let (runtime, program, within) = (Arc::clone(&self.runtime), self.program.clone(), self.ready_within);
        let (steps, mut said) = mpsc::unbounded_channel();
        let start = tokio::task::spawn_blocking(move || {
            let offer = Offer {
                sockets: &kept,
                seeds: runtime.services().seeds,
                export: &|| runtime.export(),
                within,
                // Nobody listens only if the process ends.
                progress: &|step| drop(steps.send(step)),
            };
            let started = Successor::start(&program, &offer);
            (started, kept)
        });
        while let Some(step) = said.recv().await {
            ask.progress(step);
        }
        let (started, kept) = start.await.map_err(|error| format!("it broke off: {error}"))?;
        let (successor, reaper) = match started {
            Ok(both) => both,
            Err(why) => {
                *self.kept.lock() = kept;
                return Err(why);
            }
        };
        systemd::main_process(successor.pid);
        successor.is_main();
        let stop = self.stop.clone();
        let tell = move |news| {
            let news = match news {
                handover::News::Stop => Stop::WithSuccessor,
                handover::News::Gone => Stop::SuccessorGone,
            };
            if stop.send(news).is_err() {
                log::debug!("this process ends already");
            }
        };
        reaper.watch(tell).map_err(|error| format!("no thread: {error}"))?;
        self.facts.replaced(successor.pid);
        Ok(successor)
    }

    /// What the process before still has to do; `None` if it has ended.
    fn still_there(&self) -> Option<Draining> {
        *self.predecessor.as_ref()?.draining().borrow()
    }

    /// Ready when the process before has ended.
    async fn alone(&self, draining: &mut Option<watch::Receiver<Option<Draining>>>) {
        match draining {
            Some(draining) => drop(draining.wait_for(Option::is_none).await),
            None => std::future::pending().await,
        }
    }

    fn every_second(&self) {
        self.runtime.services().clock.sync();
        self.runtime.sweep();
        self.facts.count();
        let (terminators, now) = (self.terminators.clone(), self.runtime.services().clock.unix().as_secs());
        // Files may be on a disk that does not answer.
        drop(tokio::task::spawn_blocking(move || terminators.refresh(now)));
        if self.heartbeat.is_missing() {
            log::error!("a thread that serves requests is stuck; the watchdog is not answered");
        } else {
            systemd::alive();
        }
    }
}

#[async_trait]
impl BackgroundService for Background {
    async fn start_with_ready_notifier(&self, mut shutdown: ShutdownWatch, ready: ServiceReadyNotifier) {
        self.begin(ready).await;
        if let Some(path) = self.path.as_deref().filter(|_| !self.facts.is_fallback()) {
            self.last_good.save(path);
        }
        let (changed, mut notices) = mpsc::unbounded_channel();
        let path = self.path.as_deref().filter(|_| self.bound.watch);
        let watcher = path.and_then(|path| watcher::watch(path, &self.bound.folders, changed.clone()));
        let mut asks = self.asks.lock().await;
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut later = Vec::new();
        loop {
            let mut draining = self.predecessor.as_ref().filter(|_| !later.is_empty()).map(Predecessor::draining);
            let ask = tokio::select! {
                _ = second.tick() => {
                    self.every_second();
                    continue;
                }
                ask = asks.recv() => match ask {
                    Some(ask) => ask,
                    None => break,
                },
                _ = notices.recv() => {
                    tokio::time::sleep(SETTLE).await;
                    Ask::reload()
                }
                () = self.alone(&mut draining) => later.remove(0),
                _ = shutdown.changed() => break,
            };
            // What came meanwhile is covered by the reload that starts now.
            while ask.what == What::Reload && notices.try_recv().is_ok() {}
            if let Some(pid) = self.facts.successor() {
                ask.end(Err(format!("process {pid} has taken over: ask that one")));
                continue;
            }
            self.answer(ask, &mut later).await;
        }
        drop((watcher, changed));
    }
}
