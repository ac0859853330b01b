//! How the path changes on its way to the upstream.
//!
//! A parameter is put in exactly as it was matched, in normal form: it has no `/` that the client could have smuggled
//! in, and the result is in normal form again.

use std::borrow::Cow;

use super::pattern::{Prefix, Segment};
use crate::{config::route, proxy::context::Params};

/// A compiled change of the path.
#[derive(Debug)]
pub enum Rewrite {
    /// Puts one prefix in place of another.
    Prefix {
        /// What the path starts with.
        from: Prefix,
        /// What it starts with afterwards; empty for the root.
        to: Box<str>,
    },
    /// A whole new path.
    Path(Box<[Part]>),
}

/// A part of a new path.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// A slash with this text behind it.
    Literal(Box<str>),
    /// A slash with the parameter of this position behind it.
    Param(usize),
}

impl Rewrite {
    /// Compiles a change; `params` are the names of the parameters of the route's template.
    pub fn compile(config: &route::Rewrite, params: &[Box<str>]) -> Self {
        let prefix = |from: &Prefix, to: &str| Self::Prefix { from: from.clone(), to: to.trim_end_matches('/').into() };
        match config {
            route::Rewrite::StripPrefix(from) => prefix(from, ""),
            route::Rewrite::ReplacePrefix(replace) => prefix(&replace.from, replace.to.as_str()),
            route::Rewrite::Path(template) => {
                let parts = template.segments.iter().map(|segment| match segment {
                    Segment::Literal(text) => Part::Literal(text.as_str().into()),
                    Segment::Param(name) | Segment::Rest(name) => {
                        // A name that does not exist was refused by `check`.
                        let index = params.iter().position(|param| **param == *name.as_str());
                        index.map_or_else(|| Part::Literal("".into()), Part::Param)
                    }
                });
                Self::Path(parts.collect())
            }
        }
    }

    /// The path that the upstream sees. A path that does not start with the prefix stays as it is.
    pub fn apply<'a>(&self, path: &'a str, params: &Params) -> Cow<'a, str> {
        match self {
            Self::Prefix { from, to } => match from.strip(path) {
                None => path.into(),
                Some(rest) if to.is_empty() && rest.starts_with('/') => rest.into(),
                Some(rest) => {
                    let slash = if to.is_empty() { "/" } else { "" };
                    // `/` as the old prefix leaves the whole path behind the new one.
                    format!("{to}{slash}{rest}").into()
                }
            },
            Self::Path(parts) => {
                let mut out = String::with_capacity(path.len() + 16);
                for part in parts {
                    out.push('/');
                    match part {
                        Part::Literal(text) => out.push_str(text),
                        Part::Param(index) => {
                            let range = params.get(*index).cloned().unwrap_or(0..0);
                            out.push_str(path.get(range).unwrap_or_default());
                        }
                    }
                }
                out.into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(from: &str, to: &str) -> Rewrite {
        Rewrite::compile(
            &route::Rewrite::ReplacePrefix(route::ReplacePrefix {
                from: from.parse().unwrap(),
                to: to.parse().unwrap(),
            }),
            &[],
        )
    }

    fn apply(rewrite: &Rewrite, path: &str) -> String {
        rewrite.apply(path, &Params::new()).into_owned()
    }

    #[test]
    fn prefixes_are_replaced_at_segments() {
        let strip = Rewrite::compile(&route::Rewrite::StripPrefix("/api".parse().unwrap()), &[]);
        assert_eq!(apply(&strip, "/api/orders"), "/orders");
        assert_eq!(apply(&strip, "/api/"), "/");
        assert_eq!(apply(&strip, "/api"), "/");
        assert_eq!(apply(&strip, "/apis"), "/apis");
        assert_eq!(apply(&prefix("/v1", "/v2/x"), "/v1/a"), "/v2/x/a");
        assert_eq!(apply(&prefix("/v1", "/v2"), "/v1"), "/v2");
        assert_eq!(apply(&prefix("/", "/v2"), "/a"), "/v2/a");
        assert_eq!(apply(&prefix("/v1", "/"), "/v1/a"), "/a");
    }

    #[test]
    fn a_template_takes_its_parameters_from_the_path() {
        let config = route::Rewrite::Path("/orders/{id}/x/{rest...}".parse().unwrap());
        let rewrite = Rewrite::compile(&config, &["rest".into(), "id".into()]);
        let params = Params::from_iter([1..4, 5..6]);
        assert_eq!(rewrite.apply("/a/b/7", &params), "/orders/7/x/a/b");
    }
}
