//! Problem details, [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457): the body of every answer that the gateway
//! makes on its own account.

use serde::Serialize;

use crate::reject::Reject;

/// The media type of a problem document.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// What the type of every problem starts with; the code of the [`Reject`] follows.
pub const TYPE_BASE: &str = "urn:torana:problem:";

/// A problem document.
#[derive(Debug, Serialize)]
pub struct Problem<'a> {
    /// A URI that names the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// A short summary of that kind.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong this time.
    pub detail: String,
    /// The id of the request, as in the access log.
    pub request_id: &'a str,
}

impl<'a> Problem<'a> {
    /// The document for `reject`.
    pub fn new(reject: &Reject, request_id: &'a str) -> Self {
        let status = reject.status();
        Self {
            kind: format!("{TYPE_BASE}{}", reject.code()),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: reject.to_string(),
            request_id,
        }
    }

    /// The document as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and a number: serialization cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_refusal_is_a_problem_document() {
        let reject = Reject::RateLimited { retry_after: Duration::from_millis(1200) };
        let json = String::from_utf8(Problem::new(&reject, "req-1").to_json()).unwrap();
        let golden = concat!(
            r#"{"type":"urn:torana:problem:rate_limited","title":"Too Many Requests","status":429,"#,
            r#""detail":"the rate limit is exceeded","request_id":"req-1"}"#
        );
        assert_eq!(json, golden);
        assert_eq!(reject.header().unwrap().1, "2");
    }
}
