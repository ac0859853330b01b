//! Whether the threads that serve requests still do.
//!
//! Once a second one of them, picked at random, is given something to do. While one does not get to it, systemd's
//! watchdog is not answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::clock::Clock;

const EVERY: Duration = Duration::from_secs(1);

/// A thread that takes longer is stuck: nothing that a request needs takes so long on a thread.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// When a thread that serves requests last did something.
#[derive(Clone, Debug)]
pub(super) struct Heartbeat(Arc<AtomicU64>, Clock);

impl Heartbeat {
    pub(super) fn new(clock: Clock) -> Self {
        Self(Arc::new(clock.monotonic().into()), clock)
    }

    /// Whether a thread is stuck.
    pub(super) fn is_missing(&self) -> bool {
        let since = self.1.monotonic().saturating_sub(self.0.load(Ordering::Relaxed));
        Duration::from_nanos(since) > STUCK_AFTER
    }

    /// Asks the threads of the runtime that this is polled on, for ever.
    #[expect(clippy::infinite_loop, reason = "ends with its runtime")]
    pub(super) async fn run(self) {
        loop {
            tokio::time::sleep(EVERY).await;
            // With a runtime for each thread, this is the handle of any of them.
            let beat = pingora_runtime::current_handle().spawn(async {});
            if beat.await.is_ok() {
                self.0.store(self.1.monotonic(), Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_missing_after_a_while() {
        let clock = Clock::manual(Duration::from_secs(1));
        let heart = Heartbeat::new(clock.clone());
        clock.advance(Duration::from_secs(10));
        assert!(!heart.is_missing());
        clock.advance(Duration::from_secs(1));
        assert!(heart.is_missing());
    }
}
