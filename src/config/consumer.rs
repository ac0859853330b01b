//! `consumers`: who is calling.

use schemars::JsonSchema;
use serde::Deserialize;

use super::types::{Name, Secret, text_type};

/// Someone who calls, with groups and credentials. The name is the key in the file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Consumer {
    /// Groups that policies may ask for; sent upstream as `X-Consumer-Groups`.
    pub groups: Vec<Name>,
    /// Keys for the `api_key` policy; better `${file:PATH}` or `${env:NAME}` than the text itself.
    pub api_keys: Vec<Secret>,
    /// Tokens that the `jwt` policy takes for this consumer.
    pub tokens: Vec<TokenSubject>,
    /// What certificates of this consumer are known by, for the `client_certificate` policy: `sha256:...`, `uri:...`, `dns:...`,
    /// `email:...`, `subject:...`, `cn:...`.
    pub certificates: Vec<CertificateName>,
}

/// What a client's certificate is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateName(pub String);

impl std::str::FromStr for CertificateName {
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
