//! Event streams (SSE), by an `EventSource` over HTTP/1.1 and by curl over HTTP/2.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    Certificates,
    matrix::{KINDS, Kind},
};
use crate::support::{Gateway, script};

/// A reader of lines that ends when it is dropped.
struct Curl(Child);

impl Curl {
    fn start(arguments: &[&str]) -> Self {
        let mut curl = Command::new("curl");
        curl.args(["-sSN", "--max-time", "60"]).args(arguments);
        Self(curl.stdout(Stdio::piped()).spawn().expect("curl is installed"))
    }

    /// When each of the first `count` events came.
    fn events(&mut self, count: usize) -> Vec<(String, Duration)> {
        let began = Instant::now();
        let lines = BufReader::new(self.0.stdout.as_mut().unwrap()).lines().map_while(Result::ok);
        let events = lines.filter_map(|line| Some((line.strip_prefix("data: ")?.to_owned(), began.elapsed())));
        events.take(count).collect()
    }
}

impl Drop for Curl {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn gateway(certificates: &Certificates, kind: Kind) -> (Gateway, script::Script) {
    let (server, upstream) = kind.start(certificates, "timeouts: { read: 3s }");
    let gateway = certificates.gateway(&format!(
        "upstreams: {{ up: {upstream} }}\nroutes: [{{ name: r, policies: [{{ request_id: {{}} }}], upstream: up }}]\n"
    ));
    (gateway, server)
}

#[track_caller]
fn came_one_by_one(times: impl IntoIterator<Item = u128>) {
    let times: Vec<_> = times.into_iter().collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] > 100), "{times:?}");
}

#[test]
fn an_event_source_hears_each_event_at_once_and_goes_on_where_it_was() {
    let certificates = Certificates::new();
    for kind in KINDS {
        let (gateway, server) = gateway(&certificates, kind);
        let url = format!("http://{}/events?name=source&count=3&gap=400", gateway.address());
        let heard = script::json("events_client.cjs", &[&url, "5"]);
        let heard: Vec<_> = heard.as_array().unwrap().iter().collect();
        let words: Vec<_> = heard.iter().map(|event| event[0].as_str().unwrap()).collect();
        assert_eq!(words, ["event 1", "event 2", "event 3", "event 4", "event 5"], "{kind:?}");
        came_one_by_one(heard.iter().map(|event| event[2].as_u64().unwrap().into()));
        // After the end of the first stream it told the server what it had heard.
        server.wait_for("events source from 3");
        server.wait_for("closed source");
    }
}

#[test]
fn events_come_at_once_over_http2_and_a_client_that_leaves_is_noticed() {
    let certificates = Certificates::new();
    let authority = certificates.path("ca.pem").display().to_string();
    for kind in KINDS {
        let (gateway, server) = gateway(&certificates, kind);
        let secure = gateway.listener(1).port();
        let resolve = format!("one.test:{secure}:127.0.0.1");
        let plain = format!("http://{}/events?name=plain&gap=400", gateway.address());
        let over_tls = format!("https://one.test:{secure}/events?name=secure&gap=400");
        for (name, arguments) in [
            ("plain", &["--http1.1", "--compressed", &plain][..]),
            ("plain", &["--http2-prior-knowledge", "--compressed", &plain]),
            ("secure", &["--http2", "--cacert", &authority, "--resolve", &resolve, &over_tls]),
        ] {
            let before = server.said().len();
            let mut curl = Curl::start(arguments);
            let events = curl.events(4);
            assert_eq!(events.len(), 4, "{kind:?} {arguments:?}");
            came_one_by_one(events.iter().map(|(_, time)| time.as_millis()));
            drop(curl);
            let closed = format!("closed {name}");
            crate::support::eventually("the server knows", || server.said()[before..].contains(&closed));
        }
    }
}

#[test]
fn a_pause_is_cut_off_by_the_time_out_of_the_upstream_and_by_no_other() {
    let certificates = Certificates::new();
    for kind in [Kind::Http1, Kind::H2c] {
        let (server, upstream) = kind.start(&certificates, "timeouts: { read: 3s }");
        let gateway = Gateway::start(&format!(
            "listeners: [{{ address: \"127.0.0.1:0\", h2c: true, idle_timeout: 300ms, header_timeout: 300ms, body_timeout: 300ms }}]
upstreams: {{ up: {upstream} }}\nroutes: [{{ name: r, upstream: up }}]\n"
        ));
        let url = |name: &str, gap: &str| format!("http://{}/events?name={name}&gap={gap}", gateway.address());
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let mut curl = Curl::start(&[version, &url("pauses", "1000")]);
            assert_eq!(curl.events(3).len(), 3, "{kind:?} {version}");
            let mut curl = Curl::start(&[version, &url("silence", "20000")]);
            let began = Instant::now();
            assert_eq!(curl.events(1).len(), 0, "{kind:?} {version}");
            assert!(began.elapsed() > Duration::from_secs(2), "{kind:?} {version}");
            assert!(began.elapsed() < Duration::from_secs(15), "{kind:?} {version}");
        }
        drop(server);
    }
}
