//! `hmac`: who is calling, by a signature over the request: HTTP Message Signatures
//! ([RFC 9421](https://www.rfc-editor.org/rfc/rfc9421)) or AWS's version 4. What was signed cannot be changed on the way, and a secret is never sent.
//!
//! # Rules
//!
//! - Keys belong to `consumers`, in `signing_keys`. Each is for one algorithm: a shared secret for `hmac-sha256`, a public key for the others.
//!   Signatures of AWS are made with the secret of a key, whose `id` is the access key id.
//! - A request has one signature. It has to cover `components`; for AWS, `host` and `x-amz-date`. It is at most `max_age` old, and no further
//!   in the future than `clock_skew`; `expires` holds if it is there.
//! - A request with a body has to say its digest, and sign that: `content-digest` (`sha-256` or `sha-512`), or `x-amz-content-sha256`. The body is
//!   compared while it passes, and the end of another body is kept back, so that the upstream never has it whole; `body: unsigned` asks for nothing.
//! - No signature: 401 with `WWW-Authenticate: Signature` or `AWS4-HMAC-SHA256`. Everything that is not right is 401 too; the log has the cause.
//! - The path is compared in its normal form. Parameters of components (`sf`, `bs`, `key`) and signed chunks of AWS are not known, and so refused; of
//!   `@query-param`, `name` is: in `components`, `'@query-param;name="id"'`.
//! - With `once: true`, what was signed counts once: the same again within `max_age` is refused. Clients that send the same twice in a second sign a `nonce`, too.
//! - The upstream does not see the signature; `forward: true` lets it through.
//!
//! # For operators
//!
//! - Within `max_age` the same request can be sent again by who has seen it, unless `once: true`. Each process knows only what came to it, the last 65,000 requests
//!   or so: whoever has a key and sends more than that makes it forget, and one that takes over begins anew.
//! - What is not covered can be changed: name what decides, `components: ["@method", "@authority", "@path", "@query", "x-tenant"]`.
//!
//! # Example
//!
//! ```yaml
//! consumers:
//!   partner: { signing_keys: [{ id: partner-2026, secret: "${file:/etc/torana/partner.key}" }] }
//! policies:
//!   - hmac: { max_age: 2m }
//!   - hmac: { scheme: aws_sigv4, region: eu-central-1, service: execute-api }
//! ```

mod aws;
mod body;
mod message;

use std::sync::Arc;

use http::{HeaderValue, header};
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;

pub use self::body::BodyCheck;
use super::{
    Flow, Mode, Policy, Stage,
    verdicts::{Digest, Verdict, Verdicts},
};
use crate::{
    config::{check::Check, steps, types::Duration},
    digest::sha256,
    identity::{Consumers, Identity, signing_key::SigningKey},
    proxy::{admit::has_body, context::Context},
    reject::{Reject, Shown},
    runtime::Build,
};

/// What has to be signed, and how.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Hmac")]
pub struct Config {
    /// How requests are signed.
    pub scheme: Scheme,
    /// What a signature has to cover, for `http_signatures`.
    pub components: Vec<String>,
    /// The region that signatures of AWS are for; without it, any.
    pub region: Option<String>,
    /// The service that signatures of AWS are for; without it, any.
    pub service: Option<String>,
    /// How old a signature may be.
    pub max_age: Duration,
    /// How far the clocks of client and gateway may be apart.
    pub clock_skew: Duration,
    /// Whether bodies have to be signed.
    pub body: Body,
    /// Whether what was signed counts once.
    pub once: bool,
    /// Whether the upstream gets to see the signature.
    pub forward: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scheme: Scheme::default(),
            components: ["@method", "@authority", "@path", "@query"].map(Into::into).into(),
            region: None,
            service: None,
            max_age: Duration::from_secs(300),
            clock_skew: Duration::from_secs(30),
            body: Body::default(),
            once: false,
            forward: false,
        }
    }
}

/// How requests are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// HTTP Message Signatures.
    #[default]
    HttpSignatures,
    /// AWS Signature Version 4.
    AwsSigv4,
}

/// Whether bodies have to be signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// They have.
    #[default]
    Signed,
    /// They need not be.
    Unsigned,
}

/// Finds the caller by a signature.
#[derive(Debug)]
pub struct Hmac {
    config: Box<Config>,
    /// What came already, if it counts once.
    seen: Option<Arc<Verdicts<()>>>,
    consumers: Arc<Consumers>,
    challenge: HeaderValue,
}

/// The longest `max_age`, in seconds.
const DAY: u64 = 24 * 3_600;

/// What was found out about a signature, before its key was asked.
struct Claim<'a> {
    key_id: &'a str,
    created: Option<u64>,
    expires: Option<u64>,
    body: Option<BodyCheck>,
    /// Stands for what was signed.
    mark: Digest,
}

impl Policy for Hmac {
    const STAGE: Stage = Stage::Authenticate;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        if check.config.consumers.values().all(|one| one.signing_keys.is_empty()) {
            check.warning(&[], "no consumer has `signing_keys`, so every request is refused");
        }
        for (i, name) in config.components.iter().enumerate() {
            let is_argument = name.starts_with("@query-param;name=\"") && name.ends_with('"');
            let is_odd = |byte: u8| byte.is_ascii_uppercase() && !is_argument || !byte.is_ascii_graphic();
            if name.is_empty() || name.bytes().any(is_odd) {
                check.error(
                    &steps!["components", i],
                    "a component is `@method`, `@path` and the like, or a header in small letters",
                );
            }
        }
        if config.max_age.0.is_zero() || config.max_age.0 > std::time::Duration::from_hours(24) {
            check.error(&steps!["max_age"], "a signature is good for 1s to 24h");
        }
        let aws = config.scheme == Scheme::AwsSigv4;
        for (key, given) in [("region", config.region.is_some()), ("service", config.service.is_some())] {
            if given && !aws {
                check.error(&steps![key], format!("`{key}` is for `scheme: aws_sigv4`"));
            }
        }
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        let challenge = match config.scheme {
            Scheme::HttpSignatures => HeaderValue::from_static("Signature"),
            Scheme::AwsSigv4 => HeaderValue::from_static("AWS4-HMAC-SHA256"),
        };
        let seen = config.once.then(|| build.keep_as("hmac/once".into(), Verdicts::new));
        Ok(Self { config: Box::new(config.clone()), seen, consumers: Arc::clone(&build.consumers), challenge })
    }

    fn evidence(&self) -> Vec<String> {
        vec![if self.config.scheme == Scheme::AwsSigv4 { "aws4" } else { "signature" }.into()]
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let wrong = |why| self.refuse(Shown::Wrong, why);
        let (identity, body) = match self.config.scheme {
            Scheme::HttpSignatures => self.message(request, ctx),
            Scheme::AwsSigv4 => self.aws(request, ctx),
        }
        .map_err(wrong)?
        .ok_or_else(|| self.refuse(Shown::Nothing, "the request is not signed"))?;
        self.bind(request, ctx, body).map_err(wrong)?;
        if !self.config.forward {
            for name in ["signature", "signature-input"] {
                request.remove_header(name);
            }
            if self.config.scheme == Scheme::AwsSigv4 {
                request.remove_header(&header::AUTHORIZATION);
            }
        }
        ctx.authenticated(&identity, &self.challenge)?;
        Ok(Flow::Continue)
    }
}

type Found = Result<Option<(Arc<Identity>, Option<BodyCheck>)>, &'static str>;

impl Hmac {
    fn message(&self, request: &RequestHeader, ctx: &Context) -> Found {
        let Some(signed) = message::read(request, ctx.secure)? else { return Ok(None) };
        if self.config.components.iter().any(|part| !signed.parts.contains(part)) {
            return Err("the signature does not cover what it has to");
        }
        let covers_body = signed.parts.iter().any(|part| part == "content-digest");
        let digests =
            request.headers.get("content-digest").filter(|_| covers_body).and_then(|value| value.to_str().ok());
        let claim = Claim {
            key_id: &signed.key_id,
            created: signed.created,
            expires: signed.expires,
            body: digests.and_then(BodyCheck::from_digests),
            // Not the signature: of some algorithms there are several for the same.
            mark: sha256(format!("{}\0{}", signed.key_id, signed.base).as_bytes()),
        };
        let named = signed.algorithm.as_deref();
        self.judge(claim, ctx, |key| {
            named.is_none_or(|name| name == key.algorithm()) && key.verify(signed.base.as_bytes(), &signed.signature)
        })
    }

    fn aws(&self, request: &RequestHeader, ctx: &Context) -> Found {
        let Some(signed) = aws::read(request)? else { return Ok(None) };
        let is_for = |wanted: &Option<String>, named: &str| wanted.as_deref().is_none_or(|wanted| wanted == named);
        if !is_for(&self.config.region, signed.region) || !is_for(&self.config.service, signed.service) {
            return Err("the signature is for another region or service");
        }
        if ["host", "x-amz-date"].iter().any(|name| !signed.headers.contains(name)) {
            return Err("the signature does not cover what it has to");
        }
        let claim = Claim {
            key_id: signed.key_id,
            created: Some(signed.created),
            expires: None,
            // Its value is part of what is signed.
            body: BodyCheck::from_hex(signed.body),
            mark: sha256(&signed.signature),
        };
        self.judge(claim, ctx, |key| key.secret().is_some_and(|secret| signed.verify(secret)))
    }

    fn judge(&self, claim: Claim<'_>, ctx: &Context, verifies: impl Fn(&SigningKey) -> bool) -> Found {
        let now = ctx.started.unix.as_secs();
        let skew = self.config.clock_skew.0.as_secs();
        let created = claim.created.ok_or("the signature does not say when it was made")?;
        if created > now.saturating_add(skew) {
            return Err("the signature is from the future");
        }
        let end = created.saturating_add(self.config.max_age.0.as_secs()).saturating_add(skew);
        if now > end || claim.expires.is_some_and(|expires| now >= expires.saturating_add(skew)) {
            return Err("the signature is too old");
        }
        let known = self.consumers.by_signing_key(claim.key_id);
        let Some((_, identity)) = known.filter(|(key, _)| verifies(key)) else {
            return Err("the signature is not valid");
        };
        if let Some(seen) = self.seen.as_ref().filter(|_| ctx.mode == Mode::Enforce) {
            // Another file may say that signatures are good for longer, up to a day.
            let until = created.saturating_add(DAY).saturating_add(skew);
            let verdict = Verdict { found: (), valid: (0, until), keys: 0 };
            if !seen.claim(claim.mark, verdict, now) {
                return Err("what was signed came before");
            }
        }
        Ok(Some((Arc::clone(identity), claim.body)))
    }

    /// Has the body compared with what was signed.
    fn bind(&self, request: &RequestHeader, ctx: &mut Context, body: Option<BodyCheck>) -> Result<(), &'static str> {
        let may_come = has_body(request);
        // Over HTTP/2 there may be a body that nobody has announced.
        let is_silent = request.version >= http::Version::HTTP_2
            && !request.headers.contains_key(header::CONTENT_LENGTH)
            && !is_bodiless(&request.method);
        match body {
            Some(mut check) if !may_come && !is_silent => {
                if check.piece(&[], true) {
                    Ok(())
                } else {
                    Err("the body is not the one that was signed")
                }
            }
            Some(check) => {
                ctx.body_check = Some(Box::new(check));
                Ok(())
            }
            None if self.config.body == Body::Signed && (may_come || is_silent) => Err("the body is not signed"),
            None => Ok(()),
        }
    }

    fn refuse(&self, shown: Shown, reason: &'static str) -> Reject {
        Reject::Unauthenticated { challenge: self.challenge.clone(), shown, reason }
    }
}

fn is_bodiless(method: &http::Method) -> bool {
    [http::Method::GET, http::Method::HEAD].contains(method)
}
