//! How much a client may send that asks for nothing.
//!
//! A frame of control costs its sender next to nothing, and the gateway an answer, a lock or a wake-up. Each kind has a
//! budget for ten seconds. What the gateway sends adds to it, because windows are opened, pings are sent and streams are
//! given up in step with what comes. Who goes beyond is told to calm down (`GOAWAY ENHANCE_YOUR_CALM`), and the
//! connection ends.
//!
//! | kind | frames | budget for 10 s | one more for each |
//! |---|---|---|---|
//! | `settings` | `SETTINGS` | 100 | - |
//! | `ping` | `PING` | 500 | 32 bytes sent |
//! | `priority` | `PRIORITY` | 500 | 32 bytes sent |
//! | `window` | `WINDOW_UPDATE` | 2,000 | 8 bytes sent |
//! | `data` | `DATA` with nothing in it that is not the last one | 50 | - |
//! | `reset` | `RST_STREAM` (CVE-2023-44487) | 500 | 64 bytes sent |
//! | `other` | `GOAWAY`, acknowledgements of pings, frames of extensions | 500 | 32 bytes sent |
//!
//! The rest is counted by the `h2` crate: streams that the client made the gateway reset (CVE-2025-8671), headers that do
//! not end or are far too large, small `DATA` frames, streams that were given up before anyone looked at them. It does
//! not say which, so the kind is that of the frame with which it was too much. `reset` is, last, more requests under way
//! than there may be streams and as many again, which only a client can have that gives streams up.

use std::time::{Duration, Instant};

use h2::Reason;

/// What a client sent too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flood {
    Settings,
    Ping,
    Priority,
    Window,
    Data,
    Reset,
    Other,
    Headers,
    Continuation,
}

impl Flood {
    /// Those that [`Budget`] counts, in the order of its places.
    const COUNTED: [Self; 7] =
        [Self::Settings, Self::Ping, Self::Priority, Self::Window, Self::Data, Self::Reset, Self::Other];

    /// The name in metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Ping => "ping",
            Self::Priority => "priority",
            Self::Window => "window",
            Self::Data => "data",
            Self::Reset => "reset",
            Self::Other => "other",
            Self::Headers => "headers",
            Self::Continuation => "continuation",
        }
    }

    /// How many there may be, and for how many bytes sent there may be one more.
    const fn allowance(self) -> (u64, Option<u64>) {
        match self {
            Self::Settings => (100, None),
            Self::Ping | Self::Priority | Self::Other => (500, Some(32)),
            Self::Window => (2_000, Some(8)),
            Self::Data => (50, None),
            Self::Reset => (500, Some(64)),
            Self::Headers | Self::Continuation => (0, None),
        }
    }

    /// The kind of a frame.
    pub(super) const fn of(kind: u8) -> Self {
        match kind {
            0 => Self::Data,
            1 => Self::Headers,
            2 => Self::Priority,
            3 => Self::Reset,
            4 => Self::Settings,
            6 => Self::Ping,
            8 => Self::Window,
            9 => Self::Continuation,
            _ => Self::Other,
        }
    }
}

/// Whether the `h2` crate ended a connection because there was too much of something.
pub(super) fn is_flood(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM)
}

/// For so long a budget lasts.
const WINDOW: Duration = Duration::from_secs(10);

/// What a client has sent of each kind.
#[derive(Debug)]
pub(super) struct Budget {
    since: Instant,
    counts: [u64; Flood::COUNTED.len()],
    /// How many bytes went to the client meanwhile.
    sent: u64,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, counts: Default::default(), sent: 0 }
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Takes one more; `false` if that is too much. The clock is only asked when the budget is used up.
    pub(super) fn take(&mut self, kind: Flood, now: impl FnOnce() -> Instant) -> bool {
        let place = Flood::COUNTED.iter().position(|one| *one == kind);
        let Some(count) = place.and_then(|place| self.counts.get_mut(place)) else {
            return true;
        };
        *count += 1;
        let (base, each) = kind.allowance();
        let more = each.map_or(0, |each| self.sent / each);
        if *count <= base.saturating_add(more) {
            return true;
        }
        let now = now();
        if now.saturating_duration_since(self.since) < WINDOW {
            return false;
        }
        *self = Self::new(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(budget: &mut Budget, kind: Flood, now: Instant) -> u64 {
        (0..100_000).take_while(|_| budget.take(kind, || now)).count().try_into().unwrap()
    }

    #[test]
    fn a_budget_is_for_ten_seconds_and_each_kind_has_its_own() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        assert_eq!(count(&mut budget, Flood::Ping, start + WINDOW / 2), 500);
        assert_eq!(count(&mut budget, Flood::Settings, start), 100);
        assert!(!budget.take(Flood::Ping, || start + WINDOW / 2));
        assert!(budget.take(Flood::Ping, || start + WINDOW));
        assert_eq!(count(&mut budget, Flood::Ping, start + WINDOW), 500);
    }

    #[test]
    fn what_is_sent_allows_for_more_but_not_of_everything() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        budget.sent(64_000);
        assert_eq!(count(&mut budget, Flood::Reset, start), 1_500);
        assert_eq!(count(&mut budget, Flood::Window, start), 10_000);
        assert_eq!(count(&mut budget, Flood::Settings, start), 100);
        assert_eq!(count(&mut budget, Flood::Data, start), 50);
    }

    #[test]
    fn answers_to_pings_do_not_pay_for_pings_without_end() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut pings = 0;
        while budget.take(Flood::Ping, || start) && pings < 10_000 {
            budget.sent(17);
            pings += 1;
        }
        assert!(pings < 1_200, "{pings}");
    }

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let mut names: Vec<_> = Flood::COUNTED.iter().map(|kind| kind.name()).collect();
        names.extend([Flood::Headers, Flood::Continuation].map(Flood::name));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 9);
    }
}
