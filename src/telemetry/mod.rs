//! What the gateway tells about itself: access log, metrics, trace context.

pub mod access_log;
pub mod cache_metrics;
pub(crate) mod cells;
pub mod key_set_metrics;
pub mod login_metrics;
pub mod metrics;
pub mod release_metrics;
pub mod route_metrics;
pub mod store_metrics;
pub mod tls_metrics;
pub mod trace;
pub mod tunnel_metrics;
pub mod upstream_metrics;
