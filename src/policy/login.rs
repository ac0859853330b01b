//! Names and passwords in requests ([RFC 7617](https://www.rfc-editor.org/rfc/rfc7617)), and which of them were right a moment ago.

use std::{collections::HashMap, time::Duration};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use parking_lot::Mutex;
use pingora::http::RequestHeader;

use super::{
    jwt::Realm,
    place::{Authorization, authorization},
};
use crate::clock::nanos;
use crate::reject::{Reject, Shown};

/// So many right passwords are remembered.
const MAX_KNOWN: usize = 65_536;

/// The name and the password of a request, or what to answer.
pub(super) fn sent(request: &RequestHeader, challenge: &HeaderValue) -> Result<(String, String), Reject> {
    const MALFORMED: &str = "the credentials are malformed";
    match authorization(request, "Basic") {
        Authorization::One(encoded) => decode(encoded).ok_or_else(|| refuse(challenge, Shown::Wrong, MALFORMED)),
        Authorization::Nothing | Authorization::Other => {
            Err(refuse(challenge, Shown::Nothing, "the request has no password"))
        }
        Authorization::Malformed => Err(refuse(challenge, Shown::Wrong, MALFORMED)),
        Authorization::Several => Err(refuse(challenge, Shown::Wrong, "the request has more than one `Authorization`")),
    }
}

/// What asks for a name and a password.
pub(super) fn challenge(realm: &Realm) -> Result<HeaderValue, String> {
    let challenge = format!("Basic realm=\"{}\", charset=\"UTF-8\"", realm.0);
    HeaderValue::try_from(challenge).map_err(|error| error.to_string())
}

/// The refusal of what was shown.
pub(super) fn refuse(challenge: &HeaderValue, shown: Shown, reason: &'static str) -> Reject {
    Reject::Unauthenticated { challenge: challenge.clone(), shown, reason }
}

/// UTF-8, divided by the first `:`.
fn decode(encoded: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some((username.into(), password.into()))
}

/// Stands for a name, or what is known of it, and a password.
pub(super) type Mark = [u8; 32];

/// What was right a moment ago, with what that led to.
#[derive(Debug)]
pub(super) struct Remembered<T> {
    /// Makes what is kept useless to whoever reads the memory of another process.
    key: hmac::Key,
    /// Each until when, on the monotonic clock.
    known: Mutex<HashMap<Mark, (u64, T)>>,
}

impl<T: Clone> Remembered<T> {
    pub(super) fn new() -> Self {
        let key: [u8; 32] = rand::random();
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key), known: Mutex::default() }
    }

    /// Stands for these two; there is no 0 in the first one.
    pub(super) fn mark(&self, name: &str, password: &[u8]) -> Mark {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(name.as_bytes());
        context.update(&[0]);
        context.update(password);
        context.sign().as_ref().try_into().unwrap_or_default()
    }

    /// What is known at this time.
    pub(super) fn find(&self, mark: &Mark, now: u64) -> Option<T> {
        let known = self.known.lock();
        known.get(mark).filter(|(until, _)| now < *until).map(|(_, found)| found.clone())
    }

    /// Remembers for a while, if there is room.
    pub(super) fn keep(&self, mark: Mark, found: T, (now, time): (u64, Duration)) {
        if time.is_zero() {
            return;
        }
        let mut known = self.known.lock();
        if known.len() >= MAX_KNOWN {
            known.retain(|_, (until, _)| now < *until);
        }
        if known.len() < MAX_KNOWN {
            known.insert(mark, (now.saturating_add(nanos(time)), found));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_with_the_first_colon() {
        assert_eq!(decode("YTpiOmM="), Some(("a".into(), "b:c".into())));
        assert_eq!(decode("Og=="), Some((String::new(), String::new())));
        for wrong in ["YQ==", "!!!", "/w==", "YTpi=", "YTp i"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_was_right_is_known_for_its_time_and_for_that_name_alone() {
        let known = Remembered::new();
        let mark = known.mark("alice", b"secret");
        known.keep(mark, 1, (10, Duration::from_nanos(5)));
        assert_eq!((known.find(&mark, 14), known.find(&mark, 15)), (Some(1), None));
        assert_ne!(mark, known.mark("alic", b"esecret"));
        known.keep(known.mark("bob", b"x"), 2, (10, Duration::ZERO));
        assert_eq!(known.find(&known.mark("bob", b"x"), 10), None);
    }
}
