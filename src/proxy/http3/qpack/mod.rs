//! Header sections of HTTP/3 as bytes ([RFC 9204](https://www.rfc-editor.org/rfc/rfc9204)).
//!
//! The gateway says that it keeps no dynamic table, so a section refers to the static one at most: it can be read by itself,
//! takes no memory between requests, and nobody waits for another stream. What it writes is the same, without Huffman code.

mod table;

use http::{HeaderMap, StatusCode};

use self::table::STATIC;
pub(super) use crate::proxy::coded::Malformed;
use crate::proxy::coded::Rest;

fn entry(index: usize) -> Result<(&'static str, &'static str), Malformed> {
    STATIC.get(index).copied().ok_or(Malformed)
}

/// Hands each field of a section to `each`, in order, until that has enough.
pub(super) fn decode<E>(
    section: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
) -> Result<Result<(), E>, Malformed> {
    let mut rest = Rest(section);
    let (mut name_space, mut value_space) = (Vec::new(), Vec::new());
    // Required Insert Count and Base: without a dynamic table there is nothing to refer to.
    if rest.byte()? != 0 {
        return Err(Malformed);
    }
    let base = rest.byte()?;
    rest.number(base, 7)?;
    while let Ok(first) = rest.byte() {
        let seen = if first & 0xc0 == 0xc0 {
            let (name, value) = entry(rest.number(first, 6)?)?;
            each(name.as_bytes(), value.as_bytes())
        } else if first & 0xd0 == 0x50 {
            let (name, _) = entry(rest.number(first, 4)?)?;
            let length = rest.byte()?;
            each(name.as_bytes(), rest.string(length, 7, &mut value_space)?)
        } else if first & 0xe0 == 0x20 {
            let name = rest.string(first, 3, &mut name_space)?;
            let length = rest.byte()?;
            each(name, rest.string(length, 7, &mut value_space)?)
        } else {
            // Everything else refers to the dynamic table.
            return Err(Malformed);
        };
        if seen.is_err() {
            return Ok(seen);
        }
    }
    Ok(Ok(()))
}

fn put_number(out: &mut Vec<u8>, pattern: u8, bits: u32, value: usize) {
    let max = u8::MAX >> (8 - bits);
    let mut left = match u8::try_from(value) {
        Ok(small) if small < max => return out.push(pattern | small),
        _ => value - usize::from(max),
    };
    out.push(pattern | max);
    while left >= 0x80 {
        out.push(0x80 | u8::try_from(left & 0x7f).unwrap_or_default());
        left >>= 7;
    }
    out.push(u8::try_from(left).unwrap_or_default());
}

fn put_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    if let Some(index) = number_of(name) {
        put_number(out, 0x50, 4, index);
    } else {
        put_number(out, 0x20, 3, name.len());
        out.extend_from_slice(name.as_bytes());
    }
    put_number(out, 0, 7, value.len());
    out.extend_from_slice(value);
}

/// The section of a response, or of trailers if there is no status.
pub(super) fn encode(status: Option<StatusCode>, headers: &HeaderMap) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&[0, 0]);
    if let Some(status) = status {
        let known = STATIC.iter().position(|(name, value)| *name == ":status" && *value == status.as_str());
        match known {
            Some(index) => put_number(&mut out, 0xc0, 6, index),
            None => put_field(&mut out, ":status", status.as_str().as_bytes()),
        }
    }
    for (name, value) in headers {
        put_field(&mut out, name.as_str(), value.as_bytes());
    }
    out
}

/// How large a section is ([RFC 9114, 4.2.2](https://www.rfc-editor.org/rfc/rfc9114#section-4.2.2)).
pub(super) fn size(headers: &HeaderMap) -> usize {
    let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + OVERHEAD);
    fields.sum::<usize>() + ":status".len() + 3 + OVERHEAD
}

/// What each field counts, whatever it is.
pub(super) const OVERHEAD: usize = 32;

/// The number of a name in the static table, for those that responses have.
fn number_of(name: &str) -> Option<usize> {
    Some(match name {
        ":status" => 24,
        "age" => 2,
        "content-disposition" => 3,
        "content-length" => 4,
        "date" => 6,
        "etag" => 7,
        "last-modified" => 10,
        "link" => 11,
        "location" => 12,
        "set-cookie" => 14,
        "accept-ranges" => 32,
        "access-control-allow-headers" => 33,
        "access-control-allow-origin" => 35,
        "cache-control" => 36,
        "content-encoding" => 42,
        "content-type" => 44,
        "strict-transport-security" => 56,
        "vary" => 59,
        "x-content-type-options" => 61,
        "access-control-allow-credentials" => 73,
        "access-control-allow-methods" => 76,
        "access-control-expose-headers" => 79,
        "alt-svc" => 83,
        "content-security-policy" => 85,
        "server" => 92,
        "x-frame-options" => 97,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn fields(section: &[u8]) -> Result<Vec<(String, String)>, Malformed> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut all = Vec::new();
        let done = decode(section, |name, value| {
            all.push((text(name), text(value)));
            Ok::<_, ()>(())
        });
        done.map(|_| all)
    }

    #[test]
    fn a_section_of_the_rfc_is_read() {
        // RFC 9204, B.1
        let section = [&[0, 0, 0x51, 0x0b][..], b"/index.html"].concat();
        assert_eq!(fields(&section).unwrap(), [(":path".to_owned(), "/index.html".to_owned())]);
    }

    #[test]
    fn what_is_written_is_read() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("content-type", "text/plain"), ("x-own", &*"v".repeat(300)), ("set-cookie", "a=b")] {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers.append("set-cookie", HeaderValue::from_static("c=d"));
        for status in [200, 418] {
            let read = fields(&encode(StatusCode::from_u16(status).ok(), &headers)).unwrap();
            assert_eq!(read[0], (":status".to_owned(), status.to_string()));
            let mut rest: Vec<_> = read[1..].iter().map(|(name, value)| (name.as_str(), value.len())).collect();
            rest.sort_unstable();
            assert_eq!(rest, [("content-type", 10), ("set-cookie", 3), ("set-cookie", 3), ("x-own", 300)]);
        }
        assert_eq!(fields(&encode(None, &HeaderMap::new())).unwrap(), []);
    }

    #[test]
    fn names_have_the_numbers_of_the_table() {
        let all = STATIC.iter().enumerate();
        for (at, (name, _)) in all {
            if let Some(number) = number_of(name) {
                assert_eq!(STATIC[number].0, *name, "{at}");
            }
        }
    }

    #[test]
    fn whatever_needs_a_dynamic_table_or_is_cut_off_is_malformed() {
        for section in [
            &[][..],
            &[0],
            &[1, 0, 0xc1],
            &[0, 0, 0x80],
            &[0, 0, 0x10],
            &[0, 0, 0x40, 0],
            &[0, 0, 0xff, 0x24],
            &[0, 0, 0x51, 5, b'/'],
            &[0, 0, 0x21, b'a'],
            &[0, 0, 0x51, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        ] {
            assert_eq!(fields(section), Err(Malformed), "{section:?}");
        }
    }
}
