//! What the process may hold at once.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::Deserialize;

use super::types::Size;

/// What the process may hold at once. Beyond it new connections and requests are answered with 503 and `Retry-After`;
/// what runs goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections of clients; without it, half of the files that the process may open (`LimitNOFILE`).
    pub connections: Option<NonZeroU32>,
    /// Open connections of one client address, for IPv6 of one /64; without it, any number. Behind a load balancer all
    /// connections have its address.
    pub connections_per_address: Option<NonZeroU32>,
    /// Memory for what is on its way between clients and upstreams; without it, a quarter of the machine's memory, or of
    /// what the control group allows (`MemoryMax`).
    pub buffers: Option<Size>,
}
