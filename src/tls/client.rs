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
    server::WebPkiClientVerifier,
};
use x509_parser::{
    prelude::{FromDer as _, GeneralName, X509Certificate},
    revocation_list::CertificateRevocationList,
};

use super::{
    files::{ClientRule, PartError, all, bytes},
    names::Names,
};
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

/// Reads what a rule needs.
pub(super) fn read(config: &ClientCertificates) -> Result<ClientRule, PartError> {
    let text = bytes(&config.ca).map_err(|why| ("ca", why))?;
    let (roots, subjects) = authorities(&config.ca, &text).map_err(|why| ("ca", why))?;
    let mut contents = vec![text];
    let (mut lists, mut next_update, mut strangers) = (Vec::new(), None::<u64>, Vec::new());
    for path in &config.crl {
        let text = bytes(path).map_err(|why| ("crl", why))?;
        let found = all::<CertificateRevocationListDer<'static>>(path, &text).map_err(|why| ("crl", why))?;
        if found.is_empty() {
            return Err(("crl", format!("no revocation list in `{}`", path.display())));
        }
        let parsed = found.iter().filter_map(|list| CertificateRevocationList::from_der(list).ok());
        let mut known = false;
        for (_, list) in parsed {
            let next = list.next_update().and_then(|next| u64::try_from(next.timestamp()).ok());
            next_update = next_update.into_iter().chain(next).min();
            known |= subjects.iter().any(|subject| subject == list.issuer().as_raw());
        }
        if !known {
            strangers.push(path.clone());
        }
        lists.extend(found);
        contents.push(text);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).with_crls(lists);
    if config.mode == ClientMode::Optional {
        builder = builder.allow_unauthenticated();
    }
    let verifier = builder
        .build()
        .map_err(|error| ("ca", format!("`{}` or a revocation list is not usable: {error}", config.ca.display())))?;
    Ok(ClientRule { verifier, contents: contents.into(), next_update, strangers })
}

/// The authorities in a file, and their names in DER.
fn authorities(path: &Path, text: &[u8]) -> Result<(RootCertStore, Vec<Vec<u8>>), String> {
    let (mut roots, mut subjects) = (RootCertStore::empty(), Vec::new());
    for authority in all::<CertificateDer<'static>>(path, text)? {
        let parsed = X509Certificate::from_der(&authority).ok();
        subjects.extend(parsed.map(|(_, authority)| authority.subject().as_raw().to_vec()));
        roots.add(authority).map_err(|error| format!("`{}` is not usable: {error}", path.display()))?;
    }
    if roots.is_empty() {
        return Err(format!("no certificate in `{}`", path.display()));
    }
    Ok((roots, subjects))
}

impl ClientRule {
    /// Warnings about what still works, but not for long, or for nobody.
    pub(super) fn warnings(&self, files: &ClientCertificates, now: u64) -> Vec<String> {
        let mut found = Vec::new();
        if self.next_update.is_some_and(|next| next < now) {
            let names: Vec<_> = files.crl.iter().map(|path| format!("`{}`", path.display())).collect();
            found.push(format!("the revocation list {} is out of date", names.join(" or ")));
        }
        let strangers = self.strangers.iter().map(|path| {
            let (list, ca) = (path.display(), files.ca.display());
            format!("the revocation list `{list}` is of no authority in `{ca}`, whose certificates may all be refused")
        });
        found.extend(strangers);
        found
    }
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
        let mut names = vec![format!("sha256:{}", hex::encode(identity::digest(der)))];
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
