//! An issuer of tokens: its key set, and where it does what; fetched in the background, kept when fetching fails.

mod credentials;
mod discovery;
mod fetch;

use std::{path::Path, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{Notify, Semaphore, watch};

pub use self::credentials::Send;
pub(super) use self::{credentials::Credentials, discovery::Provider, fetch::Client};
use super::jwt::{
    Url,
    keys::{self, KeySet},
    token::Refusal,
};
use crate::{
    clock::Clock,
    clock::nanos,
    runtime::{Build, Ready, State, Task},
    telemetry::metrics::Metrics,
};

/// After a failure the next try comes after a second, then two, four, and so on up to this.
const MAX_BACKOFF: Duration = Duration::from_mins(1);

/// How long a request waits for a fetch that its token made necessary.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many requests may wait at the same time; the others are answered with the keys that there are.
const WAITING: usize = 256;

/// Where a key set is fetched from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// From here.
    Jwks(Url),
    /// From where the issuer says ([OpenID Connect Discovery, 4](https://openid.net/specs/openid-connect-discovery-1_0.html)).
    Issuer(Url),
}

/// A key set, and how to ask for it to be fetched again. It outlives the configuration.
#[derive(Debug)]
pub(super) struct Remote {
    source: Source,
    keys: ArcSwap<KeySet>,
    provider: ArcSwapOption<Provider>,
    /// What they were read from, for a process that takes over while the issuer is down.
    documents: Mutex<Fetched>,
    /// Both change at once: whoever finds that a fetch has begun must find that it is under way, or its keys.
    latest: Mutex<Latest>,
    wanted: Notify,
    /// How many fetches have ended.
    rounds: watch::Sender<u64>,
    waiting: Semaphore,
}

/// The last fetch.
#[derive(Debug, Default)]
struct Latest {
    /// When it began, on the monotonic clock.
    began: u64,
    /// It has not ended.
    busy: bool,
}

impl Remote {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            keys: ArcSwap::default(),
            provider: ArcSwapOption::empty(),
            documents: Mutex::default(),
            latest: Mutex::default(),
            wanted: Notify::new(),
            rounds: watch::Sender::new(0),
            waiting: Semaphore::new(WAITING),
        }
    }

    /// The one of this source, and its work in the background. Policies that name the same source share both.
    pub(super) fn shared(
        source: &Source,
        ca: Option<&Path>,
        refresh: Duration,
        build: &mut Build<'_>,
    ) -> Result<(Arc<Self>, Client), String> {
        let ca = ca.map(|path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display())));
        let ca = ca.transpose()?;
        let client = Client::new(ca.as_deref())?;
        let key = format!("jwks:{source:?}/{:x}", keys::fingerprint(&ca.unwrap_or_default()));
        let remote = build.keep_as(key.clone(), || Self::new(source.clone()));
        let (work, fetcher) = (Arc::clone(&remote), Fetcher { source: source.clone(), client: client.clone() });
        let counted = (build.clock.clone(), Arc::clone(&build.metrics));
        build.background(Task::new(format!("{key}/{refresh:?}"), move |ready| {
            work.run(fetcher, refresh, counted, ready)
        }));
        Ok((remote, client))
    }

    /// The keys as they are now; empty if none were ever fetched.
    pub(super) fn keys(&self) -> arc_swap::Guard<Arc<KeySet>> {
        self.keys.load()
    }

    /// What the issuer says about itself, once that is known; `None` also where only its keys are named.
    pub(super) fn provider(&self) -> Option<Arc<Provider>> {
        self.provider.load_full()
    }

    /// Judges with the keys that there are, and if none of them fits, once more after a fetch (see [`refetched`](Self::refetched)).
    pub(super) async fn judge<T>(
        &self,
        now: u64,
        interval: Duration,
        judge: impl Fn(&KeySet) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let keys = self.keys();
        let (first, seen) = (judge(&keys), keys.fingerprint);
        // What guards the keys must not be held while waiting.
        drop(keys);
        if matches!(first, Err(Refusal::UnknownKey)) && self.refetched(seen, now, interval).await {
            judge(&self.keys())
        } else {
            first
        }
    }

    /// Asks for a fetch because of a key that is not among those `seen`, and waits for it, or for the one that is under
    /// way. At most one in `interval` is begun whatever is asked. Returns whether there may be other keys now.
    async fn refetched(&self, seen: u64, now: u64, interval: Duration) -> bool {
        let mut rounds = self.rounds.subscribe();
        let begun = self.may_begin(now, interval);
        if begun || self.latest.lock().busy {
            if begun {
                self.wanted.notify_one();
            }
            if let Ok(_seat) = self.waiting.try_acquire() {
                drop(tokio::time::timeout(PATIENCE, rounds.changed()).await);
            }
        }
        self.keys.load().fingerprint != seen
    }

    /// Whether the last fetch is long enough ago; then this one counts as begun.
    fn may_begin(&self, now: u64, interval: Duration) -> bool {
        let mut latest = self.latest.lock();
        let begun = latest.began.saturating_add(nanos(interval)) <= now;
        if begun {
            *latest = Latest { began: now, busy: true };
        }
        begun
    }

    /// Takes over what was fetched, or keeps the old.
    fn publish(&self, fetched: Result<Fetched, String>) -> Result<(), String> {
        let result = fetched.and_then(|fetched| {
            let keys = KeySet::from_jwks(&fetched.keys, false)?;
            if let (Source::Issuer(issuer), Some(document)) = (&self.source, &fetched.provider) {
                self.provider.store(Some(Arc::new(Provider::read(document, issuer)?)));
            }
            self.keys.store(Arc::new(keys));
            *self.documents.lock() = fetched;
            Ok(())
        });
        self.latest.lock().busy = false;
        self.rounds.send_modify(|round| *round = round.wrapping_add(1));
        result
    }

    /// Fetches at once, then after each `refresh`, and whenever a request asks for it; until it is dropped.
    async fn run(
        self: Arc<Self>,
        fetcher: Fetcher,
        refresh: Duration,
        (clock, metrics): (Clock, Arc<Metrics>),
        ready: Ready,
    ) {
        let (mut ready, mut failures) = (Some(ready), 0);
        let fetcher = Arc::new(fetcher);
        loop {
            let began = self.latest.lock().began.max(clock.monotonic());
            *self.latest.lock() = Latest { began, busy: true };
            let work = Arc::clone(&fetcher);
            let answer = tokio::task::spawn_blocking(move || work.fetch()).await;
            let answer = answer.unwrap_or_else(|_| Err("the fetch was broken off".to_owned()));
            let published = self.publish(answer);
            let when = published.is_ok().then(|| clock.unix().as_secs_f64());
            metrics.key_sets.tried(fetcher.source.url().as_str(), when);
            match published {
                Ok(()) => failures = 0,
                Err(why) => {
                    failures += 1;
                    log::warn!("keys and addresses of {}: {why}", fetcher.source.url().as_str());
                }
            }
            drop(ready.take());
            let pause = pause(failures, refresh);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wanted.notified() => {}
            }
        }
    }
}

impl State for Remote {
    fn export(&self) -> Option<Vec<u8>> {
        let documents = self.documents.lock();
        let provider = documents.provider.as_deref().and_then(raw);
        serde_json::to_vec(&Exported { keys: raw(&documents.keys)?, provider }).ok()
    }

    /// What was fetched here is newer.
    fn import(&self, exported: &[u8]) {
        if !self.keys.load().is_empty() {
            return;
        }
        let fetched = serde_json::from_slice(exported).map_err(|error| error.to_string());
        let fetched = fetched.map(|Exported { keys, provider }| Fetched {
            keys: keys.get().into(),
            provider: provider.map(|document| document.get().into()),
        });
        if let Err(why) = self.publish(fetched) {
            log::warn!("the keys of the process before cannot be used: {why}");
        }
    }
}

/// What a process hands on: the documents as they were fetched.
#[derive(Serialize, Deserialize)]
struct Exported<'a> {
    #[serde(borrow)]
    keys: &'a RawValue,
    #[serde(borrow)]
    provider: Option<&'a RawValue>,
}

fn raw(document: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(document).ok()
}

/// How long to wait before the next fetch.
fn pause(failures: u32, refresh: Duration) -> Duration {
    match failures {
        0 => refresh,
        _ => Duration::from_secs(1 << (failures - 1).min(6)).min(MAX_BACKOFF).min(refresh),
    }
}

impl Source {
    fn url(&self) -> &Url {
        match self {
            Self::Jwks(url) | Self::Issuer(url) => url,
        }
    }
}

/// Fetches a key set.
#[derive(Debug)]
struct Fetcher {
    source: Source,
    client: Client,
}

/// The documents as they were fetched.
#[derive(Debug, Default)]
struct Fetched {
    keys: Vec<u8>,
    provider: Option<Vec<u8>>,
}

impl Fetcher {
    fn fetch(&self) -> Result<Fetched, String> {
        let issuer = match &self.source {
            Source::Jwks(url) => return Ok(Fetched { keys: self.client.get(url)?, provider: None }),
            Source::Issuer(issuer) => issuer,
        };
        let base = issuer.as_str().trim_end_matches('/');
        let document = self.client.get(&format!("{base}/.well-known/openid-configuration").parse()?)?;
        let keys = self.client.get(&Provider::read(&document, issuer)?.keys)?;
        Ok(Fetched { keys, provider: Some(document) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JWKS: &[u8] = br#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    fn remote() -> Remote {
        Remote::new(Source::Issuer("https://idp.example.com".parse().unwrap()))
    }

    fn fetched(keys: &[u8]) -> Fetched {
        let provider = br#"{"issuer": "https://idp.example.com", "jwks_uri": "https://idp.example.com/jwks"}"#;
        Fetched { keys: keys.to_vec(), provider: Some(provider.to_vec()) }
    }

    #[test]
    fn however_many_ask_there_is_one_fetch_in_an_interval() {
        let (remote, interval) = (remote(), Duration::from_secs(10));
        let second = 1_000_000_000;
        let begun = |now| (0..10_000).filter(|_| remote.may_begin(now, interval)).count();
        assert_eq!(begun(100 * second), 1);
        assert_eq!(begun(109 * second), 0);
        assert_eq!(begun(110 * second), 1);
    }

    /// Of many threads one begins a fetch, and none of the others finds it neither begun nor under way.
    #[test]
    fn who_does_not_begin_a_fetch_finds_one_under_way() {
        for _ in 0..2_000 {
            let (remote, gate) = (remote(), std::sync::Barrier::new(4));
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        gate.wait();
                        assert!(remote.may_begin(u64::MAX / 2, Duration::from_secs(10)) || remote.latest.lock().busy);
                    });
                }
            });
        }
    }

    #[tokio::test]
    async fn a_request_waits_for_the_fetch_that_another_one_made_necessary() {
        let (remote, interval) = (Arc::new(remote()), Duration::from_secs(10));
        assert!(remote.may_begin(u64::MAX / 2, interval));
        let waiting = Arc::clone(&remote);
        let waiting = tokio::spawn(async move { waiting.refetched(0, u64::MAX / 2, interval).await });
        tokio::task::yield_now().await;
        remote.publish(Ok(fetched(JWKS))).unwrap();
        assert!(waiting.await.unwrap());
        // Nothing is under way any more, and it is too early for more.
        let seen = remote.keys().fingerprint;
        assert!(!remote.refetched(seen, u64::MAX / 2, interval).await);
    }

    #[test]
    fn a_failure_keeps_the_keys() {
        let remote = remote();
        assert!(remote.keys().is_empty());
        remote.publish(Ok(fetched(JWKS))).unwrap();
        let known = remote.keys().fingerprint;
        for broken in [&b"<html>"[..], b"{}", br#"{"keys": []}"#] {
            assert!(remote.publish(Ok(fetched(broken))).is_err());
            assert_eq!(remote.keys().fingerprint, known);
        }
    }

    #[test]
    fn another_process_has_the_keys_although_it_could_fetch_none() {
        let (old, new) = (remote(), remote());
        assert!(old.export().is_none());
        old.publish(Ok(fetched(JWKS))).unwrap();
        new.import(b"{}");
        assert!(new.keys().is_empty());
        new.import(&old.export().unwrap());
        assert_eq!(new.keys().fingerprint, old.keys().fingerprint);
        assert_eq!(new.provider(), old.provider());
        assert!(new.provider().is_some());
    }

    #[test]
    fn failures_are_repeated_ever_more_slowly() {
        let refresh = Duration::from_mins(10);
        let pauses: Vec<_> = (0..9).map(|failures| pause(failures, refresh).as_secs()).collect();
        assert_eq!(pauses, [600, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(u32::MAX, Duration::from_secs(5)).as_secs(), 5);
    }
}
