//! Who wants to know when a source of endpoints changes, and when a source that failed is asked again.

use std::{sync::Weak, time::Duration};

use super::members::Members;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Endpoint sets that are built again with every change.
#[derive(Clone, Debug, Default)]
pub(super) struct Followers(Vec<Weak<Members>>);

impl Followers {
    /// Adds one, and forgets those that are gone.
    pub(super) fn add(&mut self, members: Weak<Members>) {
        self.0.retain(|follower| follower.strong_count() > 0);
        self.0.push(members);
    }

    /// Builds them again. To be called without the lock of the source: building asks it for its endpoints.
    pub(super) fn rebuild(&self) {
        self.0.iter().filter_map(Weak::upgrade).for_each(|members| members.rebuild());
    }
}

/// How long to wait after so many failures in a row before this one: 1 s, 2 s, 4 s and so on, up to 30 s.
pub(super) fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(5)).min(LONGEST_PAUSE)
}
