//! The ways in which a point in time is written, in seconds since 1970.

use std::time::{Duration, UNIX_EPOCH};

/// Seconds since 1970 at `Sun, 06 Nov 1994 08:49:37 GMT`, the only form that may be sent in a header
/// ([RFC 9110, 5.6.7](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7)), or in one of its older forms.
pub(crate) fn http(text: &str) -> Option<u64> {
    let at = httpdate::parse_http_date(text).ok()?;
    at.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// The form in which it is sent in a header; up to the year 9999.
pub(crate) fn to_http(seconds: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799)))
}

/// Seconds since 1970 at the beginning of `1994-11-06`, in UTC.
pub(crate) fn day(text: &str) -> Option<u64> {
    (text.len() == 10).then(|| internet(&format!("{text}T00:00:00Z"))).flatten()
}

/// Seconds since 1970 at `1994-11-06T08:49:37Z`, with a fraction or another zone if need be
/// ([RFC 3339](https://www.rfc-editor.org/rfc/rfc3339)).
pub(crate) fn internet(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't'])?;
    let mut parts = date.split('-').map(number);
    let mut next = || parts.next()?;
    let date = [next()?, next()?, next()?];
    let at = time.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = time.split_at(at);
    let offset = match zone.strip_prefix(['+', '-']) {
        Some(offset) => {
            let (hours, minutes) = offset.split_once(':')?;
            number(hours)? * 60 + number(minutes)?
        }
        None => 0,
    };
    let offset = if zone.starts_with('-') { -offset } else { offset };
    let [hour, minute, second] = clock(time.split('.').next()?)?;
    seconds(date, [hour, minute - offset, second])
}

fn number(text: &str) -> Option<i64> {
    let is_number = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

fn clock(text: &str) -> Option<[i64; 3]> {
    let mut parts = text.split(':').map(number);
    let mut next = || parts.next()?;
    Some([next()?, next()?, next()?])
}

pub(crate) fn seconds([year, month, day]: [i64; 3], [hour, minute, second]: [i64; 3]) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years that begin in March have the leap day at their end.
    let shifted = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * shifted + shifted / 4 - shifted / 100 + shifted / 400 + day_of_year - 719_468;
    u64::try_from(((days * 24 + hour) * 60 + minute) * 60 + second).ok()
}

/// The date of a day since 1970, by counting in 400-year eras that begin on 1 March
/// (H. Hinnant, [`civil_from_days`](https://howardhinnant.github.io/date_algorithms.html)).
pub(crate) const fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_in_a_header_is_read() {
        assert_eq!(http("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http("Tue, 29 Feb 2028 23:59:59 GMT"), Some(1_835_481_599));
        for text in
            ["", "tomorrow", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Xyz 1994 08:49:37 GMT", "x, 1 Jan 2020 1:2 GMT"]
        {
            assert_eq!(http(text), None, "{text}");
        }
    }

    #[test]
    fn a_date_in_json_is_read() {
        for text in [
            "1994-11-06T08:49:37Z",
            "1994-11-06t08:49:37.25z",
            "1994-11-06T10:19:37+01:30",
            "1994-11-06T03:49:37-05:00",
            "1994-11-05T23:49:37-09:00",
        ] {
            assert_eq!(internet(text), Some(784_111_777), "{text}");
        }
        for text in
            ["", "1994-11-06", "1994-11-06T08:49:37", "1994-13-06T08:49:37Z", "1994-11-06T08:49Z", "1-1-1T1:1:1Z"]
        {
            assert_eq!(internet(text), None, "{text}");
        }
    }
}
