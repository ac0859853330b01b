//! Which upstream gets a request, and what it sees of it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::support::{
    Client, Gateway, Reply, Upstream, request,
    web_socket::{SWITCH, frame, upgraded},
};

/// Two upstreams, `one` and `two`, that answer with their names.
fn gateway(routes: &str) -> (Gateway, Upstream, Upstream) {
    let (one, two) = (Upstream::named("one"), Upstream::named("two"));
    let yaml = format!(
        "upstreams:\n  one: {{ endpoints: [\"{}\"] }}\n  two: {{ endpoints: [\"{}\"] }}\nroutes:\n{routes}",
        one.address(),
        two.address()
    );
    (Gateway::start(&yaml), one, two)
}

#[test]
fn a_request_reaches_its_upstream_and_the_answer_its_client() {
    let (gateway, one, _) = gateway("  - { name: r, upstream: one }\n");
    let answer = gateway.send("GET", "/a/b?c=d", &[("X-Mine", "yes")]);
    assert_eq!((answer.status, answer.text().as_str()), (200, "one"));
    let seen = one.only();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/a/b?c=d"));
    assert_eq!(seen.header("x-mine"), Some("yes"));
    assert_eq!(seen.header("host"), Some("test"));
}

#[test]
fn bodies_go_through_in_both_directions_with_length_and_chunked() {
    let echo = Upstream::start(|request| Reply::ok(request.body.clone()));
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        echo.address()
    ));
    let big = "0123456789abcdef".repeat(40_000);
    let mut client = gateway.client();
    let length = big.len().to_string();
    client.write(request("POST", "/", &[("Content-Length", &length)]).as_bytes());
    client.write(big.as_bytes());
    assert_eq!(client.read_answer_to("POST").text(), big);
    client.write(request("POST", "/", &[("Transfer-Encoding", "chunked")]).as_bytes());
    client.write(b"5\r\nhello\r\n");
    client.write(b"6\r\n world\r\n0\r\n\r\n");
    assert_eq!(client.read_answer_to("POST").text(), "hello world");
}

#[test]
fn a_connection_is_used_for_many_requests_in_both_directions() {
    let (gateway, one, _) = gateway("  - { name: r, upstream: one }\n");
    let mut client = gateway.client();
    for _ in 0..50 {
        assert_eq!(client.get("/").status, 200);
    }
    // Workers do not share their connections.
    assert!(one.connections() <= 2, "{}", one.connections());
}

#[test]
fn hosts_are_matched_exactly_then_by_wildcard_then_any() {
    let (gateway, _one, _two) = gateway(
        "  - { name: a, match: { hosts: [api.example.com] }, upstream: one }\n  - { name: b, match: { hosts: [\"*.example.com\"] }, upstream: two }\n",
    );
    for (host, answer) in [
        ("api.example.com", "one"),
        ("API.Example.Com:8080", "one"),
        ("api.example.com.", "one"),
        ("www.example.com", "two"),
        ("a.b.example.com", "two"),
    ] {
        assert_eq!(gateway.send("GET", "/", &[("Host", host)]).text(), answer, "{host}");
    }
    for host in ["example.com", "example.org", "api.example.com.evil"] {
        assert_eq!(gateway.send("GET", "/", &[("Host", host)]).problem(), "route_not_found", "{host}");
    }
}

#[test]
fn paths_are_matched_exact_before_template_before_prefix_before_expression() {
    let (gateway, _one, _two) = gateway(
        "  - { name: x, match: { path: { regex: \"/o/.*\" } }, redirect: { to: /regex } }\n  - { name: p, match: { path: { prefix: /o/p } }, redirect: { to: /prefix } }\n  - { name: t, match: { path: \"/o/{id}\" }, redirect: { to: \"/template/{path.id}\" } }\n  - { name: e, match: { path: /o/1 }, redirect: { to: /exact } }\n  - { name: u, match: { path: /other }, upstream: one }\n  - { name: v, match: { path: /two }, upstream: two }\n",
    );
    for (path, location) in [
        ("/o/1", "/exact"),
        ("/o/2", "/template/2"),
        ("/o/p", "/template/p"),
        ("/o/p/q", "/prefix"),
        ("/o/q/r", "/regex"),
    ] {
        assert_eq!(gateway.get(path).header("location"), Some(location), "{path}");
    }
    assert_eq!(gateway.get("/p").problem(), "route_not_found");
}

#[test]
fn methods_headers_and_query_decide_between_routes_of_one_path() {
    let (gateway, _one, _two) = gateway(
        "  - { name: a, match: { path: /a, headers: { x-version: \"2\" } }, upstream: two }\n  - { name: b, match: { path: /a, query: { beta: { present: true } } }, upstream: two }\n  - { name: c, match: { path: /a, methods: [POST] }, upstream: two }\n  - { name: d, match: { path: /a }, upstream: one }\n",
    );
    assert_eq!(gateway.get("/a").text(), "one");
    assert_eq!(gateway.get("/a?beta").text(), "two");
    assert_eq!(gateway.get("/a?%62eta=1").text(), "two");
    assert_eq!(gateway.get("/a?alpha").text(), "one");
    assert_eq!(gateway.send("POST", "/a", &[("Content-Length", "0")]).text(), "two");
    assert_eq!(gateway.send("GET", "/a", &[("X-Version", "2")]).text(), "two");
    assert_eq!(
        gateway.send("GET", "/a", &[("X-Version", "2"), ("X-Version", "3")]).status,
        400,
        "servers differ in which they take"
    );
}

#[test]
fn a_wrong_method_is_405_with_the_right_ones() {
    let (gateway, one, two) = gateway(
        "  - { name: a, match: { path: /a, methods: [GET, PUT] }, upstream: one }\n  - { name: all, upstream: two }\n",
    );
    let answer = gateway.send("DELETE", "/a", &[]);
    assert_eq!(answer.problem(), "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("GET, HEAD, PUT"));
    assert_eq!(gateway.send("HEAD", "/a", &[]).status, 200);
    assert_eq!(one.seen().len(), 1);
    assert!(two.seen().is_empty(), "a catch-all does not take it");
    assert_eq!(gateway.send("DELETE", "/b", &[]).text(), "two");
}

#[test]
fn methods_that_no_gateway_passes_on_are_refused() {
    let (gateway, one, _) =
        gateway("  - { name: r, upstream: one }\n  - { name: s, match: { path: /s }, upstream: two }\n");
    for (method, status) in [("CONNECT", 405), ("TRACE", 405)] {
        let answer = gateway.send(method, "/", &[]);
        assert_eq!((answer.status, answer.problem().as_str()), (status, "method_not_supported"));
    }
    assert!(one.seen().is_empty());
}

#[test]
fn prefixes_are_stripped_and_replaced_and_paths_built_from_parameters() {
    let (gateway, one, _) = gateway(
        "  - { name: s, match: { path: { prefix: /api } }, rewrite: { strip_prefix: /api }, upstream: one }\n  - { name: r, match: { path: { prefix: /old } }, rewrite: { replace_prefix: { from: /old, to: /new/x } }, upstream: one }\n  - { name: t, match: { path: \"/v1/orders/{id}\" }, rewrite: { path: \"/orders/{id}\" }, upstream: one }\n  - { name: u, match: { path: \"/users/{id}/{rest...}\" }, rewrite: { path: \"/{rest}/of/{id}\" }, upstream: two }\n",
    );
    for (path, target) in [
        ("/api/orders?a=1", "/orders?a=1"),
        ("/api", "/"),
        ("/api?x", "/?x"),
        ("/old/a", "/new/x/a"),
        ("/old", "/new/x"),
        ("/v1/orders/7?x=%2F", "/orders/7?x=%2F"),
        ("/v1/orders/a%20b", "/orders/a%20b"),
    ] {
        assert_eq!(gateway.get(path).status, 200, "{path}");
        assert_eq!(one.last().target, target, "{path}");
    }
}

#[test]
fn a_rewritten_path_cannot_leave_its_place() {
    let (gateway, one, _) = gateway(
        "  - { name: t, match: { path: \"/files/{name}\" }, rewrite: { path: \"/public/{name}\" }, upstream: one }\n  - { name: o, match: { path: /other }, upstream: two }\n",
    );
    for path in ["/files/..%2fsecret", "/files/%2e%2e%5csecret", "/files/..;/secret", "/files/a%00b"] {
        assert_eq!(gateway.get(path).status, 400, "{path}");
    }
    assert_eq!(gateway.get("/files/x/../../secret").problem(), "route_not_found");
    assert!(one.seen().is_empty());
}

#[test]
fn the_path_that_was_matched_is_the_one_that_the_upstream_sees() {
    let (gateway, one, two) = gateway(
        "  - { name: admin, match: { path: { prefix: /admin } }, upstream: two }\n  - { name: all, upstream: one }\n",
    );
    for path in
        ["/public/../admin", "/public/%2e%2e/admin", "/./admin", "//admin", "/%61dmin", "/x/..//admin", "/admin"]
    {
        assert_eq!(gateway.get(path).text(), "two", "{path}");
        assert_eq!(two.last().target, "/admin", "{path}");
    }
    for path in
        ["/public/..%2fadmin", "/public%2f..%2fadmin", "/public/..;/admin", "/public%5c..%5cadmin", "/a%zz", "/%c0%af"]
    {
        assert_eq!(gateway.get(path).problem(), "bad_path", "{path}");
    }
    assert!(one.seen().is_empty());
}

#[test]
fn the_target_may_be_absolute_and_goes_on_in_origin_form() {
    let (gateway, one, _) = gateway(
        "  - { name: r, match: { hosts: [a.example] }, upstream: one }\n  - { name: s, match: { path: /s }, upstream: two }\n",
    );
    let mut client = gateway.client();
    client.write(b"GET http://a.example/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(client.read().status, 200);
    assert_eq!(one.only().target, "/x?y");
    let mut client = gateway.client();
    client.write(b"GET http://b.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(client.read().status, 400);
    for target in ["noslash", "*", "a.example:80", "ftp://a.example/"] {
        let mut client = gateway.client();
        client.write(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n").as_bytes());
        assert_eq!(client.read().status, 400, "{target}");
    }
    assert_eq!(one.seen().len(), 1);
}

#[test]
fn the_host_is_kept_or_set() {
    let (gateway, one, two) = gateway(
        "  - { name: k, match: { path: /keep }, host: keep, upstream: one }\n  - { name: s, match: { path: /set }, host: { set: \"internal:8080\" }, upstream: two }\n",
    );
    gateway.send("GET", "/keep", &[("Host", "Public.example:99")]);
    assert_eq!(one.only().header("host"), Some("Public.example:99"));
    gateway.send("GET", "/set", &[("Host", "public.example")]);
    let seen = two.only();
    assert_eq!(seen.header("host"), Some("internal:8080"));
    assert_eq!(seen.header("x-forwarded-host"), Some("public.example"));
}

#[test]
fn a_redirect_fills_in_its_placeholders() {
    let (gateway, one, two) = gateway(
        "  - { name: a, match: { path: \"/v1/{rest...}\" }, redirect: { to: \"https://{host}/v2/{path.rest}{query}\", status: 301 } }\n  - { name: b, match: { path: /b }, redirect: { to: /c } }\n  - { name: c, upstream: one }\n  - { name: d, match: { path: /d }, upstream: two }\n",
    );
    let answer = gateway.send("GET", "/v1/a/b?c=d", &[("Host", "x.example")]);
    assert_eq!((answer.status, answer.header("location")), (301, Some("https://x.example/v2/a/b?c=d")));
    let answer = gateway.get("/b");
    assert_eq!(
        (answer.status, answer.header("location"), answer.header("content-length")),
        (308, Some("/c"), Some("0"))
    );
    assert!(one.seen().is_empty() && two.seen().is_empty());
}

/// Names of headers are the same in all letters (RFC 9110, 5.1); there are servers that do not know.
#[test]
fn names_of_headers_go_on_in_small_letters_or_as_they_were_sent() {
    let (one, two) = (Upstream::named("one"), Upstream::named("two"));
    let gateway = Gateway::start(&format!(
        "upstreams:\n  one: {{ endpoints: [\"{}\"] }}\n  two: {{ endpoints: [\"{}\"], header_names: as_sent }}\nroutes:\n  - {{ name: r, upstream: one }}\n  - {{ name: s, match: {{ path: /s }}, upstream: two }}\n",
        one.address(),
        two.address()
    ));
    for path in ["/", "/s"] {
        gateway.send("GET", path, &[("Host", "a"), ("SOAPAction", "x"), ("X-API-Key", "1"), ("X-API-Key", "2")]);
    }
    let (lower, sent) = (one.only(), two.only());
    assert!(lower.head.contains("\r\nsoapaction: x\r\n") && lower.head.contains("\r\nHost: a\r\n"), "{}", lower.head);
    assert!(sent.head.contains("\r\nSOAPAction: x\r\nX-API-Key: 1\r\nX-API-Key: 2\r\n"), "{}", sent.head);
    for seen in [&lower, &sent] {
        let keys = seen.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-api-key"));
        assert_eq!(keys.map(|(_, value)| &**value).collect::<Vec<_>>(), ["1", "2"], "{}", seen.head);
        for name in ["x-forwarded-for", "x-forwarded-proto", "traceparent", "via"] {
            assert!(seen.header(name).is_some(), "{name}: {}", seen.head);
        }
    }
}

#[test]
fn names_of_headers_come_back_in_small_letters_or_as_they_were_sent() {
    let up = Upstream::start(|_| {
        Reply::ok("x").header("SOAPAction", "1").header("X-Two", "2").header("X-Two", "3").header("content-TYPE", "a/b")
    });
    let gateway = Gateway::start(&format!(
        "upstreams:\n  one: {{ endpoints: [\"{0}\"] }}\n  two: {{ endpoints: [\"{0}\"], header_names: as_sent }}\nroutes:\n  - {{ name: r, upstream: one }}\n  - {{ name: s, match: {{ path: /s }}, upstream: two, policies: [{{ response_headers: {{ set: {{ X-Set: \"4\" }} }} }}] }}\n  - {{ name: t, match: {{ path: /t }}, upstream: one, policies: [{{ response_headers: {{ set: {{ X-Set: \"4\" }}, remove: [soapaction] }} }}] }}\n",
        up.address()
    ));
    for (path, wanted, soap) in [
        ("/", &["soapaction: 1", "x-two: 2", "x-two: 3", "Content-Type: a/b"][..], true),
        ("/s", &["SOAPAction: 1", "X-Two: 2", "X-Two: 3", "content-TYPE: a/b", "x-set: 4"], true),
        ("/t", &["x-two: 2", "x-two: 3", "Content-Type: a/b", "x-set: 4"], false),
    ] {
        let mut stream = TcpStream::connect(gateway.address()).unwrap();
        stream.write_all(request("GET", path, &[("Connection", "close")]).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let lines: Vec<_> = answer.lines().collect();
        assert!(wanted.iter().all(|line| lines.contains(line)), "{path}: {answer}");
        assert_eq!(answer.to_ascii_lowercase().contains("soapaction"), soap, "{path}: {answer}");
    }
}

#[test]
fn hop_by_hop_headers_do_not_go_on() {
    let (gateway, one, _) =
        gateway("  - { name: r, upstream: one }\n  - { name: s, match: { path: /s }, upstream: two }\n");
    gateway.send(
        "GET",
        "/",
        &[
            ("Keep-Alive", "timeout=5"),
            ("TE", "trailers"),
            ("Upgrade", "h2c"),
            ("Proxy-Connection", "keep-alive"),
            ("Proxy", "http://evil.example"),
        ],
    );
    let seen = one.only();
    for name in ["keep-alive", "te", "upgrade", "proxy-connection", "proxy"] {
        assert_eq!(seen.header(name), None, "{name}: {}", seen.head);
    }
}

#[test]
fn what_a_client_claims_about_its_way_is_replaced() {
    let (gateway, one, _) =
        gateway("  - { name: r, upstream: one }\n  - { name: s, match: { path: /s }, upstream: two }\n");
    gateway.send(
        "GET",
        "/",
        &[
            ("X-Forwarded-For", "1.2.3.4"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "evil.example"),
            ("X-Forwarded-Port", "1"),
            ("X-Forwarded-Prefix", "/evil"),
            ("X_Forwarded_For", "1.2.3.4"),
            ("X.Forwarded.For", "1.2.3.4"),
            ("X-Real-IP", "1.2.3.4"),
            ("X_Real-IP", "1.2.3.4"),
            ("Forwarded", "for=1.2.3.4"),
            ("X-Original-URL", "/admin"),
        ],
    );
    let seen = one.only();
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), None, "`Host` says it");
    assert!(!seen.head.contains("1.2.3.4") && !seen.head.contains("evil"), "{}", seen.head);
}

#[test]
fn identity_headers_cannot_be_set_by_a_client_in_any_spelling() {
    let (gateway, one, _) =
        gateway("  - { name: r, upstream: one }\n  - { name: s, match: { path: /s }, upstream: two }\n");
    for name in [
        "X-Consumer-Id",
        "x-consumer-id",
        "X_Consumer_Id",
        "X.Consumer.Id",
        "x_consumer-groups",
        "X-CONSUMER-Subject",
        "X-Consumer-Anything",
    ] {
        gateway.send("GET", "/", &[(name, "root"), (name, "admin")]);
        let head = one.last().head.to_ascii_lowercase();
        assert!(!head.contains("consumer") && !head.contains("root"), "{name}: {head}");
    }
}

#[test]
fn a_client_cannot_have_headers_of_the_gateway_removed() {
    let (gateway, one, _) =
        gateway("  - { name: r, upstream: one }\n  - { name: s, match: { path: /s }, upstream: two }\n");
    let mut client = gateway.client();
    client.write(
        request(
            "GET",
            "/",
            &[
                (
                    "Connection",
                    "keep-alive, X-Forwarded-For, Host, Traceparent, Content-Length, Authorization, X-Other",
                ),
                ("Authorization", "Bearer by whoever stands in front"),
                ("X-Other", "1"),
            ],
        )
        .as_bytes(),
    );
    assert_eq!(client.read().status, 200);
    let seen = one.only();
    for name in ["x-forwarded-for", "host", "traceparent", "authorization"] {
        assert!(seen.header(name).is_some(), "{name}: {}", seen.head);
    }
    assert_eq!(seen.header("x-other"), None, "its own it may");
}

#[test]
fn a_request_that_runs_in_a_circle_is_stopped() {
    // The second listener is what the upstream names; the check cannot know that both are the same gateway.
    let file = |port: u16| {
        format!(
            "listeners: [{{ address: \"127.0.0.1:0\" }}, {{ address: \"0.0.0.0:0\" }}]\nupstreams: {{ self: {{ endpoints: [\"127.0.0.1:{port}\"] }} }}\nroutes: [{{ name: r, upstream: self }}]\n"
        )
    };
    let gateway = Gateway::start(&file(1));
    gateway.reload(&file(gateway.listener(1).port()));
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.problem().as_str()), (508, "loop_detected"));
}

#[test]
fn several_listeners_serve_the_same_routes() {
    let one = Upstream::named("one");
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\" }}, {{ address: \"[::1]:0\" }}]\nupstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        one.address()
    ));
    for index in 0..2 {
        let mut client = Client::connect(gateway.listener(index));
        assert_eq!(client.get("/").text(), "one");
    }
    assert_eq!(one.last().header("x-forwarded-for"), Some("::1"));
}

#[test]
fn a_websocket_goes_through_and_its_bytes_are_not_touched() {
    let server = Upstream::start(|request| {
        assert_eq!(request.header("upgrade"), Some("websocket"));
        Reply::raw([SWITCH, &frame(0x82, b"\0hello from the server", false)].concat())
    });
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        server.address()
    ));
    let client = upgraded(&gateway);
    let mut rest = client.peeked().to_vec();
    std::io::Read::read_to_end(&mut client.stream(), &mut rest).unwrap();
    assert_eq!(rest, frame(0x82, b"\0hello from the server", false));
}
