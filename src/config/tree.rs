//! The YAML file as a tree in which every key and value knows where it stands.
//!
//! `serde-saphyr` reads the text (and keeps its budgets against YAML bombs), unless that is an ordinary one ([`quick`]); this tree is what the
//! rest of `config` works on, for three reasons that a direct deserialization cannot serve:
//!
//! - *all* errors are reported: an entry that is wrong is marked as dropped and the rest is read again;
//! - checks that need more than one field can say where the field stands;
//! - `${env:NAME}` and `${file:PATH}` are filled in before any type is read, and remembered as secret.

use std::fmt;

use super::quick;
use crate::pace::give_way;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

/// Where something stands in the file. Lines and columns count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line, from 1; 0 if unknown.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Characters, within the line.
    pub width: usize,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
    /// The value came from outside the file, so it is never shown.
    pub(crate) secret: bool,
    /// The entry was reported as wrong, and is not read any more.
    pub(crate) dropped: bool,
}

/// What may stand in a file.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a mapping with its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_place: Place,
    pub(crate) node: Node,
}

impl Node {
    /// An empty mapping, as an empty file is read.
    pub(crate) fn empty() -> Self {
        Self::new(Place::default(), Value::Map(Vec::new()))
    }

    pub(super) fn new(place: Place, value: Value) -> Self {
        Self { place, value, secret: false, dropped: false }
    }

    /// What kind of value this is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The entry of a mapping, dropped or not.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            Value::Null
            | Value::Bool(_)
            | Value::Unsigned(_)
            | Value::Signed(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_) => None,
        }
    }

    /// The keys of a mapping, dropped or not.
    pub(crate) fn keys(&self) -> Vec<&str> {
        match &self.value {
            Value::Map(entries) => entries.iter().map(|entry| entry.key.as_str()).collect(),
            Value::Null
            | Value::Bool(_)
            | Value::Unsigned(_)
            | Value::Signed(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_) => Vec::new(),
        }
    }

    /// The items of a list that are still read, in the order in which serde saw them.
    pub(crate) fn items(&self) -> impl Iterator<Item = &Self> {
        let items: &[Self] = match &self.value {
            Value::List(items) => items,
            Value::Null
            | Value::Bool(_)
            | Value::Unsigned(_)
            | Value::Signed(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::Map(_) => &[],
        };
        items.iter().filter(|item| !item.dropped)
    }

    /// Whether something below is wrong, and so left out.
    pub(crate) fn lacks_something(&self) -> bool {
        self.children().any(|child| child.dropped || child.lacks_something())
    }

    fn children(&self) -> Box<dyn Iterator<Item = &Self> + '_> {
        match &self.value {
            Value::List(items) => Box::new(items.iter()),
            Value::Map(entries) => Box::new(entries.iter().map(|entry| &entry.node)),
            Value::Null | Value::Bool(_) | Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) | Value::Text(_) => {
                Box::new(std::iter::empty())
            }
        }
    }

    /// An item or value by its position, dropped or not.
    pub(crate) fn child(&self, index: usize) -> Option<&Self> {
        match &self.value {
            Value::List(items) => items.get(index),
            Value::Map(entries) => entries.get(index).map(|entry| &entry.node),
            Value::Null | Value::Bool(_) | Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) | Value::Text(_) => {
                None
            }
        }
    }

    /// The same, to change it.
    pub(crate) fn child_mut(&mut self, index: usize) -> Option<&mut Self> {
        match &mut self.value {
            Value::List(items) => items.get_mut(index),
            Value::Map(entries) => entries.get_mut(index).map(|entry| &mut entry.node),
            Value::Null | Value::Bool(_) | Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) | Value::Text(_) => {
                None
            }
        }
    }

    /// The node at the end of `steps`, if it exists.
    pub(crate) fn get(&self, steps: &[Step]) -> Option<&Self> {
        steps.iter().try_fold(self, |here, step| here.step(step).map(|(node, _)| node))
    }

    /// The place of the deepest node on the way of `steps` that exists; of a list or mapping that is not the start
    /// of the file, its key.
    pub(crate) fn locate(&self, steps: &[Step]) -> Place {
        let mut here = self;
        let mut place = self.place;
        for step in steps {
            let Some((node, at)) = here.step(step) else {
                break;
            };
            here = node;
            place = at;
        }
        place
    }

    fn step(&self, step: &Step) -> Option<(&Self, Place)> {
        match step {
            Step::Key(key) => self.entry(key).map(|entry| {
                let scalar = !matches!(entry.node.value, Value::List(_) | Value::Map(_));
                let at = if scalar { entry.node.place } else { entry.key_place };
                (&entry.node, at)
            }),
            Step::KeyItself(key) => self.entry(key).map(|entry| (&entry.node, entry.key_place)),
            Step::Item(index) => self.items().nth(*index).map(|item| (item, item.start())),
        }
    }

    /// Where it begins: of a mapping, its first key.
    pub(crate) fn start(&self) -> Place {
        match &self.value {
            Value::Map(entries) => entries.first().map_or(self.place, |first| first.key_place),
            Value::Null
            | Value::Bool(_)
            | Value::Unsigned(_)
            | Value::Signed(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_) => self.place,
        }
    }

    /// Calls `visit` for every node below and including this one.
    pub(crate) fn walk_mut(&mut self, visit: &mut impl FnMut(&mut Self)) {
        visit(self);
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.walk_mut(visit)),
            Value::Map(entries) => entries.iter_mut().for_each(|entry| entry.node.walk_mut(visit)),
            Value::Null | Value::Bool(_) | Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) | Value::Text(_) => {
            }
        }
    }
}

/// One step of a way through the tree, as in `routes[2].upstream`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The value of a key.
    Key(String),
    /// The key itself: errors about a name point at it.
    KeyItself(String),
    /// The item of a list, counted without the dropped ones.
    Item(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.into())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Item(index)
    }
}

/// Builds the way to a place: `steps!["routes", 2, "upstream"]`.
macro_rules! steps {
    ($($step:expr),* $(,)?) => { [$($crate::config::Step::from($step)),*] };
}
pub(crate) use steps;

/// Reads `text` into a tree.
pub(crate) fn read(text: &str) -> Result<Node, serde_saphyr::Error> {
    if text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#')
    }) {
        return Ok(Node::empty());
    }
    quick::read(text).map_or_else(|| read_thoroughly(text), Ok)
}

/// The same, whatever the text has.
pub(super) fn read_thoroughly(text: &str) -> Result<Node, serde_saphyr::Error> {
    let Spanned { value, referenced, .. } = serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options())?;
    Ok(value.into_node(place(referenced, text), text))
}

/// What a text stands for that is not in quotes.
pub(super) fn read_scalar(text: &str) -> Option<Value> {
    match serde_saphyr::from_str_with_options(text, options()) {
        Ok(Raw::Scalar(value)) => Some(value),
        Ok(Raw::List(_) | Raw::Map(_)) | Err(_) => None,
    }
}

fn options() -> serde_saphyr::Options {
    let mut options = serde_saphyr::Options::default();
    options.strict_booleans = true;
    // The defaults are made for small documents; 100,000 consumers or routes have to fit.
    if let Some(budget) = &mut options.budget {
        budget.max_events = 20_000_000;
        budget.max_nodes = 20_000_000;
        budget.max_total_scalar_bytes = 1 << 30;
        // What stands behind `&name`, aliases within it counted in full: a bomb gets no further than this.
        budget.max_recorded_anchor_events = 100_000;
    }
    options
}

fn place(location: serde_saphyr::Location, _: &str) -> Place {
    let whole = |n: u64| usize::try_from(n).unwrap_or(0);
    Place { line: whole(location.line()), column: whole(location.column()), width: whole(location.span().len()) }
}

/// What serde-saphyr hands over, before places are attached.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

impl Raw {
    fn into_node(self, at: Place, text: &str) -> Node {
        let value = match self {
            Self::Scalar(value) => value,
            Self::List(items) => Value::List(
                items.into_iter().map(|item| item.value.into_node(place(item.referenced, text), text)).collect(),
            ),
            Self::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, item)| Entry {
                        key_place: place(key.referenced, text),
                        key: key.value,
                        node: item.value.into_node(place(item.referenced, text), text),
                    })
                    .collect(),
            ),
        };
        Node::new(at, value)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RawVisitor;

        impl<'de> Visitor<'de> for RawVisitor {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Bool(value)))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
                Ok(Raw::Scalar(u64::try_from(value).map_or(Value::Signed(value), Value::Unsigned)))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Unsigned(value)))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Float(value)))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Text(value.to_owned())))
            }

            fn visit_string<E>(self, value: String) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Text(value)))
            }

            fn visit_unit<E>(self) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Null))
            }

            fn visit_none<E>(self) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Null))
            }

            fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Raw, D::Error> {
                Raw::deserialize(inner)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = access.next_element()? {
                    items.push(item);
                    give_way();
                }
                Ok(Raw::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = access.next_entry()? {
                    entries.push(entry);
                }
                Ok(Raw::Map(entries))
            }
        }

        deserializer.deserialize_any(RawVisitor)
    }
}
