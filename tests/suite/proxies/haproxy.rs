//! `HAProxy` and nginx, in front of the gateway and behind it.

use std::{fs, net::TcpStream, os::unix::net::UnixStream, process::Command};

use super::{Program, Reserved, config};
use crate::support::{Authority, Client, Gateway, Response, Upstream, eventually, request};

fn haproxy(config: &str, ready: impl Fn(&std::path::Path) -> bool) -> Program {
    let text =
        format!("defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n{config}\n");
    let mut command = Command::new("haproxy");
    command.env("PATH", "/usr/sbin:/usr/bin:/bin").args(["-db", "-q"]);
    Program::start(command, "-f", &text, ready)
}

/// nginx, with these modules.
pub(crate) fn nginx_with(modules: &str, config: &str, ready: impl Fn(&std::path::Path) -> bool) -> Program {
    let text = format!(
        "{modules} daemon off; master_process off; pid @FOLDER@/nginx.pid; error_log stderr warn;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path @FOLDER@/body; proxy_temp_path @FOLDER@/proxy;\n\
         fastcgi_temp_path @FOLDER@/a; uwsgi_temp_path @FOLDER@/b; scgi_temp_path @FOLDER@/c;\n{config} }}\n"
    );
    let mut command = Command::new("nginx");
    command.env("PATH", "/usr/sbin:/usr/bin:/bin").args(["-e", "stderr"]);
    Program::start(command, "-c", &text, ready)
}

fn nginx(config: &str, ready: impl Fn(&std::path::Path) -> bool) -> Program {
    nginx_with("", config, ready)
}

/// GET from 127.0.0.7.
fn get(address: std::net::SocketAddr, headers: &[(&str, &str)]) -> Response {
    let mut client = Client::connect_from("127.0.0.7".parse().unwrap(), address);
    client.write(request("GET", "/", headers).as_bytes());
    client.read()
}

#[test]
fn haproxy_in_front_says_who_the_client_is() {
    for (how, mode) in [
        ("send-proxy", "tcp"),
        ("send-proxy-v2", "tcp"),
        ("send-proxy-v2 proxy-v2-options crc32c,unique-id", "tcp"),
        ("send-proxy-v2 check inter 100ms", "http"),
    ] {
        let up = Upstream::named("up");
        let gateway = Gateway::start(&config(up.address(), "proxy_protocol: { trusted: [127.0.0.1] }", ""));
        let front = Reserved::new();
        let text = format!(
            "listen front\n  mode {mode}\n  bind {}\n  server gateway {} {how}",
            front.address(),
            gateway.address()
        );
        let _haproxy = haproxy(&text, |_| TcpStream::connect(front.address()).is_ok());
        let answer = get(front.address(), &[("X-Forwarded-For", "203.0.113.1")]);
        assert_eq!((answer.status, answer.text().as_str()), (200, "up"), "{how}");
        assert_eq!(up.last().header("x-forwarded-for"), Some("127.0.0.7"), "{how}");
    }
}

#[test]
fn haproxy_in_front_says_it_in_headers() {
    let header = "http-request set-header Forwarded for=%[src];proto=https;host=\"%[req.hdr(host)]\"";
    for (by, how) in [("x_forwarded_for", "option forwardfor"), ("forwarded", header)] {
        let up = Upstream::named("up");
        let trusted = format!("trusted_proxies: {{ addresses: [127.0.0.1], header: {by} }}");
        let gateway = Gateway::start(&config(up.address(), &trusted, ""));
        let front = Reserved::new();
        let text = format!("listen front\n  {how}\n  bind {}\n  server gateway {}", front.address(), gateway.address());
        let _haproxy = haproxy(&text, |_| TcpStream::connect(front.address()).is_ok());
        let answer = get(front.address(), &[("X-Forwarded-For", "203.0.113.1")]);
        assert_eq!(answer.status, 200, "{how}");
        assert_eq!(up.last().header("x-forwarded-for"), Some("127.0.0.7, 127.0.0.1"), "{how}");
        let proto = if by == "forwarded" { "https" } else { "http" };
        assert_eq!(up.last().header("x-forwarded-proto"), Some(proto), "{how}");
    }
}

#[test]
fn nginx_in_front_says_it_in_a_header_also_over_a_unix_socket() {
    let up = Upstream::named("up");
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("gateway.sock");
    let _gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"unix:{}\", trusted_proxies: {{ addresses: [unix] }} }}]\n\
         upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes: [{{ name: r, upstream: up }}]\n",
        socket.display(),
        up.address()
    ));
    let front = Reserved::new();
    let text = format!(
        "server {{ listen {} reuseport; location / {{ proxy_pass http://unix:{}:/; proxy_set_header Host test;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto https; }} }}",
        front.address(),
        socket.display()
    );
    let _nginx = nginx(&text, |_| TcpStream::connect(front.address()).is_ok());
    assert_eq!(get(front.address(), &[("X-Forwarded-For", "203.0.113.1")]).status, 200);
    assert_eq!(up.last().header("x-forwarded-for"), Some("127.0.0.7, unknown"));
    assert_eq!(up.last().header("x-forwarded-proto"), Some("https"));
}

/// An upstream with these settings, and a gateway to it.
fn gateway(endpoint: &str, settings: &str) -> Gateway {
    Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{endpoint}\"], {settings} }} }}\nroutes: [{{ name: r, upstream: up }}]\n"
    ))
}

const ECHO: &str = "http-request return status 200 content-type text/plain lf-string \"%[src] %[dst]\"";

#[test]
fn haproxy_behind_sees_the_client() {
    for version in ["v1", "v2"] {
        for (bind, protocol) in [("accept-proxy", "http1"), ("accept-proxy proto h2", "http2")] {
            let back = Reserved::new();
            let text = format!("frontend back\n  bind {} {bind}\n  {ECHO}", back.address());
            let _haproxy = haproxy(&text, |_| TcpStream::connect(back.address()).is_ok());
            let settings =
                format!("protocol: {protocol}, proxy_protocol: {version}, health: {{ http: {{}}, interval: 100ms }}");
            let gateway = gateway(&back.address().to_string(), &settings);
            for _ in 0..3 {
                let answer = get(gateway.address(), &[]);
                assert_eq!((answer.status, answer.text().as_str()), (200, "127.0.0.7 127.0.0.1"), "{version} {bind}");
            }
            // Time for some checks.
            std::thread::sleep(std::time::Duration::from_millis(500));
            let series = format!("torana_endpoint_healthy{{endpoint=\"{}\",upstream=\"up\"}}", back.address());
            assert_eq!(gateway.metric(&series), 1.0);
        }
    }
}

#[test]
fn haproxy_behind_sees_the_client_over_tls_and_unix_sockets() {
    let authority = Authority::new("authority");
    let (certificate, key) = authority.pair("up.example");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("up.pem"), certificate + &key).unwrap();
    fs::write(at("ca.pem"), authority.pem()).unwrap();
    let back = Reserved::new();
    let text = format!(
        "frontend back\n  bind {} accept-proxy ssl crt {} alpn h2,http/1.1\n  bind unix@{} accept-proxy\n  \
         bind unix@{} accept-proxy proto h2\n  {ECHO}",
        back.address(),
        at("up.pem"),
        at("back.sock"),
        at("h2.sock"),
    );
    let listens =
        |_: &std::path::Path| TcpStream::connect(back.address()).is_ok() && UnixStream::connect(at("h2.sock")).is_ok();
    let _haproxy = haproxy(&text, listens);
    let tls = format!("tls: {{ server_name: up.example, ca: \"{}\" }}", at("ca.pem"));
    let (tcp, unix) = (back.address().to_string(), format!("unix:{}", at("back.sock")));
    let h2c = format!("unix:{}", at("h2.sock"));
    for (endpoint, settings) in [
        (&tcp, format!("{tls}, proxy_protocol: v1")),
        (&tcp, format!("{tls}, proxy_protocol: v2, protocol: http2")),
        (&unix, "proxy_protocol: v2".to_owned()),
        (&unix, "proxy_protocol: v1".to_owned()),
        (&h2c, "proxy_protocol: v2, protocol: http2, health: { http: {}, interval: 100ms }".to_owned()),
    ] {
        let gateway = gateway(endpoint, &settings);
        for _ in 0..2 {
            let answer = get(gateway.address(), &[]);
            assert_eq!((answer.status, answer.text().as_str()), (200, "127.0.0.7 127.0.0.1"), "{endpoint} {settings}");
        }
    }
}

#[test]
fn http2_is_spoken_to_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h2.sock");
    let text = format!(
        "frontend back\n  bind unix@{} proto h2\n  http-request return status 200 content-type text/plain lf-string \
         \"%[req.ver] %[req.hdr(host)]\"",
        path.display()
    );
    let _haproxy = haproxy(&text, |_| UnixStream::connect(&path).is_ok());
    let settings = "protocol: http2, health: { http: {}, interval: 100ms }";
    let gateway = gateway(&format!("unix:{}", path.display()), settings);
    for _ in 0..3 {
        assert_eq!(gateway.get("/").text(), "2.0 test");
    }
}

#[test]
fn nginx_behind_sees_the_client() {
    let back = Reserved::new();
    let text = format!(
        "server {{ listen {} proxy_protocol reuseport;\n\
         location / {{ return 200 \"$proxy_protocol_addr $proxy_protocol_port\"; }} }}",
        back.address()
    );
    let _nginx = nginx(&text, |_| TcpStream::connect(back.address()).is_ok());
    for version in ["v1", "v2"] {
        let health = "health: { http: {}, interval: 100ms }";
        let gateway = gateway(&back.address().to_string(), &format!("proxy_protocol: {version}, {health}"));
        let mut client = Client::connect_from("127.0.0.7".parse().unwrap(), gateway.address());
        let port = client.stream().local_addr().unwrap().port();
        assert_eq!(client.get("/").text(), format!("127.0.0.7 {port}"), "{version}");
        let series = format!("torana_endpoint_healthy{{endpoint=\"{}\",upstream=\"up\"}}", back.address());
        eventually("it is healthy", || gateway.metric(&series) == 1.0);
    }
}
