//! The addresses of names, asked for again when their time to live is over.
//!
//! - All A and AAAA records of a name are endpoints.
//! - The time to live is kept within `dns.min_ttl` and `dns.max_ttl`.
//! - If a name server does not answer, or knows no address for the name any more, the last good addresses stay in
//!   use, and the question is asked again after 1 s, 2 s, 4 s and so on, up to 30 s. A warning is logged for the
//!   first failure in a row only.
//! - A name that never had an address has no endpoint; if that leaves the upstream with none, its requests are
//!   answered with 503 at once.
//! - Nobody waits for DNS but a new configuration, and that only for the first answer about a new name.
//!
//! The addresses survive reloads: they belong to the name, not to an upstream.

pub(super) mod lookup;

use std::{
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;

use self::lookup::{Answer, Found};
use super::{
    follow::{Followers, pause},
    members::Members,
};
use crate::{
    config::Dns,
    runtime::{Ready, State},
};

const TARGET: &str = "torana::dns";
/// A name of which one family cannot be asked for is asked for again after so long at the latest.
const HALF_KNOWN: Duration = Duration::from_secs(30);

/// What is known about a name.
#[derive(Debug)]
pub(super) struct Resolved {
    host: Box<str>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
    /// Failures in a row.
    failures: u32,
    followers: Followers,
}

impl Resolved {
    pub(super) fn new(host: &str) -> Self {
        Self { host: host.into(), known: Mutex::default() }
    }

    /// The addresses that are in use.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let known = self.known.lock();
        known.v4.iter().chain(&known.v6).copied().collect()
    }

    /// Has the endpoints of `members` built again with every change.
    pub(super) fn follow(&self, members: Weak<Members>) {
        self.known.lock().followers.add(members);
    }

    /// Takes an answer, and returns the time until the next question.
    fn take(&self, answer: &Answer, dns: &Dns) -> Duration {
        let (followers, pause) = {
            let mut known = self.known.lock();
            let followers = if known.learn(answer) {
                log::info!(target: TARGET, "{} is now {:?} {:?}", self.host, known.v4, known.v6);
                known.followers.clone()
            } else {
                Followers::default()
            };
            (followers, known.pause(answer, dns, &self.host))
        };
        followers.rebuild();
        pause
    }
}

/// The addresses go over as text, one in a line.
impl State for Resolved {
    fn export(&self) -> Option<Vec<u8>> {
        let lines: Vec<_> = self.addresses().iter().map(ToString::to_string).collect();
        (!lines.is_empty()).then(|| lines.join("\n").into_bytes())
    }

    /// An answer that came to this process is newer.
    fn import(&self, exported: &[u8]) {
        let lines = std::str::from_utf8(exported).unwrap_or_default().lines();
        let (v4, v6) = lines.filter_map(|line| line.parse().ok()).partition(IpAddr::is_ipv4);
        let followers = {
            let mut known = self.known.lock();
            if !known.v4.is_empty() || !known.v6.is_empty() {
                return;
            }
            (known.v4, known.v6) = (v4, v6);
            known.followers.clone()
        };
        followers.rebuild();
    }
}

impl Known {
    /// Takes the addresses. Returns whether that changed anything.
    fn learn(&mut self, answer: &Answer) -> bool {
        let good = |found: &Found| matches!(found, Found::Some(_));
        if !good(&answer.v4) && !good(&answer.v6) {
            return false;
        }
        let mut changed = false;
        for (family, found) in [(&mut self.v4, &answer.v4), (&mut self.v6, &answer.v6)] {
            let mut addresses = match found {
                Found::Some(addresses) => addresses.clone(),
                Found::Nothing => Vec::new(),
                Found::Failed(_) => continue,
            };
            addresses.sort_unstable();
            addresses.dedup();
            if *family != addresses {
                *family = addresses;
                changed = true;
            }
        }
        changed
    }

    /// The time until the next question.
    fn pause(&mut self, answer: &Answer, dns: &Dns, host: &str) -> Duration {
        let error = match (&answer.v4, &answer.v6) {
            (Found::Some(_), other) | (other, Found::Some(_)) => {
                if self.failures > 0 {
                    log::info!(target: TARGET, "{host} is resolved again");
                }
                self.failures = 0;
                // Not `clamp`, which panics if the bounds are the wrong way round.
                let ttl = answer.ttl.min(dns.max_ttl.0).max(dns.min_ttl.0);
                return match other {
                    // Some name servers never answer for AAAA: that is no reason to ask too often or to warn.
                    Found::Failed(_) => ttl.min(HALF_KNOWN),
                    Found::Some(_) | Found::Nothing => ttl,
                };
            }
            (Found::Failed(error), _) | (_, Found::Failed(error)) => error.as_str(),
            (Found::Nothing, Found::Nothing) => "the name has no address",
        };
        if self.failures == 0 {
            log::warn!(
                target: TARGET,
                "{host} cannot be resolved, {} known addresses stay in use: {error}",
                self.v4.len() + self.v6.len()
            );
        }
        let pause = pause(self.failures);
        self.failures = self.failures.saturating_add(1);
        pause
    }
}

/// Keeps a name resolved for as long as it is polled.
#[expect(clippy::infinite_loop, reason = "ends by being dropped")]
pub(super) async fn run(resolved: Arc<Resolved>, dns: Dns, ready: Ready) {
    let mut ready = Some(ready);
    loop {
        let answer = lookup::ask(&resolved.host, &dns).await;
        let pause = resolved.take(&answer, &dns);
        drop(ready.take());
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Resolved {
        /// The name, to find it by.
        pub(in crate::upstream) fn host(&self) -> &str {
            &self.host
        }

        /// Takes a good answer.
        pub(in crate::upstream) fn set(&self, v4: &[IpAddr], v6: &[IpAddr]) {
            let found = |addresses: &[IpAddr]| match addresses {
                [] => Found::Nothing,
                some => Found::Some(some.to_vec()),
            };
            self.take(&answer(found(v4), found(v6), 60), &Dns::default());
        }
    }

    fn answer(v4: Found, v6: Found, ttl: u64) -> Answer {
        Answer { v4, v6, ttl: Duration::from_secs(ttl) }
    }

    fn some(ips: &[&str]) -> Found {
        Found::Some(ips.iter().map(|ip| ip.parse().unwrap()).collect())
    }

    fn addresses(resolved: &Resolved) -> Vec<String> {
        let known = resolved.addresses().into_iter();
        known.map(|ip| ip.to_string()).collect()
    }

    #[test]
    fn every_address_of_both_families_is_taken_once() {
        let name = Resolved::new("a.example");
        let both = answer(some(&["10.0.0.2", "10.0.0.1", "10.0.0.2"]), some(&["2001:db8::1"]), 60);
        assert_eq!(name.take(&both, &Dns::default()), Duration::from_mins(1));
        assert_eq!(addresses(&name), ["10.0.0.1", "10.0.0.2", "2001:db8::1"]);
    }

    #[test]
    fn the_time_to_live_is_kept_within_its_bounds() {
        let name = Resolved::new("a.example");
        for (ttl, pause) in [(0, 1), (1, 1), (60, 60), (86_400, 300)] {
            let good = answer(some(&["10.0.0.1"]), Found::Nothing, ttl);
            assert_eq!(name.take(&good, &Dns::default()).as_secs(), pause);
        }
    }

    #[test]
    fn a_failure_keeps_the_last_good_addresses_and_is_retried_with_growing_pauses() {
        let name = Resolved::new("a.example");
        name.take(&answer(some(&["10.0.0.1"]), Found::Nothing, 60), &Dns::default());
        let failed = || Found::Failed("refused".into());
        let pauses: Vec<_> = [
            answer(failed(), failed(), 0),
            answer(Found::Nothing, Found::Nothing, 60),
            answer(failed(), Found::Nothing, 0),
        ]
        .iter()
        .cycle()
        .take(7)
        .map(|bad| name.take(bad, &Dns::default()).as_secs())
        .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(addresses(&name), ["10.0.0.1"]);
        // An answer starts anew.
        name.take(&answer(some(&["10.0.0.9"]), Found::Nothing, 60), &Dns::default());
        assert_eq!(addresses(&name), ["10.0.0.9"]);
        let pause = name.take(&answer(failed(), failed(), 0), &Dns::default());
        assert_eq!(pause.as_secs(), 1);
    }

    #[test]
    fn losing_the_answer_of_one_family_does_not_lose_its_endpoints() {
        let name = Resolved::new("a.example");
        let dns = Dns::default();
        name.take(&answer(some(&["10.0.0.1"]), some(&["2001:db8::1"]), 60), &dns);
        let half = answer(Found::Failed("lost".into()), some(&["2001:db8::2"]), 60);
        assert_eq!(name.take(&half, &dns), Duration::from_secs(30));
        assert_eq!(addresses(&name), ["10.0.0.1", "2001:db8::2"]);
        name.take(&answer(Found::Failed("lost".into()), Found::Nothing, 60), &dns);
        assert_eq!(addresses(&name), ["10.0.0.1", "2001:db8::2"]);
        name.take(&answer(some(&["10.0.0.1"]), Found::Nothing, 60), &dns);
        assert_eq!(addresses(&name), ["10.0.0.1"]);
    }
}
