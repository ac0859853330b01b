//! Endpoints that something else knows: SRV records, a file, Consul.
//!
//! - Whoever knows them is asked in the background; no request waits, and a new configuration only for the first answer.
//! - An answer replaces the one before as a whole. If there is none, it makes no sense, or it has no endpoint at all, the last good ones stay in
//!   use, a warning is logged for each new reason, `torana status` shows it, and the question is asked again after 1 s, 2 s, 4 s, up to 30 s.
//! - What is known survives reloads, and goes over to a process that takes over.
//!
//! | module | who is asked |
//! |---|---|
//! | `srv` | name servers, again when the time to live is over |
//! | `file` | a file, when it changes |
//! | `consul` | Consul's HTTP API, by blocking queries |

mod consul;
mod file;
mod srv;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    follow::{Followers, pause},
    members::Members,
};
use crate::{
    config::{discovery::Discovery, endpoint::Target},
    digest::sha256,
    runtime::{Build, State, Task},
};

const TARGET: &str = "torana::discovery";

/// An endpoint as it was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Member {
    /// An address, never a name.
    #[serde(with = "as_text")]
    pub(super) address: Target,
    pub(super) weight: u16,
    pub(super) priority: u8,
    pub(super) zone: Option<String>,
}

mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::config::endpoint::Target;

    pub(super) fn serialize<S: Serializer>(target: &Target, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(target)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Target, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// What is known from one source.
#[derive(Debug)]
pub(super) struct Found {
    /// For the log.
    source: Box<str>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    members: Vec<Member>,
    /// Failures in a row, and why the last one failed.
    failures: u32,
    error: Option<String>,
    followers: Followers,
}

/// A source of endpoints, for `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// Which one.
    pub source: String,
    /// How many endpoints it knows.
    pub endpoints: usize,
    /// Why it cannot be asked, if it cannot.
    pub error: Option<String>,
}

impl Found {
    fn new(source: String) -> Self {
        Self { source: source.into(), known: Mutex::default() }
    }

    pub(super) fn members(&self) -> Vec<Member> {
        self.known.lock().members.clone()
    }

    pub(super) fn status(&self) -> SourceStatus {
        let known = self.known.lock();
        SourceStatus { source: self.source.to_string(), endpoints: known.members.len(), error: known.error.clone() }
    }

    /// Has the endpoints of `members` built again with every change.
    pub(super) fn follow(&self, members: Weak<Members>) {
        self.known.lock().followers.add(members);
    }

    /// Takes an answer, and returns how long to wait before the question is asked again if it was none.
    fn take(&self, answer: Result<Vec<Member>, String>) -> Result<(), Duration> {
        let followers = {
            let mut known = self.known.lock();
            let mut members = match answer {
                Ok(members) if members.is_empty() => return Err(self.failed(&mut known, "it knows no endpoint")),
                Ok(members) => members,
                Err(why) => return Err(self.failed(&mut known, &why)),
            };
            if known.failures > 0 {
                log::info!(target: TARGET, "{}: it answers again", self.source);
            }
            known.failures = 0;
            known.error = None;
            members.sort_unstable();
            members.dedup();
            if known.members == members {
                return Ok(());
            }
            let addresses: Vec<String> = members.iter().map(|member| member.address.to_string()).collect();
            log::info!(target: TARGET, "{} is now {}", self.source, addresses.join(", "));
            known.members = members;
            known.followers.clone()
        };
        followers.rebuild();
        Ok(())
    }

    fn failed(&self, known: &mut Known, why: &str) -> Duration {
        if known.error.as_deref() != Some(why) {
            let then = match known.members.len() {
                0 => "no endpoint is known".to_owned(),
                count => format!("{count} known endpoints stay in use"),
            };
            log::warn!(target: TARGET, "{}: {why}; {then}", self.source);
            known.error = Some(why.to_owned());
        }
        let pause = pause(known.failures);
        known.failures = known.failures.saturating_add(1);
        pause
    }
}

impl State for Found {
    fn export(&self) -> Option<Vec<u8>> {
        let members = self.members();
        (!members.is_empty()).then(|| serde_json::to_vec(&members).ok()).flatten()
    }

    /// An answer that came to this process is newer.
    fn import(&self, exported: &[u8]) {
        if self.members().is_empty()
            && let Ok(members) = serde_json::from_slice::<Vec<Member>>(exported)
            && self.take(Ok(members)).is_err()
        {
            log::debug!(target: TARGET, "{}: nothing to take over", self.source);
        }
    }
}

/// What is known from a source, with the work that keeps it known.
pub(super) fn found(discovery: &Discovery, build: &mut Build<'_>) -> Arc<Found> {
    let (source, secret) = match discovery {
        Discovery::Srv(name) => (format!("srv {}", name.0), None),
        Discovery::File(path) => (format!("file {}", path.display()), None),
        Discovery::Consul(consul) => {
            let agent = &consul.address;
            let tag = consul.tag.as_ref().map_or_else(String::new, |tag| format!(" {tag}"));
            let of = consul.datacenter.as_ref().map_or_else(String::new, |one| format!(" of {one}"));
            let source = format!("consul {}{tag}{of} at {}:{}", consul.service, agent.host, agent.port);
            (source, consul.token.as_ref().map(|token| sha256(token.expose().as_bytes())))
        }
    };
    let found = build.keep_as(format!("discovery/{source}"), || Found::new(source));
    let dns = build.config().dns.clone();
    let key = format!("discovery/{discovery:?} {secret:?} {dns:?}");
    let (work, discovery) = (Arc::clone(&found), discovery.clone());
    build.background(Task::new(key, |ready| async move {
        match discovery {
            Discovery::Srv(name) => srv::run(work, name.0, dns, ready).await,
            Discovery::File(path) => file::run(work, path, ready).await,
            Discovery::Consul(consul) => consul::run(work, consul, ready).await,
        }
    }));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(address: &str) -> Member {
        Member { address: address.parse().unwrap(), weight: 1, priority: 0, zone: None }
    }

    #[test]
    fn a_failing_source_keeps_the_last_good_set_and_is_asked_again_later_and_later() {
        let found = Found::new("file a".into());
        assert_eq!(found.take(Ok(vec![member("10.0.0.2:80"), member("10.0.0.1:80"), member("10.0.0.2:80")])), Ok(()));
        assert_eq!(found.members(), [member("10.0.0.1:80"), member("10.0.0.2:80")]);
        let pauses: Vec<u64> = (0..7)
            .map(|i| found.take(if i % 2 == 0 { Err("broken".into()) } else { Ok(Vec::new()) }).unwrap_err().as_secs())
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(found.members().len(), 2);
        assert_eq!(found.take(Ok(vec![member("10.0.0.3:80")])), Ok(()));
        assert_eq!(found.take(Err("broken".into())).unwrap_err().as_secs(), 1);
    }

    #[test]
    fn another_process_begins_with_what_is_known() {
        let (old, new) = (Found::new("file a".into()), Found::new("file a".into()));
        assert_eq!(old.export(), None);
        old.take(Ok(vec![member("10.0.0.1:80"), member("unix:/run/a.sock")])).unwrap();
        new.import(&old.export().unwrap());
        assert_eq!(new.members(), old.members());
        new.import(b"of another version");
        assert_eq!(new.members(), old.members());
    }
}
