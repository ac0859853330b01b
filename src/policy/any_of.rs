//! `any_of`: who is calling, by one of several methods.
//!
//! # Rules
//!
//! - Each method is asked in the order of the list. The first one that finds a valid credential says who is calling.
//! - A method whose credential is not there is passed over, and so is `jwt` for a token of another issuer, or one that is no JWT.
//! - A credential that is there and not valid is refused with 401, even if another method would let the request in.
//! - Credentials in other places are looked at too: two that belong to different consumers are refused.
//! - If no method finds any: 401 with the challenges of all of them; or, with `anonymous` as the last of the list, that consumer.
//!
//! # For operators
//!
//! - Several issuers of tokens are several `jwt` in an `any_of`: each has its own keys, audience and algorithms.
//! - What is needed of the caller besides stands in policies of its own: `groups`, `scopes`, `claims`.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - any_of:
//!       - jwt: { issuer: https://idp.example.com, audience: api }
//!       - jwt: { issuer: https://partner.example.net, audience: api }
//!       - api_key: { header: x-api-key }
//! ```

use std::pin::Pin;

use http::HeaderValue;
use pingora::http::RequestHeader;
use smallvec::SmallVec;

use super::{Answered, Compiled, Flow, Mode, Policy, PolicyConfig, Secrets, Stage};
use crate::{
    config::{Step, check::Check, steps, types::Name},
    proxy::context::Context,
    reject::{Reject, Shown},
    runtime::Build,
};

/// More methods than this are a mistake.
const MAX_METHODS: usize = 16;

/// Asks several policies who is calling; one is enough.
#[derive(Debug)]
pub struct AnyOf(Box<[Method]>);

#[derive(Debug)]
struct Method {
    policy: Compiled,
    kind: &'static str,
    /// The others whose credentials are all this one looks at: if one of them found someone, there is nothing left to ask.
    covered_by: u16,
    /// The others that look at one of its places: if one of them found someone, it was by what is foreign to this one.
    overlaps: u16,
}

/// What `anonymous` is called.
const ANONYMOUS: &str = "anonymous";

impl Policy for AnyOf {
    const STAGE: Stage = Stage::Authenticate;
    type Config = Vec<PolicyConfig>;

    fn check(config: &Vec<PolicyConfig>, check: &mut Check<'_>) {
        if config.is_empty() {
            check.error(&[], "at least one method is needed, such as `jwt` or `api_key`");
        }
        if config.len() > MAX_METHODS {
            check.error(&[], format!("at most {MAX_METHODS} methods"));
        }
        for (i, method) in config.iter().enumerate() {
            let kind = method.config.kind();
            if !method.config.authenticates() || kind == "any_of" {
                check.error(&steps![i, kind], format!("`{kind}` does not find out who is calling by a credential"));
            }
            if method.mode != Mode::Enforce {
                check.error(&steps![i, "mode"], "`mode` stands beside `any_of`, for all of it");
            }
            let behind = config.iter().skip(i + 1).map(|method| method.config.kind()).collect::<Vec<_>>();
            if kind == "forward_auth" && !behind.is_empty() {
                check.error(&steps![i, kind], "`forward_auth` decides about every request, so it is the last one");
            }
            if kind == "oidc" && behind.iter().any(|kind| *kind != ANONYMOUS) {
                check.error(
                    &steps![i, kind],
                    "`oidc` sends browsers to the login, so it is the last one but `anonymous`",
                );
            }
            if kind == "introspection" && behind.contains(&"jwt") {
                check.warning(&steps![i, kind], "every token is asked about here: put `jwt` before it");
            }
            if kind == ANONYMOUS && i + 1 < config.len() {
                check.error(&steps![i, kind], "`anonymous` takes everyone who is left, so it is the last one");
            }
            check.nested(&steps![i, kind], method);
        }
    }

    fn secrets(config: &Vec<PolicyConfig>, secrets: &mut Secrets) {
        for method in config {
            method.config.secrets(secrets);
        }
    }

    fn upstreams(config: &Vec<PolicyConfig>) -> Vec<(Vec<Step>, &Name)> {
        let all = config.iter().enumerate().flat_map(|(i, method)| {
            let kind = method.config.kind();
            let named = method.config.upstreams().into_iter();
            named.map(move |(way, name)| ([&steps![i, kind][..], &way].concat(), name))
        });
        all.collect()
    }

    fn answers(config: &Vec<PolicyConfig>) -> Vec<Answered> {
        let all = config.iter().enumerate().flat_map(|(i, method)| {
            let kind = method.config.kind();
            let own = method.config.answers().into_iter();
            own.map(move |one| Answered { way: [&steps![i, kind][..], &one.way].concat(), ..one })
        });
        all.collect()
    }

    fn compile(config: &Vec<PolicyConfig>, build: &mut Build<'_>) -> Result<Self, String> {
        let outer = build.scope().to_owned();
        let mut methods = Vec::with_capacity(config.len());
        for (i, method) in config.iter().enumerate() {
            let kind = method.config.kind();
            build.enter(format!("{outer}/{i}/{kind}"));
            let policy = method.config.compile(build).map_err(|why| format!("`{kind}`, number {}: {why}", i + 1))?;
            methods.push((policy, kind));
        }
        build.enter(outer);
        let evidence: Vec<Vec<String>> = methods.iter().map(|(policy, _)| policy.evidence()).collect();
        let covers = |one: &Vec<String>, other: &Vec<String>| other.iter().all(|place| one.contains(place));
        let methods = methods.into_iter().zip(&evidence).map(|((policy, kind), own)| {
            let mask = |is: &dyn Fn(&Vec<String>) -> bool| {
                let others = evidence.iter().enumerate().filter(|(_, other)| is(other));
                others.fold(0, |mask, (i, _)| mask | bit(i))
            };
            let covered_by = mask(&|other| covers(other, own));
            Method { policy, kind, covered_by, overlaps: mask(&|other| other.iter().any(|place| own.contains(place))) }
        });
        Ok(Self(methods.collect()))
    }

    fn evidence(&self) -> Vec<String> {
        self.0.iter().flat_map(|method| method.policy.evidence()).collect()
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let mut found = 0_u16;
        let mut foreign = SmallVec::<[(&'static str, u16); 4]>::new();
        let mut challenges = SmallVec::<[HeaderValue; 4]>::new();
        for (i, method) in self.0.iter().enumerate() {
            let is_settled = found & method.covered_by != 0 || found != 0 && method.kind == ANONYMOUS;
            // Who shows something is not taken for somebody who shows nothing.
            if is_settled || !foreign.is_empty() && method.kind == ANONYMOUS {
                continue;
            }
            match ask(&method.policy, request, ctx).await {
                Ok(Flow::Continue) => found |= bit(i),
                Ok(reply @ (Flow::Reply(_) | Flow::Read(_))) => return Ok(reply),
                Err(Reject::Unauthenticated { challenge, shown: Shown::Nothing, .. }) => challenges.push(challenge),
                Err(Reject::Unauthenticated { challenge, shown: Shown::Foreign, reason }) => {
                    challenges.push(challenge);
                    foreign.push((reason, method.overlaps));
                }
                Err(reject) => return Err(reject),
            }
        }
        // A token of another issuer is nothing to one method, and was accepted by the next.
        let foreign = foreign.iter().find(|(_, accepted)| found & accepted == 0);
        match (found, foreign) {
            (1.., None) => Ok(Flow::Continue),
            (_, Some((reason, _))) => Err(refuse(&challenges, Shown::Foreign, reason)),
            (0, None) => Err(refuse(&challenges, Shown::Nothing, "the request has no credential of any method")),
        }
    }
}

fn bit(i: usize) -> u16 {
    u32::try_from(i).ok().and_then(|i| 1_u16.checked_shl(i)).unwrap_or(0)
}

/// The future of a policy that may be one of several is as large as all of them: it is put aside.
fn ask<'a>(
    policy: &'a Compiled,
    request: &'a mut RequestHeader,
    ctx: &'a mut Context,
) -> Pin<Box<dyn Future<Output = Result<Flow, Reject>> + Send + 'a>> {
    Box::pin(policy.on_request(request, ctx))
}

/// One header may have several challenges ([RFC 9110, 11.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1)).
fn refuse(challenges: &[HeaderValue], shown: Shown, reason: &'static str) -> Reject {
    let mut seen: Vec<&[u8]> = challenges.iter().map(HeaderValue::as_bytes).collect();
    seen.dedup();
    let challenge = HeaderValue::from_bytes(&seen.join(&b", "[..])).unwrap_or(HeaderValue::from_static("Unknown"));
    Reject::Unauthenticated { challenge, shown, reason }
}
