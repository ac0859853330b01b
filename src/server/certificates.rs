//! The TLS of all listeners: read with the file, taken over by a reload, and again when its files change.

use std::sync::Arc;

use crate::{
    clock::Clock,
    config::{Diagnostic, Report, Validated, steps},
    runtime::Runtime,
    tls::{
        Terminator,
        state::CertificateState,
        terminator::{Loaded, TlsError},
    },
};

/// Reads what every listener needs, in the order of the file; `None` for one that speaks plain text.
pub(super) fn read(config: &Validated) -> Result<Vec<Option<Loaded>>, Report> {
    let all = config.listeners.iter().enumerate().map(|(i, listener)| {
        let read = listener.tls.as_ref().map(Loaded::read).transpose();
        read.map_err(|(way, why): TlsError| {
            let place = config.place(&[&steps!["listeners", i, "tls"], &*way].concat());
            config.report(vec![Diagnostic::error(place, why)])
        })
    });
    all.collect()
}

/// What terminates TLS, in the order of the listeners.
#[derive(Clone, Debug)]
pub(super) struct Terminators(Arc<[Option<Arc<Terminator>>]>);

impl Terminators {
    /// Serves what was read, and what an authority issues.
    pub(super) fn new(read: Vec<Option<Loaded>>, runtime: &Runtime) -> std::io::Result<Self> {
        let services = runtime.services();
        warn(&read, &services.clock);
        let new =
            |loaded: Loaded| Terminator::new(loaded, Arc::clone(&services.metrics)).map_err(std::io::Error::other);
        let all = read.into_iter().map(|loaded| loaded.map(new).transpose());
        let all = Self(all.collect::<Result<_, _>>()?);
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

    /// Looks whether files have changed.
    pub(super) fn refresh(&self) {
        for terminator in self.0.iter().flatten() {
            match terminator.refresh() {
                None => {}
                Some(Ok(())) => log::info!("files of TLS have changed, and are served now"),
                Some(Err(why)) => log::error!("files of TLS have changed, but those before are served on: {why}"),
            }
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
    for warning in read.iter().flatten().flat_map(|loaded| loaded.warnings(clock)) {
        log::warn!("{warning}");
    }
}
