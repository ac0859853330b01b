//! `hygiene` of a route: what it lets through although servers read it differently.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::route::rules::{Lenience, Leniency, Rule, Rules};

/// What a route lets through although servers read it differently: `refuse` (the default), `shadow` or `allow`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hygiene {
    /// `%2F` in the path. It stays escaped, and is part of its segment.
    pub encoded_slash: Leniency,
    /// `\` or `%5C` in the path. It goes on as `%5C`, and is part of its segment.
    pub backslash: Leniency,
    /// `;` in the path: `/a;x=1`. It is part of its segment.
    pub path_parameters: Leniency,
    /// `..;` or `.;` in the path: to some servers, the folder above.
    pub dot_parameters: Leniency,
    /// Escapes in the path that are no UTF-8, such as `%E9`. Overlong forms of ASCII stay refused.
    pub non_utf8: Leniency,
    /// `;` in the query: to some servers, the end of a parameter.
    pub query_semicolon: Leniency,
    /// A method that no standard knows, where `methods` of the route does not name it.
    pub unknown_methods: Leniency,
    /// `X-HTTP-Method-Override` and the like, which are otherwise taken away.
    pub method_override: Leniency,
    /// A header twice of which there is only one, such as `Authorization` or `Content-Type`.
    pub duplicate_headers: Leniency,
    /// Two headers whose names differ in `-`, `_` and `.` only.
    pub confusable_headers: Leniency,
}

impl Hygiene {
    /// The same by rule.
    pub fn lenience(&self) -> Lenience {
        let mut lenience = Lenience::default();
        for rule in Rule::ALL {
            match self.of(rule) {
                Leniency::Refuse => {}
                Leniency::Shadow => lenience.shadowed.insert(rule),
                Leniency::Allow => lenience.allowed.insert(rule),
            }
        }
        lenience
    }

    const fn of(&self, rule: Rule) -> Leniency {
        match rule {
            Rule::EncodedSlash => self.encoded_slash,
            Rule::Backslash => self.backslash,
            Rule::PathParameters => self.path_parameters,
            Rule::DotParameters => self.dot_parameters,
            Rule::NonUtf8 => self.non_utf8,
            Rule::QuerySemicolon => self.query_semicolon,
            Rule::UnknownMethods => self.unknown_methods,
            Rule::MethodOverride => self.method_override,
            Rule::DuplicateHeaders => self.duplicate_headers,
            Rule::ConfusableHeaders => self.confusable_headers,
        }
    }

    /// The rules that hold.
    pub fn refused(&self) -> Rules {
        let mut refused = Rules::default();
        for rule in Rule::ALL {
            if self.of(rule) == Leniency::Refuse {
                refused.insert(rule);
            }
        }
        refused
    }
}
