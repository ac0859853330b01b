//! `groups`: which callers may do this, by the groups of their consumer.
//!
//! # Rules
//!
//! - `any`: the consumer is in at least one of these. `all`: in each of them. `none`: in none of them. What is given has to hold as a
//!   whole, so `none` wins.
//! - A caller that is no consumer is in no group. Who may not: 403.
//! - It needs a policy that finds out who is calling.
//!
//! # Example
//!
//! ```yaml
//! consumers:
//!   billing: { groups: [internal], api_keys: ["${env:BILLING_KEY}"] }
//! policies:
//!   - api_key: {}
//!   - groups: { any: [internal, partners], none: [suspended] }
//! ```

use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Flow, Policy, Stage};
use crate::{
    config::{check::Check, steps, types::Name},
    identity::Consumer,
    proxy::context::Context,
    reject::Reject,
    runtime::Build,
};

/// Groups that a caller has to be in, or not.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Groups")]
pub struct Config {
    /// At least one of these.
    pub any: Vec<Name>,
    /// Each of these.
    pub all: Vec<Name>,
    /// None of these.
    pub none: Vec<Name>,
}

/// Lets only members of certain groups pass.
#[derive(Debug)]
pub struct Groups(Config);

impl Policy for Groups {
    const STAGE: Stage = Stage::Authorize;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        if config.any.is_empty() && config.all.is_empty() && config.none.is_empty() {
            check.error(&[], "which groups? Write `any`, `all` or `none`");
        }
        check.needs_authentication();
        let known: std::collections::HashSet<&Name> =
            check.config.consumers.values().flat_map(|one| &one.groups).collect();
        // A directory has groups of its own.
        let others = check.company().any(|other| ["ldap", "any_of"].contains(&other.config.kind()));
        for (key, names) in [("any", &config.any), ("all", &config.all), ("none", &config.none)] {
            for (i, name) in names.iter().enumerate().filter(|(_, name)| !others && !known.contains(name)) {
                check.warning(&steps![key, i], format!("no consumer is in a group `{name}`"));
            }
        }
    }

    fn compile(config: &Config, _: &mut Build<'_>) -> Result<Self, String> {
        Ok(Self(config.clone()))
    }

    async fn on_request(&self, _: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let consumer = ctx.identity.as_ref().and_then(|identity| identity.consumer.as_deref());
        match self.objection(consumer) {
            None => Ok(Flow::Continue),
            Some(reason) => Err(Reject::Forbidden(reason.into())),
        }
    }
}

impl Groups {
    fn objection(&self, consumer: Option<&Consumer>) -> Option<&'static str> {
        let is_in = |group: &Name| consumer.is_some_and(|consumer| consumer.is_in(group.as_str()));
        if self.0.none.iter().any(is_in) {
            Some("the caller is in a group of `none`")
        } else if !self.0.all.iter().all(is_in) {
            Some("the caller is not in each group of `all`")
        } else if !self.0.any.is_empty() && !self.0.any.iter().any(is_in) {
            Some("the caller is in no group of `any`")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forbidden_wins_over_what_is_allowed() {
        let names = |list: &[&str]| list.iter().map(|name| name.parse().unwrap()).collect::<Vec<Name>>();
        let policy = |any: &[&str], all: &[&str], none: &[&str]| {
            Groups(Config { any: names(any), all: names(all), none: names(none) })
        };
        let consumer = |groups: &[&str]| Consumer {
            name: "a".into(),
            groups: groups.iter().map(|group| (*group).into()).collect(),
            metadata: std::collections::BTreeMap::new(),
        };
        for (policy, groups, allowed) in [
            (policy(&["a", "b"], &[], &[]), &["b"][..], true),
            (policy(&["a", "b"], &[], &[]), &["c"], false),
            (policy(&[], &["a", "b"], &[]), &["a"], false),
            (policy(&[], &["a", "b"], &[]), &["b", "a", "c"], true),
            (policy(&["a"], &[], &["z"]), &["a", "z"], false),
            (policy(&[], &[], &["z"]), &["a"], true),
            (policy(&["a"], &["b"], &[]), &["a"], false),
        ] {
            assert_eq!(policy.objection(Some(&consumer(groups))).is_none(), allowed, "{policy:?} {groups:?}");
        }
        assert!(policy(&["a"], &[], &[]).objection(None).is_some());
        assert!(policy(&[], &[], &["z"]).objection(None).is_none());
    }
}
