//! How fast a client has to be, in both directions.
//!
//! Whoever sends a byte now and then, or takes one, is never idle, and would hold a connection for as long as he likes. So
//! a client has an account of time. What the gateway waits for it is taken off; what it sends or takes is put on, at the
//! least rate that the listener asks for. There is never more on it than the pause that the listener allows. When it is
//! empty, the client was too slow.
//!
//! - The time that the gateway needs, or an upstream, costs the client nothing.
//! - A client may pause for `body_timeout` at any time, and begins with that much. In the long run it has to keep up with
//!   `min_body_rate`.
//! - Without a least rate, a single byte fills the account.

use std::time::Duration;

use tokio::time::Instant;

/// What a listener asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tempo {
    /// The longest pause, and the most that an account holds.
    pub pause: Duration,
    /// Bytes in a second, in the long run; 0 asks for none.
    pub rate: u64,
}

/// The time that is left to a client, in one direction.
#[derive(Debug)]
pub struct Account {
    tempo: Tempo,
    left: Duration,
    /// Since when the gateway waits for the client.
    since: Option<Instant>,
}

impl Account {
    /// A full account.
    pub const fn new(tempo: Tempo) -> Self {
        Self { tempo, left: tempo.pause, since: None }
    }

    /// The gateway waits for the client; returns when the account will be empty.
    pub fn wait(&mut self, now: Instant) -> Instant {
        *self.since.get_or_insert(now) + self.left
    }

    /// Whether the gateway waits.
    pub fn is_waiting(&self) -> bool {
        self.since.is_some()
    }

    /// The gateway does something else.
    pub fn pause(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(now.saturating_duration_since(since));
        }
    }

    /// So many bytes went over.
    pub fn moved(&mut self, bytes: u64) {
        if self.left < self.tempo.pause && bytes > 0 {
            let nanos = bytes.saturating_mul(1_000_000_000).checked_div(self.tempo.rate).unwrap_or(u64::MAX);
            self.left = self.left.saturating_add(Duration::from_nanos(nanos)).min(self.tempo.pause);
        }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.left.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// For how many seconds a client is borne that moves so many bytes once in so many seconds; at most an hour.
    fn borne(rate: u64, bytes: u64, every: u64) -> u64 {
        let mut account = Account::new(Tempo { pause: 60 * SECOND, rate });
        let mut now = Instant::now();
        let began = now;
        while now - began < 3600 * SECOND {
            let end = account.wait(now);
            now += Duration::from_secs(every);
            if end <= now {
                return (end - began).as_secs();
            }
            account.pause(now);
            account.moved(bytes);
        }
        3600
    }

    #[test]
    fn whoever_keeps_up_is_borne_and_whoever_trickles_is_not() {
        assert_eq!(borne(500, 500, 1), 3600);
        assert_eq!(borne(500, 25_000, 50), 3600);
        assert_eq!(borne(500, 100, 1), 74);
        assert_eq!(borne(500, 1, 10), 60);
        assert_eq!(borne(500, 1_000_000, 61), 60);
    }

    #[test]
    fn without_a_rate_only_pauses_count() {
        assert_eq!(borne(0, 1, 59), 3600);
        assert_eq!(borne(0, 1, 61), 60);
    }

    #[test]
    fn time_that_the_gateway_needs_costs_the_client_nothing() {
        let mut account = Account::new(Tempo { pause: 60 * SECOND, rate: 500 });
        let now = Instant::now();
        assert_eq!(account.wait(now), now + 60 * SECOND);
        account.pause(now + 10 * SECOND);
        assert!(!account.is_waiting());
        assert_eq!(account.wait(now + 1000 * SECOND), now + 1050 * SECOND);
        assert_eq!(account.wait(now + 1001 * SECOND), now + 1050 * SECOND);
        account.pause(now + 2000 * SECOND);
        assert!(account.is_empty());
    }
}
