//! Undoes how a body is encoded for the way, once, as the upstream will.
//!
//! What stands beside the data, in the header of gzip or behind the end, is refused: an upstream that overlooks `Content-Encoding` would read it.

use std::{borrow::Cow, io::Read};

use flate2::bufread::{DeflateDecoder, GzDecoder, ZlibDecoder};
use http::{HeaderMap, header};

/// Why a body cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Undone {
    /// It is not what it says.
    Broken(&'static str),
    /// It becomes too large, or it is encoded in a way that is not known here.
    Beyond,
}

const BROKEN: Undone = Undone::Broken("the body is not encoded as it says");

/// What a body is, within `max` bytes.
pub(super) fn undo<'a>(headers: &HeaderMap, body: &'a [u8], max: usize) -> Result<Cow<'a, [u8]>, Undone> {
    let mut said = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(encoding) = said.next().filter(|_| !body.is_empty()) else { return Ok(Cow::Borrowed(body)) };
    if said.next().is_some() {
        return Err(Undone::Beyond);
    }
    let encoding = encoding.as_bytes().trim_ascii();
    let is = |names: &[&str]| names.iter().any(|name| encoding.eq_ignore_ascii_case(name.as_bytes()));
    if is(&["identity", ""]) {
        return Ok(Cow::Borrowed(body));
    }
    if is(&["gzip", "x-gzip"]) {
        let mut decoder = GzDecoder::new(body);
        let out = read(&mut decoder, max)?;
        let bare = decoder.header().is_some_and(|header| {
            header.filename().is_none() && header.comment().is_none() && header.extra().is_none()
        });
        return if bare && decoder.into_inner().is_empty() { Ok(Cow::Owned(out)) } else { Err(BROKEN) };
    }
    if !is(&["deflate"]) {
        return Err(Undone::Beyond);
    }
    // Meant is zlib; some send what is within it.
    let mut zlib = ZlibDecoder::new(body);
    let (out, used) = match read(&mut zlib, max) {
        Ok(out) => (out, zlib.total_in()),
        Err(Undone::Beyond) => return Err(Undone::Beyond),
        Err(Undone::Broken(_)) => {
            let mut bare = DeflateDecoder::new(body);
            (read(&mut bare, max)?, bare.total_in())
        }
    };
    if usize::try_from(used).is_ok_and(|used| used == body.len()) { Ok(Cow::Owned(out)) } else { Err(BROKEN) }
}

fn read(decoder: &mut impl Read, max: usize) -> Result<Vec<u8>, Undone> {
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let mut out = Vec::new();
    decoder.take(limit).read_to_end(&mut out).map_err(|_error| BROKEN)?;
    if out.len() > max { Err(Undone::Beyond) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use flate2::{
        Compression, GzBuilder,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };

    use super::*;

    fn undone(encoding: &str, body: &[u8]) -> Result<Vec<u8>, Undone> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, encoding.parse().unwrap());
        undo(&headers, body, 10).map(Cow::into_owned)
    }

    #[test]
    fn what_is_encoded_is_undone_and_nothing_stands_beside_it() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::fast());
        let mut named = GzBuilder::new().comment("&q=evil").write(Vec::new(), Compression::fast());
        let all: [&mut dyn std::io::Write; 4] = [&mut gzip, &mut zlib, &mut bare, &mut named];
        for one in all {
            one.write_all(b"hello").unwrap();
        }
        let (gzip, zlib, bare, named) =
            (gzip.finish().unwrap(), zlib.finish().unwrap(), bare.finish().unwrap(), named.finish().unwrap());
        for (encoding, body) in [("gzip", &gzip), ("GZip", &gzip), ("deflate", &zlib), ("deflate", &bare)] {
            assert_eq!(undone(encoding, body).unwrap(), b"hello", "{encoding}");
            let behind = [&**body, b"&q=evil"].concat();
            assert!(matches!(undone(encoding, &behind), Err(Undone::Broken(_))), "{encoding}");
            assert!(matches!(undone(encoding, &body[..body.len() - 2]), Err(Undone::Broken(_))), "{encoding}");
        }
        assert!(matches!(undone("gzip", &named), Err(Undone::Broken(_))));
        assert!(matches!(undone("gzip", &[&*gzip, &*gzip].concat()), Err(Undone::Broken(_))));
        assert_eq!(undone("br", b"x"), Err(Undone::Beyond));
        assert_eq!(undone("identity", b"x").unwrap(), b"x");
    }
}
