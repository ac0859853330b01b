//! Certificates by ACME ([RFC 8555](https://www.rfc-editor.org/rfc/rfc8555)): an authority such as Let's Encrypt issues and
//! renews them, and nobody has to do anything.
//!
//! ```yaml
//! acme: { contact: [mailto:ops@example.com], terms_agreed: true }
//! listeners:
//!   - address: 0.0.0.0:80
//!   - address: 0.0.0.0:443
//!     tls: { acme: [{ domains: [api.example.com, www.example.com] }] }
//! ```
//!
//! - What is issued is kept in `storage` and shown to clients at once: no reload, no restart, connections stay. It is
//!   loaded again when a process starts, also one that takes over.
//! - Until there is one, a certificate from `certificates` that carries the name is shown, or one that nobody trusts.
//! - It is renewed when a third of its time is left (`renew_before`), or when the authority says (RFC 9773).
//! - After a failure it is tried again after `retry`, then twice as long, up to six hours; never before the authority
//!   allows (`Retry-After`). A start and a reload shorten the wait to `retry` after the last try. Meanwhile the certificate
//!   before is shown, the log says `ALARM`, and `torana status` and the metrics say since when and why.
//! - Whoever orders holds a lock in `storage`: one order at a time, also while one process takes over from another, and
//!   for gateways that share the folder. Whoever gets the lock looks first whether there is still something to do.
//! - Open challenges are answered by every process that has the folder ([`Challenges`]), on every listener, before any
//!   route and for any host. A token that nobody waits for is routed like any other path.
//!
//! Caveats: names with `*` need DNS-01, which there is not. `storage` has private keys: it belongs to the user of the
//! process alone, and into no backup that others can read.

mod authority;
mod challenges;
mod client;
mod handshake;
mod managed;
mod order;
mod pair;
mod renewal;
mod schedule;
mod store;
mod work;

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use rustls::sign::CertifiedKey;

use self::{
    authority::{Authority, External, Settings},
    client::Client,
    managed::Managed,
    store::Store,
    work::Work,
};
pub use self::{
    challenges::{ALPN, Challenges, PATH},
    handshake::{answer, asked_for},
};
use super::state::CertificateState;
use crate::digest::sha256;
use crate::{
    config::{self, Diagnostic, Validated, acme::Acme as Config, steps},
    runtime::{Build, Task},
};

/// The certificates by ACME of a snapshot.
#[derive(Debug)]
pub struct Acme {
    challenges: Challenges,
    /// In the order of the listeners.
    listeners: Vec<Names>,
    all: Vec<Arc<Managed>>,
}

/// The certificates by ACME of a listener.
#[derive(Clone, Debug, Default)]
pub struct Names {
    by_name: HashMap<String, Arc<Managed>>,
    first: Option<Arc<Managed>>,
    challenges: Option<Challenges>,
}

impl Names {
    /// The certificate for a name in lower case, if it was issued.
    pub fn issued(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.by_name.get(name)?.issued()
    }

    /// What is shown for such a name while there is nothing else.
    pub fn placeholder(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.by_name.get(name)?.placeholder()
    }

    /// What an authority looks at that asks for such a name, if it waits for that.
    pub async fn challenge(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.challenges.as_ref()?.certificate(name).await
    }

    /// What is shown where no name fits and no file is listed.
    pub fn first(&self) -> Option<Arc<CertifiedKey>> {
        let first = self.first.as_ref()?;
        first.issued().or_else(|| first.placeholder())
    }
}

impl Acme {
    /// Loads what is kept, and has the rest ordered in the background. `None` if nothing is asked for, or if the
    /// configuration is only looked at.
    pub fn compile(config: &Validated, build: &mut Build<'_>) -> Option<Arc<Self>> {
        let acme = config.acme.as_ref()?;
        let wanted =
            |listener: &config::listener::Listener| listener.tls.as_ref().is_some_and(|tls| !tls.acme.is_empty());
        if !config.listeners.iter().any(wanted) {
            return None;
        }
        pingora::tls::install_default_crypto_provider();
        let client = client(acme, build)?;
        if build.probe {
            return None;
        }
        let authority = Arc::new(authority(acme, client, build)?);
        let mut all: Vec<Arc<Managed>> = Vec::new();
        let listeners = config.listeners.iter().map(|listener| {
            let mut names = Names { challenges: Some(authority.challenges.clone()), ..Names::default() };
            for certificate in listener.tls.iter().flat_map(|tls| &tls.acme) {
                let managed = keep(certificate, &authority, build);
                for name in &managed.names {
                    names.by_name.insert(name.clone(), Arc::clone(&managed));
                }
                names.first.get_or_insert_with(|| Arc::clone(&managed));
                if !all.iter().any(|known| Arc::ptr_eq(known, &managed)) {
                    all.push(managed);
                }
            }
            names
        });
        let listeners = listeners.collect();
        for managed in &all {
            managed.hurry(acme.retry.0);
            build.background(task(acme, managed, &authority, build));
        }
        Some(Arc::new(Self { challenges: authority.challenges.clone(), listeners, all }))
    }

    /// What authorities look for.
    pub fn challenges(&self) -> &Challenges {
        &self.challenges
    }

    /// The certificates of a listener, by its place in the file.
    pub fn names(&self, listener: usize) -> Names {
        self.listeners.get(listener).cloned().unwrap_or_default()
    }

    /// How it stands with them.
    pub fn states(&self, now: u64) -> impl Iterator<Item = CertificateState> {
        self.all.iter().map(move |managed| managed.state(now))
    }
}

fn keep(certificate: &config::acme::AcmeCertificate, authority: &Authority, build: &mut Build<'_>) -> Arc<Managed> {
    let names: Vec<String> = certificate.domains.iter().map(|domain| domain.as_str().to_owned()).collect();
    let key = format!("acme/{}/{}", authority.store.folder().display(), store::stem(&names));
    build.keep_as(key, || Managed::new(names, &authority.store, authority.settings.retry))
}

/// The work of a certificate. It goes on over reloads that change nothing for it.
fn task(acme: &Config, managed: &Arc<Managed>, authority: &Arc<Authority>, build: &Build<'_>) -> Task {
    let account = acme.external_account.as_ref().map_or(Vec::new(), config::acme::ExternalAccount::key);
    let settings = sha256(&[format!("{acme:?}").as_bytes(), &account].concat());
    let key = format!("acme/{}/{}", managed.names.join(","), hex::encode(settings));
    let work = Work {
        managed: Arc::clone(managed),
        authority: Arc::clone(authority),
        clock: build.clock.clone(),
        metrics: Arc::clone(&build.metrics),
    };
    Task::new(key, move |ready| work.run(ready))
}

fn client(acme: &Config, build: &mut Build<'_>) -> Option<Client> {
    let bundle = acme.ca.as_ref().map(std::fs::read).transpose().map_err(|error| format!("it cannot be read: {error}"));
    let client = bundle.and_then(|bundle| Client::new(bundle.as_deref(), build.clock.clone()));
    client.map_err(|why| fail(build, "ca", why)).ok()
}

fn authority(acme: &Config, client: Client, build: &mut Build<'_>) -> Option<Authority> {
    let made = || {
        // systemd may name several, with colons between them.
        let state = std::env::var("STATE_DIRECTORY").ok();
        let state = state.and_then(|all| Some(PathBuf::from(all.split(':').next()?).join("acme")));
        state.filter(|folder| folder.is_absolute())
    };
    let Some(storage) = acme.storage.clone().or_else(made) else {
        let why = "where are certificates kept? Write `storage`, or set `StateDirectory=` in the unit";
        fail(build, "storage", why.to_owned());
        return None;
    };
    let directory = acme.directory.as_str();
    let digest = sha256(directory.as_bytes());
    let number = digest.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    let store = Store::open(&storage, &format!("{}-{number:08x}", acme.directory.host()));
    let store = store.map_err(|error| format!("certificates cannot be kept in `{}`: {error}", storage.display()));
    let store = store.map_err(|why| fail(build, "storage", why)).ok()?;
    let external = acme.external_account.as_ref();
    Some(Authority {
        settings: Settings {
            directory: directory.to_owned(),
            contact: acme.contact.iter().map(|contact| contact.as_str().to_owned()).collect(),
            challenge: acme.challenge,
            renew_before: acme.renew_before.map(|before| before.0),
            retry: acme.retry.0,
            external: external.map(|account| External { id: account.key_id.clone(), key: account.key() }),
        },
        challenges: Challenges::new(store.folder()),
        store,
        client,
    })
}

fn fail(build: &mut Build<'_>, key: &'static str, why: String) {
    let place = build.place(&steps!["acme", key]);
    build.fail(Diagnostic::error(place, why));
}
