//! Endpoints that something else knows: SRV records, a file, Consul.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use super::{answers, different, named};
use crate::support::{Dns, Gateway, Reply, Says, Upstream, eventually};

/// A gateway for one upstream with this discovery.
fn config(discovery: &str, more: &str) -> String {
    format!(
        "{more}upstreams: {{ up: {{ discovery: [{discovery}], retries: {{ attempts: 0 }}, outliers: {{ max_ejected: 0% }} }} }}
routes: [{{ name: r, upstream: up }}]\n"
    )
}

/// Who answers now.
fn who(gateway: &Gateway) -> String {
    let answers = answers(gateway, 12);
    different(&answers).into_iter().collect::<Vec<_>>().join(" ")
}

fn eventually_who(gateway: &Gateway, expected: &str) {
    eventually(expected, || gateway.get("/").status == 200 && who(gateway) == expected);
}

#[test]
fn srv_records_say_addresses_ports_weights_and_priorities() {
    let (mut ups, addresses) = named(["one", "two", "three"]);
    let [one, two, three] = addresses;
    let dns = Dns::start(Says::Services(vec![(10, 3, one), (10, 1, two), (20, 1, three)], 1));
    let servers = format!("dns: {{ servers: [\"{}\"], min_ttl: 200ms }}\n", dns.address());
    let gateway = Gateway::start(&config("{ srv: _orders._tcp.test }", &servers));
    let seen = answers(&gateway, 40);
    assert_eq!(different(&seen), ["one", "two"].into(), "priority 10 comes first, from the first request on");
    assert_eq!(seen.iter().filter(|answer| *answer == "one").count(), 30, "by weight");
    // They change, go wrong, and come back.
    dns.say(Says::Services(vec![(5, 1, three)], 1));
    eventually_who(&gateway, "three");
    dns.say(Says::Failure);
    eventually("it was asked", || gateway.log().contains("srv _orders._tcp.test: "));
    assert_eq!(who(&gateway), "three");
    dns.say(Says::NoSuchName);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(who(&gateway), "three", "the last good set");
    dns.say(Says::Services(vec![(0, 1, two)], 1));
    eventually_who(&gateway, "two");
    drop(ups.iter_mut());
}

fn write(path: &Path, endpoints: &[SocketAddr]) {
    let lines: Vec<String> = endpoints.iter().map(|address| format!("- {address}\n")).collect();
    // As tools do it: whole, under another name, and then moved.
    let temporary = path.with_extension("new");
    fs::write(&temporary, lines.concat()).unwrap();
    fs::rename(temporary, path).unwrap();
}

#[test]
fn a_file_is_read_again_when_it_changes_and_a_broken_one_changes_nothing() {
    let (_ups, [one, two, three]) = named(["one", "two", "three"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.yaml");
    write(&path, &[one]);
    let file = config(&format!("{{ file: \"{}\" }}", path.display()), "");
    let gateway = Gateway::replaceable(&file);
    assert_eq!(who(&gateway), "one");
    write(&path, &[one, two]);
    eventually_who(&gateway, "one two");
    for broken in ["- nonsense\n", "", "- a.example:80\n", "{"] {
        fs::write(&path, broken).unwrap();
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(who(&gateway), "one two", "{broken:?}");
    }
    assert!(gateway.log().contains("2 known endpoints stay in use"), "{}", gateway.log());
    fs::remove_file(&path).unwrap();
    gateway.reload(&file.replace("name: r,", "name: other,"));
    assert_eq!(who(&gateway), "one two", "not even a reload without the file");
    gateway.upgrade();
    assert_eq!(who(&gateway), "one two", "nor another process");
    write(&path, &[three]);
    eventually_who(&gateway, "three");
}

#[test]
fn without_a_file_the_upstream_waits_for_it() {
    let (_ups, [one]) = named(["one"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later.yaml");
    let gateway = Gateway::start(&config(&format!("{{ file: \"{}\" }}", path.display()), ""));
    assert_eq!(gateway.get("/").problem(), "no_healthy_endpoint");
    write(&path, &[one]);
    eventually_who(&gateway, "one");
}

/// Consul's health API with blocking queries, as its documentation describes them.
#[derive(Clone)]
struct Catalogue(Arc<Shared>);

/// The index and the endpoints, and who waits for a change.
type Shared = (Mutex<(u64, Vec<SocketAddr>)>, Condvar);

impl Catalogue {
    fn start(endpoints: &[SocketAddr]) -> (Self, Upstream) {
        let catalogue = Self(Arc::new((Mutex::new((7, endpoints.to_vec())), Condvar::new())));
        let shared = catalogue.clone();
        let server = Upstream::start(move |request| {
            if request.header("x-consul-token") != Some("a-token") {
                return Reply::new(403, "Permission denied");
            }
            let query = request.target.split_once('?').unwrap().1;
            let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(&format!("{key}=")));
            let known = value("index").map_or(0, |index| index.parse().unwrap());
            let (state, changed) = &*shared.0;
            let wait = Duration::from_secs(value("wait").map_or(0, |wait| wait.trim_end_matches('s').parse().unwrap()));
            let (state, _) = changed.wait_timeout_while(state.lock().unwrap(), wait, |state| state.0 <= known).unwrap();
            let entry = |address: &SocketAddr| {
                serde_json::json!({
                    "Node": { "Node": "n", "Address": "192.0.2.1" },
                    "Service": { "ID": "orders-1", "Service": "orders", "Address": address.ip(), "Port": address.port(),
                                 "Weights": { "Passing": 1, "Warning": 1 } },
                    "Checks": [],
                })
            };
            let all: Vec<_> = state.1.iter().map(entry).collect();
            Reply::ok(serde_json::to_vec(&all).unwrap()).header("X-Consul-Index", &state.0.to_string())
        });
        (catalogue, server)
    }

    fn set(&self, endpoints: &[SocketAddr]) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        *state = (state.0 + 1, endpoints.to_vec());
        changed.notify_all();
    }
}

#[test]
fn a_service_in_consul_is_followed_by_blocking_queries() {
    let (_ups, [one, two]) = named(["one", "two"]);
    let (catalogue, server) = Catalogue::start(&[one]);
    let consul = format!(
        "{{ consul: {{ address: \"http://{}\", service: orders, tag: v2, datacenter: dc2, token: a-token, wait: 2s }} }}",
        server.address()
    );
    let gateway = Gateway::start(&config(&consul, ""));
    assert_eq!(who(&gateway), "one", "from the first request on");
    let first = &server.seen()[0].target;
    assert_eq!(first, "/v1/health/service/orders?passing=1&tag=v2&dc=dc2");
    eventually("it waits for more", || server.seen().len() == 2);
    assert_eq!(server.seen()[1].target, "/v1/health/service/orders?passing=1&index=7&wait=2s&tag=v2&dc=dc2");
    let began = Instant::now();
    catalogue.set(&[one, two]);
    eventually_who(&gateway, "one two");
    assert!(began.elapsed() < Duration::from_secs(2), "at once: {:?}", began.elapsed());
    // Nobody is left: rather ask those than nobody.
    catalogue.set(&[]);
    eventually("the empty answer came", || {
        gateway.log().contains("it knows no endpoint; 2 known endpoints stay in use")
    });
    assert_eq!(who(&gateway), "one two");
    let asked = server.seen().len();
    assert!(asked < 12, "{asked} questions");
    assert!(!gateway.log().contains("a-token"));
    catalogue.set(&[two]);
    eventually_who(&gateway, "two");
    drop(server);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(who(&gateway), "two", "an agent that is gone takes nobody along");
}

#[test]
fn an_agent_that_refuses_or_answers_nonsense_is_no_reason_to_forget_endpoints() {
    let (_ups, [one]) = named(["one"]);
    for (status, body) in [(403, "Permission denied"), (200, "<html>"), (500, ""), (200, "{\"a\": 1}")] {
        let server = Upstream::start(move |_| Reply::new(status, body).header("X-Consul-Index", "1"));
        let consul = format!("{{ consul: {{ address: \"http://{}\", service: orders }} }}", server.address());
        let file = config(&consul, "").replace("{ discovery", &format!("{{ endpoints: [\"{one}\"], discovery"));
        let gateway = Gateway::start(&file);
        assert_eq!(who(&gateway), "one", "{status} {body}");
        eventually("a warning", || gateway.log().contains("consul orders at 127.0.0.1"));
    }
}
