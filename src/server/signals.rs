//! Signals, and the end of the process.

use std::{
    io,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    iterator::Signals,
};
use tokio::sync::{Mutex, mpsc, watch};

use crate::proxy::in_flight::Flights;

/// What signals ask for.
pub(super) struct Requests {
    /// SIGHUP.
    pub(super) reloads: mpsc::UnboundedReceiver<()>,
    /// The signals that end the process, by name.
    pub(super) stops: mpsc::UnboundedReceiver<&'static str>,
}

/// Installs the handlers. This comes first, because a SIGHUP without a handler ends a process.
pub(super) fn install() -> io::Result<Requests> {
    let mut signals = Signals::new([SIGHUP, SIGTERM, SIGINT, SIGQUIT])?;
    let (reload, reloads) = mpsc::unbounded_channel();
    let (stop, stops) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            let name = match signal {
                SIGHUP => {
                    if reload.send(()).is_err() {
                        log::warn!("SIGHUP: the process stops, so nothing is loaded");
                    }
                    continue;
                }
                SIGINT => "SIGINT",
                SIGQUIT => "SIGQUIT",
                _ => "SIGTERM",
            };
            if stop.send(name).is_err() {
                log::debug!("{name}: the process stops already");
            }
        }
    })?;
    Ok(Requests { reloads, stops })
}

/// Ends the process once requests in flight have ended.
pub(super) struct Drain {
    stops: Mutex<mpsc::UnboundedReceiver<&'static str>>,
    stop: watch::Sender<bool>,
    flights: Flights,
    grace: Duration,
}

impl Drain {
    pub(super) fn new(
        stops: mpsc::UnboundedReceiver<&'static str>,
        stop: watch::Sender<bool>,
        flights: Flights,
        grace: Duration,
    ) -> Self {
        Self { stops: Mutex::new(stops), stop, flights, grace }
    }
}

#[async_trait]
impl ShutdownSignalWatch for Drain {
    async fn recv(&self) -> ShutdownSignal {
        let mut stops = self.stops.lock().await;
        let signal = stops.recv().await.unwrap_or("SIGTERM");
        let began = Instant::now();
        log::info!(
            "{signal}: no new connections; {} requests in flight may take {:?} to end",
            self.flights.count(),
            self.grace
        );
        self.stop.send_replace(true);
        let mut quiet = 0;
        // What has just been answered may still be on its way to the socket: two quiet moments in a row are needed.
        while quiet < 2 {
            quiet = if self.flights.count() == 0 { quiet + 1 } else { 0 };
            if began.elapsed() > self.grace {
                log::warn!("{} requests did not end in time and are cut off", self.flights.count());
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(25)) => {}
                again = stops.recv() => {
                    let again = again.unwrap_or("SIGTERM");
                    log::warn!("{again} once more: {} requests are cut off", self.flights.count());
                    break;
                }
            }
        }
        // Everything that had to be waited for has been.
        ShutdownSignal::FastShutdown
    }
}
