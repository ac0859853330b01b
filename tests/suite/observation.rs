//! What the gateway tells: access log, metrics, the admin listener, traces.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Client, Gateway, Reply, Upstream, eventually, request};

const LOG: &str =
    "telemetry: { access_log: { file: access.log, headers: [x-tag, authorization], redact_query: [pin] } }\n";

/// A gateway that logs into `access.log` in its folder.
fn logging(rest: &str, up: &Upstream) -> Gateway {
    Gateway::start(&format!("{LOG}upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\n{rest}", up.address()))
}

const ROUTE: &str = "routes: [{ name: all, upstream: up }]\n";

fn log_file(gateway: &Gateway) -> PathBuf {
    gateway.folder().join("access.log")
}

/// The lines of the access log, once there are as many.
#[track_caller]
fn lines(gateway: &Gateway, count: usize) -> Vec<Value> {
    let mut text = String::new();
    eventually("the lines are written", || {
        text = fs::read_to_string(log_file(gateway)).unwrap_or_default();
        text.lines().count() >= count && text.ends_with('\n')
    });
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), count, "{text}");
    lines
}

#[track_caller]
fn line(gateway: &Gateway) -> Value {
    lines(gateway, 1).remove(0)
}

#[test]
fn a_line_of_the_access_log_says_who_asked_what_and_what_came_of_it() {
    let up = Upstream::named("hello");
    let gateway = logging(
        "consumers: { app: { api_keys: [key-1] } }\nroutes: [{ name: all, policies: [{ api_key: { header: x-api-key } }], upstream: up }]\n",
        &up,
    );
    let mut client = gateway.client();
    client.write(b"POST /a/%62?x=1 HTTP/1.1\r\nHost: API.example:8080\r\nUser-Agent: tests\r\nX-Tag: t\r\n");
    client.write(b"X-API-Key: key-1\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(client.read().status, 200);
    let line = line(&gateway);
    for (member, value) in [
        ("client_ip", "127.0.0.1"),
        ("method", "POST"),
        ("scheme", "http"),
        ("host", "api.example"),
        ("path", "/a/b"),
        ("query", "x=1"),
        ("protocol", "HTTP/1.1"),
        ("route", "all"),
        ("consumer", "app"),
        ("upstream", "up"),
        ("user_agent", "tests"),
        ("x-tag", "t"),
    ] {
        assert_eq!(line[member], value, "{member}: {line}");
    }
    for (member, value) in [("status", 200), ("bytes_sent", 5), ("bytes_received", 3), ("tries", 1)] {
        assert_eq!(line[member], value, "{member}: {line}");
    }
    assert_eq!(line["endpoint"], up.address().to_string());
    let took = |member: &str| line[member].as_f64().unwrap();
    assert!(took("upstream_ms") > 0.0 && took("duration_ms") >= took("upstream_ms"), "{line}");
    let time = line["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z') && time.starts_with("20"), "{time}");
    assert!(line.get("reject").is_none() && line.get("error").is_none(), "{line}");
}

#[test]
fn a_refusal_is_logged_with_its_code_and_the_id_that_the_client_got() {
    let up = Upstream::named("up");
    let gateway = logging("routes: [{ name: a, match: { path: /a }, upstream: up }]\n", &up);
    let problem = gateway.get("/b").json();
    let line = line(&gateway);
    assert_eq!(line["reject"], "route_not_found");
    assert_eq!(line["status"], 404);
    assert_eq!(line["request_id"], problem["request_id"]);
    assert!(line.get("route").is_none() && line.get("upstream").is_none(), "{line}");
}

#[test]
fn a_header_that_is_none_is_logged_too() {
    let up = Upstream::named("up");
    let gateway = logging(ROUTE, &up);
    let mut client = gateway.client();
    client.write(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert_eq!(client.read().status, 400);
    let line = line(&gateway);
    assert_eq!((line["status"].as_u64(), line["reject"].as_str()), (Some(400), Some("bad_request")), "{line}");
}

#[test]
fn a_client_that_left_is_logged_without_a_status() {
    let up = Upstream::start(|_| Reply::ok("late").after(Duration::from_secs(2)));
    let gateway = logging(ROUTE, &up);
    let mut client = gateway.client();
    client.write(request("GET", "/", &[]).as_bytes());
    eventually("the request is at the upstream", || !up.seen().is_empty());
    drop(client);
    let line = line(&gateway);
    assert!(line.get("status").is_none(), "{line}");
    eventually("it is counted", || gateway.metric("torana_requests_total{route=\"all\",status=\"none\"}") == 1.0);
}

#[test]
fn secrets_in_queries_and_headers_are_not_logged() {
    let up = Upstream::named("up");
    let gateway = logging(ROUTE, &up);
    let target = "/?a=1&access_token=hidden1&%70assword=hidden2&PIN=hidden3&API_KEY=hidden4&b=2&token";
    gateway.send("GET", target, &[("Authorization", "Bearer hidden5"), ("Cookie", "s=hidden6")]);
    let line = line(&gateway);
    assert_eq!(line["query"], "a=1&access_token=***&%70assword=***&PIN=***&API_KEY=***&b=2&token");
    let text = fs::read_to_string(log_file(&gateway)).unwrap() + &gateway.log();
    assert!(!text.contains("hidden"), "{text}");
}

#[test]
fn no_request_can_write_a_line_of_its_own() {
    let up = Upstream::named("up");
    let gateway = logging(ROUTE, &up);
    let evil = "a\"},{\"status\":200,\"x\":\"\u{2028}\u{85}\tb\\";
    gateway.send("GET", "/a%22x", &[("User-Agent", evil), ("X-Tag", "caf\u{e9}")]);
    let line = line(&gateway);
    assert_eq!(line["user_agent"], evil);
    assert_eq!(line["path"], "/a%22x");
    let text = fs::read_to_string(log_file(&gateway)).unwrap();
    assert!(!text.trim_end().contains(['\n', '\t', '\u{2028}', '\u{85}']), "{text}");
}

#[test]
fn the_log_is_opened_again_on_sighup() {
    let up = Upstream::named("up");
    let gateway = logging(ROUTE, &up);
    gateway.get("/one");
    lines(&gateway, 1);
    let moved = gateway.folder().join("access.log.1");
    fs::rename(log_file(&gateway), &moved).unwrap();
    gateway.signal(Signal::HUP);
    eventually("the file is there again", || log_file(&gateway).exists());
    gateway.get("/two");
    assert_eq!(line(&gateway)["path"], "/two");
    assert_eq!(fs::read_to_string(moved).unwrap().lines().count(), 1);
}

#[test]
fn every_request_has_its_line_when_the_process_ends() {
    let up = Upstream::named("up");
    let mut gateway = logging(ROUTE, &up);
    let mut client = gateway.client();
    for _ in 0..500 {
        assert_eq!(client.get("/").status, 200);
    }
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait(), Some(0));
    assert_eq!(fs::read_to_string(log_file(&gateway)).unwrap().lines().count(), 500);
}

#[test]
fn without_a_file_the_log_goes_to_standard_output_and_by_default_there_is_none() {
    let up = Upstream::named("up");
    let yaml =
        |telemetry: &str| format!("{telemetry}upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\n{ROUTE}", up.address());
    let (loud, quiet) =
        (Gateway::start(&yaml("telemetry: { access_log: {} }\n")), Gateway::start(&yaml("telemetry: {}\n")));
    loud.get("/seen");
    quiet.get("/seen");
    eventually("the line is there", || loud.log().contains("\"path\":\"/seen\""));
    assert!(!quiet.log().contains("/seen"), "{}", quiet.log());
}

#[test]
fn metrics_have_the_names_that_dashboards_rely_on() {
    let up = Upstream::named("up");
    let gateway = logging(ROUTE, &up);
    gateway.get("/");
    gateway.send("TRACE", "/", &[]);
    gateway.wait_for_metric("torana_rejects_total{reject=\"method_not_supported\",route=\"\"}", 1.0);
    let text = gateway.ask_admin("/metrics").text();
    let mut names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    names.sort_unstable();
    let own: Vec<_> = names.iter().copied().filter(|name| name.starts_with("torana_")).collect();
    assert_eq!(
        own,
        [
            "torana_access_log_dropped_total counter",
            "torana_buffers_bytes gauge",
            "torana_build_info gauge",
            "torana_cache_bytes gauge",
            "torana_cache_entries gauge",
            "torana_cache_evictions_total counter",
            "torana_config_fallback gauge",
            "torana_config_generation gauge",
            "torana_config_last_reload_success gauge",
            "torana_connections gauge",
            "torana_endpoint_ejected gauge",
            "torana_endpoint_ejections_total counter",
            "torana_endpoint_healthy gauge",
            "torana_penalty_box_addresses gauge",
            "torana_rejects_total counter",
            "torana_reloads_total counter",
            "torana_request_duration_seconds histogram",
            "torana_requests_in_flight gauge",
            "torana_requests_total counter",
            "torana_start_time_seconds gauge",
            "torana_tls_handshakes_total counter",
            "torana_upstream_failures_total counter",
            "torana_upstream_hedges_total counter",
            "torana_upstream_requests_total counter",
            "torana_upstream_response_seconds_total counter",
            "torana_upstream_retries_total counter",
        ]
    );
    for name in ["process_resident_memory_bytes gauge", "process_open_fds gauge", "process_cpu_seconds_total counter"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    assert!(text.lines().filter(|line| line.starts_with("# HELP torana_")).all(|line| line.ends_with('.')), "{text}");
}

#[test]
fn requests_are_counted_by_route_and_class_of_status() {
    let up = Upstream::start(|seen| Reply::new(if seen.target == "/bad" { 503 } else { 200 }, "x"));
    let gateway = logging("routes: [{ name: all, match: { methods: [GET] }, upstream: up }]\n", &up);
    let mut client = gateway.client();
    for path in ["/", "/", "/bad"] {
        client.get(path);
    }
    gateway.send("PUT", "/", &[]);
    let count =
        |route, class| gateway.metric(&format!("torana_requests_total{{route=\"{route}\",status=\"{class}\"}}"));
    eventually("all are counted", || count("all", "2xx") == 2.0 && count("all", "5xx") == 1.0);
    gateway.wait_for_metric("torana_request_duration_seconds_count{route=\"all\"}", 3.0);
    gateway.wait_for_metric("torana_rejects_total{reject=\"method_not_allowed\",route=\"\"}", 1.0);
    let endpoint = up.address();
    let asked = |class: &str| {
        let labels = format!("endpoint=\"{endpoint}\",status=\"{class}\",upstream=\"up\"");
        gateway.metric(&format!("torana_upstream_requests_total{{{labels}}}"))
    };
    assert_eq!((asked("2xx"), asked("5xx")), (2.0, 1.0));
}

#[test]
fn nothing_in_a_request_makes_a_new_series() {
    let up = Upstream::named("up");
    let gateway = logging("routes: [{ name: a, match: { path: { prefix: /a } }, upstream: up }]\n", &up);
    let count = || gateway.ask_admin("/metrics").text().lines().filter(|line| line.starts_with("torana_")).count();
    for path in ["/a", "/none"] {
        gateway.get(path);
    }
    // A request is counted when it is over, which is after its response.
    gateway.wait_for_metric("torana_requests_total{route=\"a\",status=\"2xx\"}", 1.0);
    gateway.wait_for_metric("torana_requests_total{route=\"\",status=\"4xx\"}", 1.0);
    let before = count();
    for i in 0..50 {
        gateway.send("GET", &format!("/a/{i}"), &[("Host", &format!("h{i}.example"))]);
        gateway.send("GET", &format!("/none/{i}?{i}"), &[("X-Tag", &i.to_string())]);
    }
    assert_eq!(count(), before);
}

#[test]
fn live_and_ready_say_so() {
    let up = Upstream::named("up");
    let gateway = logging(ROUTE, &up);
    for path in ["/live", "/ready"] {
        assert_eq!(gateway.ask_admin(path).status, 200, "{path}");
    }
    assert_eq!(gateway.ask_admin("/other").status, 404);
}

#[test]
fn a_process_that_stops_is_live_but_not_ready() {
    let up = Upstream::start(|_| Reply::ok("late").after(Duration::from_secs(2)));
    let gateway = logging(ROUTE, &up);
    let mut client = gateway.client();
    client.write(request("GET", "/", &[]).as_bytes());
    eventually("the request is in flight", || !up.seen().is_empty());
    gateway.signal(Signal::TERM);
    eventually("it is not ready", || gateway.ask_admin("/ready").status == 503);
    let said = gateway.ask_admin("/ready").json();
    assert_eq!(said["reasons"][0], "the process stops", "{said}");
    assert_eq!(gateway.ask_admin("/live").status, 200);
    assert_eq!(gateway.status()["draining"], true);
    assert_eq!(client.read().text(), "late");
}

#[test]
fn status_shows_what_runs() {
    let up = Upstream::named("up");
    let gateway = logging(
        "policies: [{ request_id: {} }]\nroutes: [{ name: all, upstream: up, policies: [{ request_size: { max: 1KiB } }] }]\n",
        &up,
    );
    let status = gateway.status();
    assert_eq!(status["generation"], 1);
    assert_eq!(status["listeners"][0], gateway.address().to_string());
    assert_eq!(status["routes"][0]["name"], "all");
    assert_eq!(status["routes"][0]["policies"], serde_json::json!(["request_id", "request_size"]));
    let endpoint = &status["upstreams"][0]["endpoints"][0];
    assert_eq!(endpoint["address"], up.address().to_string());
    assert_eq!(endpoint["healthy"], true);
    assert_eq!(status["last_reload"]["ok"], true);
    assert!(status["pid"].as_u64().is_some() && status["version"].is_string(), "{status}");
}

#[test]
fn a_web_page_cannot_read_the_admin_listener() {
    let up = Upstream::named("up");
    let gateway = logging(ROUTE, &up);
    let ask = |method: &str, host: &str| {
        let mut client = Client::connect(gateway.admin());
        client.write(request(method, "/status", &[("Host", host)]).as_bytes());
        client.read_answer_to(method)
    };
    for host in ["127.0.0.1", "localhost:9901", "[::1]"] {
        assert_eq!(ask("GET", host).status, 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example"] {
        assert_eq!(ask("GET", host).status, 421, "{host}");
    }
    let head = ask("HEAD", "localhost");
    assert_eq!((head.status, head.body.len()), (200, 0));
    let post = ask("POST", "localhost");
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")));
}

#[test]
fn the_admin_listener_may_be_a_unix_socket_that_only_its_owner_can_open() {
    let up = Upstream::named("up");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let admin = format!("admin: {{ address: \"unix:{}\" }}\n", path.display());
    let _gateway = logging(&format!("{admin}{ROUTE}"), &up);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("live\n"), "{text}");
}

/// The parts of a valid `traceparent`.
#[track_caller]
fn trace(value: &str) -> (String, String, String) {
    let parts: Vec<&str> = value.split('-').collect();
    let hex = |text: &str, length| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    assert!(
        parts.len() == 4 && parts[0] == "00" && hex(parts[1], 32) && hex(parts[2], 16) && hex(parts[3], 2),
        "{value}"
    );
    assert!(!parts[1].bytes().all(|b| b == b'0') && !parts[2].bytes().all(|b| b == b'0'), "{value}");
    (parts[1].into(), parts[2].into(), parts[3].into())
}

#[test]
fn a_trace_is_begun_where_there_is_none_and_stands_in_the_log() {
    let up = Upstream::named("up");
    let gateway = logging(ROUTE, &up);
    gateway.get("/");
    gateway.get("/");
    let seen = up.seen();
    let (one, other) = (trace(seen[0].header("traceparent").unwrap()), trace(seen[1].header("traceparent").unwrap()));
    assert!(one.0 != other.0 && one.1 != other.1);
    assert!(lines(&gateway, 2).iter().any(|line| line["trace_id"] == one.0));
}

#[test]
fn a_trace_is_continued_with_a_span_of_the_gateway() {
    let up = Upstream::named("up");
    let gateway = logging(ROUTE, &up);
    let sent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    gateway.send("GET", "/", &[("traceparent", sent), ("tracestate", "vendor=1")]);
    let seen = up.only();
    let (id, span, flags) = trace(seen.header("traceparent").unwrap());
    assert_eq!((id.as_str(), flags.as_str()), ("4bf92f3577b34da6a3ce929d0e0e4736", "01"));
    assert_ne!(span, "00f067aa0ba902b7");
    assert_eq!(seen.header("tracestate"), Some("vendor=1"));
}

#[test]
fn a_trace_that_is_none_is_replaced() {
    let up = Upstream::named("up");
    let gateway = logging(ROUTE, &up);
    let zero = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
    for sent in ["x", zero, "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", "ff-1-2-3"] {
        gateway.send("GET", "/", &[("traceparent", sent)]);
        let (id, ..) = trace(up.last().header("traceparent").unwrap());
        assert!(!sent.to_lowercase().contains(&id), "{sent}");
    }
}
