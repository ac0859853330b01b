//! A key of the gateway's own, and what others need to check what it signs.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::EncodingKey;
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::identity::digest;

/// How the gateway signs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256
    #[default]
    ES256,
    /// Ed25519
    EdDSA,
}

/// What signs, with its public key.
pub(in crate::policy) struct Signer {
    header: jsonwebtoken::Header,
    key: EncodingKey,
    jwk: Value,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("jwk", &self.jwk).finish_non_exhaustive()
    }
}

impl Signer {
    /// Reads a private key in PEM (PKCS #8). Without an `id` it is called by its thumbprint.
    pub(super) fn new(algorithm: Algorithm, pem: &str, id: Option<&str>) -> Result<Self, &'static str> {
        const WRONG: &str =
            "the key is no private key in PEM (PKCS #8) for this algorithm: `openssl genpkey` makes one";
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_error| WRONG)?;
        let der = der.secret_pkcs8_der();
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (key, mut jwk, kind) = match algorithm {
            Algorithm::ES256 => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).map_err(|_error| WRONG)?;
                // An uncompressed point: 4, and two coordinates.
                let (x, y) =
                    pair.public_key().as_ref().get(1..65).and_then(|point| point.split_at_checked(32)).ok_or(WRONG)?;
                let jwk = json!({ "crv": "P-256", "kty": "EC", "x": encode(x), "y": encode(y) });
                (EncodingKey::from_ec_pem(pem.as_bytes()), jwk, jsonwebtoken::Algorithm::ES256)
            }
            Algorithm::EdDSA => {
                let pair = Ed25519KeyPair::from_pkcs8(der).map_err(|_error| WRONG)?;
                let jwk = json!({ "crv": "Ed25519", "kty": "OKP", "x": encode(pair.public_key().as_ref()) });
                (EncodingKey::from_ed_pem(pem.as_bytes()), jwk, jsonwebtoken::Algorithm::EdDSA)
            }
        };
        // RFC 7638: the required members in alphabetical order, as `serde_json` writes them.
        let id = id.map_or_else(|| encode(&digest(jwk.to_string().as_bytes())), ToOwned::to_owned);
        if let Some(jwk) = jwk.as_object_mut() {
            let more = [("kid", id.as_str()), ("alg", algorithm.name()), ("use", "sig")];
            jwk.extend(more.map(|(name, value)| (name.to_owned(), value.into())));
        }
        let header = jsonwebtoken::Header { kid: Some(id), ..jsonwebtoken::Header::new(kind) };
        Ok(Self { header, key: key.map_err(|_error| WRONG)?, jwk })
    }

    /// A token with these claims.
    pub(super) fn sign(&self, claims: &impl Serialize) -> Option<String> {
        jsonwebtoken::encode(&self.header, claims, &self.key).ok()
    }

    /// The public key as a JSON Web Key ([RFC 7517](https://www.rfc-editor.org/rfc/rfc7517)).
    pub(in crate::policy) fn jwk(&self) -> &Value {
        &self.jwk
    }
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::ES256 => "ES256",
            Self::EdDSA => "EdDSA",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_either_kind_signs_and_is_published() {
        for (algorithm, kind) in
            [(Algorithm::ES256, &rcgen::PKCS_ECDSA_P256_SHA256), (Algorithm::EdDSA, &rcgen::PKCS_ED25519)]
        {
            let pair = rcgen::KeyPair::generate_for(kind).unwrap();
            let signer = Signer::new(algorithm, &pair.serialize_pem(), None).unwrap();
            let token = signer.sign(&json!({ "sub": "a" })).unwrap();
            let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(signer.jwk().clone()).unwrap();
            let key = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
            let (message, signature) = token.rsplit_once('.').unwrap();
            let checked = jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, signer.header.alg);
            assert!(checked.unwrap(), "{algorithm:?}");
            assert!(!signer.jwk().to_string().contains("\"d\""));
            assert_eq!(signer.header.kid.as_ref().unwrap().len(), 43);
        }
    }

    #[test]
    fn what_is_no_key_of_that_kind_is_refused() {
        let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        for pem in ["", "nonsense", &ed.serialize_pem(), &ed.public_key_pem()] {
            assert!(Signer::new(Algorithm::ES256, pem, None).is_err());
        }
    }
}
