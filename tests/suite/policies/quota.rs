//! `quota`: so many in a period, whatever becomes of the process.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Gateway, Response, Upstream, eventually, redis::Redis};

fn file(up: &Upstream, quota: &str, rest: &str) -> String {
    format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
consumers: {{ mobile: {{ api_keys: [key-12345] }}, web: {{ api_keys: [key-67890] }} }}
quotas: {{ file: quotas.json }}
routes: [{{ name: r, policies: [{{ api_key: {{}} }}, {{ quota: {{ key: consumer, {quota} }} }}], upstream: up }}]\n{rest}",
        up.address()
    )
}

fn ask(gateway: &Gateway) -> Response {
    gateway.send("GET", "/", &[("X-Api-Key", "key-12345")])
}

fn statuses<const N: usize>(gateway: &Gateway) -> [u16; N] {
    [(); N].map(|()| ask(gateway).status)
}

#[test]
fn a_quota_is_used_up_for_each_key_and_the_answer_says_until_when() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&file(&up, "limit: 3, period: day", ""));
    let first = ask(&gateway);
    assert_eq!(first.header("ratelimit-policy"), Some("\"3/d\";q=3;w=86400"));
    assert!(first.header("ratelimit").unwrap().starts_with("\"3/d\";r=2;t="), "{first:?}");
    assert_eq!(statuses::<2>(&gateway), [200, 200]);
    let refused = ask(&gateway);
    assert_eq!((refused.status, refused.problem().as_str()), (429, "quota_exceeded"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=86_400).contains(&wait), "{wait}");
    assert_eq!(gateway.send("GET", "/", &[("X-Api-Key", "key-67890")]).status, 200, "another consumer");
    assert_eq!(gateway.get("/").status, 401, "who is refused before uses nothing");
    assert_eq!(up.seen().len(), 4);
}

#[test]
fn the_log_says_once_when_four_fifths_and_when_all_of_it_is_used() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&file(&up, "name: plan, limit: 10, period: month", ""));
    for _ in 0..13 {
        ask(&gateway);
    }
    let log = gateway.log();
    for text in ["quota plan: consumer:mobile has used 80 % of 10", "quota plan: consumer:mobile has used all of 10"] {
        assert_eq!(log.matches(text).count(), 1, "{text}: {log}");
    }
}

#[test]
fn neither_a_reload_nor_a_restart_nor_an_upgrade_gives_anything_back() {
    let up = Upstream::named("up");
    let mut gateway = Gateway::replaceable(&file(&up, "limit: 4, period: week", ""));
    assert_eq!(ask(&gateway).status, 200);
    gateway.reload(&file(&up, "limit: 5, period: week", ""));
    assert_eq!(ask(&gateway).status, 200);
    // It writes once more when it ends.
    gateway.signal(Signal::TERM);
    gateway.wait();
    gateway.restart();
    assert_eq!(ask(&gateway).status, 200);
    gateway.upgrade();
    assert_eq!(statuses::<3>(&gateway), [200, 200, 429]);
    std::thread::sleep(Duration::from_millis(500));
    gateway.restart();
    assert_eq!(ask(&gateway).status, 429, "the new process wrote it, not the old one");
    let kept = gateway.folder().join("quotas.json");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(kept).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_process_that_is_killed_loses_a_fifth_of_a_second_at_most() {
    let up = Upstream::named("up");
    let mut gateway = Gateway::replaceable(&file(&up, "limit: 3, period: { rolling: 30d }", ""));
    assert_eq!(statuses::<2>(&gateway), [200, 200]);
    let kept = gateway.folder().join("quotas.json");
    eventually("it is written", || std::fs::read_to_string(&kept).is_ok_and(|text| text.contains("consumer:mobile")));
    std::thread::sleep(Duration::from_millis(400));
    gateway.signal(Signal::KILL);
    gateway.restart();
    assert_eq!(statuses::<2>(&gateway), [200, 429]);
}

#[test]
fn operators_see_what_is_used_and_change_it() {
    let up = Upstream::named("up");
    let rest = "admin: { address: \"127.0.0.1:0\", changes: true }\n";
    let gateway = Gateway::replaceable(&file(&up, "limit: 2, period: day", rest));
    assert_eq!(gateway.torana(&["quota", "list"]), (Some(0), "nothing is used of any quota\n".into()));
    assert_eq!(statuses::<3>(&gateway), [200, 200, 429]);
    assert_eq!(gateway.torana(&["quota", "list"]), (Some(0), "r  consumer:mobile  2 of 2\n".into()));
    let (code, said) = gateway.torana(&["quota", "top-up", "r", "consumer:mobile", "1"]);
    assert_eq!((code, said.as_str()), (Some(0), "consumer:mobile has 1 requests more of r in this period\n"));
    assert_eq!(statuses::<2>(&gateway), [200, 429]);
    assert_eq!(gateway.torana(&["quota", "reset", "r", "consumer:mobile"]).0, Some(0));
    assert_eq!(statuses::<3>(&gateway), [200, 200, 429]);
    for wrong in [["quota", "reset", "other", "consumer:mobile"], ["quota", "reset", "r", "consumer:nobody"]] {
        assert_eq!(gateway.torana(&wrong).0, Some(1), "{wrong:?}");
    }
    let shown = gateway.ask_admin("/quota").json();
    assert_eq!(shown[0]["key"], "consumer:mobile");
    assert_eq!((shown[0]["used"].as_i64(), shown[0]["limit"].as_i64()), (Some(2), Some(2)));
    let mut admin = crate::support::Client::connect(gateway.admin());
    let post = "/quota?quota=r&key=consumer%3Amobile&do=top_up&amount=2";
    admin.write(crate::support::request("POST", post, &[("Host", "localhost"), ("Content-Length", "0")]).as_bytes());
    assert_eq!(admin.read().status, 200);
    assert_eq!(statuses::<3>(&gateway), [200, 200, 429]);
}

#[test]
fn gateways_share_a_quota_in_a_store() {
    let (mut redis, up) = (Redis::start(), Upstream::named("up"));
    let stores = format!("stores: {{ counts: {{ redis: {{ servers: [\"{}\"] }} }} }}\n", redis.address());
    let yaml = file(&up, "limit: 5, period: month, store: counts, on_failure: closed", &stores);
    let gateways = [Gateway::replaceable(&yaml), Gateway::start(&yaml)];
    for gateway in &gateways {
        gateway.wait_for_metric("torana_store_up{store=\"counts\"}", 1.0);
    }
    let take = |i: usize| ask(&gateways[i % 2]).status;
    assert_eq!([0, 1, 2, 3, 4, 5, 6].map(take), [200, 200, 200, 200, 200, 429, 429]);
    assert_eq!(gateways[0].torana(&["quota", "list"]), (Some(0), "r  consumer:mobile  5 of 5\n".into()));
    assert_eq!(gateways[0].torana(&["quota", "top-up", "r", "consumer:mobile", "2"]).0, Some(0));
    eventually("the other one has it too", || take(1) == 200);
    assert_eq!([take(0), take(1)], [200, 429]);
    assert_eq!(gateways[0].torana(&["quota", "reset", "r", "consumer:mobile"]).0, Some(0));
    eventually("it begins anew", || take(1) == 200);
    redis.kill();
    eventually("nobody passes", || take(1) == 503);
}
