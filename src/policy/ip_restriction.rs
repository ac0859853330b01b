//! `ip_restriction`: which addresses may come.
//!
//! # Rules
//!
//! - `allow` and `deny` list addresses and networks: `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7`. At least one of the two
//!   is there.
//! - What is in `deny` is refused, also if it is in `allow`. If there is an `allow`, everything else is refused.
//! - An IPv4 address that comes as IPv6 (`::ffff:192.0.2.7`) is the IPv4 address. `::/0` is no IPv4 address.
//! - What is refused gets 403.
//!
//! # For operators
//!
//! - The address is that of the peer: what `X-Forwarded-For` and the like claim is not believed.
//! - Looking up an address takes as long as the logarithm of the length of the list.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - ip_restriction: { allow: [10.0.0.0/8, "2001:db8::/32"], deny: [10.9.0.0/16] }
//! ```

use std::{net::IpAddr, str::FromStr};

use ipnet::{IpNet, Ipv4Net};
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Flow, Policy, Stage};
use crate::{
    config::{check::Check, types::text_type},
    proxy::context::Context,
    reject::Reject,
    runtime::Build,
};

/// Which addresses may come.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "IpRestriction")]
pub struct Config {
    /// The only ones that may come; if empty, all but the denied.
    pub allow: Vec<Network>,
    /// These may not come, even if they are in `allow`.
    pub deny: Vec<Network>,
}

/// An address, or a network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let net = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => {
                text.parse::<IpNet>().map_err(|_error| "expected an address or a network, such as `10.0.0.0/8`")?
            }
        };
        if net.trunc() != net {
            return Err(format!("the network has bits behind its prefix: did you mean `{}`?", net.trunc()));
        }
        Ok(Self(canonical(net)))
    }
}
text_type!(Network, "an address or a network, such as `10.0.0.0/8`", "^[0-9A-Fa-f.:]+(/[0-9]+)?$");

/// `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let mapped = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    let v4 = mapped.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok());
    v4.map_or(net, IpNet::V4)
}

/// Refuses addresses.
#[derive(Debug)]
pub struct IpRestriction {
    allow: Option<Set>,
    deny: Set,
}

impl Policy for IpRestriction {
    const STAGE: Stage = Stage::Guard;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        if config.allow.is_empty() && config.deny.is_empty() {
            check.error(&[], "`allow` or `deny` has to name at least one address or network");
        }
    }

    fn compile(config: &Config, _: &mut Build<'_>) -> Result<Self, String> {
        Ok(Self { allow: (!config.allow.is_empty()).then(|| Set::new(&config.allow)), deny: Set::new(&config.deny) })
    }

    async fn on_request(&self, _: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        if self.lets_in(ctx.client_ip) { Ok(Flow::Continue) } else { Err(Reject::AddressNotAllowed) }
    }
}

impl IpRestriction {
    fn lets_in(&self, address: IpAddr) -> bool {
        let allowed = self.allow.as_ref().is_none_or(|set| set.contains(address));
        allowed && !self.deny.contains(address)
    }
}

/// Ranges of addresses, sorted and apart from each other.
#[derive(Debug)]
struct Set {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Set {
    fn new(networks: &[Network]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for Network(net) in networks {
            match net {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self { v4: merge(v4), v6: merge(v6) }
    }

    fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => within(&self.v4, v4.to_bits()),
            IpAddr::V6(v6) => within(&self.v6, v6.to_bits()),
        }
    }
}

fn merge<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut apart: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match apart.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => apart.push((first, last)),
        }
    }
    apart.into()
}

fn within<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    let before = after.checked_sub(1).and_then(|at| ranges.get(at));
    before.is_some_and(|(_, last)| address <= *last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str], deny: &[&str]) -> IpRestriction {
        let read = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>();
        IpRestriction { allow: (!allow.is_empty()).then(|| Set::new(&read(allow))), deny: Set::new(&read(deny)) }
    }

    fn lets_in(policy: &IpRestriction, address: &str) -> bool {
        policy.lets_in(address.parse().unwrap())
    }

    #[test]
    fn deny_wins_over_allow() {
        let policy = policy(&["10.0.0.0/8", "2001:db8::/32"], &["10.9.0.0/16", "10.1.2.3"]);
        for address in ["10.0.0.1", "10.255.255.255", "2001:db8:1::1", "10.1.2.4"] {
            assert!(lets_in(&policy, address), "{address}");
        }
        for address in ["11.0.0.0", "9.255.255.255", "10.9.1.1", "10.1.2.3", "2001:db9::"] {
            assert!(!lets_in(&policy, address), "{address}");
        }
    }

    #[test]
    fn a_list_of_denied_lets_all_others_in() {
        let policy = policy(&[], &["::/0"]);
        assert!(lets_in(&policy, "10.0.0.1") && lets_in(&policy, "::ffff:10.0.0.1"));
        assert!(!lets_in(&policy, "2001:db8::1"));
    }

    #[test]
    fn an_ipv4_address_is_known_in_ipv6_clothes() {
        let policy = policy(&[], &["::ffff:10.0.0.0/104", "192.0.2.7"]);
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "::ffff:192.0.2.7"] {
            assert!(!lets_in(&policy, address), "{address}");
        }
    }

    #[test]
    fn networks_that_overlap_are_merged() {
        let read = |text: &str| text.parse::<Network>().unwrap();
        let set = Set::new(&[read("10.0.0.0/8"), read("10.1.0.0/16"), read("9.0.0.0/8")]);
        assert_eq!(set.v4.len(), 2);
        assert!(set.contains("10.200.0.1".parse().unwrap()));
    }

    #[test]
    fn a_network_with_a_slip_is_explained() {
        let error = "10.0.0.1/8".parse::<Network>().unwrap_err();
        assert!(error.contains("did you mean `10.0.0.0/8`?"));
        for text in ["10.0.0.0/33", "example.com", "", "10.0.0", "::1%eth0"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
