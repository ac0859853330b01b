//! Tokens as honest issuers make them, and as attackers do (`D1` to `D5` of the security cases).

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    rsa,
    signature::{self, KeyPair as _},
};
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use serde_json::{Value, json};

use super::*;
use crate::policy::jwt::config;

const NOW: u64 = 1_800_000_000;
const SECRET: &str = "a secret of more than sixty-four bytes, which is enough for every HMAC here";

/// base64url without padding, for what no crate here encodes.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut word = [0; 4];
        word[1..=chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes(word);
        for i in 0..=chunk.len() {
            let digit = (word >> (18 - 6 * i)) & 63;
            text.push(char::from(DIGITS[usize::try_from(digit).unwrap()]));
        }
    }
    text
}

fn pem(tag: &str, der: &[u8]) -> String {
    let standard = base64(der).replace('-', "+").replace('_', "/");
    let padding = "=".repeat((4 - standard.len() % 4) % 4);
    format!("-----BEGIN {tag}-----\n{standard}{padding}\n-----END {tag}-----\n")
}

/// A key pair: what signs, and what stands in the configuration.
struct Pair {
    private: EncodingKey,
    public: String,
    algorithm: Algorithm,
}

impl Pair {
    fn rsa(algorithm: Algorithm) -> Self {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let private = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
        let public = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key());
        Self {
            private: EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes()).unwrap(),
            public: pem("PUBLIC KEY", public.unwrap().as_ref()),
            algorithm,
        }
    }

    fn ec(algorithm: Algorithm) -> Self {
        let kind =
            if algorithm == Algorithm::ES256 { &rcgen::PKCS_ECDSA_P256_SHA256 } else { &rcgen::PKCS_ECDSA_P384_SHA384 };
        let pair = rcgen::KeyPair::generate_for(kind).unwrap();
        Self { private: EncodingKey::from_ec_der(&pair.serialize_der()), public: pair.public_key_pem(), algorithm }
    }

    fn ed() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        Self {
            private: EncodingKey::from_ed_der(&pair.serialize_der()),
            public: pair.public_key_pem(),
            algorithm: Algorithm::EdDSA,
        }
    }

    fn hmac(algorithm: Algorithm) -> Self {
        Self { private: EncodingKey::from_secret(SECRET.as_bytes()), public: SECRET.into(), algorithm }
    }

    fn key(&self, id: Option<&str>) -> config::Key {
        let secret = self.algorithm.family() == jsonwebtoken::AlgorithmFamily::Hmac;
        let text = Some(self.public.as_str().into());
        config::Key {
            id: id.map(Into::into),
            algorithm: serde_json::from_value(json!(self.algorithm)).unwrap(),
            public_key: text.clone().filter(|_| !secret),
            secret: text.filter(|_| secret),
        }
    }

    fn keys(&self) -> KeySet {
        KeySet::from_config(&[self.key(Some("k"))]).unwrap()
    }

    /// A token with this header and these claims, as text.
    fn raw(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64(header.as_bytes()), base64(claims.as_bytes()));
        let signature = sign(message.as_bytes(), &self.private, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }

    fn token(&self, claims: &Value) -> String {
        let header = json!({ "alg": self.algorithm, "kid": "k" });
        self.raw(&header.to_string(), &claims.to_string())
    }
}

fn rules() -> Rules {
    Rules {
        issuer: Some("https://idp".into()),
        audience: ["orders".to_owned(), "api".to_owned()].into(),
        scopes: ["orders.read".to_owned()].into(),
        consumer_claim: "sub".into(),
        leeway: 30,
        ..Rules::default()
    }
}

fn claims() -> Value {
    json!({
        "iss": "https://idp", "sub": "alice", "aud": "orders", "exp": NOW + 60, "scope": "a orders.read",
    })
}

fn with(change: &[(&str, Value)]) -> Value {
    let mut claims = claims();
    for (name, value) in change {
        claims[name] = value.clone();
    }
    claims
}

#[test]
fn every_algorithm_signs_a_token_that_is_accepted() {
    let pairs = [
        Pair::rsa(Algorithm::RS256),
        Pair::rsa(Algorithm::RS384),
        Pair::rsa(Algorithm::RS512),
        Pair::rsa(Algorithm::PS256),
        Pair::rsa(Algorithm::PS384),
        Pair::rsa(Algorithm::PS512),
        Pair::ec(Algorithm::ES256),
        Pair::ec(Algorithm::ES384),
        Pair::ed(),
        Pair::hmac(Algorithm::HS256),
        Pair::hmac(Algorithm::HS384),
        Pair::hmac(Algorithm::HS512),
    ];
    for pair in &pairs {
        let token = pair.token(&claims());
        let verified = verify(&token, &pair.keys(), &rules(), NOW).unwrap();
        assert_eq!(verified.subject, "alice", "{:?}", pair.algorithm);
        assert!(verified.granted);
        let changed = token.replacen('.', ".e", 1);
        assert!(verify(&changed, &pair.keys(), &rules(), NOW).is_err());
    }
}

#[test]
fn d01_a_token_without_a_signature_is_refused() {
    let pair = Pair::hmac(Algorithm::HS256);
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let header = json!({ "alg": alg, "kid": "k" }).to_string();
        let body = format!("{}.{}", base64(header.as_bytes()), base64(claims().to_string().as_bytes()));
        for token in [format!("{body}."), body] {
            assert!(verify(&token, &pair.keys(), &rules(), NOW).is_err(), "{alg}");
        }
    }
    let token = pair.token(&claims());
    let (message, _) = token.rsplit_once('.').unwrap();
    assert_eq!(verify(&format!("{message}."), &pair.keys(), &rules(), NOW), Err(Refusal::Signature));
}

#[test]
fn d02_a_public_key_is_no_shared_secret() {
    let pair = Pair::rsa(Algorithm::RS256);
    for secret in [pair.public.as_str(), pair.public.trim_end()] {
        let forger = Pair {
            private: EncodingKey::from_secret(secret.as_bytes()),
            public: String::new(),
            algorithm: Algorithm::HS256,
        };
        let token = forger.token(&claims());
        assert_eq!(verify(&token, &pair.keys(), &rules(), NOW), Err(Refusal::Signature));
    }
    // Another algorithm of the same key is another algorithm.
    let other = Pair { algorithm: Algorithm::PS256, ..Pair::rsa(Algorithm::PS256) };
    let same_key = KeySet::from_config(&[config::Key { algorithm: config::Algorithm::RS256, ..other.key(Some("k")) }]);
    let token = other.token(&claims());
    assert_eq!(verify(&token, &same_key.unwrap(), &rules(), NOW), Err(Refusal::Signature));
}

#[test]
fn d03_a_token_does_not_bring_its_own_key() {
    let (pair, forger) = (Pair::ed(), Pair::ed());
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": base64(&[7; 32]) });
    for header in [
        json!({ "alg": "EdDSA", "jwk": jwk }),
        json!({ "alg": "EdDSA", "kid": "k", "jku": "https://evil.example/jwks" }),
        json!({ "alg": "EdDSA", "kid": "k", "x5u": "https://evil.example/x" }),
        json!({ "alg": "EdDSA", "kid": "../../dev/null" }),
        json!({ "alg": "EdDSA", "kid": "' OR 1=1 --" }),
        json!({ "alg": "EdDSA", "kid": ["k"] }),
        json!({ "alg": "EdDSA", "kid": "k", "crit": ["b64"], "b64": false }),
    ] {
        let token = forger.raw(&header.to_string(), &claims().to_string());
        assert!(verify(&token, &pair.keys(), &rules(), NOW).is_err(), "{header}");
    }
    let long = json!({ "alg": "EdDSA", "kid": "k".repeat(1 << 20) }).to_string();
    let token = pair.raw(&long, &claims().to_string());
    assert_eq!(verify(&token, &pair.keys(), &rules(), NOW), Err(Refusal::TooLarge));
}

#[test]
fn d04_odd_signatures_and_weak_keys_are_refused() {
    let pair = Pair::ec(Algorithm::ES256);
    let token = pair.token(&claims());
    let (message, _) = token.rsplit_once('.').unwrap();
    let der = signature::EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let signed = der.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    assert!(!der.public_key().as_ref().is_empty());
    for odd in [&[0; 64][..], &[0; 63], &[], signed.as_ref()] {
        let token = format!("{message}.{}", base64(odd));
        assert_eq!(verify(&token, &pair.keys(), &rules(), NOW), Err(Refusal::Signature));
    }
    let rsa = |size: usize, more: &str| {
        let n = base64(&vec![0xc1; size]);
        let set = format!(r#"{{"keys": [{{"kty": "RSA", "n": "{n}", "e": "AQAB"{more}}}]}}"#);
        KeySet::from_jwks(set.as_bytes(), true).is_ok()
    };
    assert!(rsa(256, "") && rsa(256, r#", "use": "sig", "alg": "PS256", "key_ops": ["verify"]"#));
    assert!(!rsa(64, "") && !rsa(128, "") && !rsa(255, ""));
    assert!(!rsa(256, r#", "use": "enc""#) && !rsa(256, r#", "key_ops": ["encrypt"]"#));
    assert!(!rsa(256, r#", "alg": "RSA-OAEP""#) && !rsa(256, r#", "alg": "HS256""#));
}

#[test]
fn d05_claims_have_to_be_right() {
    let pair = Pair::hmac(Algorithm::HS256);
    let refusal = |claims: &Value| verify(&pair.token(claims), &pair.keys(), &rules(), NOW).err();
    for (change, why) in [
        (with(&[("exp", json!(NOW - 31))]), Some(Refusal::Expired)),
        (with(&[("exp", json!(NOW - 30))]), Some(Refusal::Expired)),
        (with(&[("exp", json!(NOW - 29))]), None),
        (with(&[("exp", json!("1900000000"))]), Some(Refusal::Claims)),
        (with(&[("exp", json!(1_900_000_000.5))]), Some(Refusal::Claims)),
        (with(&[("exp", json!(-1))]), Some(Refusal::Claims)),
        (with(&[("exp", Value::Null)]), Some(Refusal::Claims)),
        (with(&[("nbf", json!(NOW + 31))]), Some(Refusal::NotYet)),
        (with(&[("nbf", json!(NOW + 30))]), None),
        (with(&[("nbf", json!("0"))]), Some(Refusal::Claims)),
        (with(&[("aud", json!(["x", "api"]))]), None),
        (with(&[("aud", json!(["x"]))]), Some(Refusal::Audience)),
        (with(&[("aud", json!([]))]), Some(Refusal::Audience)),
        (with(&[("iss", json!("https://idp/"))]), Some(Refusal::Issuer)),
        (with(&[("iss", json!(["https://idp"]))]), Some(Refusal::Claims)),
    ] {
        assert_eq!(refusal(&change), why, "{change}");
    }
    for name in ["exp", "iss", "aud"] {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        assert!(refusal(&claims).is_some(), "{name}");
    }
    for text in [
        r#"{"exp": 1e400}"#,
        r#"{"exp": 1900000000, "exp": 1900000000}"#,
        r#"{"exp": 1900000000, "iss": "https://idp", "aud": "api", "role": 1, "role": 2}"#,
        r#"{"exp": 1900000000, "iss": "https://idp", "aud": "api"} x"#,
        "[]",
        "",
    ] {
        let token = pair.raw(r#"{"alg": "HS256"}"#, text);
        assert_eq!(verify(&token, &pair.keys(), &rules(), NOW), Err(Refusal::Claims), "{text}");
    }
}

#[test]
fn rules_narrow_down_what_is_accepted() {
    let pair = Pair::hmac(Algorithm::HS256);
    let claims = with(&[("azp", json!("web")), ("client_id", json!("other")), ("tenant", json!("t1"))]);
    let check = |rules: Rules, header: &str| verify(&pair.raw(header, &claims.to_string()), &pair.keys(), &rules, NOW);
    let plain = r#"{"alg": "HS256"}"#;
    let algorithms = |list: &[Algorithm]| Rules { algorithms: list.into(), ..rules() };
    assert!(check(algorithms(&[Algorithm::RS256, Algorithm::HS256]), plain).is_ok());
    assert_eq!(check(algorithms(&[Algorithm::RS256]), plain), Err(Refusal::Algorithm));
    let typed = || Rules { types: ["at+jwt".to_owned()].into(), ..rules() };
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt"] {
        assert!(check(typed(), &format!(r#"{{"alg": "HS256", "typ": "{typ}"}}"#)).is_ok(), "{typ}");
    }
    assert_eq!(check(typed(), r#"{"alg": "HS256", "typ": "JWT"}"#), Err(Refusal::Type));
    assert_eq!(check(typed(), plain), Err(Refusal::Type));
    let party = |name: &str| Rules { authorized_parties: [name.to_owned()].into(), ..rules() };
    assert!(check(party("web"), plain).is_ok());
    assert_eq!(check(party("other"), plain), Err(Refusal::Party));
    let verified = check(Rules { consumer_claim: "tenant".into(), ..rules() }, plain).unwrap();
    assert_eq!((verified.subject.as_str(), verified.consumer.as_deref()), ("alice", Some("t1")));
}

#[test]
fn a_token_of_another_issuer_is_told_from_one_that_is_not_valid() {
    let pair = Pair::hmac(Algorithm::HS256);
    let other =
        pair.raw(r#"{"alg": "HS256", "kid": "unknown"}"#, &with(&[("iss", json!("https://other"))]).to_string());
    assert_eq!(verify(&other, &pair.keys(), &rules(), NOW), Err(Refusal::Issuer));
    for opaque in ["", "opaque", "a.b", "a.b.c.d", "a.b.c.d.e"] {
        assert_eq!(verify(opaque, &pair.keys(), &rules(), NOW), Err(Refusal::Opaque), "{opaque}");
    }
}

#[test]
fn scopes_come_as_a_text_or_a_list() {
    let pair = Pair::hmac(Algorithm::HS256);
    let granted = |change: &[(&str, Value)]| {
        let token = pair.token(&with(change));
        verify(&token, &pair.keys(), &rules(), NOW).unwrap().granted
    };
    let none = ("scope", json!(""));
    assert!(granted(&[]));
    assert!(!granted(std::slice::from_ref(&none)) && !granted(&[("scope", json!("orders.readx"))]));
    assert!(granted(&[none.clone(), ("scp", json!(["orders.read"]))]));
    assert!(granted(&[none, ("scp", json!("x orders.read"))]));
}

#[test]
fn a_key_is_chosen_by_its_id() {
    let (a, b) = (Pair::ed(), Pair::ed());
    let keys = |first, second| KeySet::from_config(&[a.key(first), b.key(second)]).unwrap();
    let check = |keys: &KeySet, header: &str| {
        let token = b.raw(header, &claims().to_string());
        verify(&token, keys, &rules(), NOW).err()
    };
    let both = keys(Some("a"), Some("b"));
    assert_eq!(check(&both, r#"{"alg": "EdDSA", "kid": "b"}"#), None);
    assert_eq!(check(&both, r#"{"alg": "EdDSA"}"#), None);
    assert_eq!(check(&both, r#"{"alg": "EdDSA", "kid": "a"}"#), Some(Refusal::Signature));
    assert_eq!(check(&both, r#"{"alg": "EdDSA", "kid": "c"}"#), Some(Refusal::UnknownKey));
    let unnamed = keys(Some("a"), None);
    assert_eq!(check(&unnamed, r#"{"alg": "EdDSA", "kid": "c"}"#), None);
    assert_eq!(check(&KeySet::default(), r#"{"alg": "EdDSA"}"#), Some(Refusal::UnknownKey));
}

#[test]
fn a_key_set_is_read_key_by_key() {
    let set = json!({ "keys": [
        { "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA", "kid": "unknown curve" },
        { "kty": "oct", "k": base64(SECRET.as_bytes()), "alg": "HS256", "kid": "k" },
        { "kty": 7 },
        "nonsense",
    ]});
    let set = set.to_string();
    let pair = Pair::hmac(Algorithm::HS256);
    let keys = KeySet::from_jwks(set.as_bytes(), true).unwrap();
    assert!(verify(&pair.token(&claims()), &keys, &rules(), NOW).is_ok());
    // What everyone can fetch holds no secret.
    assert!(KeySet::from_jwks(set.as_bytes(), false).is_err());
    let short = json!({ "keys": [{ "kty": "oct", "k": base64(b"short"), "alg": "HS256" }] });
    assert!(KeySet::from_jwks(short.to_string().as_bytes(), true).is_err());
}

proptest::proptest! {
    #[test]
    fn no_text_is_a_token_by_chance(text in "[a-zA-Z0-9._-]{0,80}") {
        let keys = KeySet::from_jwks(
            br#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#,
            false,
        ).unwrap();
        proptest::prop_assert!(verify(&text, &keys, &rules(), NOW).is_err());
    }
}
