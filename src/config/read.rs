//! Reads serde types from a [`Node`], so that every error knows the place and the way to it.

use std::fmt;

use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

use super::tree::{Entry, Node, Place, Value};
use crate::pace::give_way;

/// What went wrong while a type was read.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) message: String,
    /// Names that would have been right.
    pub(crate) candidates: &'static [&'static str],
    /// The name that was wrong, if it was a name.
    pub(crate) name: Option<String>,
    pub(crate) cause: Cause,
    place: Option<Place>,
    /// The way to the entry to drop, innermost step first.
    way: Vec<Turn>,
}

/// What kind of mistake it is, as far as recovery needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A key that does not belong.
    UnknownKey,
    /// A key that is not there.
    MissingKey(&'static str),
    /// Anything else: the value itself.
    Value,
}

/// A position in a list or mapping, counted with the dropped ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn(pub(crate) usize);

impl Fault {
    fn new(message: String) -> Self {
        Self { message, candidates: &[], name: None, cause: Cause::Value, place: None, way: Vec::new() }
    }

    fn at(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }

    fn through(mut self, index: usize) -> Self {
        self.way.push(Turn(index));
        self
    }

    /// Where it stands; the start of the file if nothing is known.
    pub(crate) fn place(&self) -> Place {
        self.place.unwrap_or_default()
    }

    /// The way from the root to the entry that is wrong.
    pub(crate) fn way(&self) -> impl Iterator<Item = Turn> {
        self.way.iter().rev().copied()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    // Values are not repeated in messages: they may be secret, and the snippet shows them if they are not.
    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match unexpected {
            de::Unexpected::Bool(_) => "a boolean",
            de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) | de::Unexpected::Float(_) => "a number",
            de::Unexpected::Str(_) | de::Unexpected::Char(_) => "a string",
            de::Unexpected::Unit | de::Unexpected::Option => "nothing",
            de::Unexpected::Seq => "a list",
            de::Unexpected::Map => "a mapping",
            de::Unexpected::Bytes(_)
            | de::Unexpected::NewtypeStruct
            | de::Unexpected::Enum
            | de::Unexpected::UnitVariant
            | de::Unexpected::NewtypeVariant
            | de::Unexpected::TupleVariant
            | de::Unexpected::StructVariant
            | de::Unexpected::Other(_) => "something else",
        };
        if expected.to_string() == "newtype variant" {
            return Self::new("this takes a value: `{ name: value }`".into());
        }
        let expected = in_words(expected);
        let hint = if expected == "a list" && found == "a string" { ": write it in `[ ]`" } else { "" };
        Self::new(format!("expected {expected}, found {found}{hint}"))
    }

    fn invalid_value(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(format!("expected {}", in_words(expected)))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self {
            candidates: expected,
            name: Some(field.to_owned()),
            cause: Cause::UnknownKey,
            ..Self::new(format!("unknown key `{field}`"))
        }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self { candidates: expected, name: Some(variant.to_owned()), ..Self::new(format!("unknown value `{variant}`")) }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { cause: Cause::MissingKey(field), ..Self::new(format!("`{field}` is missing")) }
    }
}

/// What is expected, in the words of someone who writes YAML.
fn in_words(expected: &dyn de::Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "u8" => "a whole number from 0 to 255".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "a nonzero u16" => "a whole number from 1 to 65535".into(),
        "a nonzero u32" => "a whole number from 1 to 4294967295".into(),
        "u32" | "u64" | "usize" => "a whole number".into(),
        "a boolean" => "`true` or `false`".into(),
        "a sequence" => "a list".into(),
        "a map" => "a mapping".into(),
        _ if text.starts_with("struct ") => "a mapping".into(),
        _ => text,
    }
}

impl<'de> de::Deserializer<'de> for &'de Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Signed(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_borrowed_str(value),
            Value::List(items) => visitor.visit_seq(Items { items, next: 0 }),
            Value::Map(entries) => visitor.visit_map(Entries { list: entries, next: 0, current: None }),
        }
        .map_err(|fault| fault.at(self.start()))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            // Whoever commented out what stood below may believe that it is still there, or that it has its defaults.
            Value::Null => Err(Fault::new(
                "nothing stands here: give it a value (`{}` for all defaults), or remove the key".into(),
            )
            .at(self.start())),
            Value::Bool(_)
            | Value::Unsigned(_)
            | Value::Signed(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Map(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    // `x-api-version: 2` means the text "2"; other numbers have more than one spelling.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Unsigned(value) => {
                visitor.visit_string(value.to_string()).map_err(|fault: Fault| fault.at(self.start()))
            }
            Value::Bool(_) | Value::Signed(_) | Value::Float(_) => {
                Err(Fault::new(format!("expected a string, found {}: write it in quotes", self.kind()))
                    .at(self.start()))
            }
            Value::Null | Value::Text(_) | Value::List(_) | Value::Map(_) => self.deserialize_any(visitor),
        }
    }

    // A section that is there but empty (`cors:`) is one with nothing but defaults.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.value {
            Value::Null if name == "Match" => Err(Fault::new(
                "nothing stands here, which would match every request: remove the key if that is meant".into(),
            )
            .at(self.start())),
            Value::Null => {
                visitor.visit_map(Entries { list: &[], next: 0, current: None }).map_err(|fault| fault.at(self.start()))
            }
            // Serde would take a list for the fields in their order.
            Value::List(_) => Err(Fault::new("expected a mapping, found a list".into()).at(self.start())),
            Value::Bool(_)
            | Value::Unsigned(_)
            | Value::Signed(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::Map(_) => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let chosen = match &self.value {
            Value::Text(name) => Variant { name, place: self.place, content: None },
            Value::Map(entries) => {
                let mut live = entries.iter().enumerate().filter(|(_, entry)| !entry.node.dropped);
                match (live.next(), live.next()) {
                    (Some((index, only)), None) => {
                        Variant { name: &only.key, place: only.key_place, content: Some((index, &only.node)) }
                    }
                    (Some(_), Some((_, second))) => {
                        return Err(Fault::new(format!(
                            "only one key may stand here, so `{}` is one too many",
                            second.key
                        ))
                        .at(second.key_place));
                    }
                    (None, _) => {
                        return Err(Fault::new("a key is missing here".into()).at(self.start()));
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) | Value::List(_) => {
                return Err(Fault::new(format!("expected a name or a mapping, found {}", self.kind())).at(self.start()));
            }
        };
        visitor.visit_enum(chosen).map_err(|fault| fault.at(self.start()))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

struct Items<'de> {
    items: &'de [Node],
    next: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        while let Some(item) = self.items.get(self.next) {
            let index = self.next;
            self.next += 1;
            if !item.dropped {
                give_way();
                return seed.deserialize(item).map(Some).map_err(|fault| fault.at(item.start()).through(index));
            }
        }
        Ok(None)
    }
}

struct Entries<'de> {
    list: &'de [Entry],
    next: usize,
    current: Option<(usize, &'de Node)>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        while let Some(entry) = self.list.get(self.next) {
            let index = self.next;
            self.next += 1;
            if !entry.node.dropped {
                self.current = Some((index, &entry.node));
                return seed
                    .deserialize(entry.key.as_str().into_deserializer())
                    .map(Some)
                    .map_err(|fault: Fault| fault.at(entry.key_place).through(index));
            }
        }
        Ok(None)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let Some((index, node)) = self.current.take() else {
            return Err(Fault::new("a value without its key".into()));
        };
        seed.deserialize(node).map_err(|fault| fault.at(node.start()).through(index))
    }
}

struct Variant<'de> {
    name: &'de str,
    place: Place,
    content: Option<(usize, &'de Node)>,
}

impl<'de> de::EnumAccess<'de> for Variant<'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Fault> {
        let value = seed
            .deserialize(self.name.into_deserializer())
            .map_err(|fault: Fault| self.inside(fault.at(self.place)))?;
        Ok((value, self))
    }
}

impl Variant<'_> {
    fn inside(&self, fault: Fault) -> Fault {
        match self.content {
            Some((index, _)) => fault.through(index),
            None => fault,
        }
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.content {
            None => Ok(()),
            Some((_, node)) if matches!(node.value, Value::Null) => Ok(()),
            Some((index, node)) => {
                Err(Fault::new(format!("`{}` takes no value", self.name)).at(node.start()).through(index))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        match self.content {
            Some((index, node)) => seed.deserialize(node).map_err(|fault| fault.at(node.start()).through(index)),
            None => {
                Err(Fault::new(format!("`{name}` takes a value: `{{ {name}: ... }}`", name = self.name)).at(self.place))
            }
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.newtype_variant_seed(Through(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        self.newtype_variant_seed(Through(visitor))
    }
}

/// Lets a visitor stand where a seed is wanted.
struct Through<V>(V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Through<V> {
    type Value = V::Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_any(self.0)
    }
}
