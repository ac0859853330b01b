//! `basic`: who is calling, by a name and a password ([RFC 7617](https://www.rfc-editor.org/rfc/rfc7617)).
//!
//! # Rules
//!
//! - Names and passwords are in `logins` of `consumers`, and in the `files` that are named, which are as `htpasswd -B` writes them.
//!   A name of a file is the consumer of that name, or else a caller of its own with no group.
//! - Passwords are kept hashed, by argon2id or bcrypt; faster hashes are refused. A name that is not known takes as long as a wrong
//!   password.
//! - No password, a wrong one, or two `Authorization` headers: 401 with `WWW-Authenticate: Basic`.
//! - The upstream does not see the password, only `X-Consumer-Id` and `X-Consumer-Groups`; `forward: true` lets it through.
//!
//! # For operators
//!
//! - Half of the CPUs at most check hashes, and never the threads that serve requests. 256 requests may wait for a check, for up to
//!   five seconds; others get 503. So wrong passwords without end cost no more than that.
//! - A right password is remembered for `remember`, as a keyed digest: a client that sends it with every request costs one check in that
//!   time. After a change of the file the old password is not believed any more, remembered or not.
//! - Only with TLS: the password is there to read in every request.
//! - Files are read when the configuration is loaded; reload after they change.
//!
//! # Example
//!
//! ```yaml
//! consumers:
//!   alice: { groups: [staff], logins: [{ password: "${file:/run/credentials/torana.service/alice}" }] }
//! policies:
//!   - basic: { realm: wiki, files: [/etc/torana/htpasswd] }
//! ```

mod hashing;

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use http::{HeaderValue, header::AUTHORIZATION};
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use self::hashing::Hashing;
use super::{
    Flow, Policy, Stage,
    jwt::{Realm, default_realm},
    login,
};
use crate::{
    config::{check::Check, steps, types::Duration},
    identity::{Consumers, Identity, password::Password},
    proxy::context::Context,
    reject::{Reject, Shown},
    runtime::Build,
};

/// Whose names and passwords are accepted.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Basic")]
pub struct Config {
    /// What browsers show when they ask for the password.
    pub realm: Realm,
    /// More names and passwords, as `htpasswd -B` writes them.
    pub files: Vec<PathBuf>,
    /// How long a right password is believed without another check.
    pub remember: Duration,
    /// Whether the upstream gets to see the password.
    pub forward: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { realm: default_realm(), files: Vec::new(), remember: Duration::from_secs(60), forward: false }
    }
}

/// Finds the caller by name and password.
#[derive(Debug)]
pub struct Basic {
    consumers: Arc<Consumers>,
    /// Those of files.
    others: HashMap<Box<str>, (Password, Arc<Identity>)>,
    /// What the password of an unknown name is checked against.
    nobody: Password,
    hashing: Arc<Hashing>,
    remember: std::time::Duration,
    forward: bool,
    challenge: HeaderValue,
}

impl Policy for Basic {
    const STAGE: Stage = Stage::Authenticate;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        if config.files.is_empty() && check.config.consumers.values().all(|one| one.logins.is_empty()) {
            check.warning(&[], "no consumer has `logins`, and there are no `files`: every request is refused");
        }
        if config.remember.0 > std::time::Duration::from_hours(1) {
            check.error(&steps!["remember"], "a password is remembered for an hour at most");
        }
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        let mut others = HashMap::new();
        for path in &config.files {
            let read = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            for (username, password) in entries(&read).map_err(|why| format!("{}: {why}", path.display()))? {
                let identity = build
                    .consumers
                    .by_name(username)
                    .cloned()
                    .unwrap_or_else(|| Arc::new(Identity::stranger(username)));
                let twin = others.insert(username.into(), (password, identity)).is_some();
                if twin || build.consumers.by_login(username).is_some() {
                    return Err(format!("{}: the name `{username}` is there twice", path.display()));
                }
            }
        }
        let nobody = {
            let mut all = others.values().map(|(password, _)| password).chain(build.consumers.passwords());
            all.find(|password| password.is_slow()).cloned()
        };
        Ok(Self {
            nobody: nobody.unwrap_or_else(|| Password::Plain(rand::random())),
            others,
            consumers: Arc::clone(&build.consumers),
            hashing: build.keep_as("basic/hashing".into(), Hashing::new),
            remember: config.remember.0,
            forward: config.forward,
            challenge: login::challenge(&config.realm)?,
        })
    }

    fn evidence(&self) -> Vec<String> {
        vec!["basic".into()]
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let (username, password) = login::sent(request, &self.challenge)?;
        let user = self.consumers.by_login(&username).or_else(|| self.others.get(username.as_str()));
        let known = user.map_or(&self.nobody, |(password, _)| password);
        let when = (ctx.started.monotonic, self.remember);
        let right = self.hashing.verify(known, password.as_bytes(), when).await?;
        if !right && !known.is_slow() && self.nobody.is_slow() {
            // Otherwise the time would tell which names there are.
            self.hashing.verify(&self.nobody, password.as_bytes(), when).await?;
        }
        let identity = user.filter(|_| right).map(|(_, identity)| identity);
        let identity = identity
            .ok_or_else(|| login::refuse(&self.challenge, Shown::Wrong, "the name or the password is wrong"))?;
        if !self.forward {
            request.remove_header(&AUTHORIZATION);
        }
        ctx.authenticated(identity, &self.challenge)?;
        Ok(Flow::Continue)
    }
}

/// The entries of a file as `htpasswd` writes it.
fn entries(text: &str) -> Result<Vec<(&str, Password)>, String> {
    let mut entries = Vec::new();
    for (i, line) in
        text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
    {
        let at = |why: &str| format!("line {}: {why}", i + 1);
        let (username, hash) = line.split_once(':').ok_or_else(|| at("a line is `NAME:HASH`"))?;
        // What stands behind another `:` is a comment.
        let hash = hash.split(':').next().unwrap_or_default();
        entries.push((username, Password::parse_hash(hash).map_err(at)?));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_name_and_a_hash_in_each_line() {
        let hash = bcrypt::hash("x", 4).unwrap();
        let text = format!("# comment\n\nalice:{hash}\nbob:{hash}:Bob, of accounting\n");
        let names: Vec<_> = entries(&text).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["alice", "bob"]);
        for wrong in ["alice", "alice:plain", "alice:{SHA}abc", "alice:$apr1$a$b"] {
            assert!(entries(wrong).unwrap_err().starts_with("line 1: "), "{wrong}");
        }
    }
}
