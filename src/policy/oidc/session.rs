//! Sessions: what a browser keeps of a login, and which of them are over before their time.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{identity::digest, policy::verdicts::Digest, runtime::State};

/// What a browser keeps, encrypted. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    /// A name of its own, at random.
    pub(super) id: String,
    /// When the login was.
    pub(super) started: u64,
    /// When it was used last, about.
    pub(super) seen: u64,
    /// From when on the tokens have to be refreshed.
    pub(super) stale: u64,
    /// The scopes that were granted.
    pub(super) scope: String,
    /// Says who it is, and the issuer at the end whose session is over.
    pub(super) id_token: String,
    /// Where the upstream gets it.
    pub(super) access_token: Option<String>,
    pub(super) refresh_token: Option<String>,
}

/// What sessions are ended by: one by its own name, by the issuer's name for it, or all of a subject.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark<'a> {
    Own(&'a str),
    Issuers(&'a str),
    Subject(&'a str),
}

impl Mark<'_> {
    pub(super) fn digest(self) -> Digest {
        let (kind, name) = match self {
            Self::Own(name) => ('o', name),
            Self::Issuers(name) => ('i', name),
            Self::Subject(name) => ('s', name),
        };
        digest(format!("{kind}{name}").as_bytes())
    }
}

/// Sessions that are over although the cookie says otherwise. It outlives the configuration, and is handed on to the process that takes over.
#[derive(Debug)]
pub(super) struct Ended {
    any: AtomicBool,
    /// With when it was said, and when it can be forgotten.
    marks: Mutex<HashMap<Digest, (u64, u64)>>,
    /// Those over are looked for when there are so many.
    sweep: Mutex<usize>,
}

/// The first time that marks are looked through.
const SWEEP: usize = 1_024;

impl Ended {
    pub(super) fn new() -> Self {
        Self { any: AtomicBool::new(false), marks: Mutex::default(), sweep: Mutex::new(SWEEP) }
    }

    /// All sessions with this mark that began until now are over. Those that began before `forget` less their lifetime are over by themselves.
    pub(super) fn end(&self, mark: Digest, now: u64, forget: u64) {
        let mut marks = self.marks.lock();
        marks.insert(mark, (now, forget));
        let mut sweep = self.sweep.lock();
        if marks.len() >= *sweep {
            marks.retain(|_, (_, forget)| *forget > now);
            *sweep = (marks.len() * 2).max(SWEEP);
        }
        self.any.store(true, Ordering::Release);
    }

    /// Whether a session that began then is over.
    pub(super) fn is_over(&self, marks: &[Digest], started: u64) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let ended = self.marks.lock();
        marks.iter().any(|mark| ended.get(mark).is_some_and(|(when, _)| started <= *when))
    }
}

impl State for Ended {
    fn export(&self) -> Option<Vec<u8>> {
        let marks = self.marks.lock();
        let all: Vec<(String, u64, u64)> =
            marks.iter().map(|(mark, (when, forget))| (hex::encode(mark), *when, *forget)).collect();
        if all.is_empty() { None } else { serde_json::to_vec(&all).ok() }
    }

    fn import(&self, exported: &[u8]) {
        let Ok(all) = serde_json::from_slice::<Vec<(String, u64, u64)>>(exported) else {
            log::warn!("the process before does not say which sessions are over in a way that is understood");
            return;
        };
        for (mark, when, forget) in all {
            let mut digest = Digest::default();
            if hex::decode_to_slice(mark, &mut digest).is_ok() {
                self.end(digest, when, forget);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_from_before_are_over_and_those_from_after_are_not() {
        let ended = Ended::new();
        let (alice, bob) = (Mark::Subject("alice").digest(), Mark::Subject("bob").digest());
        assert!(!ended.is_over(&[alice], 0));
        ended.end(alice, 100, 1_000);
        assert!(ended.is_over(&[bob, alice], 100));
        assert!(!ended.is_over(&[alice], 101) && !ended.is_over(&[bob], 50));
        assert_ne!(Mark::Own("a").digest(), Mark::Issuers("a").digest());
    }

    #[test]
    fn another_process_knows_them_too_and_marks_are_forgotten_in_time() {
        let (old, new) = (Ended::new(), Ended::new());
        assert!(old.export().is_none());
        for i in 0..3 * SWEEP {
            let now = u64::try_from(i).unwrap();
            old.end(digest(&i.to_le_bytes()), now, now + 10);
        }
        assert!(old.marks.lock().len() <= SWEEP, "{}", old.marks.lock().len());
        new.import(&old.export().unwrap());
        assert!(new.is_over(&[digest(&(3 * SWEEP - 1).to_le_bytes())], 0));
        new.import(b"[[\"xyz\", 1, 2]]");
        new.import(b"{}");
    }
}
