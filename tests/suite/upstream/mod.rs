//! What happens towards the upstreams: which endpoint, when, how often, and what goes over the wire.

mod balance;
mod discovery;
mod dns;
mod health;
mod hedging;
mod messages;
mod outliers;
mod pool;
mod refused;
mod retry;
mod standing;
mod storms;
mod tiers;
mod timeouts;
mod tls;
mod unix;
mod websocket;

use std::{collections::BTreeSet, net::SocketAddr};

use crate::support::{Gateway, Upstream, eventually};

/// A file with one upstream and one route to it; `settings` stand beside the endpoints.
fn config(endpoints: &[SocketAddr], settings: &str) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "upstreams: {{ up: {{ endpoints: [{}], {settings} }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        endpoints.join(", ")
    )
}

/// A gateway for [`config`].
fn gateway(endpoints: &[SocketAddr], settings: &str) -> Gateway {
    Gateway::start(&config(endpoints, settings))
}

/// Upstreams that answer with their names, and their addresses.
fn named<const N: usize>(names: [&'static str; N]) -> ([Upstream; N], [SocketAddr; N]) {
    let all = names.map(Upstream::named);
    let addresses = std::array::from_fn(|i| all[i].address());
    (all, addresses)
}

/// Who answered so many requests.
fn answers(gateway: &Gateway, times: usize) -> Vec<String> {
    let mut client = gateway.client();
    (0..times).map(|_| client.get("/").text()).collect()
}

fn different(answers: &[String]) -> BTreeSet<&str> {
    answers.iter().map(String::as_str).collect()
}

/// Waits until the checks have come to this verdict.
fn wait_for_health(gateway: &Gateway, address: SocketAddr, healthy: bool) {
    eventually(&format!("healthy of {address} is {healthy}"), || is_healthy(gateway, address) == healthy);
}

fn is_healthy(gateway: &Gateway, address: SocketAddr) -> bool {
    let series = format!("torana_endpoint_healthy{{endpoint=\"{address}\",upstream=\"up\"}} ");
    let text = gateway.ask_admin("/metrics").text();
    let value = text.lines().find_map(|line| line.strip_prefix(&series)).map(str::to_owned);
    value.unwrap_or_else(|| panic!("no {series}")) == "1"
}
