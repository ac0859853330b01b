//! Keys that callers sign their requests with.

use aws_lc_rs::{
    hmac,
    signature::{
        ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA512, UnparsedPublicKey,
        VerificationAlgorithm,
    },
};
use x509_parser::{prelude::FromDer as _, x509::SubjectPublicKeyInfo};

use crate::config::consumer::{self, SigningAlgorithm};

/// A shorter secret can be guessed.
const MIN_SECRET: usize = 16;

/// What a signature is checked with, for one algorithm alone.
#[derive(Clone)]
pub struct SigningKey {
    algorithm: SigningAlgorithm,
    material: Material,
}

#[derive(Clone)]
enum Material {
    Secret(Box<[u8]>),
    Public(Box<[u8]>),
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Reads a key of the file.
    pub fn parse(config: &consumer::SigningKey) -> Result<Self, &'static str> {
        let material = match (config.algorithm, &config.secret, &config.public_key) {
            (SigningAlgorithm::HmacSha256, Some(secret), None) => {
                let secret = secret.expose().as_bytes();
                if secret.len() < MIN_SECRET {
                    return Err("a secret to sign with has at least 16 characters");
                }
                Material::Secret(secret.into())
            }
            (SigningAlgorithm::HmacSha256, _, _) => {
                return Err("a key for `hmac-sha256` has a `secret`, and nothing else");
            }
            (_, None, Some(key)) => Material::Public(public(key.expose())?),
            (_, _, _) => return Err("a key for this algorithm has a `public_key`, and nothing else"),
        };
        Ok(Self { algorithm: config.algorithm, material })
    }

    /// What the algorithm is called in a request ([RFC 9421, 6.2.2](https://www.rfc-editor.org/rfc/rfc9421#section-6.2.2)).
    pub fn algorithm(&self) -> &'static str {
        self.algorithm.name()
    }

    /// The shared secret, if it is one.
    pub fn secret(&self) -> Option<&[u8]> {
        match &self.material {
            Material::Secret(secret) => Some(secret),
            Material::Public(_) => None,
        }
    }

    /// Whether somebody who has the key signed this.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let public: &'static dyn VerificationAlgorithm = match self.algorithm {
            SigningAlgorithm::HmacSha256 => {
                let key = self.secret().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret));
                return key.is_some_and(|key| hmac::verify(&key, message, signature).is_ok());
            }
            SigningAlgorithm::Ed25519 => &ED25519,
            SigningAlgorithm::EcdsaP256Sha256 => &ECDSA_P256_SHA256_FIXED,
            SigningAlgorithm::RsaPssSha512 => &RSA_PSS_2048_8192_SHA512,
            SigningAlgorithm::RsaV15Sha256 => &RSA_PKCS1_2048_8192_SHA256,
        };
        match &self.material {
            Material::Public(key) => UnparsedPublicKey::new(public, key).verify(message, signature).is_ok(),
            Material::Secret(_) => false,
        }
    }
}

/// The key itself, out of its wrapping.
fn public(pem: &str) -> Result<Box<[u8]>, &'static str> {
    const WRONG: &str = "the public key is not PEM (a file is named by `${file:PATH}`)";
    if pem.contains("PRIVATE KEY") {
        return Err("this is a private key: signatures are checked with the public one");
    }
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_error| WRONG)?;
    let (_, info) = SubjectPublicKeyInfo::from_der(&pem.contents).map_err(|_error| WRONG)?;
    Ok(info.subject_public_key.data.as_ref().into())
}
