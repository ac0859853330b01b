//! The files of a listener's `tls`, read part by part: each pair of certificate and key, and each rule about clients.
//!
//! At a start or a reload of the configuration every part has to be right, and everything that is not is said at once. When files
//! change while they are served, a part that is broken stays as it was, and the others are taken over: one bad file must not keep the
//! rest from being renewed.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use pingora::tls::sign::CertifiedKey;
use rustls::server::danger::ClientCertVerifier;

use super::{
    certificates, client,
    state::{CertificateState, Condition, Leaf, Source},
};
use crate::config::{Step, listener, steps};

/// What cannot be used of a listener's `tls`: where it stands there, and why.
pub type TlsError = (Vec<Step>, String);

/// What is wrong with one part: its key in the configuration, and why.
pub(super) type PartError = (&'static str, String);

/// A certificate with its key, and what it says.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) leaf: Arc<Leaf>,
}

/// What a rule about clients needs.
#[derive(Clone, Debug)]
pub(super) struct ClientRule {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// The bytes of its files.
    pub(super) contents: Arc<[Vec<u8>]>,
    /// When the first of its revocation lists ends, in seconds since 1970.
    pub(super) next_update: Option<u64>,
    /// The files of revocation lists that are of no authority in `ca`.
    pub(super) strangers: Vec<PathBuf>,
}

/// Something that was read; if what is on disk cannot be used, what was there before, and why.
#[derive(Clone, Debug)]
pub(super) struct Part<T> {
    pub(super) value: T,
    pub(super) error: Option<String>,
}

impl<T: Clone> Part<T> {
    /// What is read now, or else what was there before.
    fn or_before(read: Result<T, PartError>, before: &Self) -> Self {
        match read {
            Ok(value) => Self { value, error: None },
            Err((_, why)) => Self { value: before.value.clone(), error: Some(why) },
        }
    }
}

/// What has been read and can be served.
#[derive(Debug)]
pub struct Loaded {
    pub(super) config: listener::Tls,
    pub(super) pairs: Vec<Part<Pair>>,
    pub(super) rules: Vec<Part<ClientRule>>,
    /// What the files looked like.
    pub(super) stamps: Vec<Stamp>,
}

impl Loaded {
    /// Reads everything that a listener's `tls` names, or says everything that is wrong with it.
    pub fn read(config: &listener::Tls) -> Result<Self, Vec<TlsError>> {
        let stamps = stamps(config);
        let mut errors = Vec::new();
        let pairs = each(&config.certificates, "certificates", certificates::read, &mut errors);
        let rules = each(&config.client_certificates, "client_certificates", client::read, &mut errors);
        if errors.is_empty() { Ok(Self { config: config.clone(), pairs, rules, stamps }) } else { Err(errors) }
    }

    /// Reads the same files again. What cannot be used stays as it was.
    pub(super) fn again(&self) -> Self {
        let Self { config, pairs, rules, .. } = self;
        let stamps = stamps(config);
        let pairs = config.certificates.iter().zip(pairs);
        let rules = config.client_certificates.iter().zip(rules);
        Self {
            config: config.clone(),
            pairs: pairs.map(|(files, before)| Part::or_before(certificates::read(files), before)).collect(),
            rules: rules.map(|(rule, before)| Part::or_before(client::read(rule), before)).collect(),
            stamps,
        }
    }

    /// Why parts of it are not what is on disk.
    pub(super) fn errors(&self) -> impl Iterator<Item = &str> {
        let pairs = self.pairs.iter().map(|pair| &pair.error);
        pairs.chain(self.rules.iter().map(|rule| &rule.error)).filter_map(Option::as_deref)
    }

    /// Whether handshakes go on as they went by `other`, whatever certificates are shown.
    pub(super) fn shakes_hands_as(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.config.client_certificates, &other.config.client_certificates);
        let contents = |one: &Self| one.rules.iter().map(|rule| Arc::clone(&rule.value.contents)).collect::<Vec<_>>();
        self.config.min_version == other.config.min_version
            && ours.iter().map(|rule| (&rule.hosts, rule.mode)).eq(theirs.iter().map(|rule| (&rule.hosts, rule.mode)))
            && contents(self) == contents(other)
    }

    /// What works, but not as somebody may think, at this time in seconds since 1970.
    pub fn warnings(&self, now: u64) -> Vec<String> {
        let pairs = self.config.certificates.iter().zip(&self.pairs);
        let dates = pairs.filter_map(|(files, pair)| {
            let (file, leaf) = (files.cert.display(), &pair.value.leaf);
            if leaf.condition(now) == Condition::Expired {
                return Some(format!("the certificate in `{file}` has expired"));
            }
            (leaf.not_before > now).then(|| format!("the certificate in `{file}` is not valid yet"))
        });
        let rules = self.config.client_certificates.iter().zip(&self.rules);
        let lists = rules.flat_map(|(files, rule)| rule.value.warnings(files, now));
        dates.chain(lists).collect()
    }

    /// How it stands with the certificates, with revocation lists, and with what is broken.
    pub(super) fn states(&self, now: u64) -> Vec<CertificateState> {
        let pairs = self.pairs.iter().map(|pair| {
            let leaf = &pair.value.leaf;
            CertificateState {
                names: leaf.names.clone(),
                source: Source::File,
                issuer: Some(leaf.issuer.clone()),
                not_after: Some(leaf.not_after),
                state: if pair.error.is_some() { Condition::Failed } else { leaf.condition(now) },
                error: pair.error.clone(),
                next_try: None,
            }
        });
        let rules = self.config.client_certificates.iter().zip(&self.rules);
        pairs.chain(rules.filter_map(|(files, rule)| rule.state(files, now))).collect()
    }

    /// What the files look like now.
    pub(super) fn stamps_now(&self) -> Vec<Stamp> {
        stamps(&self.config)
    }
}

impl Part<ClientRule> {
    /// A rule without revocation lists has nothing to say as long as it is not broken.
    fn state(&self, files: &listener::ClientCertificates, now: u64) -> Option<CertificateState> {
        let next = self.value.next_update;
        let state = match next {
            _ if self.error.is_some() => Condition::Failed,
            None => return None,
            Some(next) if next < now => Condition::Expired,
            Some(_) => Condition::Valid,
        };
        let hosts = files.hosts.iter().map(ToString::to_string);
        Some(CertificateState {
            names: if files.hosts.is_empty() { vec!["*".into()] } else { hosts.collect() },
            source: Source::Clients,
            issuer: None,
            not_after: next,
            state,
            error: self.error.clone(),
            next_try: None,
        })
    }
}

fn each<T, C>(
    configs: &[C],
    list: &'static str,
    read: impl Fn(&C) -> Result<T, PartError>,
    errors: &mut Vec<TlsError>,
) -> Vec<Part<T>> {
    let mut all = Vec::with_capacity(configs.len());
    for (i, config) in configs.iter().enumerate() {
        match read(config) {
            Ok(value) => all.push(Part { value, error: None }),
            Err((field, why)) => errors.push((steps![list, i, field].into(), why)),
        }
    }
    all
}

/// Tells a file from what it was before, without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Option<(SystemTime, u64, u64)>);

/// All files that a listener's `tls` names.
fn files(config: &listener::Tls) -> impl Iterator<Item = &PathBuf> {
    let pairs = config.certificates.iter().flat_map(|one| [&one.cert, &one.key].into_iter().chain(&one.ocsp));
    pairs.chain(config.client_certificates.iter().flat_map(|rule| std::iter::once(&rule.ca).chain(&rule.crl)))
}

fn stamps(config: &listener::Tls) -> Vec<Stamp> {
    files(config).map(|path| stamp(path)).collect()
}

fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::metadata(path).ok();
    Stamp(meta.and_then(|meta| Some((meta.modified().ok()?, meta.len(), meta.ino()))))
}

/// No file that TLS needs is as large; a device has no end.
const MAX_FILE: u64 = 64 << 20;

/// Reads a file.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let read = fs::metadata(path).and_then(|meta| {
        if meta.is_file() && meta.len() <= MAX_FILE {
            fs::read(path)
        } else {
            Err(std::io::Error::other("it is no file, or a very large one"))
        }
    });
    read.map_err(|error| format!("`{}` cannot be read: {error}", path.display()))
}

/// Everything of a kind in the text of a PEM file.
pub(super) fn all<T: rustls::pki_types::pem::PemObject>(path: &Path, text: &[u8]) -> Result<Vec<T>, String> {
    let found: Result<Vec<T>, _> = T::pem_slice_iter(text).collect();
    found.map_err(|error| format!("`{}` is not valid PEM: {error}", path.display()))
}
