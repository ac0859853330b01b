//! What is fetched from an issuer, and asked of it: in time, in size, and without following anyone elsewhere.

use std::time::Duration;

use http::{StatusCode, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::policy::jwt::Url;

/// How long one exchange may take.
pub(in crate::policy) const TIMEOUT: Duration = Duration::from_secs(5);

/// A larger answer is not read.
const MAX_SIZE: u64 = 1 << 20;

/// Asks an issuer. It blocks the thread.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Client(ureq::Agent);

impl Client {
    /// `ca` has, in PEM, the only certificate authorities to trust, instead of the public ones.
    pub(super) fn new(ca: Option<&[u8]>) -> Result<Self, String> {
        let mut tls = TlsConfig::builder();
        if let Some(pem) = ca {
            tls = tls.root_certs(RootCerts::new_with_certs(&authorities(pem)?));
        }
        let config = ureq::Agent::config_builder()
            .tls_config(tls.build())
            .timeout_global(Some(TIMEOUT))
            // A redirect could lead anywhere, also to what only this machine can reach.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .max_response_header_size(64 << 10)
            .user_agent("torana")
            .build();
        Ok(Self(config.into()))
    }

    /// What there is.
    pub(super) fn get(&self, url: &Url) -> Result<Vec<u8>, String> {
        let response = self.0.get(url.as_str()).call().map_err(|error| error.to_string())?;
        match read(response)? {
            (StatusCode::OK, body) => Ok(body),
            (status, _) => Err(format!("the answer has status {}", status.as_u16())),
        }
    }

    /// What is answered to a form, whatever its status.
    pub(in crate::policy) fn post(
        &self,
        url: &Url,
        authorization: Option<&str>,
        form: &str,
    ) -> Result<(StatusCode, Vec<u8>), String> {
        let mut request = self.0.post(url.as_str());
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json");
        read(request.send(form).map_err(|error| error.to_string())?)
    }
}

fn read(response: http::Response<ureq::Body>) -> Result<(StatusCode, Vec<u8>), String> {
    let status = response.status();
    let body = response.into_body().into_with_config().limit(MAX_SIZE);
    Ok((status, body.read_to_vec().map_err(|error| error.to_string())?))
}

fn authorities(pem: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
    let items: Result<Vec<_>, _> = parse_pem(pem).collect();
    let items = items.map_err(|_error| "`ca` is not PEM")?;
    let certificates: Vec<_> = items
        .into_iter()
        .filter_map(|item| if let PemItem::Certificate(certificate) = item { Some(certificate) } else { None })
        .collect();
    if certificates.is_empty() {
        return Err("`ca` has no certificate".into());
    }
    Ok(certificates)
}
