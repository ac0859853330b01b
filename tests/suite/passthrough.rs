//! Connections that are handed on as they are: any TCP, and TLS by the name that the client asks for.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use rustix::process::Signal;

use crate::support::{Authority, Client, Gateway, Reply, Upstream, eventually};

/// Says its name, then sends everything back until the other side has said everything, then says goodbye.
fn echo(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let _ = stream.write_all(name.as_bytes());
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(&buffer[..read]);
                }
                let _ = stream.write_all(b"bye");
            });
        }
    });
    address
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn read(stream: &mut TcpStream, length: usize) -> String {
    let mut buffer = vec![0; length];
    stream.read_exact(&mut buffer).unwrap();
    String::from_utf8(buffer).unwrap()
}

fn raw(endpoints: &[SocketAddr], rule: &str, rest: &str) -> Gateway {
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", passthrough: [{{ upstream: raw{rule} }}] }}]
telemetry: {{ access_log: {{}} }}
upstreams: {{ raw: {{ endpoints: [{}]{rest} }} }}
",
        endpoints.join(", ")
    ))
}

#[test]
fn bytes_go_both_ways_and_each_side_may_end_first() {
    let gateway = raw(&[echo("hello")], "", "");
    let mut client = connect(gateway.address());
    // The server speaks first, as those of databases and mail do.
    assert_eq!(read(&mut client, 5), "hello");
    let sent: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut writer = client.try_clone().unwrap();
    let all = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&all).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    writing.join().unwrap();
    assert!(received == [&sent[..], b"bye"].concat());
    gateway.wait_for_metric("torana_passthrough_connections_total{outcome=\"done\",upstream=\"raw\"}", 1.0);
    assert_eq!(gateway.metric("torana_passthrough_bytes_total{direction=\"in\",upstream=\"raw\"}"), 1_200_000.0);
    assert_eq!(gateway.metric("torana_passthrough_bytes_total{direction=\"out\",upstream=\"raw\"}"), 1_200_008.0);
    eventually("it is in the access log", || gateway.log().contains("\"upstream\":\"raw\""));
    assert!(gateway.log().contains("\"protocol\":\"TCP\",\"bytes_sent\":1200008,\"bytes_received\":1200000"));
}

#[test]
fn connections_are_balanced_and_an_endpoint_that_is_down_is_not_noticed() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = raw(&[echo("one"), gone, echo("two")], "", ", retries: { attempts: 2 }");
    let mut seen: Vec<String> = (0..12).map(|_| read(&mut connect(gateway.address()), 3)).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["one", "two"]);
    let failures = gateway.metric(&format!("torana_upstream_failures_total{{endpoint=\"{gone}\",upstream=\"raw\"}}"));
    assert!(failures > 0.0);
}

#[test]
fn an_endpoint_that_health_checks_found_sick_gets_no_connections() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let health = ", retries: { attempts: 0 }, health: { interval: 100ms, unhealthy_after: 1 }";
    let gateway = raw(&[echo("one"), gone], "", health);
    gateway.wait_for_metric(&format!("torana_endpoint_healthy{{endpoint=\"{gone}\",upstream=\"raw\"}}"), 0.0);
    for _ in 0..6 {
        assert_eq!(read(&mut connect(gateway.address()), 3), "one");
    }
}

#[test]
fn without_an_endpoint_the_connection_is_closed_and_counted() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = raw(&[gone], "", "");
    assert!(Client::connect(gateway.address()).is_closed());
    gateway.wait_for_metric("torana_passthrough_connections_total{outcome=\"unreachable\",upstream=\"raw\"}", 1.0);
}

#[test]
fn a_connection_on_which_nothing_is_said_is_closed_and_one_that_speaks_is_not() {
    let gateway = raw(&[echo("hello")], ", idle_timeout: 500ms", "");
    let mut busy = connect(gateway.address());
    let mut silent = connect(gateway.address());
    assert_eq!(read(&mut busy, 5), "hello");
    let end = std::time::Instant::now() + Duration::from_secs(2);
    while std::time::Instant::now() < end {
        busy.write_all(b"x").unwrap();
        assert_eq!(read(&mut busy, 1), "x");
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut all = String::new();
    silent.read_to_string(&mut all).unwrap();
    assert_eq!(all, "hello");
    gateway.wait_for_metric("torana_passthrough_connections_total{outcome=\"idle\",upstream=\"raw\"}", 1.0);
}

#[test]
fn a_shutdown_waits_for_connections_that_are_handed_on() {
    let mut gateway = raw(&[echo("hello")], "", "");
    let mut client = connect(gateway.address());
    assert_eq!(read(&mut client, 5), "hello");
    gateway.signal(Signal::TERM);
    eventually("it stops", || gateway.log().contains("SIGTERM"));
    client.write_all(b"still here").unwrap();
    assert_eq!(read(&mut client, 10), "still here");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read(&mut client, 3), "bye");
    assert_eq!(gateway.wait(), Some(0));
}

#[test]
fn a_name_decides_whether_tls_is_handed_on_or_terminated() {
    let authority = Authority::new("tests");
    let one = Upstream::tls(authority.server("one.test"), |_| Reply::ok("one, end to end"));
    let below = Upstream::tls(authority.server("a.below.test"), |_| Reply::ok("below, end to end"));
    let plain = Upstream::named("terminated");
    let yaml = format!(
        "listeners:
  - address: \"127.0.0.1:0\"
    passthrough: [{{ hosts: [one.test], upstream: one }}, {{ hosts: [\"*.below.test\"], upstream: below }}]
    tls: {{ certificates: [{{ cert: own.crt, key: own.key }}] }}
upstreams:
  one: {{ endpoints: [\"{}\"] }}
  below: {{ endpoints: [\"{}\"] }}
  plain: {{ endpoints: [\"{}\"] }}
routes: [{{ name: all, upstream: plain }}]
",
        one.address(),
        below.address(),
        plain.address()
    );
    let gateway = Gateway::start_with(&yaml, |folder, _| {
        let (certificate, key) = authority.pair("own.test");
        fs::write(folder.join("own.crt"), certificate).unwrap();
        fs::write(folder.join("own.key"), key).unwrap();
        fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    });
    let port = gateway.address().port();
    let curl = |name: &str| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "10", "--cacert", "ca.pem"]);
        command.args(["--resolve", &format!("{name}:{port}:127.0.0.1"), &format!("https://{name}:{port}/")]);
        let output = command.current_dir(gateway.folder()).output().expect("curl is installed");
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(curl("one.test"), "one, end to end");
    assert_eq!(curl("ONE.test"), "one, end to end");
    assert_eq!(curl("a.below.test"), "below, end to end");
    assert_eq!(curl("own.test"), "terminated");
    assert!(one.last().header("via").is_none(), "nothing was changed");
    // No TLS at all.
    let mut client = Client::connect(gateway.address());
    client.write(b"GET / HTTP/1.1\r\nHost: one.test\r\n\r\n");
    while client.more().is_some() {}
    assert_eq!(one.seen().len(), 2);
}

#[test]
fn who_the_client_is_is_told_with_the_proxy_protocol() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = raw(&[listener.local_addr().unwrap()], "", ", proxy_protocol: v1");
    let mut client = connect(gateway.address());
    client.write_all(b"data").unwrap();
    let (mut other, _) = listener.accept().unwrap();
    let wanted = format!(
        "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\ndata",
        client.local_addr().unwrap().port(),
        gateway.address().port()
    );
    assert_eq!(read(&mut other, wanted.len()), wanted);
}

#[test]
fn a_reload_changes_where_new_connections_go_and_leaves_the_others() {
    let (one, two) = (echo("one"), echo("two"));
    let gateway = raw(&[one], "", "");
    let mut first = connect(gateway.address());
    assert_eq!(read(&mut first, 3), "one");
    let yaml = fs::read_to_string(gateway.file()).unwrap();
    gateway.reload(&yaml.replace(&one.to_string(), &two.to_string()));
    assert_eq!(read(&mut connect(gateway.address()), 3), "two");
    first.write_all(b"x").unwrap();
    assert_eq!(read(&mut first, 1), "x");
}

#[test]
fn whoever_is_not_let_through_leaves_a_trace() {
    let address = echo("hello");
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", passthrough: [{{ hosts: [one.test], upstream: raw }}] }}]
limits: {{ connections_per_address: 1 }}
telemetry: {{ access_log: {{}} }}
upstreams: {{ raw: {{ endpoints: [\"{address}\"] }} }}
"
    ));
    let port = gateway.address().port().to_string();
    let asked = Command::new("curl")
        .args(["-sS", "--max-time", "10", "--resolve", &format!("zzz.test:{port}:127.0.0.1")])
        .arg(format!("https://zzz.test:{port}/"))
        .output()
        .expect("curl is installed");
    assert!(!asked.status.success());
    gateway.wait_for_metric("torana_rejects_total{reject=\"route_not_found\",route=\"\"}", 1.0);
    eventually("it is in the log", || gateway.log().contains("\"reject\":\"route_not_found\""));
    let _first = connect(gateway.address());
    let mut second = connect(gateway.address());
    assert!(!matches!(second.read(&mut [0; 16]), Ok(1..)), "nothing is said to it");
    gateway.wait_for_metric("torana_rejects_total{reject=\"too_many_connections\",route=\"\"}", 1.0);
    eventually("it is in the log", || gateway.log().contains("\"reject\":\"too_many_connections\""));
}
