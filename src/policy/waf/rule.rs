//! What a rule is: what it looks at, what it asks, and what follows.

use super::{
    actions::Actions,
    exception::Exception,
    operator::{Operator, Unfit},
    source::{Directive, Spot},
    template::Template,
    transform::Transform,
    variable::Targets,
};

/// When rules run. Those of the later phases, which look at responses, do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    Header,
    Body,
    Later,
}

/// What becomes of the request when a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    Refuse,
    /// No further rules of this phase.
    AllowPhase,
    /// No further rules.
    Allow,
    /// What `SecDefaultAction` says.
    Block,
}

/// Where it goes on behind a rule that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Skip {
    Rules(usize),
    To(String),
}

/// One `SecRule` or `SecAction`.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) targets: Option<Targets>,
    pub(super) transforms: Vec<Transform>,
    /// Asked of what each transformation leaves, and not only of the last.
    pub(super) each_step: bool,
    pub(super) operator: Operator,
    /// The pattern, as it was written.
    pub(super) pattern: Option<String>,
    pub(super) inverted: bool,
    pub(super) groups: bool,
    pub(super) changes: Vec<Change>,
}

/// What a rule that holds does besides.
#[derive(Debug)]
pub(super) enum Change {
    Set { name: Template, value: Template },
    Add { name: Template, value: Template, sign: i64 },
    Forget { name: Template },
    Control(Control),
}

/// What a rule changes for the rest of the request (`ctl:`).
#[derive(Clone, Debug)]
pub(super) enum Control {
    /// No further rules.
    Off,
    /// Nothing is refused any more.
    DetectOnly,
    /// Rules do not run, or leave something out.
    Except(Exception),
    /// How the body is read, whatever its media type.
    Processor(String),
    /// `REQUEST_BODY` is there whatever the body is.
    KeepBody,
}

/// A rule with all that is chained to it.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) id: u32,
    pub(super) phase: Phase,
    pub(super) links: Vec<Link>,
    pub(super) verdict: Verdict,
    pub(super) skip: Option<Skip>,
    pub(super) tags: Vec<String>,
    pub(super) log: bool,
    pub(super) place: Spot,
}

impl Rule {
    /// Whether it has this tag.
    pub(super) fn has_tag(&self, wanted: &str) -> bool {
        self.tags.iter().any(|tag| tag == wanted)
    }
}

/// A rule that has been read, and whether more is chained to it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) rule: Rule,
    pub(super) chained: bool,
}

/// What `SecDefaultAction` says for one phase.
#[derive(Clone, Debug)]
pub(super) struct Defaults {
    pub(super) refuses: bool,
    pub(super) log: bool,
    pub(super) transforms: Vec<Transform>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { refuses: false, log: true, transforms: Vec::new() }
    }
}

/// Reads a `SecRule` or `SecAction`.
pub(super) fn read(directive: &Directive, is_link: bool, defaults: &dyn Fn(Phase) -> Defaults) -> Result<Read, Unfit> {
    let wrong = |what: String| Unfit::Wrong(directive.place.says(what));
    let is_rule = directive.name.eq_ignore_ascii_case("SecRule");
    let (targets, question, actions) = match (is_rule, directive.words.as_slice()) {
        (true, [targets, question]) => (Some(targets), question.as_str(), ""),
        (true, [targets, question, actions]) => (Some(targets), question.as_str(), actions.as_str()),
        (false, [actions]) => (None, "@unconditionalMatch", actions.as_str()),
        _ => return Err(wrong("a `SecRule` has what it looks at, what it asks, and what follows".into())),
    };
    let actions = Actions::parse(actions, &directive.place)?;
    let id = match actions.id {
        Some(id) => id,
        None if is_link => 0,
        None => return Err(wrong("a rule needs an `id`".into())),
    };
    let phase = actions.phase.unwrap_or(Phase::Body);
    let defaults = defaults(phase);
    let (inverted, operator) = Operator::parse(question, &directive.place).map_err(|unfit| match unfit {
        Unfit::Wrong(why) => wrong(why),
        Unfit::Unsupported(why) if is_link => Unfit::Unsupported(directive.place.says(why)),
        Unfit::Unsupported(why) => Unfit::Unsupported(format!("rule {id}: {}", directive.place.says(why))),
    })?;
    let pattern = operator.as_regex().map(|_| question.trim_start_matches('!').trim_start());
    // `@rx` in any case.
    let named = |text: &str| text.get(..3).is_some_and(|name| name.eq_ignore_ascii_case("@rx"));
    let pattern = pattern.map(|text| text.get(3..).filter(|_| named(text)).map_or(text, str::trim_start).to_owned());
    let link = Link {
        targets: targets.map(|targets| Targets::parse(targets).map_err(wrong)).transpose()?,
        transforms: if is_rule { with_defaults(&defaults.transforms, actions.transforms) } else { Vec::new() },
        each_step: actions.each_step,
        operator,
        pattern,
        inverted,
        groups: actions.groups,
        changes: actions.changes,
    };
    let verdict = match actions.verdict {
        Some(Verdict::Block) if defaults.refuses => Verdict::Refuse,
        Some(Verdict::Block) => Verdict::Pass,
        None if defaults.refuses && is_rule => Verdict::Refuse,
        other => other.unwrap_or(Verdict::Pass),
    };
    let rule = Rule {
        id,
        phase,
        links: vec![link],
        verdict,
        skip: actions.skip,
        tags: actions.tags,
        log: actions.log.unwrap_or(defaults.log),
        place: directive.place.clone(),
    };
    Ok(Read { rule, chained: actions.chained })
}

/// `t:none` forgets what the defaults say, and what stands before it.
fn with_defaults(defaults: &[Transform], own: Vec<Option<Transform>>) -> Vec<Transform> {
    let mut all = defaults.to_vec();
    for transform in own {
        match transform {
            Some(transform) => all.push(transform),
            None => all.clear(),
        }
    }
    all
}
