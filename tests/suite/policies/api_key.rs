//! `api_key`: nobody gets in without a key, and nobody but the gateway says who is calling.

use crate::{
    policies::{config, no_way_around, raw_answer, start},
    support::{Gateway, Upstream, request},
};

#[test]
fn without_the_right_key_the_answer_is_401_with_a_challenge() {
    let (gateway, up) = start("{ api_key: {} }");
    for headers in [
        &[][..],
        &[("X-Api-Key", "")],
        &[("X-Api-Key", "wrong")],
        &[("X-Api-Key", "KEY-1")],
        &[("X-Api-Key", "key-1x")],
        &[("X-Api-Key", "key-")],
        &[("X-Api-Key", "***")],
        &[("X-Api-Key", "key-1, key-1")],
        &[("X_Api_Key", "key-1")],
        &[("Authorization", "key-1")],
        &[("Cookie", "x-api-key=key-1")],
    ] {
        let answer = gateway.send("GET", "/?x-api-key=key-1", headers);
        assert_eq!((answer.status, answer.problem().as_str()), (401, "unauthenticated"), "{headers:?}");
        assert_eq!(answer.header("www-authenticate"), Some("ApiKey header=\"x-api-key\""));
        assert!(!answer.text().contains("key-1"), "{}", answer.text());
    }
    assert!(up.seen().is_empty());
    assert_eq!(gateway.send("GET", "/", &[("X-API-KEY", "key-1")]).status, 200);
}

#[test]
fn the_upstream_sees_who_calls_and_not_the_key() {
    let (gateway, up) = start("{ api_key: {} }");
    assert_eq!(gateway.send("GET", "/a?b", &[("X-Api-Key", "key-2"), ("X-Other", "kept")]).status, 200);
    let seen = up.only();
    assert_eq!(seen.header("x-consumer-id"), Some("mobile"));
    assert_eq!(seen.header("x-consumer-groups"), Some("gold,beta"));
    assert_eq!(seen.header("x-other"), Some("kept"));
    assert!(!seen.head.contains("key-2") && !seen.head.to_lowercase().contains("x-api-key"), "{}", seen.head);
}

#[test]
fn a_key_is_passed_on_only_where_the_file_says_so() {
    let (gateway, up) = start("{ api_key: { header: x-key, forward: true } }");
    assert_eq!(gateway.send("GET", "/", &[("X-Key", "key-1")]).status, 200);
    assert_eq!(up.only().header("x-key"), Some("key-1"));
}

#[test]
fn a_key_in_the_query_is_taken_away_in_every_spelling_and_nothing_else_changes() {
    let (gateway, up) = start("{ api_key: { query: k } }");
    for (sent, arrives) in [
        ("/x?k=key-1", "/x"),
        ("/x?a=%31&k=key-1&b=2&a", "/x?a=%31&b=2&a"),
        ("/x?%6b=key%2D1&kk=1", "/x?kk=1"),
        ("/x?K=other&k=key-1", "/x?K=other"),
    ] {
        assert_eq!(gateway.get(sent).status, 200, "{sent}");
        assert_eq!(up.last().target, arrives);
    }
    for sent in ["/x", "/x?k", "/x?k=", "/x?K=key-1", "/x?k=wrong"] {
        let answer = gateway.send("GET", sent, &[("X-Api-Key", "key-1")]);
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("ApiKey query=\"k\"")), "{sent}");
    }
}

#[test]
fn a_key_in_a_cookie_is_taken_away_from_the_others() {
    let (gateway, up) = start("{ api_key: { cookie: session_key } }");
    assert_eq!(gateway.send("GET", "/", &[("Cookie", "a=1; session_key=key-3; b=2")]).status, 200);
    assert_eq!(up.last().header("cookie"), Some("a=1; b=2"));
    assert_eq!(up.last().header("x-consumer-id"), Some("web"));
    assert_eq!(gateway.send("GET", "/", &[("Cookie", "session_key=key-3")]).status, 200);
    assert_eq!(up.last().header("cookie"), None);
    let answer = gateway.send("GET", "/", &[("Cookie", "a=1; session=key-3")]);
    assert_eq!(answer.header("www-authenticate"), Some("ApiKey cookie=\"session_key\""));
}

#[test]
fn two_keys_in_one_request_are_refused_even_if_one_is_right() {
    for (place, requests) in [
        ("header: x-key", [("/", ["X-Key: key-1", "X-Key: wrong"]), ("/", ["X-Key: wrong", "x-key: key-1"])]),
        ("header: x-key", [("/", ["X-Key: key-1", "X-Key: key-1"]), ("/", ["X-Key: key-1", "X-Key: "])]),
        ("query: k", [("/?k=key-1&k=wrong", ["A: 1", "B: 1"]), ("/?%6B=wrong&k=key-1", ["A: 1", "B: 1"])]),
        ("cookie: k", [("/", ["Cookie: k=key-1; k=wrong", "B: 1"]), ("/", ["Cookie: k=wrong", "Cookie: k=key-1"])]),
    ] {
        let (gateway, up) = start(&format!("{{ api_key: {{ {place} }} }}"));
        for (target, headers) in requests {
            let headers: Vec<_> = headers.iter().map(|line| line.split_once(": ").unwrap()).collect();
            let answer = gateway.send("GET", target, &headers);
            assert_eq!((answer.status, answer.problem().as_str()), (401, "unauthenticated"), "{target} {headers:?}");
        }
        assert!(up.seen().is_empty());
    }
}

#[test]
fn a_client_cannot_say_who_it_is_in_any_spelling() {
    let (gateway, up) = start("{ api_key: {} }");
    let forged = [
        ("X-Consumer-Id", "root"),
        ("x_consumer_id", "root"),
        ("X-CONSUMER_GROUPS", "root"),
        ("X.Consumer.Groups", "root"),
        ("X-Consumer-Subject", "root"),
        ("X-Consumer-Anything", "root"),
        ("X-Api-Key", "key-3"),
    ];
    assert_eq!(gateway.send("GET", "/", &forged).status, 200);
    let seen = up.only();
    assert_eq!(seen.header("x-consumer-id"), Some("web"));
    assert!(!seen.head.contains("root"), "{}", seen.head);
    // Nor on a route that asks nobody.
    let (gateway, up) = start("{ request_id: {} }");
    assert_eq!(gateway.send("GET", "/", &forged).status, 200);
    assert!(!up.only().head.contains("root"), "{}", up.only().head);
}

#[test]
fn a_client_cannot_have_the_identity_taken_away() {
    let (gateway, up) = start("{ api_key: {} }");
    let nominated = "keep-alive, X-Consumer-Id, x-consumer-groups";
    for (name, value) in [("Connection", nominated), ("Connection", "X-Consumer-Id"), ("Trailer", "X-Consumer-Id")] {
        assert_eq!(gateway.send("GET", "/", &[("X-Api-Key", "key-1"), (name, value)]).status, 200, "{value}");
        assert_eq!(up.last().header("x-consumer-id"), Some("mobile"), "{value}");
    }
}

#[test]
fn no_method_and_no_spelling_of_the_path_is_a_way_around_the_key() {
    let (gateway, up) = start("{ api_key: {} }");
    no_way_around(&gateway, &up, &[], 401);
    no_way_around(&gateway, &up, &[("X-Api-Key", "wrong")], 401);
    for method in ["HEAD", "OPTIONS"] {
        assert_eq!(gateway.send(method, "/", &[("X-Api-Key", "key-1")]).status, 200);
        assert_eq!((up.last().method.as_str(), up.last().header("x-consumer-id")), (method, Some("mobile")));
    }
}

#[test]
fn a_request_without_a_key_is_refused_before_its_body_is_sent() {
    let (gateway, up) = start("{ api_key: {} }");
    for length in [("Content-Length", "1000000000"), ("Transfer-Encoding", "chunked")] {
        let mut client = gateway.client();
        client.write(request("POST", "/", &[length]).as_bytes());
        assert_eq!(client.read_answer_to("POST").problem(), "unauthenticated");
    }
    let patient = [("Content-Length", "1000"), ("Expect", "100-continue")];
    let answer = raw_answer(&gateway, &request("POST", "/", &patient));
    assert!(answer.starts_with("HTTP/1.1 401 "), "nobody was asked to go on: {answer}");
    assert!(up.seen().is_empty());
}

#[test]
fn keys_come_from_files_and_the_environment_and_can_be_changed_while_it_runs() {
    let up = Upstream::named("up");
    let with_keys = |keys: &str| config(&up, "{ api_key: {} }").replace("key-1, key-2", keys);
    let gateway = Gateway::start_with(&with_keys("\"${file:old.key}\", \"${env:NEW_KEY}\""), |folder, command| {
        std::fs::write(folder.join("old.key"), "from-a-file\n").unwrap();
        command.env("NEW_KEY", "from-the-environment");
    });
    let status = |key: &str| gateway.send("GET", "/", &[("X-Api-Key", key)]).status;
    assert_eq!((status("from-a-file"), status("from-the-environment")), (200, 200));
    assert_eq!(status("${env:NEW_KEY}"), 401);
    gateway.reload(&with_keys("\"${env:NEW_KEY}\""));
    assert_eq!((status("from-a-file"), status("from-the-environment")), (401, 200));
}

#[test]
fn no_key_is_shown_anywhere() {
    let up = Upstream::named("up");
    let log = "telemetry: { access_log: { headers: [x-key, x-api-key, x-shown] } }\n";
    let gateway = Gateway::start_with(
        &(log.to_owned() + &config(&up, "{ api_key: { header: x-key } }, { api_key: { query: k }, mode: shadow }")),
        |_, command| {
            command.env("RUST_LOG", "debug");
        },
    );
    let keys = [("X-Key", "key-1"), ("X-Api-Key", "key-1"), ("X-Shown", "shown")];
    assert_eq!(gateway.send("GET", "/?k=key-2", &keys).status, 200);
    assert_eq!(gateway.send("GET", "/?k=key-2&k=key-3", &keys).status, 200);
    assert_eq!(gateway.send("GET", "/?%6B=key-2", &[("X-Key", "key-9")]).status, 401);
    crate::support::eventually("three lines are written", || gateway.log().matches("\"x-shown\"").count() >= 2);
    crate::support::eventually("the last one too", || gateway.log().contains("\"status\":401"));
    let admin = ["/status", "/metrics"].map(|path| gateway.ask_admin(path).text());
    for text in [gateway.log(), admin.concat()] {
        for key in ["key-1", "key-2", "key-3", "key-9"] {
            assert!(!text.contains(key), "{key} in\n{text}");
        }
    }
}
