//! Questions to a directory.

use std::sync::Arc;

use ldap3::{
    Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, SearchOptions, dn_escape, ldap_escape,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::config::{Config, Groups, Search};
use crate::config::types::Secret;

/// A user with more groups is in those that came first.
const MAX_GROUPS: i32 = 1_000;

/// What a directory knows of a user.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) groups: Vec<String>,
}

/// Why nobody was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The name or the password.
    Wrong,
    /// The directory does not say.
    Unavailable(&'static str),
}

/// Where to ask, and for what.
pub(super) struct Directory {
    url: String,
    settings: LdapConnSettings,
    users: Users,
    groups: Option<Groups>,
}

enum Users {
    At(String),
    Found(Search),
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Directory {
    pub(super) fn new(config: &Config) -> Result<Self, String> {
        pingora::tls::install_default_crypto_provider();
        let mut settings = LdapConnSettings::new().set_starttls(config.start_tls);
        if let Some(path) = &config.ca {
            let at = |why: String| format!("{}: {why}", path.display());
            let mut roots = RootCertStore::empty();
            let all = CertificateDer::pem_file_iter(path).map_err(|error| at(error.to_string()))?;
            for certificate in all {
                let certificate = certificate.map_err(|error| at(error.to_string()))?;
                roots.add(certificate).map_err(|error| at(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(at("there is no certificate in it".into()));
            }
            let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
            settings = settings.set_config(Arc::new(tls));
        }
        let users = match (&config.user_dn, &config.search) {
            (Some(dn), _) => Users::At(dn.clone()),
            (None, Some(search)) => Users::Found(search.clone()),
            (None, None) => return Err("where the users are is missing".into()),
        };
        Ok(Self { url: config.url.0.clone(), settings, users, groups: config.groups.clone() })
    }

    /// Whether this is the password of that user, and who it is.
    pub(super) async fn ask(&self, username: &str, password: &str) -> Result<Found, Failure> {
        let connected = Box::pin(LdapConnAsync::with_settings(self.settings.clone(), &self.url)).await;
        let (connection, mut ldap) =
            connected.map_err(|error| self.broken(&error, "the directory cannot be reached"))?;
        let driving = tokio::spawn(connection.drive());
        let found = self.look_up(&mut ldap, username, password).await;
        drop(ldap.unbind().await);
        driving.abort();
        found
    }

    async fn look_up(&self, ldap: &mut Ldap, username: &str, password: &str) -> Result<Found, Failure> {
        let (dn, name) = match &self.users {
            Users::At(dn) => {
                // What a directory takes for the same name is one name here: of other letters it takes many for the same.
                let name = username.to_ascii_lowercase();
                let is_plain = name.bytes().all(|byte| (b' '..=b'~').contains(&byte));
                if !is_plain || name.trim() != name || name.contains("  ") {
                    return Err(Failure::Wrong);
                }
                (fill(dn, &[("{username}", &dn_escape(username))]), name)
            }
            Users::Found(search) => match self.search(ldap, search, username).await? {
                Some(found) => found,
                // As long as for somebody who is there.
                None => (format!("cn={:032x},{}", rand::random::<u128>(), search.base), String::new()),
            },
        };
        self.bind(ldap, &dn, password).await?;
        if name.is_empty() {
            return Err(Failure::Wrong);
        }
        let groups = match &self.groups {
            None => Vec::new(),
            Some(groups) => {
                if let Users::Found(Search { bind_dn: Some(dn), bind_password: Some(secret), .. }) = &self.users {
                    self.bind_self(ldap, dn, secret).await?;
                }
                self.groups(ldap, groups, (&dn, &name)).await?
            }
        };
        Ok(Found { name, groups })
    }

    /// The one entry of a user, and what it says that the user is called.
    async fn search(
        &self,
        ldap: &mut Ldap,
        search: &Search,
        username: &str,
    ) -> Result<Option<(String, String)>, Failure> {
        if let (Some(dn), Some(secret)) = (&search.bind_dn, &search.bind_password) {
            self.bind_self(ldap, dn, secret).await?;
        }
        let filter = fill(&search.filter, &[("{username}", &ldap_escape(username))]);
        ldap.with_search_options(SearchOptions::new().sizelimit(2));
        let asked = ldap.search(&search.base, Scope::Subtree, &filter, [search.name.as_str()]).await;
        let answer = asked.map_err(|error| self.broken(&error, "the directory cannot be searched"))?;
        // 4: there are more than two.
        if !matches!(answer.1.rc, 0 | 4) {
            log::warn!("{} does not search below `{}`: {}", self.url, search.base, answer.1);
            return Err(Failure::Unavailable("the directory does not let the gateway search"));
        }
        let is_whole = answer.1.rc == 0;
        let mut entries = answer.0.into_iter().map(SearchEntry::construct);
        let (Some(entry), None, true) = (entries.next(), entries.next(), is_whole) else { return Ok(None) };
        match values(&entry, &search.name) {
            Some([name]) if !name.is_empty() && !name.chars().any(char::is_control) => {
                Ok(Some((entry.dn.clone(), name.clone())))
            }
            Some(_) | None => {
                log::warn!("{}: `{}` is not called anything: it has no single `{}`", self.url, entry.dn, search.name);
                Ok(None)
            }
        }
    }

    async fn groups(&self, ldap: &mut Ldap, groups: &Groups, (dn, name): (&str, &str)) -> Result<Vec<String>, Failure> {
        let filter = fill(&groups.filter, &[("{dn}", &ldap_escape(dn)), ("{username}", &ldap_escape(name))]);
        ldap.with_search_options(SearchOptions::new().sizelimit(MAX_GROUPS));
        let asked = ldap.search(&groups.base, Scope::Subtree, &filter, [groups.name.as_str()]).await;
        let answer = asked.map_err(|error| self.broken(&error, "the directory cannot be asked for groups"))?;
        if !matches!(answer.1.rc, 0 | 4) {
            log::warn!("{} does not say who is in which group below `{}`: {}", self.url, groups.base, answer.1);
            return Err(Failure::Unavailable("the directory does not let the gateway search for groups"));
        }
        let entries = answer.0.into_iter().map(SearchEntry::construct);
        let names = entries.filter_map(|entry| values(&entry, &groups.name)?.first().cloned());
        Ok(names.filter(|name| is_name(name)).collect())
    }

    /// Whether the directory takes this for somebody.
    async fn bind(&self, ldap: &mut Ldap, dn: &str, password: &str) -> Result<(), Failure> {
        let answer = ldap.simple_bind(dn, password).await;
        let answer = answer.map_err(|error| self.broken(&error, "the directory cannot be asked"))?;
        match answer.rc {
            0 => Ok(()),
            // constraintViolation, noSuchObject, invalidDNSyntax, inappropriateAuthentication, invalidCredentials,
            // insufficientAccessRights, unwillingToPerform.
            19 | 32 | 34 | 48 | 49 | 50 | 53 => Err(Failure::Wrong),
            _ => {
                log::warn!("{} does not check a password: {answer}", self.url);
                Err(Failure::Unavailable("the directory does not check the password"))
            }
        }
    }

    /// The gateway's own.
    async fn bind_self(&self, ldap: &mut Ldap, dn: &str, secret: &Secret) -> Result<(), Failure> {
        self.bind(ldap, dn, secret.expose()).await.map_err(|failure| match failure {
            Failure::Wrong => Failure::Unavailable("the directory does not accept `bind_dn` and `bind_password`"),
            failure @ Failure::Unavailable(_) => failure,
        })
    }

    fn broken(&self, error: &LdapError, why: &'static str) -> Failure {
        log::warn!("{}: {error}", self.url);
        Failure::Unavailable(why)
    }
}

/// Fills in, once: what is filled in may look like a hole itself.
fn fill(text: &str, holes: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        let found = holes.iter().filter_map(|(hole, value)| Some((rest.split_once(hole)?, value)));
        let Some(((before, after), value)) = found.min_by_key(|((before, _), _)| before.len()) else {
            out.push_str(rest);
            return out;
        };
        out.push_str(before);
        out.push_str(value);
        rest = after;
    }
}

/// What an entry has in an attribute, whose name has letters of any size.
fn values<'a>(entry: &'a SearchEntry, name: &str) -> Option<&'a [String]> {
    let found = entry.attrs.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, values)| values.as_slice())
}

/// Whether upstreams can tell where the name ends.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b',')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_is_not_filled_in_again() {
        let holes = [("{dn}", "cn={username}"), ("{username}", "a{dn}")];
        assert_eq!(fill("(|(m={dn})(u={username})(m={dn}))", &holes), "(|(m=cn={username})(u=a{dn})(m=cn={username}))");
        assert_eq!(fill("plain", &holes), "plain");
    }

    #[test]
    fn names_of_groups_stay_apart() {
        assert!(is_name("Domain Users") && !is_name("a,b") && !is_name("") && !is_name("a\r\nb"));
    }
}
