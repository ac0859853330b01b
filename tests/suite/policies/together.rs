//! Policies with each other, with redirects and tries, and over the life of a connection.

use jsonwebtoken::Algorithm::HS256;
use serde_json::json;

use super::tokens::{Signer, claims};
use crate::{
    policies::{config, start},
    support::{Client, Gateway, Reply, Response, Upstream, request},
};

fn send(client: &mut Client, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    client.write(request(method, path, headers).as_bytes());
    client.read_answer_to(method)
}

#[test]
fn nothing_of_a_caller_stays_on_the_connection() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        r#"
upstreams: {{ up: {{ endpoints: ["{}"] }} }}
consumers: {{ mobile: {{ api_keys: [key-1] }} }}
routes:
  - {{ name: a, match: {{ path: /a }}, policies: [{{ api_key: {{}} }}, {{ request_size: {{ max: 4B }} }}], upstream: up }}
  - {{ name: b, match: {{ path: /b }}, upstream: up }}
"#,
        up.address()
    ));
    let mut client = gateway.client();
    for _ in 0..3 {
        assert_eq!(send(&mut client, "GET", "/a", &[("X-Api-Key", "key-1")]).status, 200);
        assert_eq!(up.last().header("x-consumer-id"), Some("mobile"));
        assert_eq!(send(&mut client, "GET", "/b", &[]).status, 200);
        assert_eq!(up.last().header("x-consumer-id"), None);
        assert_eq!(send(&mut client, "GET", "/a", &[]).status, 401);
        client.write((request("POST", "/b", &[("Content-Length", "9")]) + "123456789").as_bytes());
        assert_eq!(client.read_answer_to("POST").status, 200);
    }
}

#[test]
fn stages_say_the_order_and_not_the_file() {
    let (gateway, up) = start(
        r#"{ response_headers: { set: { x-id: "{request_id}" } } }, { request_headers: { set: { x-who: "{consumer}", x-key: "{header.x-api-key}" } } },
           { rate_limit: { key: consumer, limits: [2/h] } }, { api_key: {} }, { request_size: { max: 4B } }, { request_id: { trust: true } }"#,
    );
    let sent = [("X-Api-Key", "key-1"), ("X-Request-Id", "mine"), ("X-Who", "root")];
    let answer = gateway.send("GET", "/", &sent);
    assert_eq!(
        (answer.status, answer.header("x-id"), answer.header("x-request-id")),
        (200, Some("mine"), Some("mine"))
    );
    assert_eq!((up.only().header("x-who"), up.only().header("x-key")), (Some("mobile"), None));
    assert_eq!(gateway.send("POST", "/", &[("Content-Length", "5")]).problem(), "body_too_large", "before the key");
    let policies = &gateway.status()["routes"][0]["policies"];
    let wanted = ["request_size", "request_id", "api_key", "rate_limit", "response_headers", "request_headers"];
    assert_eq!(policies, &json!(wanted));
}

#[test]
fn a_redirect_asks_for_the_key_and_counts_too() {
    let gateway = Gateway::start(
        r#"
consumers: { mobile: { api_keys: [key-1] } }
routes:
  - name: r
    match: { path: "/old/{rest...}" }
    policies: [{ api_key: {} }, { rate_limit: { key: consumer, limits: [2/h] } }, { request_id: {} }]
    redirect: { to: "/new/{path.rest}" }
"#,
    );
    assert_eq!(gateway.get("/old/x").status, 401);
    assert_eq!(gateway.get("/old/x").header("location"), None);
    for _ in 0..2 {
        let answer = gateway.send("GET", "/old/x", &[("X-Api-Key", "key-1")]);
        assert_eq!(answer.header("location"), Some("/new/x"), "{answer:?}");
        assert!(answer.header("ratelimit").is_some() && answer.header("x-request-id").is_some());
    }
    assert_eq!(gateway.send("HEAD", "/old/x", &[("X-Api-Key", "key-1")]).status, 429);
}

#[test]
fn a_key_in_the_query_goes_neither_into_a_redirect_nor_into_a_rewritten_path() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        r#"
upstreams: {{ up: {{ endpoints: ["{}"] }} }}
consumers: {{ mobile: {{ api_keys: [key-1] }} }}
policies: [{{ api_key: {{ query: k }} }}]
routes:
  - {{ name: a, match: {{ path: "/a/{{rest...}}" }}, redirect: {{ to: "https://b.example/{{path.rest}}{{query}}" }} }}
  - {{ name: b, match: {{ path: "/b/{{rest...}}" }}, rewrite: {{ path: "/c/{{rest}}" }}, upstream: up }}
"#,
        up.address()
    ));
    assert_eq!(gateway.get("/a/x?k=key-1&q=1").header("location"), Some("https://b.example/x?q=1"));
    assert_eq!(gateway.get("/b/x?q=1&%6B=key-1").status, 200);
    assert_eq!(up.only().target, "/c/x?q=1");
}

#[test]
fn a_request_that_is_tried_again_is_counted_and_changed_once() {
    let broken = Upstream::start(|_| Reply::hang_up());
    let good = Upstream::start(|_| Reply::ok("good").header("X-B", "1"));
    let gateway = Gateway::start(&format!(
        r#"
upstreams: {{ up: {{ endpoints: ["{}", "{}"] }} }}
consumers: {{ mobile: {{ api_keys: [key-1] }} }}
routes:
  - name: r
    policies:
      - api_key: {{}}
      - rate_limit: {{ key: consumer, limits: [10/h] }}
      - request_headers: {{ add: {{ x-a: "1" }} }}
      - response_headers: {{ add: {{ x-b: "2" }} }}
    upstream: up
"#,
        broken.address(),
        good.address()
    ));
    let mut left = 10;
    while broken.seen().is_empty() || good.seen().len() < 2 {
        left -= 1;
        let answer = gateway.send("GET", "/", &[("X-Api-Key", "key-1")]);
        assert_eq!((answer.status, answer.text().as_str()), (200, "good"));
        assert!(answer.header("ratelimit").unwrap().contains(&format!(";r={left};")), "{answer:?}");
        let added: Vec<_> = answer.headers.iter().filter(|(name, _)| name == "x-b").collect();
        assert_eq!(added.len(), 2, "{added:?}");
        for seen in [broken.seen(), good.seen()].concat() {
            assert_eq!((seen.header("x-a"), seen.header("x-consumer-id")), (Some("1"), Some("mobile")));
        }
    }
}

#[test]
fn a_preflight_is_answered_where_only_other_methods_are_allowed() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes: [{{ name: r, match: {{ path: /a, methods: [PUT] }}, policies: [{{ cors: {{ origins: [\"https://a.example\"] }} }}, {{ api_key: {{}} }}], upstream: up }}]\n",
        up.address()
    ));
    let ask = |method: &str| {
        let answer = gateway.send(
            "OPTIONS",
            "/a",
            &[("Origin", "https://a.example"), ("Access-Control-Request-Method", method)],
        );
        (answer.status, answer.header("access-control-allow-origin").is_some())
    };
    assert_eq!(ask("PUT"), (204, true));
    assert_eq!(ask("DELETE"), (405, false));
    assert_eq!(gateway.send("OPTIONS", "/a", &[("Origin", "https://a.example")]).status, 405);
    assert!(up.seen().is_empty());
}

#[test]
fn old_requests_and_upgrades_are_no_way_around_either() {
    let (gateway, up) = start("{ api_key: {} }");
    for (bytes, status) in [
        ("GET / HTTP/1.0\r\n\r\n", 401),
        ("HEAD / HTTP/1.0\r\nX-Api-Key: wrong\r\n\r\n", 401),
        ("GET / HTTP/1.0\r\nHost: test\r\nX-Api-Key: key-1\r\n\r\n", 200),
    ] {
        let mut client = gateway.client();
        client.write(bytes.as_bytes());
        let method = bytes.split(' ').next().unwrap();
        assert_eq!(client.read_answer_to(method).status, status, "{bytes}");
    }
    let upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")];
    assert_eq!(gateway.send("GET", "/", &upgrade).status, 401);
    assert_eq!(gateway.send("GET", "/", &[("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c")]).status, 401);
    assert_eq!(up.seen().len(), 1);
}

#[test]
fn fields_behind_a_body_are_no_headers() {
    let (gateway, up) = start("{ api_key: {} }");
    let mut client = gateway.client();
    let sent = [("X-Api-Key", "key-3"), ("Transfer-Encoding", "chunked"), ("Trailer", "X-Consumer-Id")];
    client.write(request("POST", "/", &sent).as_bytes());
    client.write(b"2\r\nhi\r\n0\r\nX-Consumer-Id: root\r\nX-Api-Key: key-1\r\n\r\n");
    assert_eq!(client.read_answer_to("POST").status, 200);
    let seen = up.only();
    assert_eq!((seen.header("x-consumer-id"), seen.body.as_slice()), (Some("web"), &b"hi"[..]));
    // The key behind the body is not one either.
    let mut client = gateway.client();
    client.write(request("POST", "/", &[("Transfer-Encoding", "chunked")]).as_bytes());
    client.write(b"2\r\nhi\r\n0\r\nX-Api-Key: key-1\r\n\r\n");
    assert_eq!(client.read_answer_to("POST").status, 401);
    assert_eq!(gateway.send("GET", "/", &[("X-Api-Key", "key-1")]).status, 200);
    assert_eq!(up.seen().len(), 2);
    assert!(up.seen().iter().all(|seen| !seen.head.contains("root")), "{:#?}", up.seen());
}

#[test]
fn the_log_says_who_called_and_no_caller_writes_a_line() {
    let signer = Signer::new(HS256);
    let up = Upstream::named("up");
    let jwt = format!("{{ jwt: {{ audience: orders, keys: [{}] }} }}", signer.entry("k"));
    let gateway = Gateway::start(&("telemetry: { access_log: {} }\n".to_owned() + &config(&up, &jwt)));
    let mut evil = claims();
    evil["sub"] = json!("bob\n{\"status\":200,\"consumer\":\"root\"}\u{1b}[31m\u{2028}");
    for (i, (claims, consumer)) in [(&claims(), &json!("web")), (&evil, &evil["sub"])].into_iter().enumerate() {
        let bearer = format!("Bearer {}", signer.token("k", claims));
        assert_eq!(gateway.send("GET", "/", &[("Authorization", &bearer)]).status, 200);
        assert_eq!(&gateway.access_lines(i + 1)[i]["consumer"], consumer);
    }
    assert_eq!(gateway.get("/").status, 401);
    let line = gateway.access_lines(3).remove(2);
    assert!(line.get("consumer").is_none(), "{line}");
    assert!(!gateway.log().contains('\u{1b}'));
}

#[test]
fn what_was_found_out_about_a_token_ends_with_the_configuration() {
    let signer = Signer::new(HS256);
    let up = Upstream::named("up");
    let file =
        |rules: &str| config(&up, &format!("{{ jwt: {{ audience: orders{rules}, keys: [{}] }} }}", signer.entry("k")));
    let gateway = Gateway::start(&file(""));
    let bearer = format!("Bearer {}", signer.good("k"));
    let ask = || gateway.send("GET", "/", &[("Authorization", &bearer)]).status;
    assert_eq!((ask(), ask()), (200, 200));
    assert_eq!(up.last().header("x-consumer-id"), Some("web"));
    gateway.reload(&file("").replace("tokens: [{ issuer: \"https://idp\", subject: alice }]", "groups: [none]"));
    assert_eq!(ask(), 200);
    assert_eq!((up.last().header("x-consumer-id"), up.last().header("x-consumer-subject")), (None, Some("alice")));
    for (rules, status) in
        [(", scopes: [admin]", 403), (", issuer: \"https://other\"", 401), (", scopes: [orders.read]", 200), ("", 200)]
    {
        gateway.reload(&file(rules));
        assert_eq!(ask(), status, "{rules}");
    }
    gateway.reload(&file("").replace("audience: orders", "audience: other"));
    assert_eq!(ask(), 401);
    gateway.reload(&file("").replace("a-secret-of", "another-secret"));
    assert_eq!(ask(), 401);
}
