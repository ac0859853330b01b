//! The background work of the running snapshots.

use std::{collections::HashMap, time::Duration};

use tokio::{sync::watch, task::AbortHandle};

use super::build::{Ready, Task};

/// Work that runs, by what it does.
#[derive(Debug, Default)]
pub(super) struct Supervisor(HashMap<String, AbortHandle>);

impl Supervisor {
    /// Starts what does not run yet, and waits for the first round of what was started, but not for ever.
    pub(super) async fn start(&mut self, tasks: Vec<Task>, at_most: Duration) {
        let mut first_rounds = Vec::new();
        for Task { key, start } in tasks {
            // What has ended, by a panic say, is started again.
            if self.0.get(&key).is_some_and(|running| !running.is_finished()) {
                continue;
            }
            let (done, first_round) = watch::channel(false);
            let running = tokio::spawn(start(Ready(done)));
            self.0.insert(key, running.abort_handle());
            first_rounds.push(first_round);
        }
        let all = async {
            for mut round in first_rounds {
                // An error means that the sender is gone, which is the end of the round as well.
                drop(round.wait_for(|done| *done).await);
            }
        };
        if tokio::time::timeout(at_most, all).await.is_err() {
            log::warn!("going live before every name and key set was there");
        }
    }

    /// Ends what no snapshot asks for any more.
    pub(super) fn retain(&mut self, wanted: &[String]) {
        self.0.retain(|key, running| {
            let keep = wanted.contains(key);
            if !keep {
                running.abort();
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    fn counting(key: &str, runs: &Arc<AtomicU32>) -> Task {
        let runs = Arc::clone(runs);
        Task::new(key.into(), move |ready| async move {
            runs.fetch_add(1, Ordering::Relaxed);
            ready.done();
            std::future::pending::<()>().await;
        })
    }

    #[tokio::test]
    async fn work_with_the_same_key_is_left_alone() {
        let (mut supervisor, runs) = (Supervisor::default(), Arc::new(AtomicU32::new(0)));
        supervisor.start(vec![counting("a", &runs)], Duration::from_secs(5)).await;
        supervisor.start(vec![counting("a", &runs), counting("b", &runs)], Duration::from_secs(5)).await;
        assert_eq!(runs.load(Ordering::Relaxed), 2);
        supervisor.retain(&["b".into()]);
        supervisor.start(vec![counting("a", &runs)], Duration::from_secs(5)).await;
        assert_eq!(runs.load(Ordering::Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_never_gets_ready_does_not_hold_up_a_snapshot() {
        let mut supervisor = Supervisor::default();
        let stuck = Task::new("stuck".into(), |ready| async move {
            std::future::pending::<()>().await;
            ready.done();
        });
        supervisor.start(vec![stuck], Duration::from_secs(5)).await;
    }
}
