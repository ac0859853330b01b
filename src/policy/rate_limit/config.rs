//! What `rate_limit` takes.

use std::{fmt, num::NonZeroU64};

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{self, value},
};

use crate::config::{
    check::Check,
    steps,
    types::{HeaderName, Rate},
};

/// How many requests may come, and who they are counted for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RateLimit")]
pub struct Config {
    /// What is counted by: `consumer`, `client_ip`, `route`, `{ header: NAME }`, or a list of these.
    pub key: Parts,
    /// The limits, `100/s` or `10_000/h`. All of them hold: a request that one refuses is not counted by the others.
    #[schemars(length(min = 1, max = 8))]
    pub limits: Vec<Rate>,
    /// How many requests may come at once; without it, as many as the limit has in its period. With several limits it
    /// is for the one with the shortest period.
    pub burst: Option<NonZeroU64>,
    /// What happens to a request that lacks what is counted by.
    #[serde(default)]
    pub missing_key: MissingKey,
    /// How exactly is counted.
    #[serde(default)]
    pub accuracy: Accuracy,
    /// How many keys are remembered at most, about 50 bytes each. Beyond that, keys with nothing used are forgotten first.
    #[serde(default = "default_max_keys")]
    #[schemars(range(min = 1000))]
    pub max_keys: u32,
}

fn default_max_keys() -> u32 {
    1_000_000
}

/// What is counted by: one part, or several together.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub enum Parts {
    /// One part.
    One(Part),
    /// Every combination of these has its own count.
    All(Vec<Part>),
}

impl Parts {
    /// The parts.
    pub fn list(&self) -> &[Part] {
        match self {
            Self::One(part) => std::slice::from_ref(part),
            Self::All(parts) => parts,
        }
    }
}

/// A part of what is counted by.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Who is calling: the consumer, or the subject of the token.
    Consumer,
    /// The address of the client; an IPv6 address counts as its /64.
    ClientIp,
    /// The route.
    Route,
    /// The value of this header.
    Header(HeaderName),
}

impl<'de> Deserialize<'de> for Parts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;

        impl<'de> de::Visitor<'de> for OneOrMore {
            type Value = Parts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`consumer`, `client_ip`, `route`, `{ header: NAME }` or a list of these")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Parts, E> {
                Part::deserialize(value::StrDeserializer::new(text)).map(Parts::One)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Parts, A::Error> {
                Part::deserialize(value::MapAccessDeserializer::new(map)).map(Parts::One)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Parts, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                Ok(Parts::All(parts))
            }
        }

        deserializer.deserialize_any(OneOrMore)
    }
}

/// What happens to a request that lacks what is counted by: no consumer, no such header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingKey {
    /// It is refused with 400.
    #[default]
    Reject,
    /// It is counted by the address of the client instead.
    ClientIp,
    /// It is not counted.
    Skip,
}

/// How exactly is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Accuracy {
    /// To the request, also when many come at once.
    #[default]
    Exact,
    /// With a fixed 64 KiB for each limit, however many keys there are. May refuse too early, never too late.
    Approximate,
}

/// Looks for what the types cannot refuse by themselves.
pub(super) fn check(config: &Config, check: &mut Check<'_>) {
    if config.limits.is_empty() {
        check.error(&steps!["limits"], "a rate limit needs at least one limit");
    }
    if config.limits.len() > 8 {
        check.error(&steps!["limits"], "more than 8 limits for one key");
    }
    for (i, rate) in config.limits.iter().enumerate() {
        if config.limits.iter().take(i).any(|other| other.period == rate.period) {
            check.error(&steps!["limits", i], "another limit has the same period");
        }
    }
    let parts = config.key.list();
    if parts.is_empty() {
        check.error(&steps!["key"], "the list names nothing to count by");
    }
    for (i, part) in parts.iter().enumerate() {
        if parts.iter().take(i).any(|other| other == part) {
            check.error(&steps!["key", i], "this stands here twice");
        }
    }
    if parts.contains(&Part::Consumer) && config.missing_key == MissingKey::Reject && !check.is_authenticated() {
        check.warning(
            &steps!["key"],
            "no policy of this route finds out who is calling, so every request is refused: it lacks what is counted by",
        );
    }
    if config.max_keys < 1000 {
        check.error(&steps!["max_keys"], "fewer than 1000 keys cannot be kept apart");
    }
    if config.accuracy == Accuracy::Approximate && config.burst.is_some() {
        check.error(&steps!["burst"], "`burst` needs exact counting; `accuracy: approximate` counts whole periods");
    }
}
