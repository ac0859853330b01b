//! The time in which a quota may be used up.

use crate::{config::quota::Period, date};

const DAY: u64 = 86_400;

/// A rolling period is counted in so many parts; each leaves when all of it is over.
const PARTS: u64 = 60;

/// Where a moment lies, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// What is used now is counted here.
    pub(super) bucket: u64,
    /// Buckets before this one do not count any more.
    pub(super) oldest: u64,
    /// How long after its beginning a bucket leaves.
    pub(super) lasts: u64,
}

impl Window {
    /// Of a period at this time.
    pub(super) fn of(period: Period, now: u64) -> Self {
        match period {
            Period::Day => Self::fixed(now - now % DAY, DAY),
            // 1970 began on a Thursday.
            Period::Week => {
                let day = now / DAY;
                Self::fixed((day - (day + 3) % 7) * DAY, 7 * DAY)
            }
            Period::Month => {
                let (year, month, day) = date::civil(now / DAY);
                let begin = (now / DAY - (day - 1)) * DAY;
                let (year, month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
                let signed = |number: u64| i64::try_from(number).unwrap_or(0);
                let end = date::seconds([signed(year), signed(month), 1], [0, 0, 0]).unwrap_or(begin + 31 * DAY);
                Self::fixed(begin, end - begin)
            }
            Period::Rolling(length) => {
                let length = length.0.as_secs();
                let part = (length / PARTS).max(1);
                let oldest = now.checked_sub(length + part).map_or(0, |before| (before / part + 1) * part);
                Self { bucket: now - now % part, oldest, lasts: length + part }
            }
        }
    }

    fn fixed(begin: u64, lasts: u64) -> Self {
        Self { bucket: begin, oldest: begin, lasts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::types::Duration;

    #[test]
    fn days_weeks_and_months_are_those_of_the_calendar() {
        // Friday, 27 February 2026, 12:34:56.
        let now = date::internet("2026-02-27T12:34:56Z").unwrap();
        for (period, begin, end) in [
            (Period::Day, "2026-02-27", "2026-02-28"),
            (Period::Week, "2026-02-23", "2026-03-02"),
            (Period::Month, "2026-02-01", "2026-03-01"),
        ] {
            let (begin, end) = (date::day(begin).unwrap(), date::day(end).unwrap());
            let window = Window { bucket: begin, oldest: begin, lasts: end - begin };
            for at in [now, begin, end - 1] {
                if period == Period::Day || at == now || period != Period::Day {
                    assert_eq!(Window::of(period, at), window, "{period:?} {at}");
                }
            }
            assert_eq!(Window::of(period, end).bucket, end);
        }
        let december = date::day("2026-12-31").unwrap();
        assert_eq!(Window::of(Period::Month, december).lasts, 31 * DAY);
    }

    #[test]
    fn what_was_used_in_a_rolling_period_leaves_when_all_of_its_part_is_over() {
        let period = Period::Rolling(Duration::from_secs(600));
        let at = |now| Window::of(period, now);
        let bucket = at(10_007).bucket;
        assert_eq!(bucket, 10_000);
        // Used at 10,009 at the latest, it counts until 10,609.
        assert!(at(10_609).oldest <= bucket && at(10_610).oldest > bucket);
        assert_eq!(bucket + at(10_007).lasts, 10_610);
    }
}
