//! What the clients found.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::nanos;

/// How many failures of a kind of client are told in full.
const TOLD: usize = 5;

/// A request that takes longer is lost.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What all clients share.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) address: SocketAddr,
    pub(super) stop: AtomicBool,
    numbers: AtomicU64,
    /// Streams that were begun while a GOAWAY was on its way.
    pub(super) behind_goaway: AtomicU64,
    pub(super) keep_alive: Tally,
    pub(super) new_connections: Tally,
    pub(super) http2: Tally,
    pub(super) web_socket: Tally,
    pub(super) uploads: Tally,
    pub(super) downloads: Tally,
}

impl Load {
    pub(super) fn new(address: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            address,
            stop: AtomicBool::new(false),
            numbers: AtomicU64::new(1),
            behind_goaway: AtomicU64::new(0),
            keep_alive: Tally::new("keep-alive"),
            new_connections: Tally::new("new connections"),
            http2: Tally::new("HTTP/2"),
            web_socket: Tally::new("WebSocket"),
            uploads: Tally::new("slow uploads"),
            downloads: Tally::new("slow downloads"),
        })
    }

    /// A number that no other request has.
    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn all(&self) -> [&Tally; 6] {
        [&self.keep_alive, &self.new_connections, &self.http2, &self.web_socket, &self.uploads, &self.downloads]
    }
}

/// What can become of a request that is not answered.
#[derive(Debug)]
pub(super) enum Failure {
    /// Its connection ended, or took too long.
    Lost(String),
    /// It could not connect, or got another status than 200.
    Refused(String),
    /// It got the answer to something else.
    Wrong(String),
}

/// What one kind of client found.
#[derive(Debug)]
pub(super) struct Tally {
    name: &'static str,
    pub(super) answered: AtomicU64,
    lost: AtomicU64,
    refused: AtomicU64,
    wrong: AtomicU64,
    /// In nanoseconds.
    slowest: AtomicU64,
    failures: Mutex<Vec<String>>,
    began: Instant,
}

impl Tally {
    fn new(name: &'static str) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            name,
            answered: zero(),
            lost: zero(),
            refused: zero(),
            wrong: zero(),
            slowest: zero(),
            failures: Mutex::default(),
            began: Instant::now(),
        }
    }

    /// Notes what became of a request that was sent at that time.
    pub(super) fn note(&self, sent: Instant, outcome: Result<(), Failure>) {
        let (count, why) = match outcome {
            Ok(()) => {
                self.slowest.fetch_max(nanos(sent.elapsed()), Ordering::Relaxed);
                self.answered.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Err(Failure::Lost(why)) => (&self.lost, format!("lost: {why}")),
            Err(Failure::Refused(why)) => (&self.refused, format!("refused: {why}")),
            Err(Failure::Wrong(why)) => (&self.wrong, format!("wrong: {why}")),
        };
        count.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.failures.lock();
        if failures.len() < TOLD {
            failures.push(format!("{} after {:.3} s: {why}", self.name, self.began.elapsed().as_secs_f64()));
        }
    }

    fn counts(&self) -> [u64; 4] {
        [&self.answered, &self.lost, &self.refused, &self.wrong].map(|count| count.load(Ordering::Relaxed))
    }

    fn slowest_ms(&self) -> u64 {
        self.slowest.load(Ordering::Relaxed) / 1_000_000
    }

    /// Something was answered, and everything was.
    pub(super) fn is_good(&self) -> bool {
        let [answered, lost, refused, wrong] = self.counts();
        answered > 0 && lost + refused + wrong == 0
    }

    pub(super) fn heading() -> String {
        format!("{:<16}{:>10}{:>8}{:>9}{:>8}{:>12}", "", "answered", "lost", "refused", "wrong", "slowest ms")
    }

    pub(super) fn line(&self) -> String {
        let [answered, lost, refused, wrong] = self.counts();
        format!("{:<16}{answered:>10}{lost:>8}{refused:>9}{wrong:>8}{:>12}", self.name, self.slowest_ms())
    }

    pub(super) fn failures(&self) -> Vec<String> {
        self.failures.lock().clone()
    }

    pub(super) fn json(&self) -> serde_json::Value {
        let [answered, lost, refused, wrong] = self.counts();
        serde_json::json!({
            "name": self.name, "answered": answered, "lost": lost, "refused": refused, "wrong": wrong,
            "slowest_ms": self.slowest_ms(), "failures": self.failures(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_answered_is_counted_and_told() {
        let load = Load::new(([127, 0, 0, 1], 1).into());
        let tally = &load.http2;
        assert!(!tally.is_good(), "nothing was answered");
        tally.note(Instant::now(), Ok(()));
        assert!(tally.is_good());
        for _ in 0..9 {
            tally.note(Instant::now(), Err(Failure::Lost("gone".into())));
        }
        tally.note(Instant::now(), Err(Failure::Refused("503".into())));
        tally.note(Instant::now(), Err(Failure::Wrong("7 for 8".into())));
        assert!(!tally.is_good());
        assert_eq!(tally.counts(), [1, 9, 1, 1]);
        assert_eq!(tally.failures().len(), TOLD);
        assert!(tally.failures()[0].ends_with("lost: gone"), "{:?}", tally.failures());
    }
}
