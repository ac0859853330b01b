//! The end of a process: by a signal, or because another one has taken over.
//!
//! | | stopped | replaced |
//! |---|---|---|
//! | new connections | refused | go to the new process |
//! | HTTP/2 | GOAWAY; streams end | the same |
//! | idle connections | closed at once | the next response says `Connection: close`; what stays idle is closed after `shutdown.grace` |
//! | requests in flight | end within `shutdown.grace` | the same |
//! | WebSockets | end within `shutdown.grace` | end within `upgrade.websocket_grace` |
//!
//! A second signal ends it at once.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::sync::{Mutex, mpsc, watch};

use super::{
    handover::{Predecessor, Successor},
    systemd,
};
use crate::{
    admin::status::Draining,
    proxy::in_flight::{Flights, Kind},
};

/// Why a process ends.
#[derive(Debug)]
pub(super) enum Stop {
    /// A signal, by name.
    Signal(&'static str),
    /// A signal that does not wait.
    Fast(&'static str),
    /// Another process has taken over.
    Replaced(Successor),
    /// The process that has taken over stops, and with it the service.
    WithSuccessor,
    /// The process that has taken over is gone: only when this one is gone too does the service manager see that.
    SuccessorGone,
}

/// What a process tells its parts when it ends.
#[derive(Clone, Debug)]
pub(super) struct Switches {
    /// No new connections; HTTP/2 says GOAWAY.
    pub(super) stop: watch::Sender<bool>,
    /// Idle connections end.
    pub(super) leave: watch::Sender<bool>,
    /// The admin listener ends.
    pub(super) admin: watch::Sender<bool>,
}

impl Switches {
    pub(super) fn new() -> Self {
        let switch = || watch::Sender::new(false);
        Self { stop: switch(), leave: switch(), admin: switch() }
    }
}

/// How long what is in flight may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grace {
    pub(super) requests: Duration,
    pub(super) web_sockets: Duration,
}

/// Ends the process once what is in flight has ended.
pub(super) struct Drain {
    pub(super) stops: Mutex<mpsc::UnboundedReceiver<Stop>>,
    pub(super) switches: Switches,
    pub(super) flights: Flights,
    pub(super) grace: Grace,
    pub(super) predecessor: Option<Predecessor>,
}

/// For what has just been told to end.
const MOMENT: Duration = Duration::from_millis(500);

/// What a signal that does not wait leaves to requests that are nearly done.
const FAST: Duration = Duration::from_secs(1);

/// Between two looks at what is left.
const LOOK: Duration = Duration::from_millis(25);

impl Drain {
    /// Requests in flight end, or are cut off in the end.
    async fn stop(&self, signal: &str, grace: Duration, stops: &mut mpsc::UnboundedReceiver<Stop>) {
        let began = Instant::now();
        let requests = self.flights.count(Kind::Request);
        log::info!("{signal}: no new connections; {requests} requests in flight may take {grace:?} to end");
        systemd::stopping(&format!("stops; {requests} requests may take {grace:?} to end"));
        let before = self.predecessor.as_ref().map(|before| {
            before.stop();
            before.draining()
        });
        self.switches.stop.send_replace(true);
        self.switches.leave.send_replace(true);
        let mut quiet = 0;
        // What has just been answered may still be on its way to the socket: two quiet moments in a row are needed.
        while quiet < 2 {
            let alone = before.as_ref().is_none_or(|before| before.borrow().is_none());
            let requests = self.flights.count(Kind::Request);
            quiet = if requests == 0 && alone { quiet + 1 } else { 0 };
            // The process before has as much time, and got to know a little later.
            let grace = if requests == 0 { grace + Duration::from_secs(1) } else { grace };
            if began.elapsed() > grace {
                log::warn!("{requests} requests did not end in time and are cut off");
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                again = stops.recv() => {
                    let name = if let Some(Stop::Signal(name) | Stop::Fast(name)) = again { name } else { "the end" };
                    log::warn!("{name} once more: {requests} requests are cut off");
                    break;
                }
            }
        }
    }

    /// Everything ends in its own time, while the other process serves.
    async fn leave(&self, successor: &Successor, stops: &mut mpsc::UnboundedReceiver<Stop>) {
        let began = Instant::now();
        let mut until = Until::new(self.grace);
        log::info!(
            "process {} has taken over; {} connections with {} requests may take {:?} to end",
            successor.pid,
            self.flights.count(Kind::Connection),
            self.flights.count(Kind::Request),
            until.requests,
        );
        self.flights.close();
        self.switches.stop.send_replace(true);
        self.switches.admin.send_replace(true);
        let (mut told, mut quiet) = (None, 0);
        // What has just been accepted may not be counted yet: several quiet moments in a row are needed.
        while quiet < 4 {
            let passed = began.elapsed();
            let left = self.left(until.web_sockets.saturating_sub(passed));
            if told != Some(passed.as_secs()) {
                told = Some(passed.as_secs());
                successor.draining(left);
            }
            quiet = if left.connections == 0 { quiet + 1 } else { 0 };
            if passed > until.idle && !self.switches.leave.send_replace(true) {
                log::info!("{} connections are still there; those that are idle are closed", left.connections);
            }
            if passed > until.end(&left) {
                return log::warn!("{} requests did not end in time and are cut off", left.requests);
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                news = stops.recv() => match news {
                    Some(Stop::WithSuccessor) => until.stop(passed, self.grace),
                    other => return log::warn!("{}: {} requests are cut off", reason(other.as_ref()), left.requests),
                },
            }
        }
        log::info!("everything has ended");
    }

    fn left(&self, time: Duration) -> Draining {
        Draining {
            pid: std::process::id(),
            connections: self.flights.count(Kind::Connection),
            requests: self.flights.count(Kind::Request),
            web_sockets: self.flights.count(Kind::WebSocket),
            seconds_left: time.as_secs(),
        }
    }
}

/// When what is left in a process that was replaced has to end, since then.
#[derive(Debug)]
struct Until {
    idle: Duration,
    requests: Duration,
    web_sockets: Duration,
}

impl Until {
    fn new(grace: Grace) -> Self {
        let Grace { requests, web_sockets } = grace;
        Self { idle: requests, requests, web_sockets: requests.max(web_sockets) }
    }

    /// The service stops: from now on the grace of a stop counts.
    fn stop(&mut self, now: Duration, grace: Grace) {
        let requests = now + grace.requests;
        *self = Self { idle: now, requests, web_sockets: requests };
    }

    /// When the process ends, whatever is left.
    fn end(&self, left: &Draining) -> Duration {
        let last = if left.web_sockets == 0 { self.requests } else { self.web_sockets };
        last + MOMENT
    }
}

/// Why it ends before its time.
fn reason(stop: Option<&Stop>) -> &'static str {
    match stop {
        Some(Stop::Signal(name) | Stop::Fast(name)) => name,
        // Only when this process is gone too does the service manager see that, and start another one.
        Some(Stop::SuccessorGone) => "the process that had taken over is gone",
        Some(Stop::Replaced(_) | Stop::WithSuccessor) | None => "the end",
    }
}

#[async_trait]
impl ShutdownSignalWatch for Drain {
    async fn recv(&self) -> ShutdownSignal {
        let mut stops = self.stops.lock().await;
        loop {
            match stops.recv().await {
                Some(Stop::Replaced(successor)) => self.leave(&successor, &mut stops).await,
                Some(Stop::Signal(name)) => self.stop(name, self.grace.requests, &mut stops).await,
                Some(Stop::Fast(name)) => self.stop(name, FAST.min(self.grace.requests), &mut stops).await,
                // Of a process that never took over.
                Some(Stop::WithSuccessor | Stop::SuccessorGone) => continue,
                None => self.stop("the end", self.grace.requests, &mut stops).await,
            }
            // Everything that had to be waited for has been.
            return ShutdownSignal::FastShutdown;
        }
    }
}
