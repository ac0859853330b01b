//! `ldap`: who is calling, by a name and a password that a directory knows ([RFC 4511](https://www.rfc-editor.org/rfc/rfc4511)).
//!
//! # Rules
//!
//! - Name and password are those of `Authorization: Basic`, as for [`basic`](super::basic). They are right if the directory lets their entry bind.
//! - The entry is `user_dn` with `{username}` filled in, or the only one that `search` finds below its `base`. What is filled in is escaped
//!   (RFC 4514, RFC 4515), so a name is never a pattern.
//! - With `user_dn`, names are of ASCII: of other letters, directories take many for the same. `search` is for those.
//! - In `groups`, `{username}` is the user's own name and not what somebody typed.
//! - An empty password is refused without asking: a directory would take it for nobody, and say yes (RFC 4513, 5.1.2).
//! - Who it is: with `search`, what the entry has in `name`; otherwise the name in small letters, since directories do not tell letters apart by size. The consumer
//!   of that name, or else a caller of its own.
//! - With `groups`, the groups that the directory finds are those of the caller, beside those of the consumer. Names with a comma, or that no header can have, are
//!   left out.
//! - A right password is believed for `remember`. Unknown names cost as much time as wrong passwords. Referrals are not followed.
//! - No password: 401 with `WWW-Authenticate: Basic`. A directory that does not answer within `timeout`, or that fails: 503.
//!
//! # For operators
//!
//! - Use `ldaps://`, or `start_tls`: otherwise passwords can be read on the way.
//! - Each question has a connection of its own; 64 at a time and 8 of one address, more are answered with 503. An account that is locked for 60 s longer may still get in: that is `remember`.
//!
//! # Example
//!
//! ```yaml
//! policies:
//!   - ldap:
//!       url: ldaps://ldap.example.com
//!       search: { base: "ou=people,dc=example,dc=com", filter: "(mail={username})", bind_dn: "cn=gateway,dc=example,dc=com", bind_password: "${env:LDAP_PASSWORD}" }
//!       groups: { base: "ou=groups,dc=example,dc=com" }
//! ```

mod config;
mod directory;

use std::sync::Arc;

use http::{HeaderValue, header::AUTHORIZATION};
use pingora::http::RequestHeader;
use tokio::sync::Semaphore;

pub use self::config::{Config, Groups, Search, Server};
use self::directory::{Directory, Failure, Found};
use super::{
    Flow, Policy, Stage,
    login::{self, Remembered},
    turns::Turns,
    verdicts::Digest,
};
use crate::{
    config::check::Check,
    identity::{self, Consumers, Identity},
    proxy::context::Context,
    reject::{Reject, Shown},
    runtime::{Build, State},
};

/// So many questions at a time.
const MAX_ASKING: usize = 64;

/// So many questions of one address at a time.
const LANES: usize = 8;

/// Longer names and passwords are none.
const MAX_SENT: usize = 1_024;

/// Finds the caller by asking a directory.
#[derive(Debug)]
pub struct Ldap {
    directory: Arc<Directory>,
    known: Arc<Known>,
    remember: std::time::Duration,
    timeout: std::time::Duration,
    forward: bool,
    consumers: Arc<Consumers>,
    challenge: HeaderValue,
}

/// What was found out, for as long as the file says the same about the directory.
#[derive(Debug)]
struct Known {
    right: Remembered<Arc<Identity>>,
    places: Arc<Semaphore>,
    /// Those of one address wait for each other.
    turns: Turns,
}

/// Another process asks again.
impl State for Known {}

impl Policy for Ldap {
    const STAGE: Stage = Stage::Authenticate;
    type Config = Config;

    fn check(config: &Config, check: &mut Check<'_>) {
        config::check(config, check);
    }

    fn compile(config: &Config, build: &mut Build<'_>) -> Result<Self, String> {
        let secret = config.search.as_ref().and_then(|search| search.bind_password.as_ref());
        let secret: Digest = identity::digest(secret.map(|secret| secret.expose().as_bytes()).unwrap_or_default());
        let depends = format!("{config:?}{secret:?}{}", build.consumers.fingerprint());
        let known = format!("{}/ldap/{:x?}", build.scope(), identity::digest(depends.as_bytes()));
        Ok(Self {
            directory: Arc::new(Directory::new(config)?),
            known: build.keep_as(known, || Known {
                right: Remembered::new(),
                places: Arc::new(Semaphore::new(MAX_ASKING)),
                turns: Turns::default(),
            }),
            remember: config.remember.0,
            timeout: config.timeout.0,
            forward: config.forward,
            consumers: Arc::clone(&build.consumers),
            challenge: login::challenge(&config.realm)?,
        })
    }

    fn evidence(&self) -> Vec<String> {
        vec!["basic".into()]
    }

    async fn on_request(&self, request: &mut RequestHeader, ctx: &mut Context) -> Result<Flow, Reject> {
        let (username, password) = login::sent(request, &self.challenge)?;
        let fits = |text: &str| !text.is_empty() && text.len() <= MAX_SENT && !text.contains('\0');
        if !fits(&username) || !fits(&password) {
            return Err(self.refuse("the name or the password is empty, or too long"));
        }
        let (mark, now) = (self.known.right.mark(&username, password.as_bytes()), ctx.started.monotonic);
        let identity = if let Some(known) = self.known.right.find(&mark, now) {
            known
        } else {
            let identity = Arc::new(Box::pin(self.ask(username, password, ctx)).await?);
            self.known.right.keep(mark, Arc::clone(&identity), (now, self.remember));
            identity
        };
        if !self.forward {
            request.remove_header(&AUTHORIZATION);
        }
        ctx.authenticated(&identity, &self.challenge)?;
        Ok(Flow::Continue)
    }
}

impl Ldap {
    async fn ask(&self, username: String, password: String, ctx: &Context) -> Result<Identity, Reject> {
        let lane = password.len() % LANES;
        let queue = self.known.turns.queue_of(ctx.client_ip, lane);
        let turn = tokio::time::timeout(self.timeout, queue.wait()).await;
        let _turn = turn.map_err(|_elapsed| Reject::Overloaded("questions of one address to the directory"))?;
        let place = Arc::clone(&self.known.places).try_acquire_owned();
        let Ok(place) = place else { return Err(Reject::Overloaded("questions to the directory")) };
        let directory = Arc::clone(&self.directory);
        // On its own, since the library may panic about what is no LDAP.
        let asking = tokio::spawn(async move {
            let _place = place;
            directory.ask(&username, &password).await
        });
        let end = asking.abort_handle();
        let Ok(answer) = tokio::time::timeout(self.timeout, asking).await else {
            end.abort();
            return Err(Reject::AuthUnavailable("the directory did not answer in time"));
        };
        match answer.unwrap_or(Err(Failure::Unavailable("the directory's answer is none that can be used"))) {
            Ok(found) => Ok(self.identity(found)),
            Err(Failure::Wrong) => Err(self.refuse("the name or the password is wrong")),
            Err(Failure::Unavailable(why)) => Err(Reject::AuthUnavailable(why)),
        }
    }

    fn identity(&self, found: Found) -> Identity {
        let known = self.consumers.by_name(&found.name).and_then(|identity| identity.consumer.as_deref());
        Identity::member(&found.name, known, found.groups)
    }

    fn refuse(&self, reason: &'static str) -> Reject {
        login::refuse(&self.challenge, Shown::Wrong, reason)
    }
}
