//! A certificate that an authority issues: what is shown to clients, and how it stands with it.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rcgen::{CertificateParams, DistinguishedName, DnType};
use rustls::sign::CertifiedKey;
use tokio::sync::Notify;

use super::{
    challenges::self_signed,
    pair::Pair,
    schedule::{self, Failure},
    store::{self, Store},
};
use crate::digest::sha256;
use crate::{
    runtime::State,
    tls::state::{CertificateState, Condition, Source},
};

/// A certificate by ACME. It outlives the configuration; another process finds what is kept on disk.
#[derive(Debug)]
pub(super) struct Managed {
    /// In the order of the file.
    pub(super) names: Vec<String>,
    /// What its files are called.
    stem: String,
    pair: ArcSwapOption<Pair>,
    /// Shown while there is nothing else; nobody trusts it.
    placeholder: OnceLock<Option<Arc<CertifiedKey>>>,
    held: Mutex<Held>,
    hurry: Notify,
}

#[derive(Debug, Default)]
struct Held {
    /// The digest of the file that the pair was read from.
    file: Option<[u8; 32]>,
    /// When it is to be renewed, in seconds since 1970.
    due: u64,
    failure: Option<Failure>,
}

impl State for Managed {}

impl Managed {
    /// A certificate for these names, as far as it is kept already.
    pub(super) fn new(names: Vec<String>, store: &Store, retry: Duration) -> Self {
        let stem = store::stem(&names);
        let managed = Self {
            names,
            stem,
            pair: ArcSwapOption::empty(),
            placeholder: OnceLock::new(),
            held: Mutex::default(),
            hurry: Notify::new(),
        };
        managed.look(store, None);
        if let Some(failure) = &mut managed.held.lock().failure {
            failure.hurry(retry);
        }
        managed
    }

    /// What it goes by.
    pub(super) fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// The certificate, if it was issued.
    pub(super) fn issued(&self) -> Option<Arc<CertifiedKey>> {
        self.pair.load().as_ref().map(|pair| Arc::clone(&pair.certified))
    }

    pub(super) fn pair(&self) -> Option<Arc<Pair>> {
        self.pair.load_full()
    }

    /// Something that no client trusts, so that a handshake ends with an error that says so.
    pub(super) fn placeholder(&self) -> Option<Arc<CertifiedKey>> {
        let new = || {
            let mut params = CertificateParams::new(self.names.clone()).map_err(|error| error.to_string())?;
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, "Torana: no certificate yet");
            self_signed(&params)
        };
        let made = self.placeholder.get_or_init(|| {
            new().map(Arc::new).inspect_err(|why| log::error!("{}: no placeholder: {why}", self.name())).ok()
        });
        made.clone()
    }

    /// Takes over what is on disk, which another process may have put there.
    pub(super) fn look(&self, store: &Store, renew_before: Option<Duration>) {
        let renewed = self.look_at_pair(store, renew_before);
        let kept = store.read(&self.file("json")).ok().flatten();
        let kept: Option<Failure> = kept.and_then(|kept| serde_json::from_slice(&kept).ok());
        let failure = &mut self.held.lock().failure;
        let known = failure.as_ref().map_or(0, |failure| failure.tried_at);
        match kept {
            // The one that is known may have been hurried.
            Some(kept) if kept.tried_at > known => *failure = Some(kept),
            None if renewed => *failure = None,
            Some(_) | None => {}
        }
    }

    /// Whether there was another one.
    fn look_at_pair(&self, store: &Store, renew_before: Option<Duration>) -> bool {
        let name = self.file("pem");
        let bytes = match store.read(&name) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return false,
            Err(error) => {
                log::error!("acme: {name} cannot be read: {error}");
                return false;
            }
        };
        let digest = sha256(&bytes);
        if self.held.lock().file == Some(digest) {
            return false;
        }
        match Pair::parse(&bytes, &self.names) {
            // One that could not be kept is shown nevertheless.
            Ok(pair) if self.pair().is_some_and(|shown| shown.leaf.not_after > pair.leaf.not_after) => false,
            Ok(pair) => {
                self.show(pair, digest, renew_before);
                true
            }
            Err(why) => {
                log::error!("acme: {name} cannot be used: {why}");
                store.put_aside(&name);
                false
            }
        }
    }

    fn show(&self, pair: Pair, file: [u8; 32], renew_before: Option<Duration>) {
        let due = schedule::renewal(&pair.leaf, renew_before, pair.chance);
        self.pair.store(Some(Arc::new(pair)));
        let mut held = self.held.lock();
        held.due = due;
        held.file = Some(file);
    }

    /// Keeps and shows what was issued.
    pub(super) fn renewed(&self, pem: &str, store: &Store, renew_before: Option<Duration>) -> Result<(), String> {
        let pair = Pair::parse(pem.as_bytes(), &self.names)?;
        // It is shown even if it cannot be kept: to order it again would not help.
        if let Err(error) = store.write(&self.file("pem"), pem.as_bytes()) {
            log::error!("ALARM: the certificate of {} cannot be kept, only shown: {error}", self.name());
        }
        self.show(pair, sha256(pem.as_bytes()), renew_before);
        store.remove(&self.file("json"));
        self.held.lock().failure = None;
        Ok(())
    }

    /// Notes that it could not be issued, and until when that is left alone.
    pub(super) fn failed(&self, why: String, now: u64, not_before: u64, retry: Duration, store: &Store) -> Failure {
        let mut held = self.held.lock();
        let failure = Failure::new(why, held.failure.as_ref(), now, not_before, retry, rand::random());
        held.failure = Some(failure.clone());
        drop(held);
        let kept = serde_json::to_vec(&failure).map_err(std::io::Error::other);
        if let Err(error) = kept.and_then(|kept| store.write(&self.file("json"), &kept)) {
            log::warn!("acme: that {} failed cannot be kept: {error}", self.name());
        }
        failure
    }

    /// When it is renewed, according to how the configuration is now, or the authority.
    pub(super) fn due_at(&self, due: u64) {
        self.held.lock().due = due;
    }

    /// How long there is nothing to do.
    pub(super) fn pause(&self, now: u64) -> Duration {
        let held = self.held.lock();
        let next = match (&held.failure, self.pair.load().is_some()) {
            (Some(failure), _) => failure.next_try,
            (None, true) => held.due,
            (None, false) => 0,
        };
        Duration::from_secs(next.saturating_sub(now))
    }

    /// The configuration was loaded again: perhaps because what went wrong is mended.
    pub(super) fn hurry(&self, retry: Duration) {
        if let Some(failure) = &mut self.held.lock().failure {
            failure.hurry(retry);
        }
        self.hurry.notify_one();
    }

    /// Ready when somebody is in a hurry.
    pub(super) async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// How it stands with it.
    pub(super) fn state(&self, now: u64) -> CertificateState {
        let pair = self.pair.load_full();
        let held = self.held.lock();
        let leaf = pair.as_ref().map(|pair| &pair.leaf);
        let state = match (leaf, &held.failure) {
            (Some(leaf), _) if now >= leaf.not_after => Condition::Expired,
            (_, Some(_)) => Condition::Failed,
            (None, None) => Condition::Pending,
            // A renewal takes a moment, and the clock is looked at now and then only.
            (Some(leaf), None) if now > held.due.saturating_add((leaf.not_after - leaf.not_before) / 20) => {
                Condition::Expiring
            }
            (Some(_), None) => Condition::Valid,
        };
        CertificateState {
            names: self.names.clone(),
            source: Source::Acme,
            issuer: leaf.map(|leaf| leaf.issuer.clone()),
            not_after: leaf.map(|leaf| leaf.not_after),
            state,
            error: held.failure.as_ref().map(|failure| failure.why.clone()),
            next_try: held.failure.as_ref().map(|failure| failure.next_try),
        }
    }

    fn file(&self, ending: &str) -> String {
        format!("{}.{ending}", self.stem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    const RETRY: Duration = Duration::from_mins(5);

    #[test]
    fn what_is_kept_is_found_again_and_what_is_broken_is_put_aside() {
        pingora::tls::install_default_crypto_provider();
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), "ca").unwrap();
        let all = names(&["b.test", "a.test"]);
        let one = Managed::new(all.clone(), &store, RETRY);
        assert!(one.issued().is_none() && one.placeholder().is_some());
        assert_eq!((one.state(9).state, one.pause(9)), (Condition::Pending, Duration::ZERO));
        let pem = super::super::pair::tests::pem(&["a.test", "b.test"]);
        one.renewed(&pem, &store, None).unwrap();
        let other = Managed::new(names(&["a.test", "b.test"]), &store, RETRY);
        assert_eq!(other.issued().unwrap().cert, one.issued().unwrap().cert);
        assert!(other.pause(9) > Duration::from_hours(1));
        assert_eq!(other.state(9).state, Condition::Valid);
        // Another process renews it.
        let second = super::super::pair::tests::pem(&["a.test", "b.test"]);
        one.renewed(&second, &store, None).unwrap();
        other.look(&store, None);
        assert_eq!(other.issued().unwrap().cert, one.issued().unwrap().cert);
        store.write(&format!("{}.pem", store::stem(&all)), b"nonsense").unwrap();
        other.look(&store, None);
        assert_eq!(other.issued().unwrap().cert, one.issued().unwrap().cert);
        assert!(Managed::new(all, &store, RETRY).issued().is_none());
    }

    #[test]
    fn a_failure_keeps_the_certificate_and_is_remembered() {
        pingora::tls::install_default_crypto_provider();
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), "ca").unwrap();
        let one = Managed::new(names(&["a.test"]), &store, RETRY);
        one.renewed(&super::super::pair::tests::pem(&["a.test"]), &store, None).unwrap();
        let failure = one.failed("no such name".into(), 10_000, 0, RETRY, &store);
        assert!((10_300..=10_330).contains(&failure.next_try));
        assert!(one.issued().is_some());
        let state = one.state(10_001);
        assert_eq!((state.state, state.error.as_deref()), (Condition::Failed, Some("no such name")));
        assert_eq!(state.next_try, Some(failure.next_try));
        let other = Managed::new(names(&["a.test"]), &store, RETRY);
        assert_eq!(other.pause(10_000), RETRY);
        one.renewed(&super::super::pair::tests::pem(&["a.test"]), &store, None).unwrap();
        other.look(&store, None);
        assert_eq!(other.state(10_001).error, None);
    }
}
