//! `forward_auth`: asks a service of yours whether a request may pass, with its header and without its body.
//!
//! # Rules
//!
//! - The gateway sends `GET path` to `upstream`, with the headers of the request, and `X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri` and
//!   `-For` that say what is asked for. `request_headers` narrows down which headers of the client's go along. It is the same for every method, for an upgrade and for a
//!   preflight.
//! - Status 2xx: the request passes. The headers in `response_headers` are copied from the answer to the request; a client's own of those names are
//!   removed, in every spelling and whatever the answer.
//! - With `consumer_header`, what the answer says there is who is calling: the consumer of that name, or else a caller of its own without groups.
//!   An answer that says nothing there, or two things, counts as none.
//! - Any other status below 500: that answer is the client's, with status, headers and body (64 KiB at most): a redirect to a login, say.
//! - 5xx, no answer within `timeout`, or one that is too large: 503, or with `on_failure: open` the request passes, without those headers and
//!   without a caller. That is counted and logged like what a shadow would have refused.
//! - Nothing is remembered: every request asks.
//!
//! # For operators
//!
//! - `on_failure: open` lets everybody in while the service is down. Whoever can bring it down gets in.
//! - Credentials go on to the upstream unless you remove them: the gateway does not know which they are (`request_headers: { remove: [...] }`).
//!
//! # Example
//!
//! ```yaml
//! upstreams:
//!   auth: { endpoints: [127.0.0.1:4180] }
//! policies:
//!   - forward_auth:
//!       upstream: auth
//!       path: /verify
//!       request_headers: [authorization, cookie]
//!       response_headers: [x-user, x-email]
//!       consumer_header: x-user
//! ```

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use prometheus::IntCounter;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Flow, Policy, Reply, Stage};
use crate::{
    config::{
        Step,
        check::Check,
        route::HostValue,
        steps,
        types::{self, Duration, Name},
    },
    identity::{Consumers, Identity, are_confusable, is_reserved},
    proxy::context::Context,
    reject::Reject,
    runtime::{
        Build,
        ask::{Answer, Asker, Bounds},
    },
};

/// A larger answer is not passed on.
const MAX_ANSWER: usize = 64 << 10;

/// Whom to ask, and what to make of the answer.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ForwardAuth")]
pub struct Config {
    /// The upstream that is asked.
    pub upstream: Name,
    /// The path that is asked for.
    pub path: String,
    /// The `Host` of the question; without it, the name of the upstream.
    pub host: Option<HostValue>,
    /// Headers of the client's that go along; without it, all.
    pub request_headers: Option<Vec<types::HeaderName>>,
    /// Headers of the answer that the upstream of the route gets to see.
    #[serde(default)]
    pub response_headers: Vec<types::HeaderName>,
    /// The header of the answer that says who is calling.
    pub consumer_header: Option<types::HeaderName>,
    /// What happens if there is no answer.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// How long a question may take.
    #[serde(default = "crate::policy::defaults::timeout")]
    pub timeout: Duration,
}

/// What happens to requests that nobody decided about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// They are refused.
    #[default]
    Closed,
    /// They pass.
    Open,
}

/// Asks whether a request may pass.
#[derive(Debug)]
pub struct ForwardAuth {
    asker: Asker,
    question: Box<RequestHeader>,
    sent: Option<Box<[HeaderName]>>,
    copied: Box<[HeaderName]>,
    consumer: Option<HeaderName>,
    /// Counts what passes because nobody could be asked.
    open: Option<IntCounter>,
    consumers: Arc<Consumers>,
}

impl Policy for ForwardAuth {
    const STAGE: Stage = Stage::Authenticate;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        check.is_path(&steps!["path"], &config.path);
        check.takes_time(&steps!["timeout"], config.timeout);
        let copied =
            config.response_headers.iter().enumerate().map(|(i, name)| (steps!["response_headers", i].to_vec(), name));
        let consumer = config.consumer_header.iter().map(|name| (steps!["consumer_header"].to_vec(), name));
        for (way, name) in copied.chain(consumer) {
            if is_reserved(name.as_str()) {
                check.error(&way, "only the gateway itself says this, by what stands in `consumer_header`");
            }
            if is_of_the_connection(&name.to_http()) || matches!(name.as_str(), "host" | "content-length") {
                check.error(&way, "this header is about the message that it stands in, and is not copied");
            }
        }
        let wants = check.company().find(|other| other.config.kind() == "groups");
        if wants.is_some()
            && config.consumer_header.is_none()
            && check.company().all(|other| !other.config.authenticates() || other.config.kind() == "forward_auth")
        {
            check.warning(&[], "`groups` refuses everyone: without `consumer_header` nobody is told who is calling");
        }
        if config.on_failure == OnFailure::Open {
            check.warning(&steps!["on_failure"], "everyone gets in while the service cannot be asked");
        }
    }

    fn upstreams(config: &Config) -> Vec<(Vec<Step>, &Name)> {
        vec![(steps!["upstream"].to_vec(), &config.upstream)]
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        let names = |names: &[types::HeaderName]| names.iter().map(types::HeaderName::to_http).collect();
        let scope = build.scope().split('/').next().unwrap_or_default().to_owned();
        let host = config.host.as_ref().map_or(config.upstream.as_str(), |host| &host.0);
        let mut question =
            RequestHeader::build("GET", config.path.as_bytes(), Some(16)).map_err(|error| error.to_string())?;
        question.insert_header(header::HOST, host).map_err(|error| error.to_string())?;
        Ok(Self {
            asker: build.asker(&config.upstream, Bounds { time: config.timeout.0, size: MAX_ANSWER })?,
            question: Box::new(question),
            sent: config.request_headers.as_deref().map(names),
            copied: names(&config.response_headers),
            consumer: config.consumer_header.as_ref().map(types::HeaderName::to_http),
            open: (config.on_failure == OnFailure::Open).then(|| build.metrics.would_reject(&scope, "forward_auth")),
            consumers: Arc::clone(&build.consumers),
        })
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let question = self.question(request, ctx).map_err(|_error| Reject::Internal)?;
        let answer = self.asker.ask(ctx, question, Bytes::new()).await;
        self.clean(request);
        let failure = match answer {
            Ok(answer) if answer.head.status.is_success() => match self.caller(&answer) {
                Ok(identity) => return self.pass((&answer, identity), request, ctx),
                Err(why) => why,
            },
            Ok(answer) if !answer.head.status.is_server_error() => {
                return Ok(Flow::Reply(Box::new(reply(answer).map_err(|_error| Reject::Internal)?)));
            }
            Ok(_) => "the service that is asked answers with an error",
            Err(failure) => failure.reason(),
        };
        let reject = Reject::AuthUnavailable(failure);
        match &self.open {
            None => Err(reject),
            Some(count) => {
                ctx.would_reject(&reject, count);
                Ok(Flow::Continue)
            }
        }
    }
}

impl ForwardAuth {
    fn question(&self, request: &RequestHeader, ctx: &Context) -> pingora::Result<RequestHeader> {
        let mut question = (*self.question).clone();
        for (name, value) in &request.headers {
            let goes = self.sent.as_ref().is_none_or(|sent| sent.contains(name));
            let body = [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::EXPECT, header::HOST].contains(name);
            if goes && !body && !is_of_the_connection(name) {
                question.append_header(name.clone(), value.clone())?;
            }
        }
        let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
        // As it was sent, with the port.
        let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        for (name, value) in [
            ("x-forwarded-method", request.method.as_str()),
            ("x-forwarded-proto", if ctx.secure { "https" } else { "http" }),
            ("x-forwarded-host", host.unwrap_or(&ctx.host)),
            ("x-forwarded-uri", target),
            ("x-forwarded-for", &ctx.client_ip.to_string()),
        ] {
            question.insert_header(name, value)?;
        }
        Ok(question)
    }

    /// Takes away what only the answer may say.
    fn clean(&self, request: &mut RequestHeader) {
        let ours = |name: &HeaderName| {
            self.copied
                .iter()
                .chain(&self.consumer)
                .any(|one| one == name || are_confusable(one.as_str(), name.as_str()))
        };
        let doomed: Vec<HeaderName> = request.headers.keys().filter(|name| ours(name)).cloned().collect();
        for name in doomed {
            request.remove_header(&name);
        }
    }

    /// Who the answer says is calling, if it has to say so. The error is why that cannot be told.
    fn caller(&self, answer: &Answer) -> Result<Option<Arc<Identity>>, &'static str> {
        let Some(name) = &self.consumer else { return Ok(None) };
        let mut said = answer.head.headers.get_all(name).iter();
        let (Some(only), None) = (said.next(), said.next()) else {
            return Err("the service that is asked names no caller, or several");
        };
        let name = only.to_str().ok().filter(|name| !name.is_empty());
        let name = name.ok_or("the service that is asked names a caller that cannot be read")?;
        let known = self.consumers.by_name(name).cloned();
        Ok(Some(known.unwrap_or_else(|| Arc::new(Identity::stranger(name)))))
    }

    fn pass(
        &self,
        (answer, identity): (&Answer, Option<Arc<Identity>>),
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<Flow, Reject> {
        if ctx.keeps_answers() {
            ctx.written.extend(self.copied.iter().cloned());
        }
        for name in &self.copied {
            for value in answer.head.headers.get_all(name) {
                request.append_header(name.clone(), value.clone()).map_err(|_error| Reject::Internal)?;
            }
        }
        if let Some(identity) = identity {
            ctx.authenticated(&identity, &HeaderValue::from_static("ForwardAuth"))?;
        }
        Ok(Flow::Continue)
    }
}

/// The answer as the client gets it.
fn reply(answer: Answer) -> pingora::Result<Reply> {
    let Answer { head, body } = answer;
    // Whoever asks nothing is told nothing that depends on it.
    let status = if head.status == StatusCode::NOT_MODIFIED { StatusCode::FORBIDDEN } else { head.status };
    let mut reply = ResponseHeader::build(status, Some(head.headers.len()))?;
    let named = listed(&head.headers);
    for (name, value) in &head.headers {
        let framing =
            *name == header::CONTENT_LENGTH || named.iter().any(|one| one.eq_ignore_ascii_case(name.as_str()));
        if !framing && !is_of_the_connection(name) {
            reply.append_header(name.clone(), value.clone())?;
        }
    }
    Ok(Reply { head: reply, body })
}

/// What `Connection` names.
fn listed(headers: &HeaderMap) -> Vec<String> {
    let all = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(',').map(|name| name.trim().to_owned())).collect()
}

/// [RFC 9110, 7.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1)
fn is_of_the_connection(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "http2-settings"
    ) || name.as_str().starts_with("sec-websocket-")
}
