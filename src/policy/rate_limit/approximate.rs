//! `accuracy: approximate`: fixed memory however many keys there are, by [`pingora_limits`].
//!
//! `Rate` counts in a count-min sketch, so a key may be charged for requests of another: it errs towards refusing, never
//! towards letting through. Its periods are those of the file, which are never shorter than a second; with shorter ones
//! it could panic.

use std::{fmt, time::Duration};

use pingora_limits::rate::{Rate, RateComponents};

use crate::{
    config::types,
    policy::limit_key::Key,
    proxy::context::{LimitState, LimitStates},
    runtime::State,
};

/// One limit. What is counted outlives the configuration.
pub(crate) struct Estimate(Rate);

impl fmt::Debug for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Estimate").finish_non_exhaustive()
    }
}

/// A window is at most as long as an upgrade takes to be forgotten: what is approximate begins afresh.
impl State for Estimate {}

impl Estimate {
    pub(crate) fn new(period: Duration) -> Self {
        Self(Rate::new(period))
    }

    /// Counts a request, refused ones too, and says how long to wait if it was one too many.
    pub(crate) fn take(&self, key: Key, rate: types::Rate, states: &mut LimitStates) -> Result<(), Duration> {
        self.0.observe(&key, 1);
        let (used, left) = self.0.rate_with(&key, sliding);
        let limit = rate.count.get();
        let reset = rate.period.mul_f64(left.clamp(0.0, 1.0));
        states.push(LimitState { limit, period: rate.period, remaining: limit.saturating_sub(used), reset });
        if used > limit { Err(reset) } else { Ok(()) }
    }
}

/// Requests in the period that ends now, as if those of the previous period had been spread evenly; and which part of
/// the current period is left.
fn sliding(seen: RateComponents) -> (u64, f64) {
    let left = 1.0 - seen.current_interval_fraction;
    let whole = |samples: isize| u64::try_from(samples).unwrap_or(0);
    // Seconds stand for requests, because std converts between a float and a duration without a cast.
    let before = Duration::from_secs(whole(seen.prev_samples).min(1 << 40));
    let before = before.mul_f64(left.clamp(0.0, 1.0)).as_secs();
    (whole(seen.curr_samples).saturating_add(before), left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::limit_key::{KeyHasher, Sink as _},
        runtime::Seeds,
    };

    #[test]
    fn a_flood_is_refused_and_others_are_not() {
        let (seeds, rate) = (Seeds::random(), "5/h".parse::<types::Rate>().unwrap());
        let estimate = Estimate::new(rate.period);
        let key = |text: &[u8]| {
            let mut key = KeyHasher::new(seeds);
            key.add(0, text);
            key.finish()
        };
        let passed = (0..100).filter(|_| estimate.take(key(b"flood"), rate, &mut LimitStates::new()).is_ok()).count();
        assert_eq!(passed, 5);
        assert!(estimate.take(key(b"other"), rate, &mut LimitStates::new()).is_ok());
    }
}
