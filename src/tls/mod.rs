//! Certificates of listeners, chosen by the name that the client asks for (SNI).
//!
//! - A certificate serves the DNS names that it carries, `*.example.com` for one label below `example.com`.
//! - Exact before wildcard; the first certificate of the listener where no name fits, or none is sent.
//! - TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN.
//! - A reload reads the files again; connections keep what they were opened with.

pub mod state;

use std::{collections::HashMap, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use pingora::{
    listeners::tls::TlsSettings,
    tls::{CertificateDer, ClientHello, CryptoProvider, ResolvesServerCert, sign::CertifiedKey},
};

use crate::config::listener;

/// The certificates of one listener, by name.
#[derive(Debug)]
pub struct Certificates {
    by_name: HashMap<Box<str>, Arc<CertifiedKey>>,
    default: Arc<CertifiedKey>,
}

/// Which certificate cannot be used, by its position, and why.
pub type CertificateError = (usize, String);

impl Certificates {
    /// Reads the files of a listener.
    pub fn load(config: &listener::Tls) -> Result<Self, CertificateError> {
        pingora::tls::install_default_crypto_provider();
        let mut by_name = HashMap::new();
        let mut default = None;
        for (i, files) in config.certificates.iter().enumerate() {
            let (key, names) = read(&files.cert, &files.key).map_err(|message| (i, message))?;
            for name in names {
                // Of two certificates for one name, the first is used.
                by_name.entry(name).or_insert_with(|| Arc::clone(&key));
            }
            default.get_or_insert(key);
        }
        let default = default.ok_or_else(|| (0, "at least one certificate is needed".to_owned()))?;
        Ok(Self { by_name, default })
    }

    fn find(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let by_name = name.and_then(|name| {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let exact = self.by_name.get(name.as_str());
            exact.or_else(|| {
                let (_, parent) = name.split_once('.')?;
                self.by_name.get(format!("*.{parent}").as_str())
            })
        });
        Arc::clone(by_name.unwrap_or(&self.default))
    }
}

/// A certificate with its key, and the DNS names that it carries.
fn read(cert: &Path, key: &Path) -> Result<(Arc<CertifiedKey>, Vec<Box<str>>), String> {
    let text = |path: &Path| path.to_str().map(ToOwned::to_owned).ok_or("a path is not UTF-8");
    for path in [cert, key] {
        std::fs::metadata(path).map_err(|error| format!("`{}` cannot be read: {error}", path.display()))?;
    }
    let loaded = pingora::tls::load_certs_and_key_files(&text(cert)?, &text(key)?);
    let pair = loaded.map_err(|error| format!("`{}` is not valid PEM: {}", cert.display(), error.etype().as_str()))?;
    let (chain, key_der) = pair
        .ok_or_else(|| format!("no certificate in `{}`, or no private key in `{}`", cert.display(), key.display()))?;
    let names = dns_names(chain.first())?;
    let provider = CryptoProvider::get_default().ok_or("no crypto provider")?;
    let certified = CertifiedKey::from_der(chain, key_der, provider)
        .map_err(|error| format!("`{}` and `{}` do not fit together: {error}", cert.display(), key.display()))?;
    Ok((Arc::new(certified), names))
}

fn dns_names(leaf: Option<&CertificateDer<'_>>) -> Result<Vec<Box<str>>, String> {
    let leaf = leaf.ok_or("the certificate file is empty")?;
    let parsed =
        webpki::EndEntityCert::try_from(leaf).map_err(|error| format!("the certificate is not valid: {error}"))?;
    Ok(parsed.valid_dns_names().map(|name| name.to_ascii_lowercase().into()).collect())
}

/// Chooses a certificate for each handshake; its certificates can be swapped.
#[derive(Debug)]
pub struct Resolver(ArcSwap<Certificates>);

impl Resolver {
    /// Chooses from these certificates.
    pub fn new(certificates: Certificates) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(certificates)))
    }

    /// Chooses from these from now on.
    pub fn swap(&self, certificates: Certificates) {
        self.0.store(Arc::new(certificates));
    }

    /// What Pingora needs to terminate TLS with these certificates.
    pub fn settings(self: &Arc<Self>) -> pingora::Result<TlsSettings> {
        let mut settings = TlsSettings::intermediate("", "")?;
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Self>::clone(self);
        settings.set_cert_resolver(resolver);
        settings.enable_h2();
        Ok(settings)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().find(hello.server_name()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn certificate(folder: &Path, names: &[&str]) -> listener::Certificate {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
        let file = |ending: &str| folder.join(format!("{}.{ending}", names[0].replace('*', "star")));
        std::fs::write(file("crt"), made.cert.pem()).unwrap();
        std::fs::write(file("key"), made.signing_key.serialize_pem()).unwrap();
        listener::Certificate { cert: file("crt"), key: file("key") }
    }

    #[test]
    fn a_certificate_is_chosen_by_name_exact_before_wildcard_before_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let all = [&["default.test"][..], &["*.example.test"], &["api.example.test"]];
        let certificates = all.iter().map(|names| certificate(folder.path(), names)).collect();
        let loaded = Certificates::load(&listener::Tls { certificates }).unwrap();
        let chosen = |name: Option<&str>| {
            let leaf = loaded.find(name).cert[0].clone();
            dns_names(Some(&leaf)).unwrap()[0].to_string()
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
        let mixed = listener::Certificate { key: other.key, cert: one.cert.clone() };
        let load = |certificates| Certificates::load(&listener::Tls { certificates }).unwrap_err();
        let (index, message) = load(vec![one.clone(), mixed]);
        assert!(index == 1 && message.contains("do not fit together"), "{message}");
        let missing = listener::Certificate { cert: PathBuf::from("/nowhere.crt"), key: one.key };
        assert!(load(vec![missing]).1.contains("/nowhere.crt"));
    }
}
