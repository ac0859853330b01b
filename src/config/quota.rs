//! `quotas`: where quotas are kept, and the periods for which they are.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::types::Duration;

/// Where what is used of quotas is kept.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quotas {
    /// In this file; without it, in `quotas.json` in systemd's `$STATE_DIRECTORY`, and without that only in memory. Not for quotas in a
    /// `store`.
    pub file: Option<PathBuf>,
}

/// The time in which a quota may be used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// From midnight to midnight, UTC.
    Day,
    /// From Monday to Sunday, UTC.
    Week,
    /// A month of the calendar, UTC.
    Month,
    /// The last so many seconds, days, ...: `{ rolling: 30d }`. It is counted in sixty parts.
    Rolling(Duration),
}
