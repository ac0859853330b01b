//! Several versions behind one route: shares, overrides, canaries, copies.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::support::{Bare, Gateway, Reply, Upstream, eventually, http2, request};

fn config(old: SocketAddr, new: SocketAddr, route: &str) -> String {
    format!(
        "listeners: [{{ address: \"127.0.0.1:0\", h2c: true }}]
consumers: {{ alice: {{ groups: [beta], api_keys: [key-a] }}, bob: {{ api_keys: [key-b] }} }}
upstreams:
  old: {{ endpoints: [\"{old}\"], retries: {{ attempts: 0 }} }}
  new: {{ endpoints: [\"{new}\"], retries: {{ attempts: 0 }} }}
routes: [{{ name: r, {route} }}]\n"
    )
}

/// Who answered how many of so many requests with these headers.
fn spread(
    gateway: &Gateway,
    times: usize,
    headers: impl Fn(usize) -> Vec<(&'static str, String)>,
) -> BTreeMap<String, usize> {
    let mut client = gateway.client();
    let mut seen = BTreeMap::new();
    for i in 0..times {
        let headers = headers(i);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        client.write(request("GET", "/", &headers).as_bytes());
        let answer = client.read();
        *seen.entry(if answer.status < 500 { answer.text() } else { answer.status.to_string() }).or_insert(0) += 1;
    }
    seen
}

fn none(_: usize) -> Vec<(&'static str, String)> {
    Vec::new()
}

fn share(gateway: &Gateway) -> f64 {
    gateway.metric("torana_canary_share{route=\"r\",upstream=\"new\"}")
}

#[test]
fn requests_are_shared_by_weight_and_a_caller_stays_with_a_version() {
    let (old, new) = (Upstream::named("old"), Upstream::named("new"));
    let split = "split: { to: [{ upstream: old, weight: 80 }, { upstream: new, weight: 20 }], by: { header: x-user } }";
    let gateway = Gateway::start(&config(old.address(), new.address(), split));
    let seen = spread(&gateway, 1_000, none);
    assert!((140..260).contains(&seen["new"]), "{seen:?}");
    let users = |i: usize| vec![("X-User", format!("user-{}", i % 50))];
    spread(&gateway, 200, users);
    let at = |up: &Upstream| -> std::collections::BTreeSet<String> {
        up.seen().iter().filter_map(|request| request.header("x-user").map(str::to_owned)).collect()
    };
    assert!(at(&old).is_disjoint(&at(&new)));
    assert_eq!(at(&old).len() + at(&new).len(), 50);
}

#[test]
fn a_header_a_cookie_a_consumer_or_a_group_forces_a_version() {
    let (old, new) = (Upstream::named("old"), Upstream::named("new"));
    let when = "when: { headers: { x-version: \"2\" }, cookies: { beta: \"1\" }, groups: [beta] }";
    let split = format!(
        "policies: [{{ any_of: [{{ api_key: {{}} }}, {{ anonymous: bob }}] }}],
         split: {{ to: [{{ upstream: old }}, {{ upstream: new, weight: 0, {when} }}] }}"
    );
    let gateway = Gateway::start(&config(old.address(), new.address(), &split));
    for (headers, expected) in [
        (vec![], "old"),
        (vec![("X-Version", "2")], "new"),
        (vec![("X-Version", "3")], "old"),
        (vec![("X-Version", "2"), ("X-Version", "2")], "old"),
        (vec![("Cookie", "a=b; beta=1")], "new"),
        (vec![("Cookie", "beta=2")], "old"),
        (vec![("X-Api-Key", "key-a")], "new"),
        (vec![("X-Api-Key", "key-b")], "old"),
    ] {
        assert_eq!(gateway.send("GET", "/", &headers).text(), expected, "{headers:?}");
        assert_eq!(http2::send(&gateway, "GET", "/", &headers, &[]).text(), expected, "{headers:?} over HTTP/2");
    }
}

#[test]
fn a_canary_that_does_well_goes_through_its_ramp_and_outlives_reload_and_upgrade() {
    let (old, new) = (Upstream::named("old"), Upstream::named("new"));
    let file = config(
        old.address(),
        new.address(),
        "split: { to: [{ upstream: old }, { upstream: new }],
           canary: { upstream: new, ramp: [20%, 50%, 100%], every: 1s, requests: 10, latency: 10000% } }",
    );
    let gateway = Gateway::replaceable(&file);
    assert!((share(&gateway) - 0.2).abs() < 0.01);
    eventually("half", || {
        spread(&gateway, 100, none);
        (share(&gateway) - 0.5).abs() < 0.01
    });
    gateway.reload(&file.replace("name: r,", "priority: high, name: r,"));
    assert!((share(&gateway) - 0.5).abs() < 0.01, "a reload begins nothing anew");
    gateway.upgrade();
    assert!(share(&gateway) >= 0.5, "neither does another process");
    eventually("all", || {
        spread(&gateway, 100, none);
        (share(&gateway) - 1.0).abs() < 0.01
    });
    assert_eq!(spread(&gateway, 50, none), [("new".to_owned(), 50)].into());
    eventually("it is through", || {
        spread(&gateway, 50, none);
        gateway.torana(&["status"]).1.contains("canary       r: 100% to new, done")
    });
}

/// Asks about so many times in a second for so long; returns how many requests there were, and how many failed.
fn load(gateway: &Gateway, rate: u32, time: Duration) -> (usize, usize) {
    let (all, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let began = Instant::now();
    let threads = 8;
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut client = gateway.client();
                let mut next = Instant::now();
                while began.elapsed() < time {
                    next += Duration::from_secs(threads) / rate;
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                    all.fetch_add(1, Ordering::Relaxed);
                    if client.get("/").status >= 500 {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    (all.into_inner(), failed.into_inner())
}

#[test]
fn a_canary_that_fails_a_fifth_of_its_requests_goes_back_by_itself_and_costs_next_to_nothing() {
    let (old, turn) = (Upstream::named("old"), AtomicUsize::new(0));
    let new = Upstream::start(move |_| {
        Reply::new(if turn.fetch_add(1, Ordering::SeqCst).is_multiple_of(5) { 500 } else { 200 }, "new")
    });
    let file = config(
        old.address(),
        new.address(),
        "split: { to: [{ upstream: old }, { upstream: new }], canary: { upstream: new, ramp: [5%, 100%], every: 10s } }",
    );
    let gateway = Gateway::replaceable(&file);
    let (all, failed) = load(&gateway, 1_000, Duration::from_secs(10));
    assert!(share(&gateway).abs() < 0.001);
    assert!(failed > 0 && failed * 200 < all, "{failed} of {all}: under 0.5 %");
    assert!(gateway.log().contains("route r: the canary new goes back to 0%: "), "{}", gateway.log());
    let (_, said) = gateway.torana(&["status"]);
    assert!(
        said.contains("canary       r: 0% to new, WENT BACK: ") && said.contains("requests failed, 0 % of"),
        "{said}"
    );
    // Nothing brings it back by accident; another attempt does.
    gateway.reload(&file.replace("every: 10s", "every: 20s"));
    gateway.upgrade();
    assert_eq!(spread(&gateway, 100, none), [("old".to_owned(), 100)].into());
    gateway.write_config(&file.replace("every: 10s", "every: 20s, attempt: 2"));
    assert_eq!(gateway.torana(&["reload"]).0, Some(0));
    assert!((share(&gateway) - 0.05).abs() < 0.001);
}

#[test]
fn a_canary_that_is_slower_goes_back() {
    let old = Upstream::named("old");
    let new = Upstream::start(|_| Reply::ok("new").after(Duration::from_millis(60)));
    let gateway = Gateway::start(&config(
        old.address(),
        new.address(),
        "split: { to: [{ upstream: old }, { upstream: new }],
           canary: { upstream: new, ramp: [30%, 100%], every: 20s, requests: 20, latency: 300% } }",
    ));
    eventually("it goes back", || {
        spread(&gateway, 50, none);
        share(&gateway).abs() < 0.001
    });
    assert!(gateway.log().contains("ms on average, the others"), "{}", gateway.log());
}

#[test]
fn copies_are_whole_and_their_answers_nobodys_business() {
    let (old, copies) =
        (Upstream::named("old"), Upstream::start(|_| Reply::new(500, "copy").after(Duration::from_secs(3))));
    let gateway = Gateway::start(&config(
        old.address(),
        copies.address(),
        "upstream: old, mirror: { upstream: new, max_body: 1KiB }",
    ));
    let began = Instant::now();
    assert_eq!(gateway.send("GET", "/a?b=c", &[("X-Mirrored-From", "a client")]).text(), "old");
    let mut client = gateway.client();
    client.write((request("POST", "/p", &[("Content-Length", "5")]) + "hello").as_bytes());
    assert_eq!(client.read_answer_to("POST").text(), "old");
    client.write(
        (request("POST", "/chunks", &[("Transfer-Encoding", "chunked")]) + "2\r\nab\r\n1\r\nc\r\n0\r\n\r\n").as_bytes(),
    );
    assert_eq!(client.read_answer_to("POST").text(), "old");
    assert_eq!(http2::send(&gateway, "PUT", "/h2", &[], &[3, 4]).text(), "old");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    eventually("the copies are there", || copies.seen().len() == 4);
    for copy in copies.seen() {
        let original = old.seen().into_iter().find(|request| request.target == copy.target).unwrap();
        assert_eq!((&copy.method, &copy.body), (&original.method, &original.body), "{}", copy.target);
        assert_eq!((copy.header("x-mirrored-from"), original.header("x-mirrored-from")), (Some("r"), None));
        assert_eq!(copy.header("x-forwarded-for"), original.header("x-forwarded-for"));
    }
    // One that is too large is not copied, whether or not it says so.
    let body = "x".repeat(2_000);
    client.write((request("POST", "/large", &[("Content-Length", "2000")]) + &body).as_bytes());
    assert_eq!(client.read_answer_to("POST").text(), "old");
    client.write(
        (request("POST", "/large", &[("Transfer-Encoding", "chunked")]) + &format!("7d0\r\n{body}\r\n0\r\n\r\n"))
            .as_bytes(),
    );
    assert_eq!(client.read_answer_to("POST").text(), "old");
    gateway.wait_for_metric("torana_mirrored_total{outcome=\"skipped\",route=\"r\"}", 2.0);
    gateway.wait_for_metric("torana_mirrored_total{outcome=\"answered\",route=\"r\"}", 4.0);
    assert_eq!(copies.seen().len(), 4);
}

#[test]
fn a_mirror_that_hangs_or_is_not_there_slows_nobody_and_has_a_bound() {
    let old = Upstream::named("old");
    let hanging = Upstream::start(|_| Reply::ok("late").after(Duration::from_secs(30)));
    let mirror = "upstream: old, mirror: { upstream: new, at_once: 5, timeout: 20s }";
    let gateway = Gateway::start(&config(old.address(), hanging.address(), mirror));
    let began = Instant::now();
    assert_eq!(spread(&gateway, 200, none), [("old".to_owned(), 200)].into());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(hanging.seen().len() <= 5);
    gateway.wait_for_metric("torana_mirrored_total{outcome=\"skipped\",route=\"r\"}", 195.0);
    let dead = crate::support::Refusing::new();
    let gateway = Gateway::start(&config(old.address(), dead.address(), "upstream: old, mirror: { upstream: new }"));
    assert_eq!(spread(&gateway, 20, none), [("old".to_owned(), 20)].into());
    gateway.wait_for_metric("torana_mirrored_total{outcome=\"failed\",route=\"r\"}", 20.0);
}

#[test]
fn so_many_requests_are_copied_as_the_share_says() {
    let (old, copies) = (Upstream::named("old"), Upstream::named("copy"));
    let gateway = Gateway::start(&config(
        old.address(),
        copies.address(),
        "upstream: old, mirror: { upstream: new, share: 20%, at_once: 1000 }",
    ));
    spread(&gateway, 500, none);
    let answered = || gateway.metric("torana_mirrored_total{outcome=\"answered\",route=\"r\"}");
    eventually("the copies are answered", || answered() > 50.0);
    thread::sleep(Duration::from_millis(200));
    assert!((60.0..150.0).contains(&answered()), "{}", answered());
}

#[test]
fn a_split_keeps_the_time_of_the_version_that_is_chosen() {
    let slow = || Upstream::start(|_| Reply::ok("late").after(Duration::from_secs(5)));
    let (old, new) = (slow(), slow());
    let file = config(
        old.address(),
        new.address(),
        "split: { to: [{ upstream: old }, { upstream: new, weight: 0, when: { headers: { x-new: \"1\" } } }] }",
    )
    .replace("  new: {", "  new: { timeouts: { total: 300ms },");
    let gateway = Gateway::start(&file);
    let began = Instant::now();
    assert_eq!(gateway.send("GET", "/", &[("X-New", "1")]).problem(), "deadline_exceeded");
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn what_is_refused_or_sent_again_is_no_other_copy() {
    let (old, copies) = (Upstream::named("old"), Upstream::named("copy"));
    let signed = "policies: [{ request_size: { max: 10B } }], upstream: old, mirror: { upstream: new }";
    let gateway = Gateway::start(&config(old.address(), copies.address(), signed));
    assert_eq!(http2::send(&gateway, "POST", "/", &[], &[20]).status, 413);
    thread::sleep(Duration::from_millis(300));
    assert!(copies.seen().is_empty(), "{:?}", copies.seen());

    // The first endpoint breaks off in the middle of the body: the copy has what the second one has.
    let broken = Bare::start(|stream, _| {
        use std::io::Read as _;
        let mut some = [0; 4096];
        drop(stream.read(&mut some));
    });
    let file = config(old.address(), copies.address(), "upstream: old, mirror: { upstream: new }").replace(
        &format!("  old: {{ endpoints: [\"{}\"], retries: {{ attempts: 0 }} }}", old.address()),
        &format!(
            "  old: {{ endpoints: [\"{}\", {{ address: \"{}\", priority: 1 }}], retries: {{ backoff: 0ms }} }}",
            broken.address(),
            old.address()
        ),
    );
    let gateway = Gateway::start(&file);
    let mut client = gateway.client();
    client.write((request("PUT", "/", &[("Content-Length", "8")]) + "abcd").as_bytes());
    thread::sleep(Duration::from_millis(200));
    client.write(b"efgh");
    assert_eq!(client.read_answer_to("PUT").text(), "old");
    eventually("the copy is there", || copies.seen().len() == 1);
    assert_eq!((copies.only().body, old.last().body), (b"abcdefgh".to_vec(), b"abcdefgh".to_vec()));
}

#[test]
fn no_client_sends_a_canary_back_by_asking_for_it_or_by_being_slow() {
    let answer = |name: &'static str| {
        Upstream::start(move |request| Reply::new(if request.target == "/bad" { 500 } else { 200 }, name))
    };
    let (old, new) = (answer("old"), answer("new"));
    let split = "split: { to: [{ upstream: old }, { upstream: new, when: { headers: { x-new: \"1\" } } }],
        canary: { upstream: new, ramp: [50%, 100%], every: 1h, requests: 20 } }";
    let gateway = Gateway::start(&config(old.address(), new.address(), split));
    (0..60).for_each(|_| assert_eq!(gateway.send("GET", "/bad", &[("X-New", "1")]).status, 500));
    spread(&gateway, 100, none);
    for _ in 0..4 {
        let mut slow = gateway.client();
        slow.write((request("POST", "/", &[("Content-Length", "4")]) + "ab").as_bytes());
        thread::sleep(Duration::from_millis(500));
        slow.write(b"cd");
        assert_eq!(slow.read_answer_to("POST").status, 200);
    }
    thread::sleep(Duration::from_secs(1));
    assert!((share(&gateway) - 0.5).abs() < 0.01, "{}", gateway.log());
}
