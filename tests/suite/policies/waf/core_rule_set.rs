//! The OWASP Core Rule Set, with its own tests: each is a request and the rule that has to hold for it, or has not to.
//!
//! `tests/run setup` fetches it. What comes out otherwise than its authors want is listed in `tests/golden/waf.txt`, with the reason.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use serde_json::Value;

use crate::{
    proxies::{Program, Reserved, haproxy::nginx_with},
    support::{Gateway, Reply, Upstream},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

fn folder() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools/coreruleset");
    assert!(folder.join("rules").is_dir(), "{}: `tests/run setup` fetches it", folder.display());
    folder
}

/// A gateway with the rule set, at its first level or, only counting, at its last.
fn start(up: &Upstream, settings: &str, counts: bool) -> Gateway {
    let mode = if counts { "shadow" } else { "enforce" };
    let folder = folder();
    let folder = folder.display();
    Gateway::start(&format!(
        r#"
workers: 1
telemetry: {{ access_log: {{}} }}
upstreams: {{ up: {{ endpoints: ["{}"] }} }}
routes:
  - name: r
    public: true
    match: {{ path: "/{{rest...}}" }}
    policies:
      - waf:
          rules: |
            SecAction "id:900000,phase:1,pass,nolog{settings}"
          files: [{folder}/crs-setup.conf.example, {folder}/rules/*.conf]
          unsupported: leave_out
        mode: {mode}
    upstream: up
"#,
        up.address()
    ))
}

/// A request, as the rule set's own tool makes it.
fn raw(input: &Value) -> Vec<u8> {
    if let Some(encoded) = input["encoded_request"].as_str() {
        use base64::Engine as _;
        let text: String = encoded.split_whitespace().collect();
        return base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    }
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(lines) => lines.iter().map(|line| line.as_str().unwrap()).collect::<Vec<_>>().join("\r\n"),
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    };
    let or = |key: &str, otherwise: &str| {
        let found = text(&input[key]);
        if found.is_empty() { otherwise.to_owned() } else { found }
    };
    let mut body = text(&input["data"]);
    let mut head = format!("{} {} {}\r\n", or("method", "GET"), or("uri", "/"), or("version", "HTTP/1.1"));
    let none = serde_json::Map::new();
    let headers = input["headers"].as_object().unwrap_or(&none);
    let has = |name: &str| headers.keys().any(|key| key.eq_ignore_ascii_case(name));
    for (name, value) in headers {
        write!(head, "{name}: {}\r\n", text(value)).unwrap();
    }
    if input["stop_magic"].as_bool() != Some(true) {
        let form = headers.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case("content-type") && *value == "application/x-www-form-urlencoded"
        });
        if form && !body.contains('%') {
            body = encoded(&body);
        }
        if !has("connection") {
            head.push_str("Connection: close\r\n");
        }
        if !body.is_empty() && !has("content-length") {
            write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
        }
    }
    (head + "\r\n" + &body).into_bytes()
}

/// Encodes the names and values of a form.
fn encoded(form: &str) -> String {
    let escape = |text: &str| {
        text.bytes().fold(String::new(), |mut out, byte| {
            match byte {
                b'+' | b' ' => out.push('+'),
                byte if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) => out.push(char::from(byte)),
                byte => write!(out, "%{byte:02X}").unwrap(),
            }
            out
        })
    };
    let pairs = form.split('&').filter_map(|pair| pair.split_once('=')).filter(|(_, value)| !value.is_empty());
    let pairs: Vec<String> = pairs.map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect();
    if pairs.is_empty() { form.to_owned() } else { pairs.join("&") }
}

/// The number behind `id "`.
fn id(text: &Value) -> Option<String> {
    let (_, behind) = text.as_str()?.split_once("id \"")?;
    Some(behind.split('"').next()?.to_owned())
}

/// Sends a request to whatever listens there; the header of the answer, or what came of it.
fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    // Some announce more of a body than they send, and go.
    let written = client.write_all(request);
    while written.is_ok() && !answer.ends_with(b"\r\n\r\n") {
        let mut piece = [0; 4096];
        match client.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(length) => answer.extend_from_slice(&piece[..length]),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// What came of these requests: the rules that held, and why the gateway refused it itself.
fn outcomes(gateway: &Gateway, requests: &[Vec<u8>]) -> Vec<(String, Option<String>)> {
    for request in requests {
        exchange(gateway.address(), request);
    }
    // One worker: the lines are in the order of the requests.
    let lines = gateway.access_lines(requests.len());
    let outcome = |line: &Value| {
        // In shadow mode, too, a body that is not what it says it is would be refused.
        let would = || line["would_reject"].as_str().filter(|reject| *reject == "bad_request");
        let own = line["reject"].as_str().or_else(would);
        (line["rules"].as_str().unwrap_or_default().to_owned(), own.map(str::to_owned))
    };
    lines.iter().map(outcome).collect()
}

fn tests() -> Vec<(String, Value)> {
    let mut files: Vec<PathBuf> = glob::glob(&format!("{}/tests/regression/tests/*/*.yaml", folder().display()))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let document: Value =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        if document["meta"]["enabled"].as_bool() == Some(false) {
            continue;
        }
        for test in document["tests"].as_array().unwrap() {
            let title = test["test_title"].as_str().map_or_else(|| test["test_title"].to_string(), str::to_owned);
            for stage in test["stages"].as_array().unwrap() {
                found.push((title.clone(), stage["stage"].clone()));
            }
        }
    }
    found
}

/// What a golden file lists, without its comments.
fn listed(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).fold(String::new(), |all, line| all + line + "\n")
}

#[test]
fn the_core_rule_sets_own_tests_have_the_outcomes_that_are_listed() {
    let up = Upstream::start(|_| Reply::ok("").close());
    let settings = ",setvar:tx.paranoia_level=4,setvar:tx.crs_validate_utf8_encoding=1,setvar:tx.arg_name_length=100,setvar:tx.arg_length=400,\
        setvar:tx.total_arg_length=64000,setvar:tx.max_num_args=255,setvar:tx.combined_file_sizes=65535,\
        setvar:tx.enforce_bodyproc_urlencoded=1";
    let gateway = start(&up, settings, true);
    let (mut as_wanted, mut refused, mut unlisted) = (0, 0, String::new());
    let tests = tests();
    let requests: Vec<_> = tests.iter().map(|(_, stage)| raw(&stage["input"])).collect();
    for ((title, stage), (rules, own)) in tests.iter().zip(outcomes(&gateway, &requests)) {
        let output = &stage["output"];
        let (wanted, unwanted) = (id(&output["log_contains"]), id(&output["no_log_contains"]));
        let held = |id: &str| rules.split(", ").any(|rule| rule.starts_with(id));
        match (wanted, unwanted) {
            (Some(id), _) if held(&id) => as_wanted += 1,
            (Some(_), _) if own.is_some() => refused += 1,
            (Some(id), _) => writeln!(unlisted, "{title}: rule {id} did not hold").unwrap(),
            (None, Some(id)) if held(&id) => writeln!(unlisted, "{title}: rule {id} held").unwrap(),
            (None, _) => as_wanted += 1,
        }
    }
    println!("{as_wanted} as wanted, {refused} refused before the rules were asked");
    let listed = listed("waf.txt");
    assert_eq!(unlisted, listed, "{as_wanted} as wanted, {refused} refused before");
    assert_eq!((as_wanted, refused), (2_348, 36));
}

/// nginx with libmodsecurity and the same rules.
fn nginx(up: &Upstream, at: SocketAddr) -> Program {
    let (rules, up) = (folder(), up.address());
    let config = format!(
        "server {{ listen {at}; error_log stderr crit; modsecurity on; location / {{ proxy_pass http://{up}; }}\n\
         modsecurity_rules 'SecRuleEngine On\nSecRequestBodyAccess On\nSecAuditEngine Off\n\
         Include {0}/crs-setup.conf.example\nInclude {0}/rules/*.conf'; }}",
        rules.display()
    );
    let module = "load_module /usr/lib/nginx/modules/ngx_http_modsecurity_module.so;";
    nginx_with(module, &config, |_| TcpStream::connect(at).is_ok())
}

/// Whether all of the body comes that is announced.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.split_once("content-length:").map_or("0", |(_, rest)| rest.split('\r').next().unwrap().trim());
    length.parse().is_ok_and(|length: usize| length <= body.len())
}

#[test]
fn the_verdicts_are_those_of_nginx_with_libmodsecurity() {
    let up = Upstream::start(|_| Reply::ok("").close());
    let (gateway, beside) = (start(&up, "", false), Reserved::new());
    let _nginx = nginx(&up, beside.address());
    let (mut same, mut before, mut unlisted) = (0, 0, String::new());
    for (title, stage) in tests() {
        let request = raw(&stage["input"]);
        if !is_whole(&request) {
            continue;
        }
        let (ours, theirs) = (exchange(gateway.address(), &request), exchange(beside.address(), &request));
        let status = |answer: &str| answer.get(9..12).unwrap_or("none").to_owned();
        match (status(&ours).as_str(), status(&theirs).as_str()) {
            (ours, theirs) if (ours == "403") == (theirs == "403") && (ours == "200" || ours == "403") => same += 1,
            (ours, _) if ours != "200" && ours != "403" => before += 1,
            (ours, theirs) => writeln!(unlisted, "{title}: {ours}, and {theirs} of nginx").unwrap(),
        }
    }
    assert_eq!(unlisted, listed("waf_beside_nginx.txt"), "{same} the same, {before} refused before");
    assert_eq!((same, before), (2_307, 72));
}
