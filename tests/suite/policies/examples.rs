//! Every file in `conf/examples` runs and does what its comments say.

use std::{io::BufRead as _, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::identity_provider::Provider;
use crate::support::{Authority, Browser, Gateway, Reply, Response, Upstream, redis::Redis, request};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("conf/examples")
}

/// The text of an example.
fn text(name: &str) -> String {
    std::fs::read_to_string(folder().join(name).with_extension("yaml")).unwrap()
}

/// Starts an example on a free port, with `up` where its upstream points.
fn start(name: &str, up: &Upstream) -> Gateway {
    start_text(name, &text(name), up)
}

fn start_text(name: &str, text: &str, up: &Upstream) -> Gateway {
    for address in ["127.0.0.1:8080", "127.0.0.1:9000"] {
        assert!(text.lines().any(|line| !line.starts_with('#') && line.contains(address)), "{name}: {address}");
    }
    Gateway::start(&text.replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:9000", &up.address().to_string()))
}

/// What stands between these two texts in an example: what its comments tell to send is what is sent here.
#[track_caller]
fn between(name: &str, before: &str, after: &str) -> String {
    let text = text(name);
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("{before} in {name}"));
    rest.split_once(after).unwrap().0.to_owned()
}

fn post(gateway: &Gateway, framing: (&str, &str), body: &str) -> Response {
    let mut client = gateway.client();
    client.write((request("POST", "/", &[framing]) + body).as_bytes());
    client.read_answer_to("POST")
}

#[test]
fn every_policy_has_an_example_and_every_example_a_test() {
    let mut found: Vec<_> =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    let tested = [
        "acme.yaml",
        "anonymous.yaml",
        "any_of.yaml",
        "api_key.yaml",
        "authorize.yaml",
        "bandwidth.yaml",
        "basic.yaml",
        "cache.yaml",
        "claims.yaml",
        "client_certificate.yaml",
        "concurrency.yaml",
        "cors.yaml",
        "deprecation.yaml",
        "forward_auth.yaml",
        "groups.yaml",
        "grpc_web.yaml",
        "hmac.yaml",
        "identity_keys.yaml",
        "identity_token.yaml",
        "introspection.yaml",
        "ip_restriction.yaml",
        "jwt.yaml",
        "ldap.yaml",
        "oidc.yaml",
        "quota.yaml",
        "rate_limit.yaml",
        "request_headers.yaml",
        "request_id.yaml",
        "request_size.yaml",
        "response_headers.yaml",
        "scopes.yaml",
        "stores.yaml",
        "upstreams.yaml",
        "waf.yaml",
    ];
    assert_eq!(found, tested);
    // Those of ACME and LDAP are tested with the others of their kind.
    let policies = tested.iter().filter(|name| !["acme.yaml", "stores.yaml", "upstreams.yaml"].contains(*name));
    let kinds: Vec<_> = policies.map(|name| name.trim_end_matches(".yaml")).collect();
    let mut known = torana::policy::KINDS.to_vec();
    known.sort_unstable();
    assert_eq!(kinds, known);
}

/// The value of `Authorization` for what stands behind `-u` in an example.
fn login(name: &str) -> String {
    format!("Basic {}", STANDARD.encode(between(name, "-u '", "'")))
}

#[test]
fn anonymous() {
    let up = Upstream::named("up");
    let gateway = start("anonymous", &up);
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(up.last().header("x-consumer-id"), Some("guest"));
    let key = between("anonymous", "-H 'X-Api-Key: ", "'");
    assert_eq!(gateway.send("GET", "/", &[("X-Api-Key", &key)]).status, 200);
    assert_eq!(up.last().header("x-consumer-id"), Some("mobile_app"));
    assert_eq!(gateway.send("GET", "/", &[("X-Api-Key", "wrong")]).status, 401);
}

#[test]
fn any_of() {
    let up = Upstream::named("up");
    let gateway = start("any_of", &up);
    let refused = gateway.get("/");
    let challenges = "ApiKey header=\"x-api-key\", Basic realm=\"demo\", charset=\"UTF-8\"";
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some(challenges)));
    let key = between("any_of", "-H 'X-Api-Key: ", "'");
    assert_eq!(gateway.send("GET", "/", &[("X-Api-Key", &key)]).status, 200);
    assert_eq!(up.last().header("x-consumer-id"), Some("mobile_app"));
    assert_eq!(gateway.send("GET", "/", &[("Authorization", &login("any_of"))]).status, 200);
    assert_eq!(up.last().header("x-consumer-id"), Some("alice"));
}

#[test]
fn basic() {
    let up = Upstream::named("up");
    let gateway = start("basic", &up);
    assert_eq!(gateway.get("/").status, 401);
    assert_eq!(gateway.send("GET", "/", &[("Authorization", &login("basic"))]).status, 200);
    assert_eq!(up.only().header("x-consumer-id"), Some("alice"));
}

/// Starts an example whose second upstream is the program in its comments.
fn start_with_program(name: &str, up: &Upstream) -> (Gateway, Program) {
    let program = between(name, "<<'END' &", "#   END");
    let (_, program) = program.split_once('\n').unwrap();
    let lines: Vec<&str> = program.lines().map(|line| line.strip_prefix("#   ").unwrap()).collect();
    // On a free port, which it says.
    let (before, server) = lines.last().unwrap().split_once("http.server.HTTPServer").unwrap();
    let server = server.replace("9001", "0").replace(".serve_forever()", "");
    let last = format!(
        "{before}server = http.server.HTTPServer{server}; print(server.server_address[1], flush=True); server.serve_forever()"
    );
    let program = [&lines[..lines.len() - 1], &[last.as_str()]].concat().join("\n");
    let mut command = std::process::Command::new("python3");
    let command =
        command.args(["-c", &program]).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let mut running = Program(command.spawn().unwrap());
    let mut port = String::new();
    std::io::BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let text = text(name)
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:9001", &format!("127.0.0.1:{}", port.trim()));
    (Gateway::start(&text.replace("127.0.0.1:9000", &up.address().to_string())), running)
}

/// A program that runs until this is dropped.
struct Program(std::process::Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn who_shows_the_token(name: &str) {
    let up = Upstream::named("up");
    let (gateway, _program) = start_with_program(name, &up);
    assert_eq!(gateway.get("/").status, 401);
    let token = between(name, "-H 'Authorization: ", "'");
    assert_eq!(gateway.send("GET", "/", &[("Authorization", &token)]).status, 200);
    assert_eq!(up.only().header("x-consumer-id"), Some("alice"));
    assert_eq!(gateway.send("GET", "/", &[("Authorization", "Bearer wrong")]).status, 401);
}

#[test]
fn forward_auth() {
    who_shows_the_token("forward_auth");
}

#[test]
fn introspection() {
    who_shows_the_token("introspection");
}

#[test]
fn authorize() {
    what_a_token_may("authorize");
}

#[test]
fn claims() {
    what_a_token_may("claims");
}

#[test]
fn scopes() {
    what_a_token_may("scopes");
}

fn what_a_token_may(name: &str) {
    let up = Upstream::named("up");
    let gateway = start(name, &up);
    assert_eq!(gateway.get("/admin").status, 401);
    let token = between(name, "-H 'Authorization: ", "'");
    assert_eq!(gateway.send("GET", "/", &[("Authorization", &token)]).status, 200);
    assert_eq!(gateway.send("GET", "/admin", &[("Authorization", &token)]).status, 403);
    assert_eq!(up.seen().len(), 1);
}

#[test]
fn hmac() {
    let up = Upstream::named("up");
    let gateway = start("hmac", &up);
    assert_eq!(gateway.get("/").status, 401);
    let script = between("hmac", "# 401\n", "#   # 200");
    let script: String = script.lines().map(|line| line.strip_prefix("#   ").unwrap().to_owned() + "\n").collect();
    let script = script.replace("127.0.0.1:8080", &gateway.address().to_string());
    let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("HTTP/1.1 200"), "{output:?}");
    assert_eq!(up.only().header("x-consumer-id"), Some("partner"));
    assert_eq!(up.only().header("signature"), None);
}

#[test]
fn identity_token() {
    let up = Upstream::named("up");
    let gateway = start("identity_token", &up);
    let key = between("identity_token", "-H 'X-Api-Key: ", "'");
    assert_eq!(gateway.send("GET", "/", &[("X-Api-Key", &key)]).status, 200);
    assert!(up.only().header("x-consumer-token").unwrap().starts_with("ey"));
    assert_eq!(gateway.get("/.well-known/jwks.json").json()["keys"][0]["crv"], "P-256");
}

#[test]
fn identity_keys() {
    let up = Upstream::named("up");
    let gateway = start("identity_keys", &up);
    let answer = gateway.get("/.well-known/jwks.json");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/jwk-set+json")));
    assert_eq!(answer.json()["keys"].as_array().unwrap().len(), 1);
    assert!(up.seen().is_empty());
}

#[test]
fn groups() {
    let up = Upstream::named("up");
    let gateway = start("groups", &up);
    for (key, status) in [("demo-key", 200), ("other-key", 403), ("wrong", 401)] {
        assert_eq!(gateway.send("GET", "/", &[("X-Api-Key", key)]).status, status, "{key}");
    }
}

#[test]
fn api_key() {
    let up = Upstream::named("up");
    let gateway = start("api_key", &up);
    assert_eq!(gateway.get("/").status, 401);
    let key = between("api_key", "-H 'X-Api-Key: ", "'");
    assert_eq!(gateway.send("GET", "/", &[("X-Api-Key", &key)]).status, 200);
    assert_eq!(up.only().header("x-consumer-id"), Some("mobile_app"));
    assert_eq!(up.only().header("x-consumer-groups"), Some("gold"));
    assert_eq!(gateway.send("HEAD", "/", &[]).status, 401);
}

#[test]
fn client_certificate() {
    let up = Upstream::named("up");
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let text = text("client_certificate");
    let yaml = text.replace("127.0.0.1:8443", "127.0.0.1:0").replace("127.0.0.1:9000", &up.address().to_string());
    let gateway = Gateway::start_with(&yaml, |folder, _| {
        let write = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
        let (certificate, key) = servers.pair("localhost");
        write("server.crt", certificate);
        write("server.key", key);
        write("clients.pem", clients.pem());
        let (certificate, key) = clients.pair("billing.example.com");
        write("billing.crt", certificate);
        write("billing.key", key);
    });
    let curl = |arguments: &[&str]| {
        let mut command = std::process::Command::new("curl");
        command.args(["-sk", "-w", " %{http_code}", &format!("https://{}/", gateway.address())]).args(arguments);
        let output = command.current_dir(gateway.folder()).output().expect("curl is installed");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(curl(&[]).ends_with(" 401"));
    assert_eq!(curl(&["--cert", "billing.crt", "--key", "billing.key"]), "up 200");
    assert_eq!(up.only().header("x-consumer-id"), Some("billing"));
}

#[test]
fn cors() {
    let up = Upstream::named("up");
    let gateway = start("cors", &up);
    let allowed = |method: &str, headers: &[(&str, &str)]| {
        let answer = gateway.send(method, "/", headers);
        (answer.status, answer.header("access-control-allow-origin").map(str::to_owned))
    };
    let app = ("Origin", "https://app.example.com");
    assert_eq!(allowed("GET", &[app]), (200, Some(app.1.to_owned())));
    assert_eq!(allowed("GET", &[("Origin", "https://evil.example")]), (200, None));
    assert_eq!(allowed("OPTIONS", &[app, ("Access-Control-Request-Method", "PUT")]), (204, Some(app.1.to_owned())));
    assert_eq!(up.seen().len(), 2, "a preflight is answered without asking the upstream");
}

#[test]
fn grpc_web() {
    let up = crate::support::script::Script::start("grpc_server.py", &[]);
    let text = text("grpc_web").replace("127.0.0.1:8080", "127.0.0.1:0");
    let gateway = Gateway::start(&text.replace("127.0.0.1:9000", &up.address().to_string()));
    let body = between("grpc_web", "-d '", "'");
    let origin = ("Origin", "https://app.example.com");
    let call = |origin: &[(&str, &str)]| {
        let length = body.len().to_string();
        let headers = [&[("Content-Type", "application/grpc-web-text"), ("Content-Length", &length)], origin].concat();
        let mut client = gateway.client();
        client.write((request("POST", "/test.Echo/Unary", &headers) + &body).as_bytes());
        client.read_answer_to("POST")
    };
    let answer = call(&[origin]);
    assert!(answer.text().starts_with(&body), "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), Some(origin.1));
    assert_eq!(answer.header("access-control-expose-headers"), Some("grpc-status, grpc-message, torana-reject"));
    let asked = between("grpc_web", "Access-Control-Request-Headers: ", "'");
    let asked = [origin, ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", &asked)];
    let answer = gateway.send("OPTIONS", "/test.Echo/Unary", &asked);
    assert_eq!((answer.status, answer.header("access-control-allow-methods")), (204, Some("POST")), "{answer:?}");
    assert!(answer.header("access-control-allow-headers").unwrap().contains("x-grpc-web"));
    assert_eq!(call(&[("Origin", "https://evil.example")]).header("access-control-allow-origin"), None);
}

#[test]
fn waf() {
    let up = Upstream::named("up");
    let gateway = start("waf", &up);
    let target = |rest: &str| between("waf", &format!("'localhost:8080{rest}"), "'");
    assert_eq!(gateway.get(&format!("/search?q=s{}", target("/search?q=s"))).status, 200);
    let answer = gateway.get(&format!("/search?q=%27{}", target("/search?q=%27")));
    assert_eq!((answer.status, answer.problem().as_str()), (403, "attack_suspected"));
    let body = between("waf", "--json '", "'");
    let length = body.len().to_string();
    let mut client = gateway.client();
    let headers = [("Content-Type", "application/json"), ("Content-Length", &length)];
    client.write((request("POST", "/comments", &headers) + &body).as_bytes());
    assert_eq!(client.read_answer_to("POST").status, 403);
    assert_eq!(gateway.access_lines(3)[1]["rules"], "1001 ARGS:q");
    assert_eq!(gateway.get("/?markdown=%3Cscript%3E").status, 200);
}

#[test]
fn ip_restriction() {
    let up = Upstream::named("up");
    let gateway = start("ip_restriction", &up);
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(gateway.send("HEAD", "/", &[]).status, 200);
    let without = text("ip_restriction").replace("127.0.0.0/8, ", "");
    assert_ne!(without, text("ip_restriction"));
    gateway
        .reload(&without.replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:9000", &up.address().to_string()));
    assert_eq!(gateway.get("/").status, 403);
}

#[test]
fn jwt() {
    let up = Upstream::named("up");
    let gateway = start("jwt", &up);
    assert_eq!(gateway.get("/").status, 401);
    let token = between("jwt", "-H 'Authorization: ", "'");
    assert_eq!(gateway.send("GET", "/", &[("Authorization", &token)]).status, 200);
    assert_eq!(up.only().header("x-consumer-id"), Some("alice"));
    assert_eq!(gateway.send("OPTIONS", "/", &[]).status, 401);
}

#[test]
fn oidc() {
    let (up, provider) = (Upstream::named("up"), Provider::start(60));
    let file = |origin: &str| {
        let file = text("oidc").replace("http://127.0.0.1:9001", &provider.issuer());
        let file = file.replace("only-for-trying-it-out\n", "secret\n").replace("http://127.0.0.1:8080", origin);
        file.replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:9000", &up.address().to_string())
    };
    let gateway = Gateway::start(&file("http://127.0.0.1:1"));
    let origin = format!("http://{}", gateway.address());
    gateway.reload(&file(&origin));
    provider.serve(&origin);
    let mut browser = Browser::default();
    assert_eq!(browser.exchange_with("GET", &origin, &[], "").status, 401);
    let page = browser.open(&format!("{origin}/"));
    let page = browser.submit(&page, "login=alice&password=any", "\n");
    assert_eq!(browser.submit(&page, "", "\n").response.status, 200);
    assert_eq!(up.last().header("x-consumer-id"), Some("alice"));
    let out = browser.exchange("GET", &format!("{origin}/oauth2/logout"), "");
    assert!(out.header("location").unwrap().starts_with(&provider.issuer()));
}

#[test]
fn rate_limit() {
    let up = Upstream::named("up");
    let gateway = start("rate_limit", &up);
    let key = between("rate_limit", "-H 'X-Api-Key: ", "'");
    let mut client = gateway.client();
    let mut ask = || {
        client.write(request("GET", "/", &[("X-Api-Key", &key)]).as_bytes());
        client.read()
    };
    for _ in 0..3 {
        let answer = ask();
        assert_eq!(answer.status, 200);
        let policy = answer.header("ratelimit-policy").unwrap();
        assert_eq!(policy, "\"50/s\";q=50;w=1, \"3/s\";q=3;w=1, \"1000/h\";q=1000;w=3600");
    }
    // The fourth, unless this machine takes a third of a second for each.
    let refused = (0..100).map(|_| ask()).find(|answer| answer.status == 429);
    assert!(refused.unwrap().header("retry-after").is_some());
    // Nobody needs a key to be counted by address.
    assert_eq!(gateway.get("/").status, 401);
    let guessed = (0..200).map(|_| client.get("/").status).find(|status| *status == 429);
    assert_eq!(guessed, Some(429));
}

#[test]
fn deprecation() {
    let (old, new) = (Upstream::named("old"), Upstream::named("new"));
    let gateway = Gateway::start(
        &text("deprecation")
            .replace("127.0.0.1:9001", &old.address().to_string())
            .replace("127.0.0.1:9002", &new.address().to_string())
            .replace("127.0.0.1:8080", "127.0.0.1:0"),
    );
    let media = ("Accept", "text/html, application/vnd.orders.v1+json");
    for (target, headers) in [
        ("/v1/orders", &[][..]),
        ("/orders", &[("X-Api-Version", "1")][..]),
        ("/orders", &[media][..]),
        ("/orders", &[("Content-Type", "application/vnd.orders.v1+json")][..]),
    ] {
        for method in ["GET", "HEAD", "OPTIONS"] {
            let answer = gateway.send(method, target, headers);
            assert_eq!(answer.header("deprecation"), Some("@1769817600"), "{target} {headers:?}");
            assert_eq!(answer.header("sunset"), Some("Thu, 31 Dec 2026 00:00:00 GMT"));
            let links: Vec<&str> =
                answer.headers.iter().filter(|(name, _)| name == "link").map(|(_, value)| value.as_str()).collect();
            let expected = [
                "<https://example.com/versions>; rel=\"deprecation\"",
                "<https://api.example.com/orders>; rel=\"successor-version\"",
            ];
            assert_eq!(links, expected);
        }
    }
    let answer = gateway.get("/orders");
    assert_eq!((answer.text().as_str(), answer.header("deprecation")), ("new", None));
    assert!(old.seen().iter().all(|request| request.target == "/orders") && new.seen().len() == 1);
}

#[test]
fn upstreams() {
    let (one, two, new) = (Upstream::named("one"), Upstream::named("two"), Upstream::named("new"));
    let mut file = text("upstreams").replace("127.0.0.1:8080", "127.0.0.1:0");
    for (port, up) in [("9001", &one), ("9002", &two), ("9003", &new)] {
        file = file.replace(&format!("127.0.0.1:{port}"), &up.address().to_string());
    }
    // Whoever asks here may be one of those for the canary.
    let gateway =
        Gateway::start(&file.replace("[5%, 25%, 50%]", "[1%]").replace("by: client_ip", "by: { header: x-test }"));
    let answer = gateway.send("GET", "/", &[("X-Test", "a")]);
    assert_eq!(answer.text(), "one");
    assert!(answer.header("set-cookie").unwrap().starts_with("torana-endpoint-"));
    assert_eq!(gateway.send("GET", "/", &[("X-Version", "2")]).text(), "new");
    drop(one);
    crate::support::eventually("the other priority", || gateway.send("GET", "/", &[("X-Test", "a")]).text() == "two");
}

#[test]
fn request_headers() {
    let up = Upstream::named("up");
    let gateway = start("request_headers", &up);
    assert_eq!(gateway.send("GET", "/tenants/acme/orders", &[("X-Old", "1"), ("X-Debug", "1")]).status, 200);
    let seen = up.only();
    assert_eq!((seen.header("x-tenant"), seen.header("x-new")), (Some("acme"), Some("1")));
    assert_eq!((seen.header("x-debug"), seen.header("x-old")), (None, None));
    assert_eq!(seen.header("x-seen-by"), Some("torana for 127.0.0.1"));
}

#[test]
fn request_id() {
    let up = Upstream::named("up");
    let gateway = start("request_id", &up);
    for headers in [&[][..], &[("X-Request-Id", "mine")]] {
        let answer = gateway.send("GET", "/", headers);
        let id = answer.header("x-request-id").unwrap();
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        assert_eq!(up.last().header("x-request-id"), Some(id));
    }
}

#[test]
fn request_size() {
    let up = Upstream::named("up");
    let gateway = start("request_size", &up);
    assert_eq!(post(&gateway, ("Content-Length", "2000"), &"x".repeat(2000)).status, 413);
    assert_eq!(post(&gateway, ("Transfer-Encoding", "chunked"), "a\r\n0123456789\r\n0\r\n\r\n").status, 411);
    assert!(up.seen().is_empty());
    assert_eq!(post(&gateway, ("Content-Length", "1024"), &"x".repeat(1024)).status, 200);
}

#[test]
fn response_headers() {
    let up = Upstream::start(|_| Reply::ok("up").header("Server", "SimpleHTTP").header("X-Powered-By", "python"));
    let gateway = start("response_headers", &up);
    for method in ["GET", "HEAD", "OPTIONS"] {
        let answer = gateway.send(method, "/", &[]);
        assert_eq!((answer.status, answer.header("server"), answer.header("x-powered-by")), (200, None, None));
        assert_eq!(answer.header("x-route"), Some("app"));
        assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"));
    }
}

#[test]
fn stores() {
    let (redis, up) = (Redis::start(), Upstream::named("up"));
    let text = text("stores");
    assert!(text.contains("127.0.0.1:6379"));
    let gateway = start_text("stores", &text.replace("127.0.0.1:6379", &redis.address().to_string()), &up);
    gateway.wait_for_metric("torana_store_up{store=\"counts\"}", 1.0);
    let key = between("stores", "-H 'X-Api-Key: ", "'");
    let mut client = gateway.client();
    let mut ask = || {
        client.write(request("GET", "/", &[("X-Api-Key", &key)]).as_bytes());
        client.read().status
    };
    assert_eq!([(); 3].map(|()| ask()), [200; 3]);
    // The fourth, unless this machine takes a third of a second for each.
    assert!((0..100).any(|_| ask() == 429));
    assert_ne!(redis.cli(&["dbsize"]), "0");
}

#[test]
fn concurrency() {
    let up = Upstream::start(|_| Reply::ok("up").after(std::time::Duration::from_millis(700)));
    let gateway = start("concurrency", &up);
    let mut statuses: Vec<u16> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| gateway.get("/").status)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 429]);
}

#[test]
fn bandwidth() {
    let up = Upstream::start(|_| Reply::ok(vec![0; 1 << 20]));
    let gateway = start("bandwidth", &up);
    let began = std::time::Instant::now();
    assert_eq!(gateway.get("/zeros").body.len(), 1 << 20);
    assert!(began.elapsed() > std::time::Duration::from_millis(800), "{:?}", began.elapsed());
}

#[test]
fn cache() {
    let up = Upstream::named("up");
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("example.sock");
    let text = text("cache").replace("/tmp/torana-example-cache.sock", socket.to_str().unwrap());
    let gateway = start_text("cache", &text, &up);
    let said: Vec<_> =
        (0..2).map(|_| gateway.get("/products").header("cache-status").map(ToOwned::to_owned).unwrap()).collect();
    let wanted = [between("cache", "localhost:8080/products            # Cache-Status: ", "\n"), "torana; hit".into()];
    assert_eq!(said, wanted);
    let key = between("cache", "-H 'X-Api-Key: ", "'");
    for (key, asked) in [(key.as_str(), 2), (&key, 2), ("key-of-the-partner", 3)] {
        assert_eq!(gateway.send("GET", "/prices", &[("X-Api-Key", key)]).status, 200);
        assert_eq!(up.seen().len(), asked);
    }
    let purge = ["cache", "purge", "--route", "products", "--socket", socket.to_str().unwrap()];
    let output = crate::support::torana().args(purge).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "1 kept answer is taken away\n");
}

#[test]
fn quota() {
    let up = Upstream::named("up");
    let folder = tempfile::tempdir().unwrap();
    let text = text("quota").replace("/tmp/torana-example", folder.path().join("example").to_str().unwrap());
    let gateway = start_text("quota", &text, &up);
    let key = between("quota", "-H 'X-Api-Key: ", "'");
    let ask = || gateway.send("GET", "/", &[("X-Api-Key", &key)]).status;
    assert_eq!([(); 4].map(|()| ask()), [200, 200, 200, 429]);
    let socket = folder.path().join("example.sock");
    let torana = |arguments: &[&str]| {
        let output = crate::support::torana().args(arguments).arg("--socket").arg(&socket).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let list = torana(&["quota", "list"]);
    assert!(list.contains("app   consumer:mobile_app  3 of 3") && list.contains("plan  free"), "{list}");
    torana(&["quota", "top-up", "app", "consumer:mobile_app", "2"]);
    assert_eq!([(); 3].map(|()| ask()), [200, 200, 429]);
}
