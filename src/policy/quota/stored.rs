//! A quota that several gateways share: in a hash of the [store](crate::store), by the beginning of each part of the period.

use std::sync::Arc;

use redis::Script;

use super::{
    ledger::{Change, Taken},
    period::Window,
};
use crate::{
    policy::{limit_key::Key, rate_limit::OnFailure},
    store::Store,
};

/// Takes one if there is one. Arguments: the part of the period that it is, the first one that still counts, how many there are, and after how many seconds
/// all of it may be forgotten. Returns whether it passes, what was used before, and the first part that counts.
fn take() -> Script {
    Script::new(
        "
local bucket, oldest, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local used, first = 0, bucket
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local at = tonumber(all[i])
  if at < oldest then
    redis.call('HDEL', KEYS[1], all[i])
  else
    used = used + tonumber(all[i + 1])
    if at < first then first = at end
  end
end
if used >= limit then return {0, used, first} end
redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
redis.call('EXPIRE', KEYS[1], ARGV[4])
return {1, used, first}",
    )
}

/// Forgets everything (second argument -1), or adds so many to this part of the period.
fn change() -> Script {
    Script::new(
        "
if tonumber(ARGV[2]) == -1 then
  redis.call('DEL', KEYS[1])
else
  redis.call('HINCRBY', KEYS[1], ARGV[1], -tonumber(ARGV[2]))
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
return {1}",
    )
}

/// Where a shared quota is.
#[derive(Debug)]
pub(super) struct Shared {
    store: Arc<Store>,
    prefix: String,
    on_failure: OnFailure,
    take: Script,
    change: Arc<Script>,
}

impl Shared {
    pub(super) fn new(store: Arc<Store>, kept_as: &str, on_failure: OnFailure) -> Self {
        let prefix = format!("{}:quota:{kept_as}:", store.prefix());
        Self { store, prefix, on_failure, take: take(), change: Arc::new(change()) }
    }

    fn name(&self, key: Key) -> Vec<u8> {
        format!("{}{:016x}{:016x}", self.prefix, key.0, key.1).into_bytes()
    }

    /// The error says what holds while the store is away.
    pub(super) async fn take(&self, key: Key, limit: u64, window: Window) -> Result<Taken, OnFailure> {
        let arguments = [whole(window.bucket), whole(window.oldest), whole(limit), whole(window.lasts) + 1];
        match self.store.run(&self.take, &self.name(key), &arguments).await.as_deref() {
            Ok([passes, before, first]) => Ok(Taken {
                passes: *passes == 1,
                before: *before,
                resets_at: u64::try_from(*first).unwrap_or(0).saturating_add(window.lasts),
            }),
            Ok(_) | Err(_) => Err(self.on_failure),
        }
    }

    /// In the background.
    pub(super) fn change(&self, key: Key, change: Change, window: Window) {
        let more = match change {
            Change::Reset => -1,
            Change::TopUp(more) => whole(more),
        };
        let (store, script, name) = (Arc::clone(&self.store), Arc::clone(&self.change), self.name(key));
        tokio::spawn(async move {
            let arguments = [whole(window.bucket), more, whole(window.lasts) + 1];
            if store.run(&script, &name, &arguments).await.is_err() {
                log::error!("a quota in store {} could not be changed", store.name());
            }
        });
    }
}

/// What fits into a number of the script's language.
fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX).min(1 << 52)
}
