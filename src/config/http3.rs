//! `http3` of a listener.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

use super::types::{Duration, Size};

/// Whether HTTP/3 is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub enum Http3 {
    /// Yes or no.
    Switch(bool),
    /// Yes, with these settings.
    Settings(Http3Options),
}

impl Default for Http3 {
    fn default() -> Self {
        Self::Switch(false)
    }
}

impl Http3 {
    /// How it is spoken, if it is.
    pub fn options(self) -> Option<Http3Options> {
        match self {
            Self::Switch(on) => on.then(Http3Options::default),
            Self::Settings(options) => Some(options),
        }
    }
}

impl<'de> Deserialize<'de> for Http3 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> de::Visitor<'de> for Either {
            type Value = Http3;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`true`, `false`, or a mapping with settings")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Http3, E> {
                Ok(Http3::Switch(on))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Http3, A::Error> {
                Http3Options::deserialize(de::value::MapAccessDeserializer::new(map)).map(Http3::Settings)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// How HTTP/3 is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http3Options {
    /// How long a client may remember that HTTP/3 is spoken here: the `ma` of `Alt-Svc`, which responses over TCP carry.
    /// `0s` sends none.
    pub alt_svc_max_age: Duration,
    /// How many requests there may be at once on a connection.
    pub max_concurrent_streams: u32,
    /// How much of a request body may be on its way on a stream before the upstream has taken it.
    pub stream_window: Size,
    /// The same for all streams of a connection together; also how much of responses may wait for the client.
    pub connection_window: Size,
    /// How many connections there may be that are not opened yet. From a quarter of them on, clients have to show first
    /// that they get what is sent to their address (Retry).
    pub max_handshakes: u32,
}

impl Default for Http3Options {
    fn default() -> Self {
        Self {
            alt_svc_max_age: Duration::from_secs(86_400),
            max_concurrent_streams: 100,
            stream_window: Size(256 << 10),
            connection_window: Size(1 << 20),
            max_handshakes: 1024,
        }
    }
}
