//! Writes a header.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{PROXY, SIGNATURE, Said, Version};

/// The header that says this. The two addresses of a connection have to be of one family: if one is IPv6, an IPv4 address
/// beside it is written as IPv6.
pub fn write(version: Version, said: &Said) -> Vec<u8> {
    match version {
        Version::V1 => line(said),
        Version::V2 => binary(said),
    }
}

/// Addresses of one family.
enum Pair {
    V4([u8; 4], [u8; 4]),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Pair {
    fn of(client: &SocketAddr, server: &SocketAddr) -> Self {
        let mapped = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        match (client.ip().to_canonical(), server.ip().to_canonical()) {
            (IpAddr::V4(client), IpAddr::V4(server)) => Self::V4(client.octets(), server.octets()),
            (client, server) => Self::V6(mapped(client), mapped(server)),
        }
    }
}

fn line(said: &Said) -> Vec<u8> {
    let text = match said {
        Said::Local | Said::Unknown | Said::Unix => "UNKNOWN".to_owned(),
        Said::Tcp { client, server } => {
            let (from, to) = (client.port(), server.port());
            match Pair::of(client, server) {
                Pair::V4(client, server) => {
                    format!("TCP4 {} {} {from} {to}", IpAddr::from(client), IpAddr::from(server))
                }
                Pair::V6(client, server) => format!("TCP6 {client} {server} {from} {to}"),
            }
        }
    };
    [PROXY, text.as_bytes(), b"\r\n"].concat()
}

fn binary(said: &Said) -> Vec<u8> {
    let (command, family, addresses) = match said {
        Said::Local => (0x20, 0x00, Vec::new()),
        Said::Unknown | Said::Unix => (0x21, 0x00, Vec::new()),
        Said::Tcp { client, server } => {
            let (from, to) = (client.port().to_be_bytes(), server.port().to_be_bytes());
            match Pair::of(client, server) {
                Pair::V4(client, server) => (0x21, 0x11, [&client[..], &server, &from, &to].concat()),
                Pair::V6(client, server) => (0x21, 0x21, [&client.octets()[..], &server.octets(), &from, &to].concat()),
            }
        }
    };
    // At most 36.
    let length = u16::try_from(addresses.len()).unwrap_or_default().to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, &addresses].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(client: &str, server: &str) -> Said {
        Said::Tcp { client: client.parse().unwrap(), server: server.parse().unwrap() }
    }

    #[test]
    fn lines_are_as_the_protocol_says() {
        let text = |said| String::from_utf8(write(Version::V1, &said)).unwrap();
        assert_eq!(text(tcp("192.0.2.7:1", "10.0.0.1:443")), "PROXY TCP4 192.0.2.7 10.0.0.1 1 443\r\n");
        assert_eq!(text(tcp("[2001:db8::7]:1", "[::1]:443")), "PROXY TCP6 2001:db8::7 ::1 1 443\r\n");
        assert_eq!(text(tcp("[2001:db8::7]:1", "10.0.0.1:2")), "PROXY TCP6 2001:db8::7 ::ffff:10.0.0.1 1 2\r\n");
        assert_eq!(text(tcp("[::ffff:192.0.2.7]:1", "10.0.0.1:2")), "PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n");
        for said in [Said::Local, Said::Unknown, Said::Unix] {
            assert_eq!(text(said), "PROXY UNKNOWN\r\n");
        }
    }

    #[test]
    fn binary_headers_are_as_the_protocol_says() {
        let rest = |said| write(Version::V2, &said).strip_prefix(SIGNATURE).unwrap().to_owned();
        assert_eq!(rest(Said::Local), [0x20, 0, 0, 0]);
        assert_eq!(rest(Said::Unix), [0x21, 0, 0, 0]);
        let v4 = [0x21, 0x11, 0, 12, 192, 0, 2, 7, 10, 0, 0, 1, 0, 1, 1, 187];
        assert_eq!(rest(tcp("192.0.2.7:1", "10.0.0.1:443")), v4);
        let v6 = rest(tcp("[2001:db8::7]:1", "10.0.0.1:443"));
        assert_eq!((&v6[..6], v6.len()), (&[0x21, 0x21, 0, 36, 0x20, 0x01][..], 4 + 36));
    }
}
