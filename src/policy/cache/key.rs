//! What answers are kept under.
//!
//! The place of an answer is its URL: what changes there takes everything away that is kept there, whoever it is for. The key is all
//! that the answer may depend on. Both are hashed with seeds that nobody outside knows.

use http::HeaderName;
use pingora::{
    cache::{CacheKey, key::HashBinary},
    http::{RequestHeader, ResponseHeader},
};

use super::{Rules, rules::vary};
use crate::{
    policy::limit_key::{Key, KeyHasher, Sink as _},
    proxy::context::Context,
    runtime::Seeds,
};

/// The length of a [`Key`] as bytes.
pub(super) const LENGTH: usize = 16;

/// Where the answers of a URL are.
pub(crate) fn place(seeds: Seeds, secure: bool, host: &str, target: &[u8]) -> Key {
    let mut hash = KeyHasher::new(seeds);
    hash.add(1, &[u8::from(secure)]);
    hash.add(2, host.as_bytes());
    hash.add(3, target);
    hash.finish()
}

/// What the answer to a request is kept under: its place, and all else that the upstream sees of who asks for what.
pub(crate) fn key(rules: &Rules, request: &RequestHeader, ctx: &Context) -> CacheKey {
    let place = place(rules.seeds, ctx.secure, &ctx.host, request.raw_path());
    let route = ctx.route.as_ref().map_or("", |route| &*route.name);
    let mut hash = KeyHasher::new(rules.seeds);
    hash.add(0, &bytes(place));
    hash.add(1, route.as_bytes());
    hash.add(2, ctx.upstream().map_or("", |upstream| upstream.name()).as_bytes());
    // As it was sent, with its port: the upstream sees that.
    add_header(&mut hash, 3, request, &http::header::HOST);
    if let Some(told) = &ctx.told {
        for (kind, value) in [(4, &told.host), (11, &told.port)] {
            if let Some(value) = value {
                hash.add(kind, value.as_bytes());
            }
        }
    }
    if let Some(identity) = ctx.identity.as_ref().filter(|_| !rules.shared) {
        let (kind, issuer, name) = identity.key();
        for part in [kind, issuer, name] {
            hash.add(5, part.as_bytes());
        }
        for (name, value) in identity.headers() {
            hash.add(6, name.as_str().as_bytes());
            hash.add(6, value.as_bytes());
        }
    }
    for name in rules.key_headers.iter().chain(&ctx.written) {
        hash.add(7, name.as_str().as_bytes());
        add_header(&mut hash, 8, request, name);
    }
    let mut primary = Vec::with_capacity(LENGTH + route.len());
    primary.extend_from_slice(&bytes(place));
    primary.extend_from_slice(route.as_bytes());
    let mut key = CacheKey::new(primary, String::new());
    key.set_primary_bin_override(bytes(hash.finish()));
    key
}

/// Tells answers of one key apart by the headers that `Vary` names; `None` if it names none.
pub(crate) fn variance(seeds: Seeds, response: &ResponseHeader, request: &RequestHeader) -> Option<HashBinary> {
    let mut hash = None;
    for name in vary(response) {
        let hash = hash.get_or_insert_with(|| KeyHasher::new(seeds));
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => {
                hash.add(7, name.as_str().as_bytes());
                add_header(hash, 8, request, &name);
            }
            Err(_) => hash.add(10, name.as_bytes()),
        }
    }
    hash.map(|hash| bytes(hash.finish()))
}

/// All values of a header, and how many there are: two are not one with a comma.
fn add_header(hash: &mut KeyHasher, kind: u8, request: &RequestHeader, name: &HeaderName) {
    let values = request.headers.get_all(name);
    let count = values.iter().count();
    hash.add(9, &count.to_le_bytes());
    values.iter().for_each(|value| hash.add(kind, value.as_bytes()));
}

/// The first bytes of what Pingora calls the primary key are the place, the others the name of the route.
pub(super) fn of(key: &CacheKey) -> Option<(HashBinary, &str)> {
    let (place, route) = key.primary_key().split_first_chunk::<LENGTH>()?;
    Some((*place, std::str::from_utf8(route).ok()?))
}

pub(super) fn bytes(key: Key) -> HashBinary {
    let Key(high, low) = key;
    ((u128::from(high) << 64) | u128::from(low)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_places_of_their_own() {
        let seeds = Seeds::random();
        let one = place(seeds, true, "a.example", b"/x?y=1");
        assert_eq!(one, place(seeds, true, "a.example", b"/x?y=1"));
        for (secure, host, target) in [
            (false, "a.example", "/x?y=1"),
            (true, "b.example", "/x?y=1"),
            (true, "a.example", "/x?y=2"),
            (true, "a.example/x", "?y=1"),
        ] {
            assert_ne!(one, place(seeds, secure, host, target.as_bytes()), "{secure} {host} {target}");
        }
        assert_ne!(one, place(Seeds::random(), true, "a.example", b"/x?y=1"));
    }

    #[test]
    fn what_vary_names_tells_answers_apart() {
        let seeds = Seeds::random();
        let request = |values: &[&str]| {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            for value in values {
                request.append_header("accept-language", *value).unwrap();
            }
            request
        };
        let of = |names: &[&str], values: &[&str]| {
            let mut response = ResponseHeader::build(200, None).unwrap();
            for name in names {
                response.append_header("vary", *name).unwrap();
            }
            variance(seeds, &response, &request(values))
        };
        assert_eq!(of(&[], &["de"]), None);
        let german = of(&["Accept-Language"], &["de"]);
        assert_eq!(german, of(&["accept-language"], &["de"]));
        for other in [&["en"][..], &[], &["d", "e"], &["de", "de"]] {
            assert_ne!(german, of(&["accept-language"], other), "{other:?}");
        }
    }
}
