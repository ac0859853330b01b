//! When the authority wants a certificate to be renewed ([RFC 9773](https://www.rfc-editor.org/rfc/rfc9773)): it says so where it
//! has to revoke certificates, or to spread its load.

use instant_acme::{CertificateIdentifier, Error};
use serde::Deserialize;

use super::authority::{Authority, other};
use crate::date;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory {
    renewal_info: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    suggested_window: Window,
}

#[derive(Deserialize)]
struct Window {
    start: String,
    end: String,
}

/// What it says, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suggestion {
    /// From when to when to renew.
    pub(super) window: (u64, u64),
    /// When to ask again, if it says.
    pub(super) ask_at: Option<u64>,
}

impl Authority {
    /// When to renew this certificate; `None` if the authority does not say such things.
    pub(super) async fn suggestion(
        &self,
        certificate: &CertificateIdentifier<'_>,
    ) -> Result<Option<Suggestion>, Error> {
        let (Directory { renewal_info }, _) = self.client.get(&self.settings.directory).await?;
        let Some(url) = renewal_info else { return Ok(None) };
        let (info, ask_at) = self.client.get::<Info>(&format!("{}/{certificate}", url.trim_end_matches('/'))).await?;
        let read = |text: &str| date::internet(text).ok_or_else(|| other("the window for renewals is not valid"));
        let Window { start, end } = info.suggested_window;
        Ok(Some(Suggestion { window: (read(&start)?, read(&end)?), ask_at }))
    }
}
