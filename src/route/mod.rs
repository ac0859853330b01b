//! Which route takes a request.
//!
//! Of all routes that fit, the one wins whose host is the most specific (exact, then the longest wildcard, then any),
//! then whose path is (exact, then template, then the longest prefix, then the first expression), then which has more
//! predicates (methods, each header, each query parameter), then which stands first in the file.
//!
//! - Between templates, the first segment in which they differ decides: text before `{param}` before `{rest...}`.
//! - `GET` includes `HEAD`.
//! - A path *owns* its requests: if routes of the best path fit in everything but the method, the answer is 405 with
//!   `Allow`, and no less specific path is asked. A `DELETE` on a path that was opened for `GET` never slips through
//!   to a catch-all with weaker policies.
//! - A route whose headers or query parameters do not fit is passed over, and less specific paths are asked.
//!
//! The cost is that of a few look-ups in hash tables, whatever the number of routes; expressions of one host are run as
//! one automaton.

mod host;
mod media;
pub mod path;
mod paths;
pub mod pattern;
mod predicate;
pub mod rewrite;
pub mod rules;

use http::Method;
use pingora::http::RequestHeader;
use smallvec::SmallVec;

pub use self::host::normalise_host;
pub(crate) use self::predicate::{decode as decode_query, query_values};
use self::{
    host::Hosts,
    predicate::{Fit, Predicates},
};
use crate::pace::give_way;
use crate::{config::route::Match, proxy::context::Params};

/// Routes with what they belong to, compiled for look-up.
#[derive(Debug)]
pub struct RouteTable<T> {
    hosts: Hosts,
    candidates: Vec<Candidate>,
    targets: Vec<T>,
}

/// A route under one host and path.
#[derive(Debug)]
struct Candidate {
    target: usize,
    predicates: Predicates,
}

/// Candidates of the same host and path, best first: a range of [`RouteTable::candidates`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    from: usize,
    to: usize,
}

/// What the table says about a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a, T> {
    /// This route takes it, with these parameters.
    Route(&'a T, Params),
    /// The path exists, with these methods only.
    WrongMethod(Vec<&'a Method>),
    /// Which route takes it depends on how somebody reads it.
    Ambiguous,
    /// No route takes it.
    Nothing,
}

impl<T> RouteTable<T> {
    /// Compiles routes, which are in the order of the file.
    pub fn compile<'a, I: IntoIterator<Item = (&'a Match, T)>>(routes: I) -> Self {
        let mut hosts = host::Builder::default();
        let mut targets = Vec::new();
        for (target, (matcher, value)) in routes.into_iter().enumerate() {
            give_way();
            targets.push(value);
            hosts.add(matcher, target);
        }
        let mut candidates = Vec::new();
        let hosts = hosts.build(&mut |mut group: Vec<(usize, Predicates)>| {
            // Stable: among equals, the order of the file stays.
            group.sort_by_key(|(_, predicates)| std::cmp::Reverse(predicates.count()));
            let from = candidates.len();
            candidates.extend(group.into_iter().map(|(target, predicates)| Candidate { target, predicates }));
            Group { from, to: candidates.len() }
        });
        Self { hosts, candidates, targets }
    }

    /// Finds the route for a request whose host and path are in normal form. `method` is that of the request, or the
    /// one that a preflight asks about.
    pub fn find(&self, host: &str, path: &str, method: &Method, request: &RequestHeader) -> Found<'_, T> {
        let mut params = Params::new();
        let decided = self.hosts.visit(host, path, &mut params, &mut |group| self.decide(group, method, request));
        match decided {
            Some(Decision::Take(target)) => match self.targets.get(target) {
                Some(value) => Found::Route(value, params),
                None => Found::Nothing,
            },
            Some(Decision::Ambiguous) => Found::Ambiguous,
            Some(Decision::WrongMethod(methods)) => Found::WrongMethod(methods.into_vec()),
            None => Found::Nothing,
        }
    }

    /// All targets, in the order of the file.
    pub fn targets(&self) -> &[T] {
        &self.targets
    }

    fn decide(&self, group: Group, method: &Method, request: &RequestHeader) -> Option<Decision<'_>> {
        let mut allowed: SmallVec<[&Method; 8]> = SmallVec::new();
        for candidate in self.candidates.get(group.from..group.to)? {
            match candidate.predicates.fit(request) {
                Fit::Yes => {}
                Fit::No => continue,
                Fit::Ambiguous => return Some(Decision::Ambiguous),
            }
            if candidate.predicates.allow(method) {
                return Some(Decision::Take(candidate.target));
            }
            allowed.extend(candidate.predicates.methods());
        }
        if allowed.is_empty() {
            return None;
        }
        allowed.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        allowed.dedup();
        Some(Decision::WrongMethod(allowed))
    }
}

/// What a group says about a request that its path takes.
enum Decision<'a> {
    Take(usize),
    Ambiguous,
    WrongMethod(SmallVec<[&'a Method; 8]>),
}

#[cfg(test)]
mod tests;
