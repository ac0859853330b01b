//! Several versions of a service behind one route: `split`, with `canary`, and `mirror`.
//!
//! ```yaml
//! routes:
//!   - name: orders
//!     split:
//!       to:
//!         - { upstream: orders_v1 }
//!         - { upstream: orders_v2, when: { headers: { x-version: "2" }, groups: [beta] } }
//!       by: consumer
//!       canary: { upstream: orders_v2, ramp: [1%, 10%, 50%, 100%], every: 5m }
//!     mirror: { upstream: orders_next, share: 10% }
//! ```
//!
//! - Which version a request goes to is decided once, after its policies: a retry stays with it.
//! - `when` comes first, in the order of `to`; then the shares. With `by`, the same caller goes to the same version, and one who is at a
//!   canary stays there while its share grows.
//! - Requests that `when` sends somewhere do not count for or against a canary: whoever can send the header could stop a release.
//! - The versions speak the same protocol.
//!
//! | module | what it is |
//! |---|---|
//! | `canary` | a share that grows, and goes back to 0 by itself |
//! | `mirror` | copies of requests |

pub mod canary;
pub mod mirror;

use std::sync::Arc;

use http::HeaderName;
use pingora::http::RequestHeader;
use rand::Rng;

pub use self::{canary::Canary, mirror::Mirror};
use crate::{
    config::release::{Split as Config, When},
    proxy::context::Context,
    runtime::Build,
    upstream::{Key, Upstream, cookie, mix, unit},
};

/// A compiled `split`.
#[derive(Debug)]
pub struct Split {
    versions: Box<[Version]>,
    key: Option<Key>,
    canary: Option<(usize, Arc<Canary>)>,
    /// The weights of all that are no canary.
    total: f64,
}

#[derive(Debug)]
struct Version {
    upstream: Arc<Upstream>,
    weight: f64,
    when: Overrides,
}

/// What sends a request to a version whatever the shares.
#[derive(Debug)]
struct Overrides {
    headers: Box<[(HeaderName, Box<str>)]>,
    cookies: Box<[(Box<str>, Box<str>)]>,
    consumers: Box<[Box<str>]>,
    groups: Box<[Box<str>]>,
}

/// Makes the place among the others independent of whether somebody is at the canary.
const OTHERS: u64 = 0x6a09_e667_f3bc_c909;

impl Split {
    /// `None` if one of the upstreams could not be compiled, which is reported already.
    pub fn compile(config: &Config, route: &str, build: &mut Build<'_>) -> Option<Self> {
        let is_canary = |name: &str| config.canary.as_ref().is_some_and(|canary| canary.upstream.as_str() == name);
        let versions: Option<Box<[Version]>> = config
            .to
            .iter()
            .map(|version| {
                let name = version.upstream.as_str();
                let weight = if is_canary(name) { 0.0 } else { f64::from(version.weight) };
                Some(Version {
                    upstream: build.upstream(&version.upstream)?,
                    weight,
                    when: Overrides::compile(&version.when),
                })
            })
            .collect();
        let versions = versions?;
        let canary = config.canary.as_ref().and_then(|canary| {
            let at = config.to.iter().position(|version| version.upstream == canary.upstream)?;
            Some((at, Canary::compile(canary, route, build)))
        });
        let total = versions.iter().map(|version| version.weight).sum();
        Some(Self { key: config.by.as_ref().map(Key::new), versions, canary, total })
    }

    /// The version that a request goes to, and whether that was left to the shares: what a request itself asks for says nothing about
    /// how a version does.
    pub fn choose(&self, request: &RequestHeader, ctx: &Context) -> (usize, bool) {
        if let Some(forced) = self.versions.iter().position(|version| version.when.fits(request, ctx)) {
            return (forced, false);
        }
        let key = self
            .key
            .as_ref()
            .and_then(|key| key.hash(request.uri.path(), &request.headers, ctx.client_ip, ctx.identity.as_deref()));
        (self.place(key.unwrap_or_else(|| rand::rng().random())), true)
    }

    /// The version of a number that is spread evenly.
    fn place(&self, key: u64) -> usize {
        let share = self.canary.as_ref().map_or(0.0, |(_, canary)| canary.share());
        if let Some((at, _)) = self.canary.as_ref().filter(|_| 1.0 - unit(mix(key)) < share) {
            return *at;
        }
        let mut left = (1.0 - unit(mix(key ^ OTHERS))) * self.total;
        let mut last = 0;
        for (i, version) in self.versions.iter().enumerate().filter(|(_, version)| version.weight > 0.0) {
            if left < version.weight {
                return i;
            }
            left -= version.weight;
            last = i;
        }
        last
    }

    /// The upstream of a version; of the first one before that is known.
    pub fn upstream(&self, version: Option<usize>) -> Option<&Arc<Upstream>> {
        self.versions.get(version.unwrap_or(0)).map(|version| &version.upstream)
    }

    /// Its canary, if it has one.
    pub fn canary(&self) -> Option<&Arc<Canary>> {
        self.canary.as_ref().map(|(_, canary)| canary)
    }

    /// Takes how a request to a version ended, after so many nanoseconds.
    pub fn ended(&self, version: usize, failed: bool, took: u64) {
        if let Some((at, canary)) = &self.canary {
            canary.record(*at == version, failed, took);
        }
    }
}

impl Overrides {
    fn compile(config: &When) -> Self {
        let names = |names: &[crate::config::types::Name]| names.iter().map(|name| name.as_str().into()).collect();
        Self {
            headers: config.headers.iter().map(|(name, value)| (name.to_http(), value.as_str().into())).collect(),
            cookies: config.cookies.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect(),
            consumers: names(&config.consumers),
            groups: names(&config.groups),
        }
    }

    fn fits(&self, request: &RequestHeader, ctx: &Context) -> bool {
        let header = |(name, value): &(HeaderName, Box<str>)| {
            let mut sent = request.headers.get_all(name).iter();
            // Twice is nobody's wish.
            sent.next().is_some_and(|only| only.as_bytes() == value.as_bytes()) && sent.next().is_none()
        };
        let has = |(name, value): &(Box<str>, Box<str>)| {
            cookie(&request.headers, name.as_bytes()).is_some_and(|sent| sent == value.as_bytes())
        };
        let consumer = ctx.identity.as_ref().and_then(|identity| identity.consumer.as_ref());
        self.headers.iter().any(header)
            || self.cookies.iter().any(has)
            || consumer.is_some_and(|consumer| {
                self.consumers.iter().any(|name| **name == *consumer.name)
                    || self.groups.iter().any(|group| consumer.is_in(group))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(weights: &[f64], canary: Option<(usize, u32)>) -> Split {
        let none = || Overrides::compile(&When::default());
        let version = |weight: &f64| Version { upstream: Arc::new(Upstream::none()), weight: *weight, when: none() };
        Split {
            versions: weights.iter().map(version).collect(),
            key: None,
            canary: canary.map(|(at, percent)| (at, Arc::new(Canary::at(percent)))),
            total: weights.iter().sum(),
        }
    }

    fn spread(split: &Split) -> Vec<u32> {
        let mut seen = vec![0; split.versions.len()];
        (0..100_000_u64).for_each(|key| seen[split.place(mix(key))] += 1);
        seen
    }

    fn is_about(seen: &[u32], shares: &[u32]) {
        for (seen, share) in seen.iter().zip(shares) {
            assert!(seen.abs_diff(share * 1_000) < 600, "{seen} for {share} %");
        }
    }

    #[test]
    fn requests_are_shared_by_weight() {
        is_about(&spread(&split(&[80.0, 15.0, 5.0, 0.0], None)), &[80, 15, 5, 0]);
    }

    #[test]
    fn a_canary_takes_its_share_from_all_others() {
        is_about(&spread(&split(&[3.0, 1.0, 0.0], Some((2, 20)))), &[60, 20, 20]);
        is_about(&spread(&split(&[1.0, 0.0], Some((1, 0)))), &[100, 0]);
        is_about(&spread(&split(&[1.0, 0.0], Some((1, 100)))), &[0, 100]);
    }

    #[test]
    fn who_is_at_a_canary_stays_there_while_it_grows_and_the_others_stay_where_they_are() {
        let at = |percent| {
            let split = split(&[2.0, 1.0, 0.0], Some((2, percent)));
            (0..10_000_u64).map(|key| split.place(mix(key))).collect::<Vec<_>>()
        };
        for (before, after) in at(10).iter().zip(at(40)) {
            assert!(*before == after || after == 2, "from {before} to {after}");
        }
    }
}
