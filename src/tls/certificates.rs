//! Certificates of a listener, chosen by the name that the client asks for (SNI).
//!
//! - A certificate serves the DNS names that it carries, `*.example.com` for one label below `example.com`.
//! - Exact before wildcard; the first certificate of the listener where no name fits, or none is sent.
//! - What an authority issues ([`acme`]) before what is listed, as soon as it is there.

use std::{collections::HashMap, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use pingora::tls::{ClientHello, CryptoProvider, ResolvesServerCert, sign::CertifiedKey};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use super::{
    acme,
    files::{Pair, Part, PartError, all, bytes},
    state::Leaf,
};
use crate::config::listener;

/// The certificates of one listener, by name.
#[derive(Debug)]
pub struct Certificates {
    by_name: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// None if all certificates of the listener are issued by an authority.
    default: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Those of a listener, in the order of the file. Of two for one name, the first is used.
    pub(super) fn new(pairs: &[Part<Pair>]) -> Self {
        let mut by_name = HashMap::new();
        for pair in pairs.iter().map(|pair| &pair.value) {
            for name in &pair.leaf.names {
                by_name.entry(name.as_str().into()).or_insert_with(|| Arc::clone(&pair.key));
            }
        }
        Self { by_name, default: pairs.first().map(|pair| Arc::clone(&pair.value.key)) }
    }

    /// The certificate for a name in lower case.
    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let found = self.by_name.get(name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(format!("*.{parent}").as_str())
        });
        found.cloned()
    }
}

/// Reads a certificate with its key.
pub(super) fn read(files: &listener::Certificate) -> Result<Pair, PartError> {
    pingora::tls::install_default_crypto_provider();
    let listener::Certificate { cert, key, ocsp } = files;
    let (chain, private) = (chain(cert).map_err(|why| ("cert", why))?, private(key).map_err(|why| ("key", why))?);
    let first = chain.first().ok_or_else(|| ("cert", format!("no certificate in `{}`", cert.display())))?;
    let leaf = Leaf::parse(first).map_err(|why| ("cert", format!("`{}`: {why}", cert.display())))?;
    let provider = CryptoProvider::get_default().ok_or_else(|| ("cert", "no crypto provider".to_owned()))?;
    let mut certified = CertifiedKey::from_der(chain, private, provider).map_err(|error| {
        let other = matches!(error, rustls::Error::InconsistentKeys(_));
        let why = if other { "the key is not the one of the certificate".to_owned() } else { error.to_string() };
        ("key", format!("`{}` and `{}` do not fit together: {why}", cert.display(), key.display()))
    })?;
    certified.ocsp = ocsp.as_deref().map(staple).transpose().map_err(|why| ("ocsp", why))?;
    Ok(Pair { key: Arc::new(certified), leaf: Arc::new(leaf) })
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = bytes(path)?;
    let chain = all(path, &text)?;
    if !chain.is_empty() {
        return Ok(chain);
    }
    let hint =
        if PrivateKeyDer::from_pem_slice(&text).is_ok() { ", but a private key: this belongs to `key`" } else { "" };
    Err(format!("no certificate in `{}`{hint}", path.display()))
}

fn private(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = bytes(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let none = matches!(error, rustls::pki_types::pem::Error::NoItemsFound);
        let path = path.display();
        if none { format!("no private key in `{path}`") } else { format!("`{path}` is not valid PEM: {error}") }
    })
}

/// An OCSP response to send along with a certificate. Whether it is the right one is for clients to decide; what is none at all
/// would make them refuse the certificate.
fn staple(path: &Path) -> Result<Vec<u8>, String> {
    let der = bytes(path)?;
    // OCSPResponse ::= SEQUENCE { responseStatus ENUMERATED { successful(0) }, .. } (RFC 6960, 4.2.1)
    let successful = x509_parser::der_parser::parse_der(&der).ok().is_some_and(|(rest, response)| {
        let status = response
            .as_sequence()
            .ok()
            .and_then(|fields| fields.first().map(x509_parser::der_parser::ber::BerObject::as_u32));
        rest.is_empty() && status.is_some_and(|status| status == Ok(0))
    });
    if !successful {
        return Err(format!("`{}` is no OCSP response in DER that says `successful`", path.display()));
    }
    Ok(der)
}

/// Chooses a certificate for each handshake; its certificates can be swapped.
#[derive(Debug)]
pub struct Resolver {
    files: ArcSwap<Certificates>,
    acme: ArcSwap<acme::Names>,
}

impl Resolver {
    /// Chooses from these certificates.
    pub fn new(certificates: Certificates) -> Arc<Self> {
        Arc::new(Self { files: ArcSwap::from_pointee(certificates), acme: ArcSwap::default() })
    }

    /// Chooses from these from now on.
    pub fn swap(&self, certificates: Certificates) {
        self.files.store(Arc::new(certificates));
    }

    /// Chooses from what an authority issues as well.
    pub fn issue(&self, acme: acme::Names) {
        self.acme.store(Arc::new(acme));
    }

    /// What an authority issues.
    pub fn acme(&self) -> Arc<acme::Names> {
        self.acme.load_full()
    }

    fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let (files, acme) = (self.files.load(), self.acme.load());
        let by_name = name.and_then(|name| {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            acme.issued(&name).or_else(|| files.find(&name)).or_else(|| acme.placeholder(&name))
        });
        by_name.or_else(|| files.default.clone()).or_else(|| acme.first())
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn load(files: &[listener::Certificate]) -> Result<Certificates, PartError> {
        let pairs: Result<Vec<_>, _> =
            files.iter().map(|files| read(files).map(|value| Part { value, error: None })).collect();
        pairs.map(|pairs| Certificates::new(&pairs))
    }

    fn certificate(folder: &Path, names: &[&str]) -> listener::Certificate {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
        let file = |ending: &str| folder.join(format!("{}.{ending}", names[0].replace('*', "star")));
        std::fs::write(file("crt"), made.cert.pem()).unwrap();
        std::fs::write(file("key"), made.signing_key.serialize_pem()).unwrap();
        listener::Certificate { cert: file("crt"), key: file("key"), ocsp: None }
    }

    #[test]
    fn a_certificate_is_chosen_by_name_exact_before_wildcard_before_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let all = [&["default.test"][..], &["*.example.test"], &["api.example.test"]];
        let files: Vec<_> = all.iter().map(|names| certificate(folder.path(), names)).collect();
        let loaded = Resolver::new(load(&files).unwrap());
        let chosen = |name: Option<&str>| {
            let leaf = loaded.find(name).unwrap().cert[0].clone();
            Leaf::parse(&leaf).unwrap().names[0].clone()
        };
        assert_eq!(chosen(Some("api.example.test")), "api.example.test");
        assert_eq!(chosen(Some("API.example.test.")), "api.example.test");
        assert_eq!(chosen(Some("www.example.test")), "*.example.test");
        for name in [Some("a.b.example.test"), Some("example.test"), Some("other"), None] {
            assert_eq!(chosen(name), "default.test", "{name:?}");
        }
    }

    #[test]
    fn a_certificate_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (certificate(folder.path(), &["a.test"]), certificate(folder.path(), &["b.test"]));
        let mixed = listener::Certificate { key: other.key, ..one.clone() };
        let (field, message) = read(&mixed).unwrap_err();
        assert!(field == "key" && message.contains("the key is not the one of the certificate"), "{message}");
        let swapped = listener::Certificate { cert: one.key.clone(), key: one.cert.clone(), ocsp: None };
        let (field, message) = read(&swapped).unwrap_err();
        assert!(field == "cert" && message.contains("this belongs to `key`"), "{message}");
        let no_key = listener::Certificate { key: one.cert.clone(), ..one.clone() };
        assert!(read(&no_key).unwrap_err().1.starts_with("no private key in `"));
        let missing = listener::Certificate { cert: PathBuf::from("/nowhere.crt"), ..one };
        assert!(read(&missing).unwrap_err().1.contains("/nowhere.crt"));
    }

    #[test]
    fn what_is_no_ocsp_response_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let one = certificate(folder.path(), &["a.test"]);
        let path = folder.path().join("a.ocsp");
        let load = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let with = listener::Certificate { ocsp: Some(path.clone()), ..one.clone() };
            read(&with).map(|pair| pair.key.ocsp.clone())
        };
        assert_eq!(load(&[0x30, 3, 0x0a, 1, 0]).unwrap().as_deref(), Some(&[0x30, 3, 0x0a, 1, 0][..]));
        for bytes in [&b""[..], b"text", &[0x30, 3, 0x0a, 1, 6], &[0x30, 3, 0x0a, 1, 0, 0], &[0x30, 80, 0x0a, 1, 0]] {
            assert!(load(bytes).unwrap_err().1.contains("no OCSP response"), "{bytes:?}");
        }
    }
}
