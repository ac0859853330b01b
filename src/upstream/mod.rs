//! stub
pub mod balance;
pub mod health;
use crate::{
    config::{self, types::Name},
    proxy::context::Context,
    runtime::Build,
};
use pingora::{http::RequestHeader, upstreams::peer::HttpPeer};
use std::sync::Arc;

/// A named set of endpoints, compiled.
#[derive(Debug)]
pub struct Upstream;

/// An endpoint in use; counted as in flight until this is dropped.
#[derive(Debug)]
pub struct Lease;

impl Upstream {
    /// The error names the key below the upstream that is to blame.
    pub fn compile(
        _: &Name,
        _: &config::upstream::Upstream,
        _: &mut Build<'_>,
    ) -> Result<Self, (&'static str, String)> {
        Ok(Self)
    }
    /// Chooses a healthy endpoint that has not failed this request yet; one that has, if there is no other; none if none is healthy.
    pub fn choose(&self, _request: &RequestHeader, _ctx: &Context) -> Option<Lease> {
        None
    }
}
impl Lease {
    /// How to connect. `remaining` bounds every timeout.
    pub fn peer(
        &self,
        _upstream: &Upstream,
        _remaining: Option<std::time::Duration>,
    ) -> Box<HttpPeer> {
        unimplemented!()
    }
    /// identity of endpoint
    pub fn id(&self) -> u64 {
        0
    }
}
/// For status.
pub fn stub(_: Arc<Upstream>) {}

impl Upstream {
    /// x
    pub fn timeouts(&self) -> config::upstream::Timeouts { config::upstream::Timeouts::default() }
    /// x
    pub fn retries(&self) -> &config::upstream::Retries { unimplemented!() }
}
impl Lease {
    /// x
    pub fn metrics(&self) -> &crate::telemetry::metrics::EndpointMetrics { unimplemented!() }
}
