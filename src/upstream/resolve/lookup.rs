//! One question to the name servers.

use std::{net::IpAddr, time::Duration};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{RData, RecordType},
};
use tokio::time::{Instant, timeout};

use crate::config::{Dns, NameServer};

/// For each try of each server.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
/// For the whole question.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the name servers say about a name.
#[derive(Debug)]
pub(in crate::upstream) struct Answer {
    pub(in crate::upstream) v4: Found,
    pub(in crate::upstream) v6: Found,
    /// How long it holds.
    pub(in crate::upstream) ttl: Duration,
}

/// The addresses of one family.
#[derive(Clone, Debug)]
pub(in crate::upstream) enum Found {
    Some(Vec<IpAddr>),
    /// The name does not exist, or has no such record.
    Nothing,
    Failed(String),
}

/// Where a service is, as an SRV record says.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct Service {
    pub(in crate::upstream) host: String,
    pub(in crate::upstream) port: u16,
    pub(in crate::upstream) priority: u16,
    pub(in crate::upstream) weight: u16,
}

/// Asks for SRV records, and says how long they hold.
pub(in crate::upstream) async fn services(name: &str, dns: &Dns) -> Result<(Vec<Service>, Duration), String> {
    let resolver = resolver(dns).map_err(|error| error.to_string())?;
    let lookup = match timeout(TIMEOUT, resolver.lookup(name, RecordType::SRV)).await {
        Err(_elapsed) => return Err(format!("no answer within {TIMEOUT:?}")),
        Ok(Err(error)) if error.is_no_records_found() => return Err("the name has no SRV record".into()),
        Ok(Err(error)) => return Err(error.to_string()),
        Ok(Ok(lookup)) => lookup,
    };
    let ttl = lookup.valid_until().saturating_duration_since(Instant::now().into_std());
    let services = lookup.answers().iter().filter_map(|record| {
        let RData::SRV(service) = &record.data else { return None };
        // A dot alone says that there is no such service; port 0 cannot be connected to.
        (!service.target.is_root() && service.port != 0).then(|| Service {
            host: service.target.to_utf8().trim_end_matches('.').to_owned(),
            port: service.port,
            priority: service.priority,
            weight: service.weight,
        })
    });
    Ok((services.collect(), ttl))
}

/// Asks for A and AAAA at the same time. They are told apart, so that losing one answer does not lose endpoints.
pub(in crate::upstream) async fn ask(host: &str, dns: &Dns) -> Answer {
    // A fresh resolver has no cache that would disagree with the time to live, and sees changes of /etc/hosts and
    // /etc/resolv.conf.
    let resolver = match resolver(dns) {
        Ok(resolver) => resolver,
        Err(error) => {
            let failed = Found::Failed(error.to_string());
            return Answer { v4: failed.clone(), v6: failed, ttl: Duration::ZERO };
        }
    };
    let (v4, v6) = tokio::join!(records(&resolver, host, RecordType::A), records(&resolver, host, RecordType::AAAA),);
    Answer { ttl: v4.1.min(v6.1), v4: v4.0, v6: v6.0 }
}

async fn records(resolver: &TokioResolver, host: &str, kind: RecordType) -> (Found, Duration) {
    let found = match timeout(TIMEOUT, resolver.lookup(host, kind)).await {
        Err(_elapsed) => Found::Failed(format!("no answer within {TIMEOUT:?}")),
        Ok(Err(error)) if error.is_no_records_found() => Found::Nothing,
        Ok(Err(error)) => Found::Failed(error.to_string()),
        Ok(Ok(lookup)) => {
            let addresses: Vec<_> = lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
            if !addresses.is_empty() {
                let ttl = lookup.valid_until().saturating_duration_since(Instant::now().into_std());
                return (Found::Some(addresses), ttl);
            }
            Found::Nothing
        }
    };
    (found, Duration::MAX)
}

fn resolver(dns: &Dns) -> Result<TokioResolver, NetError> {
    let mut builder = if dns.servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = dns.servers.iter().map(server).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    builder.options_mut().timeout = SERVER_TIMEOUT;
    builder.build()
}

fn server(server: &NameServer) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = server.0.port();
    }
    NameServerConfig::new(server.0.ip(), true, connections)
}
