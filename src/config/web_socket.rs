//! `web_socket` of a route: what its WebSockets are held to.

use schemars::JsonSchema;
use serde::Deserialize;

use super::types::{Duration, Size};

/// What the WebSockets of a route are held to. That the frames follow the protocol is not up to the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WebSocket {
    /// The largest frame in either direction, as it is sent: compressed, if it is.
    pub max_frame: Size,
    /// The largest message in either direction: all its frames together.
    pub max_message: Size,
    /// How long both sides may say nothing; a ping is something.
    pub idle_timeout: Duration,
}

impl Default for WebSocket {
    fn default() -> Self {
        Self { max_frame: Size(16 << 20), max_message: Size(64 << 20), idle_timeout: Duration::from_secs(600) }
    }
}
