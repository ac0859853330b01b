//! `request_id`: one id for the client, the upstream, the log and the refusal.

use crate::{
    policies::{config, start},
    support::{Gateway, Reply, Upstream},
};

fn is_made(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[test]
fn every_request_gets_an_id_of_its_own() {
    let (gateway, up) = start("{ request_id: {} }");
    let mut client = gateway.client();
    let ids: Vec<String> = (0..20).map(|_| client.get("/").header("x-request-id").unwrap().to_owned()).collect();
    assert!(ids.iter().all(|id| is_made(id)), "{ids:?}");
    assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), 20);
    let seen: Vec<String> = up.seen().iter().map(|seen| seen.header("x-request-id").unwrap().to_owned()).collect();
    assert_eq!(seen, ids);
}

#[test]
fn an_id_that_the_client_sends_is_replaced() {
    let (gateway, up) = start("{ request_id: {} }");
    let answer = gateway.send("GET", "/", &[("X-Request-Id", "mine"), ("x-request-id", "again")]);
    let id = answer.header("x-request-id").unwrap();
    assert!(is_made(id), "{id}");
    assert_eq!(up.only().header("x-request-id"), Some(id));
}

#[test]
fn an_id_is_trusted_only_where_the_file_says_so_and_only_if_it_is_one() {
    let (gateway, up) = start("{ request_id: { header: x-correlation-id, trust: true } }");
    let long = "a".repeat(128);
    for id in ["mine-1/2", &long] {
        let answer = gateway.send("GET", "/", &[("X-Correlation-Id", id)]);
        assert_eq!(answer.header("x-correlation-id"), Some(id));
        assert_eq!(up.last().header("x-correlation-id"), Some(id));
    }
    let too_long = "a".repeat(129);
    for headers in [
        &[("X-Correlation-Id", "two words")][..],
        &[("X-Correlation-Id", "")],
        &[("X-Correlation-Id", "\u{e9}")],
        &[("X-Correlation-Id", too_long.as_str())],
        &[("X-Correlation-Id", "a"), ("X-Correlation-Id", "b")],
        &[("X-Request-Id", "mine")],
    ] {
        let answer = gateway.send("GET", "/", headers);
        let id = answer.header("x-correlation-id").unwrap();
        assert!(is_made(id), "{headers:?} {id}");
        assert_eq!(up.last().header("x-correlation-id"), Some(id));
    }
}

#[test]
fn a_refusal_has_the_id_in_its_header_its_body_and_the_log() {
    let up = Upstream::named("up");
    let policies = "{ api_key: {} }, { request_id: { trust: true } }";
    let gateway = Gateway::start(&("telemetry: { access_log: {} }\n".to_owned() + &config(&up, policies)));
    let answer = gateway.send("GET", "/", &[("X-Request-Id", "mine")]);
    assert_eq!((answer.status, answer.header("x-request-id")), (401, Some("mine")));
    assert_eq!(answer.json()["request_id"], "mine");
    assert_eq!(gateway.access_lines(1)[0]["request_id"], "mine");
    let answer = gateway.get("/");
    let id = answer.header("x-request-id").unwrap();
    assert!(is_made(id));
    assert_eq!(answer.json()["request_id"], id);
    assert_eq!(gateway.access_lines(2)[1]["request_id"], id);
}

#[test]
fn the_client_gets_the_id_once_or_not_at_all() {
    let up = Upstream::start(|_| Reply::ok("up").header("X-Request-Id", "of-the-upstream"));
    let gateway = Gateway::start(&config(&up, "{ request_id: {} }"));
    assert!(is_made(gateway.get("/").header("x-request-id").unwrap()));
    let (gateway, up) = start("{ request_id: { respond: false } }");
    assert_eq!(gateway.get("/").header("x-request-id"), None);
    assert!(is_made(up.only().header("x-request-id").unwrap()));
}

#[test]
fn the_id_is_there_for_every_method_and_behind_interim_answers() {
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
    let up = Upstream::start(move |request| match request.target.as_str() {
        "/early" => Reply::raw(format!("{early}{early}HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")),
        _ => Reply::ok("up"),
    });
    let gateway = Gateway::start(&config(&up, "{ request_id: {} }"));
    for method in ["HEAD", "OPTIONS", "PUT"] {
        let answer = gateway.send(method, "/", &[]);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-request-id"), up.last().header("x-request-id"), "{method}");
    }
    let answer = gateway.get("/early");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-request-id"), up.last().header("x-request-id"));
}
