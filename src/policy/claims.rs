//! `claims`: what a token has to say.
//!
//! # Rules
//!
//! - Each entry names a claim, and what has to hold of it. All entries have to hold, and of an entry with several operators each one.
//! - A claim is named by its key, or by a path with dots (`realm_access.roles`); a key with dots of its own goes before a path.
//! - Operators: `equals` a text, a number, `true` or `false`; `any_of` and `none_of` a list of those, for a claim that is a list
//!   each of its items counts; `contains` one of those, for a claim that is a list; `matches` a regular expression for the whole text;
//!   `at_least` and `at_most` a number; `present` whether it is there.
//! - A claim that is not there, or of another type than the operator needs, does not hold; except for `none_of` and `present: false`.
//! - A caller without a token has no claims. Who lacks one: 403.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - jwt: { issuer: https://idp.example.com, audience: api }
//!   - claims:
//!       - { claim: realm_access.roles, contains: editor }
//!       - { claim: acr, any_of: [gold, platinum] }
//!       - { claim: age, at_least: 18 }
//! ```

use std::sync::Arc;

use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{Flow, Policy, Stage};
use crate::{
    config::{check::Check, consumer::Metadata as Scalar, steps},
    identity::Claims as Map,
    proxy::context::Context,
    reject::Reject,
    route::pattern::PathRegex,
    runtime::Build,
};

/// What has to hold of one claim.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ClaimRule")]
pub struct Rule {
    /// Its name, or a path with dots.
    pub claim: String,
    /// It is this.
    pub equals: Option<Scalar>,
    /// It is one of these, or a list with one of them.
    pub any_of: Option<Vec<Scalar>>,
    /// It is none of these, and no list with one of them.
    pub none_of: Option<Vec<Scalar>>,
    /// It is a list with this.
    pub contains: Option<Scalar>,
    /// It is a text that this regular expression matches as a whole.
    pub matches: Option<PathRegex>,
    /// It is a number, and at least this.
    pub at_least: Option<f64>,
    /// It is a number, and at most this.
    pub at_most: Option<f64>,
    /// Whether it is there.
    pub present: Option<bool>,
}

/// Lets only tokens with certain claims pass.
#[derive(Debug)]
pub struct Claims(Arc<[Rule]>);

impl Policy for Claims {
    const STAGE: Stage = Stage::Authorize;
    type Config = Vec<Rule>;

    fn check(config: &Vec<Rule>, check: &mut Check<'_>) {
        if config.is_empty() {
            check.error(&[], "which claims? Write `- { claim: NAME, equals: VALUE }`");
        }
        check.needs_tokens();
        for (i, rule) in config.iter().enumerate() {
            if rule.claim.is_empty() {
                check.error(&steps![i, "claim"], "a claim has a name");
            }
            if rule.is_empty() {
                check.error(
                    &steps![i],
                    "what has to hold of it? Write `equals`, `any_of`, `contains` or another operator",
                );
            }
        }
    }

    fn compile(config: &Vec<Rule>, _: &mut Build<'_>) -> Result<Self, String> {
        Ok(Self(config.clone().into()))
    }

    async fn on_request(&self, _: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let token = ctx.identity.as_ref().and_then(|identity| identity.token.as_ref());
        let claims = token.and_then(|token| token.claims.as_deref());
        let holds = |rule: &&Rule| rule.holds(claims.and_then(|claims| find(claims, &rule.claim)));
        match self.0.iter().find(|rule| !holds(rule)) {
            None => Ok(Flow::Continue),
            Some(rule) => {
                let why = format!("the claim `{}` of the token is not what it has to be", rule.claim);
                Err(Reject::Forbidden(why.into()))
            }
        }
    }
}

impl Rule {
    fn is_empty(&self) -> bool {
        let Self { claim: _, equals, any_of, none_of, contains, matches, at_least, at_most, present } = self;
        let lists = any_of.is_none() && none_of.is_none();
        lists
            && equals.is_none()
            && contains.is_none()
            && matches.is_none()
            && at_least.is_none()
            && at_most.is_none()
            && present.is_none()
    }

    fn holds(&self, value: Option<&Value>) -> bool {
        let among = |list: &Vec<Scalar>| list.iter().any(|one| items(value).any(|item| same(one, item)));
        self.present.is_none_or(|wanted| value.is_some() == wanted)
            && self.none_of.as_ref().is_none_or(|list| !among(list))
            && self.any_of.as_ref().is_none_or(among)
            && self.equals.as_ref().is_none_or(|one| value.is_some_and(|value| same(one, value)))
            && self.contains.as_ref().is_none_or(|one| {
                value.and_then(Value::as_array).is_some_and(|list| list.iter().any(|item| same(one, item)))
            })
            && self
                .matches
                .as_ref()
                .is_none_or(|regex| value.and_then(Value::as_str).is_some_and(|text| regex.regex.is_match(text)))
            && self.at_least.is_none_or(|least| value.and_then(Value::as_f64).is_some_and(|number| number >= least))
            && self.at_most.is_none_or(|most| value.and_then(Value::as_f64).is_some_and(|number| number <= most))
    }
}

/// A list's items, or the one value.
fn items(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    let list = value.and_then(Value::as_array);
    let single = value.filter(|_| list.is_none());
    list.into_iter().flatten().chain(single)
}

fn same(one: &Scalar, value: &Value) -> bool {
    match one {
        Scalar::Bool(one) => value.as_bool() == Some(*one),
        Scalar::Number(one) => value.as_i64() == Some(*one),
        Scalar::Text(one) => value.as_str() == Some(one),
    }
}

/// The claim of this name, or at the end of this path.
pub(super) fn find<'a>(claims: &'a Map, name: &str) -> Option<&'a Value> {
    if let Some(found) = claims.get(name) {
        return Some(found);
    }
    let mut steps = name.split('.');
    let first = claims.get(steps.next()?)?;
    steps.try_fold(first, |here, step| here.as_object()?.get(step))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(rule: &Value, claims: &Value) -> bool {
        let rule: Rule = serde_json::from_value(rule.clone()).unwrap();
        rule.holds(find(claims.as_object().unwrap(), &rule.claim))
    }

    #[test]
    fn each_operator_takes_its_type_and_no_other() {
        let claims = json!({
            "sub": "alice", "admin": true, "age": 18, "roles": ["a", "b"], "realm": { "roles": ["c"] }, "x.y": "dots", "x": { "y": 1 },
            "ratio": 0.5, "nothing": null,
        });
        for (rule, expected) in [
            (json!({ "claim": "sub", "equals": "alice" }), true),
            (json!({ "claim": "sub", "equals": "ALICE" }), false),
            (json!({ "claim": "admin", "equals": true }), true),
            (json!({ "claim": "admin", "equals": "true" }), false),
            (json!({ "claim": "age", "equals": 18 }), true),
            (json!({ "claim": "age", "equals": "18" }), false),
            (json!({ "claim": "age", "at_least": 18, "at_most": 20 }), true),
            (json!({ "claim": "age", "at_least": 18.5 }), false),
            (json!({ "claim": "ratio", "at_most": 0.5 }), true),
            (json!({ "claim": "sub", "at_least": 0 }), false),
            (json!({ "claim": "roles", "contains": "b" }), true),
            (json!({ "claim": "roles", "contains": "c" }), false),
            (json!({ "claim": "sub", "contains": "alice" }), false),
            (json!({ "claim": "realm.roles", "contains": "c" }), true),
            (json!({ "claim": "realm.roles.x", "present": true }), false),
            (json!({ "claim": "x.y", "equals": "dots" }), true),
            (json!({ "claim": "roles", "any_of": ["z", "a"] }), true),
            (json!({ "claim": "sub", "any_of": ["bob", "alice"] }), true),
            (json!({ "claim": "roles", "none_of": ["z"] }), true),
            (json!({ "claim": "roles", "none_of": ["a"] }), false),
            (json!({ "claim": "missing", "none_of": ["a"] }), true),
            (json!({ "claim": "missing", "any_of": ["a"] }), false),
            (json!({ "claim": "missing", "present": false }), true),
            (json!({ "claim": "nothing", "equals": "" }), false),
            (json!({ "claim": "sub", "matches": "al.*" }), true),
            (json!({ "claim": "sub", "matches": "l.*" }), false),
            (json!({ "claim": "roles", "matches": ".*" }), false),
        ] {
            assert_eq!(holds(&rule, &claims), expected, "{rule}");
        }
    }
}
