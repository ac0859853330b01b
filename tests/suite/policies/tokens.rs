//! Makes tokens, good ones and bad ones.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{encoding::AsDer, rsa, signature::KeyPair as _};
use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, crypto::sign, jwk::Jwk};
use serde_json::{Value, json};

/// A secret that is long enough for HS256, HS384 and HS512.
pub(crate) const SECRET: &str = "a-secret-of-more-than-sixty-four-bytes-which-is-enough-for-every-hmac-here";

/// Something that signs, and what others need to check it.
pub(crate) struct Signer {
    algorithm: Algorithm,
    private: EncodingKey,
    /// In PEM, or the shared secret.
    pub(crate) public: String,
    /// The public key without its wrapping, of Ed25519.
    point: Vec<u8>,
}

impl Signer {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm.family() {
            AlgorithmFamily::Hmac => Self::shared(algorithm, SECRET),
            AlgorithmFamily::Ec if algorithm == Algorithm::ES256 => {
                Self::curve(algorithm, &rcgen::PKCS_ECDSA_P256_SHA256)
            }
            AlgorithmFamily::Ec => Self::curve(algorithm, &rcgen::PKCS_ECDSA_P384_SHA384),
            AlgorithmFamily::Ed => Self::curve(algorithm, &rcgen::PKCS_ED25519),
            AlgorithmFamily::Rsa => Self::rsa(algorithm),
        }
    }

    pub(crate) fn shared(algorithm: Algorithm, secret: &str) -> Self {
        let private = EncodingKey::from_secret(secret.as_bytes());
        Self { algorithm, private, public: secret.into(), point: Vec::new() }
    }

    fn curve(algorithm: Algorithm, kind: &'static rcgen::SignatureAlgorithm) -> Self {
        let pair = rcgen::KeyPair::generate_for(kind).unwrap();
        let pem = pair.serialize_pem();
        let is_ed = algorithm == Algorithm::EdDSA;
        let read = if is_ed { EncodingKey::from_ed_pem } else { EncodingKey::from_ec_pem };
        let private = read(pem.as_bytes());
        let point = pair.public_key_raw().to_vec();
        Self { algorithm, private: private.unwrap(), public: pair.public_key_pem(), point }
    }

    fn rsa(algorithm: Algorithm) -> Self {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let private = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
        let public = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
        Self {
            algorithm,
            private: EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes()).unwrap(),
            public: pem("PUBLIC KEY", public.as_ref()),
            point: Vec::new(),
        }
    }

    /// The same key used in another way.
    pub(crate) fn with(&self, algorithm: Algorithm) -> Self {
        Self { algorithm, private: self.private.clone(), public: self.public.clone(), point: Vec::new() }
    }

    /// An entry of `keys` in the file.
    pub(crate) fn entry(&self, id: &str) -> String {
        let kind = if self.public.starts_with("-----BEGIN") { "public_key" } else { "secret" };
        let text = serde_json::to_string(&self.public).unwrap();
        format!("{{ id: {id}, algorithm: {:?}, {kind}: {text} }}", self.algorithm)
    }

    /// An entry of a JSON Web Key Set.
    pub(crate) fn jwk(&self, id: &str) -> Value {
        if self.algorithm == Algorithm::EdDSA {
            return json!({ "kty": "OKP", "crv": "Ed25519", "kid": id, "x": base64(&self.point) });
        }
        let mut jwk = Jwk::from_encoding_key(&self.private, self.algorithm).unwrap();
        jwk.common.key_id = Some(id.into());
        serde_json::to_value(jwk).unwrap()
    }

    /// A token with this header and these claims, as they are written.
    pub(crate) fn raw(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64(header.as_bytes()), base64(claims.as_bytes()));
        let signature = sign(message.as_bytes(), &self.private, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }

    /// A token that names its key.
    pub(crate) fn token(&self, id: &str, claims: &Value) -> String {
        self.raw(&json!({ "alg": self.algorithm, "kid": id }).to_string(), &claims.to_string())
    }

    /// A token that is good for a while.
    pub(crate) fn good(&self, id: &str) -> String {
        self.token(id, &claims())
    }
}

/// Claims that are good for a minute.
pub(crate) fn claims() -> Value {
    json!({ "iss": "https://idp", "sub": "alice", "aud": "orders", "exp": now() + 60, "scope": "a orders.read" })
}

/// Those claims with others in their place; `null` takes one away.
pub(crate) fn claims_with(others: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in others.as_object().unwrap() {
        claims[name] = value.clone();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        }
    }
    claims
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// base64url without padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut word = [0; 4];
        word[1..=chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes(word);
        for i in 0..=chunk.len() {
            text.push(char::from(DIGITS[usize::try_from((word >> (18 - 6 * i)) & 63).unwrap()]));
        }
    }
    text
}

fn pem(tag: &str, der: &[u8]) -> String {
    let standard = base64(der).replace('-', "+").replace('_', "/");
    let padding = "=".repeat((4 - standard.len() % 4) % 4);
    format!("-----BEGIN {tag}-----\n{standard}{padding}\n-----END {tag}-----\n")
}
