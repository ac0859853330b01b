//! A key set by URL: fetched in the background, kept when fetching fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{Notify, Semaphore, watch};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::{config::Url, keys::KeySet};
use crate::{
    clock::Clock,
    runtime::{Ready, State},
    telemetry::metrics::Metrics,
};

/// How long one fetch may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A larger answer is not read.
const MAX_SIZE: u64 = 1 << 20;

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
    keys: ArcSwap<KeySet>,
    /// The document that they were read from, for a process that takes over while the issuer is down.
    document: Mutex<Vec<u8>>,
    /// When the last fetch began, on the monotonic clock.
    began: AtomicU64,
    /// A fetch is under way.
    busy: AtomicBool,
    wanted: Notify,
    /// How many fetches have ended.
    rounds: watch::Sender<u64>,
    waiting: Semaphore,
}

impl Remote {
    pub(super) fn new() -> Self {
        Self {
            keys: ArcSwap::default(),
            document: Mutex::default(),
            began: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            wanted: Notify::new(),
            rounds: watch::Sender::new(0),
            waiting: Semaphore::new(WAITING),
        }
    }

    /// The keys as they are now; empty if none were ever fetched.
    pub(super) fn keys(&self) -> arc_swap::Guard<Arc<KeySet>> {
        self.keys.load()
    }

    /// Asks for a fetch because of a key that is not among those `seen`, and waits for it, or for the one that is under
    /// way. At most one in `interval` is begun whatever is asked. Returns whether there may be other keys now.
    pub(super) async fn refetched(&self, seen: u64, now: u64, interval: Duration) -> bool {
        let mut rounds = self.rounds.subscribe();
        let begun = self.may_begin(now, interval);
        if begun || self.busy.load(Ordering::Acquire) {
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
        let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        let claim = |began: u64| (began.saturating_add(interval) <= now).then_some(now);
        let begun = self.began.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim).is_ok();
        if begun {
            self.busy.store(true, Ordering::Release);
        }
        begun
    }

    /// Takes over a set, or keeps the old one.
    fn publish(&self, fetched: Result<Vec<u8>, String>) -> Result<(), String> {
        let result = fetched.and_then(|document| {
            let keys = KeySet::from_jwks(&document, false)?;
            self.keys.store(Arc::new(keys));
            *self.document.lock() = document;
            Ok(())
        });
        self.busy.store(false, Ordering::Release);
        self.rounds.send_modify(|round| *round = round.wrapping_add(1));
        result
    }

    /// Fetches at once, then after each `refresh`, and whenever a request asks for it; until it is dropped.
    pub(super) async fn run(
        self: Arc<Self>,
        fetcher: Fetcher,
        refresh: Duration,
        (clock, metrics): (Clock, Arc<Metrics>),
        ready: Ready,
    ) {
        let (mut ready, mut failures) = (Some(ready), 0);
        let fetcher = Arc::new(fetcher);
        loop {
            self.began.fetch_max(clock.monotonic(), Ordering::Relaxed);
            self.busy.store(true, Ordering::Release);
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
                    log::warn!("key set of {}: {why}", fetcher.source.url().as_str());
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
        Some(self.document.lock().clone()).filter(|document| !document.is_empty())
    }

    /// What was fetched here is newer.
    fn import(&self, exported: &[u8]) {
        if self.keys.load().is_empty()
            && let Err(why) = self.publish(Ok(exported.to_vec()))
        {
            log::warn!("the keys of the process before cannot be used: {why}");
        }
    }
}

/// How long to wait before the next fetch.
fn pause(failures: u32, refresh: Duration) -> Duration {
    match failures {
        0 => refresh,
        _ => Duration::from_secs(1 << (failures - 1).min(6)).min(MAX_BACKOFF).min(refresh),
    }
}

impl Source {
    pub(super) fn url(&self) -> &Url {
        match self {
            Self::Jwks(url) | Self::Issuer(url) => url,
        }
    }
}

/// Fetches a key set.
#[derive(Debug)]
pub(super) struct Fetcher {
    source: Source,
    agent: ureq::Agent,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Fetcher {
    /// `ca` has, in PEM, the only certificate authorities to trust, instead of the public ones.
    pub(super) fn new(source: Source, ca: Option<&[u8]>) -> Result<Self, String> {
        let mut tls = TlsConfig::builder();
        if let Some(pem) = ca {
            tls = tls.root_certs(RootCerts::new_with_certs(&authorities(pem)?));
        }
        let config = ureq::Agent::config_builder()
            .tls_config(tls.build())
            .timeout_global(Some(TIMEOUT))
            // A redirect could lead anywhere, also to what only this machine can reach.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .max_response_header_size(64 << 10)
            .user_agent("torana")
            .build();
        Ok(Self { source, agent: config.into() })
    }

    fn fetch(&self) -> Result<Vec<u8>, String> {
        let url = match &self.source {
            Source::Jwks(url) => url.clone(),
            Source::Issuer(issuer) => self.discover(issuer)?,
        };
        self.get(url.as_str())
    }

    fn discover(&self, issuer: &Url) -> Result<Url, String> {
        let base = issuer.as_str().trim_end_matches('/');
        let json = self.get(&format!("{base}/.well-known/openid-configuration"))?;
        jwks_uri(&json, issuer)
    }

    fn get(&self, url: &str) -> Result<Vec<u8>, String> {
        let response = self.agent.get(url).call().map_err(|error| error.to_string())?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("the answer has status {}", response.status().as_u16()));
        }
        let body = response.into_body().into_with_config().limit(MAX_SIZE);
        body.read_to_vec().map_err(|error| error.to_string())
    }
}

/// Where a discovery document says that the keys are.
fn jwks_uri(json: &[u8], issuer: &Url) -> Result<Url, String> {
    let found: Discovery = serde_json::from_slice(json).map_err(|_error| "this is not a discovery document")?;
    if found.issuer != issuer.as_str() {
        return Err("the discovery document is that of another issuer".into());
    }
    let url: Url = found.jwks_uri.parse()?;
    if issuer.is_secure() && !url.is_secure() {
        return Err("the discovery document names keys without TLS".into());
    }
    Ok(url)
}

fn authorities(pem: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
    let items: Result<Vec<_>, _> = parse_pem(pem).collect();
    let items = items.map_err(|_error| "`ca` is not PEM")?;
    let certificates: Vec<_> = items
        .into_iter()
        .filter_map(|item| if let PemItem::Certificate(certificate) = item { Some(certificate) } else { None })
        .collect();
    if certificates.is_empty() {
        return Err("`ca` has no certificate".into());
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JWKS: &[u8] = br#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    #[test]
    fn however_many_ask_there_is_one_fetch_in_an_interval() {
        let (remote, interval) = (Remote::new(), Duration::from_secs(10));
        let second = 1_000_000_000;
        let begun = |now| (0..10_000).filter(|_| remote.may_begin(now, interval)).count();
        assert_eq!(begun(100 * second), 1);
        assert_eq!(begun(109 * second), 0);
        assert_eq!(begun(110 * second), 1);
    }

    #[tokio::test]
    async fn a_request_waits_for_the_fetch_that_another_one_made_necessary() {
        let (remote, interval) = (Arc::new(Remote::new()), Duration::from_secs(10));
        assert!(remote.may_begin(u64::MAX / 2, interval));
        let waiting = Arc::clone(&remote);
        let waiting = tokio::spawn(async move { waiting.refetched(0, u64::MAX / 2, interval).await });
        tokio::task::yield_now().await;
        remote.publish(Ok(JWKS.to_vec())).unwrap();
        assert!(waiting.await.unwrap());
        // Nothing is under way any more, and it is too early for more.
        let seen = remote.keys().fingerprint;
        assert!(!remote.refetched(seen, u64::MAX / 2, interval).await);
    }

    #[test]
    fn a_failure_keeps_the_keys() {
        let remote = Remote::new();
        assert!(remote.keys().is_empty());
        remote.publish(Ok(JWKS.to_vec())).unwrap();
        let known = remote.keys().fingerprint;
        for broken in [&b"<html>"[..], b"{}", br#"{"keys": []}"#] {
            assert!(remote.publish(Ok(broken.to_vec())).is_err());
            assert_eq!(remote.keys().fingerprint, known);
        }
    }

    #[test]
    fn another_process_has_the_keys_although_it_could_fetch_none() {
        let (old, new) = (Remote::new(), Remote::new());
        assert!(old.export().is_none());
        old.publish(Ok(JWKS.to_vec())).unwrap();
        new.import(b"{}");
        assert!(new.keys().is_empty());
        new.import(&old.export().unwrap());
        assert_eq!(new.keys().fingerprint, old.keys().fingerprint);
    }

    #[test]
    fn failures_are_repeated_ever_more_slowly() {
        let refresh = Duration::from_mins(10);
        let pauses: Vec<_> = (0..9).map(|failures| pause(failures, refresh).as_secs()).collect();
        assert_eq!(pauses, [600, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(u32::MAX, Duration::from_secs(5)).as_secs(), 5);
    }

    #[test]
    fn a_discovery_document_is_believed_only_about_its_issuer() {
        let issuer: Url = "https://idp.example.com".parse().unwrap();
        let document = |issuer: &str, keys: &str| {
            format!(r#"{{"issuer": "{issuer}", "jwks_uri": "{keys}", "x": 1}}"#).into_bytes()
        };
        let good = document("https://idp.example.com", "https://keys.example.com/jwks");
        let url = jwks_uri(&good, &issuer).unwrap();
        assert_eq!(url.as_str(), "https://keys.example.com/jwks");
        for bad in [
            document("https://idp.example.com/", "https://keys.example.com/jwks"),
            document("https://idp.example.com", "http://keys.example.com/jwks"),
            document("https://idp.example.com", "file:///etc/passwd"),
            b"<html>".to_vec(),
        ] {
            assert!(jwks_uri(&bad, &issuer).is_err());
        }
    }
}
