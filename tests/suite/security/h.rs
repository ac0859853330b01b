//! TLS, pool, admin, operation.

use std::{
    fs,
    io::Write,
    net::TcpStream,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustls::ServerConfig;

use super::guarded;
use crate::support::{Authority, Bare, Client, Gateway, Reply, Upstream, read_head, request, torana};

fn to_tls(server: Arc<ServerConfig>, trusted: Option<&Authority>) -> (Gateway, Upstream) {
    let up = Upstream::tls(server, |_| Reply::ok("secret"));
    let ca = if trusted.is_some() { ", ca: ca.pem" } else { "" };
    let yaml = format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"], tls: {{ server_name: orders.internal{ca} }} }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        up.address()
    );
    let gateway = Gateway::start_with(&yaml, |folder, _| {
        if let Some(authority) = trusted {
            fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
        }
    });
    (gateway, up)
}

#[test]
fn h01_an_upstream_that_cannot_prove_who_it_is_gets_nothing() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    for (server, trusted) in [
        (ours.server("evil.internal"), Some(&ours)),
        (ours.server("orders.internal.evil"), Some(&ours)),
        (ours.expired_server("orders.internal"), Some(&ours)),
        (theirs.server("orders.internal"), Some(&ours)),
        (ours.server("orders.internal"), None),
    ] {
        let (gateway, up) = to_tls(server, trusted);
        let mut client = gateway.client();
        client.write(request("POST", "/", &[("Content-Length", "6"), ("Authorization", "Basic s3cr3t")]).as_bytes());
        client.write(b"s3cr3t");
        let answer = client.read_answer_to("POST");
        assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream_unreachable"));
        assert!(up.seen().is_empty(), "not a byte of the request was sent");
    }
    let (gateway, _up) = to_tls(ours.server("orders.internal"), Some(&ours));
    assert_eq!(gateway.get("/").text(), "secret");
}

/// An upstream that takes whoever comes on a connection for the one who proved first who he is.
fn bound_to_connections() -> Bare {
    Bare::start(|stream: &mut TcpStream, _| {
        let mut who = "nobody".to_owned();
        while let Some(head) = read_head(stream) {
            let sent = head.lines().find(|line| line.to_ascii_lowercase().starts_with("authorization: "));
            let sent = sent.and_then(|line| line.split_once(": ")).map(|(_, value)| value);
            if let Some(name) = sent.and_then(|sent| sent.split_once(' ')) {
                who = name.1.to_owned();
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{who}", who.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

#[test]
fn h02_a_connection_that_somebody_proved_himself_on_is_nobody_elses() {
    let up = bound_to_connections();
    let gateway = guarded(up.address());
    assert_eq!(gateway.get("/").text(), "nobody");
    for scheme in ["NTLM", "Negotiate", "negotiate"] {
        for i in 0..10 {
            let proof = format!("{scheme} alice{i}");
            assert_eq!(gateway.send("GET", "/", &[("Authorization", &proof)]).text(), format!("alice{i}"));
            assert_eq!(gateway.get("/").text(), "nobody", "{scheme}");
        }
    }
}

#[test]
fn h02_connections_are_not_shared_between_server_names_and_authorities() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let names = Arc::new(AtomicUsize::new(0));
    let up = Upstream::tls(ours.server("orders.internal"), move |seen| {
        names.fetch_add(1, Ordering::SeqCst);
        Reply::ok(seen.server_name.clone().unwrap_or_default())
    });
    let one = |name: &str, tls: &str| format!("  {name}: {{ endpoints: [\"{}\"], tls: {{ {tls} }} }}\n", up.address());
    let yaml = format!(
        "workers: 1\nupstreams:\n{}{}{}{}routes:\n  - {{ name: a, match: {{ path: /a }}, upstream: a }}\n  - {{ name: b, match: {{ path: /b }}, upstream: b }}\n  - {{ name: c, match: {{ path: /c }}, upstream: c }}\n  - {{ name: d, match: {{ path: /d }}, upstream: d }}\n",
        one("a", "server_name: orders.internal, ca: ours.pem"),
        one("b", "server_name: users.internal, ca: ours.pem"),
        one("c", "server_name: orders.internal, ca: theirs.pem"),
        one("d", "server_name: users.internal, verify: false"),
    );
    let gateway = Gateway::start_with(&yaml, |folder, _| {
        fs::write(folder.join("ours.pem"), ours.pem()).unwrap();
        fs::write(folder.join("theirs.pem"), theirs.pem()).unwrap();
    });
    for _ in 0..3 {
        assert_eq!(gateway.get("/a").text(), "orders.internal");
        assert_eq!(gateway.get("/d").text(), "users.internal");
        for path in ["/b", "/c"] {
            assert_eq!(gateway.get(path).problem(), "upstream_unreachable", "{path}");
        }
    }
    assert_eq!(up.seen().len(), 6);
}

#[test]
fn h04_the_admin_listener_answers_no_page_of_another_origin() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    let try_ask = |method: &str, path: &str, headers: &[(&str, &str)]| {
        let mut client = Client::connect(gateway.admin());
        client.write(request(method, path, headers).as_bytes());
        client.try_read(method)
    };
    let ask = |method: &str, path: &str, headers: &[(&str, &str)]| try_ask(method, path, headers).unwrap();
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "a@localhost", "localhost/", ""] {
        for path in ["/status", "/metrics"] {
            // Pingora closes the connection if there is no saying what the host is.
            let Some(answer) = try_ask("GET", path, &[("Host", host)]) else { continue };
            assert!(answer.status >= 400, "{host}: {answer:?}");
            assert!(!answer.text().contains("torana_") && !answer.text().contains("generation"), "{host}");
        }
    }
    // A page can send a form, but nothing that it sends changes anything.
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        for path in ["/status", "/metrics", "/live", "/reload", "/upgrade"] {
            let headers = [("Host", "localhost"), ("Origin", "https://evil.example"), ("Content-Length", "0")];
            assert!([404, 405].contains(&ask(method, path, &headers).status), "{method} {path}");
        }
        for path in ["/endpoint", "/quota?quota=q&key=k&do=reset", "/penalty_box?address=127.0.0.1&do=release"] {
            let headers = [("Host", "localhost"), ("Origin", "https://evil.example"), ("Content-Length", "0")];
            assert_eq!(ask(method, path, &headers).status, 403, "{method} {path}");
        }
    }
    // What a client sends is in no page of it.
    gateway.send("GET", "/<script>alert(1)</script>", &[("User-Agent", "<script>")]);
    for path in ["/status", "/metrics", "/%3Cscript%3E", "/<script>"] {
        let Some(answer) = try_ask("GET", path, &[("Host", "localhost")]) else { continue };
        assert!(!answer.text().contains("<script"), "{path}: {answer:?}");
        assert_ne!(answer.header("content-type").map(|kind| kind.contains("html")), Some(true), "{path}");
    }
}

/// A file that is wrong in this way.
fn wrong(up: &Upstream, what: &str) -> String {
    let endpoints = format!("upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\n", up.address());
    let route = "routes:\n  - { name: a, match: { path: /a }, upstream: up }\n";
    match what {
        "yaml" => format!("{endpoints}routes: [{{ name: a, match\n"),
        "bomb" => {
            let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
            for i in 1..12 {
                bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", "));
            }
            bomb
        }
        "key" => endpoints + &route.replace("upstream", "upstraem"),
        "file" => format!("{endpoints}consumers: {{ a: {{ api_keys: [\"${{file:/nowhere/key}}\"] }} }}\n{route}"),
        "twice" => endpoints + route + "  - { name: a, match: { path: /b }, upstream: up }\n",
        _ => panic!("{what}"),
    }
}

#[test]
fn h05_a_file_that_is_wrong_changes_nothing_and_says_where() {
    let up = Upstream::named("up");
    let good = format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes:\n  - {{ name: a, match: {{ path: /a }}, upstream: up }}\n",
        up.address()
    );
    let gateway = Gateway::start(&good);
    for what in ["yaml", "bomb", "key", "file", "twice"] {
        gateway.reload(&wrong(&up, what));
        assert_eq!(gateway.get("/a").text(), "up", "{what}");
        let status = gateway.status();
        assert_eq!((&status["generation"], &status["last_reload"]["ok"]), (&1.into(), &false.into()), "{what}");
        let error = status["last_reload"]["error"].as_str().unwrap();
        let place = error.split("torana.yaml:").nth(1).and_then(|rest| rest.split(':').next());
        assert!(place.is_some_and(|line| line.parse::<usize>().is_ok()), "{what}: {error}");
    }
    gateway.reload(&good);
    assert_eq!(gateway.status()["last_reload"]["ok"], true);
}

#[test]
fn h07_no_request_writes_into_the_log_what_it_wants() {
    let up = Upstream::named("up");
    let gateway = guarded(up.address());
    for agent in ["a\x1b[2J", "a\x07", "a\r\n{\"status\":200}", "a\n{\"status\":200}"] {
        let bytes = format!("GET / HTTP/1.1\r\nHost: test\r\nUser-Agent: {agent}\r\n\r\n");
        let mut client = gateway.client();
        client.write(bytes.as_bytes());
        assert_eq!(client.read().status, 400, "{agent:?}");
    }
    let secrets = [("Authorization", "Bearer hidden-1"), ("Cookie", "s=hidden-2"), ("X-Api-Key", "hidden-3")];
    let target = "/x%0ay?access_token=hidden-4&api_key=hidden-5&a=b";
    assert_eq!(gateway.send("GET", target, &secrets).status, 400);
    assert_eq!(gateway.send("GET", &target.replace("%0a", "%25"), &secrets).status, 200);
    assert_eq!(gateway.send("GET", "/admin", &secrets).status, 401);
    let lines = gateway.access_lines(7);
    assert!(lines.iter().all(serde_json::Value::is_object), "{lines:#?}");
    let passed = lines.iter().find(|line| line["status"] == 200).unwrap();
    assert_eq!((&passed["path"], &passed["query"]), (&"/x%25y".into(), &"access_token=***&api_key=***&a=b".into()));
    let log = gateway.log();
    assert!(!log.contains("hidden"), "{log}");
    assert!(!log.bytes().any(|byte| byte < b' ' && byte != b'\n'), "{log:?}");
}

#[test]
fn h08_the_control_socket_is_the_owners_whatever_lay_in_its_place() {
    let up = Upstream::named("up");
    let yaml = format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        up.address()
    );
    let elsewhere = tempfile::tempdir().unwrap();
    let victim = elsewhere.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let start = |stale: &dyn Fn(&Path)| {
        Gateway::start_with(&yaml, |folder, command| {
            stale(&folder.join("control.sock"));
            command.env("RUNTIME_DIRECTORY", folder);
        })
    };
    // Left behind by a process that is gone.
    let gateway = start(&|path| drop(UnixListener::bind(path).unwrap()));
    let found = fs::symlink_metadata(gateway.folder().join("control.sock")).unwrap();
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    let (code, said) = gateway.torana(&["status"]);
    assert_eq!(code, Some(0), "{said}");
    // Somebody else's idea of where it should be.
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&victim, folder.path().join("control.sock")).unwrap();
    fs::write(folder.path().join("torana.yaml"), format!("listeners: [{{ address: \"127.0.0.1:0\" }}]\n{yaml}"))
        .unwrap();
    let mut command = torana();
    command.args(["run", "-c", "torana.yaml"]).env("RUNTIME_DIRECTORY", folder.path()).current_dir(folder.path());
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("it exists and is no socket"), "{said}");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}
