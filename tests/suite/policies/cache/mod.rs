//! Answers that are kept: for how long, for whom, and what takes them away.

mod abused;

use std::{
    io::{Read as _, Write as _},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use crate::{
    policies::config,
    support::{Bare, Gateway, Recorded, Reply, Response, Upstream, eventually, request},
};

/// An upstream that numbers its answers, so that one sees which were kept.
fn numbered(answer: impl Fn(&Recorded, Reply) -> Reply + Send + Sync + 'static) -> Upstream {
    let count = AtomicUsize::new(0);
    Upstream::start(move |request| {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        answer(request, Reply::ok(number.to_string()))
    })
}

/// One that says how long its answers may be kept.
fn fresh_for(control: &'static str) -> Upstream {
    numbered(move |_, reply| reply.header("Cache-Control", control))
}

fn gateway(up: &Upstream, cache: &str) -> Gateway {
    Gateway::start(&format!(
        "telemetry: {{ access_log: {{}} }}\n{}",
        config(up, &format!("{{ cache: {{ {cache} }} }}"))
    ))
}

#[track_caller]
fn said(answer: &Response) -> &str {
    answer.header("cache-status").unwrap()
}

#[test]
fn what_the_upstream_lets_be_kept_is_given_again_with_its_age() {
    let up = fresh_for("max-age=60");
    let gateway = gateway(&up, "");
    let first = gateway.get("/a?b=1");
    assert_eq!((first.text().as_str(), said(&first), first.header("age")), ("1", "torana; fwd=miss; stored", None));
    let mut client = gateway.client();
    for _ in 0..3 {
        let again = client.get("/a?b=1");
        assert_eq!((again.text().as_str(), said(&again)), ("1", "torana; hit"));
        let age: u64 = again.header("age").unwrap().parse().unwrap();
        assert!(age < 10, "{age}");
    }
    assert_eq!(client.get("/a?b=2").text(), "2", "another query is another resource");
    assert_eq!(up.seen().len(), 2);
    let log = gateway.access_lines(5);
    let outcomes: Vec<_> = log.iter().map(|line| line["cache"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["miss", "hit", "hit", "hit", "miss"]);
    assert!(log[1].get("upstream_ms").is_none(), "{}", log[1]);
    gateway.wait_for_metric("torana_cache_requests_total{outcome=\"hit\",route=\"r\"}", 3.0);
    assert!((gateway.metric("torana_cache_entries") - 2.0).abs() < 0.1);
    assert_eq!(gateway.status()["cache"]["entries"], 2);
}

/// What is wrong with an answer, what is said of it, and how it is made.
type Answer = (&'static str, &'static str, fn(Reply) -> Reply);

#[test]
fn what_the_upstream_does_not_let_be_kept_is_not() {
    let own_length = |head: &str| Reply::raw(format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n{head}\r\nbody"));
    let answers: [Answer; 12] = [
        ("nothing is said", "no_lifetime", |reply| reply),
        ("private", "private", |reply| reply.header("Cache-Control", "private, max-age=60")),
        ("no-store", "no_store", |reply| reply.header("Cache-Control", "no-store, max-age=60")),
        ("two lines", "no_store", |reply| {
            reply.header("Cache-Control", "max-age=60").header("Cache-Control", "no-store")
        }),
        ("old at once", "old", |reply| reply.header("Cache-Control", "max-age=0")),
        ("s-maxage goes first", "old", |reply| reply.header("Cache-Control", "max-age=60, s-maxage=0")),
        ("in the past", "old", |reply| reply.header("Expires", "Thu, 01 Jan 1970 00:00:00 GMT")),
        ("a cookie", "set_cookie", |reply| reply.header("Cache-Control", "max-age=60").header("Set-Cookie", "a=b")),
        ("varies by all", "vary", |reply| reply.header("Cache-Control", "max-age=60").header("Vary", "Accept, *")),
        ("a part", "part", |reply| reply.header("Cache-Control", "max-age=60").header("Content-Range", "bytes 0-1/9")),
        ("as old as it may get", "old", |reply| reply.header("Cache-Control", "max-age=60").header("Age", "60")),
        ("large", "too_large", |_| Reply::ok(vec![b'x'; 2000]).header("Cache-Control", "max-age=60")),
    ];
    for (what, why, answer) in answers {
        let up = numbered(move |_, reply| answer(reply));
        let gateway = gateway(&up, "max_object: 1000B");
        for _ in 0..3 {
            assert_eq!(said(&gateway.get("/")), format!("torana; fwd=bypass; detail={why}"), "{what}");
        }
        assert_eq!(up.seen().len(), 3, "{what}");
        assert_eq!(gateway.access_lines(3)[2]["not_kept"], why);
    }
    // One that ends with its connection may have been cut off.
    let up = Upstream::start(move |_| own_length(""));
    let gateway = gateway(&up, "");
    assert_eq!([(); 2].map(|()| said(&gateway.get("/")).to_owned()), ["torana; fwd=bypass; detail=no_length"; 2]);
    for status in [201, 206, 401, 403, 416, 500, 502, 503] {
        let up = Upstream::start(move |_| Reply::new(status, "x").header("Cache-Control", "max-age=60"));
        let gateway = self::gateway(&up, "ttl: 60s");
        assert_eq!([(); 2].map(|()| gateway.get("/").status), [status; 2]);
        assert!(gateway.status()["cache"]["entries"] == 0, "{status}");
    }
}

#[test]
fn ttl_is_for_answers_that_say_nothing_to_requests_without_cookies() {
    let up = numbered(|_, reply| reply);
    let gateway = gateway(&up, "ttl: 60s");
    assert_eq!([(); 2].map(|()| gateway.get("/").text()), ["1", "1"]);
    let with_cookie = || gateway.send("GET", "/b", &[("Cookie", "session=1")]).text();
    assert_eq!((with_cookie(), with_cookie()), ("2".into(), "3".into()));
    let up = fresh_for("max-age=1");
    let gateway = self::gateway(&up, "ttl: 60s");
    assert_eq!(gateway.get("/").text(), "1");
    eventually("the upstream's word goes first", || gateway.get("/").text() == "2");
}

#[test]
fn an_old_answer_is_given_again_once_the_upstream_says_that_it_holds() {
    let up = numbered(|request, reply| {
        let reply = reply.header("Cache-Control", "max-age=1").header("ETag", "\"v1\"");
        if request.header("if-none-match") == Some("\"v1\"") {
            Reply::new(304, "").header("Cache-Control", "max-age=60").header("ETag", "\"v1\"")
        } else {
            reply
        }
    });
    let gateway = gateway(&up, "");
    assert_eq!(gateway.get("/").text(), "1");
    let mut last = gateway.get("/");
    eventually("it is old", || {
        last = gateway.get("/");
        said(&last) != "torana; hit"
    });
    assert_eq!((last.status, last.text().as_str(), said(&last)), (200, "1", "torana; fwd=stale; fwd-status=304"));
    // From then on as the 304 says.
    let again = gateway.get("/");
    assert_eq!((again.text().as_str(), said(&again)), ("1", "torana; hit"));
    assert_eq!(up.seen().len(), 2);
}

#[test]
fn clients_ask_whether_it_changed_for_parts_and_for_the_header() {
    let up = numbered(|_, reply| {
        drop(reply);
        Reply::ok("0123456789").header("Cache-Control", "max-age=60").header("ETag", "\"v1\"")
    });
    let gateway = gateway(&up, "");
    assert_eq!(gateway.get("/").text(), "0123456789");
    let part = gateway.send("GET", "/", &[("Range", "bytes=2-4")]);
    assert_eq!((part.status, part.text().as_str(), part.header("content-range")), (206, "234", Some("bytes 2-4/10")));
    assert_eq!(gateway.send("GET", "/", &[("Range", "bytes=-2")]).text(), "89");
    assert_eq!(gateway.send("GET", "/", &[("Range", "bytes=20-")]).status, 416);
    assert_eq!(gateway.send("GET", "/", &[("If-None-Match", "\"v1\"")]).status, 304);
    assert_eq!(gateway.send("GET", "/", &[("If-None-Match", "\"v2\"")]).status, 200);
    let head = gateway.send("HEAD", "/", &[]);
    assert_eq!((head.status, head.header("content-length"), head.text().as_str()), (200, Some("10"), ""));
    assert_eq!(up.seen().len(), 1);
    // What is not there yet is kept of whole answers only; others are the upstream's to give.
    for (method, headers) in [("HEAD", &[][..]), ("GET", &[("Range", "bytes=2-4")])] {
        let asked = gateway.send(method, "/b", headers);
        assert_eq!((asked.status, said(&asked)), (200, "torana; fwd=bypass; detail=head_or_range"));
        assert_eq!(up.last().method, method);
    }
    assert_eq!(up.last().header("range"), Some("bytes=2-4"));
    assert_eq!(said(&gateway.get("/b")), "torana; fwd=miss; stored");
}

#[test]
fn a_client_that_has_enough_before_the_answer_is_there_leaves_nothing_behind() {
    // The body comes a while after its header.
    let up = Bare::start(|stream, _| {
        let mut request = [0; 4096];
        while let Ok(1..) = stream.read(&mut request) {
            let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: \"a\"\r\nContent-Length: 300000\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            if request.starts_with(b"HEAD") {
                continue;
            }
            for _ in 0..10 {
                std::thread::sleep(Duration::from_millis(20));
                if stream.write_all(&vec![b'x'; 30_000]).is_err() {
                    return;
                }
            }
        }
    });
    let yaml = format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
routes: [{{ name: r, policies: [{{ cache: {{}} }}], upstream: up }}]\n",
        up.address()
    );
    let gateway = Gateway::start(&yaml);
    let forms = [
        ("HEAD", [("X", "")]),
        ("GET", [("If-None-Match", "\"a\"")]),
        ("GET", [("If-None-Match", "*")]),
        ("GET", [("Range", "bytes=0-3")]),
        ("GET", [("If-Modified-Since", "Thu, 01 Jan 2037 00:00:00 GMT")]),
    ];
    for round in 0..3 {
        for (number, (method, headers)) in forms.iter().enumerate() {
            let mut client = gateway.client();
            let target = format!("/{round}/{number}");
            client.write(request(method, &target, headers).as_bytes());
            assert_eq!(client.read_answer_to(method).status, 200, "{method} {headers:?}");
            let next = client.get(&target);
            assert_eq!((next.status, next.body.len()), (200, 300_000), "{method} {headers:?}");
            assert_eq!(said(&client.get(&target)), "torana; hit", "{method} {headers:?}");
        }
        // One that leaves in the middle: the next one does not wait for it.
        let target = format!("/{round}/left");
        let mut client = gateway.client();
        client.write(request("GET", &target, &[]).as_bytes());
        std::thread::sleep(Duration::from_millis(60));
        drop(client);
        let began = Instant::now();
        assert_eq!(gateway.get(&target).body.len(), 300_000);
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
    eventually("no connection is left", || gateway.status()["connections"] == 0);
}

#[test]
fn of_many_requests_at_once_one_goes_to_the_upstream() {
    let up = numbered(|_, reply| reply.header("Cache-Control", "max-age=60").after(Duration::from_millis(300)));
    let gateway = gateway(&up, "");
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..30).map(|_| scope.spawn(|| gateway.get("/").text())).collect();
        assert!(all.into_iter().all(|one| one.join().unwrap() == "1"));
    });
    assert_eq!(up.seen().len(), 1);
    // Those whose answers are not kept do not wait for each other, once that is known.
    let up = numbered(|_, reply| reply.after(Duration::from_millis(300)));
    let gateway = self::gateway(&up, "");
    gateway.get("/");
    let began = Instant::now();
    std::thread::scope(|scope| (0..20).for_each(|_| drop(scope.spawn(|| gateway.get("/")))));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(up.seen().len(), 21);
}

#[test]
fn while_one_asks_anew_the_others_get_the_old_answer() {
    let up = numbered(|_, reply| {
        let reply = reply.header("Cache-Control", "max-age=1");
        reply.after(Duration::from_millis(400))
    });
    let gateway = gateway(&up, "stale_while_revalidate: 1h");
    assert_eq!(gateway.get("/").text(), "1");
    std::thread::sleep(Duration::from_millis(1200));
    std::thread::scope(|scope| {
        let asks = scope.spawn(|| gateway.get("/"));
        eventually("it asks", || up.seen().len() == 2);
        let began = Instant::now();
        let other = gateway.get("/");
        assert!(began.elapsed() < Duration::from_millis(300), "{:?}", began.elapsed());
        assert_eq!((other.text().as_str(), said(&other)), ("1", "torana; hit; detail=stale"));
        let asked = asks.join().unwrap();
        assert_eq!((asked.text().as_str(), said(&asked)), ("2", "torana; fwd=stale; stored"));
    });
    assert_eq!(gateway.get("/").text(), "2");
}

#[test]
fn an_upstream_that_fails_is_made_up_for_with_an_old_answer() {
    let broken = std::sync::Arc::new(AtomicUsize::new(0));
    let now = std::sync::Arc::clone(&broken);
    let up = numbered(move |_, reply| match now.load(Ordering::SeqCst) {
        0 => reply.header("Cache-Control", "max-age=1"),
        1 => Reply::new(500, "broken"),
        _ => Reply::hang_up(),
    });
    let strict = gateway(&up, "");
    let gateway = gateway(&up, "stale_if_error: 1h");
    for gateway in [&gateway, &strict] {
        assert_eq!(gateway.get("/").status, 200);
    }
    std::thread::sleep(Duration::from_millis(1200));
    for how in [1, 2] {
        broken.store(how, Ordering::SeqCst);
        let answer = gateway.get("/");
        assert_eq!((answer.status, answer.text().as_str(), said(&answer)), (200, "1", "torana; hit; detail=stale"));
        assert!(strict.get("/").status >= 500, "it was not told to");
    }
    drop(up);
    assert_eq!(gateway.get("/").text(), "1", "nobody listens any more");
    assert_eq!(gateway.get("/other").status, 502);
    let log = gateway.access_lines(5);
    assert!(log[1]["cache"] == "stale" && log[1].get("reject").is_none(), "{}", log[1]);
}

#[test]
fn what_changes_something_takes_what_is_kept_away_when_it_succeeds() {
    let up = numbered(|request, reply| {
        let reply = reply.header("Cache-Control", "max-age=60");
        if request.target == "/fails" && request.method != "GET" { Reply::new(409, "no") } else { reply }
    });
    // Also where the method has a route of its own.
    let yaml = format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
routes:
  - {{ name: read, match: {{ methods: [GET, HEAD] }}, policies: [{{ cache: {{}} }}], upstream: up }}
  - {{ name: write, match: {{ methods: [POST, PUT, DELETE, OPTIONS] }}, upstream: up }}\n",
        up.address()
    );
    let gateway = Gateway::start(&yaml);
    for (method, target, is_gone) in [
        ("POST", "/x", true),
        ("PUT", "/x", true),
        ("DELETE", "/x", true),
        ("OPTIONS", "/x", false),
        ("POST", "/fails", false),
        ("POST", "/other", false),
    ] {
        let read = if target == "/other" { "/x" } else { target };
        let kept = gateway.get(read).text();
        assert_eq!(gateway.get(read).text(), kept);
        gateway.send(method, target, &[]);
        assert_eq!(gateway.get(read).text() != kept, is_gone, "{method} {target}");
    }
}

#[test]
fn an_answer_from_before_a_change_is_not_kept_after_it() {
    let up = numbered(|request, reply| {
        let wait = if request.method == "GET" { 400 } else { 0 };
        reply.header("Cache-Control", "max-age=60").after(Duration::from_millis(wait))
    });
    let gateway = gateway(&up, "");
    std::thread::scope(|scope| {
        let read = scope.spawn(|| gateway.get("/").text());
        eventually("it is on its way", || up.seen().len() == 1);
        gateway.send("POST", "/", &[]);
        assert_eq!(read.join().unwrap(), "1");
    });
    assert_ne!(gateway.get("/").text(), "1");
}

#[test]
fn operators_take_answers_away_by_route_by_url_and_all() {
    let up = fresh_for("max-age=60");
    let gateway = Gateway::replaceable(&format!(
        "admin: {{ address: \"127.0.0.1:0\", changes: true }}\n{}",
        config(&up, "{ cache: {} }")
    ));
    let purge = |arguments: &[&str]| gateway.torana(&[&["cache", "purge"], arguments].concat());
    for (arguments, wanted) in [
        (vec!["--route".to_owned(), "r".into()], "2 kept answers are taken away"),
        (vec!["--url".to_owned(), "http://test/a?x=1".into()], "1 kept answer is taken away"),
        (vec!["--all".to_owned()], "2 kept answers are taken away"),
    ] {
        let before: Vec<_> = ["/a?x=1", "/b"].map(|target| gateway.get(target).text()).into();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (code, out) = purge(&arguments);
        assert_eq!((code, out.trim()), (Some(0), wanted), "{arguments:?}");
        let after: Vec<_> = ["/a?x=1", "/b"].map(|target| gateway.get(target).text()).into();
        assert_ne!(before[0], after[0]);
        assert_eq!(before[1] == after[1], arguments[0] == "--url");
    }
    let (code, out) = purge(&["--route", "other"]);
    assert!(code == Some(1) && out.contains("no route is named `other`"), "{out}");
    assert_eq!(purge(&["--url", "/x"]).0, Some(1));
    assert_eq!(purge(&[]).0, Some(2));
    let mut admin = crate::support::Client::connect(gateway.admin());
    admin.write(request("POST", "/cache?do=purge&all=true", &[("Host", "localhost")]).as_bytes());
    let answer = admin.read();
    assert_eq!((answer.status, answer.text().trim()), (200, "2 kept answers are taken away"));
    assert!(gateway.status()["cache"]["entries"] == 0);
}

#[test]
fn no_more_memory_is_taken_than_the_file_says_and_a_reload_keeps_what_fits() {
    let up = Upstream::start(|_| Reply::ok(vec![b'x'; 10_000]).header("Cache-Control", "max-age=60"));
    let yaml =
        |memory: &str| format!("cache: {{ memory: {memory} }}\n{}", config(&up, "{ cache: { max_object: 20kB } }"));
    let gateway = Gateway::start(&yaml("200kB"));
    let mut client = gateway.client();
    for number in 0..60 {
        assert_eq!(client.get(&format!("/{number}")).status, 200);
        // Asked for again and again: it stays.
        client.get("/0");
    }
    let holds = || gateway.status()["cache"]["bytes"].as_u64().unwrap();
    assert!((150_000..=200_000).contains(&holds()), "{}", holds());
    assert!(gateway.metric("torana_cache_evictions_total") >= 40.0);
    assert_eq!(said(&client.get("/0")), "torana; hit");
    gateway.reload(&yaml("100kB"));
    assert!((50_000..=100_000).contains(&holds()), "{}", holds());
    assert_eq!(said(&gateway.get("/0")), "torana; hit", "a reload keeps it");
}

#[test]
fn a_body_that_turns_out_too_large_or_too_short_is_not_kept() {
    let chunked = |size: usize, end: &str| {
        let chunk = format!("{size:x}\r\n{}\r\n", "x".repeat(size));
        Reply::raw(format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{end}"
        ))
    };
    let up = Upstream::start(move |request| match request.target.as_str() {
        "/large" => chunked(3000, "0\r\n\r\n"),
        "/cut" => chunked(10, ""),
        "/short" => Reply::raw("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\nshort"),
        _ => chunked(10, "0\r\n\r\n"),
    });
    let gateway = gateway(&up, "max_object: 1000B");
    for _ in 0..3 {
        assert_eq!(gateway.get("/large").body.len(), 3000);
        for broken in ["/cut", "/short"] {
            let mut client = gateway.client();
            client.write(request("GET", broken, &[]).as_bytes());
            assert!(client.try_read("GET").is_none(), "{broken}");
        }
    }
    assert_eq!(gateway.status()["cache"]["entries"], 0);
    assert_eq!([(); 2].map(|()| gateway.get("/whole").body.len()), [10; 2]);
    assert_eq!(gateway.status()["cache"]["entries"], 1);
    let bytes = gateway.status()["cache"]["bytes"].as_u64().unwrap();
    assert!(bytes < 2500, "what was not kept takes no room: {bytes}");
}

#[test]
fn what_a_route_says_of_its_cache_is_checked() {
    let up = Upstream::named("up");
    for (cache, wanted) in [
        ("max_object: 33MiB", "at most half of `cache.memory`: 33554432B"),
        ("tll: 5s", "unknown"),
        ("ttl: 5", "unit"),
        ("} }, { cache: { ttl: 1s", "there is another `cache` in this list"),
        ("ttl: 0s", "for no time at all"),
        ("max_object: 0B", "nothing but empty answers"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("torana.yaml");
        let yaml = format!(
            "listeners: [{{ address: \"127.0.0.1:0\" }}]\n{}",
            config(&up, &format!("{{ cache: {{ {cache} }} }}"))
        );
        std::fs::write(&file, yaml).unwrap();
        let out = crate::support::torana().args(["check", "-c", file.to_str().unwrap()]).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(2) && text.contains(wanted), "{cache}: {text}");
    }
}
