//! Consul's [health API](https://developer.hashicorp.com/consul/api-docs/health) by
//! [blocking queries](https://developer.hashicorp.com/consul/api-docs/features/blocking): a question waits at the agent until something
//! changes, so a change is known within milliseconds and an idle gateway asks once in `wait`.
//!
//! - The index of an answer goes into the next question; one that goes backwards begins anew, as Consul's documentation asks.
//! - Instances whose checks pass are endpoints, with their weight for passing checks.
//! - After some answers in a row that came at once there is a second's pause: an agent that does not block is not flooded.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::header;
use pingora::{
    connectors::{ConnectorOptions, http::Connector},
    http::RequestHeader,
    upstreams::peer::HttpPeer,
};
use serde::Deserialize;
use tokio::time::Instant;

use super::{Found, Member};
use crate::{
    config::{discovery::Consul, endpoint::Target, types::Name},
    runtime::{Ready, ask::exchange},
};

/// An answer may be so large: some tens of thousands of instances.
const MAX_ANSWER: usize = 64 << 20;

/// On top of `wait`, of which the agent adds up to a sixteenth by itself.
const GRACE: Duration = Duration::from_secs(10);

/// Between two answers of an agent that does not wait.
const STEP: Duration = Duration::from_secs(1);

/// So many answers in a row may come at once: changes that follow each other.
const QUICK: u32 = 3;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: Node,
    service: Service,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    /// Empty for that of the node.
    #[serde(default)]
    address: String,
    port: u16,
    #[serde(default)]
    weights: Weights,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1 }
    }
}

#[expect(clippy::infinite_loop, reason = "ends by being dropped")]
pub(super) async fn run(found: Arc<Found>, consul: Consul, ready: Ready) {
    let mut ready = Some(ready);
    let mut options = ConnectorOptions::new(1);
    options.ca_file = consul.ca.as_ref().map(|path| path.display().to_string());
    if !consul.address.tls {
        options.ca_file = Some("/dev/null".into());
    }
    // Pingora reads the authorities from disk.
    let connector = tokio::task::spawn_blocking(move || Connector::new(Some(options))).await;
    let (mut index, mut quick) = (0, 0_u32);
    loop {
        let began = Instant::now();
        let answer = match &connector {
            Ok(connector) => Box::pin(ask(connector, &consul, index)).await,
            Err(error) => Err(error.to_string()),
        };
        let (answer, next) = match answer {
            Ok((members, next)) => (Ok(members), next),
            Err(why) => (Err(why), 0),
        };
        index = if next < index { 0 } else { next };
        quick = if began.elapsed() < STEP { quick + 1 } else { 0 };
        let pause = match found.take(answer) {
            Ok(()) if quick > QUICK => STEP,
            Ok(()) => Duration::ZERO,
            Err(pause) => pause,
        };
        drop(ready.take());
        tokio::time::sleep(pause).await;
    }
}

/// Asks once, and waits for something newer than `index`.
async fn ask(connector: &Connector, consul: &Consul, index: u64) -> Result<(Vec<Member>, u64), String> {
    let limit = consul.wait.0 + consul.wait.0 / 16 + GRACE;
    let answer = tokio::time::timeout(
        limit,
        Box::pin(async {
            let peer = peer(consul).await?;
            let head = head(consul, index).map_err(|error| error.to_string())?;
            let (mut session, _) =
                Box::pin(connector.get_http_session(&peer)).await.map_err(|error| short(&error.to_string()))?;
            let answer = exchange(&mut session, head, Bytes::new(), MAX_ANSWER).await;
            let answer = answer.map_err(|_failure| "the agent broke the answer off".to_owned())?;
            connector.release_http_session(session, &peer, None).await;
            Ok::<_, String>(answer)
        }),
    );
    let answer = answer.await.unwrap_or_else(|_elapsed| Err(format!("no answer within {limit:?}")))?;
    if answer.head.status != 200 {
        return Err(format!("status {}", answer.head.status.as_u16()));
    }
    let index = answer.head.headers.get("x-consul-index").and_then(|index| index.to_str().ok()?.parse().ok());
    Ok((parse(&answer.body)?, index.unwrap_or(0)))
}

async fn peer(consul: &Consul) -> Result<HttpPeer, String> {
    let agent = &consul.address;
    let mut found =
        tokio::net::lookup_host((agent.host.as_str(), agent.port)).await.map_err(|error| error.to_string())?;
    let address = found.next().ok_or("its name has no address")?;
    let mut peer = HttpPeer::new(address, agent.tls, agent.host.clone());
    peer.options.set_http_version(1, 1);
    peer.options.total_connection_timeout = Some(GRACE);
    peer.options.idle_timeout = Some(consul.wait.0);
    Ok(peer)
}

fn head(consul: &Consul, index: u64) -> pingora::Result<RequestHeader> {
    let wait = match index {
        0 => String::new(),
        index => format!("&index={index}&wait={}s", consul.wait.0.as_secs().max(1)),
    };
    let more =
        |key: &str, value: &Option<Name>| value.as_ref().map_or_else(String::new, |value| format!("&{key}={value}"));
    let (tag, datacenter) = (more("tag", &consul.tag), more("dc", &consul.datacenter));
    let target = format!("/v1/health/service/{}?passing=1{wait}{tag}{datacenter}", consul.service);
    let mut head = RequestHeader::build("GET", target.as_bytes(), Some(4))?;
    head.insert_header(header::HOST, format!("{}:{}", consul.address.host, consul.address.port))?;
    head.insert_header(header::USER_AGENT, "torana")?;
    if let Some(token) = &consul.token {
        head.insert_header("x-consul-token", token.expose())?;
    }
    Ok(head)
}

fn parse(body: &[u8]) -> Result<Vec<Member>, String> {
    let entries: Vec<Entry> =
        serde_json::from_slice(body).map_err(|error| format!("the answer is none of Consul's: {error}"))?;
    let member = |entry: Entry| {
        let text = if entry.service.address.is_empty() { entry.node.address } else { entry.service.address };
        let ip: IpAddr = text.parse().map_err(|_error| format!("{text} is no address"))?;
        if entry.service.port == 0 {
            return Err(format!("{text} has no port"));
        }
        Ok(Member {
            address: Target::Ip((ip, entry.service.port).into()),
            weight: u16::try_from(entry.service.weights.passing).unwrap_or(u16::MAX).max(1),
            priority: 0,
            zone: None,
        })
    };
    entries.into_iter().map(member).collect()
}

/// Without what Pingora says about its peer.
fn short(error: &str) -> String {
    error.rsplit(" cause: ").next().unwrap_or(error).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_endpoints_with_their_weights() {
        let body = br#"[
            {"Node": {"Node": "n1", "Address": "10.0.0.1"}, "Service": {"Service": "orders", "Address": "", "Port": 80}},
            {"Node": {"Address": "10.0.0.2"}, "Service": {"Address": "10.1.0.2", "Port": 81, "Weights": {"Passing": 5, "Warning": 1}}}]"#;
        let members = parse(body).unwrap();
        let seen: Vec<(String, u16)> = members.iter().map(|one| (one.address.to_string(), one.weight)).collect();
        assert_eq!(seen, [("10.0.0.1:80".to_owned(), 1), ("10.1.0.2:81".to_owned(), 5)]);
        assert_eq!(parse(b"[]").unwrap(), []);
        for wrong in [&b"<html>"[..], b"{}", br#"[{"Node": {"Address": "a.example"}, "Service": {"Port": 80}}]"#] {
            assert!(parse(wrong).is_err());
        }
    }
}
