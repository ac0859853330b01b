//! What is refused, and how it is said. `UPDATE_GOLDEN=1` writes what is said now; look at the difference before it is
//! committed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::{Authority, Gateway, Upstream, torana};

fn golden(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder)
}

/// Runs `torana check` on a file; returns its exit code, standard output and standard error.
fn check(folder: &Path, file: &str) -> (i32, String, String) {
    let output =
        torana().args(["check", "-c", file]).current_dir(folder).env_remove("TORANA_TEST_NOT_SET").output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn check_text(yaml: &str) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("torana.yaml"), yaml).unwrap();
    check(folder.path(), "torana.yaml")
}

fn is_golden(path: &Path, text: &str) -> bool {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, text).unwrap();
    }
    let wanted = fs::read_to_string(path).unwrap_or_default();
    if wanted != text {
        eprintln!("--- {} should be\n{wanted}\n--- but is\n{text}", path.display());
    }
    wanted == text
}

#[test]
fn every_broken_file_is_refused_with_the_place_and_the_reason() {
    let folder = golden("broken");
    let mut files: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() >= 40, "{}", files.len());
    let mut wrong = Vec::new();
    for file in &files {
        let (code, out, said) = check(&folder, file);
        let same = is_golden(&folder.join(file.replace(".yaml", ".txt")), &said);
        let leaks = said.contains("s3cr3t") || out.contains("s3cr3t");
        if code != 2 || !out.is_empty() || !said.contains("error: ") || leaks || !same {
            wrong.push(format!("{file}: exit code {code}, leaks: {leaks}, as recorded: {same}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn run_refuses_what_check_refuses_with_the_same_words() {
    let folder = golden("broken");
    let run = torana().args(["run", "-c", "upstream_unknown.yaml"]).current_dir(&folder).output().unwrap();
    assert_eq!(run.status.code(), Some(2));
    let said = String::from_utf8(run.stderr).unwrap();
    assert!(said.contains("no upstream is named `ordres`") && said.contains("did you mean `orders`?"), "{said}");
}

#[test]
fn a_good_file_is_accepted_with_a_count() {
    let (code, out, said) = check_text(
        "listeners: [{ address: 127.0.0.1:8080 }]\nupstreams: { up: { endpoints: [127.0.0.1:9000] } }\nroutes: [{ name: r, public: true, upstream: up }]\n",
    );
    assert_eq!((code, said.as_str()), (0, ""));
    assert_eq!(out, "torana.yaml: ok (1 listener, 1 route, 1 upstream, 0 consumers)\n");
}

#[test]
fn what_works_but_is_probably_not_meant_is_warned_about() {
    let (code, _, said) = check_text(
        "admin: { address: 0.0.0.0:9901 }\nlisteners: [{ address: 127.0.0.1:8080 }]\nupstreams: { up: { endpoints: [127.0.0.1:9000] }, spare: { endpoints: [127.0.0.1:9001] } }\nroutes: [{ name: r, upstream: up }]\n",
    );
    assert_eq!(code, 0, "{said}");
    let handed_on = "{ address: 127.0.0.1:8081, passthrough: [{ upstream: spare }] }";
    let (_, _, quiet) = check_text(&format!(
        "listeners: [{{ address: 127.0.0.1:8080 }}, {handed_on}]\nupstreams: {{ up: {{ endpoints: [127.0.0.1:9000] }}, spare: {{ endpoints: [127.0.0.1:9001] }} }}\nroutes: [{{ name: r, upstream: up }}]\n"
    ));
    assert!(!quiet.contains("no route uses"), "{quiet}");
    assert!(said.contains("warning: no route uses the upstream `spare`"), "{said}");
    assert!(said.contains("warning: the admin listener has no authentication"), "{said}");
    assert!(said.contains("warning: anyone may use this route"), "{said}");
}

#[test]
fn routes_without_authentication_say_so_or_are_warned_about() {
    let warnings = |routes: &str| {
        let (code, _, said) = check_text(&format!(
            "listeners: [{{ address: 127.0.0.1:8080 }}]\nupstreams: {{ up: {{ endpoints: [127.0.0.1:9000] }} }}\nconsumers: {{ a: {{ api_keys: [key-12345] }} }}\n{routes}"
        ));
        assert_eq!(code, 0, "{said}");
        said.lines().filter_map(|line| line.strip_prefix("warning: ").map(str::to_owned)).collect::<Vec<_>>()
    };
    for quiet in [
        "routes: [{ name: r, public: true, upstream: up }]",
        "routes: [{ name: r, policies: [{ api_key: {} }], upstream: up }]",
        "policies: [{ api_key: {} }]\nroutes: [{ name: r, upstream: up }]",
        "routes: [{ name: r, policies: [{ any_of: [{ api_key: {} }, { anonymous: a }] }], upstream: up }]",
        "routes: [{ name: r, public: true, upstream: up }, { name: s, match: { path: /s }, redirect: { to: / } }]",
    ] {
        assert_eq!(warnings(quiet), [""; 0], "{quiet}");
    }
    let open =
        "anyone may use this route, since no policy finds out who is calling: write `public: true` if that is meant";
    assert_eq!(warnings("routes: [{ name: r, upstream: up }]"), [open]);
    assert_eq!(
        warnings("routes: [{ name: r, policies: [{ rate_limit: { key: client_ip, limits: [1/s] } }], upstream: up }]"),
        [open]
    );
    let (code, _, said) = check_text(
        "listeners: [{ address: 127.0.0.1:8080 }]\nupstreams: { up: { endpoints: [127.0.0.1:9000] } }\nconsumers: { a: { api_keys: [key-12345] } }\nroutes: [{ name: r, public: true, policies: [{ api_key: {} }], upstream: up }]\n",
    );
    assert!(
        code == 2 && said.contains("a policy of this route finds out who is calling: it is not `public`"),
        "{said}"
    );
    let public = warnings("policies: [{ api_key: {} }]\nroutes: [{ name: r, public: true, upstream: up }]");
    assert_eq!(public, [""; 0], "what is for every route is not for this one");
    let many: String =
        (0..15).map(|i| format!("  - {{ name: r{i}, match: {{ path: /{i} }}, upstream: up }}\n")).collect();
    let said = warnings(&format!("routes:\n{many}"));
    let more = "5 more routes may be used by anyone, and do not say `public: true`";
    assert_eq!((said.len(), said.iter().any(|one| one == more)), (11, true), "{said:?}");
}

#[test]
fn consumers_come_from_other_files_too() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let base = "listeners: [{ address: 127.0.0.1:8080 }]\nupstreams: { up: { endpoints: [127.0.0.1:9000] } }\nroutes: [{ name: r, policies: [{ api_key: {} }], upstream: up }]\nconsumers:\n  files: d/*.yaml\n  a: { api_keys: [key-12345] }\n";
    write("torana.yaml", base);
    fs::create_dir(folder.path().join("d")).unwrap();
    let (code, _, said) = check(folder.path(), "torana.yaml");
    assert!(code == 0 && said.contains("warning: there is no such file, so there are no consumers in it"), "{said}");
    write(
        "d/one.yaml",
        "b: { groups: [x], api_keys: [\"${file:key}\"] }\nc: { logins: [{ password: \"$2y$04$1ncX9S9rnrgn/qrjf6EJGeaPJLhsc.Yj21VxCgJcL3hFJSJx9nK1.\" }] }\n",
    );
    write("d/key", "from-a-file\n");
    write("d/other.txt", "not read");
    let (code, out, said) = check(folder.path(), "torana.yaml");
    assert_eq!((code, said.as_str()), (0, ""));
    assert_eq!(out, "torana.yaml: ok (1 listener, 1 route, 1 upstream, 3 consumers)\n");
    for (text, message, place) in [
        ("d: { api_kyes: [hunter2-hunter2] }", "unknown key `api_kyes`", "d/two.yaml:1:6"),
        ("d:\n  api_keys: [key-12345]", "this API key is there already", "d/two.yaml:2:14"),
        ("b: {}", "a consumer has this name already", "d/two.yaml:1:1"),
        ("files: []", "expected a mapping, found a list", "d/two.yaml:1:8"),
        ("- a", "expected a mapping, found a list", "d/two.yaml"),
        ("d: { api_keys: [\"sha256:12\"] }", "behind `sha256:` are the 64 hexadecimal digits", "d/two.yaml:1:17"),
        ("d: { api_keys: [\"SHA512:12\"] }", "and by no other", "d/two.yaml:1:17"),
        (
            "d: { metadata: { a: [1] } }",
            "expected a text, a whole number, `true` or `false`, found a list",
            "d/two.yaml",
        ),
        ("d: { signing_keys: [{ id: a, secret: short }] }", "at least 16 characters", "d/two.yaml"),
        ("d: { logins: [{ password: \"{SHA}x\" }] }", "hashes of this kind can be guessed fast", "d/two.yaml:1:27"),
        ("a: [", "this is not valid YAML", "d/two.yaml"),
        ("consumers:\n  d: { api_keys: [hunter2-hunter2] }", "take `consumers:` away", "d/two.yaml:1:1"),
    ] {
        write("d/two.yaml", text);
        let (code, _, said) = check(folder.path(), "torana.yaml");
        assert!(code == 2 && said.contains(message) && said.contains(place), "{text}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let (code, _, said) = check(Path::new("/"), "/nowhere/torana.yaml");
    assert_eq!(code, 2);
    assert!(said.contains("/nowhere/torana.yaml") && said.contains("cannot be read"), "{said}");
}

#[test]
fn a_yaml_bomb_is_refused_quickly() {
    let mut yaml = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let previous = vec![format!("*a{}", i - 1); 10].join(", ");
        yaml.push_str(&format!("a{i}: &a{i} [{previous}]\n"));
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("torana.yaml"), yaml).unwrap();
    // Of the processor's time, whatever else the machine does meanwhile.
    let limited = "ulimit -t 5; exec \"$0\" check -c torana.yaml";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", limited, env!("CARGO_BIN_EXE_torana")]).current_dir(folder.path());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn secrets_come_from_the_environment_and_from_files() {
    let upstream = Upstream::named("up");
    let yaml = format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nconsumers:\n  a: {{ api_keys: [\"${{env:KEY_A}}\"] }}\n  b: {{ api_keys: [\"${{file:b.key}}\"] }}\nroutes:\n  - {{ name: r, policies: [{{ api_key: {{ header: x-api-key }} }}], upstream: up }}\n",
        upstream.address()
    );
    let gateway = Gateway::start_with(&yaml, |folder, command| {
        fs::write(folder.join("b.key"), "key-from-file\n").unwrap();
        command.env("KEY_A", "key-from-env");
    });
    for (key, status, consumer) in
        [("key-from-env", 200, Some("a")), ("key-from-file", 200, Some("b")), ("${env:KEY_A}", 401, None)]
    {
        assert_eq!(gateway.send("GET", "/", &[("x-api-key", key)]).status, status, "{key}");
        if let Some(consumer) = consumer {
            assert_eq!(upstream.last().header("x-consumer-id"), Some(consumer));
        }
    }
    assert!(!gateway.log().contains("key-from"), "{}", gateway.log());
}

#[test]
fn the_schema_is_a_golden_file_and_knows_every_policy() {
    let output = torana().arg("schema").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let schema: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(schema["title"], "Torana configuration");
    for policy in ["api_key", "jwt", "rate_limit", "cors", "ip_restriction", "request_id", "request_size"] {
        assert!(text.contains(&format!("\"{policy}\"")), "{policy}");
    }
    assert!(is_golden(&golden("schema.json"), &text));
}

#[test]
fn every_example_is_accepted() {
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let mut files = vec![conf.join("torana.yaml")];
    files.extend(fs::read_dir(conf.join("examples")).unwrap().map(|entry| entry.unwrap().path()));
    assert!(files.len() > 9, "{files:?}");
    // Beside certificates, which examples only name.
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("examples");
    let (certificate, key) = authority.pair("localhost");
    for (name, text) in [("server.crt", certificate), ("server.key", key), ("clients.pem", authority.pem())] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    for file in files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "yaml")) {
        let here = folder.path().join(file.file_name().unwrap());
        fs::copy(file, &here).unwrap();
        let output = torana().arg("check").arg("-c").arg(&here).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
}
