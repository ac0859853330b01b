//! The rules that a route can relax: refused by default, noted in shadow, let through in one form.

use super::{guarded_with, only_saw};
use crate::support::{Gateway, Recorded, Response, Upstream};

/// How a rule is broken.
struct Breach {
    rule: &'static str,
    method: &'static str,
    target: &'static str,
    headers: &'static [(&'static str, &'static str)],
    /// What a route answers that does not let it through.
    refusal: (u16, &'static str),
    /// What the upstream sees where the route does.
    seen: &'static str,
}

const NONE: &[(&str, &str)] = &[];
const BAD_PATH: (u16, &str) = (400, "bad_path");
const BAD_REQUEST: (u16, &str) = (400, "bad_request");

const BREACHES: [Breach; 13] = [
    Breach { rule: "encoded_slash", method: "GET", target: "/a%2fb", headers: NONE, refusal: BAD_PATH, seen: "/a%2Fb" },
    Breach {
        rule: "encoded_slash",
        method: "GET",
        target: "/x/../a%2F%2Fb/%61",
        headers: NONE,
        refusal: BAD_PATH,
        seen: "/a%2F%2Fb/a",
    },
    Breach { rule: "backslash", method: "GET", target: "/a%5cb", headers: NONE, refusal: BAD_PATH, seen: "/a%5Cb" },
    Breach { rule: "backslash", method: "GET", target: "/a\\b", headers: NONE, refusal: BAD_PATH, seen: "/a%5Cb" },
    Breach {
        rule: "path_parameters",
        method: "GET",
        target: "/a;x=1/b",
        headers: NONE,
        refusal: BAD_PATH,
        seen: "/a;x=1/b",
    },
    Breach {
        rule: "dot_parameters",
        method: "GET",
        target: "/a/..%3bx/b",
        headers: NONE,
        refusal: BAD_PATH,
        seen: "/a/..%3Bx/b",
    },
    Breach { rule: "non_utf8", method: "GET", target: "/caf%e9", headers: NONE, refusal: BAD_PATH, seen: "/caf%E9" },
    Breach {
        rule: "query_semicolon",
        method: "GET",
        target: "/a?b;c=d",
        headers: NONE,
        refusal: BAD_REQUEST,
        seen: "/a?b;c=d",
    },
    Breach {
        rule: "unknown_methods",
        method: "PROPFIND",
        target: "/a",
        headers: NONE,
        refusal: (405, "method_not_allowed"),
        seen: "/a",
    },
    Breach {
        rule: "duplicate_headers",
        method: "GET",
        target: "/a",
        headers: &[("Authorization", "Basic YTpi"), ("Authorization", "Basic Yzpk")],
        refusal: BAD_REQUEST,
        seen: "/a",
    },
    Breach {
        rule: "duplicate_headers",
        method: "GET",
        target: "/a",
        headers: &[("Content-Type", "a/b"), ("content-type", "a/b")],
        refusal: BAD_REQUEST,
        seen: "/a",
    },
    Breach {
        rule: "confusable_headers",
        method: "GET",
        target: "/a",
        headers: &[("X-Role", "a"), ("X_Role", "b")],
        refusal: BAD_REQUEST,
        seen: "/a",
    },
    Breach {
        rule: "confusable_headers",
        method: "GET",
        target: "/a",
        headers: &[("X.Role", "a"), ("X_Role", "b")],
        refusal: BAD_REQUEST,
        seen: "/a",
    },
];

fn send(gateway: &Gateway, breach: &Breach) -> Response {
    gateway.send(breach.method, breach.target, breach.headers)
}

fn relaxed(up: &Upstream, rule: &str, mode: &str) -> Gateway {
    guarded_with(up.address(), &format!(", hygiene: {{ {rule}: {mode} }}"))
}

fn counted(gateway: &Gateway) -> f64 {
    gateway.metric("torana_would_reject_total{policy=\"hygiene\",route=\"all\"}")
}

#[track_caller]
fn has_all(seen: &Recorded, breach: &Breach) {
    assert_eq!((seen.method.as_str(), seen.target.as_str()), (breach.method, breach.seen), "{}", breach.rule);
    for (name, value) in breach.headers {
        let sent = |(known, had): &(String, String)| known.eq_ignore_ascii_case(name) && had == value;
        assert!(seen.headers.iter().any(sent), "{name}: {}", seen.head);
    }
}

#[test]
fn every_rule_refuses_unless_a_route_says_otherwise() {
    let up = Upstream::named("up");
    for mode in ["", ", hygiene: {}", ", hygiene: { encoded_slash: refuse, unknown_methods: refuse }"] {
        let gateway = guarded_with(up.address(), mode);
        for (i, breach) in BREACHES.iter().enumerate() {
            let answer = send(&gateway, breach);
            assert_eq!((answer.status, answer.problem().as_str()), breach.refusal, "{}", breach.rule);
            // The log says which rule it was.
            let line = gateway.access_lines(i + 1).remove(i);
            let reason = line["reason"].as_str().unwrap_or("(`unknown_methods`)");
            assert!(reason.contains(&format!("(`{}`)", breach.rule)), "{line}");
        }
    }
    only_saw(&up, &[]);
}

#[test]
fn a_rule_that_is_relaxed_lets_through_what_breaks_it_and_nothing_else() {
    for breach in &BREACHES {
        let up = Upstream::named("up");
        let gateway = relaxed(&up, breach.rule, "allow");
        assert_eq!(send(&gateway, breach).text(), "up", "{}", breach.rule);
        has_all(&up.only(), breach);
        for other in BREACHES.iter().filter(|other| other.rule != breach.rule) {
            let answer = send(&gateway, other);
            assert_eq!((answer.status, answer.problem().as_str()), other.refusal, "{} {}", breach.rule, other.rule);
        }
        // Nor does the route beside it.
        let elsewhere = breach.target.replacen('/', "/admin/", 1);
        let answer =
            gateway.send(breach.method, &elsewhere, &[breach.headers, &[("X-Api-Key", "a-key-for-tests")]].concat());
        assert_eq!((answer.status, answer.problem().as_str()), breach.refusal, "{}", breach.rule);
        assert_eq!((up.seen().len(), counted(&gateway)), (1, 0.0));
    }
}

#[test]
fn in_shadow_it_passes_is_counted_and_is_in_the_log() {
    for breach in &BREACHES {
        let up = Upstream::named("up");
        let gateway = relaxed(&up, breach.rule, "shadow");
        assert_eq!(send(&gateway, breach).text(), "up", "{}", breach.rule);
        has_all(&up.only(), breach);
        let line = gateway.access_lines(1).remove(0);
        assert_eq!((&line["status"], &line["would_reject"]), (&200.into(), &breach.rule.into()), "{line}");
        assert_eq!(counted(&gateway), 1.0, "{}", breach.rule);
        assert_eq!(gateway.get("/a").text(), "up");
        assert!(gateway.access_lines(2)[1].get("would_reject").is_none());
        assert_eq!(counted(&gateway), 1.0, "{}", breach.rule);
    }
}

#[test]
fn several_breaches_in_one_request_are_judged_one_by_one() {
    let up = Upstream::named("up");
    let gateway = guarded_with(
        up.address(),
        ", hygiene: { encoded_slash: shadow, path_parameters: allow, query_semicolon: shadow }",
    );
    assert_eq!(gateway.get("/a%2fb;c?d;e").text(), "up");
    assert_eq!(up.only().target, "/a%2Fb;c?d;e");
    assert_eq!(gateway.access_lines(1)[0]["would_reject"], "encoded_slash,query_semicolon");
    assert_eq!(counted(&gateway), 2.0);
    assert_eq!(gateway.get("/a%2fb%5cc").problem(), "bad_path");
    assert_eq!(up.seen().len(), 1);
}

#[test]
fn the_method_in_a_header_is_taken_away_unless_the_route_wants_it() {
    for (mode, passes, noted) in [("refuse", false, 0.0), ("shadow", true, 1.0), ("allow", true, 0.0)] {
        let up = Upstream::named("up");
        let gateway = relaxed(&up, "method_override", mode);
        let headers = [("X-HTTP-Method-Override", "DELETE"), ("Content-Length", "0")];
        assert_eq!(gateway.send("POST", "/", &headers).text(), "up", "{mode}");
        let seen = up.only();
        assert_eq!((seen.method.as_str(), seen.header("x-http-method-override").is_some()), ("POST", passes), "{mode}");
        assert_eq!(counted(&gateway), noted, "{mode}");
    }
}

/// What no option makes safe.
#[test]
fn some_things_stay_refused_whatever_a_route_says() {
    let up = Upstream::named("up");
    let all = "encoded_slash: allow, backslash: allow, path_parameters: allow, dot_parameters: allow, non_utf8: allow, query_semicolon: allow, unknown_methods: allow, method_override: allow, duplicate_headers: allow, confusable_headers: allow";
    let gateway = guarded_with(up.address(), &format!(", hygiene: {{ {all} }}"));
    for path in [
        "/a%00",
        "/a%0d%0ab",
        "/a%7f",
        "/%zz",
        "/%c0%af",
        "/%c0%ae%c0%ae/admin",
        "/%e0%80%af",
        "/../a",
        "/a%2f..%2fadmin",
        "/..%2fadmin",
        "/a%2f%2e%2e",
        "/a%5c..%5cadmin",
        "/a\\..\\admin",
        "/a%2f..;x%2fadmin",
        "/a#b",
        "/a?b#c",
    ] {
        assert_eq!(gateway.get(path).status, 400, "{path}");
    }
    for headers in ["Host: b", "Content-Length: 1\r\nContent-Length: 1", "X : y", "Transfer-Encoding: gzip"] {
        let mut client = gateway.client();
        client.write(format!("POST / HTTP/1.1\r\nHost: test\r\n{headers}\r\n\r\n").as_bytes());
        assert_eq!(client.read().status, 400, "{headers}");
    }
    for (method, status) in [("CONNECT", 405), ("TRACE", 405)] {
        assert_eq!(gateway.send(method, "/", &[]).status, status);
    }
    assert_eq!(gateway.send("POST", "/", &[("Expect", "more"), ("Content-Length", "0")]).status, 417);
    assert_eq!(gateway.send("GET", "/", &[("X_Consumer_Id", "root")]).status, 200);
    assert_eq!(up.only().header("x_consumer_id"), None);
}

/// A segment that has a slash in it stays one segment, for templates and for what they fill in.
#[test]
fn an_escaped_slash_is_part_of_its_segment() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
routes:
  - {{ name: one, match: {{ path: \"/projects/{{id}}\" }}, hygiene: {{ encoded_slash: allow }}, rewrite: {{ path: \"/v4/{{id}}\" }}, policies: [{{ request_headers: {{ set: {{ x-id: \"{{path.id}}\" }} }} }}], upstream: up }}
  - {{ name: fixed, match: {{ path: \"/group%2Fproject\" }}, hygiene: {{ encoded_slash: allow }}, upstream: up }}
  - {{ name: away, match: {{ path: \"/away/{{id}}\" }}, hygiene: {{ encoded_slash: allow }}, redirect: {{ to: \"https://a.example/{{path.id}}\" }} }}
",
        up.address()
    ));
    assert_eq!(gateway.get("/projects/group%2fproject").text(), "up");
    let seen = up.last();
    assert_eq!((seen.target.as_str(), seen.header("x-id")), ("/v4/group%2Fproject", Some("group%2Fproject")));
    assert_eq!(gateway.get("/projects/group/project").problem(), "route_not_found");
    assert_eq!(gateway.get("/group%2fproject").text(), "up");
    assert_eq!(gateway.get("/group/project").problem(), "route_not_found");
    assert_eq!(
        gateway.get("/away/%2f%2fevil.example").header("location"),
        Some("https://a.example/%2F%2Fevil.example")
    );
    // Where no route takes it, every rule holds.
    assert_eq!(gateway.get("/nowhere%2fx").problem(), "bad_path");
    assert_eq!(gateway.get("/nowhere/x").problem(), "route_not_found");
}
