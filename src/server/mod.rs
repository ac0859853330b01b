//! The process: sockets, services, signals, reload.
//!
//! Everything that can fail is done before the first service starts: the file is read and compiled, the sockets are bound.
//! Then Pingora runs three services: `background` (names, keys, health, reloads), `proxy` and `admin`; the other two wait
//! until `background` has done its first round.
//!
//! | signal | effect |
//! |---|---|
//! | SIGHUP | reads the configuration again, opens the access log again |
//! | SIGUSR1 | opens the access log again |
//! | SIGUSR2 | hands over to the program on disk (`handover`) |
//! | SIGQUIT | the same: what Pingora calls a graceful upgrade |
//! | SIGTERM | stops accepting, lets requests in flight end (`drain`), exits; once more: exits at once |
//! | SIGINT | exits at once: a second is left to requests that are nearly done |

mod asks;
mod background;
mod bound;
mod certificates;
mod control;
mod drain;
mod facts;
mod files;
mod handover;
mod heartbeat;
mod last_good;
mod listening;
mod quic;
mod reader;
mod signals;
mod sockets;
mod systemd;
mod watcher;

use std::{path::PathBuf, sync::Arc};

use pingora::{
    listeners::Listeners as PingoraListeners,
    server::{RunArgs, Server, configuration::ServerConf},
    services::{background::GenBackgroundService, listening::Service},
};
use tokio::sync::watch;

use self::{
    background::Background,
    bound::Bound,
    certificates::Terminators,
    control::Control,
    drain::{Drain, Grace, Switches},
    facts::ProcessFacts,
    heartbeat::Heartbeat,
    last_good::LastGood,
    listening::Listening,
    reader::Reader,
    sockets::{Socket, Sockets},
};
pub use self::{handover::Predecessor, last_good::kept_in};
use crate::{
    clock::Clock,
    config::{self, Report, Validated, listener::Listener},
    proxy::{
        Gateway,
        accept::Acceptor,
        connection::{Alternative, Door, Limits, Listeners, Local},
        in_flight::Flights,
        room::Room,
    },
    runtime::{Runtime, Seeds, Services, max_files},
};

/// Why a process could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is refused.
    #[error("{0}")]
    Config(Report),
    /// A socket could not be bound.
    #[error("cannot listen on {address}: {error}{}", hint(.address, .error))]
    Bind {
        /// The address.
        address: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The signal handlers could not be installed, or threads not started.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

fn hint(address: &str, error: &std::io::Error) -> &'static str {
    if error.kind() == std::io::ErrorKind::AddrInUse {
        if address.starts_with("unix:") {
            " (another process listens there: `ss -lxp` names it)"
        } else if address.ends_with("(UDP)") {
            " (another process listens there: `ss -lunp` names it)"
        } else {
            " (another process listens there: `ss -ltnp` names it)"
        }
    } else if error.kind() == std::io::ErrorKind::NotFound {
        " (its folder has to be there)"
    } else if error.kind() == std::io::ErrorKind::PermissionDenied {
        " (ports below 1024 need CAP_NET_BIND_SERVICE: see AmbientCapabilities in systemd/torana.service)"
    } else {
        ""
    }
}

/// How a process is started.
#[derive(Debug, Default)]
pub struct Launch {
    /// Where reloads read the configuration again; without it there are none.
    pub path: Option<PathBuf>,
    /// The process to take over from.
    pub predecessor: Option<Predecessor>,
    /// Where what outlives a process is kept.
    pub state_directory: Option<PathBuf>,
    /// What is wrong with the file at `path`, if another one is run instead.
    pub broken: Option<Report>,
}

/// Serves a configuration until a signal ends it.
pub fn run(config: &Validated, launch: Launch) -> Result<(), StartError> {
    let Launch { path, predecessor, state_directory, broken } = launch;
    let signals = signals::install()?;
    files::raise();
    let seeds = predecessor.as_ref().map_or_else(Seeds::random, Predecessor::seeds);
    let services = Services::new(Clock::default(), seeds);
    let heartbeat = Heartbeat::new(services.clock.clone());
    let runtime = Arc::new(Runtime::new(config, services).map_err(StartError::Config)?);
    if let Some(report) = &broken {
        runtime.note(Err(report));
    }
    let read = certificates::read(config).map_err(StartError::Config)?;
    let terminators = Terminators::new(read, &runtime)?;
    let mark = quic::Mark::random();
    let mut sockets = sockets::bind_all(config, predecessor.as_ref(), mark)?;
    let switches = Switches::new();
    let room = Room::new(Flights::default(), runtime.services().clock.clone());
    files::count(&room);
    let facts = Arc::new(ProcessFacts::new(
        Arc::clone(&runtime),
        &sockets,
        switches.clone(),
        signals.stop.clone(),
        room.clone(),
        predecessor.clone(),
        (broken.map(|report| report.summary()), terminators.clone()),
    ));
    let control = Control::open(control_path(config), &facts, signals.ask, predecessor.is_none())?;
    let background = Background {
        runtime: Arc::clone(&runtime),
        path,
        program: handover::program(),
        bound: Bound::new(config),
        asks: tokio::sync::Mutex::new(signals.asks),
        stop: signals.stop,
        facts: Arc::clone(&facts),
        terminators,
        kept: parking_lot::Mutex::new(sockets.keep()?),
        predecessor: predecessor.clone(),
        ready_within: config.upgrade.ready_within.0,
        heartbeat: heartbeat.clone(),
        last_good: LastGood::new(state_directory),
        control,
        reader: Reader::default(),
    };
    let mut server = Server::new_with_opt_and_conf(None, server_conf(config));
    server.bootstrap();
    add_services(&mut server, config, &facts, sockets, background, (&switches, &room, heartbeat, mark));
    let drain = Drain {
        stops: tokio::sync::Mutex::new(signals.stops),
        switches,
        flights: *room.flights(),
        grace: Grace { requests: config.shutdown.grace.0, web_sockets: config.upgrade.websocket_grace.0 },
        predecessor,
    };
    server.run(RunArgs { shutdown_signal: Box::new(drain) });
    if let Some(log) = &runtime.snapshot().access_log {
        log.flush();
    }
    log::info!("stopped");
    Ok(())
}

fn add_services(
    server: &mut Server,
    config: &Validated,
    facts: &Arc<ProcessFacts>,
    sockets: Sockets,
    background: Background,
    (switches, room, heartbeat, mark): (&Switches, &Room, Heartbeat, quic::Mark),
) {
    let runtime = Arc::clone(&background.runtime);
    let leave = switches.leave.subscribe();
    let (service, listening, acceptor) =
        proxy_service(server, config, &runtime, sockets.listeners, &background.terminators, (room, leave));
    let quic = quic_listeners(config, sockets.quic, &background.terminators);
    let shared = quic::Shared {
        acceptor,
        stop: switches.stop.subscribe(),
        flights: *room.flights(),
        mark,
        seeds: runtime.services().seeds,
    };
    let control = background.control.clone();
    let mut background = GenBackgroundService::new("background".into(), Arc::new(background));
    background.threads = Some(2);
    let background = server.add_service(background);
    let proxy = server.add_service(
        Listening::new((service, listening), switches.stop.subscribe()).with(heartbeat).with_quic(quic, shared),
    );
    proxy.add_dependency(&background);
    if let (Some(socket), Some(admin)) = (sockets.admin, &config.admin) {
        let mut service = Service::new("admin".into(), facts::app(admin, facts));
        service.threads = Some(1);
        service.add_listener(socket.listener_config());
        // It answers to the end, unless another process does: who drains this one wants to see how it goes.
        let admin = server.add_service(Listening::new((service, vec![socket]), switches.admin.subscribe()));
        admin.add_dependency(&background);
    }
    if let Some(control) = control {
        let mut service = GenBackgroundService::new("control".into(), control);
        service.threads = Some(1);
        server.add_service(service).add_dependency(&background);
    }
}

/// The name of the control socket in a runtime directory.
pub const CONTROL_SOCKET: &str = "control.sock";

/// Where the control socket is: as the file says, or in the runtime directory that systemd made.
fn control_path(config: &Validated) -> Option<PathBuf> {
    let made = || std::env::var_os("RUNTIME_DIRECTORY").map(|directory| PathBuf::from(directory).join(CONTROL_SOCKET));
    config.control.as_ref().map(|path| path.0.clone()).or_else(made)
}

/// Finds out whether a configuration could be run, without opening anything. Returns what is doubtful about the files that it names.
pub fn probe(config: &Validated) -> Result<Vec<String>, Report> {
    let services = Services::new(Clock::default(), Seeds::random()).probing();
    let compiled = Runtime::new(config, services).map(drop);
    let now = Clock::default().unix().as_secs();
    let certificates = certificates::read(config)
        .map(|read| read.iter().flatten().flat_map(|loaded| loaded.warnings(now)).collect::<Vec<_>>());
    // Both, so that all files that are named are looked at.
    match (compiled, certificates) {
        (Err(mut report), Err(other)) => {
            report.found.extend(other.found);
            Err(report)
        }
        (compiled, certificates) => compiled.and(certificates),
    }
}

fn server_conf(config: &Validated) -> ServerConf {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    ServerConf {
        threads: config.workers.map_or(cpus, usize::from),
        // Measured: work stealing costs 7 % more CPU for each request.
        work_stealing: false,
        // Idle connections to all endpoints: with fewer than there are endpoints, each request would open one.
        upstream_keepalive_pool_size: usize::try_from(max_files() / 4).unwrap_or(usize::MAX).clamp(512, 16_384),
        // Counts tries; the policy of the upstream ends them earlier.
        max_retries: 16,
        // `signals::Drain` has waited already when Pingora gets to know.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    }
}

type ProxyService = (Service<Acceptor>, Vec<Socket>, Acceptor);

/// How HTTP/3 is served, listener by listener.
fn quic_listeners(config: &Validated, bound: sockets::Quic, terminators: &Terminators) -> Vec<quic::Listener> {
    let listener = |(position, bound): (usize, quic::Bound)| {
        let listener = config.listeners.get(position)?;
        let handshake = listener.tls.as_ref()?.handshake_timeout.0;
        let terminator = terminators.get(position)?;
        let limits = Limits::new(listener);
        // QUIC gives up a client that says nothing; how long one may have nothing to ask, HTTP/3 knows.
        let idle = limits.idle.max(limits.body);
        Some(quic::Listener { bound, options: listener.http3.options()?, terminator, idle, handshake })
    };
    bound.into_iter().filter_map(listener).collect()
}

/// The limits of a listener on this socket, beside which there may be HTTP/3.
fn limits(listener: &Listener, socket: &Socket) -> Limits {
    let options = listener.http3.options().filter(|options| !options.alt_svc_max_age.0.is_zero());
    let alternative = options.and_then(|options| match socket.local() {
        Local::Inet(local) => Some(Alternative { port: local.port(), max_age: options.alt_svc_max_age.0 }),
        Local::Unix(_) => None,
    });
    Limits { alternative, ..Limits::new(listener) }
}

fn proxy_service(
    server: &Server,
    config: &Validated,
    runtime: &Arc<Runtime>,
    sockets: Vec<Socket>,
    terminators: &Terminators,
    (room, leave): (&Room, watch::Receiver<bool>),
) -> ProxyService {
    let listeners = config.listeners.iter().zip(&sockets).enumerate();
    let doors = listeners.map(|(i, (listener, socket))| Door {
        bound: socket.local().clone(),
        limits: limits(listener, socket),
        tls: terminators.get(i),
    });
    let gateway = Gateway::new(Arc::clone(runtime), Listeners::new(doors), room.clone());
    let proxy = pingora_proxy::http_proxy(&server.configuration, gateway.clone());
    let mut endpoints = PingoraListeners::new();
    for socket in &sockets {
        endpoints.add_listener(socket.listener_config());
    }
    let acceptor = Acceptor::new(Arc::new(proxy), gateway, leave);
    let mut service = Service::with_listeners("proxy".into(), endpoints, acceptor.clone());
    service.set_connection_filter(Arc::new(room.clone()));
    (service, sockets, acceptor)
}

/// Reads, checks and compiles the file at `path`; warnings are handed to `warn`.
pub fn load(path: &std::path::Path, warn: &mut dyn FnMut(&Report)) -> Result<Validated, Report> {
    let (config, report) = config::load(path)?;
    if !report.is_empty() {
        warn(&report);
    }
    Ok(config)
}
