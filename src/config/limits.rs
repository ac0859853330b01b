//! What the process may hold at once.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::Deserialize;

use super::types::{Duration, Percent, Rate, Size};
use crate::networks::Network;

/// What the process may hold at once. Beyond it new connections and requests are answered with 503 and `Retry-After`;
/// what runs goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections of clients; without it, half of the files that the process may open (`LimitNOFILE`).
    pub connections: Option<NonZeroU32>,
    /// Open connections of one client address, for IPv6 of one /64; without it, any number. Behind a load balancer all
    /// connections have its address.
    pub connections_per_address: Option<NonZeroU32>,
    /// New connections of one client address, for IPv6 of one /64: `50/s`. Those beyond it get 429 and are closed. Counted in 64 KiB whatever comes, and rather
    /// too many than too few.
    pub connection_rate: Option<Rate>,
    /// Turns addresses away that keep being refused.
    pub penalty_box: Option<PenaltyBox>,
    /// Memory for what is on its way between clients and upstreams; without it, a quarter of the machine's memory, or of
    /// what the control group allows (`MemoryMax`).
    pub buffers: Option<Size>,
}

/// Turns addresses away that keep being refused.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PenaltyBox {
    /// So many refusals,
    pub after: NonZeroU32,
    /// within this time,
    pub within: Duration,
    /// that are at least this share of the requests of the address, put it in,
    pub share: Percent,
    /// for so long.
    pub time: Duration,
    /// What counts as a refusal.
    pub statuses: Vec<u16>,
    /// Addresses and networks that are never put in: monitoring, offices behind one address.
    pub spare: Vec<Network>,
}

impl Default for PenaltyBox {
    fn default() -> Self {
        Self {
            after: NonZeroU32::MIN.saturating_add(99),
            within: Duration::from_secs(60),
            share: Percent(50),
            time: Duration::from_secs(600),
            statuses: vec![401, 403, 404, 429],
            spare: Vec::new(),
        }
    }
}
