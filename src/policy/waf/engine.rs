//! Runs rules over a request.

use std::borrow::Cow;

use super::{
    body,
    exception::Exception,
    facts::{Facts, Item},
    filter::{self, Candidates},
    operator::{Found, number},
    rule::{Change, Control, Link, Phase, Rule, Verdict},
    ruleset::{Ready, RuleSet},
    template::{Part, Template},
    tx::Tx,
    variable::{self, Target, Targets, Variable},
};

/// What rules found out about a request so far.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) tx: Tx,
    /// No further rules run.
    over: bool,
    detect_only: bool,
    exceptions: Vec<Exception>,
    /// How rules say that the body is read.
    pub(super) processor: Option<&'static str>,
    /// `REQUEST_BODY` is there whatever the body is.
    pub(super) keep_body: bool,
    pub(super) hits: Vec<Hit>,
}

/// A rule that held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Its number.
    pub rule: u32,
    /// What it was about: `ARGS:q`.
    pub at: String,
}

/// More are not noted of one request: the first ones say what it is about.
const MAX_HITS: usize = 32;

/// What is longer than this many bytes is no name for the log.
const MAX_NAME: usize = 64;

/// One run of the rules of a phase.
pub(super) struct Run<'f, 'a> {
    set: &'f RuleSet,
    facts: &'f Facts<'a>,
    state: &'f mut State,
    /// Where in `seen` each member stands, for each list of transformations; behind it, so that 0 is nowhere.
    places: Vec<usize>,
    seen: Vec<Option<Seen<'f>>>,
    /// What held within the chain that runs.
    matched: Vec<Match>,
    /// How much was looked at since others had their turn, in bytes.
    spent: usize,
}

/// So many bytes are looked at before others have their turn; a look at one takes some nanoseconds.
const TURN: usize = 128 << 10;

/// A look at a value costs as much as so many bytes of one.
const LOOK: usize = 16;

/// What became of a value, and which patterns could match it.
struct Seen<'f> {
    value: Cow<'f, [u8]>,
    candidates: Candidates,
}

/// What held.
struct Match {
    variable: Variable,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// A value that a rule looks at.
struct Subject<'v> {
    variable: Variable,
    key: Cow<'v, [u8]>,
    value: Cow<'v, [u8]>,
}

impl<'f, 'a> Run<'f, 'a> {
    pub(super) fn new(set: &'f RuleSet, facts: &'f Facts<'a>, state: &'f mut State) -> Self {
        let places = vec![0; facts.items.len() * set.pipelines.len()];
        Self { set, facts, state, places, seen: Vec::with_capacity(256), matched: Vec::new(), spent: 0 }
    }

    /// Runs the rules of a phase; returns the one that refuses. Other requests get their turn meanwhile.
    pub(super) async fn phase(&mut self, phase: Phase) -> Option<u32> {
        let rules = self.set.phase(phase);
        let mut at = 0;
        while let Some(ready) = rules.get(at).filter(|_| !self.state.over) {
            at += 1;
            if self.spent > TURN {
                self.spent = 0;
                tokio::task::yield_now().await;
            }
            if self.is_removed(&ready.rule) || !self.rule(ready) {
                continue;
            }
            at = ready.jump.unwrap_or(at);
            match ready.rule.verdict {
                Verdict::Refuse if !self.state.detect_only => return Some(ready.rule.id),
                Verdict::AllowPhase => return None,
                Verdict::Allow => self.state.over = true,
                Verdict::Refuse | Verdict::Pass | Verdict::Block => {}
            }
        }
        None
    }

    fn is_removed(&self, rule: &Rule) -> bool {
        self.state.exceptions.iter().any(|exception| exception.removes(rule))
    }

    /// Whether a rule holds, with all that is chained to it.
    fn rule(&mut self, ready: &'f Ready) -> bool {
        self.matched.clear();
        let mut last = 0;
        let links = ready.rule.links.iter().zip(&ready.pipelines);
        for (n, (link, pipeline)) in links.enumerate() {
            let slot = ready.slot.filter(|_| n == 0);
            last = self.matched.len();
            let holds = match &link.targets {
                None => {
                    self.follow(link, &ready.rule, None);
                    true
                }
                Some(targets) => self.link(link, targets, (*pipeline, slot), &ready.rule),
            };
            if !holds {
                return false;
            }
        }
        // An exception is one only where all of its conditions hold.
        for change in ready.rule.links.iter().flat_map(|link| &link.changes) {
            if let Change::Control(control) = change {
                self.control(control);
            }
        }
        if ready.rule.log && self.state.hits.len() < MAX_HITS {
            let at = self.matched.get(last).map(Match::shown).unwrap_or_default();
            self.state.hits.push(Hit { rule: ready.rule.id, at });
        }
        true
    }

    fn link(&mut self, link: &'f Link, targets: &'f Targets, way: (usize, Option<usize>), rule: &'f Rule) -> bool {
        let mut holds = false;
        for target in &targets.wanted {
            if target.counted {
                let count = self.count(target, targets, rule).to_string().into_bytes();
                let subject = Subject { variable: target.variable(), key: key_of(target), value: Cow::Owned(count) };
                holds |= self.ask(link, subject, rule);
            } else if target.variable().is_fact() {
                for variable in target.variables {
                    holds |= self.members(link, (*variable, target), targets, way, rule);
                }
            } else if self.is_beside(link, target, rule) {
                // Most of what is asked of a number: nothing has to be written down for that.
            } else {
                let variable = target.variable();
                for (key, value) in self.changing(target) {
                    if targets.left_out.iter().any(|one| one.takes(variable, &key)) {
                        continue;
                    }
                    let value = self.set.transformed(&value, way.0).into_owned();
                    let subject = Subject { variable, key: Cow::Owned(key), value: Cow::Owned(value) };
                    holds |= self.ask(link, subject, rule);
                }
            }
        }
        holds
    }

    fn members(
        &mut self,
        link: &'f Link,
        (variable, target): (Variable, &'f Target),
        targets: &'f Targets,
        (pipeline, slot): (usize, Option<usize>),
        rule: &'f Rule,
    ) -> bool {
        let facts = self.facts;
        let mut holds = false;
        for at in facts.members(variable) {
            let Some(item) = facts.items.get(*at) else { continue };
            if slot.is_some_and(|slot| !self.could_match(*at, item, pipeline, slot)) {
                continue;
            }
            if !target.selector.takes(&item.key) || self.is_left_out(item, targets, rule) {
                continue;
            }
            if link.each_step {
                holds |= self.each_step(link, item, pipeline, rule);
                continue;
            }
            // Out of its place while it is looked at: what a rule does may look at other values.
            let Some(place) = self.look_at(*at, item, pipeline) else { continue };
            let Some(seen) = self.seen.get_mut(place).and_then(Option::take) else { continue };
            let subject =
                Subject { variable: item.variable, key: Cow::Borrowed(&item.key), value: Cow::Borrowed(&seen.value) };
            holds |= self.ask(link, subject, rule);
            if let Some(empty) = self.seen.get_mut(place) {
                *empty = Some(seen);
            }
        }
        holds
    }

    /// Where it stands what became of a member, which is found out when it is asked for first.
    fn look_at(&mut self, at: usize, item: &'f Item<'a>, pipeline: usize) -> Option<usize> {
        let place = self.places.get_mut(at * self.set.pipelines.len() + pipeline)?;
        if *place == 0 {
            self.spent += item.value.len();
            let value = self.set.transformed(&item.value, pipeline);
            let candidates = self.set.filters.get(pipeline).map(|filter| filter.look(&value)).unwrap_or_default();
            self.seen.push(Some(Seen { value, candidates }));
            *place = self.seen.len();
        }
        Some(*place - 1)
    }

    /// Whether a pattern could match a member at all.
    fn could_match(&mut self, at: usize, item: &'f Item<'a>, pipeline: usize, slot: usize) -> bool {
        let seen = self.look_at(at, item, pipeline).and_then(|place| self.seen.get(place)?.as_ref());
        seen.is_some_and(|seen| filter::has(&seen.candidates, slot))
    }

    /// Asks of what each transformation leaves, where it changes something.
    fn each_step(&mut self, link: &'f Link, item: &'f Item<'a>, pipeline: usize, rule: &'f Rule) -> bool {
        let steps = self.set.pipelines.get(pipeline).map(|steps| &**steps).unwrap_or_default();
        let subject = |value: Cow<'f, [u8]>| Subject { variable: item.variable, key: Cow::Borrowed(&item.key), value };
        let mut holds = self.ask(link, subject(Cow::Borrowed(&item.value)), rule);
        let mut value = Cow::Borrowed(&*item.value);
        for step in steps {
            let next = step.apply(&value).into_owned();
            if *next != *value {
                holds |= self.ask(link, subject(Cow::Owned(next.clone())), rule);
                value = Cow::Owned(next);
            }
        }
        holds
    }

    /// Whether it is a number that rules keep, and not the one that is asked for.
    fn is_beside(&self, link: &Link, target: &Target, rule: &Rule) -> bool {
        let variable::Selector::Key(name) = &target.selector else { return false };
        if target.variable() != Variable::Tx || !link.transforms.is_empty() {
            return false;
        }
        match self.state.tx.number(name) {
            None => true,
            Some(number) => {
                let compared = link.operator.compares(number, &|template| self.expand(template, rule));
                compared.is_some_and(|holds| holds == link.inverted)
            }
        }
    }

    fn is_left_out(&self, item: &Item<'_>, targets: &Targets, rule: &Rule) -> bool {
        targets.left_out.iter().any(|one| one.takes(item.variable, &item.key))
            || self.state.exceptions.iter().any(|one| one.leaves_out(rule, item.variable, &item.key))
    }

    fn count(&self, target: &Target, targets: &Targets, rule: &Rule) -> usize {
        if target.variable().is_fact() {
            let all = target.variables.iter().flat_map(|variable| self.facts.of(*variable));
            return all
                .filter(|item| target.selector.takes(&item.key) && !self.is_left_out(item, targets, rule))
                .count();
        }
        let is_out = |key: &[u8]| targets.left_out.iter().any(|one| one.takes(target.variable(), key));
        self.changing(target).iter().filter(|(key, _)| !is_out(key)).count()
    }

    /// The members of what changes while rules run.
    fn changing(&self, target: &Target) -> Vec<(Vec<u8>, Vec<u8>)> {
        let is = |one: Variable| target.variable() == one;
        if is(Variable::Tx) {
            return self.state.tx.taken_by(&target.selector);
        }
        let count = self.matched.len();
        let from = if is(Variable::MatchedVars) || is(Variable::MatchedVarsNames) {
            0
        } else if is(Variable::MatchedVar) || is(Variable::MatchedVarName) {
            count.saturating_sub(1)
        } else {
            count
        };
        let names = is(Variable::MatchedVarName) || is(Variable::MatchedVarsNames);
        let member = |one: &Match| {
            let name = one.name();
            let value = if names { name.clone() } else { one.value.clone() };
            (name, value)
        };
        self.matched.iter().skip(from).map(member).collect()
    }

    /// Asks about one value, and does what follows.
    fn ask(&mut self, link: &'f Link, subject: Subject<'_>, rule: &'f Rule) -> bool {
        self.spent += subject.value.len() + LOOK;
        let found = link.operator.holds(&subject.value, link.groups, &|template| self.expand(template, rule));
        if found.is_some() == link.inverted {
            return false;
        }
        let Subject { variable, key, value } = subject;
        self.matched.push(Match { variable, key: key.into_owned(), value: value.into_owned() });
        self.follow(link, rule, found);
        true
    }

    /// What a link does when it holds.
    fn follow(&mut self, link: &'f Link, rule: &'f Rule, found: Option<Found>) {
        if let Some(found) = found.filter(|_| link.groups) {
            self.state.tx.groups(found.groups);
        }
        for change in &link.changes {
            match change {
                Change::Set { name, value } => {
                    let value = self.expand(value, rule);
                    self.state.tx.set(self.expand(name, rule), value);
                }
                Change::Add { name, value, sign } => {
                    let amount = value.as_number().unwrap_or_else(|| number(&self.expand(value, rule)));
                    self.state.tx.add(self.expand(name, rule), sign.saturating_mul(amount));
                }
                Change::Forget { name } => {
                    let name = self.expand(name, rule);
                    self.state.tx.forget(&name);
                }
                // When the whole chain holds.
                Change::Control(_) => {}
            }
        }
    }

    fn control(&mut self, control: &Control) {
        match control {
            Control::Off => self.state.over = true,
            Control::DetectOnly => self.state.detect_only = true,
            Control::KeepBody => self.state.keep_body = true,
            Control::Processor(name) => self.state.processor = body::named(name),
            Control::Except(exception) => self.state.exceptions.push(exception.clone()),
        }
    }

    /// The text that a template stands for.
    fn expand(&self, template: &Template, rule: &Rule) -> Vec<u8> {
        let mut out = Vec::new();
        for part in template.parts() {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Tx(name) => self.state.tx.write(name, &mut out),
                Part::RuleId => out.extend_from_slice(rule.id.to_string().as_bytes()),
                Part::First(target) => {
                    let found = if target.variable().is_fact() {
                        let mut members = target.variables.iter().flat_map(|variable| self.facts.of(*variable));
                        members.find(|item| target.selector.takes(&item.key)).map(|item| item.value.to_vec())
                    } else {
                        self.changing(target).into_iter().next().map(|(_, value)| value)
                    };
                    out.extend_from_slice(&found.unwrap_or_default());
                }
            }
        }
        out
    }
}

impl RuleSet {
    /// What a list of transformations makes of a value.
    fn transformed<'v>(&self, value: &'v [u8], pipeline: usize) -> Cow<'v, [u8]> {
        let steps = self.pipelines.get(pipeline).map(|steps| &**steps).unwrap_or_default();
        steps.iter().fold(Cow::Borrowed(value), |value, step| match value {
            Cow::Borrowed(value) => step.apply(value),
            Cow::Owned(value) => {
                if let Cow::Owned(changed) = step.apply(&value) {
                    Cow::Owned(changed)
                } else {
                    Cow::Owned(value)
                }
            }
        })
    }
}

impl Match {
    /// `ARGS:q`, for rules.
    fn name(&self) -> Vec<u8> {
        if matches!(
            self.variable,
            Variable::MatchedVar | Variable::MatchedVars | Variable::MatchedVarName | Variable::MatchedVarsNames
        ) {
            // It has its name already.
            return self.key.clone();
        }
        let name = variable::name(self.variable).as_bytes();
        if self.key.is_empty() { name.to_vec() } else { [name, b":", &self.key].concat() }
    }

    /// The same for the log. What does not look like a name may be a value, and is not shown.
    fn shown(&self) -> String {
        let is_letter =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'[' | b']' | b':');
        let is_name = self.key.len() <= MAX_NAME && self.key.iter().all(is_letter);
        let name = if is_name { self.name() } else { variable::name(self.variable).as_bytes().to_vec() };
        String::from_utf8_lossy(&name).into_owned()
    }
}

fn key_of(target: &Target) -> Cow<'_, [u8]> {
    match &target.selector {
        variable::Selector::Key(key) => Cow::Borrowed(key),
        variable::Selector::All | variable::Selector::Pattern(_) => Cow::Borrowed(b""),
    }
}
