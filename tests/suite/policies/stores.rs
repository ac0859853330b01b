//! Limits that several gateways share in a real Redis, also when it is slow, gone, replaced, or comes back.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::support::{Authority, Gateway, Reply, Upstream, eventually, redis::Redis};

/// A gateway whose limit is in a store with these settings.
fn gateway(up: &Upstream, store: &str, limit: &str) -> Gateway {
    Gateway::start(&file(up, store, limit))
}

fn file(up: &Upstream, store: &str, limit: &str) -> String {
    format!(
        "stores: {{ counts: {{ redis: {{ {store} }} }} }}
upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
routes: [{{ name: r, policies: [{{ rate_limit: {{ key: client_ip, store: counts, {limit} }} }}], upstream: up }}]\n",
        up.address()
    )
}

fn at(redis: &Redis) -> String {
    format!("servers: [\"{}\"]", redis.address())
}

fn wait_until_up(gateway: &Gateway, up: f64) {
    gateway.wait_for_metric("torana_store_up{store=\"counts\"}", up);
}

/// So many requests at each of them, all at once; returns how many passed.
fn storm(gateways: &[Gateway], threads: usize, each: usize) -> usize {
    let passed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for gateway in gateways {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut client = gateway.client();
                    for _ in 0..each {
                        let status = client.get("/").status;
                        assert!([200, 429].contains(&status), "{status}");
                        passed.fetch_add(usize::from(status == 200), Ordering::Relaxed);
                    }
                });
            }
        }
    });
    passed.into_inner()
}

#[test]
fn e01_of_a_thousand_requests_at_three_gateways_exactly_a_hundred_pass() {
    let (redis, up) = (Redis::start(), Upstream::named("up"));
    // A second for an answer: the machine may be busy, and a limit that holds for each gateway alone is another test.
    let gateways = [(); 3].map(|()| {
        gateway(&up, &format!("{}, timeout: 5s", at(&redis)), "limits: [100/h, 10_000/d], on_failure: closed")
    });
    for gateway in &gateways {
        wait_until_up(gateway, 1.0);
    }
    assert_eq!(storm(&gateways, 10, 34), 100);
    assert_eq!(up.seen().len(), 100);
    let refused = gateways[0].get("/");
    assert_eq!(refused.header("ratelimit-policy"), Some("\"100/h\";q=100;w=3600, \"10000/d\";q=10000;w=86400"));
    assert!(refused.header("ratelimit").unwrap().starts_with("\"100/h\";r=0;t=3"), "{refused:?}");
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=36).contains(&after), "{after}");
    // One key, which goes when all is there again.
    assert_eq!(redis.cli(&["dbsize"]), "1");
    let key = redis.cli(&["keys", "*"]);
    assert!(key.starts_with("torana:"), "{key}");
    let left: u64 = redis.cli(&["pttl", &key]).parse().unwrap();
    assert!((3_000_000..=3_600_001).contains(&left), "{left}");
}

#[test]
fn leases_let_no_more_through_than_they_say_and_nearly_as_much() {
    let (redis, up) = (Redis::start(), Upstream::named("up"));
    let gateways = [(); 3]
        .map(|()| gateway(&up, &format!("{}, timeout: 5s", at(&redis)), "limits: [100/h], sync: leased, batch: 5"));
    for gateway in &gateways {
        wait_until_up(gateway, 1.0);
    }
    let passed = storm(&gateways, 4, 84);
    assert!((70..=130).contains(&passed), "{passed}");
    // What was owed is told, and from then on nobody passes.
    eventually("nobody passes", || gateways.iter().all(|gateway| gateway.get("/").status == 429));
    assert_eq!(storm(&gateways, 1, 20), 0);
}

#[test]
fn with_leases_no_request_waits_for_the_store() {
    let (redis, up) = (Redis::start(), Upstream::named("up"));
    let gateway = gateway(&up, &format!("{}, timeout: 2s", at(&redis)), "limits: [1000/h], sync: leased");
    wait_until_up(&gateway, 1.0);
    redis.signal(Signal::STOP);
    let mut client = gateway.client();
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(client.get("/").status, 200);
    }
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    redis.signal(Signal::CONT);
}

#[test]
fn e05_a_store_that_is_gone_is_made_up_for_as_the_file_says() {
    let up = Upstream::named("up");
    for (mode, wanted) in [
        ("", [200, 200, 429]),
        (", on_failure: local", [200, 200, 429]),
        (", on_failure: open", [200, 200, 200]),
        (", on_failure: closed", [503, 503, 503]),
        (", on_failure: closed, sync: leased", [503, 503, 503]),
        (", sync: leased", [200, 200, 429]),
    ] {
        let mut redis = Redis::start();
        let gateway = gateway(&up, &at(&redis), &format!("limits: [2/h]{mode}"));
        wait_until_up(&gateway, 1.0);
        redis.kill();
        wait_until_up(&gateway, 0.0);
        let answers = [(); 3].map(|()| gateway.get("/"));
        assert_eq!(answers.each_ref().map(|answer| answer.status), wanted, "{mode}");
        if wanted[0] == 503 {
            assert_eq!(
                (answers[0].problem().as_str(), answers[0].header("retry-after")),
                ("limit_unavailable", Some("1"))
            );
        }
        assert!(gateway.log().contains("store counts is away"), "{}", gateway.log());
    }
}

#[test]
fn e05_a_store_that_hangs_costs_three_requests_its_time_out_and_the_others_nothing() {
    let (redis, up) = (Redis::start(), Upstream::named("up"));
    let gateway = gateway(&up, &format!("{}, timeout: 300ms", at(&redis)), "limits: [5/h], on_failure: open");
    wait_until_up(&gateway, 1.0);
    let mut client = gateway.client();
    assert_eq!((client.get("/").status, client.get("/").status), (200, 200));
    redis.signal(Signal::STOP);
    let began = Instant::now();
    for _ in 0..50 {
        assert_eq!(client.get("/").status, 200);
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    wait_until_up(&gateway, 0.0);
    assert!(gateway.metric("torana_store_failures_total{store=\"counts\"}") >= 3.0);
    // What was counted before is there still: questions that it got and did not answer may count.
    redis.signal(Signal::CONT);
    wait_until_up(&gateway, 1.0);
    let rest = (0..5).filter(|_| client.get("/").status == 200).count();
    assert!(rest <= 3, "{rest}");
}

#[test]
fn a_store_that_starts_later_or_again_is_used_from_then_on() {
    let (mut redis, up) = (Redis::start(), Upstream::named("up"));
    redis.kill();
    let gateway = gateway(&up, &at(&redis), "limits: [2/h], on_failure: closed");
    assert_eq!(gateway.get("/").status, 503, "the gateway starts without it");
    for _ in 0..2 {
        redis.restart();
        wait_until_up(&gateway, 1.0);
        assert_eq!([(); 3].map(|()| gateway.get("/").status), [200, 200, 429]);
        redis.kill();
        wait_until_up(&gateway, 0.0);
    }
}

#[test]
fn neither_a_reload_nor_a_restart_refills_what_a_store_counts() {
    let (redis, up) = (Redis::start(), Upstream::named("up"));
    let mut first = Gateway::replaceable(&file(&up, &at(&redis), "limits: [3/h], on_failure: closed"));
    wait_until_up(&first, 1.0);
    assert_eq!(first.get("/").status, 200);
    first.reload(&file(&up, &at(&redis), "limits: [3/h], on_failure: closed, headers: kong"));
    assert_eq!(first.get("/").header("x-ratelimit-remaining-hour"), Some("1"));
    first.restart();
    wait_until_up(&first, 1.0);
    assert_eq!((first.get("/").status, first.get("/").status), (200, 429));
}

#[test]
fn waiting_and_costs_of_answers_work_in_a_store_too() {
    let redis = Redis::start();
    let up = Upstream::start(|request| Reply::ok("up").header("X-Cost", request.target.trim_start_matches('/')));
    let costly = gateway(&up, &at(&redis), "limits: [10/h], cost: { response_header: x-cost }, on_failure: closed");
    wait_until_up(&costly, 1.0);
    assert_eq!(costly.get("/50").status, 200);
    eventually("it is charged", || costly.get("/1").status == 429);
    let patient = gateway(&up, &at(&redis), "limits: [5/s], burst: 1, delay: 2s, on_failure: closed");
    wait_until_up(&patient, 1.0);
    let began = Instant::now();
    assert_eq!([(); 3].map(|()| patient.get("/").status), [200; 3]);
    assert!(began.elapsed() >= Duration::from_millis(390), "{:?}", began.elapsed());
}

#[test]
fn passwords_and_tls_are_spoken_and_wrong_ones_are_no_way_in() {
    let (ours, theirs, up) = (Authority::new("ours"), Authority::new("theirs"), Upstream::named("up"));
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = ours.pair("localhost");
    for (name, text) in
        [("cert.pem", certificate), ("key.pem", key), ("ca.pem", ours.pem()), ("other.pem", theirs.pem())]
    {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let secure = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let redis = Redis::with(&[
        "--requirepass",
        "s3cret-of-redis",
        "--tls-port",
        &secure.to_string(),
        "--tls-cert-file",
        &path("cert.pem"),
        "--tls-key-file",
        &path("key.pem"),
        "--tls-ca-cert-file",
        &path("ca.pem"),
        "--tls-auth-clients",
        "no",
    ]);
    assert!(redis.cli(&["ping"]).contains("NOAUTH"));
    let limit = "limits: [1/h], on_failure: closed";
    for (port, rest, wanted) in [
        (redis.address().port(), "password: s3cret-of-redis".to_owned(), [200, 429]),
        (redis.address().port(), "password: wr0ng-of-redis".to_owned(), [503, 503]),
        (redis.address().port(), "database: 1".to_owned(), [503, 503]),
        (secure, format!("password: s3cret-of-redis, database: 2, tls: {{ ca: \"{}\" }}", path("ca.pem")), [200, 429]),
        (secure, format!("password: s3cret-of-redis, tls: {{ ca: \"{}\" }}", path("other.pem")), [503, 503]),
    ] {
        let gateway = gateway(&up, &format!("servers: [\"localhost:{port}\"], {rest}"), limit);
        if wanted[0] == 200 {
            wait_until_up(&gateway, 1.0);
        }
        assert_eq!([(); 2].map(|()| gateway.get("/").status), wanted, "{rest}");
        let shown = gateway.log() + &gateway.status().to_string() + &gateway.ask_admin("/metrics").text();
        assert!(!shown.contains("of-redis"), "{shown}");
    }
}

/// Stands between gateway and store and keeps what the gateway said, one text for each connection.
fn wire(store: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, said) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let heard = Arc::clone(&said);
    std::thread::spawn(move || {
        for (number, gateway) in listener.incoming().map_while(Result::ok).enumerate() {
            heard.lock().unwrap().push(Vec::new());
            let server = TcpStream::connect(store).unwrap();
            let (back, to) = (gateway.try_clone().unwrap(), server.try_clone().unwrap());
            let heard = Arc::clone(&heard);
            std::thread::spawn(move || carry(gateway, to, |bytes| heard.lock().unwrap()[number].extend(bytes)));
            std::thread::spawn(move || carry(server, back, |_| ()));
        }
    });
    (address, said)
}

/// Hands on what comes until there is an end.
fn carry(mut from: TcpStream, mut to: TcpStream, mut tell: impl FnMut(&[u8])) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        tell(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}

/// How many scripts were asked for on each connection.
fn scripts(said: &Mutex<Vec<Vec<u8>>>) -> Vec<usize> {
    let counted = |text: &Vec<u8>| text.to_ascii_lowercase().windows(7).filter(|part| part == b"evalsha").count();
    said.lock().unwrap().iter().map(counted).collect()
}

#[test]
fn a_request_costs_one_round_trip_and_those_under_way_share_one_connection() {
    let (redis, up) = (Redis::start(), Upstream::named("up"));
    let (address, said) = wire(redis.address());
    // Two limits, one question. All that is asked while the server stands still lies on its one connection.
    let limit = "limits: [1000/h, 10_000/d], on_failure: closed";
    let gateway = gateway(&up, &format!("servers: [\"{address}\"], timeout: 5s"), limit);
    wait_until_up(&gateway, 1.0);
    assert_eq!(gateway.get("/").status, 200, "by now the server has the script");
    let before: usize = scripts(&said).iter().sum();
    redis.signal(Signal::STOP);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..20).map(|_| scope.spawn(|| gateway.get("/").status)).collect();
        eventually("all have asked, and none has an answer", || scripts(&said).iter().sum::<usize>() == before + 20);
        assert!(up.seen().len() == 1 && all.iter().all(|one| !one.is_finished()));
        redis.signal(Signal::CONT);
        assert!(all.into_iter().all(|one| one.join().unwrap() == 200));
    });
    let mut client = gateway.client();
    assert!((0..30).all(|_| client.get("/").status == 200));
    let asked = scripts(&said);
    assert_eq!(asked.iter().sum::<usize>(), before + 50, "nobody asks twice");
    assert_eq!(asked.iter().filter(|count| **count > 0).count(), 1, "{asked:?}");
    let stats = redis.cli(&["info", "commandstats"]);
    let calls = format!("cmdstat_evalsha:calls={},", before + 50);
    assert!(stats.contains(&calls), "{stats}");
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn after_a_failover_the_server_that_the_sentinels_name_counts_on() {
    let (mut master, up) = (Redis::start(), Upstream::named("up"));
    let port = master.address().port().to_string();
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &port]);
    eventually("it is a replica", || replica.cli(&["info", "replication"]).contains("master_link_status:up"));
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("sentinel.conf");
    std::fs::write(
        &config,
        format!(
            "sentinel monitor counts 127.0.0.1 {port} 1\nsentinel down-after-milliseconds counts 500\nsentinel failover-timeout counts 2000\n"
        ),
    )
    .unwrap();
    let sentinel = sentinel(&config);
    let settings = format!("servers: [\"{}\"], mode: sentinel, master: counts, timeout: 500ms", sentinel.address());
    let gateway = gateway(&up, &settings, "limits: [3/h], on_failure: closed");
    wait_until_up(&gateway, 1.0);
    assert_eq!(gateway.get("/").status, 200);
    eventually("the replica has it", || replica.cli(&["dbsize"]) == "1");
    eventually("the sentinel knows the replica", || sentinel.cli(&["info", "sentinel"]).contains("slaves=1"));
    master.kill();
    eventually("the replica is in charge", || replica.cli(&["role"]).starts_with("master"));
    eventually("the gateway asks it", || gateway.get("/").status == 200);
    assert_eq!((gateway.get("/").status, gateway.get("/").status), (200, 429), "what was counted is there still");
}

/// A sentinel is the same program.
fn sentinel(config: &std::path::Path) -> Redis {
    Redis::with_first(&[config.to_str().unwrap(), "--sentinel"])
}

#[test]
fn the_nodes_of_a_cluster_share_the_keys() {
    let up = Upstream::named("up");
    let nodes = [(); 3].map(|()| {
        let bus = free().port().to_string();
        Redis::with(&["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"])
    });
    let all: Vec<String> = nodes.iter().map(|node| node.address().to_string()).collect();
    let mut create: Vec<&str> = vec!["--cluster", "create"];
    create.extend(all.iter().map(String::as_str));
    create.extend(["--cluster-yes"]);
    let said = nodes[0].cli(&create);
    assert!(said.contains("All 16384 slots covered"), "{said}");
    eventually("the cluster is there", || {
        nodes.iter().all(|node| node.cli(&["cluster", "info"]).contains("cluster_state:ok"))
    });
    let settings = format!("servers: [\"{}\"], mode: cluster, timeout: 2s", all[0]);
    let yaml =
        file(&up, &settings, "limits: [2/h], on_failure: closed").replace("key: client_ip", "key: { header: x-t }");
    let gateways = [Gateway::start(&yaml), Gateway::start(&yaml)];
    for gateway in &gateways {
        wait_until_up(gateway, 1.0);
    }
    for tenant in 0..30 {
        let tenant = format!("t{tenant}");
        let ask = |i: usize| gateways[i % 2].send("GET", "/", &[("X-T", &tenant)]).status;
        assert_eq!([0, 1, 2, 3].map(ask), [200, 200, 429, 429], "{tenant}");
    }
    let sizes = nodes.each_ref().map(|node| node.cli(&["dbsize"]).parse::<usize>().unwrap());
    assert!(sizes.iter().all(|size| *size > 0) && sizes.iter().sum::<usize>() == 30, "{sizes:?}");
}

#[test]
fn what_is_wrong_with_one_key_is_no_reason_to_leave_the_store() {
    let redis = Redis::start();
    let up = Upstream::start(|request| Reply::ok("up").header("X-Cost", request.target.trim_start_matches('/')));
    let yaml = file(&up, &at(&redis), "limits: [1/h], on_failure: open").replace(
        "routes: [",
        "routes:
  - name: costly
    match: { path: \"/{cost}\" }
    policies: [{ rate_limit: { key: client_ip, limits: [1000/h], store: counts, sync: leased, batch: 4, cost: { response_header: x-cost } } }]
    upstream: up
  - ",
    );
    let yaml = yaml.replace("upstream: up }]\n", "upstream: up }\n");
    let gateway = Gateway::start(&yaml);
    wait_until_up(&gateway, 1.0);
    // More than any number of the script holds.
    for _ in 0..10 {
        let answer = gateway.get("/18446744073709551615");
        assert!([200, 429].contains(&answer.status), "{}", answer.status);
    }
    assert_eq!((gateway.get("/a/b").status, gateway.get("/a/b").status), (200, 429));
    // Something else lies under the key.
    for key in redis.cli(&["keys", "*"]).lines() {
        redis.cli(&["del", key]);
        redis.cli(&["lpush", key, "x"]);
    }
    assert_eq!(gateway.get("/a/b").status, 200, "open: it cannot be asked about this one");
    assert!((gateway.metric("torana_store_up{store=\"counts\"}") - 1.0).abs() < 0.1);
    let log = gateway.log();
    assert!(log.contains("store counts refuses") && !log.contains("is away") && !log.contains("panicked"), "{log}");
}

#[test]
fn what_answers_cost_is_counted_here_while_the_store_is_away() {
    let mut redis = Redis::start();
    let up = Upstream::start(|_| Reply::ok("up").header("X-Cost", "5"));
    redis.kill();
    let gateway = gateway(&up, &at(&redis), "limits: [10/h], cost: { response_header: x-cost }");
    assert_eq!([(); 3].map(|()| gateway.get("/").status), [200, 200, 429]);
}
