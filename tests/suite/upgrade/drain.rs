//! What is in flight when another process takes over, and when it stops.

use std::{
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{ROUTE, config, is_alive};
use crate::support::{
    Gateway, Reply, Upstream, eventually, request,
    web_socket::{parrot, says_again, upgraded},
};

fn terminate(pid: u64) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::TERM).unwrap();
}

#[test]
fn a_connection_that_is_kept_is_answered_once_more_and_told_to_close() {
    let up = Upstream::named("up");
    let gateway = Gateway::replaceable(&config(&up, ROUTE));
    let mut kept = gateway.client();
    assert_eq!(kept.get("/1").header("connection"), Some("keep-alive"));
    let first = gateway.main();
    gateway.upgrade();
    let answer = kept.get("/2");
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(kept.is_closed());
    eventually("the old process ends", || !is_alive(first));
}

#[test]
fn requests_that_came_in_one_piece_are_all_answered() {
    let up = Upstream::start(|request| Reply::ok(request.target.clone()));
    let gateway = Gateway::replaceable(&config(&up, ROUTE));
    let mut kept = gateway.client();
    kept.get("/0");
    gateway.upgrade();
    let three: String = ["/1", "/2", "/3"].iter().map(|path| request("GET", path, &[])).collect();
    kept.write(three.as_bytes());
    let answers = [kept.read(), kept.read(), kept.read()];
    assert_eq!(answers.each_ref().map(crate::support::Response::text), ["/1", "/2", "/3"]);
    assert_eq!(
        answers.each_ref().map(|answer| answer.header("connection").unwrap()),
        ["keep-alive", "keep-alive", "close"]
    );
}

#[test]
fn slow_uploads_and_downloads_end_in_the_old_process() {
    let up = Upstream::start(|request| {
        if request.target == "/down" {
            return Reply::ok("x".repeat(100_000)).after(Duration::from_secs(1));
        }
        Reply::ok(request.body.len().to_string())
    });
    let gateway = Gateway::replaceable(&config(&up, ROUTE));
    let mut down = gateway.client();
    down.write(request("GET", "/down", &[]).as_bytes());
    let mut upload = gateway.client();
    upload.write(request("POST", "/up", &[("Content-Length", "50")]).as_bytes());
    upload.write(&[b'a'; 10]);
    eventually("the download has begun", || !up.seen().is_empty());
    let first = gateway.main();
    gateway.upgrade();
    assert!(is_alive(first));
    for _ in 0..4 {
        thread::sleep(Duration::from_millis(200));
        upload.write(&[b'a'; 10]);
    }
    assert_eq!(upload.read().text(), "50");
    assert_eq!(down.read().body.len(), 100_000);
    // Nobody told these two to close, because they had begun before.
    drop((upload, down));
    eventually("the old process ends", || !is_alive(first));
}

#[test]
fn a_stream_of_http2_ends_in_the_old_process() {
    let up = Upstream::start(|_| Reply::ok("late").after(Duration::from_secs(1)));
    let gateway = Gateway::replaceable(
        &("listeners: [{ address: \"127.0.0.1:0\", h2c: true }]\n".to_owned() + &config(&up, ROUTE)),
    );
    let url = format!("http://{}/", gateway.address());
    let asking = thread::spawn(move || {
        let curl = std::process::Command::new("curl").args(["-sS", "--http2-prior-knowledge", &url]).output().unwrap();
        String::from_utf8(curl.stdout).unwrap() + &String::from_utf8(curl.stderr).unwrap()
    });
    eventually("the stream is in flight", || !up.seen().is_empty());
    let first = gateway.main();
    gateway.upgrade();
    assert_eq!(asking.join().unwrap(), "late");
    eventually("the old process ends", || !is_alive(first));
}

#[test]
fn a_websocket_has_a_longer_deadline_of_its_own() {
    let up = parrot();
    let yaml = format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nshutdown: {{ grace: 1s }}\nupgrade: {{ websocket_grace: 4s }}\n{ROUTE}",
        up.address()
    );
    let gateway = Gateway::replaceable(&yaml);
    let mut client = upgraded(&gateway);
    let first = gateway.main();
    let began = Instant::now();
    gateway.upgrade();
    eventually("the successor tells of it", || {
        let before = &gateway.control_status()["predecessor"];
        before["pid"] == first && before["web_sockets"] == 1 && before["requests"] == 1
    });
    let (_, said) = gateway.torana(&["status"]);
    assert!(said.contains(&format!("drains       process {first}: 1 requests (1 WebSockets)")), "{said}");
    while began.elapsed() < Duration::from_millis(2500) {
        says_again(&mut client, "still here");
        thread::sleep(Duration::from_millis(100));
    }
    eventually("the old process ends", || !is_alive(first));
    assert!(began.elapsed() > Duration::from_millis(3900), "{:?}", began.elapsed());
    assert!(client.is_closed());
    eventually("nothing is told of it any more", || gateway.control_status()["predecessor"].is_null());
}

#[test]
fn what_stays_idle_is_closed_after_the_grace() {
    let up = Upstream::named("up");
    let gateway = Gateway::replaceable(&config(&up, &format!("shutdown: {{ grace: 1s }}\n{ROUTE}")));
    let mut idle = gateway.client();
    idle.get("/");
    let (first, began) = (gateway.main(), Instant::now());
    gateway.upgrade();
    idle.set_timeout(Duration::from_secs(10));
    assert!(idle.is_closed());
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
    eventually("the old process ends", || !is_alive(first));
}

#[test]
fn a_second_upgrade_waits_until_the_first_is_over() {
    let up = parrot();
    let yaml = format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\nshutdown: {{ grace: 1s }}\nupgrade: {{ websocket_grace: 2s }}\n{ROUTE}",
        up.address()
    );
    let gateway = Gateway::replaceable(&yaml);
    let _client = upgraded(&gateway);
    let first = gateway.main();
    let second = gateway.upgrade();
    assert!(is_alive(first));
    let (code, said) = gateway.torana(&["upgrade"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("waiting until process {first} has ended")), "{said}");
    assert!(!is_alive(first));
    assert_ne!(gateway.main(), second);
}

#[test]
fn a_stop_waits_for_both_processes() {
    let up = Upstream::start(|_| Reply::ok("late").after(Duration::from_secs(2)));
    let gateway = Gateway::replaceable(&config(&up, ROUTE));
    let mut asking = [gateway.client(), gateway.client()];
    asking[0].write(request("GET", "/1", &[]).as_bytes());
    eventually("it is in flight", || up.seen().len() == 1);
    let first = gateway.main();
    let second = gateway.upgrade();
    let mut new = gateway.client();
    new.write(request("GET", "/2", &[]).as_bytes());
    eventually("it is in flight", || up.seen().len() == 2);
    terminate(second);
    assert_eq!(asking[0].read().text(), "late");
    assert_eq!(new.read().text(), "late");
    eventually("both end", || !is_alive(first) && !is_alive(second));
    let _ = asking[1].stream().shutdown(Shutdown::Both);
}

#[test]
fn the_old_process_ends_soon_when_the_new_one_is_killed() {
    let up = Upstream::start(|_| Reply::ok("late").after(Duration::from_secs(20)));
    let gateway = Gateway::replaceable(&config(&up, ROUTE));
    let mut asking = gateway.client();
    asking.write(request("GET", "/1", &[]).as_bytes());
    eventually("it is in flight", || up.seen().len() == 1);
    let first = gateway.main();
    let second = gateway.upgrade();
    kill_process(Pid::from_raw(i32::try_from(second).unwrap()).unwrap(), Signal::KILL).unwrap();
    // Only then does a service manager see that nobody serves any more.
    eventually("the old process ends", || !is_alive(first));
}
