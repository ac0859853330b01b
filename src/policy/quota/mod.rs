//! `quota`: so many requests in a day, a week, a month, or the last so many days.
//!
//! # Rules
//!
//! - Each combination of the parts of `key` has `limit` requests in a `period` ([what a key is made of](super::limit_key)): `day`, `week` (from Monday),
//!   `month` (of the calendar), all in UTC, or `{ rolling: 30d }`, where each request counts until it is that old; it is counted in sixty parts, and
//!   leaves with its part: never more than `limit` in any such time.
//! - Who has used it up gets 429 (`quota_exceeded`) with `Retry-After`. Answers say what is left, as `headers` wants it.
//! - A request that is refused, here or by a policy before, uses nothing. One that a later policy refuses has used one.
//! - The log says when 80 % of a quota is used, and all of it, once for each period and key.
//!
//! # For operators
//!
//! - What is used is kept in a file (`keeper`) (`quotas.file`, or `quotas.json` in `$STATE_DIRECTORY`), and survives restarts and upgrades; or in a `store`,
//!   where several gateways share it. While the store is away `on_failure` holds, as for `rate_limit`.
//! - `torana quota list` shows who has used what, `reset` and `top-up` change it; so do `GET` and `POST /quota` of the admin listener. With a store, the
//!   list has what this gateway has seen.
//! - At most a million keys are known; beyond that, those that have used least are forgotten. Count by what clients cannot make up.
//! - A reload changes nothing that is used, also with another `limit`; another `period` begins anew.
//!
//! # Example
//!
//! ```yaml
//! quotas: { file: /var/lib/torana/quotas.json }
//! policies:
//!   - quota: { key: consumer, limit: 10000, period: month }
//! ```

mod keeper;
mod ledger;
mod period;
mod stored;

use std::{num::NonZeroU64, path::PathBuf, sync::Arc, time::Duration};

use pingora::http::{RequestHeader, ResponseHeader};
use schemars::JsonSchema;
use serde::Deserialize;

pub use self::ledger::Change;
use self::{
    keeper::Keeper,
    ledger::{Ledger, Taken},
    period::Window,
    stored::Shared,
};
use super::{
    Flow, Policy, Stage,
    limit_key::{Key, LimitKey, MissingKey, Parts},
    rate_limit::{Headers, OnFailure, headers},
};
use crate::{
    clock::Clock,
    config::{check::Check, quota::Period, steps, types::Name},
    digest::sha256,
    proxy::context::{Context, LimitState},
    reject::Reject,
    runtime::{Build, Task},
};

/// So many requests in a period.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Quota")]
pub struct Config {
    /// What `torana quota` calls it; without it, the route, or `*` for every route.
    pub name: Option<Name>,
    /// What is counted by, as for `rate_limit`.
    pub key: Parts,
    /// How many requests.
    pub limit: NonZeroU64,
    /// In which time.
    pub period: Period,
    /// What happens to a request that lacks what is counted by.
    #[serde(default)]
    pub missing_key: MissingKey,
    /// Where it is counted for several gateways: one of `stores`. Without it, in the file of `quotas`.
    pub store: Option<Name>,
    /// What holds while the store cannot be asked; without it, `local`.
    pub on_failure: Option<OnFailure>,
    /// Which headers say what is left.
    #[serde(default)]
    pub headers: Headers,
}

/// Counts requests in a period.
#[derive(Debug)]
pub struct QuotaPolicy {
    key: LimitKey,
    by_caller: bool,
    headers: Headers,
    quota: Arc<Quota>,
}

/// One quota, as the policy and operators know it.
#[derive(Debug)]
pub struct Quota {
    name: String,
    /// Under this name it is kept.
    kept_as: String,
    limit: u64,
    period: Period,
    ledger: Arc<Ledger>,
    keeper: Option<Arc<Keeper>>,
    shared: Option<Shared>,
    clock: Clock,
}

/// What a key has used, for operators.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Used {
    /// The quota.
    pub quota: String,
    /// The key: `consumer:mobile_app`.
    pub key: String,
    /// Requests in this period; what was added counts negatively.
    pub used: i64,
    /// Requests that there are.
    pub limit: u64,
}

impl Policy for QuotaPolicy {
    const STAGE: Stage = Stage::Limit;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        config.key.check(config.missing_key, check);
        if let Some(store) = &config.store {
            check.is_store(&steps!["store"], store);
        } else if config.on_failure.is_some() {
            check.error(&steps!["on_failure"], "this is for quotas in a store: write `store: NAME`, one of `stores`");
        }
        if let Period::Rolling(length) = config.period
            && length.0 < Duration::from_mins(1)
        {
            check.error(&steps!["period"], "a quota is for a minute at least: `rate_limit` is for less");
        }
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        let scope = build.scope().to_owned();
        let kept_as = format!("{scope}/{:?}", config.period);
        let shared = match &config.store {
            None => None,
            Some(name) => Some(Shared::new(build.store(name)?, &kept_as, config.on_failure.unwrap_or_default())),
        };
        let keeper = if shared.is_none() { keeper(build) } else { None };
        let quota = Arc::new(Quota {
            name: config.name.as_ref().map_or_else(|| shown(&scope), Name::to_string),
            limit: config.limit.get(),
            period: config.period,
            ledger: build.keep_as(format!("quota/{kept_as}"), Ledger::default),
            kept_as,
            keeper,
            shared,
            clock: build.clock.clone(),
        });
        if let Some(keeper) = &quota.keeper {
            keeper.add(&quota);
        }
        build.quotas.push(Arc::clone(&quota));
        Ok(Self {
            key: LimitKey::compile(&config.key, config.missing_key, build.seeds),
            by_caller: config.key.needs_caller(),
            headers: config.headers,
            quota,
        })
    }

    fn stage(&self) -> Stage {
        if self.by_caller { Stage::Limit } else { Stage::Guard }
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let mut parts = Vec::new();
        if !self.key.write(&mut parts, request, ctx)? {
            return Ok(Flow::Continue);
        }
        let now = ctx.started.unix.as_secs();
        let taken = self.quota.take(&parts, || self.key.label(request, ctx), now).await?;
        let reset = Duration::from_secs(taken.resets_at.saturating_sub(now));
        let used = taken.before.saturating_add(i64::from(taken.passes));
        ctx.limits.push(LimitState {
            limit: self.quota.limit,
            period: self.quota.length(now),
            remaining: remaining(self.quota.limit, used),
            reset,
        });
        if !taken.passes {
            return Err(Reject::QuotaExceeded { retry_after: reset });
        }
        self.quota.tell(taken.before, || self.key.label(request, ctx));
        Ok(Flow::Continue)
    }

    fn on_response(&self, response: &mut ResponseHeader, ctx: &mut Context) {
        headers::tell(&ctx.limits, self.headers, response);
    }
}

/// The name of a quota where the file gives it none: `orders`, or `orders/1` for the second one of a route.
fn shown(scope: &str) -> String {
    let mut parts = scope.rsplitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("0"), Some(_), Some(route)) => route.to_owned(),
        (Some(number), Some(_), Some(route)) => format!("{route}/{number}"),
        _ => scope.to_owned(),
    }
}

fn remaining(limit: u64, used: i64) -> u64 {
    let left = i128::from(limit) - i128::from(used);
    // No more than the limit is promised, however much was added.
    u64::try_from(left.max(0)).unwrap_or(u64::MAX).min(limit)
}

fn keeper(build: &mut Build<'_>) -> Option<Arc<Keeper>> {
    let state = || std::env::var_os("STATE_DIRECTORY").map(|folder| PathBuf::from(folder).join("quotas.json"));
    let path = build.config().quotas.file.clone().or_else(state);
    if build.probe {
        return None;
    }
    let Some(path) = path else {
        log::warn!(
            "quotas are only kept in memory, and a restart gives them back: set `quotas.file` or $STATE_DIRECTORY"
        );
        return None;
    };
    let key = format!("quotas/{}", path.display());
    let clock = build.clock.clone();
    let keeper = build.keep_as(key.clone(), || Keeper::open(&path, clock));
    let task = Arc::clone(&keeper);
    build.background(Task::new(key, move |ready| task.keep(ready)));
    Some(keeper)
}

impl Quota {
    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn kept_as(&self) -> &str {
        &self.kept_as
    }

    fn window(&self, now: u64) -> Window {
        Window::of(self.period, now)
    }

    fn length(&self, now: u64) -> Duration {
        match self.period {
            Period::Rolling(length) => length.0,
            Period::Day | Period::Week | Period::Month => Duration::from_secs(self.window(now).lasts),
        }
    }

    async fn take(&self, parts: &[u8], label: impl Fn() -> Box<str>, now: u64) -> Result<Taken, Reject> {
        let (digest, window) = (sha256(parts), self.window(now));
        let half = |from: usize| {
            digest.get(from..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_be_bytes(*bytes))
        };
        let key = Key(half(0), half(8));
        if let Some(shared) = &self.shared {
            match shared.take(key, self.limit, window).await {
                Ok(taken) => {
                    let used = taken.before.saturating_add(i64::from(taken.passes));
                    self.ledger.note(key, label, used, window);
                    return Ok(taken);
                }
                Err(OnFailure::Open) => return Ok(Taken { passes: true, before: 0, resets_at: now }),
                Err(OnFailure::Closed) => return Err(Reject::LimitUnavailable),
                Err(OnFailure::Local) => {}
            }
        }
        let taken = self.ledger.take(key, label, self.limit, window);
        if let Some(keeper) = self.keeper.as_ref().filter(|_| taken.passes) {
            keeper.touch();
        }
        Ok(taken)
    }

    /// Says so when a request has reached 80 % or all of it.
    fn tell(&self, before: i64, label: impl Fn() -> Box<str>) {
        let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
        let used = before.saturating_add(1);
        if used == limit {
            log::warn!("quota {}: {} has used all of {limit}", self.name, label());
        } else if used == limit - limit / 5 {
            log::warn!("quota {}: {} has used 80 % of {limit}", self.name, label());
        }
    }

    /// Its name for operators.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What each key has used.
    pub fn used(&self) -> Vec<Used> {
        let all = self.ledger.all(self.window(self.clock.unix().as_secs()));
        let used =
            |(key, used): (Box<str>, i64)| Used { quota: self.name.clone(), key: key.into(), used, limit: self.limit };
        all.into_iter().map(used).collect()
    }

    /// Does what an operator wants with a key; false if it has used nothing.
    pub fn change(&self, key: &str, change: Change) -> bool {
        let window = self.window(self.clock.unix().as_secs());
        let changed = self.ledger.change(key, change, window);
        if let Some(keeper) = &self.keeper {
            keeper.touch();
        }
        if let Some(shared) = &self.shared {
            for key in &changed {
                shared.change(*key, change, window);
            }
        }
        !changed.is_empty()
    }
}
