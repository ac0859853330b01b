//! The host of a request: its normal form, and the paths that belong to it.

use std::{borrow::Cow, collections::BTreeMap};

use hashbrown::HashMap;

use super::{
    Decision, Group,
    paths::{self, Paths},
    predicate::Predicates,
};
use crate::{config::route::Match, proxy::context::Params};

/// The name in a `Host` header or `:authority`: lower case, without port and final dot. `None` if it is none
/// ([RFC 9110, 7.2](https://www.rfc-editor.org/rfc/rfc9110#section-7.2)).
pub fn normalise_host(sent: &str) -> Option<Cow<'_, str>> {
    let (name, port, is_lower) = if sent.starts_with('[') { split_v6(sent)? } else { split_name(sent)? };
    if !port.is_empty() {
        let digits = port.strip_prefix(':')?.bytes();
        // Not `parse`, which would take `+80`.
        digits.into_iter().try_fold(0_u16, |port, digit| {
            let digit = digit.is_ascii_digit().then(|| u16::from(digit - b'0'))?;
            port.checked_mul(10)?.checked_add(digit)
        })?;
    }
    Some(if is_lower { Cow::Borrowed(name) } else { Cow::Owned(name.to_ascii_lowercase()) })
}

/// `[2001:db8::1]`, what is behind it, and whether it has no capitals.
fn split_v6(sent: &str) -> Option<(&str, &str, bool)> {
    let (name, port) = sent.split_at_checked(sent.find(']')? + 1)?;
    let inner = name.strip_prefix('[')?.strip_suffix(']')?;
    inner.parse::<std::net::Ipv6Addr>().ok()?;
    Some((name, port, !name.bytes().any(|byte| byte.is_ascii_uppercase())))
}

/// What a byte is in a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Other,
    Small,
    Capital,
    Dot,
    Colon,
}

/// What each byte is.
static KINDS: [Kind; 256] = {
    let mut kinds = [Kind::Other; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        #[expect(clippy::as_conversions, clippy::indexing_slicing, reason = "there is nothing else in a constant")]
        {
            kinds[byte as usize] = match byte {
                b'.' => Kind::Dot,
                b':' => Kind::Colon,
                b'A'..=b'Z' => Kind::Capital,
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => Kind::Small,
                _ => Kind::Other,
            };
        }
        byte += 1;
    }
    kinds
};

/// A name without its final dot, what is behind it, and whether it has no capitals. One pass, because every request has one.
fn split_name(sent: &str) -> Option<(&str, &str, bool)> {
    let (mut previous, mut is_lower, mut end) = (Kind::Dot, true, sent.len());
    for (at, byte) in sent.bytes().enumerate() {
        let kind = KINDS.get(usize::from(byte)).copied().unwrap_or(Kind::Other);
        match kind {
            Kind::Small => {}
            Kind::Capital => is_lower = false,
            // No label is empty.
            Kind::Dot if previous != Kind::Dot => {}
            Kind::Colon => {
                end = at;
                break;
            }
            Kind::Dot | Kind::Other => return None,
        }
        previous = kind;
    }
    let (name, port) = sent.split_at_checked(end)?;
    let name = name.strip_suffix('.').unwrap_or(name);
    (!name.is_empty() && name.len() <= 255).then_some((name, port, is_lower))
}

/// Paths by host.
#[derive(Debug)]
pub(super) struct Hosts {
    exact: HashMap<Box<str>, Paths>,
    /// By the name behind `*.`.
    wildcard: HashMap<Box<str>, Paths>,
    any: Option<Paths>,
}

impl Hosts {
    /// Asks the groups that host and path lead to, most specific first, until one decides.
    pub(super) fn visit<'a>(
        &self,
        host: &str,
        path: &str,
        params: &mut Params,
        decide: &mut dyn FnMut(Group) -> Option<Decision<'a>>,
    ) -> Option<Decision<'a>> {
        if let Some(paths) = self.exact.get(host)
            && let found @ Some(_) = paths.visit(path, params, decide)
        {
            return found;
        }
        if !self.wildcard.is_empty() {
            let mut rest = host;
            while let Some((_, parent)) = rest.split_once('.') {
                if let Some(paths) = self.wildcard.get(parent)
                    && let found @ Some(_) = paths.visit(path, params, decide)
                {
                    return found;
                }
                rest = parent;
            }
        }
        self.any.as_ref()?.visit(path, params, decide)
    }
}

#[derive(Default)]
pub(super) struct Builder {
    exact: BTreeMap<String, paths::Builder>,
    wildcard: BTreeMap<String, paths::Builder>,
    any: Option<paths::Builder>,
}

impl Builder {
    pub(super) fn add(&mut self, matcher: &Match, target: usize) {
        if matcher.hosts.is_empty() {
            self.any.get_or_insert_default().add(matcher, target);
        }
        for host in &matcher.hosts {
            let by_name = if host.wildcard { &mut self.wildcard } else { &mut self.exact };
            by_name.entry(host.name.clone()).or_default().add(matcher, target);
        }
    }

    pub(super) fn build(self, group: &mut dyn FnMut(Vec<(usize, Predicates)>) -> Group) -> Hosts {
        let mut all = |named: BTreeMap<String, paths::Builder>| {
            let built = named.into_iter().map(|(name, paths)| (name.into(), paths.build(group)));
            built.collect::<HashMap<Box<str>, Paths>>()
        };
        Hosts { exact: all(self.exact), wildcard: all(self.wildcard), any: self.any.map(|paths| paths.build(group)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_port_and_final_dot_make_no_difference() {
        for sent in [
            "api.example.com",
            "API.example.com",
            "api.example.com:8080",
            "api.example.com.",
            "api.example.COM.:80",
            "api.example.com:",
        ] {
            assert_eq!(normalise_host(sent).as_deref(), Some("api.example.com"), "{sent}");
        }
        assert_eq!(normalise_host("[2001:DB8::1]:80").as_deref(), Some("[2001:db8::1]"));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for sent in [
            "", "a@b", "a/b", "a b", "a:b", "a:99999", "[::1", "[x]", "[::1]x", "a\u{e9}", ".", "a?b", "a,b", "a..",
            "a..b", ".a", "a:+80", "a]",
        ] {
            assert_eq!(normalise_host(sent), None, "{sent}");
        }
    }
}
