//! Policies in their chain, without a socket: from a file to what a request meets.

use std::{path::Path, sync::Arc, time::Duration};

use http::Method;
use pingora::http::{RequestHeader, ResponseHeader};

use super::Flow;
use crate::{
    clock::Clock,
    config::{Report, load_text},
    proxy::context::{Context, HostName},
    reject::Reject,
    route::Found,
    runtime::{Seeds, Services, Snapshot},
};

const NOW: u64 = 1_800_000_000;

/// A gateway without its network: one route `/t/{id}` with these policies.
struct Gate {
    services: Services,
    snapshot: Arc<Snapshot>,
}

/// What became of a request.
struct Outcome {
    result: Result<Flow, Reject>,
    request: RequestHeader,
    ctx: Context,
}

fn file(policies: &str) -> String {
    let policies: Vec<_> = policies.lines().map(|line| format!("      {line}")).collect();
    let policies = policies.join(
        "
",
    );
    format!(
        r#"
listeners: [{{ address: "127.0.0.1:0" }}]
upstreams: {{ u: {{ endpoints: ["127.0.0.1:9"] }} }}
consumers:
  mobile: {{ groups: [gold], api_keys: [key-1, key-2] }}
  web: {{ api_keys: [key-3], tokens: [{{ issuer: "https://idp", subject: alice }}] }}
routes:
  - name: r
    match: {{ path: "/t/{{id}}" }}
    upstream: u
    policies:
{policies}"#
    )
}

fn load(policies: &str) -> Result<Report, Report> {
    load_text(&file(policies), "test.yaml", Path::new("")).map(|(_, report)| report)
}

/// The messages of a file that is refused, or accepted with warnings.
pub(super) fn messages(policies: &str) -> String {
    let (Ok(report) | Err(report)) = load(policies);
    let found = report.found.into_iter();
    found.map(|one| one.message).collect::<Vec<_>>().join("\n")
}

impl Gate {
    fn new(policies: &str) -> Self {
        let services = Services::new(Clock::manual(Duration::from_secs(NOW)), Seeds::random());
        let snapshot = compile(policies, None, &services);
        Self { services, snapshot }
    }

    fn reload(&mut self, policies: &str) {
        self.snapshot = compile(policies, Some(&self.snapshot), &self.services);
    }

    fn wait(&self, millis: u64) {
        self.services.clock.advance(Duration::from_millis(millis));
    }

    fn send(&self, method: &str, target: &str, headers: &[(&'static str, &str)]) -> Outcome {
        let mut request = RequestHeader::build(method, target.as_bytes(), None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        let mut ctx = self.context(&request);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let chain = ctx.route.as_ref().unwrap().chain.clone();
        let result = runtime.unwrap().block_on(chain.on_request(&mut request, &mut ctx));
        Outcome { result, request, ctx }
    }

    /// The state of a request that has found its route.
    fn context(&self, request: &RequestHeader) -> Context {
        let mut ctx = Context::new(Arc::clone(&self.snapshot), self.services.clock.now());
        ctx.client_ip = [192, 0, 2, 7].into();
        ctx.host = HostName::from("api.example.com").unwrap();
        let found = self.snapshot.routes.find(&ctx.host, request.uri.path(), &request.method, request);
        let Found::Route(route, params) = found else {
            panic!("no route");
        };
        (ctx.route, ctx.params) = (Some(Arc::clone(route)), params);
        ctx
    }

    fn get(&self, headers: &[(&'static str, &str)]) -> Outcome {
        self.send("GET", "/t/7?a=b", headers)
    }
}

fn compile(policies: &str, previous: Option<&Snapshot>, services: &Services) -> Arc<Snapshot> {
    let (config, _) =
        load_text(&file(policies), "test.yaml", Path::new("")).unwrap_or_else(|report| panic!("{report}"));
    match Snapshot::compile(&config, previous, services) {
        Ok(compiled) => Arc::new(compiled.snapshot),
        Err(found) => panic!("{found:?}"),
    }
}

impl Outcome {
    fn code(&self) -> &'static str {
        match &self.result {
            Ok(Flow::Continue) => "continue",
            Ok(Flow::Reply(_) | Flow::Read(_)) => "reply",
            Err(reject) => reject.code(),
        }
    }

    fn sent(&self, name: &str) -> Option<&str> {
        self.request.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The response after the response phase, as the client sees it.
    fn respond(&mut self, headers: &[(&'static str, &str)]) -> ResponseHeader {
        let mut head = match std::mem::replace(&mut self.result, Ok(Flow::Continue)) {
            Ok(Flow::Reply(reply)) => reply.head,
            Ok(Flow::Continue | Flow::Read(_)) | Err(_) => ResponseHeader::build(200, None).unwrap(),
        };
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        let route = self.ctx.route.clone().unwrap();
        route.chain.on_response(&mut head, &mut self.ctx);
        for (name, value) in self.ctx.response_headers.drain(..) {
            head.insert_header(name, value).unwrap();
        }
        head
    }
}

fn all<'a>(head: &'a ResponseHeader, name: &str) -> Vec<&'a str> {
    let values = head.headers.get_all(name).iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

#[test]
fn an_api_key_tells_the_consumer_and_is_taken_away() {
    let gate = Gate::new("- api_key: {}");
    let outcome = gate.get(&[("x-api-key", "key-2"), ("x-other", "1")]);
    assert_eq!(outcome.code(), "continue");
    assert_eq!(outcome.ctx.identity.as_ref().unwrap().name(), "mobile");
    assert_eq!((outcome.sent("x-api-key"), outcome.sent("x-other")), (None, Some("1")));
    for headers in
        [&[][..], &[("x-api-key", "key-9")], &[("x-api-key", "")], &[("x-api-key", "key-1"), ("x-api-key", "key-1")]]
    {
        let refused = gate.get(headers).result.unwrap_err();
        assert_eq!(refused.code(), "unauthenticated");
        assert_eq!(refused.header().unwrap().1, "ApiKey header=\"x-api-key\"");
    }
    let gate = Gate::new("- api_key: { query: key, forward: true }");
    let outcome = gate.send("GET", "/t/7?a=b&key=key-3", &[]);
    assert_eq!(outcome.request.raw_path(), b"/t/7?a=b&key=key-3");
    assert_eq!(outcome.ctx.identity.unwrap().name(), "web");
}

#[test]
fn credentials_of_two_consumers_are_refused() {
    let gate = Gate::new("- api_key: {}\n- api_key: { query: key }");
    let send = |header: &str, query: &str| {
        let target = format!("/t/7?key={query}");
        gate.send("GET", &target, &[("x-api-key", header)]).code()
    };
    assert_eq!(send("key-1", "key-2"), "continue");
    assert_eq!(send("key-1", "key-3"), "unauthenticated");
}

#[test]
fn a_limit_holds_for_each_consumer_and_across_a_reload() {
    let policies = "- api_key: {}\n- rate_limit: { key: consumer, limits: [2/s, 100/h] }";
    let mut gate = Gate::new(policies);
    let send = |gate: &Gate, key: &str| gate.get(&[("x-api-key", key)]).code();
    assert_eq!([send(&gate, "key-1"), send(&gate, "key-2")], ["continue"; 2]);
    assert_eq!(send(&gate, "key-1"), "rate_limited");
    assert_eq!(send(&gate, "key-3"), "continue");
    gate.reload(&format!("- request_id: {{}}\n{policies}"));
    assert_eq!(send(&gate, "key-1"), "rate_limited");
    gate.wait(500);
    assert_eq!(send(&gate, "key-1"), "continue");
}

#[test]
fn a_limit_tells_where_it_stands() {
    let gate = Gate::new("- rate_limit: { key: [route, client_ip], limits: [5/s], burst: 2 }");
    let mut outcome = gate.get(&[]);
    let head = outcome.respond(&[]);
    assert_eq!(all(&head, "ratelimit-policy"), ["\"5/s\";q=5;w=1"]);
    assert_eq!(all(&head, "ratelimit"), ["\"5/s\";r=1;t=1"]);
    gate.get(&[]);
    let mut refused = gate.get(&[]);
    let reject = refused.result.as_ref().unwrap_err();
    assert_eq!(reject.header().unwrap().1, "1");
    assert_eq!(all(&refused.respond(&[]), "ratelimit"), ["\"5/s\";r=0;t=1"]);
}

#[test]
fn a_request_without_what_is_counted_by_is_not_unlimited() {
    let by = |more: &str| {
        let gate = Gate::new(&format!("- rate_limit: {{ key: {{ header: x-t }}, limits: [1/h]{more} }}"));
        [gate.get(&[]).code(), gate.get(&[("x-t", "")]).code()]
    };
    assert_eq!(by(""), ["limit_key_missing"; 2]);
    assert_eq!(by(", missing_key: client_ip"), ["continue", "rate_limited"]);
    assert_eq!(by(", missing_key: skip"), ["continue"; 2]);
}

#[test]
fn a_limit_by_address_slows_down_those_who_guess() {
    let gate = Gate::new("- api_key: {}\n- rate_limit: { key: client_ip, limits: [1/h] }");
    assert_eq!(gate.get(&[("x-api-key", "guess")]).code(), "unauthenticated");
    assert_eq!(gate.get(&[("x-api-key", "guess")]).code(), "rate_limited");
}

#[test]
fn values_from_the_request_go_into_headers() {
    let gate = Gate::new(
        r#"- request_headers:
    set:
      x-a: "{method} {scheme} {host} {path}{query} {route} {path.id} {client_ip}"
      x-new: "{header.x-old}"
      x-none: "{cookie.none}{consumer}"
    remove: [x-old]"#,
    );
    let outcome = gate.get(&[("x-old", "1"), ("x-old", "2"), ("x-none", "forged")]);
    assert_eq!(outcome.sent("x-a"), Some("GET http api.example.com /t/7?a=b r 7 192.0.2.7"));
    assert_eq!(outcome.sent("x-new"), Some("1, 2"));
    assert_eq!((outcome.sent("x-old"), outcome.sent("x-none")), (None, None));
}

#[test]
fn a_value_that_no_header_can_have_is_left_out() {
    let gate = Gate::new(r#"- request_headers: { set: { x-a: "a{header.x-b}c", x-d: "{cookie.e}" } }"#);
    let mut request = RequestHeader::build("GET", b"/t/7", None).unwrap();
    request.append_header("x-b", http::HeaderValue::from_bytes(b"caf\xc3\xa9").unwrap()).unwrap();
    let mut ctx = gate.get(&[]).ctx;
    let chain = ctx.route.clone().unwrap().chain.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    drop(runtime.block_on(chain.on_request(&mut request, &mut ctx)));
    assert_eq!(request.headers.get("x-a").unwrap(), "ac");
}

#[test]
fn a_response_gets_headers_with_values_of_its_request() {
    let gate = Gate::new(
        r#"- response_headers:
    set: { x-path: "{path}", x-route: "{route}", x-fixed: "1" }
    add: { x-via: torana }
    remove: [server]"#,
    );
    let mut outcome = gate.get(&[]);
    let head = outcome.respond(&[("server", "secret"), ("x-via", "other"), ("x-path", "old")]);
    assert_eq!(all(&head, "x-path"), ["/t/7"]);
    assert_eq!(all(&head, "x-route"), ["r"]);
    assert_eq!(all(&head, "x-via"), ["other", "torana"]);
    assert!(all(&head, "server").is_empty());
    // A response whose request was refused before has everything but what only the request knew.
    let mut outcome = gate.get(&[]);
    outcome.ctx.captured.clear();
    let head = outcome.respond(&[]);
    assert_eq!((all(&head, "x-path"), all(&head, "x-fixed")), (vec![], vec!["1"]));
}

#[test]
fn a_page_of_an_allowed_origin_may_read_even_a_refusal() {
    let gate = Gate::new("- cors: { origins: [https://a.example], credentials: true, expose: [x-id] }\n- api_key: {}");
    let origin = ("origin", "https://a.example");
    let mut refused = gate.get(&[origin]);
    assert_eq!(refused.code(), "unauthenticated");
    let head = refused.respond(&[
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", "X"),
        ("vary", "accept"),
    ]);
    assert_eq!(all(&head, "access-control-allow-origin"), ["https://a.example"]);
    assert_eq!(all(&head, "access-control-allow-credentials"), ["true"]);
    assert_eq!(all(&head, "access-control-expose-headers"), ["x-id"]);
    assert!(all(&head, "access-control-allow-methods").is_empty());
    assert_eq!(all(&head, "vary"), ["accept", "Origin"]);
    let mut other = gate.get(&[("origin", "https://b.example")]);
    let head = other.respond(&[("access-control-allow-origin", "*")]);
    assert!(all(&head, "access-control-allow-origin").is_empty());
}

#[test]
fn a_preflight_is_answered_before_anyone_is_asked_who_they_are() {
    let gate = Gate::new("- api_key: {}\n- cors: { origins: [https://a.example] }");
    let method = ("access-control-request-method", "PUT");
    let mut allowed = gate.send(Method::OPTIONS.as_str(), "/t/7", &[("origin", "https://a.example"), method]);
    assert_eq!(allowed.code(), "reply");
    let head = allowed.respond(&[]);
    assert_eq!((head.status.as_u16(), all(&head, "vary").len()), (204, 1));
    assert_eq!(all(&head, "access-control-allow-origin"), ["https://a.example"]);
    let mut other = gate.send("OPTIONS", "/t/7", &[("origin", "https://b.example"), method]);
    assert_eq!(other.code(), "reply");
    assert!(all(&other.respond(&[]), "access-control-allow-origin").is_empty());
    assert_eq!(gate.send("OPTIONS", "/t/7", &[]).code(), "unauthenticated");
}

#[test]
fn an_id_is_passed_on_both_ways() {
    let gate = Gate::new("- request_id: { trust: true }");
    let mut outcome = gate.get(&[("x-request-id", "abc")]);
    assert_eq!(outcome.sent("x-request-id"), Some("abc"));
    assert_eq!(all(&outcome.respond(&[]), "x-request-id"), ["abc"]);
    let gate = Gate::new("- request_id: { header: x-rid, respond: false }");
    let mut outcome = gate.get(&[("x-rid", "abc")]);
    assert_eq!(outcome.sent("x-rid").map(str::len), Some(32));
    assert!(all(&outcome.respond(&[]), "x-rid").is_empty());
}

#[test]
fn the_smallest_of_several_sizes_holds() {
    let gate = Gate::new("- request_size: { max: 1KiB }\n- request_size: { max: 10B }");
    assert_eq!(gate.get(&[]).ctx.max_body, Some(10));
    assert_eq!(gate.get(&[("content-length", "11")]).code(), "body_too_large");
}

#[test]
fn an_address_is_refused() {
    assert_eq!(Gate::new("- ip_restriction: { deny: [192.0.2.0/24] }").get(&[]).code(), "address_not_allowed");
    assert_eq!(Gate::new("- ip_restriction: { allow: [192.0.2.7] }").get(&[]).code(), "continue");
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn token(claims: &serde_json::Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

fn claims(scope: &str) -> serde_json::Value {
    serde_json::json!({ "iss": "https://idp", "sub": "alice", "aud": "api", "exp": NOW + 100, "scope": scope })
}

fn jwt(more: &str) -> String {
    format!(
        "- jwt: {{ issuer: \"https://idp\", audience: api, keys: [{{ algorithm: HS256, secret: {SECRET} }}]{more} }}"
    )
}

#[test]
fn a_token_tells_the_caller_until_it_expires() {
    let gate = Gate::new(&jwt(""));
    let bearer = format!("Bearer {}", token(&claims("a b")));
    for _ in 0..2 {
        let outcome = gate.get(&[("authorization", &bearer)]);
        assert_eq!(outcome.code(), "continue");
        assert_eq!(outcome.ctx.identity.as_ref().unwrap().name(), "web");
        assert_eq!(outcome.sent("authorization"), None);
    }
    gate.wait(129_999);
    assert_eq!(gate.get(&[("authorization", &bearer)]).code(), "continue");
    gate.wait(1);
    let refused = gate.get(&[("authorization", &bearer)]).result.unwrap_err();
    assert_eq!(refused.reason().as_deref(), Some("the token has expired"));
    assert_eq!(refused.header().unwrap().1, "Bearer realm=\"torana\", error=\"invalid_token\"");
    let refused = gate.get(&[]).result.unwrap_err();
    assert_eq!(refused.header().unwrap().1, "Bearer realm=\"torana\"");
}

#[test]
fn a_token_without_the_scope_is_forbidden() {
    let mut gate = Gate::new(&jwt(", forward: false"));
    let bearer = format!("Bearer {}", token(&claims("a")));
    assert_eq!(gate.get(&[("authorization", &bearer)]).sent("authorization"), None);
    // What is remembered of a token does not survive a change of what is asked of it.
    gate.reload(&jwt(", scopes: [a, b]"));
    for _ in 0..2 {
        let refused = gate.get(&[("authorization", &bearer)]).result.unwrap_err();
        assert_eq!(refused.status(), 403);
        assert_eq!(refused.header().unwrap().1, "Bearer realm=\"torana\", error=\"insufficient_scope\", scope=\"a b\"");
    }
}

#[test]
fn another_key_ends_what_the_old_one_said() {
    let mut gate = Gate::new(&jwt(""));
    let bearer = format!("Bearer {}", token(&claims("a")));
    assert_eq!(gate.get(&[("authorization", &bearer)]).code(), "continue");
    gate.reload(&jwt("").replace(SECRET, &SECRET.replace('0', "1")));
    assert_eq!(gate.get(&[("authorization", &bearer)]).code(), "unauthenticated");
}

#[test]
fn every_example_is_a_configuration_that_works() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/examples");
    for kind in super::KINDS {
        let path = folder.join(format!("{kind}.yaml"));
        let (config, report) = crate::config::load(&path).unwrap_or_else(|report| panic!("{report}"));
        assert!(report.found.is_empty(), "{report}");
        let services = Services::new(Clock::default(), Seeds::random()).probing();
        let compiled = Snapshot::compile(&config, None, &services);
        assert!(
            compiled.is_ok_and(|compiled| {
                let mut chains = compiled.snapshot.fallback.kinds().map(|(_, kind)| kind);
                chains.any(|used| used == *kind)
                    // In an `any_of`.
                    || *kind == "anonymous"
                    || config
                        .routes
                        .iter()
                        .any(|route| route.policies.iter().any(|policy| policy.config.kind() == *kind))
            }),
            "{kind}"
        );
    }
}

/// All that the gateway does before it chooses an endpoint: hygiene, host, route, limits of the body.
#[test]
fn a_request_without_policies_is_let_on_without_an_allocation() {
    let gate = Gate::new("[]");
    let mut sent = RequestHeader::build("GET", b"/t/7?a=b", None).unwrap();
    for (name, value) in [("host", "API.example.com:8080"), ("user-agent", "curl/8"), ("accept", "*/*")] {
        sent.append_header(name, value.to_ascii_lowercase()).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut ctx = Context::new(Arc::clone(&gate.snapshot), gate.services.clock.now());
    let info = allocation_counter::measure(|| {
        let admitted = runtime.block_on(crate::proxy::admit::admit(&mut sent, &mut ctx, "torana-1"));
        assert!(matches!(admitted, Ok(Flow::Continue)), "{admitted:?}");
    });
    assert_eq!(info.count_total, 0);
    assert_eq!(&*ctx.host, "api.example.com");
}

#[test]
fn the_chain_allocates_nothing_where_nothing_is_refused() {
    let gate = Gate::new(
        "- ip_restriction: { allow: [192.0.2.0/24] }
- api_key: { header: x-api-key }
- rate_limit: { key: consumer, limits: [1000/s, 100000/h] }
- rate_limit: { key: client_ip, limits: [1000/s] }
- request_size: { max: 1MiB }",
    );
    let mut request = RequestHeader::build("GET", b"/t/7", None).unwrap();
    request.append_header("x-api-key", "key-1").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The second request: the first one makes the counters of its key.
    let counts = [(); 2].map(|()| {
        let mut ctx = gate.context(&request);
        let chain = ctx.route.as_ref().unwrap().chain.clone();
        let mut sent = request.clone();
        let info = allocation_counter::measure(|| {
            assert!(matches!(runtime.block_on(chain.on_request(&mut sent, &mut ctx)), Ok(Flow::Continue)));
        });
        info.count_total
    });
    assert_eq!(counts[1], 0, "{counts:?}");
}
