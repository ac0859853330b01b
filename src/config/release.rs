//! `routes[].split` and `routes[].mirror`: several versions of a service, and copies of requests.

use std::{collections::BTreeMap, num::NonZeroU32};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    balance::HashKey,
    types::{Duration, HeaderName, Name, Percent, Size},
};

/// Several upstreams that share the requests of a route.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// The upstreams; at least two.
    #[schemars(length(min = 2))]
    pub to: Vec<Version>,
    /// Whoever has the same of this goes to the same upstream, as long as its share does not shrink; without it, each request goes
    /// to any. A request that lacks it goes to any too.
    pub by: Option<HashKey>,
    /// Moves requests to one of the upstreams little by little, and back if it does worse.
    pub canary: Option<Canary>,
}

/// One of the upstreams.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Its name.
    pub upstream: Name,
    /// Its share of the requests, against the others; 0 gets only those of `when`. The share of a canary is that of its ramp.
    #[serde(default = "one")]
    pub weight: u16,
    /// Requests that go to it whatever the shares: one thing that fits is enough.
    #[serde(default)]
    pub when: When,
}

const fn one() -> u16 {
    1
}

/// What a request has that goes to one upstream whatever the shares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// Headers with exactly this value.
    pub headers: BTreeMap<HeaderName, String>,
    /// Cookies with exactly this value.
    pub cookies: BTreeMap<String, String>,
    /// One of these consumers is calling.
    pub consumers: Vec<Name>,
    /// Somebody of one of these groups is calling.
    pub groups: Vec<Name>,
}

/// A new version that gets more requests as long as it does as well as the others.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// Which of the upstreams it is.
    pub upstream: Name,
    /// The shares that it gets one after the other; it keeps the last one.
    #[serde(default = "ramp")]
    pub ramp: Vec<Percent>,
    /// How long it keeps each of them.
    #[serde(default = "minute")]
    pub every: Duration,
    /// With fewer requests nothing is decided: neither back nor on.
    #[serde(default = "fifty")]
    pub requests: NonZeroU32,
    /// Back to 0 if so many points more of its requests fail (5xx, or no answer) than of those to the others, beyond what chance
    /// explains.
    #[serde(default = "five")]
    pub errors: Percent,
    /// Back to 0 if it takes so much of the time that the others take, on average.
    #[serde(default = "half_more")]
    pub latency: Percent,
    /// Another number begins anew, also after it went back.
    #[serde(default)]
    pub attempt: u32,
}

fn ramp() -> Vec<Percent> {
    [1, 5, 25, 50, 100].map(Percent).into()
}

fn minute() -> Duration {
    Duration::from_secs(60)
}

fn fifty() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(49)
}

fn five() -> Percent {
    Percent(5)
}

fn half_more() -> Percent {
    Percent(150)
}

/// Copies of requests for another upstream, whose answers nobody sees.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// Who gets the copies.
    pub upstream: Name,
    /// Of so many requests.
    #[serde(default = "all")]
    pub share: Percent,
    /// Requests with a larger body are not copied.
    #[serde(default = "max_body")]
    pub max_body: Size,
    /// How long an answer is waited for.
    #[serde(default = "ten_seconds")]
    pub timeout: Duration,
    /// So many copies at most are under way; others are left out.
    #[serde(default = "hundred")]
    pub at_once: NonZeroU32,
}

fn all() -> Percent {
    Percent(100)
}

fn max_body() -> Size {
    Size(64 << 10)
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

fn hundred() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(99)
}
