//! Time, and a clock that tests can set.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rustix::time::{ClockId, clock_gettime};

/// A point in time, read once for each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Nanoseconds on the monotonic clock of the machine: for everything that measures or compares.
    /// It is the same clock in every process, so counters can be handed over.
    pub monotonic: u64,
    /// Time since 1970: for tokens and logs. It is as of the last [`Clock::sync`] and what has passed since.
    pub unix: Duration,
}

/// Where time comes from.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    /// With the distance from the monotonic clock to 1970, so that a request reads one clock and not two.
    System(Arc<AtomicU64>),
    Manual(Arc<AtomicU64>),
}

impl Default for Clock {
    fn default() -> Self {
        let clock = Self(Source::System(Arc::default()));
        clock.sync();
        clock
    }
}

impl Moment {
    /// So long before it.
    #[must_use]
    pub fn before(self, time: Duration) -> Self {
        Self { monotonic: self.monotonic.saturating_sub(nanos(time)), unix: self.unix.saturating_sub(time) }
    }
}

impl Clock {
    /// Takes over what happened to the system's clock: somebody set it, the machine slept. Called every second.
    pub fn sync(&self) {
        if let Source::System(distance) = &self.0 {
            // A clock that was never set may stand before 1970.
            let unix = SystemTime::UNIX_EPOCH.elapsed().map_or(0, nanos);
            distance.store(unix.saturating_sub(read(ClockId::Monotonic)), Ordering::Relaxed);
        }
    }

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

    /// Both times.
    pub fn now(&self) -> Moment {
        match &self.0 {
            Source::System(distance) => {
                let monotonic = read(ClockId::Monotonic);
                Moment { monotonic, unix: Duration::from_nanos(monotonic + distance.load(Ordering::Relaxed)) }
            }
            Source::Manual(now) => {
                let now = now.load(Ordering::Relaxed);
                Moment { monotonic: now, unix: Duration::from_nanos(now) }
            }
        }
    }

    /// Nanoseconds on the monotonic clock.
    pub fn monotonic(&self) -> u64 {
        self.now().monotonic
    }

    /// Time since 1970.
    pub fn unix(&self) -> Duration {
        self.now().unix
    }
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let whole = |part: i64| u64::try_from(part).unwrap_or(0);
    whole(time.tv_sec) * 1_000_000_000 + whole(time.tv_nsec)
}

/// A span of time as the monotonic clock counts it; one of more than 584 years as that.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A span of time on the monotonic clock in seconds, for what is averaged and shown.
pub(crate) const fn seconds(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64()
}

/// A span of time in its two largest units, for people.
pub fn spell(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let first = units.iter().position(|(_, length)| seconds >= *length).unwrap_or(3);
    let mut rest = seconds;
    let parts = units.iter().skip(first).take(2).map(|(unit, length)| {
        let count = rest / length;
        rest %= length;
        format!("{count}{unit}")
    });
    parts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_spelt_in_two_units() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (61, "1m 1s"), (3600, "1h 0m"), (90_061, "1d 1h")] {
            assert_eq!(spell(seconds), text);
        }
    }

    #[test]
    fn the_systems_time_is_that_of_the_system() {
        let clock = Clock::default();
        let system = Duration::from_nanos(read(ClockId::Realtime));
        assert!(clock.unix().abs_diff(system) < Duration::from_secs(1), "{:?} {system:?}", clock.unix());
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(Duration::from_secs(100));
        assert_eq!(clock.now(), clock.now());
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.unix(), Duration::from_secs(101));
    }
}
