//! Certificates by ACME, from a real authority: Pebble, which Let's Encrypt tests clients with.

mod alpn;
mod failures;
mod front;
mod handover;
mod world;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::json;

use self::world::{KEY, World, in_time};
use crate::support::torana;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_certificate_is_ordered_and_shown_without_a_reload() {
    let mut world = World::new("");
    // There is no authority yet: the handshake works, and nobody trusts what is shown.
    for name in ["a.test", "other.test"] {
        assert!(world.handshake(name, &[]).contains("Torana: no certificate yet"), "{name}");
    }
    assert_eq!(world.certificate()["state"], "pending");
    assert_eq!(world.certificate()["names"], json!(["a.test", "b.test"]));
    let generation = world.gateway.control_status()["generation"].clone();
    world.pebble(&json!({}));
    let state = world.wait_for("valid");
    assert_eq!((&state["source"], &state["error"]), (&json!("acme"), &json!(null)));
    assert!(state["issuer"].as_str().unwrap().contains("Pebble"), "{state}");
    for name in ["a.test", "b.test"] {
        assert_eq!(world.curl(name), "hello", "{name}");
    }
    assert_eq!(world.gateway.control_status()["generation"], generation);
    assert_eq!((world.front.orders(), world.front.count("POST /sign-me-up")), (1, 1));
    let shown = world.gateway.torana(&["status"]).1;
    assert!(shown.contains("a.test, b.test: valid, for "), "{shown}");
}

#[test]
fn a_listed_certificate_is_shown_until_there_is_a_better_one() {
    let mut world = World::new("");
    let (certificate, key) = world.pair("a.test");
    fs::write(world.gateway.folder().join("own.crt"), certificate).unwrap();
    fs::write(world.gateway.folder().join("own.key"), key).unwrap();
    let own = world.same().replace("tls: { acme", "tls: { certificates: [{ cert: own.crt, key: own.key }], acme");
    world.gateway.reload(&own);
    let issuer = |name: &str| {
        let said = world.handshake(name, &[]);
        said.lines().find_map(|line| line.strip_prefix("issuer=")).unwrap_or_default().to_owned()
    };
    assert!(issuer("a.test").contains("tests") && issuer("other.test").contains("tests"), "{}", issuer("a.test"));
    assert!(issuer("b.test").contains("no certificate yet"), "{}", issuer("b.test"));
    world.pebble(&json!({}));
    in_time("both are issued", || world.curl("a.test") == "hello" && world.curl("b.test") == "hello");
    let issuer =
        |name: &str| world.handshake(name, &[]).lines().any(|line| line.contains("issuer=") && line.contains("tests"));
    assert!(issuer("other.test") && !issuer("a.test"), "the one that is listed is for all other names");
}

#[test]
fn metrics_say_until_when_a_certificate_is_valid() {
    let world = World::start("", &json!({}));
    let state = world.wait_for("valid");
    let labels = "{name=\"a.test\",source=\"acme\"}";
    assert_eq!(
        world.gateway.metric(&format!("torana_certificate_expiry_seconds{labels}")),
        state["not_after"].as_f64().unwrap()
    );
    assert_eq!(world.gateway.metric(&format!("torana_certificate_failed{labels}")), 0.0);
    assert_eq!(world.gateway.metric("torana_acme_orders_total{outcome=\"success\"}"), 1.0);
}

#[test]
fn what_is_kept_is_for_the_user_of_the_process_alone() {
    let world = World::start("", &json!({}));
    world.wait_for("valid");
    let kept = [world.kept("pem"), world.kept("json")].concat();
    assert_eq!(kept.len(), 2, "{kept:?}");
    for path in &kept {
        assert_eq!((mode(path), mode(path.parent().unwrap())), (0o600, 0o700), "{}", path.display());
    }
    let account = fs::read_to_string(kept.iter().find(|path| path.ends_with("account.json")).unwrap()).unwrap();
    assert!(account.contains("mailto:ops@a.test"));
    assert!(!world.gateway.log().contains("PRIVATE KEY"));
}

#[test]
fn a_start_shows_what_is_kept_and_orders_nothing() {
    let mut world = World::start("", &json!({}));
    world.wait_for("valid");
    world.gateway.restart();
    assert_eq!(world.certificate()["state"], "valid");
    assert_eq!(world.curl("a.test"), "hello");
    world.gateway.reload(&world.same());
    world.gateway.upgrade();
    assert_eq!(world.curl("b.test"), "hello");
    assert_eq!((world.front.orders(), world.certificate()["state"].as_str()), (1, Some("valid")));
}

#[test]
fn a_certificate_is_renewed_before_its_end_and_connections_stay() {
    let world = World::start("renew_before: 1d", &json!({ "certificateValidityPeriod": 24 }));
    let first = world.wait_for("valid");
    let mut open = world.connection("a.test");
    assert_eq!(open.get("/"), "hello");
    in_time("it is renewed", || {
        assert_eq!(open.get("/"), "hello");
        let state = world.certificate();
        state["not_after"].as_u64() > first["not_after"].as_u64()
    });
    assert_eq!(world.curl("a.test"), "hello");
    assert_eq!(open.get("/"), "hello");
    assert!(world.front.orders() >= 2);
    assert_eq!(world.front.count("POST /sign-me-up"), 1, "the account is the same");
}

#[test]
fn an_authority_that_lost_the_account_gets_a_new_one() {
    let mut world = World::start("renew_before: 1d", &json!({ "certificateValidityPeriod": 24 }));
    world.wait_for("valid");
    world.pebble(&json!({}));
    in_time("the other authority issues one", || world.curl("a.test") == "hello");
    assert!(world.front.count("POST /sign-me-up") >= 2);
}

#[test]
fn the_account_follows_the_file_and_is_made_anew_if_it_is_broken() {
    let world = World::start("", &json!({}));
    world.wait_for("valid");
    let order = |contact: &str, domain: &str| {
        let yaml = world.same().replace("[ops@a.test]", contact);
        world.gateway.reload(&yaml.replace("[a.test, b.test]", &format!("[a.test, {domain}]")));
        in_time("it is issued", || {
            let state = world.certificate();
            (&state["names"], &state["state"]) == (&json!(["a.test", domain]), &json!("valid"))
        });
    };
    let account = world.kept("json").pop().unwrap();
    let contact = || {
        let kept: serde_json::Value = serde_json::from_slice(&fs::read(&account).unwrap()).unwrap();
        kept["contact"].clone()
    };
    order("[new@a.test, other@a.test]", "c.test");
    assert_eq!(contact(), json!(["mailto:new@a.test", "mailto:other@a.test"]));
    assert_eq!((world.front.count("POST /sign-me-up"), world.front.count("POST /my-account/")), (1, 1));
    fs::write(&account, "nonsense").unwrap();
    order("[new@a.test]", "d.test");
    assert_eq!((world.front.count("POST /sign-me-up"), contact()), (2, json!(["mailto:new@a.test"])));
    assert_eq!(fs::read(account.with_extension("json.broken")).unwrap(), b"nonsense");
}

#[test]
fn an_external_account_is_named() {
    let mut eab = json!({ "rejectsNonces": 20, "externalAccountBindingRequired": true, "externalAccountMACKeys": { "kid-1": KEY } });
    let world = World::start(&format!("retry: 1s\nexternal_account: {{ key_id: kid-1, mac_key: {KEY} }}"), &eab);
    world.wait_for("valid");
    assert_eq!(world.curl("a.test"), "hello");
    // With nonces that are refused again and again, that would be what fails.
    eab["rejectsNonces"] = json!(0);
    let wrong = World::start("external_account: { key_id: kid-1, mac_key: YWJj }", &eab);
    let state = wrong.wait_for("failed");
    assert!(!wrong.gateway.log().contains("YWJj"), "{state}");
    let without = World::start("", &eab);
    let state = without.wait_for("failed");
    assert!(state["error"].as_str().unwrap().contains("externalAccount"), "{state}");
}

#[test]
fn the_example_works() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/examples/acme.yaml")).unwrap();
    let world = World::example(&text);
    let states = || world.gateway.control_status()["certificates"].clone();
    in_time("both certificates are there", || states()[0]["state"] == "valid" && states()[1]["state"] == "valid");
    assert_eq!(states()[1]["names"], json!(["shop.example.com"]));
    for name in ["api.example.com", "www.example.com", "shop.example.com"] {
        assert_eq!(world.curl(name), "hello", "{name}");
    }
    assert_eq!(world.front.orders(), 2);
}

#[test]
fn a_process_that_could_keep_nothing_does_not_start() {
    let world = World::new("");
    let refused = |section: &str, state: Option<&str>| {
        let file = world.gateway.folder().join("other.yaml");
        fs::write(&file, world.yaml(section)).unwrap();
        let mut command = torana();
        command.args(["run", "-c"]).arg(file).env_remove("STATE_DIRECTORY");
        let output = command.envs(state.map(|state| ("STATE_DIRECTORY", state))).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refused("", None);
    assert!(said.contains("where are certificates kept?") && said.contains("other.yaml:4:1"), "{said}");
    for (section, state) in [("storage: /proc/nowhere/acme", None), ("", Some("/proc/nowhere:/tmp"))] {
        let said = refused(section, state);
        assert!(said.contains("certificates cannot be kept in `/proc/nowhere/acme`"), "{said}");
    }
}

#[test]
fn a_token_that_nobody_waits_for_is_routed() {
    let world = World::new("");
    let path = "/.well-known/acme-challenge/abc";
    assert_eq!(world.gateway.get(path).text(), "hello");
    assert_eq!(world.upstream.only().target, path);
    assert_eq!(world.gateway.send("POST", path, &[("Content-Length", "0")]).text(), "hello");
}

#[test]
fn a_certificate_is_renewed_when_the_authority_says_so() {
    let mut world = World::new("renew_before: 1s");
    let address = world.front.address();
    let json = |body: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nRetry-After: 21600\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    // This version of Pebble does not say anything about renewals.
    world.front.answers(move |line| {
        if line.ends_with("/dir") {
            let paths = [
                ("newNonce", "nonce-plz"),
                ("newAccount", "sign-me-up"),
                ("newOrder", "order-plz"),
                ("renewalInfo", "renewals"),
            ];
            let urls = paths.map(|(key, path)| format!("\"{key}\": \"https://{address}/{path}\""));
            return Some(json(&format!("{{{}}}", urls.join(", "))));
        }
        let window = r#"{"suggestedWindow": {"start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z"}}"#;
        line.starts_with("GET /renewals/").then(|| json(window))
    });
    world.pebble(&json!({ "certificateValidityPeriod": 90 }));
    let first = world.wait_for("valid")["not_after"].as_u64().unwrap();
    let mut second = first;
    in_time("it is renewed", || {
        second = world.certificate()["not_after"].as_u64().unwrap();
        second > first
    });
    assert!(second - first < 80, "it was renewed {} s after the first one, which lived for 90", second - first);
    in_time("it is asked about the second one as well", || world.front.count("GET /renewals/") >= 2);
    // Pebble does not say what an order replaces, so that it is ordered once more without saying so.
    assert_eq!(world.front.orders(), 3);
}
