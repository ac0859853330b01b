//! Part F of the list: what is kept is given to nobody it is not for, and nobody decides what others get. With A7 and part D over cached answers.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{self, Gateway, Recorded, Reply, Upstream, request, web_socket::UPGRADE};

/// An upstream that numbers its answers and lets them be kept.
fn numbered(answer: impl Fn(&Recorded, Reply) -> Reply + Send + Sync + 'static) -> Upstream {
    let count = AtomicUsize::new(0);
    Upstream::start(move |request| {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        answer(request, Reply::ok(number.to_string()).header("Cache-Control", "max-age=60"))
    })
}

fn file(up: &Upstream, policies: &str) -> String {
    format!(
        "telemetry: {{ access_log: {{}} }}
listeners: [{{ address: \"127.0.0.1:0\", h2c: true }}]
upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
consumers:
  alice: {{ groups: [staff], api_keys: [key-a] }}
  bob: {{ api_keys: [key-b] }}
routes: [{{ name: r, policies: [{policies}], upstream: up }}]\n",
        up.address()
    )
}

fn start(up: &Upstream, policies: &str) -> Gateway {
    Gateway::start(&file(up, policies))
}

/// Sends bytes; the body of the answer.
fn raw(gateway: &Gateway, bytes: &str) -> String {
    let mut client = gateway.client();
    client.write(bytes.as_bytes());
    client.read().text()
}

#[test]
fn a07_a_body_behind_a_request_that_is_answered_from_the_cache_is_no_request() {
    let up = numbered(|_, reply| reply);
    let gateway = start(&up, "{ cache: {} }");
    assert_eq!(gateway.get("/").text(), "1");
    let hidden = request("GET", "/hidden", &[]);
    for framing in [
        format!("Content-Length: {}\r\n\r\n{hidden}", hidden.len()),
        format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len()),
    ] {
        let mut client = gateway.client();
        client.write(format!("GET / HTTP/1.1\r\nHost: test\r\n{framing}{}", request("GET", "/last", &[])).as_bytes());
        assert_eq!(client.read().status, 200);
        // Whether the connection goes on or not, what was hidden is never asked.
        drop(client.try_read("GET"));
    }
    assert!(up.seen().iter().all(|seen| seen.target != "/hidden"), "{:#?}", up.seen());
}

#[test]
fn f01_host_scheme_port_and_route_have_answers_of_their_own() {
    let up = numbered(|_, reply| reply);
    let yaml = file(&up, "{ cache: {} }").replace("h2c: true", "trusted_proxies: { addresses: [127.0.0.1] }").replace(
        "routes: [",
        "routes: [{ name: other, match: { headers: { x-route: other } }, policies: [{ cache: {} }], upstream: up }, ",
    );
    let gateway = Gateway::start(&yaml);
    let kinds = [
        "Host: a.example\r\n",
        "Host: b.example\r\n",
        "Host: a.example:8080\r\n",
        "Host: a.example\r\nX-Forwarded-Proto: https\r\n",
        "Host: a.example\r\nX-Forwarded-Host: c.example\r\n",
        "Host: a.example\r\nX-Route: other\r\n",
        "Host: a.example\r\nX-Forwarded-Host: 443\r\n",
        "Host: a.example\r\nX-Forwarded-Port: 443\r\n",
    ];
    let ask = |headers: &str| raw(&gateway, &format!("GET /x HTTP/1.1\r\n{headers}\r\n"));
    let first: Vec<_> = kinds.iter().map(|headers| ask(headers)).collect();
    let mut different = first.clone();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), kinds.len(), "{first:?}");
    let again: Vec<_> = kinds.iter().map(|headers| ask(headers)).collect();
    assert_eq!(again, first, "and each is kept");
    // Other methods are not answered from it.
    let kept = ask(kinds[0]);
    let post = raw(&gateway, "POST /y HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n");
    assert_ne!(post, kept);
    assert_ne!(raw(&gateway, "GET /y HTTP/1.1\r\nHost: a.example\r\n\r\n"), post, "an answer to POST is not kept");
}

#[test]
fn f02_answers_for_one_caller_are_for_no_other() {
    let up = numbered(|_, reply| reply);
    let gateway = start(&up, "{ api_key: {} }, { cache: { ttl: 60s } }");
    let ask = |gateway: &Gateway, key: &str| gateway.send("GET", "/", &[("X-Api-Key", key)]).text();
    assert_eq!((ask(&gateway, "key-a"), ask(&gateway, "key-b")), ("1".into(), "2".into()));
    assert_eq!((ask(&gateway, "key-a"), ask(&gateway, "key-b")), ("1".into(), "2".into()));
    // For all of them only where the file says so.
    let gateway = start(&up, "{ api_key: {} }, { cache: { shared: true } }");
    assert_eq!((ask(&gateway, "key-a"), ask(&gateway, "key-b")), ("3".into(), "3".into()));
    // Groups that change are another caller.
    let yaml = file(&up, "{ api_key: {} }, { cache: {} }");
    let gateway = Gateway::start(&yaml);
    assert_eq!(ask(&gateway, "key-a"), "4");
    gateway.reload(&yaml.replace("[staff]", "[guests]"));
    assert_eq!(ask(&gateway, "key-a"), "5");
    // Somebody who was let in without a name may be anybody.
    let gateway = start(&up, "{ mode: shadow, api_key: {} }, { cache: {} }");
    assert_eq!([(); 2].map(|()| gateway.get("/").text()), ["6", "7"]);
}

#[test]
fn f02_a_credential_that_the_upstream_looks_at_keeps_its_answers_from_others() {
    for (control, is_kept) in [
        ("max-age=60", false),
        ("public, max-age=60", true),
        ("s-maxage=60", true),
        ("must-revalidate, max-age=60", true),
    ] {
        let count = AtomicUsize::new(0);
        let up = Upstream::start(move |_| {
            Reply::ok((count.fetch_add(1, Ordering::SeqCst) + 1).to_string()).header("Cache-Control", control)
        });
        let gateway = start(&up, "{ cache: { ttl: 60s } }");
        let ask = |who: &str| gateway.send("GET", "/", &[("Authorization", who)]).text();
        assert_eq!(ask("Bearer a"), "1");
        assert_eq!(ask("Bearer b") == "1", is_kept, "{control}");
    }
}

#[test]
fn f03_what_an_answer_varies_by_is_looked_at_and_what_could_poison_it_is_not_sent_on() {
    let up = numbered(|request, reply| {
        let seen: Vec<_> = request.headers.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let language = request.header("accept-language").unwrap_or_default().to_owned();
        drop(reply);
        Reply::ok(format!("{language} {}", seen.join(" ")))
            .header("Cache-Control", "max-age=60")
            .header("Vary", "Accept-Language, X-Tenant")
    });
    let gateway = start(&up, "{ cache: {} }");
    let ask = |headers: &[(&str, &str)]| gateway.send("GET", "/", headers);
    for _ in 0..2 {
        for language in ["de", "en", "fr"] {
            let answer = ask(&[("Accept-Language", language)]);
            assert!(answer.text().starts_with(&format!("{language} ")), "{}", answer.text());
        }
        assert!(ask(&[("Accept-Language", "de"), ("X-Tenant", "t")]).text().contains("x-tenant=t"));
        assert!(!ask(&[("Accept-Language", "de")]).text().contains("x-tenant"));
    }
    assert_eq!(up.seen().len(), 4);
    let poison = [
        ("X-Forwarded-Host", "evil.example"),
        ("X_Forwarded_Host", "evil.example"),
        ("X-Original-URL", "/evil"),
        ("X-Rewrite-URL", "/evil"),
        ("X-Host", "evil.example"),
        ("Forwarded", "host=evil.example"),
    ];
    let poisoned = gateway.send("GET", "/p", &poison).text();
    assert!(!poisoned.contains("evil"), "{poisoned}");
}

#[test]
fn f04_the_name_of_a_resource_says_nothing_about_whether_it_is_kept() {
    let up = Upstream::start(|_| Reply::ok("of alice").header("Cache-Control", "private"));
    let gateway = start(&up, "{ cache: { ttl: 60s } }");
    for target in ["/account/x.css", "/account/x.css?v=1", "/account.css", "/account/.js"] {
        for _ in 0..2 {
            assert_eq!(
                gateway.get(target).header("cache-status"),
                Some("torana; fwd=bypass; detail=private"),
                "{target}"
            );
        }
    }
    // What servers read differently never comes so far.
    for target in ["/account%2fx.css", "/account;x.css", "/account/..%2fx.css"] {
        assert_eq!(gateway.get(target).status, 400, "{target}");
    }
}

#[test]
fn f05_the_key_is_the_target_that_the_upstream_sees() {
    let up = numbered(|request, reply| {
        drop(reply);
        Reply::ok(request.target.clone()).header("Cache-Control", "max-age=60")
    });
    let gateway = start(&up, "{ cache: {} }");
    let targets = [
        "/?a=1&b=2",
        "/?b=2&a=1",
        "/?a=1",
        "/?a=1&a=1",
        "/?a=1&utm_source=x",
        "/?%61=1",
        "/?a=%31",
        "/?",
        "/",
        "/?a=1&&",
    ];
    for _ in 0..2 {
        for target in targets {
            assert_eq!(gateway.get(target).text(), target);
        }
    }
    assert_eq!(gateway.get("/?a=1;b=2").status, 400);
    assert_eq!(gateway.get("/x/../?a=1").text(), "/?a=1");
    assert_eq!(up.seen().len(), targets.len());
}

#[test]
fn f06_a_304_without_a_kept_answer_and_a_client_that_wants_only_kept_ones() {
    let up = numbered(|request, reply| {
        if request.target == "/304" { Reply::new(304, "").header("Cache-Control", "max-age=60") } else { reply }
    });
    let gateway = start(&up, "{ cache: {} }");
    for _ in 0..2 {
        assert_eq!(gateway.get("/304").status, 304);
    }
    assert_eq!(gateway.status()["cache"]["entries"], 0);
    let only = |target: &str| gateway.send("GET", target, &[("Cache-Control", "only-if-cached")]);
    let refused = only("/x");
    assert_eq!((refused.status, refused.problem().as_str()), (504, "not_cached"));
    gateway.wait_for_metric("torana_rejects_total{reject=\"not_cached\",route=\"r\"}", 1.0);
    let kept = gateway.get("/x").text();
    assert_eq!(only("/x").text(), kept);
    // If-Range: the part only of the same version.
    let up = numbered(|_, reply| {
        drop(reply);
        Reply::ok("0123456789").header("Cache-Control", "max-age=60").header("ETag", "\"v1\"")
    });
    let gateway = start(&up, "{ cache: {} }");
    assert_eq!(gateway.get("/").status, 200);
    for (version, status) in [("\"v1\"", 206), ("\"v0\"", 200), ("\"v1\"", 206)] {
        let answer = gateway.send("GET", "/", &[("Range", "bytes=0-1"), ("If-Range", version)]);
        assert_eq!(answer.status, status, "{version}");
    }
}

#[test]
fn f07_clients_neither_take_answers_away_nor_have_the_upstream_asked() {
    let up = numbered(|_, reply| reply);
    let gateway = start(&up, "{ cache: {} }");
    assert_eq!(gateway.get("/").text(), "1");
    for control in ["no-cache", "max-age=0", "no-store", "min-fresh=9999"] {
        assert_eq!(gateway.send("GET", "/", &[("Cache-Control", control)]).text(), "1", "{control}");
    }
    assert_eq!(gateway.send("GET", "/", &[("Pragma", "no-cache")]).text(), "1");
    for method in ["PURGE", "BAN", "INVALIDATE"] {
        gateway.send(method, "/", &[]);
    }
    assert_eq!(gateway.get("/").text(), "1");
    // What a client does not want kept is not, and others do not suffer from that.
    assert_eq!(
        gateway.send("GET", "/n", &[("Cache-Control", "no-store")]).header("cache-status"),
        Some("torana; fwd=bypass; detail=client_no_store")
    );
    let kept = gateway.get("/n").text();
    assert_eq!(gateway.get("/n").text(), kept);
    // Where the file lets them.
    let gateway = start(&up, "{ cache: { honour_no_cache: true } }");
    let first = gateway.get("/").text();
    assert_ne!(gateway.send("GET", "/", &[("Cache-Control", "no-cache")]).text(), first);
}

#[test]
fn d10_a_cached_answer_is_behind_the_same_credential() {
    let up = numbered(|_, reply| reply.header("ETag", "\"v\""));
    let policies = "{ api_key: {} }, { groups: { any: [staff] } }, { cache: { shared: true } }";
    let gateway = start(&up, policies);
    let staff = [("X-Api-Key", "key-a")];
    assert_eq!(gateway.send("GET", "/", &staff).text(), "1");
    assert_eq!(gateway.send("GET", "/", &staff).header("cache-status"), Some("torana; hit"));
    let wrong: [(&[(&str, &str)], u16); 3] =
        [(&[], 401), (&[("X-Api-Key", "key-c")], 401), (&[("X-Api-Key", "key-b")], 403)];
    for (headers, status) in wrong {
        for method in ["GET", "HEAD", "OPTIONS", "POST"] {
            let refused = gateway.send(method, "/", headers);
            assert_eq!((refused.status, refused.header("cache-status")), (status, None), "{method} {headers:?}");
            let refused = support::http2::send(&gateway, method, "/", headers, &[]);
            assert_eq!((refused.status, refused.header("cache-status")), (status, None), "{method} over HTTP/2");
        }
        for extra in [
            ("Range", "bytes=0-0"),
            ("If-None-Match", "\"v\""),
            ("Cache-Control", "only-if-cached"),
            ("If-Range", "\"v\""),
        ] {
            assert_eq!(gateway.send("GET", "/", &[headers, &[extra]].concat()).status, status, "{extra:?}");
        }
        assert_eq!(gateway.send("GET", "/", &[&UPGRADE[..], headers].concat()).status, status, "an upgrade");
    }
    // Over HTTP/2 it is the same answer.
    let hit = support::http2::send(&gateway, "GET", "/", &[staff[0], ("content-length", "0")], &[]);
    assert_eq!((hit.status, hit.header("cache-status"), hit.body.as_slice()), (200, Some("torana; hit"), &b"1"[..]));
    assert_eq!(up.seen().len(), 1);
}

#[test]
fn d_a_refusal_is_never_kept_and_never_given_to_others() {
    let up = numbered(|_, reply| reply);
    let gateway = start(&up, "{ api_key: {} }, { cache: { shared: true, ttl: 60s } }");
    for _ in 0..3 {
        assert_eq!(gateway.get("/").status, 401);
    }
    assert_eq!(gateway.status()["cache"]["entries"], 0);
    assert_eq!(gateway.send("GET", "/", &[("X-Api-Key", "key-a")]).text(), "1");
    assert_eq!(gateway.get("/").status, 401, "now that something is kept");
    // Nor is a key in it: what is kept came from the upstream, which never saw one.
    let seen = &up.seen()[0];
    assert!(!seen.head.contains("key-a"), "{}", seen.head);
}

#[test]
fn d_limits_and_logs_count_cached_answers_too() {
    let up = numbered(|_, reply| reply);
    let gateway = start(&up, "{ rate_limit: { key: client_ip, limits: [3/h] } }, { cache: {} }");
    let statuses: Vec<_> = (0..5).map(|_| gateway.get("/").status).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    assert_eq!(up.seen().len(), 1);
    let log = gateway.access_lines(5);
    assert_eq!(log.iter().filter(|line| line["cache"] == "hit").count(), 2);
    assert!(log[4].get("cache").is_none(), "{}", log[4]);
}

#[test]
fn f03_what_policies_write_into_a_request_is_part_of_its_key() {
    let up = numbered(|_, reply| reply);
    let write = "{ request_headers: { set: { x-from: \"{header.x-tenant}\", x-fixed: one } } }, { cache: {} }";
    let gateway = start(&up, write);
    let ask = |tenant: &str| gateway.send("GET", "/", &[("X-Tenant", tenant)]).text();
    assert_eq!((ask("a"), ask("b"), ask("a"), ask("b")), ("1".into(), "2".into(), "1".into(), "2".into()));
    // Also when the names change.
    let yaml = |name: &str| file(&up, &format!("{{ cache: {{ key_headers: [{name}] }} }}"));
    let gateway = Gateway::start(&yaml("x-t"));
    let first = gateway.send("GET", "/", &[("X-T", "acme")]).text();
    gateway.reload(&yaml("x-u"));
    assert_ne!(gateway.send("GET", "/", &[("X-U", "acme")]).text(), first);
}
