//! The paths of one host: which groups a path leads to, most specific first.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use regex::RegexSet;

use super::{
    Decision, Group,
    pattern::{Segment, Template, anchored},
    predicate::Predicates,
};
use crate::pace::give_way;
use crate::{
    config::route::{Match, PathKind, PathMatch},
    proxy::context::Params,
};

/// What a group decides, or `None` to ask the next one.
type Ask<'d, 'a> = &'d mut dyn FnMut(Group) -> Option<Decision<'a>>;

/// Paths, compiled for look-up.
#[derive(Debug, Default)]
pub(super) struct Paths {
    exact: HashMap<Box<str>, Group>,
    /// Templates as a tree of segments; node 0 is the root.
    nodes: Vec<Node>,
    /// Prefixes without a `/` at the end; the root is the empty text.
    prefixes: HashMap<Box<str>, Group>,
    expressions: RegexSet,
    expression_groups: Vec<Group>,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, usize>,
    param: Option<usize>,
    end: Option<Group>,
    rest: Option<Group>,
}

impl Paths {
    /// Asks the groups of a path in order: exact, templates, prefixes from the longest, expressions.
    pub(super) fn visit<'a>(&self, path: &str, params: &mut Params, ask: Ask<'_, 'a>) -> Option<Decision<'a>> {
        if let Some(group) = self.exact.get(path)
            && let found @ Some(_) = ask(*group)
        {
            return found;
        }
        if !self.nodes.is_empty() {
            params.clear();
            if let found @ Some(_) = self.descend(0, path, 0, params, ask) {
                return found;
            }
            params.clear();
        }
        if !self.prefixes.is_empty() {
            let mut rest = path.strip_suffix('/').unwrap_or(path);
            loop {
                if let Some(group) = self.prefixes.get(rest)
                    && let found @ Some(_) = ask(*group)
                {
                    return found;
                }
                let Some((parent, _)) = rest.rsplit_once('/') else {
                    break;
                };
                rest = parent;
            }
        }
        if self.expression_groups.is_empty() {
            return None;
        }
        let matched = self.expressions.matches(path);
        let groups = matched.iter().filter_map(|index| self.expression_groups.get(index));
        groups.copied().find_map(ask)
    }

    /// Goes down the tree; `at` is the position of the `/` before the next segment. Every node is visited at most
    /// once, because a node has one depth.
    fn descend<'a>(
        &self,
        node: usize,
        path: &str,
        at: usize,
        params: &mut Params,
        ask: Ask<'_, 'a>,
    ) -> Option<Decision<'a>> {
        let node = self.nodes.get(node)?;
        let Some(rest) = path.get(at..).and_then(|rest| rest.strip_prefix('/')) else {
            return ask(node.end?);
        };
        let start = at + 1;
        let end = rest.find('/').map_or(path.len(), |slash| start + slash);
        let segment = path.get(start..end)?;
        if let Some(next) = node.literals.get(segment)
            && let found @ Some(_) = self.descend(*next, path, end, params, ask)
        {
            return found;
        }
        if let Some(next) = node.param
            && !segment.is_empty()
        {
            params.push(start..end);
            if let found @ Some(_) = self.descend(next, path, end, params, ask) {
                return found;
            }
            params.pop();
        }
        let group = node.rest?;
        params.push(start..path.len());
        let found = ask(group);
        if found.is_none() {
            params.pop();
        }
        found
    }
}

/// Routes under one path.
type Members = Vec<(usize, Predicates)>;

#[derive(Default)]
pub(super) struct Builder {
    exact: BTreeMap<String, Members>,
    /// By shape, so that `/a/{x}` and `/a/{y}` are one.
    templates: BTreeMap<String, (Template, Members)>,
    prefixes: BTreeMap<String, Members>,
    /// In the order of the file.
    expressions: Vec<(String, Members)>,
}

impl Builder {
    pub(super) fn add(&mut self, matcher: &Match, target: usize) {
        let member = (target, Predicates::compile(matcher));
        match &matcher.path {
            None => self.prefixes.entry(String::new()).or_default().push(member),
            Some(PathMatch::Plain(template)) if template.is_exact() => {
                self.exact.entry(template.text.clone()).or_default().push(member);
            }
            Some(PathMatch::Plain(template)) => {
                let entry = self.templates.entry(template.shape());
                let (_, members) = entry.or_insert_with(|| (template.clone(), Members::new()));
                members.push(member);
            }
            Some(PathMatch::Kind(PathKind::Prefix(prefix))) => {
                let text = prefix.as_str().trim_end_matches('/').to_owned();
                self.prefixes.entry(text).or_default().push(member);
            }
            Some(PathMatch::Kind(PathKind::Regex(regex))) => {
                let known = self.expressions.iter_mut().find(|(text, _)| *text == regex.text);
                match known {
                    Some((_, members)) => members.push(member),
                    None => self.expressions.push((regex.text.clone(), vec![member])),
                }
            }
        }
    }

    pub(super) fn build(self, group: &mut dyn FnMut(Members) -> Group) -> Paths {
        let mut paths = Paths::default();
        for (text, members) in self.exact {
            give_way();
            paths.exact.insert(text.into(), group(members));
        }
        for (text, members) in self.prefixes {
            give_way();
            paths.prefixes.insert(text.into(), group(members));
        }
        for (template, members) in self.templates.into_values() {
            give_way();
            let members = group(members);
            insert(&mut paths.nodes, &template, members);
        }
        let (texts, members): (Vec<_>, Vec<_>) = self.expressions.into_iter().unzip();
        paths.expression_groups = members.into_iter().map(group).collect();
        // Each expression was compiled alone already, within its own bound.
        let set = regex::RegexSetBuilder::new(texts.iter().map(|text| anchored(text))).size_limit(usize::MAX).build();
        paths.expressions = set.unwrap_or_else(|_| RegexSet::empty());
        paths
    }
}

fn insert(nodes: &mut Vec<Node>, template: &Template, group: Group) {
    if nodes.is_empty() {
        nodes.push(Node::default());
    }
    let mut here = 0;
    for segment in &template.segments {
        let fresh = nodes.len();
        let Some(node) = nodes.get_mut(here) else {
            return;
        };
        let next = match segment {
            Segment::Literal(text) => *node.literals.entry(text.as_str().into()).or_insert(fresh),
            Segment::Param(_) => *node.param.get_or_insert(fresh),
            Segment::Rest(_) => {
                node.rest = Some(group);
                return;
            }
        };
        if next == fresh {
            nodes.push(Node::default());
        }
        here = next;
    }
    if let Some(node) = nodes.get_mut(here) {
        node.end = Some(group);
    }
}
