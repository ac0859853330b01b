//! `waf`: whether a request looks like an attack, by rules in ModSecurity's language, such as the
//! [OWASP Core Rule Set](https://coreruleset.org).
//!
//! # Rules
//!
//! - `files` names files of rules, with wildcards; `rules` is a text of them, which comes first: there stand settings of the Core Rule Set
//!   (`SecAction "id:1,phase:1,pass,nolog,setvar:tx.paranoia_level=2"`) and rules of one's own.
//! - Rules of phase 1 look at the header. Those of phase 2 look at the body as well, when all other policies have let the request on and before an
//!   upstream is asked; where there is no body, at once. Rules of later phases, which look at responses, do not run.
//! - A rule that denies is 403. The access log says which rules held, and about what (`rules`); values of the request are not in it.
//! - Bodies are taken apart by their media type: forms, JSON (keys and values), XML, multipart. One that is not what it says it is, is 400.
//!   `Content-Encoding: gzip` and `deflate` are undone.
//! - More than 1,000 arguments, cookies or values of JSON are 400.
//! - A body longer than `body` (at most 64 KiB), or one that is encoded in another way, is refused with 413, or passes without a look at it with
//!   `beyond: pass`; the rules for the header hold all the same. What is said in a WebSocket or a stream of gRPC is not looked at.
//! - Patterns take time linear in what they read. Those that look around or back, and operators such as `@rbl`, are not done here: a rule with one makes the
//!   file invalid, or is left out with `unsupported: leave_out`, which the log says.
//! - `IP`, `SESSION` and other collections that outlive a request are empty: for what they are used, there are limits.
//!
//! # For operators
//!
//! - Begin with `mode: shadow`, read `would_reject` and `rules` in the access log, and take out what is wrong for you: `SecRuleRemoveById 942100`,
//!   `SecRuleUpdateTargetById 942100 "!ARGS:comment"`.
//! - Files of rules are read again with the configuration (`torana reload`).
//! - The Core Rule Set costs a multiple of all else that the gateway does: use it on the routes that need it.
//! - A body is held back until it was looked at: uploads wait for their end.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - waf:
//!       rules: |
//!         SecAction "id:1,phase:1,pass,nolog,setvar:tx.paranoia_level=1"
//!       files: [/usr/share/modsecurity-crs/owasp-crs.load]
//!       unsupported: leave_out
//! ```

mod actions;
mod body;
mod decode;
mod encoding;
mod engine;
mod exception;
mod facts;
mod filter;
mod multipart;
mod operator;
mod pattern;
mod rule;
mod ruleset;
mod source;
mod template;
#[cfg(test)]
mod tests;
mod transform;
mod tx;
mod variable;
mod xml;

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use http::{Version, header};
use pingora::http::RequestHeader;
use prometheus::IntCounter;
use schemars::JsonSchema;
use serde::Deserialize;

pub use self::engine::Hit;
use self::{
    engine::{Run, State},
    facts::{Facts, Request},
    rule::Phase,
    ruleset::RuleSet,
};
use super::{Flow, Policy, Stage};
use crate::{
    config::{check::Check, steps, types::Size},
    proxy::{
        admit::{has_body, streams_messages},
        context::Context,
    },
    reject::Reject,
    runtime::Build,
};

/// Rules by which requests are refused that look like attacks.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Waf")]
pub struct Config {
    /// Rules, in ModSecurity's language; they run before those of `files`.
    pub rules: String,
    /// Files of rules; `*` stands for any part of a name.
    pub files: Vec<PathBuf>,
    /// How much of a body is looked at.
    pub body: Size,
    /// What becomes of a longer one.
    pub beyond: Beyond,
    /// What becomes of rules that ask for what is not done here.
    pub unsupported: Unsupported,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rules: String::new(),
            files: Vec::new(),
            body: Size(MAX_BODY),
            beyond: Beyond::default(),
            unsupported: Unsupported::default(),
        }
    }
}

/// What becomes of a body that is too long to be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Beyond {
    /// It is refused.
    #[default]
    Refuse,
    /// It passes, and nobody has looked at it.
    Pass,
}

/// What becomes of a rule that asks for what is not done here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unsupported {
    /// The file is invalid.
    #[default]
    Refuse,
    /// It does not run; the log says so when the file is loaded.
    LeaveOut,
}

/// As much of a body is kept to send it on, in bytes: more cannot be looked at beforehand.
const MAX_BODY: u64 = 64 << 10;

const TOO_MANY: Reject = Reject::BadRequest("there are more than 1,000 arguments or cookies");

/// Refuses what looks like an attack.
#[derive(Debug)]
pub struct Waf {
    set: Arc<RuleSet>,
    max_body: usize,
    beyond: Beyond,
}

/// What is still to be looked at: a body.
#[derive(Debug)]
pub struct Inspection {
    set: Arc<RuleSet>,
    state: State,
    max_body: usize,
    beyond: Beyond,
    /// Counts instead of refusing.
    pub(super) shadow: Option<IntCounter>,
}

impl Policy for Waf {
    const STAGE: Stage = Stage::Guard;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        if config.files.is_empty() && config.rules.trim().is_empty() {
            check.error(&[], "`files` or `rules` has to name at least one rule");
        }
        // Without files the text stands for itself, and its mistakes are told with all others.
        if config.files.is_empty()
            && let Err(why) = RuleSet::read(&config.rules, &[])
        {
            check.error(&steps!["rules"], why);
        }
        if config.body.0 > MAX_BODY {
            check.error(&steps!["body"], "at most 64KiB of a body can be looked at before it is sent on");
        }
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        let set = RuleSet::read(&config.rules, &config.files)?;
        if !set.left_out.is_empty() {
            let listed = set.left_out.join("\n");
            if config.unsupported == Unsupported::Refuse {
                return Err(format!(
                    "rules ask for what is not done here; `unsupported: leave_out` goes on without them:\n{listed}"
                ));
            }
            if !build.probe {
                log::warn!("{}: rules that are left out:\n{listed}", build.scope());
            }
        }
        if set.len() == 0 {
            return Err("there is no rule for requests in this".into());
        }
        let max_body = usize::try_from(config.body.0).unwrap_or(usize::MAX);
        Ok(Self { set: Arc::new(set), max_body, beyond: config.beyond })
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let mut state = State::default();
        let id = ctx.request_id.text();
        let sent = describe(request, ctx, &id);
        let mut facts = Facts::of_header(&sent);
        if facts.are_too_many() {
            return Err(TOO_MANY);
        }
        let mut refused = Run::new(&self.set, &facts, &mut state).phase(Phase::Header).await;
        let body = may_have_body(request, ctx);
        if refused.is_none() && !body {
            facts.add_nothing();
            refused = Run::new(&self.set, &facts, &mut state).phase(Phase::Body).await;
        }
        drop(facts);
        ctx.rules_held.append(&mut state.hits);
        if state.tx.has_overflowed() {
            return Err(TOO_MANY);
        }
        if let Some(rule) = refused {
            return Err(Reject::AttackSuspected { rule });
        }
        if body {
            let Self { set, max_body, beyond } = self;
            let inspection =
                Inspection { set: Arc::clone(set), state, max_body: *max_body, beyond: *beyond, shadow: None };
            ctx.inspections.push(Box::new(inspection));
        }
        Ok(Flow::Continue)
    }
}

/// The request, for the rules.
fn describe<'a>(request: &'a RequestHeader, ctx: &'a Context, id: &'a str) -> Request<'a> {
    Request {
        method: request.method.as_str(),
        target: std::str::from_utf8(request.raw_path()).unwrap_or_default(),
        protocol: match request.version {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2.0",
            Version::HTTP_3 => "HTTP/3.0",
            _ => "HTTP/1.1",
        },
        headers: &request.headers,
        client: ctx.client_ip,
        host: ctx.host.as_str(),
        id,
    }
}

/// Whether a body may follow that rules look at: not where messages go back and forth.
fn may_have_body(request: &RequestHeader, ctx: &Context) -> bool {
    let follows = if request.version >= Version::HTTP_2 { !ctx.bodiless } else { has_body(request) };
    follows && !ctx.upgrade && !streams_messages(request, ctx)
}

impl Inspection {
    /// How much of the body it takes, in bytes.
    pub fn max_body(&self) -> usize {
        self.max_body
    }

    /// Whether a longer body passes.
    pub fn lets_long_pass(&self) -> bool {
        self.beyond == Beyond::Pass || self.shadow.is_some()
    }

    /// Looks at the request with its body; without one, if it is too long. Fills in which rules held.
    pub async fn finish(
        mut self,
        body: Option<&Bytes>,
        request: &RequestHeader,
        ctx: &mut Context,
    ) -> Result<(), Reject> {
        let outcome = self.look(body, request, ctx).await;
        ctx.rules_held.append(&mut self.state.hits);
        match (outcome, &self.shadow) {
            (Err(reject), Some(count)) => {
                ctx.would_reject(&reject, count);
                Ok(())
            }
            (outcome, _) => outcome,
        }
    }

    async fn look(&mut self, body: Option<&Bytes>, request: &RequestHeader, ctx: &Context) -> Result<(), Reject> {
        let decoded = body.map(|body| encoding::undo(&request.headers, body, self.max_body)).transpose();
        let (body, mut broken) = match decoded {
            Ok(body) => (body, None),
            Err(encoding::Undone::Broken(why)) => return Err(Reject::BadRequest(why)),
            Err(encoding::Undone::Beyond) => (None, Some(Reject::BodyTooLarge)),
        };
        if body.is_none() {
            broken = Some(Reject::BodyTooLarge);
        }
        if self.beyond == Beyond::Pass {
            broken = None;
        }
        let id = ctx.request_id.text();
        let sent = describe(request, ctx, &id);
        let mut facts = Facts::of_header(&sent);
        let media_type = request.headers.get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
        let processor = self.state.processor.unwrap_or_else(|| body::processor(media_type));
        match &body {
            Some(body) => {
                if let Err(body::Broken(why)) = facts.add_body(body, processor, self.state.keep_body) {
                    broken = Some(Reject::BadRequest(why));
                }
            }
            None => facts.add_nothing(),
        }
        if facts.are_too_many() {
            return Err(TOO_MANY);
        }
        let refused = Run::new(&self.set, &facts, &mut self.state).phase(Phase::Body).await;
        if self.state.tx.has_overflowed() {
            broken = Some(TOO_MANY);
        }
        match (refused, broken) {
            (Some(rule), _) => Err(Reject::AttackSuspected { rule }),
            (None, Some(reject)) => Err(reject),
            (None, None) => Ok(()),
        }
    }
}
