//! `consumers`: who is calling. They stand in this file, in others that `files` names, or in both.

use std::{borrow::Cow, collections::BTreeMap, fmt, ops::Deref, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed},
};

use super::types::{Name, OneOrMore, Secret, text_type};

/// All consumers by name.
#[derive(Clone, Debug, Default)]
pub struct Consumers {
    /// Files with more consumers, each a mapping of names.
    pub files: Vec<Pattern>,
    /// Those of this file, and after loading also those of the others.
    pub all: BTreeMap<Name, Consumer>,
}

impl Deref for Consumers {
    type Target = BTreeMap<Name, Consumer>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

/// The one key of `consumers` that is no name.
const FILES: &str = "files";

impl<'de> Deserialize<'de> for Consumers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> de::Visitor<'de> for Entries {
            type Value = Consumers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of names to consumers")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Consumers, A::Error> {
                let mut consumers = Consumers::default();
                while let Some(key) = map.next_key_seed(Key)? {
                    match key {
                        None => consumers.files = map.next_value::<OneOrMore<Pattern>>()?.0,
                        Some(name) => drop(consumers.all.insert(name, map.next_value()?)),
                    }
                }
                Ok(consumers)
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// A name, or `None` for `files`.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<Name>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let key = Cow::<'_, str>::deserialize(deserializer)?;
        if key == FILES { Ok(None) } else { key.parse().map(Some).map_err(de::Error::custom) }
    }
}

impl JsonSchema for Consumers {
    fn schema_name() -> Cow<'static, str> {
        "Consumers".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (consumer, pattern) = (generator.subschema_for::<Consumer>(), generator.subschema_for::<Pattern>());
        json_schema!({
            "type": "object",
            "properties": { (FILES): {
                "description": "Files with more consumers, each a mapping of names.",
                "oneOf": [pattern, { "type": "array", "items": pattern }],
            } },
            "additionalProperties": consumer,
        })
    }
}

/// Which files: `consumers.d/*.yaml`. A relative path starts from the folder of the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(pub String);

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match glob::Pattern::new(text) {
            Ok(_) if !text.is_empty() => Ok(Self(text.to_owned())),
            Ok(_) => Err("a path is not empty".into()),
            Err(error) => Err(format!("this is no pattern for files: {}", error.msg)),
        }
    }
}
text_type!(Pattern, "a path, in which `*` stands for any name", "^.+$");

/// What else is known about a consumer: a text, a number, or yes and no.
#[derive(Clone, Debug, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(untagged)]
pub enum Metadata {
    /// `true` or `false`
    Bool(bool),
    /// A whole number.
    Number(i64),
    /// A text.
    Text(String),
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalar;

        impl de::Visitor<'_> for Scalar {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a whole number, `true` or `false`")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Metadata, E> {
                Ok(Metadata::Bool(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Metadata, E> {
                Ok(Metadata::Number(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Metadata, E> {
                i64::try_from(value).map(Metadata::Number).map_err(|_error| E::custom("this number is too large"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Metadata, E> {
                Ok(Metadata::Text(text.to_owned()))
            }
        }

        deserializer.deserialize_any(Scalar)
    }
}

/// Someone who calls, with groups and credentials. The name is the key in the file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Consumer {
    /// Groups that policies may ask for; sent upstream as `X-Consumer-Groups`.
    pub groups: Vec<Name>,
    /// What else is known about it, for `authorize` and for headers: `{ plan: gold, seats: 20 }`.
    pub metadata: BTreeMap<String, Metadata>,
    /// Keys for the `api_key` policy: `${file:PATH}`, `${env:NAME}`, or the digest of the key, `sha256:...`.
    pub api_keys: Vec<Secret>,
    /// Names and passwords for the `basic` policy.
    pub logins: Vec<Login>,
    /// Keys that it signs requests with, for the `hmac` policy.
    pub signing_keys: Vec<SigningKey>,
    /// Tokens that the `jwt` policy takes for this consumer.
    pub tokens: Vec<TokenSubject>,
    /// What certificates of this consumer are known by, for the `client_certificate` policy: `sha256:...`, `uri:...`, `dns:...`,
    /// `email:...`, `subject:...`, `cn:...`.
    pub certificates: Vec<CertificateName>,
}

/// A name with its password.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The name that is sent; without it, the consumer's.
    pub username: Option<String>,
    /// The hash of the password, `$argon2id$...` or `$2y$...` (bcrypt), or the password itself by `${file:PATH}` or `${env:NAME}`.
    pub password: Secret,
}

/// What a consumer signs its requests with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SigningKey {
    /// What signatures call it.
    pub id: String,
    /// The one algorithm that it is for.
    #[serde(default)]
    pub algorithm: SigningAlgorithm,
    /// The shared secret, for `hmac-sha256`: `${file:PATH}` or `${env:NAME}`.
    pub secret: Option<Secret>,
    /// The public key in PEM, for the other algorithms.
    pub public_key: Option<Secret>,
}

/// How a request is signed ([RFC 9421, 3.3](https://www.rfc-editor.org/rfc/rfc9421#section-3.3)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum SigningAlgorithm {
    /// HMAC with SHA-256
    #[default]
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// Ed25519
    #[serde(rename = "ed25519")]
    Ed25519,
    /// ECDSA on P-256 with SHA-256
    #[serde(rename = "ecdsa-p256-sha256")]
    EcdsaP256Sha256,
    /// RSA, PSS, with SHA-512
    #[serde(rename = "rsa-pss-sha512")]
    RsaPssSha512,
    /// RSA, PKCS #1 v1.5, with SHA-256
    #[serde(rename = "rsa-v1_5-sha256")]
    RsaV15Sha256,
}

impl SigningAlgorithm {
    /// Its name in requests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac-sha256",
            Self::Ed25519 => "ed25519",
            Self::EcdsaP256Sha256 => "ecdsa-p256-sha256",
            Self::RsaPssSha512 => "rsa-pss-sha512",
            Self::RsaV15Sha256 => "rsa-v1_5-sha256",
        }
    }
}

/// What a client's certificate is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateName(pub String);

impl FromStr for CertificateName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WRONG: &str =
            "expected `sha256:`, `uri:`, `dns:`, `email:`, `subject:` or `cn:` with what the certificate says";
        let (kind, name) = text.split_once(':').filter(|(_, name)| !name.is_empty()).ok_or(WRONG)?;
        match kind {
            "sha256" => {
                let digits: String = name.chars().filter(|c| *c != ':').collect::<String>().to_ascii_lowercase();
                if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err("a SHA-256 fingerprint has 64 hexadecimal digits".into());
                }
                Ok(Self(format!("sha256:{digits}")))
            }
            "dns" => Ok(Self(format!("dns:{}", name.to_ascii_lowercase()))),
            "uri" | "email" | "subject" | "cn" => Ok(Self(text.to_owned())),
            _ => Err(WRONG.into()),
        }
    }
}
text_type!(
    CertificateName,
    "`sha256:`, `uri:`, `dns:`, `email:`, `subject:` or `cn:` with what the certificate says",
    "^(sha256|uri|dns|email|subject|cn):.+$"
);

/// The subject of a token, which is unique only with its issuer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenSubject {
    /// The `iss` claim.
    pub issuer: String,
    /// The `sub` claim.
    pub subject: String,
}
