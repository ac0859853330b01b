//! Sessions that stay with an endpoint, by a cookie that says which.
//!
//! - A request without the cookie, or whose endpoint cannot be used any more, goes where `balance` says, and its answer sets the cookie.
//! - The cookie holds no address, only a number that stands for it, and a signature over that and the upstream's name: a client that makes
//!   one up, or brings that of another upstream, goes anywhere.
//! - A drained endpoint keeps its sessions and gets no new ones; a disabled one loses them.
//! - The cookie is `HttpOnly` and `SameSite=Lax`, for the whole host, and `Secure` where the request came by TLS.

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue};

use super::balance::{cookie, rendezvous::hash};
use crate::{config::balance::Sticky as Config, runtime::Seeds};

/// How the name of the cookie begins if the file has none; a number that stands for the upstream follows, so that two do not undo each
/// other's sessions.
const NAME: &str = "torana-endpoint";

/// Bytes of the signature: nobody can try 2^128.
const SIGNATURE: usize = 16;

/// Compiled `sticky`.
#[derive(Debug)]
pub(super) struct Sticky {
    name: Box<str>,
    /// What stands behind the value, but for `Secure`.
    attributes: Box<str>,
    upstream: Box<str>,
    key: hmac::Key,
}

impl Sticky {
    pub(super) fn compile(config: &Config, upstream: &str, seeds: &Seeds) -> Self {
        // A process that takes over has the same seeds.
        let seed = || seeds.0.iter().flat_map(|seed| seed.to_be_bytes()).collect();
        let secret: Vec<u8> = config.secret.as_ref().map_or_else(seed, |secret| secret.expose().into());
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let age = config.ttl.map_or_else(String::new, |ttl| format!("; Max-Age={}", ttl.0.as_secs()));
        Self {
            name: config.cookie.as_ref().map_or_else(
                || format!("{NAME}-{:x}", hash(&[upstream.as_bytes()]) & 0xffff_ffff).into(),
                |name| name.as_str().into(),
            ),
            attributes: format!("; Path=/; HttpOnly; SameSite=Lax{age}").into(),
            upstream: upstream.into(),
            key,
        }
    }

    /// What stands for the endpoint of the session.
    pub(super) fn home(&self, headers: &HeaderMap) -> Option<u64> {
        let value = cookie(headers, self.name.as_bytes())?;
        let bytes = URL_SAFE_NO_PAD.decode(value).ok()?;
        let (seed, signature) = bytes.split_first_chunk::<8>()?;
        let expected = self.sign(*seed);
        let same = verify_slices_are_equal(&expected, signature).is_ok();
        same.then(|| u64::from_be_bytes(*seed))
    }

    /// `Set-Cookie` for a session at the endpoint that this stands for.
    pub(super) fn set(&self, seed: u64, secure: bool) -> Option<HeaderValue> {
        let seed = seed.to_be_bytes();
        let value = URL_SAFE_NO_PAD.encode([&seed[..], &self.sign(seed)].concat());
        let secure = if secure { "; Secure" } else { "" };
        HeaderValue::try_from(format!("{}={value}{}{secure}", self.name, self.attributes)).ok()
    }

    fn sign(&self, seed: [u8; 8]) -> [u8; SIGNATURE] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(b"torana sticky\0");
        context.update(self.upstream.as_bytes());
        context.update(&seed);
        let tag = context.sign();
        tag.as_ref().first_chunk().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sticky(upstream: &str, text: &str) -> Sticky {
        Sticky::compile(&serde_saphyr::from_str(text).unwrap(), upstream, &Seeds([1, 2, 3, 4]))
    }

    fn headers(set: &HeaderValue) -> HeaderMap {
        let pair = set.to_str().unwrap().split(';').next().unwrap().to_owned();
        HeaderMap::from_iter([(http::header::COOKIE, HeaderValue::try_from(pair).unwrap())])
    }

    #[test]
    fn what_was_set_is_found_again() {
        let sticky = sticky("orders", "{ cookie: lb, ttl: 1h, secret: a }");
        let set = sticky.set(77, true).unwrap();
        let text = set.to_str().unwrap();
        assert!(
            text.starts_with("lb=") && text.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600; Secure"),
            "{text}"
        );
        assert_eq!(sticky.home(&headers(&set)), Some(77));
        assert_eq!(sticky.home(&HeaderMap::new()), None);
    }

    #[test]
    fn a_cookie_of_another_upstream_or_secret_or_a_made_up_one_says_nothing() {
        let own = sticky("orders", "{ cookie: torana-endpoint, secret: a }");
        for other in [
            "{ cookie: torana-endpoint, secret: a }",
            "{ cookie: torana-endpoint, secret: b }",
            "{ cookie: torana-endpoint }",
        ] {
            let other = sticky(if other.contains("secret: a") { "users" } else { "orders" }, other);
            assert_eq!(own.home(&headers(&other.set(77, false).unwrap())), None);
        }
        let name = |upstream| sticky(upstream, "{}").name;
        assert_ne!(name("orders"), name("users"));
        for value in ["", "AAAA", "AAAAAAAAAE0AAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAE0", "%"] {
            let made_up = HeaderValue::try_from(format!("torana-endpoint={value}; Path=/")).unwrap();
            assert_eq!(own.home(&headers(&made_up)), None, "{value}");
        }
    }
}
