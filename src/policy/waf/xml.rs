//! XML: the text of a document as one value, because an attack may be cut up by elements, and the value of each attribute.
//!
//! What readers of XML do differently is refused: document types, entities of their own, encodings other than UTF-8, text beside the one root.

use std::borrow::Cow;

use quick_xml::{
    Reader,
    events::{BytesDecl, BytesRef, BytesStart, Event},
};

use super::{
    body::{Broken, Parts},
    facts::MAX_MEMBERS,
};

const BROKEN: Broken = Broken("the body is no XML");

/// Takes a document apart.
pub(super) fn xml<'a>(body: &'a [u8], into: &mut Parts<'a>) -> Result<(), Broken> {
    if body.contains(&0) {
        return Err(Broken("the XML is not UTF-8"));
    }
    into.texts.push(Cow::Borrowed(b""));
    let mut reader = Reader::from_reader(body);
    let (mut depth, mut roots) = (0usize, 0usize);
    loop {
        match reader.read_event().map_err(|_error| BROKEN)? {
            Event::Start(tag) => {
                roots += usize::from(depth == 0);
                depth += 1;
                element(&tag, into)?;
            }
            Event::Empty(tag) => {
                roots += usize::from(depth == 0);
                element(&tag, into)?;
            }
            Event::End(_) => depth = depth.saturating_sub(1),
            Event::Text(text) if depth == 0 => {
                if !text.trim_ascii().is_empty() {
                    return Err(BROKEN);
                }
            }
            Event::Text(text) => join(text.as_bytes(), into)?,
            Event::CData(text) if depth > 0 => join(text.as_bytes(), into)?,
            Event::GeneralRef(name) if depth > 0 => join(&reference(&name)?, into)?,
            // Entities of its own are how a document grows, or reads files.
            Event::DocType(_) => return Err(Broken("XML with a document type is not looked at")),
            Event::Decl(said) => encoding(&said)?,
            Event::Eof if depth == 0 && roots == 1 => return Ok(()),
            Event::CData(_) | Event::GeneralRef(_) | Event::Eof => return Err(BROKEN),
            Event::Comment(_) | Event::PI(_) => {}
        }
    }
}

fn encoding(said: &BytesDecl<'_>) -> Result<(), Broken> {
    let Some(encoding) = said.encoding() else { return Ok(()) };
    let encoding = encoding.map_err(|_error| BROKEN)?;
    let known = ["utf-8", "utf8", "us-ascii", "ascii"]
        .iter()
        .any(|known| known.as_bytes().eq_ignore_ascii_case(encoding.as_bytes()));
    if known { Ok(()) } else { Err(Broken("the XML is not UTF-8")) }
}

/// Its name and those of its attributes, and their values as they are read.
fn element(tag: &BytesStart<'_>, into: &mut Parts<'_>) -> Result<(), Broken> {
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|_error| BROKEN)?;
        if into.texts.len() > MAX_MEMBERS {
            return Err(Broken("the body has too many attributes"));
        }
        let value = quick_xml::escape::unescape(&attribute.value).map_err(|_error| UNKNOWN)?;
        into.take(value.len())?;
        into.texts.push(Cow::Owned(value.into_owned().into_bytes()));
    }
    Ok(())
}

const UNKNOWN: Broken = Broken("the body has an entity that XML does not know");

fn reference(name: &BytesRef<'_>) -> Result<Vec<u8>, Broken> {
    if let Some(letter) = name.resolve_char_ref().map_err(|_error| UNKNOWN)? {
        return Ok(letter.to_string().into_bytes());
    }
    let text = quick_xml::escape::resolve_predefined_entity(name).ok_or(UNKNOWN)?;
    Ok(text.as_bytes().to_vec())
}

fn join(text: &[u8], into: &mut Parts<'_>) -> Result<(), Broken> {
    into.take(text.len())?;
    if let Some(whole) = into.texts.first_mut() {
        whole.to_mut().extend_from_slice(text);
    }
    Ok(())
}
