//! How much may be kept of answers.

use schemars::JsonSchema;
use serde::Deserialize;

use super::types::Size;

/// How much the policy `cache` may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// Memory for the answers of all routes, with about 1.5 KiB for each besides its body. What was not asked for goes first.
    pub memory: Size,
}

impl Default for Cache {
    fn default() -> Self {
        Self { memory: Size(64 << 20) }
    }
}
