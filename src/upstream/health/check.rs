//! What a check does: a connection or Pingora's request, with the connection settings of the upstream.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use pingora::{
    BError, Error, ErrorType,
    connectors::{TransportConnector, http::Connector},
    http::{RequestHeader, ResponseHeader},
    upstreams::peer::BasicPeer,
};
use pingora_load_balancing::{
    Backend,
    health_check::{HealthCheck, HttpHealthCheck},
};
use tokio::sync::Semaphore;

use super::{Check, grpc::Grpc};
use crate::{
    config::health::{Health, HttpHealth},
    upstream::{
        connection::{Connection, connector_options},
        endpoint::Endpoint,
        members::Members,
    },
};

/// So many are built at the same time: each takes a thread, which the runtime keeps for a while with all its memory.
static BUILDING: Semaphore = Semaphore::const_new(2);

/// The checks of an upstream. Endpoints share one, unless their certificates carry different names.
pub(super) struct Checks {
    health: Arc<Health>,
    members: Arc<Members>,
    built: BTreeMap<String, Check>,
}

impl Checks {
    pub(super) fn new(health: Arc<Health>, members: Arc<Members>) -> Self {
        Self { health, members, built: BTreeMap::new() }
    }

    /// The check for an endpoint.
    pub(super) async fn of(&mut self, endpoint: &Arc<Endpoint>) -> Result<Check, String> {
        if let Some(check) = self.built.get(&endpoint.peer.sni) {
            return Ok(Arc::clone(check));
        }
        let (health, members) = (Arc::clone(&self.health), Arc::clone(&self.members));
        let template = Arc::clone(endpoint);
        // Pingora reads the system's authorities from disk, and panics if it cannot.
        let build = move || match (&health.http, &health.grpc) {
            (Some(http), _) => request(http, &health, &members, &template),
            (None, Some(grpc)) => Grpc::compile(grpc, &health, &members, &template),
            (None, None) => Ok(connect(&health, &members.plan.connection, &template)),
        };
        let turn = BUILDING.acquire().await;
        // Held to the end of the work, which goes on if a reload ends what waits for it.
        let build = move || {
            let _turn = turn;
            build()
        };
        let check = tokio::task::spawn_blocking(build).await.map_err(|error| error.to_string())??;
        let name = endpoint.peer.sni.clone();
        self.built.insert(name, Arc::clone(&check));
        Ok(check)
    }
}

/// A check that is a connection. Pingora's reads the system's authorities whenever it is built, also if nobody asks them.
struct Connect {
    peer: BasicPeer,
    connector: TransportConnector,
}

#[async_trait]
impl HealthCheck for Connect {
    async fn check(&self, target: &Backend) -> Result<(), BError> {
        let mut peer = self.peer.clone();
        peer._address = target.addr.clone();
        Box::pin(self.connector.new_stream(&peer)).await.map(drop)
    }

    fn health_threshold(&self, _: bool) -> usize {
        1
    }
}

fn connect(health: &Health, connection: &Connection, template: &Endpoint) -> Check {
    let mut peer = BasicPeer {
        _address: template.address().clone(),
        // Pingora's peer speaks TLS if there is a name.
        sni: template.peer.sni.clone(),
        options: template.peer.options.clone(),
    };
    peer.options.total_connection_timeout = Some(health.timeout.0);
    Arc::new(Connect { peer, connector: TransportConnector::new(Some(connector_options(connection))) })
}

fn request(http: &HttpHealth, health: &Health, members: &Members, template: &Endpoint) -> Result<Check, String> {
    let plan = &members.plan;
    let host = http.host.as_ref().map_or(&*plan.upstream, |host| &host.0);
    let connector = Connector::new(Some(connector_options(&plan.connection)));
    let mut check = HttpHealthCheck::new_custom(host, false, connector);
    check.peer_template = template.peer.clone();
    check.peer_template.options.total_connection_timeout = Some(health.timeout.0);
    check.req = header(host, http.path.as_str()).map_err(|error| error.to_string())?;
    let statuses = http.status.clone();
    check.validator = Some(Box::new(move |response| judge(&statuses, response)));
    Ok(Arc::new(check))
}

fn header(host: &str, path: &str) -> Result<RequestHeader, BError> {
    let mut header = RequestHeader::build("GET", path.as_bytes(), None)?;
    header.insert_header("Host", host)?;
    header.insert_header("User-Agent", "torana-health")?;
    Ok(header)
}

fn judge(statuses: &[u16], response: &ResponseHeader) -> Result<(), BError> {
    let status = response.status;
    let good = if statuses.is_empty() { status.is_success() } else { statuses.contains(&status.as_u16()) };
    if good {
        return Ok(());
    }
    let code = status.as_u16();
    Error::e_explain(ErrorType::HTTPStatus(code), format!("status {code}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_status_passes_and_by_default_any_success() {
        let response = |status: u16| ResponseHeader::build(status, None).unwrap();
        assert!(judge(&[], &response(204)).is_ok());
        assert!(judge(&[], &response(302)).is_err());
        assert!(judge(&[401], &response(401)).is_ok());
        let error = judge(&[401], &response(200)).unwrap_err().to_string();
        assert!(error.contains("200"), "{error}");
    }

    #[test]
    fn the_request_names_the_host_and_who_asks() {
        let header = header("orders", "/healthz").unwrap();
        assert_eq!(header.uri.path(), "/healthz");
        assert_eq!(header.headers.get("host").unwrap(), "orders");
        assert_eq!(header.headers.get("user-agent").unwrap(), "torana-health");
    }
}
