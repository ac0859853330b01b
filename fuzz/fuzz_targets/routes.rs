//! Whatever a client sends as host and path, the route that takes it is one that is meant for it, and what it takes out of
//! the path or puts in its place stays in its place.
//!
//! The input is the host and the target, a line each.
#![no_main]

use std::{
    path::Path,
    sync::{Arc, LazyLock},
};

use futures_lite::future::block_on;
use libfuzzer_sys::fuzz_target;
use pingora::http::RequestHeader;
use torana::{
    clock::Clock,
    config::load_text,
    proxy::{admit::admit, context::Context},
    route::normalise_host,
    runtime::{Seeds, Services, Snapshot},
    telemetry::metrics::Metrics,
};

const ALL: &str = "{ encoded_slash: allow, backslash: allow, path_parameters: allow, dot_parameters: allow, non_utf8: allow, query_semicolon: allow }";

static GATE: LazyLock<(Services, Arc<Snapshot>)> = LazyLock::new(|| {
    let services =
        Services { clock: Clock::default(), metrics: Arc::new(Metrics::new()), probe: true, seeds: Seeds::random() };
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
    let (config, _) = load_text(&text, "fuzz.yaml", Path::new("")).unwrap_or_else(|report| panic!("{report}"));
    let compiled = Snapshot::compile(&config, None, &services).unwrap_or_else(|found| panic!("{found:?}"));
    (services, Arc::new(compiled.snapshot))
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
    let (services, snapshot) = &*GATE;
    let mut ctx = Context::new(Arc::clone(snapshot), services.clock.now());
    if block_on(admit(&mut request, &mut ctx, "torana-fuzz")).is_err() {
        return;
    }
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
