//! The commands, as a person meets them.

use std::process::Output;

use rustix::process::Signal;

use crate::support::{Client, Gateway, eventually, request, torana};

fn run(args: &[&str]) -> Output {
    torana().args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn version_and_help_say_what_there_is() {
    let version = run(&["--version"]);
    assert_eq!(text(&version.stdout), format!("torana {}\n", env!("CARGO_PKG_VERSION")));
    let help = run(&["--help"]);
    assert!(help.status.success());
    for command in ["run", "check", "demo", "schema", "completions"] {
        assert!(text(&help.stdout).contains(command), "{command}");
        let own = run(&[command, "--help"]);
        assert!(own.status.success() && text(&own.stdout).contains("Usage: torana"), "{command}");
    }
    assert_eq!(run(&[]).status.code(), Some(2));
    assert_eq!(run(&["rnu"]).status.code(), Some(2));
}

#[test]
fn completions_are_there_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]);
        assert!(script.status.success() && text(&script.stdout).contains("torana"), "{shell}");
    }
}

#[test]
fn a_port_that_is_taken_is_an_error_that_says_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("torana.yaml");
    let address = taken.local_addr().unwrap();
    std::fs::write(&file, format!("listeners: [{{ address: \"{address}\" }}]\n")).unwrap();
    let output = torana().arg("run").arg("-c").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains(&format!("cannot listen on {address}")) && said.contains("ss -ltnp"), "{said}");
}

#[test]
fn sigterm_ends_an_idle_gateway_at_once_and_with_success() {
    let mut gateway = Gateway::start("routes: []\n");
    let mut idle = gateway.client();
    assert_eq!(idle.get("/").status, 404);
    let began = std::time::Instant::now();
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait(), Some(0));
    assert!(began.elapsed() < std::time::Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(idle.is_closed());
}

#[test]
fn every_line_of_the_demo_does_what_it_says() {
    let demo = Gateway::demo();
    let endpoint = |client: &mut Client| client.get("/hello").json()["endpoint"].as_str().unwrap().to_owned();
    let mut client = demo.client();
    let mut endpoints = [endpoint(&mut client), endpoint(&mut client)];
    endpoints.sort();
    assert_eq!(endpoints, ["echo-1", "echo-2"]);

    let said = demo.log();
    let after = |mark: &str| said.split_once(mark).unwrap().1.split(['\'', ' ']).next().unwrap().to_owned();
    let key = after("'x-api-key: ");
    assert_eq!(demo.get("/key/orders").problem(), "unauthenticated");
    let answer = demo.send("GET", "/key/orders", &[("X-Api-Key", &key)]).json();
    assert_eq!(answer["path"], "/orders");
    assert_eq!(answer["headers"]["x-consumer-id"], "demo_app");
    assert_eq!(answer["headers"]["x-api-key"], serde_json::Value::Null);

    let bearer = format!("Bearer {}", after("'Authorization: Bearer "));
    assert_eq!(demo.get("/token/me").problem(), "unauthenticated");
    let answer = demo.send("GET", "/token/me", &[("Authorization", &bearer)]).json();
    assert_eq!(answer["headers"]["x-consumer-subject"], "someone");

    let statuses: Vec<u16> = (0..6).map(|_| demo.get("/limited").status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429]);
    assert_eq!(demo.status()["generation"], 1);
    eventually("the refusal is counted", || {
        demo.metric("torana_requests_total{route=\"limited\",status=\"4xx\"}") >= 1.0
    });
}

#[test]
fn the_demo_takes_bodies_of_every_kind() {
    let demo = Gateway::demo();
    let mut client = demo.client();
    client.write(request("POST", "/x", &[("Transfer-Encoding", "chunked")]).as_bytes());
    client.write(b"5\r\nhello\r\n0\r\n\r\n");
    let answer = client.read_answer_to("POST").json();
    assert_eq!((answer["method"].as_str(), answer["body_bytes"].as_u64()), (Some("POST"), Some(5)));
}

#[test]
fn the_configuration_of_the_demo_is_a_start_for_an_own_one() {
    let printed = text(&run(&["demo", "--print-config"]).stdout);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("own.yaml");
    std::fs::write(&file, printed).unwrap();
    let output = torana()
        .env("DEMO_API_KEY", "a-key-of-my-own")
        .env("DEMO_JWT_SECRET", "0123456789abcdef0123456789abcdef")
        .arg("check")
        .arg("-c")
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_control_socket_on_which_another_process_answers_is_left_to_it() {
    let gateway =
        Gateway::replaceable("upstreams: { up: { endpoints: [127.0.0.1:1] } }\nroutes: [{ name: r, upstream: up }]\n");
    let socket = gateway.folder().join("control.sock");
    let second = gateway.folder().join("second.yaml");
    let yaml = std::fs::read_to_string(gateway.file()).unwrap();
    std::fs::write(&second, format!("control: {}\n{yaml}", socket.display())).unwrap();
    let output = torana().arg("run").arg("-c").arg(&second).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("control.sock (control): address in use"), "{said}");
    assert_eq!(gateway.control_status()["generation"], 1);
}

/// A command that reads this line.
fn with_input(args: &[&str], line: &str) -> Output {
    use std::{io::Write as _, process::Stdio};
    let mut command = torana();
    let mut child =
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn hashes_for_the_configuration_are_made_here_and_let_in_who_has_the_secret() {
    let made = |args: &[&str], line: &str| {
        let output = with_input(args, line);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    };
    let (password, key) = (made(&["hash"], "wonderland\n"), made(&["hash", "--api-key"], "key-12345"));
    assert!(password.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{password}");
    assert_ne!(password, made(&["hash"], "wonderland\n"));
    let up = crate::support::Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
consumers: {{ alice: {{ api_keys: [\"{key}\"], logins: [{{ password: \"{password}\" }}] }} }}
routes: [{{ name: r, policies: [{{ any_of: [{{ api_key: {{}} }}, {{ basic: {{}} }}] }}], upstream: up }}]\n",
        up.address()
    ));
    assert_eq!(gateway.send("GET", "/", &[("X-Api-Key", "key-12345")]).status, 200);
    // alice:wonderland
    assert_eq!(gateway.send("GET", "/", &[("Authorization", "Basic YWxpY2U6d29uZGVybGFuZA==")]).status, 200);
    assert_eq!(with_input(&["hash"], "\n").status.code(), Some(1));
}

#[test]
fn a_strict_check_refuses_what_is_only_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("torana.yaml");
    let yaml = |public: &str| {
        format!(
            "listeners: [{{ address: 127.0.0.1:8080 }}]\nupstreams: {{ up: {{ endpoints: [127.0.0.1:9000] }} }}\nroutes: [{{ name: r{public}, upstream: up }}]\n"
        )
    };
    for (public, plain, strict) in [("", 0, 2), (", public: true", 0, 0)] {
        std::fs::write(&file, yaml(public)).unwrap();
        let code =
            |more: &[&str]| torana().arg("check").args(more).arg("-c").arg(&file).output().unwrap().status.code();
        assert_eq!((code(&[]), code(&["--strict"])), (Some(plain), Some(strict)), "{public}");
    }
}
