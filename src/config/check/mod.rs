//! What needs more than one field: references, duplicates, routes that cannot be told apart or reached.

mod acme;
pub(super) mod consumers;
mod listeners;
mod release;
mod routes;
mod stores;
mod trust;
mod upstreams;

use std::{
    ops::Deref,
    path::{Path, PathBuf},
};

use super::{
    Config, Diagnostic, Place, Report, Step,
    diagnostic::nearest,
    redact, steps,
    tree::Node,
    types::{Duration, Name},
};
use crate::policy::{Mode, PolicyConfig};

/// A configuration that can be compiled. Only [`load`](super::load()) makes one.
#[derive(Debug)]
pub struct Validated {
    config: Config,
    source: Source,
}

/// What a file was read from, for whoever finds errors in it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) text: String,
    pub(super) tree: Node,
    /// Keys that do not belong, of which nobody knows whether they hold secrets.
    pub(super) unknown: Vec<Place>,
}

impl Source {
    /// A report on the file, with its lines if there is something to show.
    pub(super) fn report(&self, found: Vec<Diagnostic>) -> Report {
        let lines = if found.is_empty() { Vec::new() } else { redact::lines(&self.text, &self.tree, &self.unknown) };
        Report { file: self.name.clone(), lines, found, more: Vec::new() }
    }
}

impl Validated {
    pub(super) fn new(config: Config, source: Source) -> Self {
        Self { config, source }
    }

    /// A report on this file.
    pub fn report(&self, found: Vec<Diagnostic>) -> Report {
        self.source.report(found)
    }

    /// Whether something may look at claims of tokens: otherwise they need not be kept.
    pub(crate) fn looks_at_claims(&self) -> bool {
        let looks = |kind: &str| matches!(kind, "claims" | "authorize" | "identity_token");
        self.config.every_policy().any(|policy| looks(policy.config.kind()))
            // A placeholder may stand in any value, and a limit may count by one.
            || self.source.text.contains("claim")
    }

    /// The folders of the files that `consumers.files` names, as far as they are there.
    pub fn consumer_folders(&self) -> Vec<PathBuf> {
        let base = Path::new(&self.source.name).parent().unwrap_or_else(|| Path::new(""));
        super::consumer_files::folders(&self.config.consumers, base)
    }

    /// Where something stands in the file.
    pub fn place(&self, way: &[Step]) -> Place {
        self.source.tree.locate(way)
    }
}

impl Deref for Validated {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}

/// Looks for everything that the types cannot refuse by themselves.
pub(super) fn check(config: &Config, tree: &Node, found: &mut Vec<Diagnostic>) {
    let mut file = File { config, tree, found };
    file.listeners();
    for (name, upstream) in &config.upstreams {
        file.upstream(name, upstream);
    }
    acme::check(&mut file);
    stores::check(&mut file);
    file.dns();
    file.policies(&config.policies, &steps!["policies"], None);
    routes::check(&mut file);
}

/// What a policy's `check` has at hand.
#[derive(Debug)]
pub struct Check<'a> {
    /// The whole file.
    pub config: &'a Config,
    /// The names of the parameters of the route's template; `None` for policies of every route.
    pub params: Option<&'a [&'a str]>,
    /// The policies that stand beside this one.
    beside: &'a [PolicyConfig],
    tree: &'a Node,
    at: Vec<Step>,
    found: &'a mut Vec<Diagnostic>,
}

impl Check<'_> {
    /// The policies that run for the same requests. What is for every route may stand beside any.
    pub fn company(&self) -> impl Iterator<Item = &PolicyConfig> {
        let routes = self.config.routes.iter().filter(|_| self.params.is_none()).flat_map(|route| &route.policies);
        self.config.policies.iter().chain(self.beside).chain(routes)
    }

    /// The policies of the same list.
    pub fn beside(&self) -> impl Iterator<Item = &PolicyConfig> {
        self.beside.iter()
    }

    /// Whether a policy finds out who is calling, for the same requests.
    pub fn is_authenticated(&self) -> bool {
        self.company().any(|policy| policy.config.authenticates())
    }

    /// Reports that nobody finds out who is calling, so that this policy would refuse everyone.
    pub fn needs_authentication(&mut self) {
        if !self.is_authenticated() {
            self.error(
                &[],
                "no policy of this route finds out who is calling: it needs `jwt`, `api_key` or another that does",
            );
        }
    }

    /// Reports that nobody brings a token, so that this policy would refuse everyone.
    pub fn needs_tokens(&mut self) {
        self.needs_authentication();
        let brings =
            |policy: &PolicyConfig| matches!(policy.config.kind(), "jwt" | "introspection" | "oidc" | "any_of");
        if self.is_authenticated() && !self.company().any(brings) {
            self.warning(&[], "no policy of this route accepts tokens, so every request is refused");
        }
    }

    /// Reports an error at a place below the policy: `&steps!["limits", 0]`. Where something below that place is wrong
    /// and reported already, this one only follows from it, and is not said.
    pub fn error(&mut self, way: &[Step], message: impl Into<String>) {
        if self.tree.get(&[&self.at, way].concat()).is_some_and(Node::lacks_something) {
            return;
        }
        let place = self.place(way);
        self.found.push(Diagnostic::error(place, message));
    }

    /// Reports what works, but probably not as meant.
    pub fn warning(&mut self, way: &[Step], message: impl Into<String>) {
        let place = self.place(way);
        self.found.push(Diagnostic::warning(place, message));
    }

    /// Reports what would let nothing pass: some software takes 0 for no limit.
    pub fn takes_time(&mut self, way: &[Step], time: Duration) {
        if time.0.is_zero() {
            self.error(way, NO_TIME);
        }
    }

    /// Reports a store that is not there.
    pub fn is_store(&mut self, way: &[Step], name: &Name) {
        if self.config.stores.contains_key(name) {
            return;
        }
        let known: Vec<&str> = self.tree.get(&steps!["stores"]).map(Node::keys).unwrap_or_default();
        if known.contains(&name.as_str()) {
            // It is there, and wrong.
            return;
        }
        let mut wrong = Diagnostic::error(self.place(way), format!("no store is named `{name}`"));
        wrong.help = nearest(name.as_str(), known);
        self.found.push(wrong);
    }

    /// Reports a path that cannot be asked for.
    pub fn is_path(&mut self, way: &[Step], path: &str) {
        if !path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err() {
            self.error(way, "a path begins with `/`");
        }
    }

    /// Checks a policy that stands below this one.
    pub fn nested(&mut self, way: &[Step], policy: &PolicyConfig) {
        policy.config.check(&mut Check {
            config: self.config,
            params: self.params,
            beside: self.beside,
            tree: self.tree,
            at: [&self.at, way].concat(),
            found: self.found,
        });
    }

    /// Where something below the policy stands.
    pub fn place(&self, way: &[Step]) -> Place {
        self.tree.locate(&[&self.at, way].concat())
    }
}

/// What is wrong with a time-out of 0.
const NO_TIME: &str = "nothing is done within no time: a time-out is at least 1ms";

/// The file under check.
struct File<'a> {
    config: &'a Config,
    tree: &'a Node,
    found: &'a mut Vec<Diagnostic>,
}

impl File<'_> {
    fn error(&mut self, way: &[Step], message: impl Into<String>) {
        let place = self.tree.locate(way);
        self.found.push(Diagnostic::error(place, message));
    }

    fn warning(&mut self, way: &[Step], message: impl Into<String>) {
        let place = self.tree.locate(way);
        self.found.push(Diagnostic::warning(place, message));
    }

    /// The names below a section, those that were dropped as wrong included: nothing refers to nothing because of
    /// an error that is reported already.
    fn names(&self, section: &str) -> Vec<&str> {
        let section = self.tree.entry(section).map(|entry| &entry.node);
        section.map(Node::keys).unwrap_or_default()
    }

    /// Whether a list was empty from the start.
    fn is_empty(&self, way: &[Step]) -> bool {
        self.tree.get(way).is_none_or(|list| list.child(0).is_none())
    }

    /// Reports a reference to an upstream that is not there.
    fn upstream_exists(&mut self, upstream: &Name, way: &[Step]) {
        let known = self.names("upstreams");
        // Without any, what should be there is wrong, and reported already.
        let lost = known.is_empty() && self.tree.lacks_something();
        if !lost && !known.contains(&upstream.as_str()) {
            let mut wrong = Diagnostic::error(self.tree.locate(way), format!("no upstream is named `{upstream}`"));
            wrong.help = nearest(upstream.as_str(), known);
            self.found.push(wrong);
        }
    }

    /// Some software takes 0 for no limit; here it would let nothing pass.
    fn takes_time(&mut self, way: &[Step], time: Duration) {
        if time.0.is_zero() {
            self.error(way, NO_TIME);
        }
    }

    fn dns(&mut self) {
        let dns = &self.config.dns;
        if dns.min_ttl.0 < std::time::Duration::from_millis(100) {
            self.error(
                &steps!["dns", "min_ttl"],
                "the name servers would be asked all the time: `min_ttl` is at least 100ms",
            );
        }
        if dns.min_ttl > dns.max_ttl {
            let max = dns.max_ttl.0;
            self.error(&steps!["dns", "min_ttl"], format!("`min_ttl` is longer than `max_ttl`, which is {max:?}"));
        }
    }

    fn policies(&mut self, policies: &[PolicyConfig], at: &[Step], params: Option<&[&str]>) {
        for (i, policy) in policies.iter().enumerate() {
            if policy.mode == Mode::Shadow && !policy.config.refuses() {
                let message = format!(
                    "`{}` refuses nothing, so there is nothing that `shadow` would count",
                    policy.config.kind()
                );
                self.error(&[at, &steps![i, "mode"]].concat(), message);
            }
            if policy.mode == Mode::Shadow && !policy.config.answers().is_empty() {
                self.warning(&[at, &steps![i, "mode"]].concat(), "in shadow mode nobody can log in");
            }
            for (way, upstream) in policy.config.upstreams() {
                self.upstream_exists(upstream, &[at, &steps![i, policy.config.kind()], &way].concat());
            }
            policy.config.check(&mut Check {
                config: self.config,
                params,
                beside: policies,
                tree: self.tree,
                at: [at, &steps![i, policy.config.kind()]].concat(),
                found: self.found,
            });
        }
    }
}
