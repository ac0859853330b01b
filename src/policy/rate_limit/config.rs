//! What `rate_limit` takes.

use std::num::NonZeroU64;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{
        check::Check,
        steps,
        types::{Duration, HeaderName, Name, Rate},
    },
    policy::limit_key::{MissingKey, Parts},
};

/// How many requests may come, and who they are counted for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RateLimit")]
pub struct Config {
    /// What is counted by: `consumer`, `group`, `client_ip`, `route`, `{ header: NAME }`, `{ claim: NAME }`, `{ path_parameter: NAME }`,
    /// `{ constant: TEXT }`, or a list of these.
    pub key: Parts,
    /// The limits, `100/s` or `10_000/h`. All of them hold: a request that one refuses is not counted by the others.
    #[schemars(length(min = 1, max = 8))]
    pub limits: Vec<Rate>,
    /// How many requests may come at once; without it, as many as the limit has in its period. With several limits it
    /// is for the one with the shortest period.
    pub burst: Option<NonZeroU64>,
    /// How much a request counts for: a number, `{ header: NAME }` of the request, or `{ response_header: NAME }` of the answer.
    #[serde(default)]
    pub cost: Cost,
    /// How long a request waits for its turn before it is refused; without it, not at all.
    pub delay: Option<Duration>,
    /// Where it is counted for several gateways: one of `stores`. Without it, each gateway counts for itself.
    pub store: Option<Name>,
    /// How it is counted in the store.
    pub sync: Option<Sync>,
    /// With `sync: leased`, how many requests a gateway lets through before the store knows, and is granted ahead: without it, a twentieth of
    /// the smallest limit. All gateways together let through at most twice as many more for each of them.
    pub batch: Option<NonZeroU64>,
    /// What holds while the store cannot be asked; without it, `local`.
    pub on_failure: Option<OnFailure>,
    /// Which headers say what is left.
    #[serde(default)]
    pub headers: Headers,
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

/// How much a request counts for.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub enum Cost {
    /// Always so much.
    Fixed(NonZeroU64),
    /// What this header of the request says; 1 without it. Clients can say what they like, unless something before sets it.
    Header(HeaderName),
    /// What this header of the answer says; 1 without it.
    ResponseHeader(HeaderName),
}

impl Default for Cost {
    fn default() -> Self {
        Self::Fixed(NonZeroU64::MIN)
    }
}

impl<'de> Deserialize<'de> for Cost {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Named {
            Header(HeaderName),
            ResponseHeader(HeaderName),
        }
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected a whole number above 0, `{ header: NAME }` or `{ response_header: NAME }`"
        )]
        enum Any {
            Fixed(NonZeroU64),
            Named(Named),
        }
        Ok(match Any::deserialize(deserializer)? {
            Any::Fixed(cost) => Self::Fixed(cost),
            Any::Named(Named::Header(name)) => Self::Header(name),
            Any::Named(Named::ResponseHeader(name)) => Self::ResponseHeader(name),
        })
    }
}

/// How it is counted in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sync {
    /// Each request asks the store, and waits for the answer.
    #[default]
    Exact,
    /// The store is asked in the background for several requests at once.
    Leased,
}

/// What holds while the store cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Everybody passes.
    Open,
    /// Nobody passes: 503.
    Closed,
    /// Each gateway counts for itself.
    #[default]
    Local,
}

/// What is set for a limit in a store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) on_failure: OnFailure,
    /// With leases, how many requests.
    pub(super) batch: Option<u64>,
}

impl Config {
    /// What is set for the store.
    pub(super) fn settings(&self) -> Settings {
        let smallest = self.limits.iter().map(|rate| rate.count.get()).min().unwrap_or(1);
        let batch = self.batch.map_or_else(|| (smallest / 20).clamp(1, 1000), NonZeroU64::get);
        let leased = self.sync == Some(Sync::Leased);
        Settings { on_failure: self.on_failure.unwrap_or_default(), batch: leased.then_some(batch) }
    }
}

/// Which headers say what is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Headers {
    /// Those of the IETF's draft: `RateLimit-Policy` and `RateLimit`.
    #[default]
    Standard,
    /// `X-RateLimit-Limit-Minute` and the like, as Kong sends them.
    Kong,
    /// All of these.
    Both,
    /// None of them.
    None,
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

/// A request that waits holds its connection.
const MAX_DELAY: std::time::Duration = std::time::Duration::from_mins(1);

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
    config.key.check(config.missing_key, check);
    stored(config, check);
    if config.max_keys < 1000 {
        check.error(&steps!["max_keys"], "fewer than 1000 keys cannot be kept apart");
    }
    if config.delay.is_some_and(|delay| delay.0 > MAX_DELAY) {
        check.error(&steps!["delay"], "nobody waits for more than a minute");
    }
    if config.accuracy == Accuracy::Approximate {
        let why = "needs exact counting; `accuracy: approximate` counts whole periods, and one for each request";
        for (key, is_set) in [
            ("burst", config.burst.is_some()),
            ("delay", config.delay.is_some()),
            ("cost", config.cost != Cost::default()),
        ] {
            if is_set {
                check.error(&steps![key], format!("`{key}` {why}"));
            }
        }
    }
}

fn stored(config: &Config, check: &mut Check<'_>) {
    let leased = config.sync == Some(Sync::Leased);
    let Some(store) = &config.store else {
        for (key, is_set) in [
            ("sync", config.sync.is_some()),
            ("batch", config.batch.is_some()),
            ("on_failure", config.on_failure.is_some()),
        ] {
            if is_set {
                check.error(&steps![key], "this is for limits in a store: write `store: NAME`, one of `stores`");
            }
        }
        return;
    };
    check.is_store(&steps!["store"], store);
    if config.accuracy == Accuracy::Approximate {
        check.error(&steps!["accuracy"], "a store counts exactly: leave out `accuracy` or `store`");
    }
    if config.batch.is_some() && !leased {
        check.error(&steps!["batch"], "nothing is granted ahead: this is for `sync: leased`");
    }
    if config.delay.is_some() && leased {
        check.error(&steps!["delay"], "nobody knows whose turn it is with `sync: leased`: `delay` needs `sync: exact`");
    }
}
