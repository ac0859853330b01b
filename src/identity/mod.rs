//! Who is calling: consumers, their credentials, and what authentication puts into the context.
//!
//! A key is looked up by its SHA-256 digest: the table holds no key, and how long a look-up takes says nothing about
//! one, because an attacker cannot choose digests.

pub mod password;
pub mod signing_key;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use http::{HeaderName, HeaderValue};

use self::{password::Password, signing_key::SigningKey};

use crate::digest::sha256;
use crate::{
    config::{
        consumer::{self, Metadata},
        types::{Name, Secret},
    },
    pace::give_way,
};

/// Headers of this family say upstream who is calling. Only the gateway sets them: a client's are removed, in every
/// spelling that a server might take for the same (`x_consumer_id`, `X.Consumer.Id`).
pub const RESERVED_PREFIX: &str = "x-consumer-";

/// Someone who calls, as configured.
#[derive(Debug, PartialEq, Eq)]
pub struct Consumer {
    /// The name in the file.
    pub name: Arc<str>,
    /// The groups in the file.
    pub groups: Box<[Arc<str>]>,
    /// What else the file says about it.
    pub metadata: BTreeMap<String, Metadata>,
}

impl Consumer {
    /// Whether it is in this group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|one| **one == *group)
    }
}

/// What a token says about who calls, by the names of its claims.
pub type Claims = serde_json::Map<String, serde_json::Value>;

/// What is known of a token that was accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Token {
    /// The `iss` claim.
    pub issuer: Arc<str>,
    /// The `sub` claim; empty if there is none.
    pub subject: Arc<str>,
    /// The `scope` or `scp` claim.
    pub scopes: Arc<[String]>,
    /// All claims, where some policy of the file looks at them.
    pub claims: Option<Arc<Claims>>,
}

/// What a client's certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The subject, as text.
    pub subject: Box<str>,
    /// The authority that issued it, as text.
    pub issuer: Box<str>,
}

/// Who is calling, as authentication found out.
#[derive(Debug)]
pub struct Identity {
    /// The configured consumer, if the credential belongs to one.
    pub consumer: Option<Arc<Consumer>>,
    /// The token, if that was the credential.
    pub token: Option<Token>,
    /// The certificate, if that was the credential.
    pub certificate: Option<Certificate>,
    /// Whether this is who shows nothing.
    pub anonymous: bool,
    headers: Box<[(HeaderName, HeaderValue)]>,
}

impl Identity {
    /// An identity, with the headers that tell upstreams about it.
    pub fn new(consumer: Option<Arc<Consumer>>, token: Option<Token>, certificate: Option<Certificate>) -> Self {
        let mut headers = Vec::new();
        let mut add = |name: &'static str, text: &str| {
            // What cannot stand in a header (a subject with control characters) is left out, never rewritten.
            if !text.is_empty()
                && let Ok(value) = HeaderValue::from_str(text)
            {
                headers.push((HeaderName::from_static(name), value));
            }
        };
        if let Some(consumer) = &consumer {
            add("x-consumer-id", &consumer.name);
            add("x-consumer-groups", &consumer.groups.join(","));
        }
        if let Some(token) = &token {
            add("x-consumer-subject", &token.subject);
            add("x-consumer-issuer", &token.issuer);
            add("x-consumer-scopes", &token.scopes.join(" "));
        } else if let Some(certificate) = &certificate {
            add("x-consumer-subject", &certificate.subject);
            add("x-consumer-issuer", &certificate.issuer);
        }
        Self { consumer, token, certificate, anonymous: false, headers: headers.into() }
    }

    /// Both in one, if they are the same caller: neither two consumers nor two tokens.
    pub fn merged(&self, other: &Self) -> Option<Self> {
        let is_same = match (&self.consumer, &other.consumer, &self.token, &other.token) {
            (Some(one), Some(other), _, _) if one.name != other.name => false,
            (_, _, Some(one), Some(other)) => (&one.issuer, &one.subject) == (&other.issuer, &other.subject),
            _ => true,
        };
        is_same.then(|| {
            Self::new(
                other.consumer.as_ref().or(self.consumer.as_ref()).cloned(),
                other.token.as_ref().or(self.token.as_ref()).cloned(),
                other.certificate.as_ref().or(self.certificate.as_ref()).cloned(),
            )
        })
    }

    /// Who shows nothing, as this consumer.
    pub fn anonymous(consumer: &Arc<Consumer>) -> Self {
        Self { anonymous: true, ..Self::new(Some(Arc::clone(consumer)), None, None) }
    }

    /// Somebody who has a name, is no consumer of the file, and is in no group.
    pub fn stranger(name: &str) -> Self {
        let consumer = Consumer { name: name.into(), groups: Box::default(), metadata: BTreeMap::new() };
        Self::new(Some(Arc::new(consumer)), None, None)
    }

    /// Somebody whom another system knows by this name, with the groups that it says. Where the file has a consumer of that name, it is that one.
    pub fn member(name: &str, known: Option<&Consumer>, groups: Vec<String>) -> Self {
        let own = known.map(|consumer| &*consumer.groups).unwrap_or_default();
        let mut all: Vec<Arc<str>> = own.to_vec();
        for group in groups {
            if !all.iter().any(|one| **one == *group) {
                all.push(group.into());
            }
        }
        let metadata = known.map(|consumer| consumer.metadata.clone()).unwrap_or_default();
        let consumer = Consumer { name: name.into(), groups: all.into(), metadata };
        Self::new(Some(Arc::new(consumer)), None, None)
    }

    /// The name in logs: of the consumer, or else the subject of the token or the certificate.
    pub fn name(&self) -> &str {
        match (&self.consumer, &self.token, &self.certificate) {
            (Some(consumer), _, _) => &consumer.name,
            (None, Some(token), _) => &token.subject,
            (None, None, Some(certificate)) => &certificate.subject,
            (None, None, None) => "",
        }
    }

    /// What tells this caller from every other: what it is, who says so, and the name. A consumer is never mixed up with a subject
    /// of the same name.
    pub fn key(&self) -> (&'static str, &str, &str) {
        match (&self.consumer, &self.token, &self.certificate) {
            (Some(consumer), _, _) => ("consumer", "", &consumer.name),
            (None, Some(token), _) => ("token", &token.issuer, &token.subject),
            (None, None, Some(certificate)) => ("certificate", &certificate.issuer, &certificate.subject),
            (None, None, None) => ("", "", ""),
        }
    }

    /// The headers that tell upstreams who is calling.
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }
}

/// All consumers with their credentials, compiled for look-up.
#[derive(Debug, Default)]
pub struct Consumers {
    names: HashMap<Box<str>, Arc<Identity>>,
    keys: HashMap<[u8; 32], Arc<Identity>>,
    tokens: HashMap<(Box<str>, Box<str>), Arc<Consumer>>,
    certificates: HashMap<Box<str>, Arc<Consumer>>,
    logins: HashMap<Box<str>, (Password, Arc<Identity>)>,
    signing_keys: HashMap<Box<str>, (SigningKey, Arc<Identity>)>,
    fingerprint: u64,
}

/// What stands in a certificate belongs to more than one consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Several;

impl Consumers {
    /// Compiles the consumers of a file.
    pub fn compile<'a>(all: impl IntoIterator<Item = (&'a Name, &'a consumer::Consumer)>) -> Self {
        let mut compiled = Self::default();
        let mut fingerprint = DefaultHasher::new();
        for (name, config) in all {
            give_way();
            let consumer = Arc::new(Consumer {
                name: name.as_str().into(),
                groups: config.groups.iter().map(|group| group.as_str().into()).collect(),
                metadata: config.metadata.clone(),
            });
            (name.as_str(), &config.groups, &config.metadata, &config.tokens).hash(&mut fingerprint);
            let identity = Arc::new(Identity::new(Some(Arc::clone(&consumer)), None, None));
            compiled.names.insert(name.as_str().into(), Arc::clone(&identity));
            for key in &config.api_keys {
                // What is wrong with a digest was reported.
                if let Ok(digest) = key_digest(key) {
                    compiled.keys.insert(digest, Arc::clone(&identity));
                }
            }
            for token in &config.tokens {
                let id = (token.issuer.as_str().into(), token.subject.as_str().into());
                compiled.tokens.insert(id, Arc::clone(&consumer));
            }
            for name in &config.certificates {
                compiled.certificates.insert(name.0.as_str().into(), Arc::clone(&consumer));
            }
            for key in &config.signing_keys {
                if let Ok(parsed) = SigningKey::parse(key) {
                    compiled.signing_keys.insert(key.id.as_str().into(), (parsed, Arc::clone(&identity)));
                }
            }
            for login in &config.logins {
                let username = login.username.as_deref().unwrap_or(name.as_str());
                if let Ok(password) = Password::parse(login.password.expose()) {
                    compiled.logins.insert(username.into(), (password, Arc::clone(&identity)));
                }
            }
        }
        compiled.fingerprint = fingerprint.finish();
        compiled
    }

    /// Changes when what tokens lead to does.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The consumer of this name.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Identity>> {
        self.names.get(name)
    }

    /// Whose API key this is.
    pub fn by_api_key(&self, key: &[u8]) -> Option<&Arc<Identity>> {
        self.keys.get(&digest(key))
    }

    /// Whose name this is, and the password that goes with it.
    pub fn by_login(&self, username: &str) -> Option<&(Password, Arc<Identity>)> {
        self.logins.get(username)
    }

    /// Whose signing key this is, with the key.
    pub fn by_signing_key(&self, id: &str) -> Option<&(SigningKey, Arc<Identity>)> {
        self.signing_keys.get(id)
    }

    /// All passwords.
    pub fn passwords(&self) -> impl Iterator<Item = &Password> {
        self.logins.values().map(|(password, _)| password)
    }

    /// Whose token this is.
    pub fn by_token(&self, issuer: &str, subject: &str) -> Option<&Arc<Consumer>> {
        if self.tokens.is_empty() {
            return None;
        }
        self.tokens.get(&(issuer.into(), subject.into()))
    }

    /// Whose certificate this is, by what it is known by.
    pub fn by_certificate(&self, names: &[Box<str>]) -> Result<Option<&Arc<Consumer>>, Several> {
        let mut found: Option<&Arc<Consumer>> = None;
        for consumer in names.iter().filter_map(|name| self.certificates.get(name)) {
            if found.is_some_and(|other| other.name != consumer.name) {
                return Err(Several);
            }
            found = Some(consumer);
        }
        Ok(found)
    }
}

/// What a secret is stored and looked up by: its SHA-256 digest.
pub fn digest(secret: &[u8]) -> [u8; 32] {
    sha256(secret)
}

/// What marks an API key that is given by its digest.
const HASHED: &str = "sha256:";

/// The digest of an API key as it stands in the file: `sha256:` and 64 hexadecimal digits, or the key itself.
pub fn key_digest(key: &Secret) -> Result<[u8; 32], &'static str> {
    let Some(digits) = key.expose().strip_prefix(HASHED) else {
        let kind = key.expose().split_once(':').map(|(kind, _)| kind.to_ascii_lowercase());
        if kind.is_some_and(|kind| kind.starts_with("sha") || kind == "md5") {
            return Err("a key may be given by its SHA-256 digest, `sha256:...`, and by no other");
        }
        return Ok(digest(key.expose().as_bytes()));
    };
    let mut bytes = [0; 32];
    if hex::decode_to_slice(digits, &mut bytes).is_err() {
        return Err(
            "behind `sha256:` are the 64 hexadecimal digits of the key's digest: `printf %s KEY | sha256sum | cut -c1-64`",
        );
    }
    Ok(bytes)
}

/// Whether some server takes the one name of a header for the other: those that make variables of headers cannot tell `-`, `_` and `.`
/// apart, and some no other character that is neither letter nor digit.
pub fn are_confusable(one: &str, other: &str) -> bool {
    one.len() == other.len() && one != other && one.bytes().map(fold).eq(other.bytes().map(fold))
}

/// What servers that make variables of headers make the same: everything that is no letter and no digit.
pub fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte } else { b'-' }
}

/// Whether only the gateway may set this header, in whatever spelling it comes.
pub fn is_reserved(name: &str) -> bool {
    name.len() > RESERVED_PREFIX.len()
        && name.bytes().zip(RESERVED_PREFIX.bytes()).all(|(sent, reserved)| fold(sent).to_ascii_lowercase() == reserved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names_are_known_in_every_spelling() {
        for name in [
            "x-consumer-id",
            "X_Consumer.Groups",
            "x.consumer.id",
            "x-consumer_whatever",
            "x~consumer!id",
            "X-Consumer+Id",
        ] {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["x-consumer", "x-consumer-", "x-consumers-id", "y-consumer-id"] {
            assert!(!is_reserved(name), "{name}");
        }
    }

    #[test]
    fn a_subject_is_not_a_consumer_of_the_same_name() {
        let consumer = Arc::new(Consumer { name: "mobile".into(), groups: Box::default(), metadata: BTreeMap::new() });
        let configured = Identity::new(Some(consumer), None, None);
        for issuer in ["https://idp", ""] {
            let token = Token { issuer: issuer.into(), subject: "mobile".into(), ..Token::default() };
            assert_ne!(configured.key(), Identity::new(None, Some(token), None).key());
        }
    }
}
