//! What all policies of one client at an issuer know together: it outlives the configuration.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    provider::Refused,
    session::{Marks, Session},
};
use crate::{
    policy::{
        turns::Turns,
        verdicts::{Digest, Verdicts},
    },
    runtime::State,
};

/// So many refreshes are remembered, times 64.
const REMEMBERED: usize = 64;

/// The first time that marks are looked through.
const SWEEP: usize = 1_024;

/// What is known of the sessions of a client.
#[derive(Debug)]
pub(super) struct Shared {
    /// What came of refreshing a session, by its name and the refresh token: other requests may still have that one, and a failure is not
    /// repeated by each of them.
    pub(super) renewed: Verdicts<Result<Arc<Session>, Refused>>,
    pub(super) renewing: Turns,
    /// Of one address, one code at a time is asked about.
    pub(super) arriving: Turns,
    /// States of logins that are finished, and names of tokens that ended sessions.
    pub(super) used: Verdicts<()>,
    pub(super) ended: Ended,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            renewed: Verdicts::of_size(REMEMBERED),
            renewing: Turns::default(),
            arriving: Turns::default(),
            used: Verdicts::new(),
            ended: Ended::default(),
        }
    }
}

impl State for Shared {
    fn export(&self) -> Option<Vec<u8>> {
        self.ended.export()
    }

    fn import(&self, exported: &[u8]) {
        self.ended.import(exported);
    }
}

/// Sessions that are over although the cookie says otherwise.
#[derive(Debug, Default)]
pub(super) struct Ended {
    any: AtomicBool,
    marks: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    all: HashMap<Digest, End>,
    /// Those over are looked for when there are so many.
    sweep: usize,
}

/// Times are seconds since 1970.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct End {
    /// When it was said.
    when: u64,
    /// From when on all sessions that it could mean are over by themselves.
    forget: u64,
}

impl Ended {
    /// The sessions with this mark are over. Marks are forgotten when all that they could mean is over by itself.
    pub(super) fn end(&self, mark: Digest, when: u64, forget: u64) {
        let mut marks = self.marks.lock();
        let end = marks.all.entry(mark).or_insert(End { when, forget });
        *end = End { when: end.when.max(when), forget: end.forget.max(forget) };
        if marks.all.len() >= marks.sweep.max(SWEEP) {
            marks.all.retain(|_, end| end.forget > when);
            marks.sweep = marks.all.len() * 2;
        }
        self.any.store(true, Ordering::Release);
    }

    /// Whether a session that began then is over.
    pub(super) fn is_over(&self, marks: &Marks, started: u64) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let ended = &self.marks.lock().all;
        let is_meant = |mark: &Digest| ended.get(mark).is_some_and(|end| started <= end.when);
        ended.contains_key(&marks.own) || marks.others.iter().any(is_meant)
    }

    fn export(&self) -> Option<Vec<u8>> {
        let marks = self.marks.lock();
        let all: Vec<(String, End)> = marks.all.iter().map(|(mark, end)| (hex::encode(mark), *end)).collect();
        if all.is_empty() { None } else { serde_json::to_vec(&all).ok() }
    }

    fn import(&self, exported: &[u8]) {
        let Ok(all) = serde_json::from_slice::<Vec<(String, End)>>(exported) else {
            log::warn!("the process before does not say which sessions are over in a way that is understood");
            return;
        };
        for (mark, end) in all {
            let mut digest = Digest::default();
            if hex::decode_to_slice(mark, &mut digest).is_ok() {
                self.end(digest, end.when, end.forget);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::session::Mark, *};
    use crate::identity::digest;

    fn marks(own: &str, sid: &str, subject: &str) -> Marks {
        Marks { own: Mark::Own(own).digest(), others: [Mark::Issuers(sid).digest(), Mark::Subject(subject).digest()] }
    }

    #[test]
    fn sessions_of_before_are_over_and_those_that_are_named_in_any_case() {
        let ended = Ended::default();
        let (alice, bob) = (marks("1", "x", "alice"), marks("2", "y", "bob"));
        assert!(!ended.is_over(&alice, 0));
        ended.end(alice.others[1], 100, 1_000);
        ended.end(alice.others[1], 50, 500);
        assert!(ended.is_over(&alice, 100) && !ended.is_over(&alice, 101) && !ended.is_over(&bob, 50));
        ended.end(Mark::Own("2").digest(), 100, 1_000);
        assert!(ended.is_over(&bob, 500));
        assert_ne!(Mark::Own("a").digest(), Mark::Issuers("a").digest());
    }

    #[test]
    fn another_process_knows_them_too_and_marks_are_forgotten_in_time() {
        let (old, new) = (Ended::default(), Ended::default());
        assert!(old.export().is_none());
        for i in 0..3 * SWEEP {
            let now = u64::try_from(i).unwrap();
            old.end(digest(&i.to_le_bytes()), now, now + 10);
        }
        assert!(old.marks.lock().all.len() <= SWEEP);
        let last = Marks { own: digest(&(3 * SWEEP - 1).to_le_bytes()), ..marks("", "", "") };
        new.import(&old.export().unwrap());
        assert!(new.is_over(&last, 0));
        new.import(b"[[\"xyz\", {\"when\": 1, \"forget\": 2}]]");
        new.import(b"{}");
    }
}
