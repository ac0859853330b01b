//! What `ldap` takes.

use std::{path::PathBuf, str::FromStr};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{
        check::Check,
        steps,
        types::{Duration, Secret, text_type},
    },
    policy::jwt::{Realm, default_realm, is_local},
};

/// Which directory knows the passwords, and where in it the users are.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Ldap")]
pub struct Config {
    /// `ldaps://ldap.example.com`, with a port if it is not the usual one.
    pub url: Server,
    /// Whether `ldap://` goes on with TLS.
    #[serde(default)]
    pub start_tls: bool,
    /// Certificate authorities instead of those of the system: a file in PEM.
    pub ca: Option<PathBuf>,
    /// The entry of a user: `uid={username},ou=people,dc=example,dc=com`.
    pub user_dn: Option<String>,
    /// How the entry is found instead.
    pub search: Option<Search>,
    /// How groups are found.
    pub groups: Option<Groups>,
    /// How long a right password is believed without another question.
    #[serde(default = "crate::policy::defaults::remember")]
    pub remember: Duration,
    /// How long a question may take.
    #[serde(default = "crate::policy::defaults::timeout")]
    pub timeout: Duration,
    /// What browsers show when they ask for the password.
    #[serde(default = "default_realm")]
    pub realm: Realm,
    /// Whether the upstream gets to see the password.
    #[serde(default)]
    pub forward: bool,
}

/// How the entry of a user is found.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LdapSearch")]
pub struct Search {
    /// Below what.
    pub base: String,
    /// By what, with `{username}`.
    #[serde(default = "default_filter")]
    pub filter: String,
    /// The attribute that says what the user is called.
    #[serde(default = "default_name")]
    pub name: String,
    /// As whom the gateway searches; without it, as nobody.
    pub bind_dn: Option<String>,
    /// What it proves that with.
    pub bind_password: Option<Secret>,
}

fn default_filter() -> String {
    "(uid={username})".into()
}

fn default_name() -> String {
    "uid".into()
}

/// How the groups of a user are found.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LdapGroups")]
pub struct Groups {
    /// Below what.
    pub base: String,
    /// By what, with `{dn}` or `{username}`.
    #[serde(default = "default_member")]
    pub filter: String,
    /// The attribute that says what the group is called.
    #[serde(default = "default_group")]
    pub name: String,
}

fn default_member() -> String {
    "(member={dn})".into()
}

fn default_group() -> String {
    "cn".into()
}

/// The address of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server(pub String);

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected an address such as `ldaps://ldap.example.com`".to_owned();
        let uri: http::Uri = text.parse().map_err(|_error| wrong())?;
        let is_bare = uri.path_and_query().is_none_or(|path| path == "/");
        let host = uri.host().unwrap_or_default();
        if !matches!(uri.scheme_str(), Some("ldap" | "ldaps")) || host.is_empty() || text.contains('@') || !is_bare {
            return Err(wrong());
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}
text_type!(Server, "an address such as `ldaps://ldap.example.com`", "^ldaps?://[^@/\\s]+/?$");

impl Server {
    fn has_tls(&self) -> bool {
        self.0.starts_with("ldaps:")
    }
}

/// Looks for what the types cannot refuse by themselves.
pub(super) fn check(config: &Config, check: &mut Check<'_>) {
    match (&config.user_dn, &config.search) {
        (None, None) => check.error(&[], "where are the users? Write `user_dn` or `search`"),
        (Some(_), Some(_)) => check.error(&steps!["search"], "the entry is either `user_dn` or what `search` finds"),
        (Some(dn), None) if !dn.contains("{username}") => {
            check.error(&steps!["user_dn"], "everybody would be the same: `{username}` is missing");
        }
        (Some(_), None) => {}
        (None, Some(search)) => check_search(search, check),
    }
    if let Some(groups) = &config.groups {
        check_filter(&["groups", "filter"], &groups.filter, &["{dn}", "{username}"], check);
    }
    if config.url.has_tls() && config.start_tls {
        check.error(&steps!["start_tls"], "`ldaps://` begins with TLS");
    }
    if !config.url.has_tls() && !config.start_tls && !is_local(&config.url.0) {
        check.warning(
            &steps!["url"],
            "without TLS, passwords can be read on the way: write `ldaps://` or `start_tls: true`",
        );
    }
    if config.remember.0 > std::time::Duration::from_hours(1) {
        check.error(&steps!["remember"], "a password is remembered for an hour at most");
    }
    check.takes_time(&steps!["timeout"], config.timeout);
}

fn check_search(search: &Search, check: &mut Check<'_>) {
    check_filter(&["search", "filter"], &search.filter, &["{username}"], check);
    if search.bind_dn.is_some() != search.bind_password.is_some() {
        check.error(&steps!["search"], "`bind_dn` and `bind_password` go together");
    }
}

/// A filter that says whom it is about, and that a directory can read.
fn check_filter(way: &[&'static str; 2], filter: &str, holes: &[&str], check: &mut Check<'_>) {
    let [section, key] = way;
    let way = steps![*section, *key];
    if !holes.iter().any(|hole| filter.contains(hole)) {
        check.error(&way, format!("it would find everybody: `{}` is missing", holes.join("` or `")));
    }
    let filled = holes.iter().fold(filter.to_owned(), |filled, hole| filled.replace(hole, "x"));
    if ldap3::parse_filter(&filled).is_err() {
        check.error(&way, "this is no filter, such as `(&(objectClass=person)(uid={username}))`");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_that_of_a_directory() {
        for text in ["ldap://a", "ldaps://a:636", "ldap://[::1]:389/"] {
            assert!(text.parse::<Server>().is_ok(), "{text}");
        }
        for text in ["a", "https://a", "ldap://", "ldap://u@a", "ldap://a/dc=x", "ldapi:///x"] {
            assert!(text.parse::<Server>().is_err(), "{text}");
        }
    }
}
