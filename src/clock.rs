//! Time, and a clock that tests can set.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// A point in time, read once for each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Nanoseconds on the monotonic clock of the machine: for everything that measures or compares.
    /// It is the same clock in every process, so counters can be handed over.
    pub monotonic: u64,
    /// Time since 1970: for tokens and logs.
    pub unix: Duration,
}

/// Where time comes from.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that stands still until [`advance`](Self::advance) is called; it starts at `unix`.
    pub fn manual(unix: Duration) -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(nanos(unix)))))
    }

    /// Moves a manual clock; the system's clock stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(now) = &self.0 {
            now.fetch_add(nanos(by), Ordering::Relaxed);
        }
    }

    /// Reads both clocks.
    pub fn now(&self) -> Moment {
        Moment { monotonic: self.monotonic(), unix: self.unix() }
    }

    /// Nanoseconds on the monotonic clock.
    pub fn monotonic(&self) -> u64 {
        match &self.0 {
            Source::System => read(ClockId::Monotonic),
            Source::Manual(now) => now.load(Ordering::Relaxed),
        }
    }

    /// Time since 1970.
    pub fn unix(&self) -> Duration {
        match &self.0 {
            Source::System => Duration::from_nanos(read(ClockId::Realtime)),
            Source::Manual(now) => Duration::from_nanos(now.load(Ordering::Relaxed)),
        }
    }
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let whole = |part: i64| u64::try_from(part).unwrap_or(0);
    whole(time.tv_sec) * 1_000_000_000 + whole(time.tv_nsec)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(Duration::from_secs(100));
        assert_eq!(clock.now(), clock.now());
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.unix(), Duration::from_secs(101));
    }
}
