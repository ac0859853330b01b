//! `client_certificate`: who is calling, by the certificate that the client showed when it connected.
//!
//! # Rules
//!
//! - The listener asks for certificates and verifies them: `tls.client_certificates`. This policy says on which routes one is needed, and
//!   whose it is.
//! - A consumer lists what its certificates are known by, in `certificates`: `sha256:...` (the fingerprint), `uri:...`, `dns:...`,
//!   `email:...` (alternative names), `subject:...` (the whole subject) or `cn:...`. Names that belong to two consumers: 401.
//! - Without a consumer the caller is the subject of the certificate, as its issuer gave it; with `consumer_required: true` that is 401.
//! - No certificate, or no TLS: 401 with `WWW-Authenticate: ClientCertificate`.
//! - The upstream sees `X-Consumer-Subject` and `X-Consumer-Issuer`, and of a consumer its name and groups.
//! - With another policy that authenticates, both have to find the same consumer.
//!
//! # For operators
//!
//! - Prefer `uri:` or `dns:` over `cn:` and `subject:`: authorities check alternative names, and hardly ever the rest.
//! - `sha256:` is for one certificate: it ends with its renewal.
//!
//! # Example
//!
//! ```yaml
//! listeners:
//!   - address: 0.0.0.0:8443
//!     tls:
//!       certificates: [{ cert: api.crt, key: api.key }]
//!       client_certificates: [{ ca: clients.pem, mode: optional }]
//! consumers:
//!   billing: { certificates: ["uri:spiffe://example.com/billing"] }
//! routes:
//!   - name: internal
//!     match: { path: { prefix: /internal } }
//!     policies: [{ client_certificate: { consumer_required: true } }]
//!     upstream: internal
//! ```

use std::sync::Arc;

use http::HeaderValue;
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Flow, Policy, Stage};
use crate::{
    config::{check::Check, steps},
    identity::{Certificate, Consumers, Identity},
    proxy::context::Context,
    reject::{Reject, Shown},
    runtime::Build,
};

/// What is asked of the client's certificate, besides being valid.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ClientCertificatePolicy")]
pub struct Config {
    /// Whether it has to belong to a consumer.
    pub consumer_required: bool,
}

/// Finds out who is calling by the certificate of the connection.
#[derive(Debug)]
pub struct ClientCertificate {
    consumer_required: bool,
    consumers: Arc<Consumers>,
}

const CHALLENGE: HeaderValue = HeaderValue::from_static("ClientCertificate");

impl Policy for ClientCertificate {
    const STAGE: Stage = Stage::Authenticate;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        let asks = |listener: &crate::config::listener::Listener| {
            listener.tls.as_ref().is_some_and(|tls| !tls.client_certificates.is_empty())
        };
        if !check.config.listeners.iter().any(asks) {
            check.warning(&[], "no listener has `tls.client_certificates`, so every request is refused");
        }
        if config.consumer_required && check.config.consumers.values().all(|one| one.certificates.is_empty()) {
            check.warning(&steps!["consumer_required"], "no consumer has `certificates`, so every request is refused");
        }
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        Ok(Self { consumer_required: config.consumer_required, consumers: Arc::clone(&build.consumers) })
    }

    fn evidence(&self) -> Vec<String> {
        vec!["certificate".into()]
    }

    async fn on_request(&self, _: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let connection = ctx.connection.clone();
        let tls = connection.as_ref().and_then(|connection| connection.tls.as_ref());
        let shown = tls.and_then(|tls| tls.client.as_ref());
        let shown = shown.ok_or_else(|| refuse(Shown::Nothing, "the client showed no certificate"))?;
        let consumer = self.consumers.by_certificate(&shown.names);
        let consumer = consumer.map_err(|_several| refuse(Shown::Wrong, "the certificate is of several"))?;
        if consumer.is_none() && self.consumer_required {
            return Err(refuse(Shown::Nothing, "the certificate belongs to no consumer"));
        }
        let certificate = Certificate { issuer: shown.issuer.clone(), subject: shown.subject.clone() };
        let identity = Arc::new(Identity::new(consumer.cloned(), None, Some(certificate)));
        ctx.authenticated(&identity, &CHALLENGE)?;
        Ok(Flow::Continue)
    }
}

fn refuse(shown: Shown, reason: &'static str) -> Reject {
    Reject::Unauthenticated { challenge: CHALLENGE, shown, reason }
}
