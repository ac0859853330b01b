//! The compiled policies of a route, in the order in which they run.

use std::sync::Arc;

use pingora::http::{RequestHeader, ResponseHeader};
use prometheus::IntCounter;

use super::{Compiled, Flow, Mode, PolicyConfig, Stage};
use crate::{
    config::{Diagnostic, Step},
    proxy::context::Context,
    reject::Reject,
    runtime::Build,
};

/// The policies of one route, in the order in which they run: by stage; within a stage those for every route first,
/// then in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Chain(Box<[Link]>);

#[derive(Clone, Debug)]
struct Link {
    kind: &'static str,
    policy: Arc<Compiled>,
    /// Counts instead of refusing.
    shadow: Option<IntCounter>,
}

impl Chain {
    /// Compiles policies that stand at `at`, and reports every one that cannot be.
    pub(crate) fn compile(configs: &[PolicyConfig], at: &[Step], scope: &str, build: &mut Build<'_>) -> Self {
        let mut links = Vec::with_capacity(configs.len());
        for (i, entry) in configs.iter().enumerate() {
            let kind = entry.config.kind();
            let twins = configs.iter().take(i).filter(|other| other.config.kind() == kind);
            build.enter(format!("{scope}/{kind}/{}", twins.count()));
            match entry.config.compile(build) {
                Ok(policy) => links.push(Link {
                    kind,
                    policy: Arc::new(policy),
                    shadow: (entry.mode == Mode::Shadow).then(|| build.metrics.would_reject(scope, kind)),
                }),
                Err(message) => {
                    let way = [at, &[Step::from(i), Step::from(kind)]].concat();
                    build.fail(Diagnostic::error(build.place(&way), message));
                }
            }
        }
        Self(links.into())
    }

    /// What is left for routes that are for everyone: nobody is asked who they are, or whether they may.
    #[must_use]
    pub(crate) fn public(&self) -> Self {
        let asks = |link: &&Link| matches!(link.policy.stage(), Stage::Authenticate | Stage::Authorize);
        Self(self.0.iter().filter(|link| !asks(link)).cloned().collect())
    }

    /// The chain of a route: `every` route's policies and its own, by stage.
    #[must_use]
    pub(crate) fn with(&self, own: &Self) -> Self {
        let mut links: Vec<_> = self.0.iter().chain(&own.0).cloned().collect();
        links.sort_by_key(|link| link.policy.stage());
        Self(links.into())
    }

    /// Runs the request phase up to the first policy that answers or refuses.
    pub async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        for link in &self.0 {
            let before = (ctx.max_body, ctx.limits.len(), ctx.inspections.len());
            let check = ctx.body_check.take_if(|_| link.shadow.is_some());
            ctx.max_body = before.0.filter(|_| link.shadow.is_none());
            ctx.mode = if link.shadow.is_some() { Mode::Shadow } else { Mode::Enforce };
            let mut decided = link.policy.on_request(request, ctx).await;
            if let Some(would_reject) = &link.shadow {
                // An answer in place of the upstream's is a refusal too, where it is about who calls.
                if matches!(decided, Ok(Flow::Reply(_) | Flow::Read(_))) && link.policy.stage() == Stage::Authenticate {
                    decided = Err(Reject::Forbidden("answered by whoever decides who may pass".into()));
                }
                decided = Ok(overruled(decided, before, would_reject, ctx));
                ctx.body_check = check;
            }
            match decided? {
                Flow::Continue => {}
                reply @ (Flow::Reply(_) | Flow::Read(_)) => {
                    ctx.answered_by = Some(link.kind);
                    return Ok(reply);
                }
            }
        }
        Ok(Flow::Continue)
    }

    /// Runs the response phase, last policy first.
    pub fn on_response(&self, response: &mut ResponseHeader, ctx: &mut Context) {
        for link in self.0.iter().rev() {
            link.policy.on_response(response, ctx);
        }
    }

    /// The kinds of the policies with their stages, in the order in which they run.
    pub fn kinds(&self) -> impl Iterator<Item = (Stage, &'static str)> {
        self.0.iter().map(|link| (link.policy.stage(), link.kind))
    }

    /// Whether there is a policy of this kind.
    pub fn has(&self, kind: &str) -> bool {
        self.0.iter().any(|link| link.kind == kind)
    }

    /// Whether a policy asks who is calling.
    pub(crate) fn asks_who(&self) -> bool {
        self.0.iter().any(|link| link.policy.stage() == Stage::Authenticate)
    }

    /// Whether there is nothing to run.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What comes of what a policy in shadow mode decided: it refuses nothing, now or later, when the body comes.
fn overruled(
    decided: Result<Flow, Reject>,
    (max_body, limits, inspections): (Option<u64>, usize, usize),
    would_reject: &IntCounter,
    ctx: &mut Context,
) -> Flow {
    // A client that is told that nothing is left would stop.
    ctx.limits.truncate(limits);
    let max = std::mem::replace(&mut ctx.max_body, max_body);
    for inspection in ctx.inspections.iter_mut().skip(inspections) {
        inspection.shadow = Some(would_reject.clone());
    }
    ctx.shadow_bodies.extend(max.map(|max| (max, would_reject.clone())));
    decided.unwrap_or_else(|reject| {
        ctx.would_reject(&reject, would_reject);
        Flow::Continue
    })
}
