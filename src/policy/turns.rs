//! One after the other: of those who want the same thing found out, one finds it out, and the others wait for that.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use super::verdicts::Digest;
use crate::digest::sha256;

type Locks = Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>;

/// The queues that there are, by what is to be found out.
#[derive(Debug, Default)]
pub(super) struct Turns(Arc<Locks>);

/// A place in a queue; the last one to leave takes the queue along.
#[derive(Debug)]
pub(super) struct Turn {
    lock: Arc<tokio::sync::Mutex<()>>,
    what: Digest,
    all: Arc<Locks>,
}

impl Turns {
    /// A place in the queue of those who want this.
    pub(super) fn queue(&self, what: Digest) -> Turn {
        let lock = Arc::clone(self.0.lock().entry(what).or_default());
        Turn { lock, what, all: Arc::clone(&self.0) }
    }

    /// A place in one of the queues of an address: of those who come from there, so many are served at a time as there are lanes.
    pub(super) fn queue_of(&self, client: IpAddr, lane: usize) -> Turn {
        self.queue(sha256(format!("{lane} {client}").as_bytes()))
    }
}

impl Turn {
    /// Waits until everyone before is done.
    pub(super) async fn wait(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.lock).lock_owned().await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        // This one's, and the map's.
        if all.get(&self.what).is_some_and(|lock| Arc::strong_count(lock) <= 2) {
            all.remove(&self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_forgotten_when_they_are_over() {
        let turns = Turns::default();
        let (one, other) = (turns.queue([1; 32]), turns.queue([1; 32]));
        drop(one);
        assert_eq!(turns.0.lock().len(), 1);
        drop(other);
        assert!(turns.0.lock().is_empty());
    }
}
