//! What the gateway itself costs, without sockets: `cargo bench`.
//!
//! `cargo bench -- routes` measures one group. Times of `routes` must not grow with the number of routes: the bar is 1.5x
//! between 10 and 10,000.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark may end on a wrong file")]
#![allow(missing_docs, clippy::allow_attributes, reason = "criterion's macros make public items")]

use std::{fmt::Write as _, hint::black_box, path::Path, sync::Arc, time::Duration};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rsa,
    signature::KeyPair as _,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::Method;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, crypto};
use pingora::http::RequestHeader;
use torana::{
    clock::Clock,
    config::{Validated, load_text},
    proxy::context::Context,
    route::{Found, normalise_host, path},
    runtime::{Seeds, Services, Snapshot},
};

/// A gateway without its network.
struct Gate {
    services: Services,
    snapshot: Arc<Snapshot>,
}

fn services() -> Services {
    Services::new(Clock::default(), Seeds::random())
}

fn validated(yaml: &str) -> Validated {
    let head = "listeners: [{ address: 127.0.0.1:8080 }]\nupstreams: { up: { endpoints: [127.0.0.1:9000] } }\n";
    whole(&format!("{head}{yaml}"))
}

fn whole(yaml: &str) -> Validated {
    match load_text(yaml, "bench.yaml", Path::new("")) {
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
    gate_of(&validated(yaml))
}

fn gate_of(config: &Validated) -> Gate {
    let services = services();
    let snapshot = Arc::new(compile(config, &services));
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

/// What a request costs on its way through these policies. It is let in, or refused.
fn measure(criterion: &mut Criterion, name: &str, yaml: &str, header: (&'static str, &str), let_in: bool) {
    let gate = gate(yaml);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let chain = gate.request(header).1.route.unwrap().chain.clone();
    criterion.bench_function(&format!("chain/{name}"), |bench| {
        bench.iter_batched_ref(
            || gate.request(header),
            |(request, ctx)| assert_eq!(runtime.block_on(chain.on_request(request, ctx)).is_ok(), let_in),
            BatchSize::SmallInput,
        );
    });
}

fn chain(criterion: &mut Criterion, name: &str, policies: &str, header: (&'static str, &str)) {
    let yaml = format!(
        "consumers: {{ a: {{ api_keys: [key-1] }} }}\nroutes:\n  - {{ name: r, upstream: up, policies: [{policies}] }}\n"
    );
    measure(criterion, name, &yaml, header, true);
}

fn chains(criterion: &mut Criterion) {
    let limit = "{ rate_limit: { key: consumer, limits: [1000000/s, 100000000/h] } }";
    chain(criterion, "nothing", "", ("accept", "*/*"));
    chain(criterion, "api_key", "{ api_key: { header: x-api-key } }", ("x-api-key", "key-1"));
    let both = format!("{{ api_key: {{ header: x-api-key }} }}, {limit}");
    chain(criterion, "api_key and rate_limit", &both, ("x-api-key", "key-1"));
    let one_of = "{ any_of: [{ jwt: { issuer: i, audience: a, keys: [{ algorithm: HS256, secret: 0123456789abcdef0123456789abcdef }] } }, { api_key: {} }] }";
    chain(criterion, "api_key in an any_of", one_of, ("x-api-key", "key-1"));
    let expression = "{ api_key: {} }, { authorize: { allow: [\"request.method == 'GET' && consumer.name == 'a'\"] } }";
    chain(criterion, "api_key and authorize", expression, ("x-api-key", "key-1"));
    many_consumers(criterion);
    tokens(criterion);
}

/// Bar: a key among 100,000 consumers costs at most 1 us.
fn many_consumers(criterion: &mut Criterion) {
    let mut yaml = String::from("consumers:\n");
    for i in 0..100_000 {
        writeln!(yaml, "  c{i}: {{ api_keys: [key-of-consumer-{i}] }}").unwrap();
    }
    yaml.push_str("routes:\n  - { name: r, upstream: up, policies: [{ api_key: {} }] }\n");
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10);
    group.bench_function("100,000 consumers", |bench| bench.iter(|| validated(&yaml)));
    let folder = in_files(8);
    let file = folder.path().join("torana.yaml");
    group.bench_function("100,000 consumers with everything, in 8 files", |bench| {
        bench.iter(|| torana::config::load(&file).unwrap());
    });
    group.finish();
    measure(criterion, "api_key among 100,000", &yaml, ("x-api-key", "key-of-consumer-77777"), true);
}

/// As many consumers, each with a hashed key, two groups and metadata, in so many files.
fn in_files(files: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let main = "listeners: [{ address: \"127.0.0.1:0\" }]\nupstreams: { up: { endpoints: [\"127.0.0.1:1\"] } }\nroutes: [{ name: r, upstream: up, policies: [{ api_key: {} }] }]\nconsumers: { files: c*.yaml }\n";
    std::fs::write(folder.path().join("torana.yaml"), main).unwrap();
    for part in 0..files {
        let mut yaml = String::new();
        for i in (part..100_000).step_by(files) {
            let digest = torana::digest::sha256(format!("key-of-consumer-{i}").as_bytes());
            let hex = hex::encode(digest);
            writeln!(
                yaml,
                "c{i}: {{ groups: [gold, beta], metadata: {{ plan: gold, seats: {i} }}, api_keys: [\"sha256:{hex}\"] }}"
            )
            .unwrap();
        }
        std::fs::write(folder.path().join(format!("c{part}.yaml")), yaml).unwrap();
    }
    folder
}

/// Bars: a verdict that is known costs at most 1.5 us, one that is not the check of the signature and at most 5 us.
fn tokens(criterion: &mut Criterion) {
    let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
    let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
    let key = EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes()).unwrap();
    let public = pem("PUBLIC KEY", public.as_ref());
    let expires = Clock::default().unix() + Duration::from_hours(1);
    let claims = serde_json::json!({ "iss": "https://idp", "aud": "api", "sub": "alice", "exp": expires.as_secs(), "scope": "a b c" });
    let token = jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &key).unwrap();
    let yaml = |audience: &str| {
        let key = serde_json::to_string(&public).unwrap();
        format!(
            "routes:\n  - {{ name: r, upstream: up, policies: [{{ jwt: {{ issuer: \"https://idp\", audience: {audience}, keys: [{{ algorithm: RS256, public_key: {key} }}] }} }}] }}\n"
        )
    };
    let bearer = format!("Bearer {token}");
    measure(criterion, "jwt, verdict known", &yaml("api"), ("authorization", &bearer), true);
    // What is refused is not remembered; the audience is looked at last.
    measure(criterion, "jwt, verdict not known", &yaml("other"), ("authorization", &bearer), false);
    let (message, signature) = token.rsplit_once('.').unwrap();
    let key = DecodingKey::from_rsa_pem(public.as_bytes()).unwrap();
    criterion.bench_function("signature alone", |bench| {
        bench.iter(|| {
            assert!(crypto::verify(black_box(signature), message.as_bytes(), &key, Algorithm::RS256).unwrap());
        });
    });
}

fn pem(tag: &str, der: &[u8]) -> String {
    format!("-----BEGIN {tag}-----\n{}\n-----END {tag}-----\n", STANDARD.encode(der))
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

/// Bar: at a million keys a local limit costs at most 300 ns, and ten million keys take at most 1 GiB.
#[expect(clippy::print_stderr, reason = "memory is no time that criterion could show")]
fn limits(criterion: &mut Criterion) {
    let yaml = |keys: u32| {
        format!(
            "routes:\n  - {{ name: r, upstream: up, policies: [{{ rate_limit: {{ key: client_ip, limits: [1000000/h], max_keys: {keys}, headers: none }} }}] }}\n"
        )
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for keys in [1_000_000_u32, 10_000_000] {
        let gate = gate(&yaml(keys * 2));
        let (mut request, mut ctx) = gate.request(("accept", "*/*"));
        let chain = ctx.route.as_ref().unwrap().chain.clone();
        let mut ask = |address: u32| {
            ctx.client_ip = std::net::IpAddr::from(address.to_be_bytes());
            ctx.limits.clear();
            assert!(runtime.block_on(chain.on_request(&mut request, &mut ctx)).is_ok());
        };
        let before = resident();
        (0..keys).for_each(&mut ask);
        let mib = (resident() - before) >> 20;
        eprintln!("limits/{keys} keys: {mib} MiB, {} bytes for each", (resident() - before) / u64::from(keys));
        // Neighbours in memory are not neighbours in time.
        let mut at = 1_u32;
        criterion.bench_function(&format!("limits/{keys} keys"), |bench| {
            bench.iter(|| {
                at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ask(at % keys);
            });
        });
    }
}

/// Resident memory in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Choosing one of 100 endpoints, with the requests in flight counted.
fn balance(criterion: &mut Criterion) {
    let endpoints: Vec<String> = (1..=100).map(|i| format!("\"10.0.0.{i}:80\"")).collect();
    let endpoints = endpoints.join(", ");
    let mut group = criterion.benchmark_group("balance");
    for (name, balance) in [
        ("round_robin", "round_robin"),
        ("least_requests", "least_requests"),
        ("peak_ewma", "peak_ewma"),
        ("random", "random"),
        ("hash", "{ hash: path }"),
        ("ring_hash", "{ ring_hash: { key: path } }"),
        ("ring_hash, bounded", "{ ring_hash: { key: path, load: 125% } }"),
        ("maglev", "{ maglev: { key: path } }"),
    ] {
        let yaml = format!(
            "listeners: [{{ address: 127.0.0.1:8080 }}]\nupstreams: {{ up: {{ endpoints: [{endpoints}], balance: {balance} }} }}\nroutes: [{{ name: r, upstream: up }}]\n"
        );
        let (request, ctx) = gate_of(&whole(&yaml)).request(("x-a", "b"));
        for upstream in ctx.snapshot.upstreams.values() {
            group.bench_function(name, |bench| bench.iter(|| upstream.choose(&request, &ctx, 1_000)));
        }
    }
    group.finish();
}

criterion_group!(benches, routes, normal_forms, chains, limits, balance, snapshots);
criterion_main!(benches);
