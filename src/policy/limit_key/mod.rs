//! What limits count by: `key` of `rate_limit`, `quota`, `concurrency` and `bandwidth`.
//!
//! - Each combination of the parts has counts of its own.
//! - `consumer` is the consumer, or the subject of the token; `client_ip` counts an IPv6 address as its /64, because whoever has one address
//!   has all of these; a header that comes several times counts with all its values.
//! - A part that is missing or empty is no value of its own: `missing_key` says what becomes of the request.
//! - Keys are hashed with seeds that nobody outside knows: nobody can make two of them collide.

mod config;

use std::{
    hash::{Hash, Hasher},
    net::IpAddr,
};

use http::HeaderName;
use pingora::http::RequestHeader;
use serde_json::Value;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

pub use self::config::{MissingKey, Part, Parts};
use super::claims::find;
use crate::{proxy::context::Context, reject::Reject, runtime::Seeds};

/// What is counted by, as 128 bits that nobody outside can predict or make collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub u64, pub u64);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
        state.write_u64(self.1);
    }
}

/// Makes a [`Key`] of its parts without an allocation.
#[derive(Debug)]
pub(crate) struct KeyHasher(SipHasher13);

impl KeyHasher {
    /// A key of another process is the same key here if both have the same `seeds`.
    pub(crate) fn new(seeds: Seeds) -> Self {
        let [a, b, c, d] = seeds.0;
        Self(SipHasher13::new_with_keys(a ^ c, b ^ d))
    }

    pub(crate) fn finish(&self) -> Key {
        let hash = self.0.finish128();
        Key(hash.h1, hash.h2)
    }
}

/// Takes the parts of a key one by one.
pub(crate) trait Sink {
    /// Adds one. Parts of another kind are never the same.
    fn add(&mut self, kind: u8, part: &[u8]);
}

impl Sink for KeyHasher {
    /// The length is hashed with it, so that `a`, `bc` is not `ab`, `c`.
    fn add(&mut self, kind: u8, part: &[u8]) {
        // One write for both: a kind is a byte, and no part is longer than a header.
        self.0.write_u64(u64::from(kind) << 56 | u64::try_from(part.len()).unwrap_or(u64::MAX));
        self.0.write(part);
    }
}

/// A key that is the same in every gateway, with each part behind its kind and length.
impl Sink for Vec<u8> {
    fn add(&mut self, kind: u8, part: &[u8]) {
        self.push(kind);
        self.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        self.extend_from_slice(part);
    }
}

/// A longer key is cut off where people see it.
const MAX_LABEL: usize = 128;

/// A key for people: its parts with `:` between.
struct Label(String);

impl Sink for Label {
    fn add(&mut self, kind: u8, part: &[u8]) {
        if !self.0.is_empty() && !part.is_empty() {
            self.0.push(':');
        }
        match (kind, <[u8; 4]>::try_from(part), <[u8; 8]>::try_from(part)) {
            (4, Ok(v4), _) => self.0.push_str(&std::net::Ipv4Addr::from(v4).to_string()),
            (6, _, Ok(v6)) => {
                let bits = u128::from(u64::from_be_bytes(v6)) << 64;
                self.0.push_str(&std::net::Ipv6Addr::from_bits(bits).to_string());
                self.0.push_str("/64");
            }
            _ => self.0.extend(String::from_utf8_lossy(part).chars().map(|c| if c.is_control() { '?' } else { c })),
        }
    }
}

/// What a limit counts by, compiled.
#[derive(Debug)]
pub(super) struct LimitKey {
    parts: Box<[Source]>,
    missing: MissingKey,
    seeds: Seeds,
}

#[derive(Debug)]
enum Source {
    Consumer,
    ClientIp,
    Route,
    Group,
    Groups(Box<[String]>),
    Header(HeaderName),
    Claim(String),
    PathParameter(String),
    Constant(String),
}

impl LimitKey {
    pub(super) fn compile(parts: &Parts, missing: MissingKey, seeds: Seeds) -> Self {
        let compile = |part: &Part| match part {
            Part::Consumer => Source::Consumer,
            Part::ClientIp => Source::ClientIp,
            Part::Route => Source::Route,
            Part::Group => Source::Group,
            Part::Groups(groups) => Source::Groups(groups.clone().into()),
            Part::Header(name) => Source::Header(name.to_http()),
            Part::Claim(name) => Source::Claim(name.clone()),
            Part::PathParameter(name) => Source::PathParameter(name.clone()),
            Part::Constant(text) => Source::Constant(text.clone()),
        };
        Self { parts: parts.list().iter().map(compile).collect(), missing, seeds }
    }

    /// The key of a request; none if it is not counted.
    pub(super) fn of(&self, request: &RequestHeader, ctx: &Context) -> Result<Option<Key>, Reject> {
        let mut key = KeyHasher::new(self.seeds);
        Ok(self.write(&mut key, request, ctx)?.then(|| key.finish()))
    }

    /// The same, in a form that is the same in every gateway.
    pub(super) fn text(&self, request: &RequestHeader, ctx: &Context) -> Vec<u8> {
        let mut text = Vec::new();
        // Whoever asks knows that the request is counted.
        drop(self.write(&mut text, request, ctx));
        text
    }

    /// The same for people: `consumer:mobile_app`.
    pub(super) fn label(&self, request: &RequestHeader, ctx: &Context) -> Box<str> {
        let mut label = Label(String::new());
        drop(self.write(&mut label, request, ctx));
        let end = label.0.floor_char_boundary(MAX_LABEL);
        label.0.truncate(end);
        label.0.into()
    }

    /// Puts the parts into `sink`; false if the request is not counted.
    pub(super) fn write(&self, sink: &mut impl Sink, request: &RequestHeader, ctx: &Context) -> Result<bool, Reject> {
        let found = self.parts.iter().try_for_each(|part| part.write(sink, request, ctx));
        match (found, self.missing) {
            (Some(()), _) => Ok(true),
            (None, MissingKey::Reject) => Err(Reject::LimitKeyMissing),
            (None, MissingKey::Skip) => Ok(false),
            (None, MissingKey::ClientIp) => {
                add_address(sink, ctx.client_ip);
                Ok(true)
            }
        }
    }
}

impl Source {
    fn write(&self, sink: &mut impl Sink, request: &RequestHeader, ctx: &Context) -> Option<()> {
        let consumer = || ctx.identity.as_ref()?.consumer.as_ref();
        match self {
            Self::ClientIp => add_address(sink, ctx.client_ip),
            Self::Route => sink.add(1, ctx.route.as_ref()?.name.as_bytes()),
            Self::Consumer => match ctx.identity.as_ref()?.key() {
                (_, _, "") => return None,
                (kind, issuer, name) => {
                    sink.add(2, kind.as_bytes());
                    sink.add(2, issuer.as_bytes());
                    sink.add(2, name.as_bytes());
                }
            },
            Self::Header(name) => {
                let mut values = request.headers.get_all(name).iter().peekable();
                if values.peek().is_none_or(|value| value.is_empty()) {
                    return None;
                }
                values.for_each(|value| sink.add(3, value.as_bytes()));
            }
            Self::Group => sink.add(5, consumer()?.groups.first()?.as_bytes()),
            Self::Groups(groups) => {
                let consumer = consumer()?;
                sink.add(5, groups.iter().find(|group| consumer.is_in(group))?.as_bytes());
            }
            Self::Claim(name) => {
                let claims = ctx.identity.as_ref()?.token.as_ref()?.claims.as_deref()?;
                match find(claims, name)? {
                    Value::Null => return None,
                    Value::String(text) if text.is_empty() => return None,
                    Value::String(text) => sink.add(7, text.as_bytes()),
                    // A number, a list: as it is written.
                    other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                        sink.add(8, other.to_string().as_bytes());
                    }
                }
            }
            Self::PathParameter(name) => {
                let value = ctx.param(request.uri.path(), name).filter(|value| !value.is_empty())?;
                sink.add(9, value.as_bytes());
            }
            Self::Constant(text) => sink.add(10, text.as_bytes()),
        }
        Some(())
    }
}

/// Adds an address as what its owner has.
pub(crate) fn add_address(sink: &mut impl Sink, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(v4) => sink.add(4, &v4.octets()),
        IpAddr::V6(v6) => sink.add(6, &(v6.to_bits() >> 64).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_counted_by_what_its_owner_has() {
        let seeds = Seeds::random();
        let key = |text: &str| {
            let mut key = KeyHasher::new(seeds);
            add_address(&mut key, text.parse().unwrap());
            key.finish()
        };
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
        assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let seeds = Seeds::random();
        let make = |parts: &[(u8, &str)]| {
            let mut key = KeyHasher::new(seeds);
            for (kind, part) in parts {
                key.add(*kind, part.as_bytes());
            }
            key.finish()
        };
        assert_ne!(make(&[(0, "a"), (0, "bc")]), make(&[(0, "ab"), (0, "c")]));
        assert_ne!(make(&[(0, "a")]), make(&[(1, "a")]));
        assert_eq!(make(&[(0, "a")]), make(&[(0, "a")]));
    }

    #[test]
    fn a_key_is_one_part_or_a_list() {
        let read = |text: &str| serde_json::from_str::<Parts>(text).map(|parts| parts.list().len());
        assert_eq!(read(r#""consumer""#).unwrap(), 1);
        assert_eq!(read(r#"{"header": "x-tenant"}"#).unwrap(), 1);
        assert_eq!(
            read(r#"["route", {"header": "x-tenant"}, {"claim": "tenant.id"}, {"groups": ["a", "b"]}]"#).unwrap(),
            4
        );
        assert!(read(r#""address""#).is_err() && read("7").is_err());
    }
}
