//! How an authority is asked: over TLS, one request at a time, and never a redirect.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use serde::de::DeserializeOwned;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::clock::Clock;
use crate::date;

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A larger answer is not read.
const MAX_SIZE: u64 = 1 << 20;

/// Waits that a server asks for are not longer than this.
const MAX_WAIT: u64 = 7 * 24 * 3600;

/// A client for the authority.
#[derive(Clone, Debug)]
pub(super) struct Client {
    agent: ureq::Agent,
    clock: Clock,
    /// Before when the authority does not want to be asked again, in seconds since 1970.
    not_before: Arc<AtomicU64>,
}

impl Client {
    /// `ca` has, in PEM, the only certificate authorities to trust, instead of the public ones.
    pub(super) fn new(ca: Option<&[u8]>, clock: Clock) -> Result<Self, String> {
        let mut tls = TlsConfig::builder();
        if let Some(pem) = ca {
            tls = tls.root_certs(RootCerts::new_with_certs(&authorities(pem)?));
        }
        let config = ureq::Agent::config_builder()
            .tls_config(tls.build())
            .https_only(true)
            .timeout_global(Some(TIMEOUT))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .max_response_header_size(64 << 10)
            .user_agent(concat!("torana/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { agent: config.into(), clock, not_before: Arc::default() })
    }

    /// Forgets what the authority said about when to come back.
    pub(super) fn begin(&self) {
        self.not_before.store(0, Ordering::Relaxed);
    }

    /// Before when the authority does not want to be asked again, in seconds since 1970; 0 if it did not say.
    pub(super) fn not_before(&self) -> u64 {
        self.not_before.load(Ordering::Relaxed)
    }

    fn send(&self, request: Request<Vec<u8>>) -> Result<BytesResponse, Error> {
        let url = request.uri().clone();
        let failed =
            |why: String| Error::Other(format!("{} cannot be asked: {why}", url.host().unwrap_or("it")).into());
        let answered =
            if request.method() == Method::POST { self.agent.run(request) } else { self.agent.run(request.map(drop)) };
        let (parts, body) = answered.map_err(|error| failed(error.to_string()))?.into_parts();
        if !parts.status.is_success() {
            self.note(&parts.headers);
        }
        let body = body.into_with_config().limit(MAX_SIZE).read_to_vec().map_err(|error| failed(error.to_string()))?;
        if !parts.status.is_success() && !is_json(&parts.headers) {
            return Err(failed(format!("it answers {}", describe(parts.status))));
        }
        Ok(Response::from_parts(parts, BodyWrapper::from(body)).into())
    }

    /// What is at an address, and for how long that is known. Nobody has to know who asks.
    pub(super) async fn get<T: DeserializeOwned>(&self, url: &str) -> Result<(T, Option<u64>), Error> {
        let mut answer = self.request(Request::get(url).body(BodyWrapper::default())?).await?;
        let body = answer.body.into_bytes().await.map_err(Error::Other)?;
        if !answer.parts.status.is_success() {
            return Err(Error::Other(format!("{url} answers {}", describe(answer.parts.status)).into()));
        }
        Ok((serde_json::from_slice(&body)?, self.retry_after(&answer.parts.headers)))
    }

    fn note(&self, headers: &HeaderMap) {
        if let Some(at) = self.retry_after(headers) {
            self.not_before.fetch_max(at, Ordering::Relaxed);
        }
    }

    /// When to come back, in seconds since 1970.
    fn retry_after(&self, headers: &HeaderMap) -> Option<u64> {
        let wait = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
        let now = self.clock.unix().as_secs();
        let at = match wait.parse::<u64>() {
            Ok(seconds) => now.saturating_add(seconds),
            Err(_) => date::http(wait)?,
        };
        Some(at.min(now + MAX_WAIT))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = BytesResponse::from(Response::new(body)).body.into_bytes().await.map_err(Error::Other)?;
            let request = Request::from_parts(parts, body.to_vec());
            let sent = tokio::task::spawn_blocking(move || client.send(request));
            sent.await.unwrap_or_else(|_| Err(Error::Str("the request was broken off")))
        })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/problem+json") || kind.starts_with("application/json"))
}

fn describe(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default()).trim_end().to_owned()
}

fn authorities(pem: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
    let items: Result<Vec<_>, _> = parse_pem(pem).collect();
    let certificates: Vec<_> = items
        .map_err(|_error| "this is not PEM")?
        .into_iter()
        .filter_map(|item| if let PemItem::Certificate(certificate) = item { Some(certificate) } else { None })
        .collect();
    if certificates.is_empty() {
        return Err("there is no certificate in it".into());
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_says_when_to_come_back() {
        let client = Client::new(None, Clock::manual(Duration::from_secs(1000))).unwrap();
        let note = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
            client.begin();
            client.note(&headers);
            client.not_before()
        };
        assert_eq!([note("60"), note("nonsense"), note("-5")], [1060, 0, 0]);
        assert_eq!(note("99999999999"), 1000 + MAX_WAIT);
        assert_eq!(note("Thu, 01 Jan 1970 01:00:00 GMT"), 3600);
    }

    #[test]
    fn a_bundle_has_certificates() {
        let client = |ca: &[u8]| Client::new(Some(ca), Clock::default()).map(drop);
        assert!(client(b"").unwrap_err().contains("no certificate"));
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        assert_eq!(client(made.cert.pem().as_bytes()), Ok(()));
    }
}
