//! `acme`: an authority that issues certificates by ACME ([RFC 8555](https://www.rfc-editor.org/rfc/rfc8555)).

use std::{net::IpAddr, path::PathBuf, str::FromStr};

use schemars::JsonSchema;
use serde::Deserialize;

use super::types::{Duration, Secret, text_type};

/// The authority that issues the certificates of `tls.acme`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Acme {
    /// The address of its directory; without it, Let's Encrypt.
    #[serde(default)]
    pub directory: Directory,
    /// Whom it may write to: `mailto:ops@example.com`.
    #[serde(default)]
    pub contact: Vec<Contact>,
    /// Whether its terms of service are agreed to. It issues nothing to those who do not.
    #[serde(default)]
    pub terms_agreed: bool,
    /// Where account and certificates are kept; without it, `acme` in systemd's `$STATE_DIRECTORY`.
    pub storage: Option<PathBuf>,
    /// Certificate authorities for the connection to its directory instead of the public ones: a file in PEM.
    pub ca: Option<PathBuf>,
    /// How it finds out whose names these are.
    #[serde(default)]
    pub challenge: Challenge,
    /// How long before its end a certificate is renewed; without it, when a third of its time is left. It is at most two
    /// thirds of its time.
    pub renew_before: Option<Duration>,
    /// How long to wait after a failure; twice as long after each further one, up to six hours.
    #[serde(default = "default_retry")]
    pub retry: Duration,
    /// The account at the authority that this one belongs to, where it asks for that.
    pub external_account: Option<ExternalAccount>,
}

fn default_retry() -> Duration {
    Duration::from_secs(300)
}

/// How an authority finds out whose name it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Challenge {
    /// It fetches a page from port 80 of the name.
    #[default]
    #[serde(rename = "http_01")]
    Http01,
    /// It opens a TLS connection to port 443 of the name.
    #[serde(rename = "tls_alpn_01")]
    TlsAlpn01,
}

/// An account at the authority that exists already.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExternalAccount {
    /// What the authority calls it.
    pub key_id: String,
    /// The key that the authority gave out for it, in base64url.
    pub mac_key: Secret,
}

impl ExternalAccount {
    /// The bytes of the key; none if it is no base64url.
    pub fn key(&self) -> Vec<u8> {
        decode(self.mac_key.expose()).unwrap_or_default()
    }
}

/// Decodes base64url ([RFC 4648, 5](https://www.rfc-editor.org/rfc/rfc4648#section-5)), with or without padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for character in text.bytes() {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff).unwrap_or(0));
        }
    }
    // A single character over is less than a byte.
    (count < 6).then_some(bytes)
}

/// A certificate that the authority issues.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcmeCertificate {
    /// The names in it.
    #[schemars(length(min = 1, max = 100))]
    pub domains: Vec<Domain>,
}

/// A name that a certificate can be issued for: `api.example.com`, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(String);

impl Domain {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Domain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("*.") {
            return Err("a certificate for `*` needs the challenge DNS-01, which there is not: name each domain".into());
        }
        if !text.is_ascii() {
            return Err("write this domain as it stands in the DNS: `xn--...`".into());
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err("this is an address, not a domain".into());
        }
        let is_label = |label: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            (1..=63).contains(&label.len())
                && label.bytes().all(fits)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() > 253 || !text.split('.').all(is_label) {
            return Err("expected a domain, such as `api.example.com`".into());
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}
text_type!(Domain, "a domain, such as `api.example.com`", "^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$");

/// An address that an authority may write to: `mailto:ops@example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact(String);

impl Contact {
    /// The address as a URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Contact {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.strip_prefix("mailto:").unwrap_or(text);
        let fits = |c: char| c.is_ascii_graphic() && !matches!(c, ',' | '?' | '<' | '>' | ':' | '@');
        let is_address = address
            .split_once('@')
            .is_some_and(|(who, at)| !who.is_empty() && who.chars().all(fits) && at.parse::<Domain>().is_ok());
        // RFC 8555, 7.3: one address, and no header fields.
        if !is_address {
            return Err("expected the address of a mailbox, such as `mailto:ops@example.com`".into());
        }
        Ok(Self(format!("mailto:{address}")))
    }
}
text_type!(
    Contact,
    "the address of a mailbox, such as `mailto:ops@example.com`",
    "^(mailto:)?[^@:,?<> ]+@[^@:,?<> ]+$"
);

/// The address of the directory of an authority: `https://acme-v02.api.letsencrypt.org/directory`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory(String);

impl Directory {
    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The machine that it is on.
    pub fn host(&self) -> String {
        let uri: Option<http::Uri> = self.0.parse().ok();
        uri.as_ref().and_then(http::Uri::host).unwrap_or_default().to_owned()
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self("https://acme-v02.api.letsencrypt.org/directory".to_owned())
    }
}

impl FromStr for Directory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri = text.parse::<http::Uri>().ok();
        // RFC 8555, 6.1: only over TLS.
        let is_https = |uri: &http::Uri| uri.scheme_str() == Some("https") && uri.host().is_some_and(|h| !h.is_empty());
        if !uri.as_ref().is_some_and(is_https) || text.contains('@') {
            return Err("expected the address of a directory, `https://...`".into());
        }
        Ok(Self(text.to_owned()))
    }
}
text_type!(Directory, "the address of a directory, `https://...`", "^https://[^@\\s]+$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_one_that_can_be_issued() {
        assert_eq!("API.Example.com".parse::<Domain>().unwrap().as_str(), "api.example.com");
        for text in ["", "a..b", "-a.b", "a-.b", "a_b.c", "a b", "1.2.3.4", "::1", "*.a", "ä.de", "a.b.", "a/b"] {
            assert!(text.parse::<Domain>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_contact_is_one_mailbox() {
        for text in ["ops@example.com", "mailto:ops@example.com"] {
            assert_eq!(text.parse::<Contact>().unwrap().as_str(), "mailto:ops@example.com");
        }
        for text in ["", "ops", "mailto:", "@a", "a@", "a@b,c@d", "mailto:a@b?subject=x", "tel:+123", "https://a@b"] {
            assert!(text.parse::<Contact>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_is_base64url() {
        for (text, bytes) in
            [("", &b""[..]), ("Zg", b"f"), ("Zm9v", b"foo"), ("Zm8=", b"fo"), ("-_-_", &[0xfb, 0xff, 0xbf])]
        {
            assert_eq!(decode(text).as_deref(), Some(bytes), "{text}");
        }
        for text in ["Z", "Zg+", "Z g", "Zm9vZ", "ä"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    #[test]
    fn a_directory_is_asked_over_tls() {
        assert_eq!("https://ca.test:14000/dir".parse::<Directory>().unwrap().host(), "ca.test");
        for text in ["", "http://ca.test/dir", "https://", "ca.test", "https://u@ca.test/"] {
            assert!(text.parse::<Directory>().is_err(), "{text}");
        }
    }
}
