//! The kinds of path that a file may name: template, prefix, regular expression.

use std::{fmt, str::FromStr};

use super::path::normalise;
use crate::config::types::text_type;

/// A path, part of which may stand for anything: `/v1/orders/{id}`, `/users/{rest...}`.
///
/// - `{name}` takes one segment, never an empty one.
/// - `{name...}` stands at the end and takes what is left, which may be nothing: `/users/{rest...}` takes
///   `/users/` and `/users/1/name`, not `/users`.
/// - Without either it is an exact path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The path as written.
    pub text: String,
    /// Its segments.
    pub segments: Vec<Segment>,
}

/// A part of a [`Template`] between two slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// This text.
    Literal(String),
    /// Any one segment, under this name.
    Param(String),
    /// All that is left, under this name.
    Rest(String),
}

impl Template {
    /// Whether it stands for one path only.
    pub fn is_exact(&self) -> bool {
        self.segments.iter().all(|segment| matches!(segment, Segment::Literal(_)))
    }

    /// The names of the parameters, from left to right.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Param(name) | Segment::Rest(name) => Some(name.as_str()),
        })
    }

    /// The same template with its parameters unnamed: what tells two templates apart.
    pub fn shape(&self) -> String {
        let mut shape = String::with_capacity(self.text.len());
        for segment in &self.segments {
            shape.push('/');
            match segment {
                Segment::Literal(text) => shape.push_str(text),
                Segment::Param(_) => shape.push_str("{}"),
                Segment::Rest(_) => shape.push_str("{...}"),
            }
        }
        shape
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix('/').ok_or("a path starts with `/`")?;
        let mut segments = Vec::new();
        let mut names: Vec<String> = Vec::new();
        for part in rest.split('/') {
            if let Some(Segment::Rest(name)) = segments.last() {
                return Err(format!("nothing may follow `{{{name}...}}`"));
            }
            let segment = segment(part)?;
            if let Segment::Param(name) | Segment::Rest(name) = &segment {
                if names.contains(name) {
                    return Err(format!("the parameter `{name}` stands here twice"));
                }
                names.push(name.clone());
            }
            segments.push(segment);
        }
        let plain = segments.iter().map(|segment| match segment {
            Segment::Literal(text) => text.as_str(),
            Segment::Param(_) | Segment::Rest(_) => "x",
        });
        let plain = format!("/{}", plain.collect::<Vec<_>>().join("/"));
        is_normal(&plain)?;
        Ok(Self { text: text.to_owned(), segments })
    }
}
text_type!(Template, "a path such as `/v1/orders`, `/v1/orders/{id}` or `/users/{rest...}`", "^/");

fn segment(part: &str) -> Result<Segment, String> {
    let Some(inner) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) else {
        if part.contains(['{', '}', '*']) {
            return Err("a parameter is a whole segment: `/a/{name}/b`, or `/a/{name...}` at the end".into());
        }
        return Ok(Segment::Literal(part.to_owned()));
    };
    let (name, rest) = match inner.strip_suffix("...") {
        Some(name) => (name, true),
        None => (inner, false),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(fits) {
        return Err("the name of a parameter has letters, digits and `_`: `{order_id}`".into());
    }
    let name = name.to_owned();
    Ok(if rest { Segment::Rest(name) } else { Segment::Param(name) })
}

/// A path and everything below it. `/static` takes `/static`, `/static/` and `/static/a`, not `/statics`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(String);

impl Prefix {
    /// The prefix of every path.
    pub fn root() -> Self {
        Self("/".into())
    }

    /// The path as written, without a `/` at its end unless it is `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is left of `path` behind the prefix: empty, or starting with `/`.
    pub fn strip<'a>(&self, path: &'a str) -> Option<&'a str> {
        if self.0 == "/" {
            return Some(path);
        }
        path.strip_prefix(self.0.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(['{', '}', '*']) {
            return Err("a prefix has no parameters; a template does: `path: \"/a/{id}/{rest...}\"`".into());
        }
        is_normal(text)?;
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        Ok(if trimmed.is_empty() { Self::root() } else { Self(trimmed.to_owned()) })
    }
}
text_type!(Prefix, "a path such as `/static`", "^/");

/// No request can have a path that is not in normal form, so no pattern may.
fn is_normal(text: &str) -> Result<(), String> {
    match normalise(text) {
        Ok(normal) if normal.path == text => Ok(()),
        Ok(normal) => {
            Err(format!("no request has this path, because it is made into `{}` first: write it so", normal.path))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// A regular expression for a whole text, with a bound on its size.
#[derive(Clone, Debug)]
pub struct PathRegex {
    /// The expression as written.
    pub text: String,
    /// The expression, anchored at both ends.
    pub regex: regex::Regex,
}

impl PartialEq for PathRegex {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for PathRegex {}

impl FromStr for PathRegex {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let regex =
            regex::RegexBuilder::new(&anchored(text)).size_limit(1 << 20).build().map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => "the regular expression is too large".to_owned(),
                other @ (regex::Error::Syntax(_) | _) => {
                    let whole = other.to_string();
                    let last = whole.lines().last().unwrap_or("invalid");
                    format!("not a regular expression: {}", last.trim_start_matches("error: "))
                }
            })?;
        Ok(Self { text: text.to_owned(), regex })
    }
}
text_type!(PathRegex, "a regular expression for the whole text", "");

/// Makes an expression match whole texts only.
pub(crate) fn anchored(text: &str) -> String {
    format!("^(?:{text})$")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_read() {
        let template: Template = "/v1/orders/{id}/{rest...}".parse().unwrap();
        assert_eq!(template.params().collect::<Vec<_>>(), ["id", "rest"]);
        assert_eq!(template.shape(), "/v1/orders/{}/{...}");
        assert!(!template.is_exact());
        assert!("/v1/orders/".parse::<Template>().unwrap().is_exact());
    }

    #[test]
    fn templates_that_cannot_work_are_refused() {
        for text in [
            "orders",
            "/a/{id}x",
            "/a/{}",
            "/a/{id}/{id}",
            "/{rest...}/a",
            "/a/*",
            "/a//b",
            "/a/../b",
            "/a b",
            "/a%2fb",
            "/a%2F..%2Fb",
        ] {
            assert!(text.parse::<Template>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let prefix: Prefix = "/static/".parse().unwrap();
        assert_eq!(prefix.strip("/static"), Some(""));
        assert_eq!(prefix.strip("/static/a"), Some("/a"));
        assert_eq!(prefix.strip("/statics"), None);
        assert_eq!(Prefix::root().strip("/a"), Some("/a"));
    }
}
