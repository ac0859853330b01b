//! Whatever a client sends as host and path, the route that takes it is one that is meant for it, and what it takes out of
//! the path or puts in its place stays in its place.
//!
//! The input is the host and the target, a line each.
#![no_main]

mod gate;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pingora::http::RequestHeader;
use torana::route::normalise_host;

use gate::Gate;

const ALL: &str = "{ encoded_slash: allow, backslash: allow, path_parameters: allow, dot_parameters: allow, non_utf8: allow, query_semicolon: allow }";

static GATE: LazyLock<Gate> = LazyLock::new(|| {
    let text = format!(
        r#"
listeners: [{{ address: "127.0.0.1:8080" }}]
upstreams: {{ up: {{ endpoints: ["127.0.0.1:9000"] }} }}
routes:
  - {{ name: exact, match: {{ hosts: [a.example], path: /a/b }}, upstream: up }}
  - {{ name: template, match: {{ path: "/t/{{one}}/{{rest...}}" }}, hygiene: {ALL}, rewrite: {{ path: "/x/{{one}}/{{rest}}" }}, upstream: up }}
  - {{ name: prefix, match: {{ path: {{ prefix: /p/q }} }}, hygiene: {ALL}, rewrite: {{ replace_prefix: {{ from: /p/q, to: /y }} }}, upstream: up }}
  - {{ name: strip, match: {{ hosts: ["*.b.example"], path: {{ prefix: /s }} }}, rewrite: {{ strip_prefix: /s }}, upstream: up }}
  - {{ name: regex, match: {{ path: {{ regex: "/r/[a-z]+" }} }}, upstream: up }}
"#
    );
    Gate::new(&text)
});

fuzz_target!(|text: &str| {
    let (host, target) = text.split_once('\n').unwrap_or(("a.example", text));
    if let Some(normal) = normalise_host(host) {
        assert_eq!(normalise_host(&normal).as_deref(), Some(&*normal));
        assert!(!normal.contains(['/', '@', ' ', '\\', '?', '#']) && !normal.is_empty());
    }
    let Ok(mut request) = RequestHeader::build("GET", target.as_bytes(), None) else {
        return;
    };
    if request.insert_header("host", host).is_err() {
        return;
    }
    let Some(ctx) = GATE.admit(&mut request) else {
        return;
    };
    let (path, route) = (request.uri.path(), ctx.route.as_ref().expect("a route"));
    assert_eq!(normalise_host(host).as_deref(), Some(&*ctx.host));
    let under = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let fits = match &*route.name {
        "exact" => path == "/a/b" && &*ctx.host == "a.example",
        "template" => under("/t") && ctx.param(path, "one").is_some_and(|one| !one.is_empty() && !one.contains('/')),
        "prefix" => under("/p/q"),
        "strip" => under("/s") && ctx.host.ends_with(".b.example"),
        "regex" => under("/r"),
        _ => false,
    };
    assert!(fits, "{} took {path}", route.name);
    if let Some(rewrite) = &route.rewrite {
        let new = rewrite.apply(path, &ctx.params);
        assert!(new.starts_with('/') && !new.split('/').any(|segment| segment == "." || segment == ".."), "{new}");
        let place = match &*route.name {
            "template" => "/x/",
            "prefix" => "/y",
            _ => "/",
        };
        assert!(new.starts_with(place), "{new}");
    }
});
