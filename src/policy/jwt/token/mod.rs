//! One token: signature and claims. It knows neither HTTP nor configuration.

use std::{borrow::Cow, fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess},
};
use serde_json::Value;

use super::keys::{KeySet, Signature};
use crate::identity::{self, Consumers, Identity, Token};

/// A larger token is not looked at.
const MAX_SIZE: usize = 16 << 10;

/// What a token has to say.
#[derive(Clone, Debug, Default)]
pub(in crate::policy) struct Rules {
    pub(in crate::policy) issuer: Option<Box<str>>,
    pub(in crate::policy) audience: Box<[String]>,
    pub(in crate::policy) scopes: Box<[String]>,
    /// Empty: in any way that a key is for.
    pub(in crate::policy) algorithms: Box<[Algorithm]>,
    /// In small letters, without `application/`; empty: any.
    pub(in crate::policy) types: Box<[String]>,
    /// Empty: any.
    pub(in crate::policy) authorized_parties: Box<[String]>,
    /// The claim that leads to a consumer.
    pub(in crate::policy) consumer_claim: Box<str>,
    /// In seconds.
    pub(in crate::policy) leeway: u64,
    /// Claims without an end hold for so many seconds, and no claims for longer.
    pub(in crate::policy) max_age: Option<u64>,
}

impl Verified {
    /// Who it is. Claims are kept only where somebody looks at them.
    pub(in crate::policy) fn identity(self, consumers: &Consumers, keep_claims: bool) -> Identity {
        let consumer = self.consumer.as_deref().and_then(|value| consumers.by_token(&self.issuer, value)).cloned();
        let token = Token {
            issuer: self.issuer.into(),
            subject: self.subject.into(),
            scopes: self.scopes.into(),
            claims: keep_claims.then(|| Arc::new(self.claims)),
        };
        Identity::new(consumer, Some(token), None)
    }
}

/// A token that is what it says.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::policy) struct Verified {
    pub(super) issuer: String,
    pub(super) subject: String,
    /// What the claim says that leads to a consumer.
    pub(super) consumer: Option<String>,
    pub(super) scopes: Vec<String>,
    /// Whether it has all scopes that are asked for.
    pub(in crate::policy) granted: bool,
    /// The seconds since 1970 in which it is valid, leeway included: from, and before.
    pub(in crate::policy) valid: (u64, u64),
    pub(in crate::policy) claims: identity::Claims,
}

/// Why a token is not accepted. Clients are told only that it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Refusal {
    TooLarge,
    /// It is no JWT, but perhaps a token of another kind.
    Opaque,
    Malformed,
    Algorithm,
    Type,
    Party,
    UnknownKey,
    Signature,
    Claims,
    Expired,
    NotYet,
    Issuer,
    Audience,
}

impl Refusal {
    /// For the log.
    pub(in crate::policy) const fn reason(self) -> &'static str {
        match self {
            Self::TooLarge => "the token is too large",
            Self::Opaque => "the token is no JWT",
            Self::Malformed => "the token is malformed",
            Self::Algorithm => "the token is signed in a way that is not allowed",
            Self::Type => "the token is of another type",
            Self::Party => "the token was made for another client",
            Self::UnknownKey => "no key of the issuer fits the token",
            Self::Signature => "the signature of the token is not valid",
            Self::Claims => "the token lacks a claim, or one has the wrong type",
            Self::Expired => "the token has expired",
            Self::NotYet => "the token is not valid yet",
            Self::Issuer => "the token is of another issuer",
            Self::Audience => "the token is for another audience",
        }
    }
}

/// Checks a token at a time, in seconds since 1970. Nothing in the token is believed before its signature is.
pub(in crate::policy) fn verify(token: &str, keys: &KeySet, rules: &Rules, now: u64) -> Result<Verified, Refusal> {
    if token.len() > MAX_SIZE {
        return Err(Refusal::TooLarge);
    }
    if token.bytes().filter(|byte| *byte == b'.').count() != 2 {
        return Err(Refusal::Opaque);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(Refusal::Malformed)?;
    let header = decoded(header).ok_or(Refusal::Malformed)?;
    let header: Header<'_> = serde_json::from_slice(&header).map_err(|_error| Refusal::Malformed)?;
    // Nothing that a token may call critical is known here (RFC 7515, 4.1.11), and none of it is compressed or encrypted.
    if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
        return Err(Refusal::Malformed);
    }
    let payload = decoded(payload).ok_or(Refusal::Claims)?;
    let claims: Claims = serde_json::from_slice(&payload).map_err(|_error| Refusal::Claims)?;
    // Before the signature: where several issuers are trusted, tokens of the others are no reason to fetch keys.
    if rules.issuer.is_some() && claims.text("iss")? != rules.issuer.as_deref() {
        return Err(Refusal::Issuer);
    }
    if !rules.algorithms.is_empty() && !rules.algorithms.contains(&header.alg) {
        return Err(Refusal::Algorithm);
    }
    // `jwk`, `jku`, `x5u` and `x5c` are not looked at: a token does not bring the key that it is checked with.
    match keys.verify(header.kid.as_deref(), header.alg, message.as_bytes(), signature) {
        Signature::Valid => {}
        Signature::Invalid => return Err(Refusal::Signature),
        Signature::UnknownKey => return Err(Refusal::UnknownKey),
    }
    if !rules.types.is_empty() && !header.typ.is_some_and(|typ| rules.types.contains(&plain_type(&typ))) {
        return Err(Refusal::Type);
    }
    claims.check(rules, now)
}

/// What matters of the header. The keys that a token brings along are not even read.
#[derive(Deserialize)]
struct Header<'a> {
    alg: Algorithm,
    #[serde(borrow)]
    kid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    typ: Option<Cow<'a, str>>,
    crit: Option<IgnoredAny>,
    enc: Option<IgnoredAny>,
    zip: Option<IgnoredAny>,
}

/// base64url without padding.
pub(in crate::policy) fn decoded(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

/// A media type as tokens shorten it ([RFC 7515, 4.1.9](https://www.rfc-editor.org/rfc/rfc7515#section-4.1.9)).
pub(super) fn plain_type(text: &str) -> String {
    let text = text.to_ascii_lowercase();
    text.strip_prefix("application/").map(Into::into).unwrap_or(text)
}

/// What a token says, of which no name stands twice: the upstream may take the other value.
#[derive(Debug, Default)]
pub(in crate::policy) struct Claims(pub(in crate::policy) identity::Claims);

impl Claims {
    /// A claim that is a text; another type is refused.
    pub(in crate::policy) fn text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        self.0.get(name).map(|value| value.as_str().ok_or(Refusal::Claims)).transpose()
    }

    /// A claim that is a text or a list of texts.
    fn texts(&self, name: &str) -> Result<Vec<&str>, Refusal> {
        match self.0.get(name) {
            None => Ok(Vec::new()),
            Some(Value::String(one)) => Ok(vec![one]),
            Some(Value::Array(list)) => list.iter().map(|one| one.as_str().ok_or(Refusal::Claims)).collect(),
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => Err(Refusal::Claims),
        }
    }

    /// A claim in whole seconds: a fraction, a text or a negative number is refused.
    fn seconds(&self, name: &str) -> Result<Option<u64>, Refusal> {
        self.0.get(name).map(|value| value.as_u64().ok_or(Refusal::Claims)).transpose()
    }

    /// What they say, if it holds at this time.
    pub(in crate::policy) fn check(self, rules: &Rules, now: u64) -> Result<Verified, Refusal> {
        let limit = rules.max_age.map(|age| now.saturating_add(age));
        let expires = self.seconds("exp")?.map(|expires| expires.saturating_add(rules.leeway));
        let before = expires.into_iter().chain(limit).min().ok_or(Refusal::Claims)?;
        let not_before = self.seconds("nbf")?.unwrap_or(0);
        let valid = (not_before.saturating_sub(rules.leeway), before);
        if now >= valid.1 {
            return Err(Refusal::Expired);
        }
        if now < valid.0 {
            return Err(Refusal::NotYet);
        }
        let audience = self.texts("aud")?;
        if !rules.audience.is_empty() && !rules.audience.iter().any(|wanted| audience.contains(&wanted.as_str())) {
            return Err(Refusal::Audience);
        }
        let party = self.text("azp")?.or(self.text("client_id")?);
        if !rules.authorized_parties.is_empty()
            && !party.is_some_and(|party| rules.authorized_parties.iter().any(|one| one == party))
        {
            return Err(Refusal::Party);
        }
        let lists = self.text("scope")?.into_iter().chain(self.texts("scp")?);
        let scopes = lists.flat_map(|list| list.split(' '));
        let scopes: Vec<String> = scopes.filter(|scope| !scope.is_empty()).map(Into::into).collect();
        Ok(Verified {
            issuer: self.text("iss")?.unwrap_or_default().into(),
            subject: self.text("sub")?.unwrap_or_default().into(),
            consumer: self.text(&rules.consumer_claim)?.map(Into::into),
            granted: rules.scopes.iter().all(|wanted| scopes.contains(wanted)),
            scopes,
            valid,
            claims: self.0,
        })
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> de::Visitor<'de> for Object {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("claims")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
                let mut claims = identity::Claims::new();
                while let Some((name, value)) = map.next_entry()? {
                    if claims.insert(name, value).is_some() {
                        return Err(de::Error::custom("a claim stands twice"));
                    }
                }
                Ok(Claims(claims))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests;
