//! `oidc`: logins at a real issuer, in a browser that is played and in a real one, and at one that lies.

mod abused;
mod forged;
mod forger;
mod real;
mod sealed;

use crate::support::{Browser, Gateway, Page, Upstream};

use super::identity_provider::Provider;

/// What every `oidc` here has.
const COMMON: &str = "client_id: web, client_secret: secret, session_secret: \"0123456789abcdef0123456789abcdef\", \
                      login_path: /oauth2/login, logout_path: /oauth2/logout, backchannel_logout_path: /oauth2/backchannel";

/// A gateway in front of `up` where browsers log in at this issuer. `{origin}` stands for where it is.
fn gateway(issuer: &str, more: &str, policies: &str, up: &Upstream) -> (Gateway, String) {
    gateway_with(issuer, more, policies, "", up)
}

/// The same with more routes. `{oidc}` stands for the policy everywhere.
fn gateway_with(issuer: &str, more: &str, policies: &str, routes: &str, up: &Upstream) -> (Gateway, String) {
    let file = |origin: &str| {
        format!(
            "telemetry: {{ access_log: {{}} }}
listeners: [{{ address: \"127.0.0.1:0\", h2c: true, max_header_size: 128KiB }}]
upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
consumers: {{ alice: {{ groups: [staff], tokens: [{{ issuer: \"{issuer}\", subject: alice }}] }}, mobile: {{ api_keys: [key-1] }} }}
routes:
  - name: r
    match: {{ path: {{ prefix: / }} }}
    policies: [{policies}]
    upstream: up
{routes}\n",
            up.address()
        )
        .replace("{oidc}", &format!("{{ oidc: {{ issuer: \"{issuer}\", redirect_uri: \"{origin}/oauth2/callback\", {COMMON}{more} }} }}"))
    };
    let gateway = Gateway::start(&file("http://127.0.0.1:1"));
    let origin = format!("http://{}", gateway.address());
    gateway.reload(&file(&origin));
    (gateway, origin)
}

/// A gateway, its issuer, and what is behind it.
struct World {
    provider: Provider,
    up: Upstream,
    gateway: Gateway,
    origin: String,
}

impl World {
    /// Tokens last for so many seconds.
    fn start(lifetime: u64, more: &str) -> Self {
        Self::with(lifetime, more, "{oidc}")
    }

    fn with(lifetime: u64, more: &str, policies: &str) -> Self {
        let (provider, up) = (Provider::start(lifetime), Upstream::named("up"));
        let (gateway, origin) = gateway(&provider.issuer(), more, policies, &up);
        provider.serve(&origin);
        Self { provider, up, gateway, origin }
    }

    fn url(&self, target: &str) -> String {
        format!("{}{target}", self.origin)
    }

    /// The host of the gateway, with its port.
    fn authority(&self) -> &str {
        self.origin.strip_prefix("http://").unwrap()
    }

    /// Opens a page, and logs in on the way.
    #[track_caller]
    fn log_in(&self, browser: &mut Browser, target: &str, name: &str) -> Page {
        self.log_in_until(browser, target, name, "\n")
    }

    /// The same up to an address with this in it.
    #[track_caller]
    fn log_in_until(&self, browser: &mut Browser, target: &str, name: &str, stop: &str) -> Page {
        let page = browser.open(&self.url(target));
        assert!(page.url.starts_with(&self.provider.issuer()), "{page:?}");
        let page = browser.submit(&page, &format!("login={name}&password=any"), stop);
        if page.url.contains(stop) { page } else { browser.submit(&page, "", stop) }
    }

    /// The cookies with the session.
    fn session(&self, browser: &Browser) -> Vec<(String, String)> {
        let all = browser.named(self.authority(), "torana_session");
        all.into_iter().filter(|(name, _)| !name.contains("login")).collect()
    }
}
