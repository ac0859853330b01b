//! What needs more than one field: references, duplicates, routes that cannot be told apart or reached.

use std::ops::Deref;

use super::{Config, Diagnostic, Place, Step, tree::Node};

/// A configuration that can be compiled. Only [`load`](super::load()) makes one.
#[derive(Debug)]
pub struct Validated {
    config: Config,
    tree: Node,
}

impl Validated {
    pub(super) fn new(config: Config, tree: Node) -> Self {
        Self { config, tree }
    }

    /// Where something stands in the file.
    pub fn place(&self, way: &[Step]) -> Place {
        self.tree.locate(way)
    }
}

impl Deref for Validated {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}

/// What a policy's `check` has at hand.
#[derive(Debug)]
pub struct Check<'a> {
    /// The whole file.
    pub config: &'a Config,
    /// The names of the parameters of the route's template; `None` for policies of every route.
    pub params: Option<&'a [&'a str]>,
    pub(super) tree: &'a Node,
    pub(super) at: Vec<Step>,
    pub(super) found: &'a mut Vec<Diagnostic>,
}

impl Check<'_> {
    /// Reports an error at a place below the policy: `&steps!["limits", 0]`.
    pub fn error(&mut self, way: &[Step], message: impl Into<String>) {
        let place = self.place(way);
        self.found.push(Diagnostic::error(place, message));
    }

    /// Reports what works, but probably not as meant.
    pub fn warning(&mut self, way: &[Step], message: impl Into<String>) {
        let place = self.place(way);
        self.found.push(Diagnostic::warning(place, message));
    }

    /// Where something below the policy stands.
    pub fn place(&self, way: &[Step]) -> Place {
        self.tree.locate(&[&self.at, way].concat())
    }
}
