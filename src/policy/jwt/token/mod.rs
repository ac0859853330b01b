//! One token: signature and claims. It knows neither HTTP nor configuration.

use std::{collections::HashSet, fmt};

use jsonwebtoken::{Header, dangerous::insecure_decode_claims, decode_header};
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny},
};

use super::keys::{KeySet, Signature};

/// A larger token is not looked at.
const MAX_SIZE: usize = 16 << 10;

/// What claims have to say.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    pub(super) issuer: Option<Box<str>>,
    pub(super) audience: Box<[String]>,
    pub(super) scopes: Box<[String]>,
    /// In seconds.
    pub(super) leeway: u64,
}

/// A token that is what it says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verified {
    pub(super) issuer: String,
    pub(super) subject: String,
    pub(super) scopes: Vec<String>,
    /// Whether it has all scopes that are asked for.
    pub(super) granted: bool,
    /// The seconds since 1970 in which it is valid, leeway included: from, and before.
    pub(super) valid: (u64, u64),
}

/// Why a token is not accepted. Clients are told only that it is not, except for `Expired`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    TooLarge,
    Malformed,
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
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::TooLarge => "the token is too large",
            Self::Malformed => "the token is malformed",
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
pub(super) fn verify(token: &str, keys: &KeySet, rules: &Rules, now: u64) -> Result<Verified, Refusal> {
    if token.len() > MAX_SIZE {
        return Err(Refusal::TooLarge);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
    let header: Header = decode_header(token).map_err(|_error| Refusal::Malformed)?;
    // Nothing that a token may call critical is known here (RFC 7515, 4.1.11), and none of it is compressed or encrypted.
    if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
        return Err(Refusal::Malformed);
    }
    // `jwk`, `jku`, `x5u` and `x5c` are not looked at: a token does not bring the key that it is checked with.
    match keys.verify(header.kid.as_deref(), header.alg, message.as_bytes(), signature) {
        Signature::Valid => {}
        Signature::Invalid => return Err(Refusal::Signature),
        Signature::UnknownKey => return Err(Refusal::UnknownKey),
    }
    let claims: Claims = insecure_decode_claims(token).map_err(|_error| Refusal::Claims)?;
    claims.check(rules, now)
}

/// The claims that matter here.
#[derive(Debug, Default)]
struct Claims {
    issuer: Option<String>,
    subject: Option<String>,
    audience: Vec<String>,
    expires: Option<u64>,
    not_before: Option<u64>,
    scope: Option<String>,
    scp: Vec<String>,
}

impl Claims {
    fn check(self, rules: &Rules, now: u64) -> Result<Verified, Refusal> {
        let expires = self.expires.ok_or(Refusal::Claims)?;
        let valid = (self.not_before.unwrap_or(0).saturating_sub(rules.leeway), expires.saturating_add(rules.leeway));
        if now >= valid.1 {
            return Err(Refusal::Expired);
        }
        if now < valid.0 {
            return Err(Refusal::NotYet);
        }
        if rules.issuer.is_some() && self.issuer.as_deref() != rules.issuer.as_deref() {
            return Err(Refusal::Issuer);
        }
        let meant = |wanted: &String| self.audience.contains(wanted);
        if !rules.audience.is_empty() && !rules.audience.iter().any(meant) {
            return Err(Refusal::Audience);
        }
        let lists = self.scope.iter().chain(&self.scp);
        let scopes = lists.flat_map(|list| list.split(' '));
        let scopes: Vec<String> = scopes.filter(|scope| !scope.is_empty()).map(Into::into).collect();
        Ok(Verified {
            issuer: self.issuer.unwrap_or_default(),
            subject: self.subject.unwrap_or_default(),
            granted: rules.scopes.iter().all(|wanted| scopes.contains(wanted)),
            scopes,
            valid,
        })
    }
}

/// A text, or a list of texts.
struct Texts(Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::config::Audience::deserialize(deserializer).map(|list| Self(list.0))
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

            // A name that stands twice is refused, whatever it is: the upstream may take the other value.
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
                let (mut claims, mut seen) = (Claims::default(), HashSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    match name.as_str() {
                        "iss" => claims.issuer = Some(map.next_value()?),
                        "sub" => claims.subject = Some(map.next_value()?),
                        "aud" => claims.audience = map.next_value::<Texts>()?.0,
                        // Whole seconds: a fraction, a text or a negative number is refused.
                        "exp" => claims.expires = Some(map.next_value()?),
                        "nbf" => claims.not_before = Some(map.next_value()?),
                        "scope" => claims.scope = Some(map.next_value()?),
                        "scp" => claims.scp = map.next_value::<Texts>()?.0,
                        _ => _ = map.next_value::<IgnoredAny>()?,
                    }
                    if !seen.insert(name) {
                        return Err(de::Error::custom("a claim stands twice"));
                    }
                }
                Ok(claims)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests;
