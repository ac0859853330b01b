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
//! - The address is that of the other end of the connection; what `X-Forwarded-For` and the like claim is believed only of
//!   `trusted_proxies`, and the PROXY protocol only of those that a listener trusts.
//! - A client on a Unix socket has no address, and counts as `0.0.0.0`.
//! - Looking up an address takes as long as the logarithm of the length of the list.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - ip_restriction: { allow: [10.0.0.0/8, "2001:db8::/32"], deny: [10.9.0.0/16] }
//! ```

use std::net::IpAddr;

use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Flow, Policy, Stage};
use crate::{
    config::check::Check,
    networks::{Network, Networks},
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

/// Refuses addresses.
#[derive(Debug)]
pub struct IpRestriction {
    allow: Option<Networks>,
    deny: Networks,
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
        Ok(Self {
            allow: (!config.allow.is_empty()).then(|| Networks::new(&config.allow)),
            deny: Networks::new(&config.deny),
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str], deny: &[&str]) -> IpRestriction {
        let read = |list: &[&str]| list.iter().map(|net| net.parse::<Network>().unwrap()).collect::<Vec<_>>();
        IpRestriction {
            allow: (!allow.is_empty()).then(|| Networks::new(&read(allow))),
            deny: Networks::new(&read(deny)),
        }
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
}
