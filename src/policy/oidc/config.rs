//! What `oidc` takes.

use std::{collections::BTreeMap, path::PathBuf};

use http::{Method, Uri};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{
        check::Check,
        steps,
        types::{Duration, OneOrMore, Secret},
    },
    policy::{
        Answered,
        issuer::Send,
        jwt::{Algorithm, Realm, Url, default_consumer_claim, default_realm},
        scopes,
    },
    route::path::normalise,
};

/// Which issuer browsers log in at, and how long that holds.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Oidc")]
pub struct Config {
    /// The issuer, an `https://` address; where it does what is found there (`OpenID` Connect Discovery).
    pub issuer: Url,
    /// The name of the gateway at the issuer.
    pub client_id: String,
    /// What it proves that with; a public client has none.
    pub client_secret: Option<Secret>,
    /// Where it says that.
    #[serde(default)]
    pub send: Send,
    /// Where the issuer sends browsers back to: an address of this route that nothing else is at, registered there.
    pub redirect_uri: Url,
    /// What sessions are encrypted with: at least 32 characters. Of a list, the first one encrypts, and all decrypt.
    pub session_secret: OneOrMore<Secret>,
    /// What is asked for.
    #[serde(default = "default_scopes")]
    pub scopes: Vec<String>,
    /// More parameters of the request to the issuer, such as `prompt: select_account`.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// How its tokens may be signed; without it, in every way that its keys are for.
    #[serde(default)]
    pub algorithms: Vec<Algorithm>,
    /// The claim that says which consumer it is, among `tokens` of `consumers`.
    #[serde(default = "default_consumer_claim")]
    pub consumer_claim: String,
    /// Whether the user has to be a consumer.
    #[serde(default)]
    pub consumer_required: bool,
    /// What happens to requests without a session.
    #[serde(default)]
    pub unauthenticated: Unauthenticated,
    /// A path that leads to the login, and from there to what its parameter `return_to` says.
    pub login_path: Option<String>,
    /// A path that ends the session, here and at the issuer.
    pub logout_path: Option<String>,
    /// Where browsers are sent after that: a path, or an `https://` address. Best a page without login.
    #[serde(default = "default_after_logout")]
    pub after_logout: String,
    /// A path at which the issuer says whose sessions are over (`OpenID` Connect Back-Channel Logout).
    pub backchannel_logout_path: Option<String>,
    /// A token that the upstream gets in `Authorization`.
    #[serde(default)]
    pub forward: Forward,
    /// The cookie that holds the session.
    #[serde(default)]
    pub cookie: Cookie,
    /// A session that is not used for so long is over.
    #[serde(default = "default_idle")]
    pub idle_timeout: Duration,
    /// So long after the login it is over in any case.
    #[serde(default = "default_lifetime")]
    pub lifetime: Duration,
    /// What challenges call the place that is guarded.
    #[serde(default = "default_realm")]
    pub realm: Realm,
    /// Certificate authorities for the issuer instead of the public ones: a file in PEM.
    pub ca: Option<PathBuf>,
    /// How often its keys and addresses are fetched.
    #[serde(default = "crate::policy::defaults::refresh")]
    pub refresh: Duration,
    /// How often at most a key that is not known leads to another fetch.
    #[serde(default = "crate::policy::defaults::refetch")]
    pub refetch: Duration,
    /// How far the clocks of issuer and gateway may be apart.
    #[serde(default = "crate::policy::defaults::leeway")]
    pub leeway: Duration,
}

fn default_scopes() -> Vec<String> {
    vec!["openid".into()]
}

fn default_after_logout() -> String {
    "/".into()
}

fn default_idle() -> Duration {
    Duration::from_secs(3_600)
}

fn default_lifetime() -> Duration {
    Duration::from_secs(12 * 3_600)
}

/// What happens to requests without a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unauthenticated {
    /// Where a browser opens a page, it is sent to the login; everything else is refused with 401.
    #[default]
    Auto,
    /// All are refused with 401.
    Refuse,
}

/// A token that the upstream gets in `Authorization`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Forward {
    /// None.
    #[default]
    None,
    /// The access token, kept fresh.
    AccessToken,
    /// The ID token.
    IdToken,
}

/// The cookie that holds the session.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "SessionCookie")]
pub struct Cookie {
    /// Its name, behind `__Host-`, or `__Secure-` with a `domain`.
    pub name: String,
    /// A domain, on all hosts of which one login is enough; without it, it holds for the host of `redirect_uri` alone.
    pub domain: Option<String>,
}

impl Default for Cookie {
    fn default() -> Self {
        Self { name: "torana_session".into(), domain: None }
    }
}

/// The fewest characters of a secret to encrypt with.
const MIN_SECRET: usize = 32;

/// Parameters that the gateway itself sets.
const OWN: [&str; 12] = [
    "client_id",
    "code_challenge",
    "code_challenge_method",
    "max_age",
    "nonce",
    "redirect_uri",
    "request",
    "request_uri",
    "response_mode",
    "response_type",
    "scope",
    "state",
];

/// Looks for what the types cannot refuse by themselves.
pub(super) fn check(config: &Config, check: &mut Check<'_>) {
    if !config.issuer.is_secure() && !config.issuer.is_local() {
        check.warning(&steps!["issuer"], "without TLS, whoever is on the way can log in as anybody");
    }
    if config.issuer.as_str().contains("/.well-known/") {
        let message = "the issuer is what stands before `/.well-known/`, as its discovery document says it";
        check.error(&steps!["issuer"], message);
    }
    if config.client_id.is_empty() {
        check.error(&steps!["client_id"], "a client has a name");
    }
    if config.idle_timeout.0 > config.lifetime.0 {
        check.warning(&steps!["idle_timeout"], "no session is idle for longer than its `lifetime`");
    }
    if !config.scopes.iter().any(|scope| scope == "openid") {
        check.error(&steps!["scopes"], "without the scope `openid`, the issuer does not say who logged in");
    }
    scopes::check_names(&steps!["scopes"], &config.scopes, check);
    for key in config.parameters.keys().filter(|key| OWN.contains(&key.as_str())) {
        check.error(&steps!["parameters"], format!("the gateway itself says what `{key}` is"));
    }
    for (i, secret) in config.session_secret.0.iter().enumerate() {
        if secret.expose().len() < MIN_SECRET {
            let way = if config.session_secret.0.len() == 1 {
                steps!["session_secret"].to_vec()
            } else {
                steps!["session_secret", i].to_vec()
            };
            check.error(&way, "a secret to encrypt with has at least 32 characters: `openssl rand -hex 32`");
        }
    }
    if config.session_secret.0.is_empty() {
        check.error(&steps!["session_secret"], "at least one secret is needed: `openssl rand -hex 32`");
    }
    if config.consumer_required && check.config.consumers.values().all(|one| one.tokens.is_empty()) {
        check.warning(&steps!["consumer_required"], "no consumer has `tokens`, so every request is refused");
    }
    for (key, time) in
        [("refresh", config.refresh), ("idle_timeout", config.idle_timeout), ("lifetime", config.lifetime)]
    {
        check.takes_time(&steps![key], time);
    }
    check_paths(config, check);
    check_cookie(config, check);
    check_company(config, check);
}

/// What stands beside it.
fn check_company(config: &Config, check: &mut Check<'_>) {
    let beside =
        check.beside().find(|other| other.config.authenticates() && !["oidc", "any_of"].contains(&other.config.kind()));
    if let Some(kind) = beside.map(|other| other.config.kind()) {
        let message =
            format!("a request needs this session and what `{kind}` asks for: for one of both, write `any_of`");
        check.warning(&[], message);
    }
    let host = |config: &Config| config.redirect_uri.as_str().parse::<Uri>().ok()?.host().map(str::to_ascii_lowercase);
    let clashes = |other: &&Config| {
        let is_other = (&other.issuer, &other.client_id) != (&config.issuer, &config.client_id);
        let shares = host(other) == host(config) || other.cookie.domain.is_some() || config.cookie.domain.is_some();
        is_other && shares && other.cookie.name == config.cookie.name
    };
    if super::all(check.config.every_policy()).any(|other| clashes(&other)) {
        check.error(
            &steps!["cookie"],
            "logins at another issuer, or of another client, have the same cookie: give each a `name` of its own",
        );
    }
}

fn check_paths(config: &Config, check: &mut Check<'_>) {
    let redirect: Uri = config.redirect_uri.as_str().parse().unwrap_or_default();
    if redirect.query().is_some() || redirect.path() == "/" || !is_normal(redirect.path()) {
        check.error(
            &steps!["redirect_uri"],
            "a path of its own is needed, without a query: `https://app.example.com/oauth2/callback`",
        );
    }
    if !config.redirect_uri.is_secure() && !config.redirect_uri.is_local() {
        check.warning(&steps!["redirect_uri"], "without TLS, whoever is on the way can take over sessions");
    }
    let mut taken = vec![redirect.path()];
    for (key, path) in [
        ("login_path", config.login_path.as_deref()),
        ("logout_path", config.logout_path.as_deref()),
        ("backchannel_logout_path", config.backchannel_logout_path.as_deref()),
    ] {
        let Some(path) = path else { continue };
        if !is_normal(path) {
            check.error(&steps![key], "a path begins with `/`, and is written in its normal form");
        }
        if taken.contains(&path) {
            check.error(&steps![key], "something else is at this path already");
        }
        taken.push(path);
    }
    let after = &config.after_logout;
    let is_address = after.parse::<Url>().is_ok();
    if super::home::is_elsewhere(after) || !after.starts_with('/') && !is_address {
        check.error(&steps!["after_logout"], "expected a path, such as `/`, or an address");
    }
}

/// What the gateway answers itself.
pub(super) fn answers(config: &Config) -> Vec<Answered> {
    let redirect: Uri = config.redirect_uri.as_str().parse().unwrap_or_default();
    let host = super::home::normal(redirect.host().unwrap_or_default());
    let paths = [
        ("redirect_uri", Method::GET, Some(redirect.path())),
        ("login_path", Method::GET, config.login_path.as_deref()),
        ("logout_path", Method::GET, config.logout_path.as_deref()),
        ("backchannel_logout_path", Method::POST, config.backchannel_logout_path.as_deref()),
    ];
    let all = paths.into_iter().filter_map(|(key, method, path)| {
        Some(Answered { way: steps![key].to_vec(), host: host.clone(), method, path: path?.into() })
    });
    all.collect()
}

fn is_normal(path: &str) -> bool {
    !path.contains(['?', '#']) && normalise(path).is_ok_and(|normal| normal.path == path && normal.broken.is_empty())
}

fn check_cookie(config: &Config, check: &mut Check<'_>) {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let name = &config.cookie.name;
    if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) || name.starts_with("__") {
        check.error(&steps!["cookie", "name"], "a name consists of up to 64 letters, digits, `_`, `-` and `.`");
    }
    let Some(domain) = &config.cookie.domain else { return };
    let host = config.redirect_uri.as_str().parse::<Uri>().ok();
    let host = host.as_ref().and_then(Uri::host).unwrap_or_default();
    if !domain.contains('.') || domain.starts_with('.') || !super::home::is_within(host, domain) {
        check.error(
            &steps!["cookie", "domain"],
            "expected a domain that the host of `redirect_uri` is in, such as `example.com`",
        );
    }
}
