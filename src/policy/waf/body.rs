//! Bodies, taken apart by what they are: forms, JSON, XML, and forms with files.
//!
//! A body that is not what it says it is, is refused: whoever reads it differently than the gateway would see what was not looked at.

use std::borrow::Cow;

use serde::de::{self, DeserializeSeed, Deserializer};

use super::facts::{MAX_MEMBERS, cut, form};

/// A body that is not what its media type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

/// A name and a value.
pub(super) type Pair<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// What a body has.
#[derive(Debug, Default)]
pub(super) struct Parts<'a> {
    pub(super) fields: Vec<Pair<'a>>,
    pub(super) files: Vec<File<'a>>,
    /// The lines of the headers of parts, by the name of the part.
    pub(super) headers: Vec<Pair<'a>>,
    /// What stands in the elements and attributes of XML.
    pub(super) texts: Vec<Cow<'a, [u8]>>,
}

/// A file in a form.
#[derive(Debug)]
pub(super) struct File<'a> {
    pub(super) field: Cow<'a, [u8]>,
    pub(super) name: Cow<'a, [u8]>,
    pub(super) size: usize,
}

pub(super) const URLENCODED: &str = "URLENCODED";
const MULTIPART: &str = "MULTIPART";
const JSON: &str = "JSON";
const XML: &str = "XML";

/// How a body is read that says it is this; empty for what has no parts.
pub(super) fn processor(media_type: &[u8]) -> &'static str {
    let kind = cut(media_type, b';').0.trim_ascii().to_ascii_lowercase();
    match &*kind {
        b"application/x-www-form-urlencoded" => URLENCODED,
        b"multipart/form-data" => MULTIPART,
        b"application/json" => JSON,
        b"application/xml" | b"text/xml" => XML,
        kind if kind.ends_with(b"+json") => JSON,
        kind if kind.ends_with(b"+xml") => XML,
        _ => "",
    }
}

/// The processor that a rule names.
pub(super) fn named(name: &str) -> Option<&'static str> {
    [URLENCODED, MULTIPART, JSON, XML].into_iter().find(|known| *known == name)
}

/// Takes a body apart.
pub(super) fn read<'a>(
    processor: &'static str,
    media_type: &[u8],
    body: &'a [u8],
    into: &mut Parts<'a>,
) -> Result<(), Broken> {
    match processor {
        // A client may announce JSON and send nothing.
        _ if body.is_empty() => Ok(()),
        URLENCODED => {
            into.fields.extend(form(body));
            Ok(())
        }
        MULTIPART => multipart(&boundary(media_type).ok_or(Broken("multipart has no boundary"))?, body, into),
        JSON => json(body, into),
        XML => xml(body, into),
        _ => Ok(()),
    }
}

fn json<'a>(body: &'a [u8], into: &mut Parts<'a>) -> Result<(), Broken> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let mut name = b"json".to_vec();
    let walk = Walk { name: &mut name, into };
    walk.deserialize(&mut reader).map_err(|_error| Broken("the body is no JSON, or too deep"))?;
    reader.end().map_err(|_error| Broken("there is something behind the JSON"))
}

/// Goes through a JSON document and notes each value by its way; keys that are there twice count twice.
struct Walk<'w, 'a> {
    name: &'w mut Vec<u8>,
    into: &'w mut Parts<'a>,
}

impl Walk<'_, '_> {
    fn note<E: de::Error>(self, value: Vec<u8>) -> Result<(), E> {
        if self.into.fields.len() >= MAX_MEMBERS {
            return Err(E::custom("too many values"));
        }
        self.into.fields.push((Cow::Owned(self.name.clone()), Cow::Owned(value)));
        Ok(())
    }

    fn within(&mut self, key: &[u8]) -> usize {
        let length = self.name.len();
        self.name.push(b'.');
        self.name.extend_from_slice(key);
        length
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> de::Visitor<'de> for Walk<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.note(value.to_string().into_bytes())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.note(value.to_string().into_bytes())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.note(value.to_string().into_bytes())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.note(value.to_string().into_bytes())
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.note(value.as_bytes().to_vec())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.note(Vec::new())
    }

    fn visit_seq<A: de::SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        let mut at = 0usize;
        loop {
            let length = self.within(format!("array_{at}").as_bytes());
            let more = list.next_element_seed(Walk { name: &mut *self.name, into: &mut *self.into })?;
            self.name.truncate(length);
            if more.is_none() {
                return Ok(());
            }
            at += 1;
        }
    }

    fn visit_map<A: de::MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            let length = self.within(key.as_bytes());
            map.next_value_seed(Walk { name: &mut *self.name, into: &mut *self.into })?;
            self.name.truncate(length);
        }
        Ok(())
    }
}

fn xml<'a>(body: &'a [u8], into: &mut Parts<'a>) -> Result<(), Broken> {
    const BROKEN: Broken = Broken("the body is no XML");
    if body.contains(&0) {
        return Err(Broken("the XML is not UTF-8"));
    }
    let mut reader = quick_xml::Reader::from_reader(body);
    let mut depth = 0usize;
    loop {
        let event = reader.read_event().map_err(|_error| BROKEN)?;
        let text = match event {
            quick_xml::events::Event::Start(tag) => {
                depth += 1;
                attributes(&tag, into)?;
                continue;
            }
            quick_xml::events::Event::Empty(tag) => {
                attributes(&tag, into)?;
                continue;
            }
            quick_xml::events::Event::End(_) => {
                depth = depth.saturating_sub(1);
                continue;
            }
            quick_xml::events::Event::Text(text) => bytes(text.into_inner()),
            quick_xml::events::Event::CData(text) => bytes(text.into_inner()),
            // Entities of its own are how a document grows, or reads files.
            quick_xml::events::Event::DocType(_) => return Err(Broken("XML with a document type is not looked at")),
            quick_xml::events::Event::GeneralRef(name) => entity(&name)?,
            quick_xml::events::Event::Eof if depth == 0 => return Ok(()),
            quick_xml::events::Event::Eof => return Err(BROKEN),
            quick_xml::events::Event::Comment(_)
            | quick_xml::events::Event::Decl(_)
            | quick_xml::events::Event::PI(_) => continue,
        };
        join_text(text, into);
    }
}

fn bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

fn entity(name: &quick_xml::events::BytesRef<'_>) -> Result<Cow<'static, [u8]>, Broken> {
    let wrong = Broken("the body has an entity that XML does not know");
    if let Some(letter) = name.resolve_char_ref().map_err(|_error| wrong)? {
        return Ok(Cow::Owned(letter.to_string().into_bytes()));
    }
    let byte = match &**name {
        "lt" => b'<',
        "gt" => b'>',
        "amp" => b'&',
        "quot" => b'"',
        "apos" => b'\'',
        _ => return Err(wrong),
    };
    Ok(Cow::Owned(vec![byte]))
}

/// The text of the whole document is one value, as in ModSecurity: an attack may be cut up by elements.
fn join_text<'a>(text: Cow<'a, [u8]>, into: &mut Parts<'a>) {
    match into.texts.first_mut() {
        Some(whole) => whole.to_mut().extend_from_slice(&text),
        None => into.texts.push(text),
    }
}

fn attributes(tag: &quick_xml::events::BytesStart<'_>, into: &mut Parts<'_>) -> Result<(), Broken> {
    if into.texts.is_empty() {
        into.texts.push(Cow::Borrowed(b""));
    }
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|_error| Broken("the body is no XML"))?;
        if into.texts.len() >= MAX_MEMBERS {
            return Err(Broken("the body has too many attributes"));
        }
        into.texts.push(Cow::Owned(attribute.value.into_owned().into_bytes()));
    }
    Ok(())
}

fn boundary(media_type: &[u8]) -> Option<Vec<u8>> {
    let found = parameter(cut(media_type, b';').1, b"boundary")?;
    (!found.is_empty() && found.len() <= 70).then_some(found)
}

/// The value of a parameter: a word, or a text in quotes.
fn parameter(mut rest: &[u8], wanted: &[u8]) -> Option<Vec<u8>> {
    while !rest.is_empty() {
        let equals = memchr::memchr2(b'=', b';', rest)?;
        let (name, behind) = rest.split_at_checked(equals)?;
        if behind.starts_with(b";") {
            rest = behind.get(1..)?;
            continue;
        }
        let (value, after) = value(behind.get(1..)?.trim_ascii_start());
        if name.trim_ascii().eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = after;
    }
    None
}

/// A value, and what stands behind the next semicolon.
fn value(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let (value, after) = cut(text, b';');
        return (value.trim_ascii().to_vec(), after);
    };
    let mut value = Vec::new();
    let mut rest = quoted;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match (*first, after.split_first()) {
            (b'"', _) => break,
            (b'\\', Some((next @ (b'"' | b'\\'), behind))) => {
                value.push(*next);
                rest = behind;
            }
            (other, _) => value.push(other),
        }
    }
    (value, cut(rest, b';').1)
}

/// [RFC 7578](https://www.rfc-editor.org/rfc/rfc7578), and no more lenient than it: each part ends in a line with the boundary.
fn multipart<'a>(boundary: &[u8], body: &'a [u8], into: &mut Parts<'a>) -> Result<(), Broken> {
    let first = [b"--", boundary].concat();
    let next = [b"\r\n--", boundary].concat();
    let mut rest = body.strip_prefix(&*first).ok_or(Broken("multipart does not begin with its boundary"))?;
    loop {
        if let Some(end) = rest.strip_prefix(b"--") {
            let clean = end.is_empty() || end == b"\r\n";
            return if clean { Ok(()) } else { Err(Broken("there is something behind the last part")) };
        }
        rest = rest.strip_prefix(b"\r\n").ok_or(Broken("the line of a boundary has something else"))?;
        let end = memchr::memmem::find(rest, &next).ok_or(Broken("the last part does not end"))?;
        let (piece, behind) = rest.split_at_checked(end).unwrap_or((rest, b""));
        part(piece, into)?;
        rest = behind.get(next.len()..).unwrap_or_default();
    }
}

fn part<'a>(piece: &'a [u8], into: &mut Parts<'a>) -> Result<(), Broken> {
    let head = memchr::memmem::find(piece, b"\r\n\r\n").ok_or(Broken("a part has no header"))?;
    let (header, content) = piece.split_at_checked(head).unwrap_or((piece, b""));
    let content = content.get(4..).unwrap_or_default();
    let mut field = None;
    let mut file = None;
    let lines: Vec<&[u8]> = lines(header);
    for line in &lines {
        let (name, value) = cut(line, b':');
        if line.starts_with(b" ") || line.starts_with(b"\t") || name.len() == line.len() {
            return Err(Broken("the header of a part has a line that is none"));
        }
        if !name.trim_ascii().eq_ignore_ascii_case(b"content-disposition") {
            continue;
        }
        let parameters = cut(value, b';').1;
        if field.is_some() || parameter(parameters, b"filename*").is_some() {
            return Err(Broken("a part has two names"));
        }
        field = Some(parameter(parameters, b"name").ok_or(Broken("a part has no name"))?);
        file = parameter(parameters, b"filename");
    }
    let field = field.ok_or(Broken("a part has no name"))?;
    if into.fields.len() + into.files.len() >= MAX_MEMBERS {
        return Err(Broken("the form has too many parts"));
    }
    let named = |line: &&'a [u8]| (Cow::Owned(field.clone()), Cow::Borrowed(*line));
    into.headers.extend(lines.iter().map(named));
    match file {
        Some(name) => {
            into.files.push(File { field: Cow::Owned(field), name: Cow::Owned(name), size: content.len() });
        }
        None => into.fields.push((Cow::Owned(field), Cow::Borrowed(content))),
    }
    Ok(())
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = memchr::memmem::find(rest, b"\r\n") {
        let (line, behind) = rest.split_at_checked(end).unwrap_or((rest, b""));
        lines.push(line);
        rest = behind.get(2..).unwrap_or_default();
    }
    lines.push(rest);
    lines
}
