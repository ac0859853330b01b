//! How much may be tried again: for each hundred requests so many retries, and [`RESERVE`] more, whatever happened before. A failing
//! upstream is asked for at most that much more than it would be anyhow.
//!
//! What a busy time saves is kept up to [`MOST`] retries, so that requests that fail all at once have theirs too.

use std::sync::atomic::{AtomicU64, Ordering};

/// Retries that nothing has to be saved for.
const RESERVE: u64 = 10;

/// Retries that are kept at most.
const MOST: u64 = 100;

/// What a retry costs; a request saves so many percent of it.
const PRICE: u64 = 100;

/// What is left, in hundredths of a retry.
#[derive(Debug)]
pub(super) struct Budget(AtomicU64);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU64::new(RESERVE * PRICE))
    }
}

impl Budget {
    /// A request begins.
    pub(super) fn deposit(&self, percent: u16) {
        // Full nearly always: then nothing is written, and no two requests wait for each other.
        if self.0.load(Ordering::Relaxed) < MOST * PRICE {
            self.0.fetch_add(u64::from(percent), Ordering::Relaxed);
        }
    }

    /// Pays for a retry, if there is enough.
    pub(super) fn withdraw(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(PRICE)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_part_of_the_requests_and_a_reserve() {
        let budget = Budget::default();
        let mut retries = 0;
        for _ in 0..10_000 {
            budget.deposit(20);
            retries += (0..5).filter(|_| budget.withdraw()).count();
        }
        assert_eq!(retries, 2_010);
    }

    #[test]
    fn a_quiet_time_saves_no_storm() {
        let budget = Budget::default();
        (0..1_000_000).for_each(|_| budget.deposit(100));
        assert_eq!((0..1_000).filter(|_| budget.withdraw()).count(), 100);
    }

    #[test]
    fn without_a_share_there_is_the_reserve() {
        let budget = Budget::default();
        (0..1_000).for_each(|_| budget.deposit(0));
        assert_eq!((0..1_000).filter(|_| budget.withdraw()).count(), 10);
    }
}
