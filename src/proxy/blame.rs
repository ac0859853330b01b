//! Whose fault an error of Pingora's is, and what to tell the client of it.

use pingora::{Error, ErrorSource, ErrorType};

use super::turns;
use crate::reject::Reject;

/// What to tell the client of an error of Pingora's; nothing if the client is gone.
pub(super) fn reject(error: &Error) -> Option<Reject> {
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => Some(Reject::SLOW_BODY),
        (ErrorSource::Downstream, ErrorType::InvalidHTTPHeader) => {
            Some(Reject::BadRequest("the request is not valid HTTP"))
        }
        (ErrorSource::Downstream, _) => turns::broken(error),
        (
            ErrorSource::Upstream,
            ErrorType::ConnectTimedout
            | ErrorType::TLSHandshakeTimedout
            | ErrorType::ReadTimedout
            | ErrorType::WriteTimedout,
        ) => Some(Reject::UpstreamTimeout),
        (ErrorSource::Upstream, ErrorType::InvalidHTTPHeader | ErrorType::H2Error | ErrorType::InvalidH2) => {
            Some(Reject::UpstreamInvalid)
        }
        (ErrorSource::Upstream, _) => Some(Reject::UpstreamUnreachable),
        (ErrorSource::Internal | ErrorSource::Unset, _) => Some(Reject::Internal),
    }
}
