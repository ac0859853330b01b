//! Torana, an API gateway.
//!
//! # Life of a request
//!
//! ```text
//! listener -> hygiene -> normalise -> route -> chain (request) -> endpoint -> upstream
//! client   <- respond <- chain (response, last policy first)   <- relay   <-
//!                  \-> access log, metrics: once, at the end, from the same Context
//! ```
//!
//! # Modules
//!
//! | module | what it is |
//! |---|---|
//! | [`config`] | the file as written: types, all errors at once, cross references |
//! | [`runtime`] | what runs: a compiled [`Snapshot`](runtime::Snapshot), swapped as a whole; state that survives |
//! | [`route`] | which route takes a request; the one normal form of a path |
//! | [`policy`] | what is done to requests and responses, one file each |
//! | [`upstream`] | endpoints: balancing, health, names, connections |
//! | [`release`] | versions of a service behind a route: shares, canaries, copies of requests |
//! | [`identity`] | who is calling |
//! | [`reject`], [`problem`], [`grpc`] | why the gateway answered itself, and how that looks |
//! | [`proxy`] | Pingora's hooks, in the order of a request's life |
//! | [`tls`] | certificates by name, client certificates, the handshake |
//! | [`telemetry`] | access log, metrics, trace context |
//! | [`networks`] | sets of addresses |
//! | [`proxy_protocol`] | what a proxy says of a connection before anything else |
//! | [`admin`] | health, readiness, metrics and status on a listener of their own |
//! | [`server`] | the process: sockets, services, signals, reload |
//! | [`cli`] | the commands |
//!
//! `use` points one way: `proxy -> runtime -> {route, upstream, policy, identity}`, `proxy -> tls`; nothing uses `server`, `cli` or
//! `admin`. A test checks it.

pub mod admin;
mod chance;
pub mod cli;
pub mod clock;
pub mod config;
mod date;
pub mod digest;
mod gate;
pub mod grpc;
pub mod identity;
mod layer;
pub mod networks;
mod pace;
pub mod policy;
pub mod problem;
pub mod proxy;
pub mod proxy_protocol;
pub mod reject;
pub mod release;
pub mod route;
pub mod runtime;
pub mod server;
mod shards;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod upstream;
