//! When a certificate is renewed, and when something is tried again. No clock and no chance: everything follows from the
//! arguments, so that two processes come to the same result.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::tls::state::Leaf;

/// The longest pause between two tries.
const MAX_PAUSE: u64 = 6 * 3600;

/// An authority that always says that it is time is not asked more often than this.
const MIN_AGE: u64 = 3 * 3600;

/// Renewals are spread over this time at most.
const MAX_SPREAD: u64 = 24 * 3600;

/// When a certificate is to be renewed, in seconds since 1970. `chance` is different for each certificate, so that those
/// that were issued together are not renewed together.
pub(super) fn renewal(leaf: &Leaf, before: Option<Duration>, chance: u32) -> u64 {
    let life = leaf.not_after.saturating_sub(leaf.not_before);
    // Whatever is asked for, a new certificate is not renewed at once.
    let before = before.map_or(life / 3, |before| before.as_secs()).min(life / 3 * 2);
    let spread = part((life / 20).min(MAX_SPREAD), chance);
    leaf.not_after.saturating_sub(before).saturating_sub(spread)
}

/// When a certificate is to be renewed according to its authority: some time in its window, but before what the
/// configuration says, while there is time for failures, and not as soon as it is there.
pub(super) fn suggested(leaf: &Leaf, (start, end): (u64, u64), own: Option<u64>, chance: u32) -> u64 {
    let life = leaf.not_after.saturating_sub(leaf.not_before);
    let earliest = leaf.not_before + (life / 3).min(MIN_AGE);
    let latest = leaf.not_after.saturating_sub(life / 6).min(own.unwrap_or(u64::MAX)).max(earliest);
    start.saturating_add(part(end.saturating_sub(start), chance)).clamp(earliest, latest)
}

/// The share of `whole` that `chance` stands for.
fn part(whole: u64, chance: u32) -> u64 {
    let share = (u128::from(whole) * u128::from(chance)) >> 32;
    u64::try_from(share).unwrap_or(whole)
}

/// What went wrong, and when it is tried again. It is kept, so that a process that is started over and over does not ask
/// an authority over and over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    /// Why, in words.
    pub(super) why: String,
    /// How often in a row.
    pub(super) failures: u32,
    /// When it was tried last, in seconds since 1970.
    pub(super) tried_at: u64,
    /// When it is tried again.
    pub(super) next_try: u64,
    /// Before when the authority does not want to be asked; 0 if it said nothing.
    pub(super) not_before: u64,
}

impl Failure {
    /// One more failure.
    pub(super) fn new(
        why: String,
        before: Option<&Self>,
        now: u64,
        not_before: u64,
        retry: Duration,
        chance: u32,
    ) -> Self {
        let failures = before.map_or(0, |before| before.failures).saturating_add(1);
        let pause = pause(failures, retry.as_secs());
        let pause = pause + part(pause / 10, chance);
        Self { why, failures, tried_at: now, next_try: now.saturating_add(pause).max(not_before), not_before }
    }

    /// Somebody has changed something, or the process has just started: the next try need not wait for long.
    pub(super) fn hurry(&mut self, retry: Duration) {
        let soon = self.tried_at.saturating_add(retry.as_secs()).max(self.not_before);
        self.next_try = self.next_try.min(soon);
    }
}

/// Twice as long after each failure.
fn pause(failures: u32, first: u64) -> u64 {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(20));
    doubled.min(MAX_PAUSE.max(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn leaf(days: u64) -> Leaf {
        Leaf { names: Vec::new(), issuer: String::new(), not_before: 1000 * DAY, not_after: (1000 + days) * DAY }
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_time_is_left() {
        assert_eq!(renewal(&leaf(90), None, 0), 1060 * DAY);
        let days = |days| Some(Duration::from_secs(days * DAY));
        assert_eq!(renewal(&leaf(90), days(10), 0), 1080 * DAY);
        // Of an authority whose certificates live shorter than that.
        assert_eq!(renewal(&leaf(9), days(30), 0), 1003 * DAY);
        let latest = renewal(&leaf(90), None, u32::MAX);
        assert!((1059 * DAY..1059 * DAY + 2).contains(&latest), "at most a day earlier");
        assert_eq!(renewal(&leaf(0), None, u32::MAX), 1000 * DAY);
    }

    #[test]
    fn failures_are_repeated_ever_more_slowly_and_never_sooner_than_the_authority_allows() {
        let retry = Duration::from_mins(5);
        let mut last: Option<Failure> = None;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let failure = Failure::new("no".into(), last.as_ref(), 1000, 0, retry, 0);
            pauses.push((failure.next_try - 1000) / 60);
            last = Some(failure);
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 360, 360, 360]);
        let told = Failure::new("no".into(), None, 1000, 1_000_000, retry, u32::MAX);
        assert_eq!(told.next_try, 1_000_000);
        let late = Failure::new("no".into(), None, 1000, 1, retry, u32::MAX);
        assert!((1300..1330).contains(&late.next_try), "{late:?}");
    }

    #[test]
    fn a_start_does_not_wait_for_hours_but_for_the_authority() {
        let retry = Duration::from_mins(1);
        let mut failure = Failure { why: String::new(), failures: 9, tried_at: 1000, next_try: 9000, not_before: 0 };
        failure.hurry(retry);
        assert_eq!(failure.next_try, 1060);
        let mut told = Failure { next_try: 9000, not_before: 8000, ..failure };
        told.hurry(retry);
        assert_eq!(told.next_try, 8000);
    }

    #[test]
    fn an_authority_says_when_but_not_too_late() {
        let day = |day| (1000 + day) * DAY;
        let when = |start, end, own: Option<u64>, chance| {
            suggested(&leaf(90), (day(start), day(end)), own.map(day), chance) / DAY - 1000
        };
        assert_eq!([when(50, 52, None, 0), when(50, 52, None, u32::MAX)], [50, 51]);
        assert_eq!(when(50, 52, Some(40), 0), 40);
        assert_eq!([when(85, 95, None, 0), when(50, 52, Some(60), 0)], [75, 50]);
        assert_eq!(suggested(&leaf(90), (0, 0), None, 7), 1000 * DAY + MIN_AGE, "an authority that always says now");
        assert_eq!(when(0, 0, Some(0), 0), 0);
    }
}
