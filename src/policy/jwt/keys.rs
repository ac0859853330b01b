//! Keys: each with the one algorithm that it is for.

use std::fmt;

use aws_lc_rs::rsa;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, crypto};
use serde::Deserialize;

use super::config;
use crate::identity;

/// More keys than this are not loaded.
const MAX_KEYS: usize = 100;

/// How many keys are tried for a token that names none.
const MAX_TRIED: usize = 8;

/// A set of keys.
#[derive(Debug, Default)]
pub(in crate::policy) struct KeySet {
    keys: Box<[Key]>,
    /// Another set has another fingerprint, the same set always the same one.
    pub(in crate::policy) fingerprint: u64,
}

struct Key {
    id: Option<Box<str>>,
    algorithm: Algorithm,
    material: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// What the keys say about a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signature {
    Valid,
    Invalid,
    /// There is no key that the token could be meant for.
    UnknownKey,
}

impl KeySet {
    /// Keys that stand in the configuration.
    pub(super) fn from_config(keys: &[config::Key]) -> Result<Self, String> {
        let mut material = Vec::new();
        let mut loaded = Vec::with_capacity(keys.len());
        for key in keys {
            let text = key.secret.as_ref().or(key.public_key.as_ref());
            let bytes = text.map_or(&b""[..], |text| text.expose().as_bytes());
            material.extend_from_slice(format!("{:?}{:?}", key.id, key.algorithm).as_bytes());
            material.extend_from_slice(bytes);
            let algorithm = to_crate(key.algorithm);
            loaded.push(Key {
                id: key.id.as_deref().map(Into::into),
                algorithm,
                material: from_text(algorithm, bytes).map_err(|why| match &key.id {
                    Some(id) => format!("key `{id}`: {why}"),
                    None => why.to_owned(),
                })?,
            });
        }
        Ok(Self { keys: loaded.into(), fingerprint: fingerprint(&material) })
    }

    /// A JSON Web Key Set ([RFC 7517](https://www.rfc-editor.org/rfc/rfc7517#section-5)). Keys that cannot be used are
    /// left out: those for encryption, weak ones, and kinds that are not known. Shared secrets are taken only from a
    /// file, because a set that everyone can fetch contains none.
    pub(in crate::policy) fn from_jwks(json: &[u8], secrets: bool) -> Result<Self, &'static str> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(json).map_err(|_error| "it is not a JSON Web Key Set")?;
        let keys = set.keys.into_iter().take(MAX_KEYS);
        let keys: Box<[Key]> = keys.filter_map(|key| serde_json::from_value::<Jwk>(key).ok()?.load(secrets)).collect();
        if keys.is_empty() {
            return Err("the set has no key that can be used for signatures");
        }
        Ok(Self { keys, fingerprint: fingerprint(json) })
    }

    /// Whether there is any key.
    pub(in crate::policy) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Checks a signature with the keys that the token may mean: those with its id, or else those without one. The
    /// algorithm of the token only chooses among keys, never how a key is used.
    pub(super) fn verify(&self, id: Option<&str>, algorithm: Algorithm, message: &[u8], signature: &str) -> Signature {
        let named = |key: &&Key| id.is_some() && key.id.as_deref() == id;
        let known = self.keys.iter().any(|key| named(&key));
        let meant = self.keys.iter().filter(|key| match id {
            Some(_) if known => named(key),
            Some(_) => key.id.is_none(),
            None => true,
        });
        let mut verdict = if known { Signature::Invalid } else { Signature::UnknownKey };
        for key in meant.filter(|key| key.algorithm == algorithm).take(MAX_TRIED) {
            verdict = Signature::Invalid;
            if matches!(crypto::verify(signature, message, &key.material, key.algorithm), Ok(true)) {
                return Signature::Valid;
            }
        }
        verdict
    }
}

/// The members of a JSON Web Key that matter here.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

impl Jwk {
    fn load(&self, secrets: bool) -> Option<Key> {
        let for_signatures = self.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !for_signatures {
            return None;
        }
        let algorithm = self.algorithm()?;
        let material = match self.kty.as_str() {
            "RSA" => strong_rsa(DecodingKey::from_rsa_components(self.n.as_deref()?, self.e.as_deref()?).ok()?)?,
            "EC" => DecodingKey::from_ec_components(self.x.as_deref()?, self.y.as_deref()?).ok()?,
            "OKP" => DecodingKey::from_ed_components(self.x.as_deref()?).ok()?,
            "oct" if secrets => long_secret(self.k.as_deref()?, algorithm)?,
            _ => return None,
        };
        Some(Key { id: self.kid.as_deref().map(Into::into), algorithm, material })
    }

    /// The algorithm that the key says, if it fits the key; or else the usual one for its kind.
    fn algorithm(&self) -> Option<Algorithm> {
        use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512};
        let fitting: &[Algorithm] = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => &[RS256, RS384, RS512, PS256, PS384, PS512],
            ("EC", Some("P-256")) => &[ES256],
            ("EC", Some("P-384")) => &[ES384],
            ("OKP", Some("Ed25519")) => &[EdDSA],
            ("oct", _) => &[HS256, HS384, HS512],
            _ => return None,
        };
        match self.alg.as_deref() {
            None => fitting.first().copied(),
            // RFC 9864 gives the same thing its full name.
            Some("Ed25519") if fitting == [EdDSA] => Some(EdDSA),
            Some(name) => {
                let named: Algorithm = name.parse().ok()?;
                fitting.contains(&named).then_some(named)
            }
        }
    }
}

/// A key of fewer than 2,048 bits can be broken.
fn strong_rsa(key: DecodingKey) -> Option<DecodingKey> {
    let size = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.iter().skip_while(|byte| **byte == 0).count(),
        DecodingKeyKind::SecretOrDer(der) => rsa::PublicKey::from_der(der).ok()?.modulus_len(),
    };
    (size >= 256).then_some(key)
}

fn long_secret(base64: &str, algorithm: Algorithm) -> Option<DecodingKey> {
    // The crate reads base64url only as part of a key, so this asks it for the x of one.
    let key = DecodingKey::from_ed_components(base64).ok()?;
    let secret = key.try_get_as_bytes().ok()?;
    (secret.len() >= secret_size(algorithm)).then(|| DecodingKey::from_secret(secret))
}

fn secret_size(algorithm: Algorithm) -> usize {
    if algorithm == Algorithm::HS256 {
        32
    } else if algorithm == Algorithm::HS384 {
        48
    } else {
        64
    }
}

fn from_text(algorithm: Algorithm, bytes: &[u8]) -> Result<DecodingKey, &'static str> {
    if bytes.windows(11).any(|window| window == b"PRIVATE KEY") {
        return Err("this is a private key: tokens are checked with the public one");
    }
    let pem =
        "the public key is not PEM, or not of the kind that the algorithm needs (a file is named by `${file:PATH}`)";
    match algorithm.family() {
        AlgorithmFamily::Hmac => Ok(DecodingKey::from_secret(bytes)),
        AlgorithmFamily::Ec => {
            let key = DecodingKey::from_ec_pem(bytes).map_err(|_error| pem)?;
            // An uncompressed point: 1 byte and two coordinates.
            let size = if algorithm == Algorithm::ES256 { 65 } else { 97 };
            let fits = key.try_get_as_bytes().is_ok_and(|point| point.len() == size);
            fits.then_some(key).ok_or("the public key is on another curve")
        }
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem(bytes).map_err(|_error| pem),
        AlgorithmFamily::Rsa => {
            let key = DecodingKey::from_rsa_pem(bytes).map_err(|_error| pem)?;
            strong_rsa(key).ok_or("the public key is no RSA key of at least 2,048 bits")
        }
    }
}

pub(in crate::policy) fn to_crate(algorithm: config::Algorithm) -> Algorithm {
    match algorithm {
        config::Algorithm::HS256 => Algorithm::HS256,
        config::Algorithm::HS384 => Algorithm::HS384,
        config::Algorithm::HS512 => Algorithm::HS512,
        config::Algorithm::RS256 => Algorithm::RS256,
        config::Algorithm::RS384 => Algorithm::RS384,
        config::Algorithm::RS512 => Algorithm::RS512,
        config::Algorithm::PS256 => Algorithm::PS256,
        config::Algorithm::PS384 => Algorithm::PS384,
        config::Algorithm::PS512 => Algorithm::PS512,
        config::Algorithm::ES256 => Algorithm::ES256,
        config::Algorithm::ES384 => Algorithm::ES384,
        config::Algorithm::EdDSA => Algorithm::EdDSA,
    }
}

/// The first 64 bits of the SHA-256 digest.
pub(in crate::policy) fn fingerprint(bytes: &[u8]) -> u64 {
    identity::digest(bytes).first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}
