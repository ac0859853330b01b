//! Undoes how a body is encoded for the way, once, as the upstream will.

use std::{borrow::Cow, io::Read as _};

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header};

/// Why a body cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Undone {
    /// It is not what it says.
    Broken(&'static str),
    /// It becomes too large, or it is encoded in a way that is not known here.
    Beyond,
}

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
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let mut out = Vec::new();
    let read = if is(&["gzip", "x-gzip"]) {
        MultiGzDecoder::new(body).take(limit).read_to_end(&mut out)
    } else if is(&["deflate"]) {
        // Meant is zlib; some send what is within it.
        let zlib = ZlibDecoder::new(body).take(limit).read_to_end(&mut out);
        zlib.or_else(|_error| {
            out.clear();
            DeflateDecoder::new(body).take(limit).read_to_end(&mut out)
        })
    } else {
        return Err(Undone::Beyond);
    };
    read.map_err(|_error| Undone::Broken("the body is not encoded as it says"))?;
    if out.len() > max { Err(Undone::Beyond) } else { Ok(Cow::Owned(out)) }
}
