//! Bodies, taken apart by what they are: forms, JSON, XML, and forms with files.
//!
//! A body that is not what it says it is, is refused: whoever reads it differently than the gateway would see what was not looked at.

use std::borrow::Cow;

use serde::de::{self, DeserializeSeed, Deserializer};

use super::{
    facts::{MAX_MEMBERS, cut, form},
    multipart::multipart,
    xml::xml,
};

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
    /// How many bytes that is.
    size: usize,
}

/// The names and values of a body together have at most so many bytes: a name can be there once, and stand for thousands of values.
const MAX_SIZE: usize = 256 << 10;

impl Parts<'_> {
    /// Makes room for so many bytes.
    pub(super) fn take(&mut self, size: usize) -> Result<(), Broken> {
        self.size = self.size.saturating_add(size);
        if self.size > MAX_SIZE { Err(Broken("the body becomes too large when it is taken apart")) } else { Ok(()) }
    }
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

/// Whether a body has more in it than what is said: names of elements, files.
pub(super) fn has_markup(processor: &str) -> bool {
    processor == MULTIPART || processor == XML
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
        MULTIPART => multipart(media_type, body, into),
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
        self.into.take(self.name.len() + value.len()).map_err(|Broken(why)| E::custom(why))?;
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
                return if at == 0 { self.note(Vec::new()) } else { Ok(()) };
            }
            at += 1;
        }
    }

    fn visit_map<A: de::MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut is_empty = true;
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            is_empty = false;
            let length = self.within(key.as_bytes());
            map.next_value_seed(Walk { name: &mut *self.name, into: &mut *self.into })?;
            self.name.truncate(length);
        }
        // A name without a value is still a name.
        if is_empty { self.note(Vec::new()) } else { Ok(()) }
    }
}
