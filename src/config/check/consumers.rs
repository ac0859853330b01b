//! Consumers: no name and no credential may belong to two of them, whatever file they stand in.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    config::{
        Diagnostic, Place, Step,
        consumer::Consumer,
        steps,
        tree::{Entry, Node, Value},
        types::{Name, Secret},
    },
    identity::{digest, key_digest, password, signing_key::SigningKey},
    pace::give_way,
};

/// What there was so far, and where: in which file (`None`: the one that names the others), and at which place of it.
#[derive(Default)]
pub(crate) struct Seen(HashMap<[u8; 32], (Option<Arc<str>>, Place)>);

/// Checks the consumers of one file, whose mapping is `tree`.
pub(crate) fn check(
    consumers: &BTreeMap<Name, Consumer>,
    tree: &Node,
    file: Option<&str>,
    seen: &mut Seen,
    found: &mut Vec<Diagnostic>,
) {
    let entries: &[Entry] = if let Value::Map(entries) = &tree.value { entries } else { &[] };
    // A mapping is searched from its beginning, which for 100,000 names would take minutes.
    let by_name: HashMap<&str, &Entry> = entries.iter().map(|entry| (entry.key.as_str(), entry)).collect();
    let file = file.map(Arc::from);
    for (name, consumer) in consumers {
        give_way();
        let Some(entry) = by_name.get(name.as_str()) else { continue };
        let mut one = One { entry, file: &file, seen, found };
        one.check(name.as_str(), consumer);
    }
}

/// A consumer under check.
struct One<'a> {
    entry: &'a Entry,
    file: &'a Option<Arc<str>>,
    seen: &'a mut Seen,
    found: &'a mut Vec<Diagnostic>,
}

impl One<'_> {
    fn check(&mut self, name: &str, consumer: &Consumer) {
        self.once("name", name, &[], "a consumer has this name already");
        for (i, key) in consumer.api_keys.iter().enumerate() {
            self.api_key(&steps!["api_keys", i], key);
        }
        for (i, token) in consumer.tokens.iter().enumerate() {
            let id = format!("{}\n{}", token.issuer, token.subject);
            self.once("token", &id, &steps!["tokens", i], "this subject belongs to a consumer already");
        }
        for (i, certificate) in consumer.certificates.iter().enumerate() {
            let way = steps!["certificates", i];
            self.once("certificate", &certificate.0, &way, "this certificate belongs to a consumer already");
        }
        for (i, key) in consumer.signing_keys.iter().enumerate() {
            self.once("signing key", &key.id, &steps!["signing_keys", i], "a signing key has this id already");
            if let Err(why) = SigningKey::parse(key) {
                self.error(&steps!["signing_keys", i], why);
            }
        }
        for (i, login) in consumer.logins.iter().enumerate() {
            let username = login.username.as_deref().unwrap_or(name);
            self.once("login", username, &steps!["logins", i], "this username belongs to a consumer already");
            if username.is_empty() || username.contains(':') || username.contains(char::is_control) {
                self.error(&steps!["logins", i, "username"], "a username is not empty, and has no `:` in it");
            }
            if let Err(why) = password::check(login.password.expose()) {
                self.error(&steps!["logins", i, "password"], why);
            }
        }
    }

    fn api_key(&mut self, way: &[Step], key: &Secret) {
        if key.expose().len() < 8 {
            let place = self.place(way);
            self.found.push(Diagnostic::warning(place, "an API key of less than 8 characters can be guessed"));
        }
        if key.expose().len() == 64 && key.expose().bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let place = self.place(way);
            self.found.push(Diagnostic::warning(place, "is this the digest of a key? Then it begins with `sha256:`"));
        }
        match key_digest(key) {
            Ok(digest) => self.note(digest, way, "this API key is there already"),
            Err(why) => self.error(way, why),
        }
    }

    fn place(&self, way: &[Step]) -> Place {
        if way.is_empty() { self.entry.key_place } else { self.entry.node.locate(way) }
    }

    fn error(&mut self, way: &[Step], message: &str) {
        self.found.push(Diagnostic::error(self.place(way), message));
    }

    fn once(&mut self, kind: &str, what: &str, way: &[Step], message: &str) {
        self.note(digest(format!("{kind}\0{what}").as_bytes()), way, message);
    }

    fn note(&mut self, digest: [u8; 32], way: &[Step], message: &str) {
        let place = self.place(way);
        let Some((file, first)) = self.seen.0.insert(digest, (self.file.clone(), place)) else { return };
        let mut twin = Diagnostic::error(place, message);
        if file == *self.file {
            twin = twin.related(first, "here");
        } else {
            let file = file.as_deref().unwrap_or("the configuration file");
            twin = twin.help(format!("the first one is in {file}, line {}", first.line));
        }
        self.found.push(twin);
    }
}
