//! What is said about rules that stand elsewhere: in a file, for all requests (`SecRuleRemoveById`), or by a rule, for the one that is looked at (`ctl:`).

use std::ops::RangeInclusive;

use super::{
    rule::Rule,
    variable::{Target, Targets, Variable},
};

/// An exception.
#[derive(Clone, Debug)]
pub(super) enum Exception {
    RemoveIds(RangeInclusive<u32>),
    RemoveTag(String),
    TargetsById(RangeInclusive<u32>, Targets),
    TargetsByTag(String, Targets),
}

impl Exception {
    /// Whether the rule does not run.
    pub(super) fn removes(&self, rule: &Rule) -> bool {
        match self {
            Self::RemoveIds(ids) => ids.contains(&rule.id),
            Self::RemoveTag(tag) => rule.has_tag(tag),
            Self::TargetsById(..) | Self::TargetsByTag(..) => false,
        }
    }

    /// What of the rule's targets it is about.
    fn targets(&self, rule: &Rule) -> Option<&Targets> {
        match self {
            Self::TargetsById(ids, targets) => ids.contains(&rule.id).then_some(targets),
            Self::TargetsByTag(tag, targets) => rule.has_tag(tag).then_some(targets),
            Self::RemoveIds(_) | Self::RemoveTag(_) => None,
        }
    }

    /// Changes what the rule looks at, for all requests: `!ARGS:id` is left out, `ARGS:id` added.
    pub(super) fn amend(&self, rule: &mut Rule) {
        let Some(targets) = self.targets(rule).cloned() else { return };
        if let Some(own) = rule.links.first_mut().and_then(|link| link.targets.as_mut()) {
            own.wanted.extend(targets.wanted);
            own.left_out.extend(targets.left_out);
        }
    }

    /// Whether the rule does not look at this member, for this request: it is named with `!` or without.
    pub(super) fn leaves_out(&self, rule: &Rule, variable: Variable, key: &[u8]) -> bool {
        let takes = |targets: &[Target]| targets.iter().any(|one| one.takes(variable, key));
        self.targets(rule).is_some_and(|targets| takes(&targets.wanted) || takes(&targets.left_out))
    }
}
