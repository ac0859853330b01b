//! A certificate with its key, as it is kept: the key and the chain in one PEM file.

use std::sync::Arc;

use instant_acme::CertificateIdentifier;
use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, Der, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use x509_parser::extensions::ParsedExtension;

use crate::digest::sha256;
use crate::tls::state::Leaf;

/// A certificate that can be shown.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) leaf: Leaf,
    /// Different for each certificate, and the same every time.
    pub(super) chance: u32,
}

impl Pair {
    /// Reads what is kept, or what was just issued. It has to be for all of these names.
    pub(super) fn parse(pem: &[u8], names: &[String]) -> Result<Self, String> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let chain = chain.map_err(|error| format!("the chain is not valid PEM: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| format!("the key is not valid PEM: {error}"))?;
        let first = chain.first().ok_or("there is no certificate")?;
        let leaf = Leaf::parse(first)?;
        if let Some(missing) = names.iter().find(|name| !leaf.names.contains(name)) {
            return Err(format!("the certificate is not for {missing}"));
        }
        let digest = sha256(first);
        let chance = digest.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let provider = CryptoProvider::get_default().ok_or("no crypto provider")?;
        let certified = CertifiedKey::from_der(chain, key, provider)
            .map_err(|error| format!("certificate and key do not fit together: {error}"))?;
        Ok(Self { certified: Arc::new(certified), leaf, chance })
    }

    /// What the authority calls it ([RFC 9773, 4.1](https://www.rfc-editor.org/rfc/rfc9773#section-4.1)); `None` if it
    /// does not say by which key it was issued.
    pub(super) fn identifier(&self) -> Option<CertificateIdentifier<'static>> {
        let (_, parsed) = x509_parser::parse_x509_certificate(self.certified.cert.first()?).ok()?;
        let key = parsed.iter_extensions().find_map(|extension| {
            let ParsedExtension::AuthorityKeyIdentifier(authority) = extension.parsed_extension() else { return None };
            authority.key_identifier.as_ref().map(|key| key.0)
        })?;
        Some(CertificateIdentifier::new(Der::from_slice(key), Der::from_slice(parsed.raw_serial())).into_owned())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, SerialNumber};

    use super::*;

    /// The file of a certificate for these names that is valid for so many days from now.
    pub(in crate::tls::acme) fn pem(names: &[&str]) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.serial_number = Some(SerialNumber::from_slice(&[0x00, 0x87, 0x65]));
        params.use_authority_key_identifier_extension = true;
        key.serialize_pem() + &params.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn key_and_chain_are_read_from_one_file() {
        pingora::tls::install_default_crypto_provider();
        let text = pem(&["a.test", "b.test"]);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let pair = Pair::parse(text.as_bytes(), &names(&["b.test", "a.test"])).unwrap();
        assert_eq!(pair.leaf.names, ["a.test", "b.test"]);
        assert!(pair.identifier().unwrap().to_string().ends_with(".AIdl"), "{:?}", pair.identifier());
        let wrong = |text: &str, all: &[&str]| Pair::parse(text.as_bytes(), &names(all)).unwrap_err();
        assert!(wrong(&text, &["c.test"]).contains("not for c.test"));
        assert!(wrong("", &[]).contains("key"));
        let (_, certificate) = text.split_at(text.find("-----BEGIN CERT").unwrap());
        assert!(wrong(certificate, &[]).contains("key"));
        let other = pem(&["a.test"]);
        let (other_key, _) = other.split_at(other.find("-----BEGIN CERT").unwrap());
        assert!(wrong(&format!("{other_key}{certificate}"), &[]).contains("do not fit together"));
    }
}
