//! Which connections are handed on as they are, and where to.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    config::{listener::Listener, types::Name},
    telemetry::{metrics::Metrics, tunnel_metrics::TunnelMetrics},
    tls::names::Names,
    upstream::Upstream,
};

/// Where connections go that are handed on as they are.
#[derive(Debug)]
pub struct Passthrough {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// A connection on which nothing is said for so long is closed.
    pub idle: Duration,
    /// What is counted.
    pub metrics: TunnelMetrics,
}

/// The rules of a listener.
#[derive(Debug, Default)]
pub struct Passthroughs {
    by_name: Names<Arc<Passthrough>>,
    has_names: bool,
}

impl Passthroughs {
    pub(super) fn compile(config: &Listener, upstreams: &BTreeMap<Name, Arc<Upstream>>, metrics: &Metrics) -> Self {
        let mut compiled = Self::default();
        for rule in &config.passthrough {
            // What could not be compiled is reported already.
            let Some(upstream) = upstreams.get(&rule.upstream) else { continue };
            let target = Arc::new(Passthrough {
                upstream: Arc::clone(upstream),
                idle: rule.idle_timeout.0,
                metrics: metrics.tunnels.upstream(rule.upstream.as_str()),
            });
            if rule.hosts.is_empty() {
                compiled.by_name.add(None, Arc::clone(&target));
            }
            for host in &rule.hosts {
                compiled.has_names = true;
                compiled.by_name.add(Some(host), Arc::clone(&target));
            }
        }
        compiled
    }

    /// Whether no connection is handed on.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Whether the name that a client asks for decides anything.
    pub fn has_names(&self) -> bool {
        self.has_names
    }

    /// Where a connection for this name goes, in lower case.
    pub fn find(&self, name: Option<&str>) -> Option<&Arc<Passthrough>> {
        self.by_name.find(name)
    }
}
