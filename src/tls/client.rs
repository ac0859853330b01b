//! Certificates of clients: who has to show one, and what it says.
//!
//! - A certificate is verified by the authorities of the rule for the name that the client asks for: signature chain, validity, usage
//!   (`clientAuth`), name constraints, revocation lists.
//! - With `mode: required` there is no connection without one; with `optional` a client may come without, and the
//!   `client_certificate` policy says on which routes it may not. A certificate that is shown and not valid is refused in both.
//! - Where revocation lists are given, there has to be one for each authority of the chain. One that is out of date still counts: it is
//!   warned about, because to refuse everybody would be worse.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, CertificateRevocationListDer},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::names::Names;
use crate::{
    config::listener::{ClientCertificates, ClientMode},
    identity,
};

/// Which rule holds for a name: its position in the file.
pub type Rules = Names<usize>;

/// The rules of a listener by name.
pub(super) fn rules(configs: &[ClientCertificates]) -> Rules {
    let mut rules = Rules::default();
    for (i, config) in configs.iter().enumerate() {
        if config.hosts.is_empty() {
            rules.add(None, i);
        }
        for host in &config.hosts {
            rules.add(Some(host), i);
        }
    }
    rules
}

/// What verifies certificates by a rule. An error names the file.
pub(super) fn verifier(config: &ClientCertificates) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for authority in all::<CertificateDer<'static>>(&config.ca)? {
        roots.add(authority).map_err(|error| format!("`{}` is not usable: {error}", config.ca.display()))?;
    }
    if roots.is_empty() {
        return Err(format!("no certificate in `{}`", config.ca.display()));
    }
    let mut lists = Vec::new();
    for path in &config.crl {
        let found = all::<CertificateRevocationListDer<'static>>(path)?;
        if found.is_empty() {
            return Err(format!("no revocation list in `{}`", path.display()));
        }
        lists.extend(found);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).with_crls(lists);
    if config.mode == ClientMode::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| format!("`{}` or a revocation list is not usable: {error}", config.ca.display()))
}

/// Everything of a kind in a PEM file.
fn all<T: rustls::pki_types::pem::PemObject>(path: &Path) -> Result<Vec<T>, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("`{}` cannot be read: {error}", path.display()))?;
    let found: Result<Vec<T>, _> = T::pem_slice_iter(&bytes).collect();
    found.map_err(|error| format!("`{}` is not valid PEM: {error}", path.display()))
}

/// Warnings about what still works, but not for long: revocation lists that are out of date.
pub(super) fn warnings(config: &ClientCertificates, now: u64) -> Vec<String> {
    let mut found = Vec::new();
    for path in &config.crl {
        for list in all::<CertificateRevocationListDer<'static>>(path).unwrap_or_default() {
            let parsed = x509_parser::revocation_list::CertificateRevocationList::from_der(&list);
            let next = parsed.ok().and_then(|(_, list)| u64::try_from(list.next_update()?.timestamp()).ok());
            if next.is_some_and(|next| next < now) {
                found.push(format!("the revocation list `{}` is out of date", path.display()));
            }
        }
    }
    found
}

/// What a verified certificate of a client says.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject, as text: `CN=billing, O=Example`.
    pub subject: Box<str>,
    /// The authority that issued it, as text.
    pub issuer: Box<str>,
    /// By what consumers may list it, the most specific first: `sha256:...`, `uri:...`, `dns:...`, `email:...`, `subject:...`, `cn:...`.
    pub names: Box<[Box<str>]>,
}

impl ClientCertificate {
    /// Reads a certificate that was verified; `None` if it is none.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let mut names = vec![format!("sha256:{}", hex(&identity::digest(der)))];
        if let Ok(Some(alternative)) = parsed.subject_alternative_name() {
            names.extend(alternative.value.general_names.iter().filter_map(alternative_name));
        }
        // A name with a control character would be read by others as another one.
        let subject = parsed.subject().to_string();
        names.push(format!("subject:{subject}"));
        let common = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.map(|name| format!("cn:{name}")));
        names.retain(|name| !name.chars().any(char::is_control));
        Some(Self {
            subject: subject.into(),
            issuer: parsed.issuer().to_string().into(),
            names: names.into_iter().map(Into::into).collect(),
        })
    }
}

fn alternative_name(name: &GeneralName<'_>) -> Option<String> {
    Some(match name {
        GeneralName::DNSName(name) => format!("dns:{}", name.to_ascii_lowercase()),
        GeneralName::URI(uri) => format!("uri:{uri}"),
        GeneralName::RFC822Name(address) => format!("email:{address}"),
        GeneralName::OtherName(..)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::IPAddress(_)
        | GeneralName::RegisteredID(_) => return None,
    })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let written = write!(text, "{byte:02x}");
        debug_assert!(written.is_ok(), "a text takes everything");
        text
    })
}
