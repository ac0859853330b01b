//! What `hash` takes from a request.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, header::COOKIE};

use super::rendezvous::hash;
use crate::{
    config::balance::{Balance, HashKey, Table},
    identity::Identity,
};

/// A compiled [`HashKey`].
#[derive(Debug)]
pub enum Key {
    /// The address of the client.
    ClientIp,
    /// The path.
    Path,
    /// Who is calling.
    Consumer,
    /// A header.
    Header(HeaderName),
    /// A cookie.
    Cookie(Box<str>),
}

impl Key {
    pub(in crate::upstream) fn compile(balance: &Balance) -> Option<Self> {
        match balance {
            Balance::Hash(key) | Balance::RingHash(Table { key, .. }) | Balance::Maglev(Table { key, .. }) => {
                Some(Self::new(key))
            }
            Balance::RoundRobin | Balance::LeastRequests | Balance::PeakEwma | Balance::Random => None,
        }
    }

    /// What is taken from each request.
    pub fn new(key: &HashKey) -> Self {
        match key {
            HashKey::ClientIp => Self::ClientIp,
            HashKey::Path => Self::Path,
            HashKey::Consumer => Self::Consumer,
            HashKey::Header(name) => Self::Header(name.to_http()),
            HashKey::Cookie(name) => Self::Cookie(name.as_str().into()),
        }
    }

    /// The hash of the key; `None` if the request lacks it, or it is empty.
    pub fn hash(&self, path: &str, headers: &HeaderMap, client_ip: IpAddr, identity: Option<&Identity>) -> Option<u64> {
        let found = |value: &[u8]| (!value.is_empty()).then(|| hash(&[value]));
        match self {
            // The same client, whether the listener speaks IPv6 or not.
            Self::ClientIp => match client_ip.to_canonical() {
                IpAddr::V4(ip) => found(&ip.octets()),
                IpAddr::V6(ip) => found(&ip.octets()),
            },
            Self::Path => found(path.as_bytes()),
            Self::Consumer => {
                let (kind, issuer, name) = identity?.key();
                (!name.is_empty()).then(|| hash(&[kind.as_bytes(), issuer.as_bytes(), name.as_bytes()]))
            }
            Self::Header(name) => found(headers.get(name)?.as_bytes()),
            Self::Cookie(name) => found(cookie(headers, name.as_bytes())?),
        }
    }
}

/// The value of the first cookie of this name. HTTP/2 may send each cookie in a field of its own.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    let fields = headers.get_all(COOKIE).iter();
    fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';')).find_map(|pair| {
        let value = pair.trim_ascii_start().strip_prefix(name)?;
        value.strip_prefix(b"=").map(<[u8]>::trim_ascii_end)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderValue;

    use super::*;
    use crate::identity::{Consumer, Token};

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter();
        fields.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name_in_any_field() {
        let key = Key::Cookie("sid".into());
        let hash_of = |fields: &[(&'static str, &'static str)]| key.hash("/", &headers(fields), CLIENT, None);
        let expected = Some(hash(&[b"abc"]));
        assert_eq!(hash_of(&[("cookie", "sid=abc")]), expected);
        assert_eq!(hash_of(&[("cookie", "a=b; sid=abc; c=d")]), expected);
        assert_eq!(hash_of(&[("cookie", "a=b"), ("cookie", "sid=abc")]), expected);
        assert_eq!(hash_of(&[("cookie", "xsid=abc; sid2=abc; sid")]), None);
        assert_eq!(hash_of(&[("cookie", "sid=")]), None);
        assert_eq!(hash_of(&[]), None);
    }

    #[test]
    fn a_header_counts_only_with_a_value() {
        let key = Key::Header(HeaderName::from_static("x-user"));
        let with = |value| key.hash("/", &headers(&[("x-user", value)]), CLIENT, None);
        assert!(with("a").is_some() && with("a") != with("b"));
        assert_eq!(with(""), None);
    }

    #[test]
    fn a_client_is_the_same_over_ipv6() {
        let mapped = "::ffff:192.0.2.7".parse().unwrap();
        let none = HeaderMap::new();
        assert_eq!(Key::ClientIp.hash("/", &none, CLIENT, None), Key::ClientIp.hash("/", &none, mapped, None));
    }

    #[test]
    fn a_consumer_is_not_a_subject_of_the_same_name() {
        let none = HeaderMap::new();
        let of = |identity: Option<&Identity>| Key::Consumer.hash("/", &none, CLIENT, identity);
        let consumer = Arc::new(Consumer {
            name: "mobile".into(),
            groups: Box::default(),
            metadata: std::collections::BTreeMap::new(),
        });
        let token = Token { issuer: "https://idp".into(), subject: "mobile".into(), ..Token::default() };
        let (one, other) = (Identity::new(Some(consumer), None, None), Identity::new(None, Some(token), None));
        assert!(of(Some(&one)).is_some() && of(Some(&one)) != of(Some(&other)));
        assert_eq!(of(None), None);
    }

    #[test]
    fn the_path_is_a_key() {
        let none = HeaderMap::new();
        let of = |path| Key::Path.hash(path, &none, CLIENT, None);
        assert!(of("/a").is_some() && of("/a") != of("/b"));
    }
}
