//! The hosts that logins return to. Nobody is ever sent elsewhere, whatever a request says.

use http::Uri;

use crate::{policy::jwt::Url, route::normalise_host};

/// A longer address is not returned to.
const MAX_RETURN: usize = 2_048;

/// Where the gateway is at home, for browsers.
#[derive(Debug)]
pub(super) struct Home {
    /// `https`, or `http`.
    pub(super) scheme: Box<str>,
    /// With the port, as browsers write it.
    authority: Box<str>,
    pub(super) host: Box<str>,
    /// `:8443`, or nothing.
    port: Box<str>,
    /// Where the issuer sends browsers back to.
    pub(super) callback: Box<str>,
    domain: Option<Box<str>>,
}

impl Home {
    pub(super) fn new(redirect: &Url, domain: Option<&str>) -> Result<Self, String> {
        let uri: Uri = redirect.as_str().parse().map_err(|_error| "`redirect_uri` is no address")?;
        Ok(Self {
            scheme: uri.scheme_str().unwrap_or("https").into(),
            authority: uri.authority().map(http::uri::Authority::as_str).unwrap_or_default().into(),
            host: normal(uri.host().unwrap_or_default()).into(),
            port: uri.port().map(|port| format!(":{port}")).unwrap_or_default().into(),
            callback: uri.path().into(),
            domain: domain.map(|domain| domain.to_ascii_lowercase().into()),
        })
    }

    pub(super) fn is_secure(&self) -> bool {
        &*self.scheme == "https"
    }

    /// What stands before the path of addresses on this host, if the session is good there: `https://app.example.com`.
    pub(super) fn origin(&self, host: &str) -> Option<String> {
        if *host == *self.host {
            return Some(format!("{}://{}", self.scheme, self.authority));
        }
        let domain = self.domain.as_deref()?;
        is_within(host, domain).then(|| format!("{}://{host}{}", self.scheme, self.port))
    }

    /// The address of a page on this host, to come back to.
    pub(super) fn page(&self, host: &str, target: &str) -> Option<String> {
        let page = self.origin(host)? + target;
        if page.len() <= MAX_RETURN { Some(page) } else { self.origin(host).map(|origin| origin + "/") }
    }

    /// The address that somebody wants to be sent to: a path on this host, or an address on one of the gateway's own.
    pub(super) fn wanted(&self, host: &str, text: &str) -> Option<String> {
        if is_elsewhere(text) || text.len() > MAX_RETURN {
            return None;
        }
        if text.starts_with('/') {
            return self.page(host, text);
        }
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?.as_str();
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let origin = self.origin(&normal(uri.host()?))?;
        let own = format!("{}://{authority}", uri.scheme_str()?);
        origin.eq_ignore_ascii_case(&own).then(|| origin + target)
    }
}

/// As the gateway has the host of a request.
pub(super) fn normal(host: &str) -> String {
    normalise_host(host).map(std::borrow::Cow::into_owned).unwrap_or_default()
}

/// What browsers take for an address of another host, or could: `//evil`, `/\evil`, and what has characters in it that they leave out.
pub(super) fn is_elsewhere(text: &str) -> bool {
    text.starts_with("//") || text.bytes().any(|byte| !(b'!'..=b'~').contains(&byte) || b"\\\"<>^`{|}".contains(&byte))
}

/// Whether a host is the domain, or below it.
pub(super) fn is_within(host: &str, domain: &str) -> bool {
    let above = host.len().checked_sub(domain.len());
    let is_end = above.is_some_and(|at| host.get(at..).is_some_and(|end| end.eq_ignore_ascii_case(domain)));
    is_end
        && (host.len() == domain.len() || above.is_some_and(|at| host.get(..at).is_some_and(|sub| sub.ends_with('.'))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(domain: Option<&str>) -> Home {
        Home::new(&"https://app.example.com:8443/oauth2/callback".parse().unwrap(), domain).unwrap()
    }

    #[test]
    fn nobody_is_sent_to_another_host() {
        for domain in [None, Some("example.com")] {
            let home = home(domain);
            for evil in [
                "//evil.example",
                "/\\evil.example",
                "/\t/evil.example",
                "/%0d/a\r\nSet-Cookie: a=b",
                "https://evil.example/",
                "https:evil.example",
                "https://app.example.com:8443@evil.example/",
                "https://app.example.com.evil.example/",
                "https://app.example.com:9/",
                "https://evilexample.com/",
                "http://app.example.com:8443/",
                "javascript:alert(1)",
                "evil.example",
                "",
                "https://",
                "\u{2f}\u{2f}evil",
            ] {
                assert_eq!(home.wanted("app.example.com", evil), None, "{evil}");
            }
            assert_eq!(home.wanted("evil.example", "/"), None);
        }
    }

    #[test]
    fn own_pages_are_returned_to() {
        let (narrow, wide) = (home(None), home(Some("example.com")));
        let page = "https://app.example.com:8443/a?b=//c";
        assert_eq!(narrow.wanted("app.example.com", "/a?b=//c").as_deref(), Some(page));
        assert_eq!(narrow.wanted("app.example.com", page).as_deref(), Some(page));
        assert_eq!(narrow.wanted("app.example.com", "https://shop.example.com/"), None);
        let shop = Some("https://shop.example.com:8443/x");
        assert_eq!(wide.wanted("app.example.com", "https://shop.example.com:8443/x").as_deref(), shop);
        assert_eq!(wide.wanted("app.example.com", "https://shop.example.com/x"), None);
        assert_eq!(wide.wanted("shop.example.com", "/x").as_deref(), shop);
        assert_eq!(narrow.page("app.example.com", "//x").as_deref(), Some("https://app.example.com:8443//x"));
        let long = "/x".repeat(2_000);
        assert_eq!(narrow.page("app.example.com", &long).as_deref(), Some("https://app.example.com:8443/"));
    }

    #[test]
    fn a_domain_is_whole_labels() {
        assert!(is_within("a.example.com", "example.com") && is_within("EXAMPLE.com", "example.com"));
        assert!(!is_within("badexample.com", "example.com") && !is_within("com", "example.com"));
    }
}
