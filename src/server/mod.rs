//! The process: sockets, services, signals, reload.
//!
//! Everything that can fail is done before the first service starts: the file is read and compiled, the sockets are bound.
//! Then Pingora runs three services: `background` (names, keys, health, reloads), `proxy` and `admin`; the other two wait
//! until `background` has done its first round.
//!
//! | signal | effect |
//! |---|---|
//! | SIGHUP | reads the configuration again, opens the access log again |
//! | SIGTERM, SIGINT, SIGQUIT | stops accepting, lets requests in flight end (at most `shutdown.grace`), exits |
//! | the same once more | exits at once |

mod background;
mod facts;
mod listening;
mod signals;
mod sockets;

use std::{path::PathBuf, sync::Arc};

use pingora::{
    listeners::{ListenerConfig, Listeners as PingoraListeners},
    server::{RunArgs, Server, configuration::ServerConf},
    services::{background::GenBackgroundService, listening::Service},
};
use tokio::sync::watch;

use self::{background::Background, facts::ProcessFacts, listening::Listening, sockets::Socket};
use crate::{
    clock::Clock,
    config::{self, Report, Validated},
    proxy::{
        Gateway,
        accept::Acceptor,
        connection::{Limits, Listeners},
        in_flight::Flights,
    },
    runtime::{Runtime, Services},
    telemetry::metrics::Metrics,
    tls::Resolver,
};

/// Why a process could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is refused.
    #[error("{0}")]
    Config(Report),
    /// A socket could not be bound.
    #[error("cannot listen on {address}: {error}{}", hint(.error))]
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

fn hint(error: &std::io::Error) -> &'static str {
    if error.kind() == std::io::ErrorKind::AddrInUse {
        " (another process listens there: `ss -ltnp` names it)"
    } else if error.kind() == std::io::ErrorKind::PermissionDenied {
        " (ports below 1024 need CAP_NET_BIND_SERVICE: see AmbientCapabilities in systemd/torana.service)"
    } else {
        ""
    }
}

/// Serves a configuration until a signal ends it. `path` is where reloads read it again.
pub fn run(config: &Validated, path: Option<PathBuf>) -> Result<(), StartError> {
    let signals = signals::install()?;
    let services = Services { clock: Clock::default(), metrics: Arc::new(Metrics::new()), probe: false };
    let runtime = Runtime::new(config, services).map_err(StartError::Config)?;
    let runtime = Arc::new(runtime);
    let certificates = sockets::certificates(config).map_err(StartError::Config)?;
    let resolvers: Vec<_> = certificates.into_iter().map(|all| all.map(Resolver::new)).collect();
    let sockets = sockets::bind_all(config)?;
    let (stop, stopped) = watch::channel(false);
    let flights = Flights::default();
    let facts = Arc::new(ProcessFacts::new(Arc::clone(&runtime), &sockets, stopped.clone(), flights.clone()));

    let conf = server_conf(config);
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let proxy = proxy_service(&server, config, &runtime, sockets.listeners, &resolvers, &flights)?;
    let background =
        Background::new(Arc::clone(&runtime), path, config, signals.reloads, Arc::clone(&facts), resolvers);
    let mut background = GenBackgroundService::new("background".into(), Arc::new(background));
    background.threads = Some(2);
    let background = server.add_service(background);

    let handle = server.add_service(Listening::new(proxy, stopped));
    handle.add_dependency(&background);
    // The admin listener answers to the end: who drains the process wants to see how it goes.
    let (_never, on) = watch::channel(false);
    if let (Some(socket), Some(admin)) = (sockets.admin, &config.admin) {
        let mut service = Service::new("admin".into(), facts::app(admin, &facts));
        service.threads = Some(1);
        service.add_listener(socket.listener_config());
        let handle = server.add_service(Listening::new((service, vec![socket]), on));
        handle.add_dependency(&background);
    }
    let drain = signals::Drain::new(signals.stops, stop, flights, config.shutdown.grace.0);
    server.run(RunArgs { shutdown_signal: Box::new(drain) });
    if let Some(log) = &runtime.snapshot().access_log {
        log.flush();
    }
    log::info!("stopped");
    Ok(())
}

/// Finds out whether a configuration could be run, without opening anything.
pub fn probe(config: &Validated) -> Result<(), Report> {
    let services = Services { clock: Clock::default(), metrics: Arc::new(Metrics::new()), probe: true };
    Runtime::new(config, services).map(drop)?;
    sockets::certificates(config).map(drop)
}

fn server_conf(config: &Validated) -> ServerConf {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    ServerConf {
        threads: config.workers.map_or(cpus, usize::from),
        // Measured: work stealing costs 7 % more CPU for each request.
        work_stealing: false,
        upstream_keepalive_pool_size: 512,
        // Counts tries; the policy of the upstream ends them earlier.
        max_retries: 16,
        // `signals::Drain` has waited already when Pingora gets to know.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    }
}

type ProxyService = (Service<Acceptor>, Vec<Socket>);

fn proxy_service(
    server: &Server,
    config: &Validated,
    runtime: &Arc<Runtime>,
    sockets: Vec<Socket>,
    resolvers: &[Option<Arc<Resolver>>],
    flights: &Flights,
) -> Result<ProxyService, StartError> {
    let listeners = config.listeners.iter().zip(&sockets);
    let limits = listeners.filter_map(|(listener, socket)| Some((socket.inet()?, Limits::new(listener))));
    let gateway = Gateway::new(Arc::clone(runtime), Listeners::new(limits), flights.clone());
    let mut proxy = pingora_proxy::http_proxy(&server.configuration, gateway.clone());
    let mut options = pingora::apps::HttpServerOptions::default();
    // `Acceptor` hands plain-text connections over only after it has seen the preface of HTTP/2.
    options.h2c = true;
    options.h2_idle_timeout = config.listeners.iter().map(|listener| listener.idle_timeout.0).max();
    proxy.server_options = Some(options);
    let mut endpoints = PingoraListeners::new();
    for (socket, resolver) in sockets.iter().zip(resolvers) {
        let mut endpoint: ListenerConfig = socket.listener_config();
        if let Some(resolver) = resolver {
            let settings = resolver.settings().map_err(|error| StartError::System(std::io::Error::other(error)))?;
            endpoint = endpoint.tls(settings);
        }
        endpoints.add_listener(endpoint);
    }
    let acceptor = Acceptor::new(Arc::new(proxy), gateway);
    Ok((Service::with_listeners("proxy".into(), endpoints, acceptor), sockets))
}

/// Reads, checks and compiles the file at `path`; warnings are handed to `warn`.
pub fn load(path: &std::path::Path, warn: &mut dyn FnMut(&Report)) -> Result<Validated, Report> {
    let (config, report) = config::load(path)?;
    if !report.found.is_empty() {
        warn(&report);
    }
    Ok(config)
}
