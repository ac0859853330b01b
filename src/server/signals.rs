//! Signals.

use std::io;

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2},
    iterator::Signals,
};
use tokio::sync::mpsc;

use super::{asks::Ask, drain::Stop};

/// What signals ask for.
pub(super) struct Requests {
    /// SIGHUP, SIGUSR1, SIGUSR2 and SIGQUIT, and whoever else asks.
    pub(super) asks: mpsc::UnboundedReceiver<Ask>,
    /// The other end of `asks`.
    pub(super) ask: mpsc::UnboundedSender<Ask>,
    /// What ends the process.
    pub(super) stops: mpsc::UnboundedReceiver<Stop>,
    /// The other end of `stops`.
    pub(super) stop: mpsc::UnboundedSender<Stop>,
}

/// Installs the handlers. This comes first, because a SIGHUP without a handler ends a process.
pub(super) fn install() -> io::Result<Requests> {
    let mut signals = Signals::new([SIGHUP, SIGUSR1, SIGUSR2, SIGQUIT, SIGTERM, SIGINT])?;
    let (ask, asks) = mpsc::unbounded_channel();
    let (stop, stops) = mpsc::unbounded_channel();
    let requests = Requests { asks, ask: ask.clone(), stops, stop: stop.clone() };
    let send = move |signal| match signal {
        SIGHUP => ask.send(Ask::reload()).is_ok(),
        SIGUSR1 => ask.send(Ask::reopen()).is_ok(),
        SIGUSR2 | SIGQUIT => ask.send(Ask::upgrade()).is_ok(),
        SIGINT => stop.send(Stop::Fast("SIGINT")).is_ok(),
        _ => stop.send(Stop::Signal("SIGTERM")).is_ok(),
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if !send(signal) {
                log::debug!("signal {signal}: the process stops already");
            }
        }
    })?;
    Ok(requests)
}
