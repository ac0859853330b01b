//! What `/status` says. Names and numbers only: no secret is in it.

use serde::{Deserialize, Serialize};

use crate::{
    release::canary::CanaryStatus,
    tls::state::CertificateState,
    upstream::{Circuit, SourceStatus, Standing},
};

/// A process and what it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    /// The version of the program.
    pub version: &'static str,
    /// The process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The number of the running snapshot.
    pub generation: u64,
    /// The process that has taken over from this one, if one has.
    pub successor: Option<u32>,
    /// What still has to end in the process before, if it is still there.
    pub predecessor: Option<Draining>,
    /// Why it runs on the last configuration that worked, if it does: the file was broken when it started.
    pub fallback: Option<String>,
    /// Whether it stops: no new connections, requests in flight end.
    pub draining: bool,
    /// Clients' connections, idle or not.
    pub connections: usize,
    /// Requests in flight.
    pub in_flight: usize,
    /// Those of them that are WebSockets.
    pub web_sockets: usize,
    /// Bytes that are on their way between clients and upstreams.
    pub buffers: u64,
    /// What is kept of answers.
    pub cache: Cache,
    /// What the process may hold at once.
    pub limits: Limits,
    /// What became of the last configuration.
    pub last_reload: Reload,
    /// Where it listens.
    pub listeners: Vec<String>,
    /// The certificates of its listeners.
    pub certificates: Vec<CertificateState>,
    /// Routes in the order of the file.
    pub routes: Vec<Route>,
    /// Upstreams by name.
    pub upstreams: Vec<Upstream>,
}

/// What is kept of answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// Answers.
    pub entries: usize,
    /// Bytes of memory.
    pub bytes: usize,
}

/// What a process may hold at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Clients' connections.
    pub connections: usize,
    /// Connections of one address.
    pub connections_per_address: Option<u32>,
    /// Bytes on their way.
    pub buffers: u64,
    /// Open files.
    pub open_files: u64,
}

/// What still has to end in a process that was replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// The process.
    pub pid: u32,
    /// Clients' connections.
    pub connections: usize,
    /// Requests in flight, WebSockets among them.
    pub requests: usize,
    /// WebSockets.
    pub web_sockets: usize,
    /// When it ends whatever is left.
    pub seconds_left: u64,
}

/// What became of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Reload {
    /// Whether it was taken over.
    pub ok: bool,
    /// When, in seconds since 1970.
    pub at: u64,
    /// Why not, in one line.
    pub error: Option<String>,
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Its policies, in the order in which they run.
    pub policies: Vec<&'static str>,
    /// Its canary, if it has one.
    pub canary: Option<CanaryStatus>,
}

/// An upstream.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// Whether so few endpoints can be used that all are.
    pub panic: bool,
    /// How its circuit stands, if it has one.
    pub circuit: Option<Circuit>,
    /// Who is asked for its endpoints, besides the file.
    pub sources: Vec<SourceStatus>,
    /// How many requests may be in flight, where that is learnt.
    pub concurrency_limit: Option<u32>,
    /// Its endpoints as they are now; those of a name may change.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Endpoint {
    /// Where it listens.
    pub address: String,
    /// Its share of the requests.
    pub weight: u32,
    /// 0 is used first.
    pub priority: u8,
    /// Where it stands.
    pub zone: Option<String>,
    /// Whether health checks say that it can be used.
    pub healthy: bool,
    /// Whether it is left out for failing requests.
    pub ejected: bool,
    /// What operators want of it.
    pub standing: Standing,
    /// Requests in flight to it.
    pub in_flight: u32,
}

/// An address that is turned away for being refused too often.
#[derive(Clone, Debug, Serialize)]
pub struct Boxed {
    /// The address; of IPv6 the first one of its /64.
    pub address: String,
    /// For so many seconds more.
    pub seconds_left: u64,
    /// How many of its requests had been refused.
    pub refused: u32,
}
