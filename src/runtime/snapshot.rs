//! The compiled, immutable configuration that requests run under.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::{HeaderValue, StatusCode};
use prometheus::IntCounter;

use super::{
    build::{Build, Services, Task},
    capacity::Capacity,
    carry::Carry,
    passthrough::Passthroughs,
    trust::{Introductions, Proxies, Trust},
};
use crate::pace::give_way;
use crate::{
    config::{self, Diagnostic, Validated, route::Priority, steps, types::Name, web_socket::WebSocket},
    policy::{Chain, oidc::Jar, quota::Quota, template::Template},
    release::{Mirror, Split},
    route::{RouteTable, rewrite::Rewrite, rules::Lenience},
    telemetry::{access_log::AccessLog, route_metrics::RouteMetrics},
    tls::acme::Acme,
    upstream::Upstream,
};

/// Everything a request needs to know. Never changes; a reload makes another one.
#[derive(Debug)]
pub struct Snapshot {
    /// 1 for the first one of a process, and one more with every reload that succeeds.
    pub generation: u64,
    /// Finds the route of a request.
    pub routes: RouteTable<Arc<Route>>,
    /// Policies for requests that no route takes: what is for every route runs for them too, on the way back.
    pub fallback: Chain,
    /// Where and what to log.
    pub access_log: Option<Arc<AccessLog>>,
    /// What the process may hold at once.
    pub capacity: Capacity,
    /// Whom the listeners believe, in the order of the file.
    pub(super) trust: Box<[Trust]>,
    /// Counts requests that no route takes.
    pub unrouted: RouteMetrics,
    /// Certificates that an authority issues, if there are any.
    pub acme: Option<Arc<Acme>>,
    /// Cookies that no upstream gets to see.
    pub cookies: Box<[Arc<Jar>]>,
    /// The quotas, for operators.
    pub quotas: Box<[Arc<Quota>]>,
    /// The upstreams by name, for status.
    pub upstreams: BTreeMap<Name, Arc<Upstream>>,
    pub(super) passthroughs: Box<[Passthroughs]>,
    pub(super) carry: Carry,
}

/// A compiled route.
#[derive(Debug)]
pub struct Route {
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// The names of the parameters of its template, from left to right.
    pub params: Box<[Box<str>]>,
    /// What happens to its requests and responses.
    pub chain: Chain,
    /// Where its requests go.
    pub action: Action,
    /// Who gets copies.
    pub mirror: Option<Box<Mirror>>,
    /// How its path changes on the way.
    pub rewrite: Option<Rewrite>,
    /// The `Host` that the upstream sees; `None` for the client's.
    pub host: Option<HeaderValue>,
    /// How long an exchange may take.
    pub timeout: Option<Duration>,
    /// Which requests go on where not all can.
    pub priority: Priority,
    /// What it lets through although servers read it differently.
    pub hygiene: Lenience,
    /// Counts what it lets through for a trial.
    pub shadow: Option<IntCounter>,
    /// Whether it is for certain methods.
    pub names_methods: bool,
    /// What its WebSockets are held to.
    pub web_socket: WebSocket,
    /// What is counted.
    pub metrics: RouteMetrics,
}

impl Route {
    /// Whether its upstream is spoken to in HTTP/2.
    pub fn speaks_http2(&self) -> bool {
        match &self.action {
            Action::Forward(upstream) => upstream.speaks_http2(),
            // They all do, or none.
            Action::Split(split) => split.upstream(None).is_some_and(|upstream| upstream.speaks_http2()),
            Action::Redirect { .. } => false,
        }
    }

    /// The upstream that answers, of this version.
    pub fn upstream(&self, version: Option<usize>) -> Option<&Arc<Upstream>> {
        match &self.action {
            Action::Forward(upstream) => Some(upstream),
            Action::Split(split) => split.upstream(version),
            Action::Redirect { .. } => None,
        }
    }
}

/// Where the requests of a route go.
#[derive(Debug)]
pub enum Action {
    /// To an upstream.
    Forward(Arc<Upstream>),
    /// To one of several.
    Split(Box<Split>),
    /// Elsewhere.
    Redirect {
        /// The value of `Location`.
        to: Template,
        /// The status.
        status: StatusCode,
    },
}

/// A compiled snapshot with the background work that it needs.
#[derive(Debug)]
pub struct Compiled {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The work.
    pub tasks: Vec<Task>,
}

impl Snapshot {
    /// Builds everything or nothing; `previous` keeps running if this fails.
    pub fn compile(
        config: &Validated,
        previous: Option<&Self>,
        services: &Services,
    ) -> Result<Compiled, Vec<Diagnostic>> {
        let carry = previous.map(|old| &old.carry);
        let mut build = Build::new(config, carry, services);
        let access_log = AccessLog::compile(config.telemetry.access_log.as_ref(), &mut build);
        let acme = Acme::compile(config, &mut build);
        let upstreams = compile_upstreams(config, &mut build);
        build.upstreams.clone_from(&upstreams);
        let every = Chain::compile(&config.policies, &steps!["policies"], "*", &mut build);
        let public = every.public();
        let mut routes = Vec::with_capacity(config.routes.len());
        for (i, route) in config.routes.iter().enumerate() {
            give_way();
            let own =
                Chain::compile(&route.policies, &steps!["routes", i, "policies"], route.name.as_str(), &mut build);
            let every = if route.public { &public } else { &every };
            if let Some(compiled) = Route::compile(route, every.with(&own), &mut build) {
                routes.push((&route.matcher, Arc::new(compiled)));
            }
        }
        if !build.found.is_empty() {
            return Err(build.found);
        }
        let snapshot = Self {
            generation: previous.map_or(1, |old| old.generation + 1),
            routes: RouteTable::compile(routes),
            fallback: every,
            access_log,
            capacity: Capacity::new(&config.limits),
            trust: config.listeners.iter().map(Trust::compile).collect(),
            passthroughs: config
                .listeners
                .iter()
                .map(|one| Passthroughs::compile(one, &upstreams, &build.metrics))
                .collect(),
            unrouted: build.metrics.route(""),
            acme,
            cookies: build.cookies.into(),
            quotas: build.quotas.into(),
            upstreams,
            carry: build.kept,
        };
        Ok(Compiled { snapshot, tasks: build.tasks })
    }
}

impl Snapshot {
    /// Who may say for whom a connection to this listener is; `None` if nobody is asked. What came to no listener that is
    /// known believes nobody.
    pub fn introductions(&self, listener: Option<usize>) -> Option<&Introductions> {
        self.trust.get(listener?)?.introductions.as_ref()
    }

    /// Which connections to this listener are handed on as they are; `None` if none is.
    pub fn passthroughs(&self, listener: Option<usize>) -> Option<&Passthroughs> {
        self.passthroughs.get(listener?).filter(|rules| !rules.is_empty())
    }

    /// Whose headers say for whom a request to this listener is.
    pub fn proxies(&self, listener: Option<usize>) -> Option<&Proxies> {
        self.trust.get(listener?)?.proxies.as_ref()
    }
}

fn compile_upstreams(config: &Validated, build: &mut Build<'_>) -> BTreeMap<Name, Arc<Upstream>> {
    let mut compiled = BTreeMap::new();
    for (name, upstream) in &config.upstreams {
        build.enter(format!("upstream/{name}"));
        match Upstream::compile(name, upstream, build) {
            Ok(upstream) => {
                compiled.insert(name.clone(), Arc::new(upstream));
            }
            Err((key, message)) => {
                let place = build.place(&steps!["upstreams", name.as_str(), key]);
                build.fail(Diagnostic::error(place, message));
            }
        }
    }
    compiled
}

impl Route {
    /// `None` if its upstream could not be compiled, which is reported already.
    fn compile(config: &config::route::Route, chain: Chain, build: &mut Build<'_>) -> Option<Self> {
        let action = match (&config.upstream, &config.split, &config.redirect) {
            (Some(name), ..) => Action::Forward(build.upstream(name)?),
            (None, Some(split), _) => Action::Split(Box::new(Split::compile(split, config.name.as_str(), build)?)),
            (None, None, Some(redirect)) => {
                Action::Redirect { to: redirect.to.clone(), status: redirect.status.code() }
            }
            (None, None, None) => return None,
        };
        let mirror = match &config.mirror {
            Some(mirror) => Some(Box::new(Mirror::compile(mirror, config.name.as_str(), build).ok()?)),
            None => None,
        };
        let template = match &config.matcher.path {
            Some(config::route::PathMatch::Plain(template)) => Some(template),
            Some(config::route::PathMatch::Kind(_)) | None => None,
        };
        let params: Box<[Box<str>]> =
            template.map(|template| template.params().map(Into::into).collect()).unwrap_or_default();
        let lenience = config.hygiene.lenience();
        Some(Self {
            name: config.name.as_str().into(),
            rewrite: config.rewrite.as_ref().map(|rewrite| Rewrite::compile(rewrite, &params)),
            params,
            chain,
            action,
            mirror,
            host: match &config.host {
                config::route::Host::Keep => None,
                config::route::Host::Set(host) => HeaderValue::from_str(&host.0).ok(),
            },
            timeout: config.timeout.map(|timeout| timeout.0),
            priority: config.priority,
            shadow: (!lenience.shadowed.is_empty())
                .then(|| build.metrics.would_reject(config.name.as_str(), "hygiene")),
            hygiene: lenience,
            names_methods: !config.matcher.methods.is_empty(),
            web_socket: config.web_socket,
            metrics: build.metrics.route(config.name.as_str()),
        })
    }
}
