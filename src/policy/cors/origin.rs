//! Origins, as written in the file and as sent by browsers.

use std::str::FromStr;

use crate::config::types::text_type;

/// An origin that may read responses: `https://app.example.com`, `https://*.example.com`, `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Every origin.
    Any,
    /// This one, byte for byte: browsers send it in one spelling.
    Exact(String),
    /// Every name below one.
    Below {
        /// `https://`
        scheme: String,
        /// `.example.com`, with the port if there is one.
        suffix: String,
    },
}

impl Origin {
    /// Whether a browser's `Origin` is meant.
    pub(super) fn takes(&self, sent: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(origin) => origin == sent,
            Self::Below { scheme, suffix } => {
                let inner = sent.strip_prefix(scheme.as_str()).and_then(|rest| rest.strip_suffix(suffix.as_str()));
                inner.is_some_and(is_host)
            }
        }
    }
}

/// Labels with dots between them, in lower case.
fn is_host(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    text.split('.').all(|label| !label.is_empty() && label.bytes().all(fits))
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected an origin, such as `https://app.example.com`, `https://*.example.com` or `*`";
        if text == "*" {
            return Ok(Self::Any);
        }
        if text == "null" {
            return Err("every page can send the origin `null`, so allowing it allows everyone".into());
        }
        let text = text.to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://").ok_or_else(wrong)?;
        if authority.contains('/') {
            return Err("an origin has no path: it ends behind the host or port".into());
        }
        let (name, port) = match authority.rsplit_once(':') {
            Some((name, port)) if !authority.ends_with(']') => (name, Some(port)),
            _ => (authority, None),
        };
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err(wrong().into());
        }
        // Browsers leave it out, so such an origin would never match.
        if matches!((scheme, port), ("https", Some("443")) | ("http", Some("80"))) {
            return Err("leave out the port: it is the one that the scheme has anyway".into());
        }
        if let Some(below) = name.strip_prefix("*.")
            && is_host(below)
        {
            return Ok(Self::Below {
                scheme: format!("{scheme}://"),
                suffix: authority.trim_start_matches('*').to_owned(),
            });
        }
        let v6 = name.starts_with('[') && name.ends_with(']');
        if scheme.is_empty() || !(v6 || is_host(name)) {
            return Err(wrong().into());
        }
        Ok(Self::Exact(text))
    }
}
text_type!(
    Origin,
    "an origin, such as `https://app.example.com`, `https://*.example.com` or `*`",
    "^(\\*|[A-Za-z][A-Za-z0-9+.-]*://[^/]+)$"
);

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        text.parse().unwrap()
    }

    #[test]
    fn an_exact_origin_takes_only_itself() {
        let app = origin("https://App.example.com");
        assert!(app.takes("https://app.example.com"));
        for other in [
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.evil.com",
            "https://xapp.example.com",
            "null",
            "",
        ] {
            assert!(!app.takes(other), "{other}");
        }
    }

    #[test]
    fn a_star_takes_names_below_and_nothing_else() {
        let below = origin("https://*.example.com");
        assert!(below.takes("https://a.example.com") && below.takes("https://a.b.example.com"));
        for other in [
            "https://example.com",
            "https://.example.com",
            "https://evilexample.com",
            "https://a.example.com:8443",
            "http://a.example.com",
            "https://evil.com/.example.com",
            "https://evil.com#.example.com",
            "https://user@a.example.com",
        ] {
            assert!(!below.takes(other), "{other}");
        }
        assert!(origin("http://*.test:8080").takes("http://a.test:8080"));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            "null",
            "app.example.com",
            "https://app.example.com/",
            "https://a.com/x",
            "https://*",
            "https://a.*.com",
            "https://*.com*",
            "https://a.com:x",
            "https://a.com:443",
            "://a",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
        assert!("http://[::1]:3000".parse::<Origin>().is_ok());
    }
}
