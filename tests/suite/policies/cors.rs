//! `cors`: which pages may read responses, and that nobody else decides it.

use crate::{
    policies::{config, start},
    support::{Gateway, Reply, Response, Upstream},
};

const APP: &str = "https://app.example.com";
const STRICT: &str = r#"{ cors: { origins: ["https://app.example.com", "https://*.preview.example.com"],
    methods: [GET, PUT], headers: [authorization, x-a], expose: [x-total], credentials: true, max_age: 1h } }"#;

fn preflight(gateway: &Gateway, origin: &str, method: &str, headers: Option<&str>) -> Response {
    let mut sent = vec![("Origin", origin), ("Access-Control-Request-Method", method)];
    sent.extend(headers.map(|names| ("Access-Control-Request-Headers", names)));
    gateway.send("OPTIONS", "/", &sent)
}

/// The headers of CORS in a response, sorted.
fn marks(answer: &Response) -> Vec<String> {
    let marks = answer.headers.iter().filter(|(name, _)| name.starts_with("access-control-"));
    let mut marks: Vec<_> =
        marks.map(|(name, value)| format!("{}: {value}", name.trim_start_matches("access-control-"))).collect();
    marks.sort();
    marks
}

fn varies_by_origin(answer: &Response) -> bool {
    let names = answer.headers.iter().filter(|(name, _)| name == "vary").flat_map(|(_, names)| names.split(','));
    names.map(str::trim).any(|name| name.eq_ignore_ascii_case("origin"))
}

#[test]
fn a_preflight_is_answered_without_the_upstream_and_before_authentication() {
    let (gateway, up) = start(&format!("{{ api_key: {{}} }}, {STRICT}"));
    let answer = preflight(&gateway, APP, "PUT", Some("X-A, authorization"));
    assert_eq!(answer.status, 204);
    assert_eq!(
        marks(&answer),
        [
            "allow-credentials: true",
            "allow-headers: X-A, authorization",
            "allow-methods: GET, PUT",
            "allow-origin: https://app.example.com",
            "max-age: 3600",
        ]
    );
    assert!(varies_by_origin(&answer));
    assert!(up.seen().is_empty());
}

#[test]
fn a_preflight_that_asks_too_much_gets_nothing() {
    let (gateway, up) = start(STRICT);
    for (origin, method, headers) in [
        ("https://evil.example", "GET", None),
        ("http://app.example.com", "GET", None),
        ("https://app.example.com:8443", "GET", None),
        ("https://app.example.com.evil.example", "GET", None),
        ("https://preview.example.com", "GET", None),
        ("https://evil.example/.preview.example.com", "GET", None),
        ("null", "GET", None),
        ("", "GET", None),
        (APP, "DELETE", None),
        (APP, "put", None),
        (APP, "PUT", Some("x-a, x-b")),
        (APP, "PUT", Some("*")),
    ] {
        let answer = preflight(&gateway, origin, method, headers);
        assert_eq!(answer.status, 204);
        assert!(marks(&answer).is_empty(), "{origin} {method} {headers:?}: {answer:?}");
        assert!(varies_by_origin(&answer));
    }
    assert_eq!(marks(&preflight(&gateway, "https://pr-7.preview.example.com", "GET", None)).len(), 4);
    assert!(up.seen().is_empty());
}

#[test]
fn a_response_is_marked_for_the_right_origin_and_the_upstreams_own_marks_are_not() {
    let up = Upstream::start(|_| {
        Reply::ok("up")
            .header("Access-Control-Allow-Origin", "*")
            .header("Access-Control-Allow-Credentials", "true")
            .header("Access-Control-Allow-Private-Network", "true")
            .header("Vary", "Accept")
    });
    let gateway = Gateway::start(&config(&up, STRICT));
    for method in ["GET", "HEAD", "OPTIONS", "DELETE"] {
        let answer = gateway.send(method, "/", &[("Origin", APP)]);
        let wanted = ["allow-credentials: true", "allow-origin: https://app.example.com", "expose-headers: x-total"];
        assert_eq!((answer.status, marks(&answer)), (200, wanted.map(String::from).to_vec()), "{method}");
        assert!(varies_by_origin(&answer));
        let twice = [("Origin", APP), ("Origin", APP)];
        for (headers, status) in [(&[][..], 200), (&[("Origin", "https://evil.example")], 200), (&twice, 400)] {
            let answer = gateway.send(method, "/", headers);
            assert_eq!((answer.status, marks(&answer)), (status, vec![]), "{method} {headers:?}");
            assert!(varies_by_origin(&answer));
        }
    }
    let looked_at = up.seen().iter().any(|seen| seen.header("origin") == Some(APP));
    assert!(looked_at, "the upstream may look at it, too");
}

#[test]
fn any_origin_gets_a_star_that_does_not_vary() {
    let (gateway, _up) = start("{ cors: { origins: [\"*\"] } }");
    for origin in [APP, "null", "https://evil.example"] {
        let answer = gateway.send("GET", "/", &[("Origin", origin)]);
        assert_eq!(marks(&answer), ["allow-origin: *"], "{origin}");
        assert!(!varies_by_origin(&answer));
    }
    let answer = preflight(&gateway, APP, "DELETE", Some("x-any"));
    assert!(marks(&answer).contains(&"allow-headers: x-any".to_owned()), "{answer:?}");
    assert!(marks(&answer).contains(&"allow-origin: *".to_owned()), "{answer:?}");
}

#[test]
fn a_page_can_read_refusals_and_failures() {
    let up = Upstream::start(|_| Reply::hang_up());
    let gateway = Gateway::start(&config(&up, &format!("{STRICT}, {{ api_key: {{}} }}")));
    let answer = gateway.send("GET", "/", &[("Origin", APP)]);
    assert_eq!((answer.status, marks(&answer).len()), (401, 3), "{answer:?}");
    assert!(varies_by_origin(&answer));
    let answer = gateway.send("GET", "/", &[("Origin", APP), ("X-Api-Key", "key-1")]);
    assert_eq!((answer.status, marks(&answer).len()), (502, 3), "{answer:?}");
}

#[test]
fn options_that_is_no_preflight_goes_on_to_the_upstream() {
    let (gateway, up) = start(STRICT);
    for headers in [
        &[][..],
        &[("Origin", APP)],
        &[("Access-Control-Request-Method", "GET")],
        &[("Access-Control-Request-Headers", "x-a"), ("Origin", APP)],
    ] {
        assert_eq!(gateway.send("OPTIONS", "/", headers).text(), "up", "{headers:?}");
    }
    assert_eq!(up.seen().len(), 4);
}

#[test]
fn a_preflight_cannot_smuggle_headers_into_its_answer() {
    let (gateway, _up) = start("{ cors: { origins: [\"*\"] } }");
    let answer = preflight(&gateway, APP, "PUT", Some("x-a%0d%0aset-cookie: a=b"));
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("set-cookie"), None);
}
