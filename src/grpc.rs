//! gRPC, as far as a gateway has to speak it itself
//! ([PROTOCOL-HTTP2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)): media types, time-outs, and what a
//! refusal is called.
//!
//! A client of gRPC reads no problem documents. It gets status 200 and the reason as `grpc-status` and `grpc-message`; the
//! code of the [`Reject`] stands beside them as `torana-reject`.
//!
//! | status | for |
//! |---|---|
//! | `INVALID_ARGUMENT` (3) | requests that are not well-formed, or lack what a policy needs |
//! | `DEADLINE_EXCEEDED` (4) | the deadline of the exchange, a client that is too slow |
//! | `PERMISSION_DENIED` (7) | scopes, addresses |
//! | `RESOURCE_EXHAUSTED` (8) | rate limits, sizes |
//! | `UNIMPLEMENTED` (12) | no route, wrong method |
//! | `INTERNAL` (13) | a circle, an answer that is none, a defect |
//! | `UNAVAILABLE` (14) | what may work when it is tried again: no endpoint, no connection, no room |
//! | `UNAUTHENTICATED` (16) | credentials |

use std::{fmt::Write as _, time::Duration};

use http::HeaderValue;

use crate::reject::Reject;

/// A status of gRPC that the gateway itself may answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The request is wrong, whatever the state of the server.
    InvalidArgument = 3,
    /// It took too long.
    DeadlineExceeded = 4,
    /// The caller may not do that.
    PermissionDenied = 7,
    /// Something is used up.
    ResourceExhausted = 8,
    /// There is no such method.
    Unimplemented = 12,
    /// Something is broken.
    Internal = 13,
    /// It may work when it is tried again.
    Unavailable = 14,
    /// The caller is not known.
    Unauthenticated = 16,
}

impl Status {
    /// The status for a refusal.
    pub const fn of(reject: &Reject) -> Self {
        match reject {
            Reject::BadRequest(_)
            | Reject::BadPath(_)
            | Reject::Irregular(_)
            | Reject::ExpectationFailed
            | Reject::LengthRequired
            | Reject::LimitKeyMissing
            | Reject::WebSocketInvalid(_) => Self::InvalidArgument,
            Reject::ClientTimeout(_) | Reject::DeadlineExceeded | Reject::WebSocketIdle => Self::DeadlineExceeded,
            Reject::InsufficientScope { .. }
            | Reject::AddressNotAllowed
            | Reject::AttackSuspected { .. }
            | Reject::Forbidden(_) => Self::PermissionDenied,
            Reject::HeaderTooLarge
            | Reject::RequestLineTooLong
            | Reject::TooManyHeaders
            | Reject::BodyTooLarge
            | Reject::RateLimited { .. }
            | Reject::ConcurrencyLimited
            | Reject::QuotaExceeded { .. }
            | Reject::PenaltyBox { .. }
            | Reject::ConnectionRateLimited { .. }
            | Reject::WebSocketTooLarge => Self::ResourceExhausted,
            Reject::MethodNotSupported | Reject::MethodNotAllowed { .. } | Reject::RouteNotFound => Self::Unimplemented,
            Reject::Loop | Reject::UpstreamInvalid | Reject::Internal => Self::Internal,
            Reject::KeysUnavailable
            | Reject::LimitUnavailable
            | Reject::NotCached
            | Reject::AuthUnavailable(_)
            | Reject::Overloaded(_)
            | Reject::TooManyConnections
            | Reject::NoHealthyEndpoint
            | Reject::UpstreamOverloaded(_)
            | Reject::CircuitOpen { .. }
            | Reject::Misdirected
            | Reject::UpstreamUnreachable
            | Reject::UpstreamTimeout => Self::Unavailable,
            Reject::Unauthenticated { .. } => Self::Unauthenticated,
        }
    }

    /// The number, as it stands in `grpc-status`.
    pub const fn code(self) -> &'static str {
        match self {
            Self::InvalidArgument => "3",
            Self::DeadlineExceeded => "4",
            Self::PermissionDenied => "7",
            Self::ResourceExhausted => "8",
            Self::Unimplemented => "12",
            Self::Internal => "13",
            Self::Unavailable => "14",
            Self::Unauthenticated => "16",
        }
    }
}

/// What a client of gRPC speaks, by its media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `application/grpc`, over HTTP/2.
    Grpc,
    /// `application/grpc-web`
    /// ([PROTOCOL-WEB](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md)): trailers come as a last frame.
    Web,
    /// `application/grpc-web-text`: the same in base64.
    WebText,
}

impl Kind {
    /// What a `Content-Type` stands for; `None` if it is not of gRPC.
    pub fn of(content_type: &HeaderValue) -> Option<Self> {
        Self::split(content_type).map(|(kind, _)| kind)
    }

    /// The media type without the format of the messages.
    pub const fn base(self) -> &'static str {
        match self {
            Self::Grpc => "application/grpc",
            Self::Web => "application/grpc-web",
            Self::WebText => "application/grpc-web-text",
        }
    }

    /// What stands behind the base: `+proto`, parameters, or nothing.
    fn split(content_type: &HeaderValue) -> Option<(Self, &str)> {
        let text = content_type.to_str().ok()?;
        [Self::WebText, Self::Web, Self::Grpc].into_iter().find_map(|kind| {
            let (base, rest) = text.split_at_checked(kind.base().len())?;
            let ends = rest.is_empty() || rest.starts_with(['+', ';', ' ']);
            (ends && base.eq_ignore_ascii_case(kind.base())).then_some((kind, rest))
        })
    }

    /// The same media type for another kind; `None` if this one is not of gRPC.
    pub fn translate(self, content_type: &HeaderValue) -> Option<HeaderValue> {
        let (_, rest) = Self::split(content_type)?;
        HeaderValue::try_from(format!("{}{rest}", self.base())).ok()
    }
}

/// The time in a `grpc-timeout`: up to eight digits and a unit.
pub fn timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The same the other way round, in milliseconds as far as they fit.
pub fn timeout_value(left: Duration) -> HeaderValue {
    let millis = left.as_millis().max(1);
    let text = if millis < 100_000_000 { format!("{millis}m") } else { format!("{}S", left.as_secs().min(99_999_999)) };
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("1m"))
}

/// A text as `grpc-message`: what is not visible ASCII is escaped as in URLs.
pub fn message(text: &str) -> HeaderValue {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            escaped.push(char::from(byte));
        } else {
            let written = write!(escaped, "%{byte:02X}");
            debug_assert!(written.is_ok(), "memory takes everything");
        }
    }
    HeaderValue::try_from(escaped).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).unwrap()
    }

    #[test]
    fn media_types_are_told_apart() {
        for (text, kind) in [
            ("application/grpc", Some(Kind::Grpc)),
            ("Application/GRPC+proto", Some(Kind::Grpc)),
            ("application/grpc; charset=utf-8", Some(Kind::Grpc)),
            ("application/grpc-web", Some(Kind::Web)),
            ("application/grpc-web+json", Some(Kind::Web)),
            ("application/grpc-web-text", Some(Kind::WebText)),
            ("application/grpc-web-text+proto", Some(Kind::WebText)),
            ("application/grpc-websocket", None),
            ("application/grpcx", None),
            ("application/json", None),
            ("", None),
        ] {
            assert_eq!(Kind::of(&value(text)), kind, "{text}");
        }
        assert_eq!(Kind::Grpc.translate(&value("application/grpc-web-text+proto")).unwrap(), "application/grpc+proto");
        assert_eq!(Kind::WebText.translate(&value("application/grpc+json")).unwrap(), "application/grpc-web-text+json");
        assert_eq!(Kind::Web.translate(&value("text/plain")), None);
    }

    #[test]
    fn a_timeout_has_digits_and_a_unit() {
        for (text, wanted) in [
            ("1S", Some(Duration::from_secs(1))),
            ("100m", Some(Duration::from_millis(100))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("7n", Some(Duration::from_nanos(7))),
            ("2M", Some(Duration::from_mins(2))),
            ("0S", Some(Duration::ZERO)),
        ] {
            assert_eq!(timeout(&value(text)), wanted, "{text}");
        }
        for text in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "123456789S", "1 S", "1SS"] {
            assert_eq!(timeout(&value(text)), None, "{text}");
        }
        assert_eq!(timeout_value(Duration::from_millis(1500)), "1500m");
        assert_eq!(timeout_value(Duration::from_secs(200_000)), "200000S");
        assert_eq!(timeout_value(Duration::ZERO), "1m");
    }

    #[test]
    fn a_message_is_escaped() {
        assert_eq!(message("50% off\r\nx: y é"), "50%25 off%0D%0Ax: y %C3%A9");
    }

    #[test]
    fn a_status_is_its_number() {
        for status in [Status::InvalidArgument, Status::ResourceExhausted, Status::Unauthenticated] {
            #[expect(clippy::as_conversions, reason = "an enum's number")]
            let number = (status as u8).to_string();
            assert_eq!(status.code(), number);
        }
    }
}
