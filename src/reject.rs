//! Every reason for which the gateway answers instead of the upstream.
//!
//! The [`code`](Reject::code) is the end of the problem type, the log field and the metric label; `Display` is the
//! detail that the client may read. [`problem`](crate::problem) makes the document.

use std::{borrow::Cow, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::route::{
    path::PathError,
    rules::{Rule, Rules},
};

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// The request is not one that every server would read in the same way.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The path has no normal form.
    #[error("{0}")]
    BadPath(PathError),
    /// Servers read the request differently, and the route does not let that through.
    #[error("{0}")]
    Irregular(Rule),
    /// The client expects something that no server does.
    #[error("the request expects something else than `100-continue`")]
    ExpectationFailed,
    /// The header of the request is larger than the listener allows.
    #[error("the header of the request is too large")]
    HeaderTooLarge,
    /// The request line is longer than the listener allows.
    #[error("the target of the request is too long")]
    RequestLineTooLong,
    /// The request has more headers than the listener allows.
    #[error("the request has too many headers")]
    TooManyHeaders,
    /// The client took too long to send the request, or to take the response.
    #[error("the request did not arrive in time")]
    ClientTimeout(&'static str),
    /// The method is one that no gateway passes on.
    #[error("the gateway does not pass this method on")]
    MethodNotSupported,
    /// The connection was made for a name for which other client certificates are asked for.
    #[error("this connection is not for the host of the request")]
    Misdirected,
    /// The request came through this gateway before.
    #[error("the request runs in a circle")]
    Loop,
    /// Nothing in the route table matches.
    #[error("no route matches the request")]
    RouteNotFound,
    /// The path matches, but with other methods.
    #[error("the method is not allowed for this path")]
    MethodNotAllowed {
        /// The methods that are.
        allow: HeaderValue,
    },
    /// A policy needs a credential and there is none, or it is not valid. Clients get the same answer for all causes; the log has
    /// the cause.
    #[error("this needs valid credentials")]
    Unauthenticated {
        /// What to send next time, for `WWW-Authenticate`.
        challenge: HeaderValue,
        /// What there was of a credential.
        shown: Shown,
        /// What was wrong, for the log.
        reason: &'static str,
    },
    /// Who calls is known, and may not do this.
    #[error("this caller may not do this")]
    Forbidden(Cow<'static, str>),
    /// The token does not carry the scopes that are asked for.
    #[error("the token lacks a scope that this route needs")]
    InsufficientScope {
        /// [RFC 6750, 3](https://www.rfc-editor.org/rfc/rfc6750#section-3), for `WWW-Authenticate`.
        challenge: HeaderValue,
    },
    /// The keys to check a token with could not be fetched.
    #[error("tokens cannot be checked at the moment")]
    KeysUnavailable,
    /// Whoever decides about credentials could not be asked.
    #[error("credentials cannot be checked at the moment")]
    AuthUnavailable(&'static str),
    /// The address of the client is not one of those that may come.
    #[error("the client's address is not allowed")]
    AddressNotAllowed,
    /// By the rules of `waf`, the request looks like an attack.
    #[error("the request looks like an attack")]
    AttackSuspected {
        /// The rule that says so.
        rule: u32,
    },
    /// The body is larger than the route or the listener allows.
    #[error("the body of the request is too large")]
    BodyTooLarge,
    /// The route wants to know the size of the body beforehand.
    #[error("the request has no Content-Length")]
    LengthRequired,
    /// A limit is used up.
    #[error("the rate limit is exceeded")]
    RateLimited {
        /// When to try again.
        retry_after: Duration,
    },
    /// The quota of this period is used up.
    #[error("the quota is used up")]
    QuotaExceeded {
        /// When some of it comes back.
        retry_after: Duration,
    },
    /// The address keeps being refused.
    #[error("this address keeps being refused, and is turned away for a while")]
    PenaltyBox {
        /// Until when.
        retry_after: Duration,
    },
    /// The address opens connections faster than it may.
    #[error("there are too many new connections from this address")]
    ConnectionRateLimited {
        /// When to try again.
        retry_after: Duration,
    },
    /// As many requests of this key are under way as may be.
    #[error("too many requests are under way at once")]
    ConcurrencyLimited,
    /// What the limit counts by is not there.
    #[error("the request lacks what its limit counts by")]
    LimitKeyMissing,
    /// The client wants only what is kept, and nothing is.
    #[error("nothing is kept of this, and the client wants nothing else")]
    NotCached,
    /// The store that counts cannot be asked.
    #[error("limits cannot be checked at the moment")]
    LimitUnavailable,
    /// The process holds as much as it may: connections, files, buffers.
    #[error("the gateway has no room for more at the moment")]
    Overloaded(&'static str),
    /// The address of the client has as many connections as it may.
    #[error("there are too many connections from this address")]
    TooManyConnections,
    /// Every endpoint of the upstream is down.
    #[error("the upstream has no healthy endpoint")]
    NoHealthyEndpoint,
    /// As much is asked of the upstream as it may be.
    #[error("the upstream is busy")]
    UpstreamOverloaded(&'static str),
    /// The upstream is left alone because too many requests to it failed.
    #[error("the upstream is not asked at the moment")]
    CircuitOpen {
        /// When to try again.
        retry_after: Duration,
    },
    /// The upstream refused the connection, or broke it.
    #[error("the upstream could not be reached")]
    UpstreamUnreachable,
    /// The upstream's answer was not HTTP.
    #[error("the upstream sent an invalid response")]
    UpstreamInvalid,
    /// The upstream took too long.
    #[error("the upstream did not answer in time")]
    UpstreamTimeout,
    /// The whole exchange took longer than the route allows.
    #[error("the request took too long")]
    DeadlineExceeded,
    /// A frame of a WebSocket that the protocol does not allow.
    #[error("the WebSocket does not follow the protocol")]
    WebSocketInvalid(&'static str),
    /// A message in a WebSocket is larger than the route allows.
    #[error("the message is too large")]
    WebSocketTooLarge,
    /// Nothing was said in a WebSocket for too long.
    #[error("nothing was said for too long")]
    WebSocketIdle,
    /// A defect of the gateway.
    #[error("the gateway failed")]
    Internal,
}

/// What a request that could not be authenticated had of a credential: where several methods are allowed, the next one is asked
/// only if this one's is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// None of this method.
    Nothing,
    /// One of this kind that is not for this method: a token of another issuer.
    Foreign,
    /// One that is not valid.
    Wrong,
}

impl Reject {
    /// The header of a request took too long.
    pub const SLOW_HEADER: Self = Self::ClientTimeout("`header_timeout` of the listener");
    /// The body of a request took too long, or the client took a response too slowly.
    pub const SLOW_BODY: Self = Self::ClientTimeout("`body_timeout` or `min_body_rate` of the listener");

    /// Every code there is.
    pub const CODES: [&'static str; 42] = [
        "bad_request",
        "bad_path",
        "expectation_failed",
        "header_too_large",
        "request_line_too_long",
        "too_many_headers",
        "client_timeout",
        "method_not_supported",
        "misdirected",
        "loop_detected",
        "route_not_found",
        "method_not_allowed",
        "unauthenticated",
        "forbidden",
        "insufficient_scope",
        "keys_unavailable",
        "auth_unavailable",
        "address_not_allowed",
        "attack_suspected",
        "body_too_large",
        "length_required",
        "rate_limited",
        "quota_exceeded",
        "penalty_box",
        "connection_rate_limited",
        "concurrency_limited",
        "limit_key_missing",
        "limit_unavailable",
        "not_cached",
        "overloaded",
        "too_many_connections",
        "no_healthy_endpoint",
        "upstream_overloaded",
        "circuit_open",
        "upstream_unreachable",
        "upstream_invalid",
        "upstream_timeout",
        "deadline_exceeded",
        "web_socket_invalid",
        "web_socket_too_large",
        "web_socket_idle",
        "internal",
    ];

    /// The stable name: end of the problem type, log field and metric label.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::BadPath(_) => "bad_path",
            Self::Irregular(rule) if Rules::PATH.contains(*rule) => "bad_path",
            Self::BadRequest(_) | Self::Irregular(_) => "bad_request",
            Self::ExpectationFailed => "expectation_failed",
            Self::HeaderTooLarge => "header_too_large",
            Self::RequestLineTooLong => "request_line_too_long",
            Self::TooManyHeaders => "too_many_headers",
            Self::ClientTimeout(_) => "client_timeout",
            Self::MethodNotSupported => "method_not_supported",
            Self::Misdirected => "misdirected",
            Self::Loop => "loop_detected",
            Self::RouteNotFound => "route_not_found",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::Unauthenticated { .. } => "unauthenticated",
            Self::Forbidden(_) => "forbidden",
            Self::InsufficientScope { .. } => "insufficient_scope",
            Self::KeysUnavailable => "keys_unavailable",
            Self::AuthUnavailable(_) => "auth_unavailable",
            Self::AddressNotAllowed => "address_not_allowed",
            Self::AttackSuspected { .. } => "attack_suspected",
            Self::BodyTooLarge => "body_too_large",
            Self::LengthRequired => "length_required",
            Self::RateLimited { .. } => "rate_limited",
            Self::QuotaExceeded { .. } => "quota_exceeded",
            Self::PenaltyBox { .. } => "penalty_box",
            Self::ConnectionRateLimited { .. } => "connection_rate_limited",
            Self::ConcurrencyLimited => "concurrency_limited",
            Self::LimitKeyMissing => "limit_key_missing",
            Self::LimitUnavailable => "limit_unavailable",
            Self::NotCached => "not_cached",
            Self::Overloaded(_) => "overloaded",
            Self::TooManyConnections => "too_many_connections",
            Self::NoHealthyEndpoint => "no_healthy_endpoint",
            Self::UpstreamOverloaded(_) => "upstream_overloaded",
            Self::CircuitOpen { .. } => "circuit_open",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamInvalid => "upstream_invalid",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::WebSocketInvalid(_) => "web_socket_invalid",
            Self::WebSocketTooLarge => "web_socket_too_large",
            Self::WebSocketIdle => "web_socket_idle",
            Self::Internal => "internal",
        }
    }

    /// What was wrong, for those who read the log.
    pub fn reason(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::BadRequest(what)
            | Self::Unauthenticated { reason: what, .. }
            | Self::AuthUnavailable(what)
            | Self::Overloaded(what)
            | Self::UpstreamOverloaded(what)
            | Self::WebSocketInvalid(what) => Some((*what).into()),
            Self::Forbidden(what) => Some(what.clone()),
            Self::BadPath(what) => Some(what.to_string().into()),
            Self::Irregular(rule) => Some(format!("{rule} (`{}`)", rule.name()).into()),
            Self::HeaderTooLarge => Some("`max_header_size` of the listener".into()),
            Self::RequestLineTooLong => Some("`max_request_line` of the listener".into()),
            Self::TooManyHeaders => Some("`max_headers` of the listener".into()),
            Self::ClientTimeout(which) => Some((*which).into()),
            Self::TooManyConnections => Some("`limits.connections_per_address`".into()),
            Self::BodyTooLarge => {
                Some("`request_size` or `waf` of the route, or `max_body_size` of the listener".into())
            }
            Self::AttackSuspected { rule } => Some(format!("rule {rule} of `waf`").into()),
            Self::ExpectationFailed
            | Self::MethodNotSupported
            | Self::Misdirected
            | Self::Loop
            | Self::RouteNotFound
            | Self::MethodNotAllowed { .. }
            | Self::InsufficientScope { .. }
            | Self::KeysUnavailable
            | Self::LimitUnavailable
            | Self::NotCached
            | Self::AddressNotAllowed
            | Self::LengthRequired
            | Self::RateLimited { .. }
            | Self::ConcurrencyLimited
            | Self::QuotaExceeded { .. }
            | Self::PenaltyBox { .. }
            | Self::ConnectionRateLimited { .. }
            | Self::LimitKeyMissing
            | Self::NoHealthyEndpoint
            | Self::CircuitOpen { .. }
            | Self::UpstreamUnreachable
            | Self::UpstreamInvalid
            | Self::UpstreamTimeout
            | Self::DeadlineExceeded
            | Self::WebSocketTooLarge
            | Self::WebSocketIdle
            | Self::Internal => None,
        }
    }

    /// The HTTP status of the response.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_)
            | Self::BadPath(_)
            | Self::Irregular(_)
            | Self::LimitKeyMissing
            | Self::WebSocketInvalid(_) => StatusCode::BAD_REQUEST,
            Self::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
            Self::HeaderTooLarge | Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::RequestLineTooLong => StatusCode::URI_TOO_LONG,
            Self::ClientTimeout(_) | Self::WebSocketIdle => StatusCode::REQUEST_TIMEOUT,
            Self::MethodNotSupported | Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::RouteNotFound => StatusCode::NOT_FOUND,
            Self::Unauthenticated { .. } => StatusCode::UNAUTHORIZED,
            Self::InsufficientScope { .. }
            | Self::AddressNotAllowed
            | Self::AttackSuspected { .. }
            | Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::BodyTooLarge | Self::WebSocketTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::LengthRequired => StatusCode::LENGTH_REQUIRED,
            Self::RateLimited { .. }
            | Self::QuotaExceeded { .. }
            | Self::PenaltyBox { .. }
            | Self::ConnectionRateLimited { .. }
            | Self::ConcurrencyLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::KeysUnavailable
            | Self::LimitUnavailable
            | Self::AuthUnavailable(_)
            | Self::Overloaded(_)
            | Self::TooManyConnections
            | Self::NoHealthyEndpoint
            | Self::UpstreamOverloaded(_)
            | Self::CircuitOpen { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamUnreachable | Self::UpstreamInvalid => StatusCode::BAD_GATEWAY,
            Self::NotCached | Self::UpstreamTimeout | Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The header that the status requires, if it does.
    pub fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::MethodNotAllowed { allow } => Some((header::ALLOW, allow.clone())),
            Self::MethodNotSupported => Some((header::ALLOW, HeaderValue::from_static(""))),
            Self::Unauthenticated { challenge, .. } | Self::InsufficientScope { challenge } => {
                Some((header::WWW_AUTHENTICATE, challenge.clone()))
            }
            Self::RateLimited { retry_after }
            | Self::QuotaExceeded { retry_after }
            | Self::PenaltyBox { retry_after }
            | Self::ConnectionRateLimited { retry_after }
            | Self::CircuitOpen { retry_after } => {
                let whole = retry_after.as_millis().div_ceil(1_000).max(1);
                let seconds = u64::try_from(whole).unwrap_or(u64::MAX);
                Some((header::RETRY_AFTER, HeaderValue::from(seconds)))
            }
            Self::KeysUnavailable
            | Self::LimitUnavailable
            | Self::ConcurrencyLimited
            | Self::AuthUnavailable(_)
            | Self::Overloaded(_)
            | Self::TooManyConnections
            | Self::NoHealthyEndpoint
            | Self::UpstreamOverloaded(_) => Some((header::RETRY_AFTER, HeaderValue::from_static("1"))),
            Self::BadRequest(_)
            | Self::BadPath(_)
            | Self::Irregular(_)
            | Self::ExpectationFailed
            | Self::HeaderTooLarge
            | Self::RequestLineTooLong
            | Self::TooManyHeaders
            | Self::ClientTimeout(_)
            | Self::Misdirected
            | Self::Loop
            | Self::RouteNotFound
            | Self::AddressNotAllowed
            | Self::AttackSuspected { .. }
            | Self::Forbidden(_)
            | Self::BodyTooLarge
            | Self::LengthRequired
            | Self::LimitKeyMissing
            | Self::NotCached
            | Self::UpstreamUnreachable
            | Self::UpstreamInvalid
            | Self::UpstreamTimeout
            | Self::DeadlineExceeded
            | Self::WebSocketInvalid(_)
            | Self::WebSocketTooLarge
            | Self::WebSocketIdle
            | Self::Internal => None,
        }
    }

    /// Whether the upstream failed, or is not asked because it did.
    pub const fn blames_upstream(&self) -> bool {
        matches!(
            self,
            Self::NoHealthyEndpoint
                | Self::UpstreamOverloaded(_)
                | Self::CircuitOpen { .. }
                | Self::UpstreamUnreachable
                | Self::UpstreamInvalid
                | Self::UpstreamTimeout
        )
    }

    /// Whether the connection to the client must not be used again: what follows on it may not be a request.
    pub const fn closes_connection(&self) -> bool {
        matches!(
            self,
            Self::BadRequest(_)
                | Self::ExpectationFailed
                | Self::HeaderTooLarge
                | Self::RequestLineTooLong
                | Self::TooManyHeaders
                | Self::ClientTimeout(_)
                | Self::MethodNotSupported
                | Self::BodyTooLarge
                | Self::LengthRequired
        )
    }
}
