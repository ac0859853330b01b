//! What servers read differently although it can be brought into a form: refused unless a route says otherwise.
//!
//! Whatever a route lets through, requests have one form in which they are matched, authorised and sent on.

use std::fmt;

use serde::Deserialize;

/// A rule that a route can relax, by its name in `hygiene`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `%2F` in the path.
    EncodedSlash,
    /// `\` or `%5C` in the path.
    Backslash,
    /// `;` in the path.
    PathParameters,
    /// `..;` or `.;` in the path.
    DotParameters,
    /// Escapes in the path that are no UTF-8.
    NonUtf8,
    /// `;` in the query.
    QuerySemicolon,
    /// A method that no standard knows.
    UnknownMethods,
    /// A header that would have the upstream take the request for one with another method.
    MethodOverride,
    /// A header twice of which there is only one.
    DuplicateHeaders,
    /// Two headers whose names differ in `-`, `_` and `.` only.
    ConfusableHeaders,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::EncodedSlash,
        Self::Backslash,
        Self::PathParameters,
        Self::DotParameters,
        Self::NonUtf8,
        Self::QuerySemicolon,
        Self::UnknownMethods,
        Self::MethodOverride,
        Self::DuplicateHeaders,
        Self::ConfusableHeaders,
    ];

    /// Its name in the file and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EncodedSlash => "encoded_slash",
            Self::Backslash => "backslash",
            Self::PathParameters => "path_parameters",
            Self::DotParameters => "dot_parameters",
            Self::NonUtf8 => "non_utf8",
            Self::QuerySemicolon => "query_semicolon",
            Self::UnknownMethods => "unknown_methods",
            Self::MethodOverride => "method_override",
            Self::DuplicateHeaders => "duplicate_headers",
            Self::ConfusableHeaders => "confusable_headers",
        }
    }

    const fn bit(self) -> u16 {
        match self {
            Self::EncodedSlash => 1,
            Self::Backslash => 1 << 1,
            Self::PathParameters => 1 << 2,
            Self::DotParameters => 1 << 3,
            Self::NonUtf8 => 1 << 4,
            Self::QuerySemicolon => 1 << 5,
            Self::UnknownMethods => 1 << 6,
            Self::MethodOverride => 1 << 7,
            Self::DuplicateHeaders => 1 << 8,
            Self::ConfusableHeaders => 1 << 9,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EncodedSlash => "the path has an escaped `/`",
            Self::Backslash => "the path has a `\\`",
            Self::PathParameters => "the path has a `;`",
            Self::DotParameters => "the path has a `..` with parameters",
            Self::NonUtf8 => "the path is not UTF-8",
            Self::QuerySemicolon => "the query has a `;`",
            Self::UnknownMethods => "the method is not one that the gateway knows",
            Self::MethodOverride => "the request asks for another method than its own",
            Self::DuplicateHeaders => "the request has a header twice that stands for one thing",
            Self::ConfusableHeaders => "the request has two headers that servers take for the same",
        })
    }
}

/// A set of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules(u16);

impl Rules {
    /// Those of the path.
    pub const PATH: Self = Self(
        Rule::EncodedSlash.bit()
            | Rule::Backslash.bit()
            | Rule::PathParameters.bit()
            | Rule::DotParameters.bit()
            | Rule::NonUtf8.bit(),
    );

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Adds one.
    pub const fn insert(&mut self, rule: Rule) {
        self.0 |= rule.bit();
    }

    /// Takes one out.
    pub const fn remove(&mut self, rule: Rule) {
        self.0 &= !rule.bit();
    }

    /// Whether it is among them.
    pub const fn contains(self, rule: Rule) -> bool {
        self.0 & rule.bit() != 0
    }

    /// Those of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are not among the others.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Those that are among the others, too.
    #[must_use]
    pub const fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = Rule> {
        Rule::ALL.into_iter().filter(move |rule| self.contains(*rule))
    }
}

/// What happens to a request that breaks a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Leniency {
    /// It is refused.
    #[default]
    Refuse,
    /// It passes; it is counted, and in the log stands what would have been refused.
    Shadow,
    /// It passes.
    Allow,
}

/// What a route lets through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lenience {
    /// Rules that do not hold.
    pub allowed: Rules,
    /// Rules whose breaches are only noted.
    pub shadowed: Rules,
}

impl Lenience {
    /// Whether a breach of this rule passes.
    pub const fn lets(self, rule: Rule) -> bool {
        self.allowed.with(self.shadowed).contains(rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_one_of_its_own() {
        let mut all = Rules::default();
        for (i, rule) in Rule::ALL.into_iter().enumerate() {
            assert!(!all.contains(rule));
            all.insert(rule);
            assert_eq!(all.iter().count(), i + 1);
        }
        assert_eq!(all.without(Rules::PATH).iter().count(), 5);
        assert_eq!(all.within(Rules::PATH), Rules::PATH);
        assert_eq!(Rules::PATH.with(all), all);
        assert!(Rules::default().is_empty() && !all.is_empty());
    }
}
