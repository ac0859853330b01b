//! `request_headers` and `response_headers`: what the file says is changed, and a request cannot make more of it.

use crate::{
    policies::{config, start},
    support::{Gateway, Reply, Upstream, request, torana},
};

/// The values of a header, in the order in which they came.
fn all<'a>(headers: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}

#[test]
fn headers_of_a_request_are_removed_set_and_added() {
    let (gateway, up) = start(
        "{ request_headers: { remove: [x-a, x-old], set: { x-b: new, x-new: \"{header.x-old}\" }, add: { x-c: second, x-a: \"1\" } } }",
    );
    let sent = [("X-A", "a"), ("x-a", "b"), ("X-B", "b"), ("X-C", "first"), ("X-Old", "kept"), ("X-D", "d")];
    for method in ["GET", "HEAD", "OPTIONS", "PUT"] {
        assert_eq!(gateway.send(method, "/", &sent).status, 200);
        let seen = up.last();
        assert_eq!(all(&seen.headers, "x-a"), ["1"], "{method}");
        assert_eq!(all(&seen.headers, "x-b"), ["new"]);
        assert_eq!(all(&seen.headers, "x-c"), ["first", "second"]);
        assert_eq!(all(&seen.headers, "x-new"), ["kept"]);
        assert_eq!(all(&seen.headers, "x-d"), ["d"]);
        assert!(all(&seen.headers, "x-old").is_empty());
    }
}

#[test]
fn every_placeholder_is_filled_in() {
    let (gateway, up) = start(
        r#"{ api_key: {} }, { request_id: {} }, { request_headers: { set: { x-all: "{request_id} {client_ip} {host} {method} {scheme} {path} {query} {route} {consumer} {header.x-h} {query.q} {cookie.c} {path.rest} {{}}" } } }"#,
    );
    let sent = [("X-Api-Key", "key-1"), ("Host", "Api.Example:80"), ("X-H", "1"), ("x-h", "2"), ("Cookie", "b=0; c=5")];
    assert_eq!(gateway.send("PUT", "/a/b?q=%203&p=1", &sent).status, 200);
    let seen = up.only();
    let id = seen.header("x-request-id").unwrap();
    let wanted = format!("{id} 127.0.0.1 api.example PUT http /a/b ?q=%203&p=1 r mobile 1, 2 %203 5 a/b {{}}");
    assert_eq!(seen.header("x-all"), Some(wanted.as_str()));
}

#[test]
fn what_is_not_there_never_leaves_a_clients_own_in_its_place() {
    let (gateway, up) = start(
        r#"{ request_headers: { set: { x-user: "{header.x-none}", x-q: "{query.q}", x-c: "{cookie.c}", x-e: "" }, add: { x-add: "{header.x-none}" } } }"#,
    );
    let forged = [("X-User", "root"), ("X-Q", "root"), ("X-C", "root"), ("X-E", "root"), ("X-Other", "kept")];
    for (target, cookie) in [("/", "a=1"), ("/?q=1&q=2", "c=1; c=2"), ("/?Q=1", "C=1"), ("/?q=", "c=")] {
        assert_eq!(gateway.send("GET", target, &[&forged[..], &[("Cookie", cookie)]].concat()).status, 200);
        let seen = up.last();
        assert!(!seen.head.contains("root"), "{target} {cookie}\n{}", seen.head);
        assert_eq!((seen.header("x-q"), seen.header("x-c"), seen.header("x-other")), (None, None, Some("kept")));
        assert!(all(&seen.headers, "x-add").is_empty());
    }
}

#[test]
fn a_request_cannot_make_a_second_header_of_a_value() {
    let up = Upstream::named("up");
    let template = "\"<{query.q}|{query}|{path}|{path.rest}|{header.x-h}|{cookie.c}|{host}>\"";
    let policies = format!(
        "{{ request_headers: {{ set: {{ x-all: {template} }} }} }}, {{ response_headers: {{ set: {{ x-back: {template} }} }} }}"
    );
    let gateway = Gateway::start(&config(&up, &policies));
    let evil = "%0d%0aX-Evil:%201";
    for (target, headers) in [
        (format!("/a?q={evil}"), vec![]),
        (format!("/a?q=1%0a{evil}&q%0d%0ax=2"), vec![("X-H", "a%0d%0aX-Evil: 1"), ("Cookie", "c=%0d%0aX-Evil: 1")]),
        ("/a?q=\u{e9}".into(), vec![("X-H", "\u{e9}\u{85}"), ("Cookie", "c=\u{2028}x-evil")]),
        ("/%E5%98%8A%E5%98%8DX-Evil:1".into(), vec![("X-H", "\u{560a}\u{560d}X-Evil:1")]),
        ("/a?q=\tb".into(), vec![("X-H", "\tb\t")]),
    ] {
        let before = up.seen().len();
        let answer = gateway.send("GET", &target, &headers);
        if answer.status == 400 {
            assert_eq!(up.seen().len(), before, "{target}");
            continue;
        }
        assert_eq!(answer.status, 200, "{target} {answer:?}");
        assert_eq!(answer.header("x-evil"), None, "{answer:?}");
        let seen = up.last();
        assert_eq!(seen.header("x-evil"), None, "{}", seen.head);
        assert_eq!(all(&seen.headers, "x-all").len(), 1);
        assert_eq!(answer.header("x-back"), seen.header("x-all"), "{}", seen.head);
        assert!(seen.header("x-all").unwrap().bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte)));
    }
    assert!(!up.seen().is_empty());
    let before = up.seen().len();
    for bytes in [
        format!("GET /a{evil} HTTP/1.1\r\nHost: test\r\n\r\n"),
        "GET /a?q=\rX-Evil: HTTP/1.1\r\nHost: test\r\n\r\n".into(),
        "GET /a HTTP/1.1\r\nHost: test\r\nX-H: a\rX-Evil: 1\r\n\r\n".into(),
        "GET /a HTTP/1.1\r\nHost: test\r\nX-H: a\nX-Evil: 1\r\n\r\n".into(),
        "GET /a HTTP/1.1\r\nHost: test\r\nX-H: a\0b\r\n\r\n".into(),
    ] {
        let mut client = gateway.client();
        client.write(bytes.as_bytes());
        assert_eq!(client.read().status, 400, "{bytes:?}");
    }
    assert_eq!(up.seen().len(), before);
}

#[test]
fn the_file_cannot_set_what_only_the_gateway_may_say() {
    let folder = tempfile::tempdir().unwrap();
    let up = Upstream::named("up");
    for (policy, name) in [
        ("request_headers: { set: { x-consumer-id: root } }", "x-consumer-id"),
        ("request_headers: { add: { X_Consumer_Groups: \"{header.x-a}\" } }", "x_consumer_groups"),
        ("request_headers: { remove: [X-Consumer-Subject] }", "x-consumer-subject"),
        ("request_headers: { set: { content-length: \"7\" } }", "content-length"),
        ("request_headers: { set: { transfer-encoding: chunked } }", "transfer-encoding"),
        ("request_headers: { set: { Connection: \"{header.x-a}\" } }", "connection"),
        ("request_headers: { set: { host: \"{header.x-a}\" } }", "host"),
        ("response_headers: { set: { content-length: \"7\" } }", "content-length"),
        ("response_headers: { add: { transfer-encoding: chunked } }", "transfer-encoding"),
        ("request_id: { header: x-consumer-id }", "x-consumer-id"),
        ("api_key: { header: x-consumer-id }", "x-consumer-id"),
    ] {
        let path = folder.path().join("torana.yaml");
        let listeners = "listeners: [{ address: \"127.0.0.1:0\" }]\n";
        std::fs::write(&path, listeners.to_owned() + &config(&up, &format!("{{ {policy} }}"))).unwrap();
        let output = torana().arg("check").arg("-c").arg(&path).output().unwrap();
        assert!(!output.status.success(), "{policy}");
        let text = String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap();
        assert!(text.to_lowercase().contains(name), "{policy}: {text}");
    }
}

#[test]
fn headers_of_a_response_are_removed_set_and_added_whoever_answers() {
    let up = Upstream::start(|request| match request.target.as_str() {
        "/broken" => Reply::hang_up(),
        _ => Reply::ok("up").header("Server", "secret/1.0").header("X-Powered-By", "php").header("X-A", "1"),
    });
    let gateway = Gateway::start(&config(
        &up,
        r#"{ api_key: {} }, { response_headers: { remove: [server, x-powered-by], set: { x-route: "{route}", x-from: "{method} {path}" }, add: { x-a: "2" } } }"#,
    ));
    let key = [("X-Api-Key", "key-1")];
    for method in ["GET", "HEAD", "OPTIONS", "DELETE"] {
        let answer = gateway.send(method, "/x", &key);
        assert_eq!((answer.status, answer.header("server"), answer.header("x-powered-by")), (200, None, None));
        assert_eq!(answer.header("x-route"), Some("r"));
        assert_eq!(answer.header("x-from"), Some(format!("{method} /x").as_str()));
        assert_eq!(all(&answer.headers, "x-a"), ["1", "2"]);
    }
    let answer = gateway.send("GET", "/broken", &key);
    assert_eq!((answer.status, answer.header("x-from")), (502, Some("GET /broken")));
    let answer = gateway.get("/x");
    assert_eq!((answer.status, answer.header("x-route")), (401, Some("r")));
    assert_eq!(answer.header("x-from"), None, "it was refused before");
    assert_eq!(answer.header("server"), None);
}

#[test]
fn policies_for_every_route_change_answers_that_no_route_gives() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\npolicies: [{{ response_headers: {{ set: {{ strict-transport-security: max-age=1 }} }} }}]\nroutes: [{{ name: a, match: {{ path: /a, methods: [GET] }}, upstream: up }}]\n",
        up.address()
    ));
    for (method, path, status) in [("GET", "/a", 200), ("GET", "/b", 404), ("DELETE", "/a", 405), ("GET", "/%", 400)] {
        let answer = gateway.send(method, path, &[]);
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("strict-transport-security"), Some("max-age=1"), "{path}");
    }
    let mut client = gateway.client();
    client.write(b"GET /a HTTP/1.1\r\nHost: test\r\nHost: test\r\n\r\n");
    assert_eq!(client.read().header("strict-transport-security"), Some("max-age=1"));
}

#[test]
fn what_the_gateway_says_about_the_way_of_a_request_cannot_be_changed_by_the_client() {
    let (gateway, up) = start("{ request_headers: { set: { x-forwarded-prefix: /api } } }");
    let forged = [
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Forwarded-Port", "1"),
        ("X-Real-Ip", "10.0.0.1"),
        ("Forwarded", "for=10.0.0.1"),
    ];
    let mut client = gateway.client();
    client.write(request("GET", "/", &forged).as_bytes());
    assert_eq!(client.read().status, 200);
    let seen = up.only();
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), None);
    assert_eq!(seen.header("x-forwarded-prefix"), Some("/api"), "the file's own is no claim of the client");
    assert!(!seen.head.contains("evil") && !seen.head.contains("10.0.0.1"), "{}", seen.head);
}
