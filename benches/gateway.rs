//! What the gateway itself costs, without sockets: `cargo bench`.
//!
//! `cargo bench -- routes` measures one group. Times of `routes` must not grow with the number of routes: the bar is 1.5x
//! between 10 and 10,000.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark may end on a wrong file")]
#![allow(missing_docs, clippy::allow_attributes, reason = "criterion's macros make public items")]

use std::{fmt::Write as _, hint::black_box, path::Path, sync::Arc, time::Duration};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::Method;
use pingora::http::RequestHeader;
use torana::{
    clock::Clock,
    config::{Validated, load_text},
    proxy::context::Context,
    route::{Found, normalise_host, path},
    runtime::{Seeds, Services, Snapshot},
    telemetry::metrics::Metrics,
};

/// A gateway without its network.
struct Gate {
    services: Services,
    snapshot: Arc<Snapshot>,
}

fn services() -> Services {
    Services { clock: Clock::default(), metrics: Arc::new(Metrics::new()), probe: false, seeds: Seeds::random() }
}

fn validated(yaml: &str) -> Validated {
    let head = "listeners: [{ address: 127.0.0.1:8080 }]\nupstreams: { up: { endpoints: [127.0.0.1:9000] } }\n";
    match load_text(&format!("{head}{yaml}"), "bench.yaml", Path::new("")) {
        Ok((config, _)) => config,
        Err(report) => panic!("{report}"),
    }
}

fn compile(config: &Validated, services: &Services) -> Snapshot {
    match Snapshot::compile(config, None, services) {
        Ok(compiled) => compiled.snapshot,
        Err(found) => panic!("{found:?}"),
    }
}

fn gate(yaml: &str) -> Gate {
    let services = services();
    let snapshot = Arc::new(compile(&validated(yaml), &services));
    Gate { services, snapshot }
}

/// So many routes: a third exact, a third templates, a third prefixes, over three hosts.
fn many(count: usize) -> String {
    let mut yaml = String::from("routes:\n");
    for i in 0..count {
        let path = match i % 3 {
            0 => format!("/service-{i}/orders"),
            1 => format!("\"/service-{i}/orders/{{id}}\""),
            _ => format!("{{ prefix: /service-{i}/files }}"),
        };
        let host = i / 3 % 3;
        writeln!(yaml, "  - {{ name: r{i}, match: {{ hosts: [h{host}.example.com], path: {path} }}, upstream: up }}")
            .unwrap();
    }
    yaml
}

/// Requests for routes spread over the whole table.
fn spread(count: usize) -> Vec<(String, RequestHeader)> {
    (0..64)
        .map(|n| {
            let i = n * count.div_ceil(64) % count;
            let path = match i % 3 {
                0 => format!("/service-{i}/orders"),
                1 => format!("/service-{i}/orders/17"),
                _ => format!("/service-{i}/files/a/b"),
            };
            (format!("h{}.example.com", i / 3 % 3), RequestHeader::build("GET", path.as_bytes(), None).unwrap())
        })
        .collect()
}

fn routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("routes");
    for count in [10, 1_000, 10_000] {
        let gate = gate(&many(count));
        let requests = spread(count);
        let mut next = (0..requests.len()).cycle();
        group.bench_function(count.to_string(), |bench| {
            bench.iter(|| {
                let (host, request) = next.next().and_then(|i| requests.get(i)).unwrap();
                let found = gate.snapshot.routes.find(host, request.uri.path(), &Method::GET, request);
                assert!(matches!(black_box(found), Found::Route(..)));
            });
        });
    }
    group.finish();
}

fn normal_forms(criterion: &mut Criterion) {
    criterion.bench_function("path/already normal", |bench| {
        bench.iter(|| path::normalise(black_box("/v1/orders/17/items")).unwrap().path.len());
    });
    criterion.bench_function("path/to be normalised", |bench| {
        bench.iter(|| path::normalise(black_box("/v1//orders/%31%37/../items")).unwrap().path.len());
    });
    criterion.bench_function("host", |bench| {
        bench.iter(|| normalise_host(black_box("api.example.com:8443")).unwrap().len());
    });
}

impl Gate {
    /// A request with its route, as the chain gets it.
    fn request(&self, header: (&'static str, &str)) -> (RequestHeader, Context) {
        let mut request = RequestHeader::build("GET", b"/t/7", None).unwrap();
        request.append_header(header.0, header.1).unwrap();
        let mut ctx = Context::new(Arc::clone(&self.snapshot), self.services.clock.now());
        let Found::Route(route, params) = self.snapshot.routes.find("", "/t/7", &Method::GET, &request) else {
            panic!("no route");
        };
        ctx.route = Some(Arc::clone(route));
        ctx.params = params;
        (request, ctx)
    }
}

fn chain(criterion: &mut Criterion, name: &str, policies: &str, header: (&'static str, &str)) {
    let yaml = format!(
        "consumers: {{ a: {{ api_keys: [key-1] }} }}\nroutes:\n  - {{ name: r, upstream: up, policies: [{policies}] }}\n"
    );
    let gate = gate(&yaml);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let chain = gate.request(header).1.route.unwrap().chain.clone();
    criterion.bench_function(&format!("chain/{name}"), |bench| {
        bench.iter_batched_ref(
            || gate.request(header),
            |(request, ctx)| runtime.block_on(chain.on_request(request, ctx)).unwrap(),
            BatchSize::SmallInput,
        );
    });
}

fn chains(criterion: &mut Criterion) {
    let limit = "{ rate_limit: { key: consumer, limits: [1000000/s, 100000000/h] } }";
    chain(criterion, "nothing", "", ("accept", "*/*"));
    chain(criterion, "api_key", "{ api_key: { header: x-api-key } }", ("x-api-key", "key-1"));
    let both = format!("{{ api_key: {{ header: x-api-key }} }}, {limit}");
    chain(criterion, "api_key and rate_limit", &both, ("x-api-key", "key-1"));
    let secret = "0123456789abcdef0123456789abcdef";
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let expires = Clock::default().unix() + Duration::from_hours(1);
    let claims = serde_json::json!({ "iss": "https://idp", "aud": "api", "sub": "alice", "exp": expires.as_secs() });
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
    let jwt = format!(
        "{{ jwt: {{ issuer: \"https://idp\", audience: api, keys: [{{ id: k, algorithm: HS256, secret: {secret} }}] }} }}"
    );
    chain(criterion, "jwt, verdict known", &jwt, ("authorization", &format!("Bearer {token}")));
}

fn snapshots(criterion: &mut Criterion) {
    let services = services();
    let mut group = criterion.benchmark_group("snapshot");
    group.sample_size(10);
    for count in [100, 1_000] {
        let text = many(count);
        group.bench_function(format!("load {count} routes"), |bench| bench.iter(|| validated(&text)));
        let config = validated(&text);
        group.bench_function(format!("compile {count} routes"), |bench| bench.iter(|| compile(&config, &services)));
    }
    group.finish();
}

criterion_group!(benches, routes, normal_forms, chains, snapshots);
criterion_main!(benches);
