//! `jwt` with keys that are fetched: they change while the gateway runs, and an issuer that is down takes nobody along.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use jsonwebtoken::Algorithm::{ES256, EdDSA, HS256, PS256, RS256};
use serde_json::{Value, json};

use super::tokens::{SECRET, Signer, claims_with};
use crate::{
    policies::{KEPT, config, no_way_around, start},
    support::{Authority, Gateway, Reply, Response, Upstream, eventually},
};

/// An issuer whose key set can be changed. It answers `/jwks`, and where they are at `/.well-known/...`.
struct Issuer {
    server: Upstream,
    keys: Arc<Mutex<Option<Value>>>,
}

impl Issuer {
    fn with(keys: &[Value]) -> Self {
        let keys = Arc::new(Mutex::new(Some(json!({ "keys": keys }))));
        let shared = Arc::clone(&keys);
        let server = Upstream::start(move |request| {
            let host = request.header("host").unwrap();
            let keys = shared.lock().unwrap().clone();
            match (request.target.as_str(), keys) {
                (_, None) => Reply::new(500, "down"),
                ("/jwks", Some(keys)) => Reply::ok(keys.to_string()),
                ("/.well-known/openid-configuration", _) => {
                    let document =
                        json!({ "issuer": format!("http://{host}"), "jwks_uri": format!("http://{host}/jwks") });
                    Reply::ok(document.to_string())
                }
                ("/moved", _) => Reply::new(302, "").header("Location", "/jwks"),
                _ => Reply::new(404, ""),
            }
        });
        Self { server, keys }
    }

    /// Answers with these keys from now on; with an error if there are none.
    fn set(&self, keys: Option<&[Value]>) {
        *self.keys.lock().unwrap() = keys.map(|keys| json!({ "keys": keys }));
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.address())
    }

    fn fetches(&self) -> usize {
        self.server.seen().iter().filter(|request| request.target == "/jwks").count()
    }

    fn policy(&self, more: &str) -> String {
        format!("{{ jwt: {{ audience: orders, jwks_url: \"{}\"{more} }} }}", self.url("/jwks"))
    }
}

fn send(gateway: &Gateway, token: &str) -> Response {
    gateway.send("GET", "/", &[("Authorization", &format!("Bearer {token}"))])
}

#[test]
fn keys_are_there_before_the_first_request_and_no_request_fetches_them() {
    let signers = [RS256, PS256, ES256, EdDSA].map(Signer::new);
    let ids = ["a", "b", "c", "d"];
    let set: Vec<_> = signers.iter().zip(ids).map(|(signer, id)| signer.jwk(id)).collect();
    let issuer = Issuer::with(&set);
    let (gateway, up) = start(&issuer.policy(""));
    for _ in 0..5 {
        for (signer, id) in signers.iter().zip(ids) {
            assert_eq!(send(&gateway, &signer.good(id)).status, 200, "{id}");
            assert_eq!(send(&gateway, &Signer::new(EdDSA).good(id)).status, 401, "{id}");
        }
    }
    assert_eq!(issuer.fetches(), 1);
    assert_eq!(up.last().header("x-consumer-id"), Some("web"));
}

#[test]
fn d08_a_new_key_works_at_once_and_an_old_one_no_longer() {
    let (old, new) = (Signer::new(ES256), Signer::new(ES256));
    let issuer = Issuer::with(&[old.jwk("old")]);
    let (gateway, up) = start(&(issuer.policy(", refetch: 100ms") + KEPT));
    let token = old.good("old");
    assert_eq!(send(&gateway, &token).status, 200);
    issuer.set(Some(&[new.jwk("new")]));
    assert_eq!(send(&gateway, &token).status, 200, "nobody has asked yet");
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(send(&gateway, &new.good("new")).status, 200, "the first request with it waits");
    assert_eq!(issuer.fetches(), 2);
    assert_eq!(send(&gateway, &token).status, 401, "a token that was remembered too");
    no_way_around(&gateway, &up, &[("Authorization", &format!("Bearer {token}"))], 401);
}

#[test]
fn d06_made_up_keys_do_not_become_fetches() {
    let signer = Signer::new(EdDSA);
    let issuer = Issuer::with(&[signer.jwk("a")]);
    let (gateway, up) = start(&(issuer.policy(", refetch: 1h") + KEPT));
    assert_eq!(send(&gateway, &signer.good("a")).status, 200);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (gateway, signer) = (&gateway, &signer);
            scope.spawn(move || {
                for i in 0..25 {
                    assert_eq!(send(gateway, &signer.good(&format!("made-up-{thread}-{i}"))).status, 401);
                }
            });
        }
    });
    no_way_around(&gateway, &up, &[("Authorization", &format!("Bearer {}", signer.good("made-up")))], 401);
    assert_eq!(issuer.fetches(), 1, "the one at the start");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(up.seen().len(), 1);
}

#[test]
fn many_requests_with_a_new_key_lead_to_one_fetch() {
    let (old, new) = (Signer::new(EdDSA), Signer::new(EdDSA));
    let issuer = Issuer::with(&[old.jwk("old")]);
    let (gateway, _up) = start(&issuer.policy(", refetch: 1s"));
    issuer.set(Some(&[old.jwk("old"), new.jwk("new")]));
    std::thread::sleep(Duration::from_millis(1100));
    let good = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                if send(&gateway, &new.good("new")).status == 200 {
                    good.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!((good.load(Ordering::Relaxed), issuer.fetches()), (20, 2));
}

#[test]
fn d07_an_issuer_that_is_down_takes_nobody_along() {
    let signer = Signer::new(ES256);
    let issuer = Issuer::with(&[signer.jwk("a")]);
    let up = Upstream::named("up");
    let file = config(&up, &(issuer.policy(", refetch: 100ms, refresh: 200ms") + KEPT));
    let gateway = Gateway::start(&file);
    issuer.set(None);
    eventually("a fetch has failed", || gateway.log().contains("the answer has status 500"));
    assert_eq!(send(&gateway, &signer.good("a")).status, 200);
    assert_eq!(send(&gateway, &Signer::new(ES256).good("other")).status, 401);
    // Neither does another configuration.
    gateway.reload(&file.replace("name: r,", "name: other,"));
    assert_eq!(gateway.status()["routes"][0]["name"], "other");
    assert_eq!(send(&gateway, &signer.good("a")).status, 200);
    issuer.keys.lock().unwrap().replace(json!({ "keys": [] }));
    let seen = issuer.fetches();
    eventually("an empty set was fetched", || issuer.fetches() > seen + 1);
    assert_eq!(send(&gateway, &signer.good("a")).status, 200, "an empty set is no set");
    let other = format!("Bearer {}", Signer::new(ES256).good("other"));
    no_way_around(&gateway, &up, &[("Authorization", &other)], 401);
    let address = issuer.server.address();
    drop(issuer);
    assert_eq!(send(&gateway, &signer.good("a")).status, 200, "nobody listens at {address}");
}

#[test]
fn without_any_keys_the_answer_is_503_until_there_are_some() {
    let signer = Signer::new(ES256);
    let issuer = Issuer::with(&[]);
    issuer.set(None);
    let (gateway, up) = start(&issuer.policy(""));
    let answer = send(&gateway, &signer.good("a"));
    assert_eq!((answer.status, answer.problem().as_str()), (503, "keys_unavailable"));
    assert!(answer.header("retry-after").is_some());
    no_way_around(&gateway, &up, &[("Authorization", &format!("Bearer {}", signer.good("a")))], 503);
    assert_eq!(gateway.get("/").status, 401, "without a token there is nothing to wait for");
    assert_eq!(send(&gateway, "rubbish").status, 401);
    assert!(up.seen().is_empty());
    issuer.set(Some(&[signer.jwk("a")]));
    eventually("the keys are there", || send(&gateway, &signer.good("a")).status == 200);
}

#[test]
fn keys_are_found_by_the_issuer_alone() {
    let signer = Signer::new(RS256);
    let issuer = Issuer::with(&[signer.jwk("a")]);
    let name = issuer.url("");
    let (gateway, up) = start(&format!("{{ jwt: {{ issuer: \"{name}\", audience: orders }} }}"));
    let token = |issuer: &str| signer.token("a", &claims_with(&json!({ "iss": issuer })));
    assert_eq!(send(&gateway, &token(&name)).status, 200);
    assert_eq!(up.last().header("x-consumer-issuer"), Some(name.as_str()));
    assert_eq!(send(&gateway, &token("https://idp")).status, 401);
    assert_eq!(issuer.fetches(), 1);
}

#[test]
fn a_discovery_document_of_another_issuer_is_not_believed() {
    let signer = Signer::new(ES256);
    let issuer = Issuer::with(&[signer.jwk("a")]);
    // The same server under another name: its document says who it is.
    let name = issuer.url("").replace("127.0.0.1", "localhost");
    let liar = Upstream::start({
        let keys = issuer.url("/jwks");
        move |_| Reply::ok(json!({ "issuer": "https://idp.example.com", "jwks_uri": keys }).to_string())
    });
    for name in [format!("http://{}", liar.address()), name + "/"] {
        let (gateway, _up) = start(&format!("{{ jwt: {{ issuer: \"{name}\", audience: orders }} }}"));
        let answer = send(&gateway, &signer.token("a", &claims_with(&json!({ "iss": name }))));
        assert_eq!((answer.status, answer.problem().as_str()), (503, "keys_unavailable"), "{name}");
    }
    assert_eq!(issuer.fetches(), 0);
}

#[test]
fn what_a_set_should_not_have_is_left_out() {
    let (good, other) = (Signer::new(ES256), Signer::new(RS256));
    let shared = Signer::new(HS256);
    let mut for_encryption = other.jwk("enc");
    for_encryption["use"] = json!("enc");
    let mut weak = Signer::new(RS256).jwk("weak");
    weak["n"] = json!("w".repeat(128));
    let secret = json!({ "kty": "oct", "alg": "HS256", "kid": "oct", "k": super::tokens::base64(SECRET.as_bytes()) });
    let strange = json!({ "kty": "new-kind", "kid": "strange" });
    let issuer = Issuer::with(&[secret, for_encryption, weak, strange, json!(7), good.jwk("a")]);
    let (gateway, _up) = start(&issuer.policy(""));
    assert_eq!(send(&gateway, &good.good("a")).status, 200);
    assert_eq!(send(&gateway, &shared.good("oct")).status, 401);
    assert_eq!(send(&gateway, &other.good("enc")).status, 401);
}

#[test]
fn a_redirect_is_not_followed() {
    let signer = Signer::new(ES256);
    let issuer = Issuer::with(&[signer.jwk("a")]);
    let (gateway, _up) = start(&issuer.policy("").replace("/jwks", "/moved"));
    assert_eq!(send(&gateway, &signer.good("a")).problem(), "keys_unavailable");
    assert_eq!(issuer.fetches(), 0);
    assert!(gateway.log().contains("the answer has status 302"), "{}", gateway.log());
}

#[test]
fn a_set_in_a_file_is_read_again_on_a_reload() {
    let (old, new) = (Signer::new(ES256), Signer::new(HS256));
    let up = Upstream::named("up");
    let file = config(&up, "{ jwt: { audience: orders, jwks_file: keys.json } }");
    let secret = json!({ "kty": "oct", "alg": "HS256", "kid": "b", "k": super::tokens::base64(SECRET.as_bytes()) });
    let gateway = Gateway::start_with(&file, |folder, _| {
        std::fs::write(folder.join("keys.json"), json!({ "keys": [old.jwk("a")] }).to_string()).unwrap();
    });
    let status = || (send(&gateway, &old.good("a")).status, send(&gateway, &new.good("b")).status);
    assert_eq!(status(), (200, 401));
    let remembered = old.good("a");
    assert_eq!(send(&gateway, &remembered).status, 200);
    std::fs::write(gateway.folder().join("keys.json"), json!({ "keys": [secret] }).to_string()).unwrap();
    gateway.reload(&file);
    assert_eq!(status(), (401, 200));
    assert_eq!(send(&gateway, &remembered).status, 401);
}

#[test]
fn keys_are_fetched_over_tls_only_from_those_whom_the_file_trusts() {
    let signer = Signer::new(ES256);
    let (known, unknown) = (Authority::new("known"), Authority::new("unknown"));
    let set = json!({ "keys": [signer.jwk("a")] }).to_string();
    for (server, ca, status) in [
        (known.server("localhost"), ", ca: known.pem", 200),
        (known.server("other.example"), ", ca: known.pem", 503),
        (known.expired_server("localhost"), ", ca: known.pem", 503),
        (unknown.server("localhost"), ", ca: known.pem", 503),
        (known.server("localhost"), "", 503),
    ] {
        let set = set.clone();
        let issuer = Upstream::tls(server, move |_| Reply::ok(set.clone()));
        let url = format!("https://localhost:{}/jwks", issuer.address().port());
        let up = Upstream::named("up");
        let file = config(&up, &format!("{{ jwt: {{ audience: orders, jwks_url: \"{url}\"{ca} }} }}"));
        let gateway = Gateway::start_with(&file, |folder, _| {
            std::fs::write(folder.join("known.pem"), known.pem()).unwrap();
        });
        assert_eq!(send(&gateway, &signer.good("a")).status, status, "{ca} {}", gateway.log());
        assert_eq!(issuer.seen().len(), usize::from(status == 200), "not a byte of the request was sent");
    }
}
