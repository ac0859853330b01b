//! Texts with `%{...}` in them, which stand for what a request has or what rules counted.

use super::{
    operator::number,
    variable::{self, Target},
};

/// A text, and what is put into it.
#[derive(Clone, Debug)]
pub(super) struct Template {
    parts: Vec<Part>,
    number: Option<i64>,
}

/// A piece of a template.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Text(Box<[u8]>),
    /// Something that rules count, by its name in lower case.
    Tx(Box<[u8]>),
    /// The number of the rule that runs.
    RuleId,
    /// The first of these.
    First(Target),
}

impl Template {
    /// Reads a text; what is no variable stands for nothing, as it does in ModSecurity.
    pub(super) fn parse(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("%{") {
            let Some((inside, after)) = behind.split_once('}') else { break };
            if !before.is_empty() {
                parts.push(Part::Text(before.as_bytes().into()));
            }
            parts.extend(part(inside));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.as_bytes().into()));
        }
        let number = match parts.as_slice() {
            [] => Some(0),
            [Part::Text(text)] => Some(number(text)),
            _ => None,
        };
        Self { parts, number }
    }

    /// The pieces.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The number that it is, for whatever request.
    pub(super) const fn as_number(&self) -> Option<i64> {
        self.number
    }

    /// The text that it is, for whatever request.
    #[cfg(test)]
    pub(super) fn plain(&self) -> Option<&[u8]> {
        match self.parts.as_slice() {
            [] => Some(b""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}

fn part(inside: &str) -> Option<Part> {
    let (collection, key) = inside.split_once('.').map_or((inside, None), |(name, key)| (name, Some(key)));
    match (collection.to_ascii_lowercase().as_str(), key) {
        ("tx", Some(key)) => Some(Part::Tx(key.to_ascii_lowercase().into_bytes().into())),
        ("rule", Some(key)) if key.eq_ignore_ascii_case("id") => Some(Part::RuleId),
        _ => variable::one(&inside.replacen('.', ":", 1)).ok().map(Part::First),
    }
}
