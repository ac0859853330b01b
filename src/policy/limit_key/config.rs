//! What limits count by, as the file has it.

use std::fmt;

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{self, value},
};

use crate::config::{check::Check, steps, types::HeaderName};

/// What is counted by: one part, or several together.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub enum Parts {
    /// One part.
    One(Part),
    /// Every combination of these has its own count.
    All(Vec<Part>),
}

impl Parts {
    /// The parts.
    pub fn list(&self) -> &[Part] {
        match self {
            Self::One(part) => std::slice::from_ref(part),
            Self::All(parts) => parts,
        }
    }
}

/// A part of what is counted by.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Who is calling: the consumer, or the subject of the token.
    Consumer,
    /// The address of the client; an IPv6 address counts as its /64.
    ClientIp,
    /// The route.
    Route,
    /// The first group of the consumer: all its members share the count.
    Group,
    /// The first of these groups that the consumer is in.
    Groups(Vec<String>),
    /// The value of this header.
    Header(HeaderName),
    /// The value of this claim of the token: its name, or a path with dots (`tenant.id`).
    Claim(String),
    /// What this parameter of the route's path stands for.
    PathParameter(String),
    /// The same for every request: one count for all.
    Constant(String),
}

impl<'de> Deserialize<'de> for Parts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;

        impl<'de> de::Visitor<'de> for OneOrMore {
            type Value = Parts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`consumer`, `client_ip`, `route`, `group`, `{ header: NAME }`, `{ claim: NAME }` or a list of these")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Parts, E> {
                Part::deserialize(value::StrDeserializer::new(text)).map(Parts::One)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Parts, A::Error> {
                Part::deserialize(value::MapAccessDeserializer::new(map)).map(Parts::One)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Parts, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                Ok(Parts::All(parts))
            }
        }

        deserializer.deserialize_any(OneOrMore)
    }
}

/// What happens to a request that lacks what is counted by: no consumer, no such header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingKey {
    /// It is refused with 400.
    #[default]
    Reject,
    /// It is counted by the address of the client instead.
    ClientIp,
    /// It is not counted.
    Skip,
}

impl Parts {
    /// Whether it can only be known after the caller is.
    pub(in crate::policy) fn needs_caller(&self) -> bool {
        self.list().iter().any(|part| matches!(part, Part::Consumer | Part::Group | Part::Groups(_) | Part::Claim(_)))
    }

    /// Looks for what the types cannot refuse by themselves.
    pub(in crate::policy) fn check(&self, missing: MissingKey, check: &mut Check<'_>) {
        let parts = self.list();
        if parts.is_empty() {
            check.error(&steps!["key"], "the list names nothing to count by");
        }
        for (i, part) in parts.iter().enumerate() {
            let way = if matches!(self, Self::One(_)) { steps!["key"].to_vec() } else { steps!["key", i].to_vec() };
            if parts.iter().take(i).any(|other| other == part) {
                check.error(&way, "this stands here twice");
            }
            let is_empty = match part {
                Part::Groups(groups) => groups.is_empty(),
                Part::Claim(text) | Part::PathParameter(text) | Part::Constant(text) => text.is_empty(),
                Part::Consumer | Part::ClientIp | Part::Route | Part::Group | Part::Header(_) => false,
            };
            if is_empty {
                check.error(&way, "what? The name is missing");
            }
            if let Part::PathParameter(name) = part
                && !name.is_empty()
                && check.params.is_some_and(|params| !params.contains(&name.as_str()))
            {
                check.error(&way, format!("the path of this route has no parameter `{name}`"));
            }
        }
        if self.needs_caller() && missing == MissingKey::Reject && !check.is_authenticated() {
            check.warning(
                &steps!["key"],
                "no policy of this route finds out who is calling, so every request is refused: it lacks what is counted by",
            );
        }
    }
}
