//! The TLS of all listeners: read with the file, taken over by a reload, and again when its files change.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;

use crate::{
    clock::Clock,
    config::{Diagnostic, Report, Validated, steps},
    runtime::Runtime,
    tls::{Terminator, files::Loaded, state::CertificateState},
};

/// Reads what every listener needs, in the order of the file; `None` for one that speaks plain text. Says everything that is wrong.
pub(super) fn read(config: &Validated) -> Result<Vec<Option<Loaded>>, Report> {
    let mut found = Vec::new();
    let mut all = Vec::with_capacity(config.listeners.len());
    for (i, listener) in config.listeners.iter().enumerate() {
        match listener.tls.as_ref().map(Loaded::read).transpose() {
            Ok(loaded) => all.push(loaded),
            Err(errors) => found.extend(errors.into_iter().map(|(way, why)| {
                Diagnostic::error(config.place(&[&steps!["listeners", i, "tls"], &*way].concat()), why)
            })),
        }
    }
    if found.is_empty() { Ok(all) } else { Err(config.report(found)) }
}

/// What terminates TLS, in the order of the listeners, and who is looking at its files.
#[derive(Clone, Debug)]
pub(super) struct Terminators(Arc<[Option<Arc<Terminator>>]>, Arc<Mutex<()>>);

impl Terminators {
    /// Serves what was read, and what an authority issues.
    pub(super) fn new(read: Vec<Option<Loaded>>, runtime: &Runtime) -> std::io::Result<Self> {
        let services = runtime.services();
        warn(&read, &services.clock);
        let new =
            |loaded: Loaded| Terminator::new(loaded, Arc::clone(&services.metrics)).map_err(std::io::Error::other);
        let all = read.into_iter().map(|loaded| loaded.map(new).transpose());
        let all = Self(all.collect::<Result<_, _>>()?, Arc::default());
        all.issue(runtime);
        Ok(all)
    }

    /// The one of a listener.
    pub(super) fn get(&self, listener: usize) -> Option<Arc<Terminator>> {
        self.0.get(listener)?.clone()
    }

    /// Serves this from now on.
    pub(super) fn swap(&self, read: Vec<Option<Loaded>>, runtime: &Runtime) {
        warn(&read, &runtime.services().clock);
        for (terminator, loaded) in self.0.iter().zip(read) {
            if let (Some(terminator), Some(loaded)) = (terminator, loaded)
                && let Err(error) = terminator.swap(loaded)
            {
                log::error!("TLS stays as it was: {error}");
            }
        }
        self.issue(runtime);
    }

    fn issue(&self, runtime: &Runtime) {
        let acme = runtime.snapshot().acme.clone();
        for (i, terminator) in self.0.iter().enumerate() {
            if let Some(terminator) = terminator {
                terminator.issue(acme.as_ref().map(|acme| acme.names(i)).unwrap_or_default());
            }
        }
    }

    /// Looks whether files have changed. What several listeners say is said once.
    pub(super) fn refresh(&self, now: u64) {
        // Where a disk does not answer, the one look that waits for it is enough.
        let Some(_alone) = self.1.try_lock() else { return };
        let (mut changed, mut errors, mut warnings) = (false, BTreeSet::new(), BTreeSet::new());
        for refreshed in self.0.iter().flatten().filter_map(|terminator| terminator.refresh(now)) {
            changed = true;
            errors.extend(refreshed.errors);
            warnings.extend(refreshed.warnings);
        }
        for why in &errors {
            log::error!("files of TLS have changed, but those before are served on: {why}");
        }
        if changed && errors.is_empty() {
            log::info!("files of TLS have changed, and are served now");
        }
        for warning in warnings {
            log::warn!("{warning}");
        }
    }

    /// How it stands with the certificates; one that several listeners serve is there once.
    pub(super) fn states(&self, now: u64) -> Vec<CertificateState> {
        let mut all = Vec::new();
        for state in self.0.iter().flatten().flat_map(|terminator| terminator.states(now)) {
            if !all.contains(&state) {
                all.push(state);
            }
        }
        all
    }
}

fn warn(read: &[Option<Loaded>], clock: &Clock) {
    for warning in read.iter().flatten().flat_map(|loaded| loaded.warnings(clock.unix().as_secs())) {
        log::warn!("{warning}");
    }
}
