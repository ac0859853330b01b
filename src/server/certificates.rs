//! The TLS of all listeners: read with the file, taken over by a reload, and again when its files change.

use std::sync::Arc;

use crate::{
    clock::Clock,
    config::{Diagnostic, Report, Validated, steps},
    runtime::Services,
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
    /// Serves what was read.
    pub(super) fn new(read: Vec<Option<Loaded>>, services: &Services) -> std::io::Result<Self> {
        warn(&read, &services.clock);
        let new =
            |loaded: Loaded| Terminator::new(loaded, Arc::clone(&services.metrics)).map_err(std::io::Error::other);
        let all = read.into_iter().map(|loaded| loaded.map(new).transpose());
        Ok(Self(all.collect::<Result<_, _>>()?))
    }

    /// The one of a listener.
    pub(super) fn get(&self, listener: usize) -> Option<Arc<Terminator>> {
        self.0.get(listener)?.clone()
    }

    /// Serves this from now on.
    pub(super) fn swap(&self, read: Vec<Option<Loaded>>, clock: &Clock) {
        warn(&read, clock);
        for (terminator, loaded) in self.0.iter().zip(read) {
            if let (Some(terminator), Some(loaded)) = (terminator, loaded)
                && let Err(error) = terminator.swap(loaded)
            {
                log::error!("TLS stays as it was: {error}");
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
