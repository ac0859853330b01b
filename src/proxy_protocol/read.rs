//! Reads a header, as its bytes come in.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use super::{PROXY, SIGNATURE, Said, crc32c::crc32c};

/// The shortest header there is: `PROXY UNKNOWN` with its line end.
const SHORTEST: usize = 15;

/// The longest line of version 1, with its end.
const LONGEST_LINE: usize = 107;

/// Signature, version and command, family, length.
const FIXED: usize = 16;

/// Longer headers of version 2 are refused.
const LONGEST: usize = 16 << 10;

/// The type of the TLV with the checksum.
const CRC32C: u8 = 0x03;

/// How far a header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// At least so many bytes are missing, and all of them belong to the header.
    Missing(usize),
    /// It is whole.
    Whole(Said),
}

/// Why some bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They are something else.
    #[error("there is no PROXY header")]
    Absent,
    /// They are not what the protocol says.
    #[error("{0}")]
    Wrong(&'static str),
    /// There are too many of them.
    #[error("the PROXY header is too long")]
    TooLong,
    /// They were changed on their way.
    #[error("the checksum of the PROXY header is wrong")]
    Checksum,
}

/// Whether a header may begin with these bytes, which are at least one.
pub fn begins(bytes: &[u8]) -> bool {
    [&PROXY[..], SIGNATURE].iter().any(|start| bytes.iter().zip(*start).all(|(byte, wanted)| byte == wanted))
}

/// Reads a header from what is there of it.
pub fn read(bytes: &[u8]) -> Result<Progress, Malformed> {
    if !begins(bytes) {
        return Err(Malformed::Absent);
    }
    if let Some(missing) = SHORTEST.checked_sub(bytes.len()).filter(|missing| *missing > 0) {
        return Ok(Progress::Missing(missing));
    }
    if bytes.starts_with(SIGNATURE) { binary(bytes) } else { line(bytes) }
}

/// Version 1.
fn line(bytes: &[u8]) -> Result<Progress, Malformed> {
    let Some(end) = memchr::memchr2(b'\r', b'\n', bytes) else {
        return if bytes.len() + 2 > LONGEST_LINE { Err(Malformed::TooLong) } else { Ok(Progress::Missing(2)) };
    };
    let text = match bytes.get(end..) {
        Some(b"\r\n") => bytes.get(PROXY.len()..end).unwrap_or_default(),
        Some(b"\r") if end + 2 > LONGEST_LINE => return Err(Malformed::TooLong),
        Some(b"\r") => return Ok(Progress::Missing(1)),
        _ => return Err(Malformed::Wrong("the line of the PROXY header does not end in CR LF")),
    };
    if text == b"UNKNOWN" || text.starts_with(b"UNKNOWN ") {
        return Ok(Progress::Whole(Said::Unknown));
    }
    let said = std::str::from_utf8(text).ok().and_then(addresses);
    said.map(Progress::Whole).ok_or(Malformed::Wrong("the line of the PROXY header is not what the protocol says"))
}

fn addresses(text: &str) -> Option<Said> {
    let mut words = text.split(' ');
    let family = words.next()?;
    let mut word = || words.next();
    let (source, destination) = (word()?, word()?);
    let (from, to) = (port(word()?)?, port(word()?)?);
    if word().is_some() {
        return None;
    }
    match family {
        "TCP4" => tcp::<Ipv4Addr>(source, destination, from, to),
        "TCP6" => tcp::<Ipv6Addr>(source, destination, from, to),
        _ => None,
    }
}

fn tcp<A: FromStr + Into<IpAddr>>(source: &str, destination: &str, from: u16, to: u16) -> Option<Said> {
    let address = |text: &str| text.parse::<A>().ok().map(Into::into);
    Some(Said::Tcp {
        client: SocketAddr::new(address(source)?, from),
        server: SocketAddr::new(address(destination)?, to),
    })
}

/// A decimal number without sign and leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Progress, Malformed> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
        return Ok(Progress::Missing(FIXED - bytes.len()));
    };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if command >> 4 != 2 {
        return Err(Malformed::Wrong("the PROXY header has another version than 1 and 2"));
    }
    if FIXED + length > LONGEST {
        return Err(Malformed::TooLong);
    }
    if let Some(missing) = length.checked_sub(rest.len()).filter(|missing| *missing > 0) {
        return Ok(Progress::Missing(missing));
    }
    let Some(block) = rest.get(..length).filter(|block| block.len() == rest.len()) else {
        return Err(Malformed::Wrong("there is something behind the PROXY header"));
    };
    match command & 0xf {
        // Whatever else it says is to be ignored.
        0 => Ok(Progress::Whole(Said::Local)),
        1 => {
            let (said, tlvs) = block_of(family, block)?;
            check_tlvs(bytes, tlvs)?;
            Ok(Progress::Whole(said))
        }
        _ => Err(Malformed::Wrong("the PROXY header has a command that is not assigned")),
    }
}

/// The addresses, and the TLVs behind them.
fn block_of(family: u8, block: &[u8]) -> Result<(Said, &[u8]), Malformed> {
    let short = Malformed::Wrong("the PROXY header is too short for its addresses");
    match family {
        0x00 => Ok((Said::Unknown, block)),
        0x11 => inet::<4>(block).ok_or(short),
        0x21 => inet::<16>(block).ok_or(short),
        0x31 => Ok((Said::Unix, block.get(216..).ok_or(short)?)),
        _ => Err(Malformed::Wrong("the PROXY header has a family that no connection has")),
    }
}

/// Two addresses, two ports.
fn inet<const LENGTH: usize>(block: &[u8]) -> Option<(Said, &[u8])>
where
    IpAddr: From<[u8; LENGTH]>,
{
    let (source, rest) = block.split_first_chunk::<LENGTH>()?;
    let (destination, rest) = rest.split_first_chunk::<LENGTH>()?;
    let (from, rest) = rest.split_first_chunk()?;
    let (to, tlvs) = rest.split_first_chunk()?;
    let said = Said::Tcp {
        client: SocketAddr::new((*source).into(), u16::from_be_bytes(*from)),
        server: SocketAddr::new((*destination).into(), u16::from_be_bytes(*to)),
    };
    Some((said, tlvs))
}

/// Whether the TLVs fit, and the checksum is right if there is one.
fn check_tlvs(header: &[u8], tlvs: &[u8]) -> Result<(), Malformed> {
    let past = Malformed::Wrong("a TLV of the PROXY header goes past its end");
    let mut rest = tlvs;
    let mut checksum = None;
    while !rest.is_empty() {
        let ([kind, high, low], behind) = rest.split_first_chunk().ok_or(past)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, behind) = behind.split_at_checked(length).ok_or(past)?;
        if *kind == CRC32C {
            let sum = <[u8; 4]>::try_from(value)
                .map_err(|_length| Malformed::Wrong("the checksum of the PROXY header has another length"))?;
            let at = header.len() - behind.len() - sum.len();
            if checksum.replace((at, u32::from_be_bytes(sum))).is_some() {
                return Err(Malformed::Wrong("the PROXY header has two checksums"));
            }
        }
        rest = behind;
    }
    let Some((at, sum)) = checksum else { return Ok(()) };
    // It is calculated with zeros in its own place.
    let blank = header.iter().enumerate().map(|(i, byte)| if (at..at + 4).contains(&i) { 0 } else { *byte });
    if crc32c(blank) == sum { Ok(()) } else { Err(Malformed::Checksum) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::Version, super::write, *};

    fn whole(bytes: &[u8]) -> Result<Said, Malformed> {
        match read(bytes)? {
            Progress::Whole(said) => Ok(said),
            Progress::Missing(missing) => panic!("{missing} bytes are missing of {bytes:?}"),
        }
    }

    fn tcp(client: &str, server: &str) -> Said {
        Said::Tcp { client: client.parse().unwrap(), server: server.parse().unwrap() }
    }

    /// A header of version 2.
    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, block].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0xdd, 0xd5, 1, 0xbb];

    fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
        v2(0x21, 0x11, &[&V4[..], tlvs].concat())
    }

    #[test]
    fn lines_are_read() {
        for (line, said) in [
            ("PROXY TCP4 192.0.2.7 10.0.0.1 56789 443\r\n", tcp("192.0.2.7:56789", "10.0.0.1:443")),
            ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", {
                tcp("255.255.255.255:65535", "255.255.255.255:65535")
            }),
            ("PROXY TCP6 2001:db8::7 ::1 0 80\r\n", tcp("[2001:db8::7]:0", "[::1]:80")),
            ("PROXY TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1 1 2\r\n", tcp("[::ffff:192.0.2.7]:1", "[::ffff:10.0.0.1]:2")),
            ("PROXY UNKNOWN\r\n", Said::Unknown),
            ("PROXY UNKNOWN ffff:f:f 1 anything at all\r\n", Said::Unknown),
        ] {
            assert_eq!(whole(line.as_bytes()), Ok(said), "{line}");
        }
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(LONGEST_LINE - 16));
        assert_eq!(whole(longest.as_bytes()), Ok(Said::Unknown));
    }

    #[test]
    fn lines_that_are_none_are_refused() {
        for line in [
            "PROXY TCP4 192.0.2.7 10.0.0.1 56789\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 56789 443 \r\n",
            "PROXY TCP4  192.0.2.7 10.0.0.1 56789 443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 56789 443 1\r\n",
            "PROXY TCP4 192.0.2.07 10.0.0.1 56789 443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 056789 443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 +1 443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 65536 443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 1 443\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 1 443\r\r\n",
            "PROXY TCP4 ::1 ::1 1 443\r\n",
            "PROXY TCP6 192.0.2.7 10.0.0.1 1 443\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 443\r\n",
            "PROXY TCP6 ::1 10.0.0.1 1 443\r\n",
            "PROXY tcp4 192.0.2.7 10.0.0.1 1 443\r\n",
            "PROXY UDP4 192.0.2.7 10.0.0.1 1 443\r\n",
            "PROXY UNKNOWNS\r\n.",
            "PROXY \u{fc}NKNOWN\r\n",
        ] {
            assert!(matches!(read(line.as_bytes()), Err(Malformed::Wrong(_))), "{line}: {:?}", read(line.as_bytes()));
        }
        let long = format!("PROXY UNKNOWN {}", "f".repeat(LONGEST_LINE));
        for length in LONGEST_LINE - 1..long.len() {
            assert_eq!(read(&long.as_bytes()[..length]), Err(Malformed::TooLong), "{length}");
        }
        let long = format!("PROXY UNKNOWN {}\r", "f".repeat(LONGEST_LINE - 15));
        assert_eq!(read(long.as_bytes()), Err(Malformed::TooLong));
    }

    #[test]
    fn what_is_something_else_is_known_by_its_first_byte() {
        for bytes in [
            &b"G"[..],
            b"GET / HTTP/1.1\r\n",
            b"\x16\x03",
            b"PRI",
            b"PUT",
            b"PROXZ",
            b"\r\nG",
            b"\r\n\r\n\x01",
            b"proxy ",
        ] {
            assert_eq!(read(bytes), Err(Malformed::Absent), "{bytes:?}");
        }
        for bytes in [&b""[..], b"P", b"PROXY ", b"\r", b"\r\n\r\n\0\r\nQUIT\n"] {
            assert_eq!(read(bytes), Ok(Progress::Missing(SHORTEST - bytes.len())), "{bytes:?}");
        }
    }

    #[test]
    fn binary_headers_are_read() {
        assert_eq!(whole(&with_tlvs(&[])), Ok(tcp("192.0.2.7:56789", "10.0.0.1:443")));
        assert_eq!(whole(&with_tlvs(&[0xea, 0, 2, 1, 2, 4, 0, 0])), Ok(tcp("192.0.2.7:56789", "10.0.0.1:443")));
        let v6 = [&[0x20; 16][..], &[0xfd; 16], &[0, 1, 0, 2]].concat();
        let client = "[2020:2020:2020:2020:2020:2020:2020:2020]:1";
        assert_eq!(whole(&v2(0x21, 0x21, &v6)), Ok(tcp(client, "[fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd]:2")));
        assert_eq!(whole(&v2(0x21, 0x31, &[b'/'; 216])), Ok(Said::Unix));
        assert_eq!(whole(&v2(0x21, 0x00, &[])), Ok(Said::Unknown));
        assert_eq!(whole(&v2(0x20, 0x00, &[])), Ok(Said::Local));
        assert_eq!(whole(&v2(0x20, 0xff, &[1, 2, 3])), Ok(Said::Local), "what stands behind LOCAL is ignored");
    }

    #[test]
    fn binary_headers_that_do_not_fit_are_refused() {
        for (command, family, block) in [
            (0x11, 0x11, &V4[..]),
            (0x31, 0x11, &V4),
            (0x22, 0x11, &V4),
            (0x21, 0x12, &V4),
            (0x21, 0x10, &V4),
            (0x21, 0x01, &V4),
            (0x21, 0x41, &V4),
            (0x21, 0x11, &V4[1..]),
            (0x21, 0x21, &V4),
            (0x21, 0x21, &[0; 35]),
            (0x21, 0x31, &[0; 215]),
            (0x21, 0x00, &[4]),
        ] {
            let read = read(&v2(command, family, block));
            assert!(matches!(read, Err(Malformed::Wrong(_))), "{command:x} {family:x}: {read:?}");
        }
        for tlvs in [&[1][..], &[1, 0], &[1, 0, 1], &[1, 0xff, 0xff, 0], &[4, 0, 0, 1], &[3, 0, 3, 0, 0, 0], &[3, 0, 0]]
        {
            assert!(matches!(read(&with_tlvs(tlvs)), Err(Malformed::Wrong(_))), "{tlvs:?}");
        }
        let mut behind = with_tlvs(&[]);
        behind.push(0);
        assert!(matches!(read(&behind), Err(Malformed::Wrong(_))));
        let long = v2(0x20, 0, &vec![0; LONGEST - FIXED + 1]);
        assert_eq!(read(&long[..FIXED]), Err(Malformed::TooLong));
        assert_eq!(read(&v2(0x20, 0, &vec![0; LONGEST - FIXED])), Ok(Progress::Whole(Said::Local)));
    }

    #[test]
    fn a_checksum_is_verified_wherever_it_stands() {
        for (before, behind) in [(&[][..], &[][..]), (&[4, 0, 1, 9], &[]), (&[], &[0xea, 0, 2, 1, 2])] {
            let mut header = with_tlvs(&[before, &[CRC32C, 0, 4, 0, 0, 0, 0], behind].concat());
            let at = FIXED + V4.len() + before.len() + 3;
            let sum = crc32c(header.iter().copied());
            header[at..at + 4].copy_from_slice(&sum.to_be_bytes());
            assert!(whole(&header).is_ok());
            // Without its type it is no checksum any more.
            for i in (FIXED..header.len()).filter(|i| *i != at - 3) {
                let mut changed = header.clone();
                changed[i] ^= 1;
                assert!(read(&changed).is_err(), "byte {i}");
            }
        }
        let twice = with_tlvs(&[CRC32C, 0, 4, 0, 0, 0, 0, CRC32C, 0, 4, 0, 0, 0, 0]);
        assert_eq!(read(&twice), Err(Malformed::Wrong("the PROXY header has two checksums")));
    }

    fn said() -> impl Strategy<Value = Said> {
        let ports = (any::<u16>(), any::<u16>());
        let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>(), ports);
        let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>(), ports);
        let of = |a: IpAddr, b: IpAddr, (from, to): (u16, u16)| {
            // The same address in another form is written in its usual one.
            Said::Tcp { client: (a.to_canonical(), from).into(), server: (b.to_canonical(), to).into() }
        };
        prop_oneof![
            Just(Said::Local),
            Just(Said::Unknown),
            v4.prop_map(move |(a, b, ports)| of(a.into(), b.into(), ports)),
            v6.prop_map(move |(a, b, ports)| of(a.into(), b.into(), ports)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_byte_by_byte_and_never_too_far(said in said(), v1 in any::<bool>()) {
            let version = if v1 { Version::V1 } else { Version::V2 };
            let bytes = write(version, &said);
            let mut there = 0;
            let read = loop {
                match read(&bytes[..there]).unwrap() {
                    Progress::Missing(missing) => {
                        prop_assert!(missing > 0 && there + missing <= bytes.len(), "{there} + {missing}");
                        // However few come at a time.
                        for fewer in 1..missing {
                            prop_assert!(matches!(read(&bytes[..there + fewer]), Ok(Progress::Missing(_))));
                        }
                        there += missing;
                    }
                    Progress::Whole(said) => break said,
                }
            };
            prop_assert_eq!(there, bytes.len());
            let wanted = if v1 && said == Said::Local { Said::Unknown } else { said };
            prop_assert_eq!(read, wanted);
        }

        #[test]
        fn whatever_comes_is_taken_or_refused(start in 0_usize..3, rest in prop::collection::vec(any::<u8>(), 0..300)) {
            let start = [&b""[..], PROXY, SIGNATURE][start];
            let bytes = [start, &rest].concat();
            if let Ok(Progress::Missing(missing)) = read(&bytes) {
                prop_assert!(missing > 0 && bytes.len() + missing <= LONGEST);
            }
        }
    }
}
