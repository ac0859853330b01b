//! GCRA: the token bucket without a bucket. It knows neither keys nor HTTP.
//!
//! The state of a limit is one number, the time at which all of it would be there again if no request came any more. A request
//! moves it on by one interval, and is refused if it would then lie further ahead than the burst allows.

use std::time::Duration;

use crate::{clock::nanos, config::types::Rate, proxy::context::LimitState};

/// A request is older than this only if something else is wrong: a minute, in nanoseconds.
const DISORDER: u64 = 60_000_000_000;

/// What a request wants of its limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    /// For how many requests it counts.
    pub(super) cost: u64,
    /// How long it would wait, in nanoseconds.
    pub(super) patience: u64,
}

impl Ask {
    /// A request like any other, at once.
    #[cfg(test)]
    pub(super) const ONE: Self = Self { cost: 1, patience: 0 };
}

/// One limit, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gcra {
    /// Between two requests that come as fast as the rate allows. Rounded up: never more than the rate.
    interval: u64,
    /// How far ahead the time may lie: the burst, as time.
    capacity: u64,
    limit: u64,
    period: Duration,
}

impl Gcra {
    /// A limit that lets `burst` requests through at once.
    pub(super) fn new(rate: Rate, burst: u64) -> Self {
        let period = nanos(rate.period);
        let interval = period.div_ceil(rate.count.get());
        Self {
            interval,
            // A year at most: far enough, and sums cannot overflow.
            capacity: interval.saturating_mul(burst).min(366 * 86_400 * 1_000_000_000),
            limit: rate.count.get(),
            period: rate.period,
        }
    }

    /// What a request of this cost takes, in time. One that costs more than all there ever is costs just that: it passes when nothing
    /// else was asked for.
    fn price(&self, cost: u64) -> u64 {
        self.interval.saturating_mul(cost).min(self.capacity)
    }

    /// The time if this request passes, perhaps after a wait, or how long it would have to wait.
    pub(super) fn next(&self, full_at: u64, now: u64, ask: Ask) -> Result<(u64, u64), u64> {
        let next = full_at.max(now).saturating_add(self.price(ask.cost));
        let early = next.saturating_sub(now.saturating_add(self.capacity));
        if early <= ask.patience { Ok((next, early)) } else { Err(early) }
    }

    /// The time after something was taken that nobody asked about before.
    pub(super) fn charge(&self, full_at: u64, now: u64, cost: u64) -> u64 {
        full_at.max(now).saturating_add(self.price(cost))
    }

    /// Nanoseconds between two requests that come as fast as the rate allows, and how many of them may be taken ahead.
    pub(super) fn shape(&self) -> (u64, u64) {
        (self.interval, self.capacity)
    }

    /// A limit that was lower before a reload must not block for longer than this one ever would. Only what lies much
    /// too far ahead can come from there: requests do not come in the order of their times, so a little is usual, and to
    /// cut that off would give away requests.
    pub(super) fn settle(&self, full_at: u64, now: u64) -> u64 {
        let most = now.saturating_add(self.capacity);
        if full_at > most.saturating_add(DISORDER) { most } else { full_at }
    }

    pub(super) fn state(&self, full_at: u64, now: u64) -> LimitState {
        let used = full_at.saturating_sub(now).min(self.capacity);
        LimitState {
            limit: self.limit,
            period: self.period,
            // What a burst allows beyond the limit is not promised: it would not be there in the next period.
            remaining: ((self.capacity - used) / self.interval.max(1)).min(self.limit),
            reset: Duration::from_nanos(used),
        }
    }
}
