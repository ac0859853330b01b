//! Path and host.

use super::{guarded, guarded_http2, guarded_with, only_saw, refused};
use crate::support::{
    Gateway, Upstream,
    frames::{
        self, CONTINUATION, END_HEADERS, END_STREAM, HEADERS, Outcome, PADDED, PRIORITISED, PUSH_PROMISE, Peer,
        RST_STREAM, WHOLE, field,
    },
    request,
};

const BAD_PATH: (u16, &str) = (400, "bad_path");

/// A frame: its kind, its flags, its stream, its payload.
type Sent<'a> = (u8, u8, u32, &'a [u8]);

/// That these paths are decided like `/admin`: refused without a key, and with it the upstream sees the one form.
#[track_caller]
fn are_admin(paths: &[&str]) {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for path in paths {
        for method in ["GET", "HEAD", "OPTIONS", "POST"] {
            let refusal = gateway.send(method, path, &[("Content-Length", "0")]);
            assert_eq!(refusal.status, 401, "{method} {path}");
        }
        assert_eq!(gateway.get(path).problem(), "unauthenticated", "{path}");
    }
    only_saw(&up, &[]);
    for path in paths {
        assert_eq!(gateway.send("GET", path, &[("X-Api-Key", "a-key-for-tests")]).text(), "up", "{path}");
        assert_eq!(up.last().target, "/admin", "{path}");
    }
}

/// That these paths are refused, with and without a key, and reach no one.
#[track_caller]
fn are_refused(paths: &[&str]) {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for path in paths {
        for key in ["a-key-for-tests", "none"] {
            let answer = gateway.send("GET", path, &[("X-Api-Key", key)]);
            assert_eq!((answer.status, answer.problem().as_str()), BAD_PATH, "{path}");
        }
    }
    only_saw(&up, &[]);
}

#[test]
fn b01_dot_segments_are_resolved_before_anything_is_decided() {
    are_admin(&[
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/.%2E/admin",
        "/public/%2e./admin",
        "/./admin",
        "/%2e/admin",
        "/a/b/../../admin",
        "/admin/../admin",
        "/x/../y/./../admin",
    ]);
    are_refused(&["/public/..%2fadmin", "/..%2Fadmin", "/../admin", "/%2e%2e/admin", "/a/../../admin"]);
}

#[test]
fn b02_slashes_and_parameters_in_disguise_are_refused() {
    are_refused(&[
        "/public%2f..%2fadmin",
        "/%2fadmin",
        "/admin%2f",
        "/admin%2Fx",
        "/public%5c..%5cadmin",
        "/public%5Cadmin",
        "/public\\admin",
        "/public\\..\\admin",
        "/public/..;/admin",
        "/public/..;x=1/admin",
        "/public/..%3b/admin",
        "/public/%2e%2e;/admin",
        "/public/.;/admin",
        "/admin;x=1",
        "/;/admin",
        "/;x/admin",
        "/admin/;",
    ]);
    are_admin(&["//admin", "///admin", "/%61dmin", "/%61%64%6D%69%6e", "/public/..//admin"]);
}

/// Paths are case-sensitive: another spelling is another resource, and the upstream sees it as it was decided.
#[test]
fn b02_another_case_is_another_path_in_decision_and_on_the_wire() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for path in ["/ADMIN", "/Admin", "/%41dmin"] {
        assert_eq!(gateway.get(path).text(), "up", "{path}");
        assert_eq!(up.last().target, path.replace("%41", "A"));
    }
}

#[test]
fn b03_fragments_are_refused_and_question_marks_part_once() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for path in ["/admin#x", "/public#/../admin", "/#", "/?a#b", "/admin?#", "#", "/public#?/../admin"] {
        for key in ["a-key-for-tests", "none"] {
            let answer = gateway.send("GET", path, &[("X-Api-Key", key)]);
            assert_eq!(answer.status, 400, "{path}");
            assert!(["bad_path", "bad_request"].contains(&answer.problem().as_str()), "{path}");
        }
    }
    only_saw(&up, &[]);
    for path in ["/admin?", "/admin?x", "/admin??", "/admin?/../public", "/admin?%2e%2e/public", "/public/../admin?a?b"]
    {
        assert_eq!(gateway.get(path).problem(), "unauthenticated", "{path}");
    }
    only_saw(&up, &[]);
    // What stands behind the first one is not looked at, and goes on as it is.
    for query in ["?", "?x=/../admin", "??", "?a?b=%2F%2e%2E%5c%00", "?%23", "?|'{}"] {
        let path = format!("/public{query}");
        assert_eq!(gateway.get(&path).text(), "up", "{path}");
        assert_eq!(up.last().target, path);
    }
    // An escaped one does not part.
    assert_eq!(gateway.get("/admin%3fx").text(), "up");
    assert_eq!(up.last().target, "/admin%3Fx");
}

/// The `http` crate cuts a fragment off, so it is looked for in the header block, however that is written.
#[test]
fn b03_over_http2_a_fragment_is_refused_too() {
    let up = Upstream::named("up");
    let gateway = guarded_http2(up.address());
    let mut peer = Peer::start(gateway.address());
    let mut stream = 1;
    let mut ask = |frames: &[(u8, u8, Vec<u8>)]| {
        for (kind, flags, payload) in frames {
            peer.frame(*kind, *flags, stream, payload);
        }
        let (status, body) = peer.answer(stream).unwrap();
        stream += 2;
        (status, String::from_utf8(body).unwrap())
    };
    for path in ["/admin#x", "/admin#/../public", "/public#/../admin", "/public?a#/admin", "/public#", "/public?#"] {
        let (status, body) = ask(&[(HEADERS, WHOLE, frames::get(path))]);
        assert_eq!(status, 400, "{path}");
        assert!(body.contains("bad_request"), "{body}");
    }
    // `GET`, `http`, an authority; then `/public#` kept in the table, asked for again, and under its name in the Huffman code.
    let begin = [&[0x82, 0x86, 0x01, 0x01][..], b"x"].concat();
    let kept = [&begin[..], &[0x44, 0x08], b"/public#"].concat();
    let again = [&begin[..], &[0xbe]].concat();
    let coded = [&begin[..], &[0x0f, 62 - 15, 0x84, 0x60, 0x7f, 0xf5, 0x1f]].concat();
    let padded = [&[2][..], &[0, 0, 0, 0, 9], &kept, &[0, 0]].concat();
    let (one, two) = kept.split_at(9);
    for block in [&kept, &again, &coded] {
        assert_eq!(ask(&[(HEADERS, WHOLE, block.clone())]).0, 400, "{block:x?}");
    }
    assert_eq!(ask(&[(HEADERS, WHOLE | PADDED | PRIORITISED, padded)]).0, 400);
    assert_eq!(ask(&[(HEADERS, END_STREAM, one.into()), (CONTINUATION, END_HEADERS, two.into())]).0, 400);
    only_saw(&up, &[]);
    // Everywhere else it is what it is, and an escaped one is a letter like others.
    for path in ["/public", "/public?%23"] {
        let block = [frames::get(path), field("x", "#"), field("cookie", "a=#")].concat();
        assert_eq!(ask(&[(HEADERS, WHOLE, block)]), (200, "up".to_owned()));
        assert_eq!(up.last().target, path);
    }
}

/// What the crate forgives or gives up in its own way, and with it reads what follows in another way than it was looked at.
#[test]
fn b03_over_http2_nothing_gets_a_fragment_past_the_look() {
    let up = Upstream::named("up");
    let gateway = guarded_http2(up.address());
    // `GET`, `https`, an authority, and a path that is kept in the table, or the one that was kept.
    let path = |path: &str| {
        let length = u8::try_from(path.len()).unwrap();
        [&[0x82, 0x87, 0x01, 0x01, b'x', 0x44, length], path.as_bytes()].concat()
    };
    let kept = [&[0x82, 0x87, 0x01, 0x01][..], b"x", &[0xbe]].concat();
    let poison = [&[0x44, 8][..], b"/public#", &field("connection", "x")].concat();
    let promise = [&[0, 0, 0, 2][..], &poison].concat();
    let itself = [&[0, 0, 0, 3, 16][..], &path("/public")].concat();
    let coded = [&[0, 0, 0x87, 0x82, 0x04, 0x04, 0x2f, 0x23, 0x61, 0x61], &[][..]].concat();
    let ways: [&[Sent<'_>]; 4] = [
        &[(HEADERS, END_STREAM, 1, &coded), (CONTINUATION, END_HEADERS, 1, &[1, 1, b'a'])],
        &[
            (HEADERS, WHOLE, 1, &path("/public#")),
            (HEADERS, WHOLE | PRIORITISED, 3, &itself),
            (HEADERS, WHOLE, 5, &kept),
        ],
        &[(HEADERS, WHOLE, 1, &path("/admin")), (HEADERS, END_STREAM, 3, &poison), (HEADERS, WHOLE, 5, &kept)],
        &[(HEADERS, WHOLE, 1, &path("/admin")), (PUSH_PROMISE, END_HEADERS, 3, &promise), (HEADERS, WHOLE, 5, &kept)],
    ];
    for (at, way) in ways.iter().enumerate() {
        let mut peer = Peer::start(gateway.address());
        for (kind, flags, stream, payload) in *way {
            peer.frame(*kind, *flags, *stream, payload);
        }
        peer.flush();
        let mut outcomes = std::iter::from_fn(|| Some(peer.outcome()));
        let end = outcomes.find(|one| matches!(one, Outcome::Goaway(_) | Outcome::Closed | Outcome::Silence));
        let wanted = Outcome::Goaway(if at == 0 { 9 } else { 1 });
        assert_eq!(end, Some(wanted), "{at}");
    }
    only_saw(&up, &[]);
}

/// Requests that are refused for it do not pile up, whoever never waits for the answer.
#[test]
fn fragments_on_streams_that_are_given_up_end_the_connection() {
    let up = Upstream::named("up");
    let gateway = guarded_http2(up.address());
    let mut peer = Peer::start(gateway.address());
    for at in 0..5000 {
        peer.get(at * 2 + 1, "/public#").frame(RST_STREAM, 0, at * 2 + 1, &8_u32.to_be_bytes());
        if !peer.flush() {
            break;
        }
    }
    assert_eq!(peer.until(Outcome::Goaway(11)), Ok(()));
    only_saw(&up, &[]);
}

#[test]
fn b04_an_escape_is_decoded_once() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    let paths = ["/public/%252e%252e/admin", "/%252e%252e%252fadmin", "/%2561dmin", "/a%25", "/%25252e"];
    for path in paths {
        assert_eq!(gateway.get(path).text(), "up", "{path}");
        assert_eq!(up.last().target, path);
    }
    assert_eq!(gateway.get("/%61dmin").status, 401);
    only_saw(&up, &paths);
}

#[test]
fn b05_escapes_that_are_none() {
    are_refused(&[
        "/%00",
        "/admin%00",
        "/admin%00.css",
        "/%0d%0aX:y",
        "/%0a",
        "/%09",
        "/%1b",
        "/%7f",
        "/%c0%af",
        "/%c0%ae%c0%ae/admin",
        "/%e0%80%af",
        "/%f0%80%80%af",
        "/%ff",
        "/%e9",
        "/%c3",
        "/%ed%a0%80",
        "/%zz",
        "/%",
        "/%2",
        "/%2x",
        "/%%32e",
        "/%u002e",
        "/%-1",
        "/%+2",
    ]);
}

#[test]
fn b06_a_rewritten_path_is_checked_again() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
routes:
  - {{ name: strip, match: {{ path: {{ prefix: /api }} }}, rewrite: {{ strip_prefix: /api }}, upstream: up }}
  - {{ name: rest, match: {{ path: \"/users/{{id}}/{{rest...}}\" }}, rewrite: {{ path: \"/{{rest}}/of/{{id}}\" }}, upstream: up }}
  - {{ name: root, match: {{ path: \"/all/{{rest...}}\" }}, rewrite: {{ path: \"/{{rest}}\" }}, upstream: up }}
  - {{ name: slash, hygiene: {{ encoded_slash: allow }}, match: {{ path: \"/one/{{id}}\" }}, rewrite: {{ path: \"/in/{{id}}\" }}, upstream: up }}
",
        up.address()
    ));
    for path in [
        "/api/..%2f",
        "/api/..%2fevil",
        "/api%2f..%2fevil",
        "/api/%2fevil",
        "/api/%5cevil",
        "/users/1/..%2f..",
        "/users/..%2f/x",
        "/one/..%2fx",
        "/one/a%2f..",
    ] {
        let answer = gateway.get(path);
        assert_eq!((answer.status, answer.problem().as_str()), BAD_PATH, "{path}");
    }
    only_saw(&up, &[]);
    for (path, target) in [
        ("/api//evil.example/x", "/evil.example/x"),
        ("/api/./evil", "/evil"),
        ("/api", "/"),
        ("/users/evil.example/", "/of/evil.example"),
        ("/users/1//x", "/x/of/1"),
        ("/all/", "/"),
        ("/all//evil.example", "/evil.example"),
        ("/one/a%2fb", "/in/a%2Fb"),
        ("/one/%2f%2fevil", "/in/%2F%2Fevil"),
    ] {
        assert_eq!(gateway.get(path).text(), "up", "{path}");
        assert_eq!(up.last().target, target, "{path}");
    }
    assert_eq!(gateway.get("/api/../evil").problem(), "route_not_found");
}

#[test]
fn b07_hosts_that_are_none_are_refused() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for host in [
        "a@b", "a/b", "a\\b", "a b", "a,b", "a;b", "a?b", "a#b", "a%2eb", "a:b", "a:99999", "a:-1", "a:+80", "a:8 0",
        "a:80:80", "[::1", "::1", "[x]", "[::1]x", "a..b", ".a", ".", "\u{e9}", "<a>", "a\tb", "",
    ] {
        let (status, code) = refused(&gateway, format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        assert_eq!((status, code.as_str()), (400, "bad_request"), "{host:?}");
    }
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
        "GET http://a:80/ HTTP/1.1\r\nHost: b:80\r\n\r\n",
        "GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n",
        "GET http://a\\@b/ HTTP/1.1\r\nHost: b\r\n\r\n",
        "GET http:///x HTTP/1.1\r\nHost: b\r\n\r\n",
        "GET http:/x HTTP/1.1\r\nHost: b\r\n\r\n",
        "GET //b HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(refused(&gateway, head.as_bytes()).0, 400, "{head:?}");
    }
    only_saw(&up, &[]);
}

#[test]
fn b07_case_dot_and_port_do_not_change_the_route_among_many_hosts() {
    let (one, two) = (Upstream::named("one"), Upstream::named("two"));
    let hosts: String = (0..300)
        .map(|i| {
            format!("  - {{ name: h{i}, match: {{ hosts: [h{i}.example, \"*.w{i}.example\"] }}, upstream: two }}\n")
        })
        .collect();
    let gateway = Gateway::start(&format!(
        "upstreams: {{ one: {{ endpoints: [\"{}\"] }}, two: {{ endpoints: [\"{}\"] }} }}\nroutes:\n  - {{ name: api, match: {{ hosts: [api.example] }}, upstream: one }}\n  - {{ name: v6, match: {{ hosts: [\"[2001:db8::1]\"] }}, upstream: one }}\n{hosts}",
        one.address(),
        two.address()
    ));
    for host in ["api.example", "API.example", "api.example.", "api.example:80", "Api.Example.:65535", "api.example:"] {
        assert_eq!(gateway.send("GET", "/", &[("Host", host)]).text(), "one", "{host}");
        assert_eq!(one.last().header("host"), Some(host));
    }
    for host in ["[2001:db8::1]", "[2001:DB8::1]", "[2001:db8::1]:80"] {
        assert_eq!(gateway.send("GET", "/", &[("Host", host)]).text(), "one", "{host}");
    }
    for host in ["h0.example", "H299.EXAMPLE.:1", "a.w150.example", "A.B.w150.Example."] {
        assert_eq!(gateway.send("GET", "/", &[("Host", host)]).text(), "two", "{host}");
    }
    for host in ["h300.example", "w1.example", "api.example.evil", "xapi.example", "example"] {
        assert_eq!(gateway.send("GET", "/", &[("Host", host)]).problem(), "route_not_found", "{host}");
    }
    let mut client = gateway.client();
    client.write(b"GET HTTP://API.EXAMPLE:80/x HTTP/1.1\r\nHost: API.EXAMPLE:80\r\n\r\n");
    assert_eq!(client.read().text(), "one");
    assert_eq!(one.last().target, "/x");
}

#[test]
fn b10_methods_that_nobody_knows_are_refused() {
    let up = Upstream::named("up");
    let gateway = guarded_with(
        up.address(),
        " }\n  - { name: dav, match: { path: /dav, methods: [GET, PROPFIND] }, upstream: up",
    );
    for method in ["get", "Get", "GETX", "XGET", "G", "PROPFIND", "PURGE", "BREW", "PRI", "DEBUG", "TRACK", "M-SEARCH"]
    {
        let answer = gateway.send(method, "/public", &[]);
        assert_eq!((answer.status, answer.problem().as_str()), (405, "method_not_allowed"), "{method}");
        assert_eq!(answer.header("allow"), Some("DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"));
    }
    for method in ["TRACE", "CONNECT"] {
        assert_eq!(gateway.send(method, "/public", &[]).status, 405);
    }
    only_saw(&up, &[]);
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        assert_eq!(gateway.send(method, "/public", &[("Content-Length", "0")]).text(), "up", "{method}");
    }
    assert_eq!(gateway.send("PROPFIND", "/dav", &[]).text(), "up", "a route that names it knows it");
    assert_eq!(gateway.send("PURGE", "/dav", &[]).header("allow"), Some("GET, HEAD, PROPFIND"));
}

#[test]
fn b10_a_method_in_a_header_is_not_the_method() {
    let up = Upstream::named("up");
    let gateway =
        guarded_with(up.address(), " }\n  - { name: read, match: { path: /read, methods: [GET, POST] }, upstream: up");
    for name in ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "x-http-method-override"] {
        let headers = [(name, "DELETE"), (name, "PUT"), ("Content-Length", "0")];
        assert_eq!(gateway.send("POST", "/read", &headers).text(), "up", "{name}");
        assert_eq!(up.last().method, "POST");
        assert!(!up.last().head.contains("DELETE"), "{}", up.last().head);
        assert_eq!(gateway.send("POST", "/admin", &[(name, "OPTIONS"), ("Content-Length", "0")]).status, 401);
        assert_eq!(gateway.send("DELETE", "/read", &[(name, "GET")]).status, 405);
    }
    assert_eq!(up.seen().len(), 4);
}

#[test]
fn b10_head_and_options_are_no_way_around() {
    let up = Upstream::named("up");
    let gateway = guarded_with(
        up.address(),
        " }\n  - { name: get, match: { path: /get, methods: [GET] }, policies: [{ api_key: {} }], upstream: up",
    );
    for method in ["HEAD", "OPTIONS"] {
        let mut client = gateway.client();
        client.write(request(method, "/admin", &[("Origin", "https://a.example")]).as_bytes());
        assert_eq!(client.read_answer_to(method).status, 401, "{method}");
    }
    // A preflight of CORS is one only where the route has such a policy.
    let preflight = [("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET")];
    assert_eq!(gateway.send("OPTIONS", "/admin", &preflight).status, 401);
    assert_eq!(gateway.send("HEAD", "/get", &[]).status, 401);
    assert_eq!(gateway.send("OPTIONS", "/get", &preflight).status, 405);
    only_saw(&up, &[]);
    assert_eq!(gateway.send("HEAD", "/get", &[("X-Api-Key", "a-key-for-tests")]).status, 200);
    assert_eq!(up.only().method, "HEAD");
}
