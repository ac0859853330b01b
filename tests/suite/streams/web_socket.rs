//! WebSockets over HTTP/1.1, by the library `websockets` on both sides.

use serde_json::{Value, json};

use super::Certificates;
use crate::support::{
    Gateway,
    script::{self, Script},
    web_socket::UPGRADE,
};

struct Stage {
    gateway: Gateway,
    server: Script,
    certificates: Certificates,
}

impl Stage {
    fn start(secure_upstream: bool, routes: &str) -> Self {
        let certificates = Certificates::new();
        let (server, tls) = if secure_upstream {
            (certificates.server("ws_server.py"), format!(", {}", certificates.tls()))
        } else {
            (Script::start("ws_server.py", &[]), String::new())
        };
        let gateway = certificates
            .gateway(&format!("upstreams: {{ up: {{ endpoints: [\"{}\"]{tls} }} }}\n{routes}", server.address()));
        Self { gateway, server, certificates }
    }

    #[track_caller]
    fn play(&self, path: &str, scene: &str, given: &[&str]) -> Value {
        let url = format!("ws://{}{path}", self.gateway.address());
        script::json("ws_client.py", &[&[url.as_str(), "-", scene][..], given].concat())
    }

    #[track_caller]
    fn play_over_tls(&self, path: &str, scene: &str, given: &[&str]) -> Value {
        let url = format!("wss://{}{path}", self.gateway.listener(1));
        let authority = self.certificates.path("ca.pem").display().to_string();
        script::json("ws_client.py", &[&[url.as_str(), authority.as_str(), scene][..], given].concat())
    }
}

const OPEN: &str = "routes: [{ name: r, upstream: up }]\n";

#[test]
fn everything_that_is_said_passes_with_and_without_tls_and_compression() {
    for secure_upstream in [false, true] {
        let stage = Stage::start(secure_upstream, OPEN);
        for (secure, compressed) in [(false, true), (true, true), (false, false)] {
            let given: &[&str] = if compressed { &[] } else { &["plain=1"] };
            let mut seen =
                if secure { stage.play_over_tls("/talk", "talk", given) } else { stage.play("/talk", "talk", given) };
            seen.as_object_mut().unwrap().remove("took");
            let extensions = if compressed { json!(["permessage-deflate"]) } else { json!([]) };
            let wanted = json!({
                "text": true, "long": true, "binary": true, "empty": true,
                "fragments": "in three pieces",
                "ping": "there you are",
                "subprotocol": "first",
                "extensions": extensions,
                "close": [4001, "as you wish"],
            });
            assert_eq!(seen, wanted, "TLS to the upstream: {secure_upstream}, from the client: {secure}");
        }
        stage.server.wait_for("open /talk first permessage-deflate -");
        stage.server.wait_for("open /talk first - -");
        assert_eq!(stage.play("/leave", "leave", &[])["code"], 4002);
        stage.server.wait_for("closed 4002 enough");
    }
}

#[test]
fn policies_run_before_the_switch() {
    let stage = Stage::start(
        false,
        r"
routes:
  - { name: key, match: { path: /key }, policies: [{ api_key: { header: x-api-key } }], upstream: up }
  - { name: token, match: { path: /token }, policies: [{ jwt: { issuer: a, audience: [b], keys: [{ id: k, algorithm: HS256, secret: a-secret-of-more-than-32-characters }] } }], upstream: up }
  - { name: often, match: { path: /often }, policies: [{ rate_limit: { key: client_ip, limits: [2/h] } }], upstream: up }
  - { name: address, match: { path: /address }, policies: [{ ip_restriction: { deny: [127.0.0.0/8] } }], upstream: up }
",
    );
    for (path, status, reject) in [
        ("/key", 401, "unauthenticated"),
        ("/token", 401, "unauthenticated"),
        ("/address", 403, "address_not_allowed"),
        ("/nothing", 404, "route_not_found"),
    ] {
        for seen in [stage.play(path, "leave", &[]), stage.play_over_tls(path, "leave", &[])] {
            assert_eq!(seen["status"], status, "{path} {seen}");
            assert!(seen["body"].as_str().unwrap().contains(&format!("urn:torana:problem:{reject}")), "{path} {seen}");
        }
    }
    assert!(!stage.server.said().iter().any(|line| line.starts_with("open")), "{:?}", stage.server.said());
    assert_eq!(stage.play("/key", "leave", &["X-Api-Key=key-12345", "X-Consumer-Id=root"])["code"], 4002);
    stage.server.wait_for("open /key first permessage-deflate app");
    for _ in 0..2 {
        assert_eq!(stage.play("/often", "leave", &[])["code"], 4002);
    }
    let seen = stage.play_over_tls("/often", "leave", &[]);
    assert_eq!(seen["status"], 429, "{seen}");
    assert!(seen["headers"]["retry-after"].is_string() || seen["headers"]["Retry-After"].is_string(), "{seen}");
}

#[test]
fn both_sides_are_told_why_it_ends() {
    let stage = Stage::start(
        true,
        "routes: [{ name: r, web_socket: { max_frame: 100KiB, max_message: 200KiB, idle_timeout: 1s }, upstream: up }]\n",
    );
    // What is counted is what is sent: it does not get smaller by compression here.
    let seen = stage.play_over_tls("/large", "until_closed", &["plain=1", "size=150000"]);
    assert_eq!(seen["close"], json!([1009, "the message is too large"]), "{seen}");
    stage.server.wait_for("closed 1001 the client's message is too large");
    let seen = stage.play("/asked", "ask_large", &["plain=1", "size=150000"]);
    assert_eq!(seen["close"], json!([1014, "the server broke the protocol"]), "{seen}");
    stage.server.wait_for("closed 1009 the message is too large");
    assert_eq!(stage.play("/fits", "ask_large", &["plain=1", "size=100000"])["length"], 100_000);
    let seen = stage.play("/idle", "until_closed", &[]);
    assert_eq!(seen["close"], json!([1001, "nothing was said"]), "{seen}");
    stage.server.wait_for("closed 1001 nothing was said");
    for reject in ["web_socket_too_large", "web_socket_idle", "upstream_invalid"] {
        stage.gateway.wait_for_metric(&format!("torana_rejects_total{{reject=\"{reject}\",route=\"r\"}}"), 1.0);
    }
    let marks = ["\"/idle\"", "\"status\":101", "\"reject\":\"web_socket_idle\""];
    crate::support::eventually("it is in the log", || {
        let log = std::fs::read_to_string(stage.gateway.folder().join("access.log")).unwrap_or_default();
        log.lines().any(|line| marks.iter().all(|mark| line.contains(mark)))
    });
}

#[test]
fn a_side_that_dies_takes_the_other_one_with_it() {
    let mut stage = Stage::start(false, OPEN);
    let url = format!("ws://{}/dying", stage.gateway.address());
    let opened =
        |server: &Script, path: &str| server.said().iter().any(|line| line.starts_with(&format!("open {path} ")));
    let mut client = Script::start("ws_client.py", &[&url, "-", "until_closed"]);
    crate::support::eventually("it is open", || opened(&stage.server, "/dying"));
    client.kill();
    stage.server.wait_for("closed 1006 -");
    let url = format!("ws://{}/bereft", stage.gateway.address());
    let client = Script::start("ws_client.py", &[&url, "-", "until_closed"]);
    crate::support::eventually("it is open", || opened(&stage.server, "/bereft"));
    stage.server.kill();
    crate::support::eventually("the client knows", || !client.said().is_empty());
    let seen: Value = serde_json::from_str(&client.said()[0]).unwrap();
    assert_eq!(seen["close"], Value::Null, "{seen}");
}

#[test]
fn curl_gets_the_same_refusals_for_an_upgrade() {
    let stage =
        Stage::start(false, "routes: [{ name: r, policies: [{ api_key: { header: x-api-key } }], upstream: up }]\n");
    assert_eq!(stage.gateway.send("GET", "/", &UPGRADE).problem(), "unauthenticated");
    let keyed = [&UPGRADE[..], &[("X-Api-Key", "key-12345")]].concat();
    assert_eq!(stage.gateway.send("GET", "/", &keyed).status, 101);
}
