//! Addresses and networks, as they are written and as they are looked up.
//!
//! An IPv4 address that comes as IPv6 (`::ffff:192.0.2.7`) is the IPv4 address. `::/0` is no IPv4 address. Looking one up
//! takes as long as the logarithm of the length of the list.

use std::{net::IpAddr, str::FromStr};

use ipnet::{IpNet, Ipv4Net};

use crate::config::types::text_type;

/// An address, or a network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// Whether it is every address there is, of IPv4 or of IPv6.
    pub fn is_everything(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

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

/// Ranges of addresses, sorted and apart from each other.
#[derive(Debug)]
pub struct Networks {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Networks {
    /// All addresses of these.
    pub fn new(networks: &[Network]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for Network(net) in networks {
            match net {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self { v4: merge(v4), v6: merge(v6) }
    }

    /// Whether an address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
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

/// Who may be at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An address, or any of a network.
    Network(Network),
    /// Whoever can reach a Unix socket.
    Unix,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        text.parse().map(Self::Network).map_err(|why: String| {
            if why.starts_with("expected") {
                "expected a network, such as `10.0.0.0/8`, an address, or `unix`".into()
            } else {
                why
            }
        })
    }
}
text_type!(Peer, "an address, a network such as `10.0.0.0/8`, or `unix`", "^(unix|[0-9A-Fa-f.:]+(/[0-9]+)?)$");

/// Peers, as they are looked up.
#[derive(Debug)]
pub struct Peers {
    networks: Networks,
    unix: bool,
}

impl Peers {
    /// All of these.
    pub fn new(peers: &[Peer]) -> Self {
        let networks = peers.iter().filter_map(|peer| match peer {
            Peer::Network(network) => Some(*network),
            Peer::Unix => None,
        });
        Self { networks: Networks::new(&networks.collect::<Vec<_>>()), unix: peers.contains(&Peer::Unix) }
    }

    /// Whether a peer is one of them; one on a Unix socket has no address.
    pub fn contains(&self, address: Option<IpAddr>) -> bool {
        address.map_or(self.unix, |address| self.networks.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn networks_that_overlap_are_merged() {
        let set = Networks::new(&[read("10.0.0.0/8"), read("10.1.0.0/16"), read("9.0.0.0/8")]);
        assert_eq!(set.v4.len(), 2);
        assert!(set.contains("10.200.0.1".parse().unwrap()));
    }

    #[test]
    fn a_network_with_a_slip_is_explained() {
        let error = "10.0.0.1/8".parse::<Network>().unwrap_err();
        assert!(error.contains("did you mean `10.0.0.0/8`?"));
        assert_eq!("10.0.0.1/8".parse::<Peer>().unwrap_err(), error);
        for text in ["10.0.0.0/33", "example.com", "", "10.0.0", "::1%eth0", "unix:/run/a"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
            assert!(text.parse::<Peer>().unwrap_err().contains("or `unix`"), "{text}");
        }
    }

    #[test]
    fn peers_without_an_address_are_those_on_unix_sockets() {
        let set = |all: &[&str]| Peers::new(&all.iter().map(|one| one.parse().unwrap()).collect::<Vec<_>>());
        let (both, inet) = (set(&["unix", "10.0.0.0/8"]), set(&["10.0.0.0/8", "::/0", "0.0.0.0/0"]));
        assert!(
            both.contains(None) && both.contains("10.0.0.1".parse().ok()) && !both.contains("11.0.0.1".parse().ok())
        );
        assert!(!inet.contains(None) && inet.contains("::ffff:10.0.0.1".parse().ok()));
    }
}
