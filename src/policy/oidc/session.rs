//! Sessions: what a browser keeps of a login.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::config::Forward;
use crate::{identity::Identity, policy::verdicts::Digest};

/// What a browser keeps, encrypted. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    /// A name of its own, at random.
    pub(super) id: String,
    /// When the login was.
    pub(super) started: u64,
    /// When it was used last, about.
    pub(super) seen: u64,
    /// From when on the access token has to be refreshed.
    pub(super) stale: u64,
    /// What was asked for: a login for less does not count where more is asked for.
    pub(super) asked: Vec<String>,
    /// The scopes that were granted.
    pub(super) scope: String,
    /// The issuer's name for the session, and the nonce, as the first ID token said them: later ones need not.
    pub(super) sid: Option<String>,
    pub(super) nonce: String,
    /// Says who it is, and the issuer at the end whose session is over.
    pub(super) id_token: String,
    /// Where some upstream gets it.
    pub(super) access_token: Option<String>,
    pub(super) refresh_token: Option<String>,
}

/// A session as it was read.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) session: Session,
    pub(super) identity: Arc<Identity>,
    pub(super) marks: Marks,
    /// When the ID token expires.
    pub(super) expires: u64,
}

/// What sessions are ended by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    /// This one alone, by its own name.
    pub(super) own: Digest,
    /// What may come again after another login, so that only those are meant that began until then: the issuer's name for it, and the subject.
    pub(super) others: [Digest; 2],
}

/// What the gateway calls them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark<'a> {
    /// The session of this name.
    Own(&'a str),
    /// The session that the issuer calls so.
    Issuers(&'a str),
    /// The sessions of a subject for which the issuer has no names.
    Nameless(&'a str),
    /// All sessions of a subject.
    Subject(&'a str),
}

impl Mark<'_> {
    pub(super) fn digest(self) -> Digest {
        let (kind, name) = match self {
            Self::Own(name) => ('o', name),
            Self::Issuers(name) => ('i', name),
            Self::Nameless(name) => ('n', name),
            Self::Subject(name) => ('s', name),
        };
        crate::identity::digest(format!("{kind}{name}").as_bytes())
    }
}

impl Marks {
    pub(super) fn of(session: &Session, subject: &str) -> Self {
        let issuers = match session.sid.as_deref() {
            Some(sid) => Mark::Issuers(sid),
            None => Mark::Nameless(subject),
        };
        Self { own: Mark::Own(&session.id).digest(), others: [issuers.digest(), Mark::Subject(subject).digest()] }
    }
}

impl Open {
    /// Whether something that is to be passed on, or that the issuer would have to confirm, has expired.
    pub(super) fn is_stale(&self, forward: Forward, now: u64) -> bool {
        let access = now >= self.session.stale;
        match forward {
            Forward::AccessToken => access || self.session.access_token.is_none(),
            Forward::IdToken => now >= self.expires || access && self.session.refresh_token.is_some(),
            // Without a refresh token the issuer cannot be asked: the session has its own time.
            Forward::None => access && self.session.refresh_token.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(stale: u64, expires: u64, (access, refresh): (Option<&str>, Option<&str>)) -> Open {
        let session = Session {
            id: "a".into(),
            started: 0,
            seen: 0,
            stale,
            asked: Vec::new(),
            scope: String::new(),
            sid: None,
            nonce: String::new(),
            id_token: String::new(),
            access_token: access.map(Into::into),
            refresh_token: refresh.map(Into::into),
        };
        let marks = Marks::of(&session, "alice");
        Open { session, identity: Arc::new(Identity::stranger("alice")), marks, expires }
    }

    #[test]
    fn only_what_is_needed_has_to_be_fresh() {
        use Forward::{AccessToken, IdToken, None as Nothing};
        for (tokens, forward, stale) in [
            ((None, None), Nothing, false),
            ((None, Some("r")), Nothing, true),
            ((Some("a"), None), AccessToken, true),
            ((Some("a"), Some("r")), IdToken, true),
            ((None, None), IdToken, false),
        ] {
            assert_eq!(open(10, 20, tokens).is_stale(forward, 10), stale, "{tokens:?} {forward:?}");
        }
        assert!(open(10, 20, (None, Some("r"))).is_stale(AccessToken, 0), "there is no access token");
        assert!(!open(10, 20, (Some("a"), Some("r"))).is_stale(AccessToken, 9));
        assert!(open(99, 20, (None, None)).is_stale(IdToken, 20));
    }
}
