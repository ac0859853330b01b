//! What `jwt` takes.

use std::{path::PathBuf, str::FromStr};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    keys,
    token::{Rules, plain_type},
};
use crate::config::{
    check::Check,
    steps,
    types::{Duration, HeaderName, OneOrMore, Secret, text_type},
};
use crate::policy::{place, scopes};

/// Which tokens are accepted. Their keys come from one of `jwks_url`, `jwks_file` and `keys`; without any of them, from
/// where the `issuer` says (`OpenID` Connect Discovery).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Jwt")]
pub struct Config {
    /// A header with the token, instead of `Authorization: Bearer`.
    pub header: Option<HeaderName>,
    /// A query parameter that may have it as well.
    pub query: Option<String>,
    /// A cookie that may have it as well.
    pub cookie: Option<String>,
    /// What the `iss` claim has to be, byte for byte.
    pub issuer: Option<String>,
    /// What the `aud` claim has to contain: a text, or a list of which one is enough.
    #[serde(default)]
    pub audience: OneOrMore<String>,
    /// How tokens may be signed; without it, in every way that the keys are for.
    #[serde(default)]
    pub algorithms: Vec<Algorithm>,
    /// What the `typ` of the header may be, such as `at+jwt`; without it, anything.
    #[serde(default)]
    pub types: Vec<String>,
    /// Who may have asked for the token, by its `azp` or `client_id` claim; without it, anyone.
    #[serde(default)]
    pub authorized_parties: Vec<String>,
    /// The claim that says which consumer it is, among `tokens` of `consumers`.
    #[serde(default = "default_consumer_claim")]
    pub consumer_claim: String,
    /// Whether the token has to belong to a consumer.
    #[serde(default)]
    pub consumer_required: bool,
    /// What challenges call the place that is guarded.
    #[serde(default = "default_realm")]
    pub realm: Realm,
    /// The scopes that a token has to have, all of them; in the claim `scope` or `scp`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Where the key set is fetched from, in the background.
    pub jwks_url: Option<Url>,
    /// A file with a key set.
    pub jwks_file: Option<PathBuf>,
    /// Keys that stand in this file.
    #[serde(default)]
    pub keys: Vec<Key>,
    /// Certificate authorities for `jwks_url` and `issuer` instead of the public ones: a file in PEM.
    pub ca: Option<PathBuf>,
    /// How often the key set is fetched.
    #[serde(default = "crate::policy::defaults::refresh")]
    pub refresh: Duration,
    /// How often at most a key that is not in the set leads to another fetch.
    #[serde(default = "crate::policy::defaults::refetch")]
    pub refetch: Duration,
    /// How far the clocks of issuer and gateway may be apart.
    #[serde(default = "crate::policy::defaults::leeway")]
    pub leeway: Duration,
    /// Whether the upstream gets to see the token.
    #[serde(default)]
    pub forward: bool,
}

pub(crate) fn default_consumer_claim() -> String {
    "sub".into()
}

/// The realm where the file names none.
pub const REALM: &str = "torana";

pub(crate) fn default_realm() -> Realm {
    Realm(REALM.into())
}

/// What a challenge calls the place that is guarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Realm(pub String);

impl FromStr for Realm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |c: char| (' '..='~').contains(&c) && !matches!(c, '"' | '\\');
        if text.is_empty() || !text.chars().all(fits) {
            return Err("a realm consists of visible ASCII characters without `\"` and `\\`".into());
        }
        Ok(Self(text.to_owned()))
    }
}
text_type!(Realm, "visible ASCII characters without `\"` and `\\`", "^[ !#-\\[\\]-~]+$");

/// A key that stands in the configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The `kid` that tokens name it by; without it, it is tried for every token of its algorithm.
    pub id: Option<String>,
    /// The one algorithm that it is for.
    pub algorithm: Algorithm,
    /// The public key in PEM, for all algorithms but `HS...`: `${file:/etc/torana/idp.pem}`.
    pub public_key: Option<Secret>,
    /// The shared secret, for `HS256`, `HS384` and `HS512`: at least 32, 48 and 64 bytes.
    pub secret: Option<Secret>,
}

/// How a token is signed. There is no `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Algorithm {
    /// HMAC with SHA-256
    HS256,
    /// HMAC with SHA-384
    HS384,
    /// HMAC with SHA-512
    HS512,
    /// RSA, PKCS #1 v1.5, with SHA-256
    RS256,
    /// RSA, PKCS #1 v1.5, with SHA-384
    RS384,
    /// RSA, PKCS #1 v1.5, with SHA-512
    RS512,
    /// RSA, PSS, with SHA-256
    PS256,
    /// RSA, PSS, with SHA-384
    PS384,
    /// RSA, PSS, with SHA-512
    PS512,
    /// ECDSA on P-256 with SHA-256
    ES256,
    /// ECDSA on P-384 with SHA-384
    ES384,
    /// Ed25519
    EdDSA,
}

impl Algorithm {
    /// The fewest bytes that a shared secret may have (RFC 7518, 3.2); `None` if there is no such secret.
    pub(super) fn secret_size(self) -> Option<usize> {
        match self {
            Self::HS256 => Some(32),
            Self::HS384 => Some(48),
            Self::HS512 => Some(64),
            Self::RS256
            | Self::RS384
            | Self::RS512
            | Self::PS256
            | Self::PS384
            | Self::PS512
            | Self::ES256
            | Self::ES384
            | Self::EdDSA => None,
        }
    }
}

/// The address of a key set: `https://idp.example.com/jwks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url(String);

impl Url {
    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether nobody on the way can change what is fetched.
    pub(in crate::policy) fn is_secure(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// The address with more in its query.
    pub(in crate::policy) fn with_query(&self, more: &str) -> String {
        let between = if self.0.contains('?') { '&' } else { '?' };
        format!("{}{between}{more}", self.0)
    }

    /// Whether it leads to nothing but this machine.
    pub(in crate::policy) fn is_local(&self) -> bool {
        is_local(&self.0)
    }
}

/// Whether an address leads to nothing but this machine.
pub(in crate::policy) fn is_local(address: &str) -> bool {
    let uri: Option<http::Uri> = address.parse().ok();
    let host = uri.as_ref().and_then(http::Uri::host);
    host.is_some_and(|host| matches!(host, "localhost" | "127.0.0.1" | "[::1]"))
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected an address such as `https://idp.example.com/path`".to_owned();
        let uri: http::Uri = text.parse().map_err(|_error| wrong())?;
        let scheme = uri.scheme_str().unwrap_or_default();
        let host = uri.host().unwrap_or_default();
        if !matches!(scheme, "https" | "http") || host.is_empty() || text.contains('@') {
            return Err(wrong());
        }
        Ok(Self(text.to_owned()))
    }
}
text_type!(Url, "an address such as `https://idp.example.com/path`", "^https?://[^@\\s]+$");

impl Config {
    /// What tokens have to say.
    pub(super) fn rules(&self) -> Rules {
        Rules {
            issuer: self.issuer.as_deref().map(Into::into),
            audience: self.audience.0.clone().into(),
            scopes: self.scopes.clone().into(),
            algorithms: self.algorithms.iter().copied().map(keys::to_crate).collect(),
            types: self.types.iter().map(|typ| plain_type(typ)).collect(),
            authorized_parties: self.authorized_parties.clone().into(),
            consumer_claim: self.consumer_claim.as_str().into(),
            leeway: self.leeway.0.as_secs(),
            max_age: None,
        }
    }
}

/// Looks for what the types cannot refuse by themselves.
pub(super) fn check(config: &Config, check: &mut Check<'_>) {
    check_sources(config, check);
    for (i, key) in config.keys.iter().enumerate() {
        check_key(i, key, check);
        let twin = config.keys.iter().take(i).any(|other| other.id == key.id);
        if key.id.is_some() && twin {
            check.error(&steps!["keys", i, "id"], "another key has the same id");
        }
    }
    let names = [("query", config.query.as_deref()), ("cookie", config.cookie.as_deref())];
    place::check(config.header.as_ref(), names, check);
    scopes::check_names(&steps!["scopes"], &config.scopes, check);
    if config.consumer_claim.is_empty() {
        check.error(&steps!["consumer_claim"], "a claim has a name");
    }
    if config.consumer_required && check.config.consumers.values().all(|one| one.tokens.is_empty()) {
        check.warning(&steps!["consumer_required"], "no consumer has `tokens`, so every request is refused");
    }
    if config.audience.0.is_empty() {
        check.warning(&[], "without `audience`, tokens that the issuer made for other services are accepted");
    }
    if config.refresh.0.is_zero() {
        check.error(&steps!["refresh"], "the key set cannot be fetched all the time");
    }
}

fn check_sources(config: &Config, check: &mut Check<'_>) {
    let given = [
        ("jwks_url", config.jwks_url.is_some()),
        ("jwks_file", config.jwks_file.is_some()),
        ("keys", !config.keys.is_empty()),
    ];
    let mut given = given.iter().filter(|(_, given)| *given);
    match (given.next(), given.next()) {
        (Some((first, _)), Some((second, _))) => check.error(
            &steps![*second],
            format!("keys come from one source: either `{first}` or `{second}`"),
        ),
        (None, _) => match config.issuer.as_deref().map(str::parse::<Url>) {
            None => check.error(
                &[],
                "where do the keys come from? Write `issuer`, `jwks_url`, `jwks_file` or `keys`",
            ),
            Some(Err(_)) => check.error(
                &steps!["issuer"],
                "keys can be found by this issuer only if it is an `https://` address: write `jwks_url`, `jwks_file` or `keys`",
            ),
            Some(Ok(issuer)) => warn_insecure(&issuer, "issuer", check),
        },
        (Some(_), None) => {}
    }
    if let Some(url) = &config.jwks_url {
        warn_insecure(url, "jwks_url", check);
    }
    if config.issuer.as_deref() == Some("") {
        check.error(&steps!["issuer"], "an issuer is not empty");
    }
}

fn warn_insecure(url: &Url, key: &str, check: &mut Check<'_>) {
    if !url.is_secure() {
        check.warning(
            &steps![key],
            "keys that are fetched without TLS can be replaced on the way, and with them every token",
        );
    }
}

fn check_key(i: usize, key: &Key, check: &mut Check<'_>) {
    match (key.algorithm.secret_size(), &key.secret, &key.public_key) {
        (Some(size), Some(secret), None) if secret.expose().len() < size => check
            .error(&steps!["keys", i, "secret"], format!("a secret for {:?} has at least {size} bytes", key.algorithm)),
        (Some(_), Some(_), None) | (None, None, Some(_)) => {}
        (Some(_), _, _) => {
            check.error(&steps!["keys", i], format!("a key for {:?} has a `secret`, and nothing else", key.algorithm));
        }
        (None, _, _) => check
            .error(&steps!["keys", i], format!("a key for {:?} has a `public_key`, and nothing else", key.algorithm)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_that_can_be_fetched() {
        for text in ["https://idp.example.com/jwks", "http://127.0.0.1:9000/"] {
            assert!(text.parse::<Url>().is_ok(), "{text}");
        }
        for text in ["", "idp", "ftp://a/", "https://", "https://u:p@a/", "file:///etc/passwd"] {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_audience_is_a_text_or_a_list() {
        let read = |text: &str| serde_json::from_str::<OneOrMore<String>>(text).unwrap().0;
        assert_eq!(read(r#""a""#), ["a"]);
        assert_eq!(read(r#"["a", "b"]"#), ["a", "b"]);
        assert!(serde_json::from_str::<Algorithm>(r#""none""#).is_err());
    }
}
