//! What clients are told about their limits.
//!
//! | `headers` | what is sent |
//! |---|---|
//! | `standard` | `RateLimit-Policy` and `RateLimit` ([draft 10](https://www.ietf.org/archive/id/draft-ietf-httpapi-ratelimit-headers-10.txt)) |
//! | `kong` | `X-RateLimit-Limit-Second`, `X-RateLimit-Remaining-Second` and so on, and `RateLimit-Limit`, `RateLimit-Remaining`, `RateLimit-Reset` |
//! | `both`, `none` | both of them, or nothing |

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use pingora::http::ResponseHeader;
use smallvec::SmallVec;

use super::config::Headers;
use crate::proxy::{context::LimitState, spelling::edit_response};

/// A value while it is written: mostly there is one limit.
type Text = SmallVec<[u8; 64]>;

/// Adds what is to be told of these limits. With several limits in a chain each call writes the same headers again: `limits` has all of them.
pub(in crate::policy) fn tell(limits: &[LimitState], which: Headers, response: &mut ResponseHeader) {
    if limits.is_empty() {
        return;
    }
    if matches!(which, Headers::Standard | Headers::Both) {
        tell_standard(limits, response);
    }
    let mut set = |name: &'static str, text: String| {
        if let Ok(value) = HeaderValue::try_from(text) {
            drop(response.insert_header(name, value));
        }
    };
    if matches!(which, Headers::Kong | Headers::Both) {
        let text = |number: u64| itoa::Buffer::new().format(number).to_owned();
        for limit in limits {
            if let Some((most, left)) = kong(limit.period) {
                set(most, text(limit.limit));
                set(left, text(limit.remaining));
            }
        }
        // Of the limit that is nearest to its end.
        if let Some(limit) = limits.iter().min_by_key(|limit| limit.remaining) {
            set("RateLimit-Limit", text(limit.limit));
            set("RateLimit-Remaining", text(limit.remaining));
            set("RateLimit-Reset", text(whole_seconds(limit.reset)));
        }
    }
}

fn tell_standard(limits: &[LimitState], response: &mut ResponseHeader) {
    const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
    const STATE: HeaderName = HeaderName::from_static("ratelimit");
    let values = (HeaderValue::from_bytes(&policy_header(limits)), HeaderValue::from_bytes(&state_header(limits)));
    let (Ok(policy), Ok(state)) = values else { return };
    if response.has_case() {
        drop(response.insert_header("RateLimit-Policy", policy));
        drop(response.insert_header("RateLimit", state));
    } else {
        edit_response(response, |headers| {
            // Whoever has too many headers already is told nothing.
            drop(headers.try_insert(POLICY, policy));
            drop(headers.try_insert(STATE, state));
        });
    }
}

/// The names that Kong has for a period.
fn kong(period: Duration) -> Option<(&'static str, &'static str)> {
    Some(match period.as_secs() {
        1 => ("X-RateLimit-Limit-Second", "X-RateLimit-Remaining-Second"),
        60 => ("X-RateLimit-Limit-Minute", "X-RateLimit-Remaining-Minute"),
        3_600 => ("X-RateLimit-Limit-Hour", "X-RateLimit-Remaining-Hour"),
        86_400 => ("X-RateLimit-Limit-Day", "X-RateLimit-Remaining-Day"),
        2_592_000 => ("X-RateLimit-Limit-Month", "X-RateLimit-Remaining-Month"),
        31_536_000 => ("X-RateLimit-Limit-Year", "X-RateLimit-Remaining-Year"),
        _ => return None,
    })
}

/// `"100/s";q=100;w=1`
fn policy_header(limits: &[LimitState]) -> Text {
    let mut text = Text::new();
    for limit in limits {
        name(&mut text, limit);
        text.extend_from_slice(b";q=");
        number(&mut text, limit.limit);
        text.extend_from_slice(b";w=");
        number(&mut text, limit.period.as_secs());
    }
    text
}

/// `"100/s";r=42;t=1`
fn state_header(limits: &[LimitState]) -> Text {
    let mut text = Text::new();
    for limit in limits {
        name(&mut text, limit);
        text.extend_from_slice(b";r=");
        number(&mut text, limit.remaining);
        text.extend_from_slice(b";t=");
        number(&mut text, whole_seconds(limit.reset));
    }
    text
}

/// The limit as it is written in the file, behind those before it.
fn name(text: &mut Text, limit: &LimitState) {
    text.extend_from_slice(if text.is_empty() { b"\"" } else { b", \"" });
    number(text, limit.limit);
    match limit.period.as_secs() {
        1 => text.extend_from_slice(b"/s\""),
        60 => text.extend_from_slice(b"/m\""),
        3_600 => text.extend_from_slice(b"/h\""),
        86_400 => text.extend_from_slice(b"/d\""),
        other => {
            text.push(b'/');
            number(text, other);
            text.extend_from_slice(b"s\"");
        }
    }
}

/// Digits, without the machinery of `write!`: every response has some.
fn number(text: &mut Text, number: u64) {
    text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_millis() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(limit: u64, seconds: u64, remaining: u64, reset: u64) -> LimitState {
        LimitState { limit, period: Duration::from_secs(seconds), remaining, reset: Duration::from_millis(reset) }
    }

    #[test]
    fn headers_follow_the_draft() {
        let limits = [state(100, 1, 42, 580), state(10_000, 3600, 9_000, 360_000)];
        assert_eq!(policy_header(&limits)[..], *br#""100/s";q=100;w=1, "10000/h";q=10000;w=3600"#);
        assert_eq!(state_header(&limits)[..], *br#""100/s";r=42;t=1, "10000/h";r=9000;t=360"#);
    }

    #[test]
    fn those_who_come_from_kong_get_its_headers() {
        let limits = [state(100, 1, 42, 580), state(10_000, 3600, 9_000, 360_000), state(7, 7, 50, 0)];
        let told = |which| {
            let mut response = ResponseHeader::build(200, None).unwrap();
            tell(&limits, which, &mut response);
            let mut all: Vec<_> =
                response.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
            all.sort();
            all
        };
        assert_eq!(
            told(Headers::Kong),
            [
                "ratelimit-limit: 100",
                "ratelimit-remaining: 42",
                "ratelimit-reset: 1",
                "x-ratelimit-limit-hour: 10000",
                "x-ratelimit-limit-second: 100",
                "x-ratelimit-remaining-hour: 9000",
                "x-ratelimit-remaining-second: 42",
            ]
        );
        assert_eq!((told(Headers::Both).len(), told(Headers::Standard).len(), told(Headers::None).len()), (9, 2, 0));
    }
}
