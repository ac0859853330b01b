//! Checks passwords off the threads that serve requests, a few at a time, and remembers for a while which were right.
//!
//! A hash of a password is made to cost much. So no more than so many are checked at once, no more than so many requests wait
//! for one, and others are answered with 503: whoever sends wrong passwords without end slows down only those who log in at that
//! moment, and none whose password is remembered.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use crate::{identity::password::Password, policy::login::Remembered, reject::Reject, runtime::State};

/// How many requests may wait for a check.
const MAX_WAITING: usize = 256;

/// How long a request waits for a check.
const PATIENCE: Duration = Duration::from_secs(5);

/// What checks passwords, for all policies of a process.
#[derive(Debug)]
pub(super) struct Hashing {
    running: Arc<Semaphore>,
    waiting: Semaphore,
    /// Hashes with the passwords that are known to be right.
    known: Remembered<()>,
}

/// Another process finds out again.
impl State for Hashing {}

impl Hashing {
    pub(super) fn new() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            running: Arc::new(Semaphore::new(cpus.div_ceil(2))),
            waiting: Semaphore::new(MAX_WAITING),
            known: Remembered::new(),
        }
    }

    /// Whether this is the password. What was right is believed for `remember` without another check.
    pub(super) async fn verify(
        &self,
        password: &Password,
        sent: &[u8],
        (now, remember): (u64, Duration),
    ) -> Result<bool, Reject> {
        let hash = match password {
            Password::Argon2(hash) | Password::Bcrypt(hash) => hash,
            Password::Plain(_) => return Ok(password.verify(sent)),
        };
        let mark = self.known.mark(hash, sent);
        if self.known.find(&mark, now).is_some() {
            return Ok(true);
        }
        let right = self.compute(password.clone(), sent.to_vec()).await?;
        if right {
            self.known.keep(mark, (), (now, remember));
        }
        Ok(right)
    }

    async fn compute(&self, password: Password, sent: Vec<u8>) -> Result<bool, Reject> {
        const BUSY: Reject = Reject::Overloaded("checks of passwords");
        let _place = self.waiting.try_acquire().map_err(|_full| BUSY)?;
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(&self.running).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(BUSY) };
        let work = tokio::task::spawn_blocking(move || {
            let right = password.verify(&sent);
            // Held by the work itself: a client that goes away does not make room for another one's.
            drop(turn);
            right
        });
        work.await.map_err(|_broken| Reject::Internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[tokio::test]
    async fn a_right_password_is_remembered_for_a_while_and_a_wrong_one_never() {
        let hashing = Hashing::new();
        let hash = bcrypt::hash("right", 4).unwrap();
        let password = Password::parse(&hash).unwrap();
        let at = |now| (now, Duration::from_mins(1));
        assert_eq!(hashing.verify(&password, b"wrong", at(SECOND)).await, Ok(false));
        assert!(hashing.known.find(&hashing.known.mark(&hash, b"wrong"), SECOND).is_none());
        assert_eq!(hashing.verify(&password, b"right", at(SECOND)).await, Ok(true));
        // Nobody could check anything now.
        hashing.waiting.close();
        assert_eq!(hashing.verify(&password, b"right", at(60 * SECOND)).await, Ok(true));
        assert!(hashing.verify(&password, b"right", at(61 * SECOND)).await.is_err());
        assert!(hashing.verify(&password, b"wrong", at(SECOND)).await.is_err());
        let other = Password::parse(&bcrypt::hash("right", 4).unwrap()).unwrap();
        assert!(hashing.verify(&other, b"right", at(SECOND)).await.is_err(), "a changed hash is another one");
    }

    #[tokio::test]
    async fn no_more_wait_than_may() {
        let hashing = Hashing::new();
        let _all = hashing.waiting.acquire_many(u32::try_from(MAX_WAITING).unwrap()).await.unwrap();
        let password = Password::parse(&bcrypt::hash("right", 4).unwrap()).unwrap();
        let refused = hashing.verify(&password, b"right", (0, Duration::ZERO)).await;
        assert_eq!(refused, Err(Reject::Overloaded("checks of passwords")));
    }
}
