//! What an idle connection costs.

use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};

use super::start;
use crate::support::{Client, Upstream};

const CONNECTIONS: usize = 2000;

/// `loadtest/idle` measures it with a release build, where it is less. Each buffer of some KiB that a connection holds while it is idle shows
/// here.
const AT_MOST: usize = 24 << 10;

#[test]
fn two_thousand_idle_connections_take_little_memory() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit }).unwrap();
    let up = Upstream::named("up");
    let gateway = start("idle_timeout: 1h", up.address());
    // What the first requests need for good.
    let mut clients: Vec<Client> = (0..64).map(|_| gateway.client()).collect();
    assert!(clients.iter_mut().all(|client| client.get("/").status == 200));
    let before = gateway.memory();
    for _ in 0..CONNECTIONS {
        let mut client = gateway.client();
        client.set_timeout(Duration::from_mins(1));
        assert_eq!(client.get("/").status, 200);
        clients.push(client);
    }
    let each = gateway.memory().saturating_sub(before) / CONNECTIONS;
    assert!(each < AT_MOST, "{each} bytes for each");
    for client in clients.iter_mut().step_by(100) {
        assert_eq!(client.get("/").status, 200);
    }
}
