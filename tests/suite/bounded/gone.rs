//! The disk is full, the clock jumps, endpoints and name servers are gone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use jsonwebtoken::Algorithm;
use rustix::process::Signal;

use crate::{
    policies::tokens::Signer,
    support::{Dns, Gateway, Says, Upstream, eventually},
};

fn config(up: &Upstream, rest: &str) -> String {
    format!("upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}\n{rest}", up.address())
}

const OPEN: &str = "routes: [{ name: all, upstream: up }]\n";

#[test]
fn a_log_on_a_full_disk_costs_lines_and_no_request() {
    let up = Upstream::named("up");
    let text = config(&up, &format!("{OPEN}telemetry: {{ access_log: {{ file: access.log }} }}\n"));
    // Whatever is written to /dev/full fails as on a full disk.
    let link = |folder: &Path, target: &str| std::os::unix::fs::symlink(target, folder.join("access.log")).unwrap();
    let gateway = Gateway::start_with(&text, |folder, _| link(folder, "/dev/full"));
    for _ in 0..3 {
        assert_eq!(gateway.get("/lost").status, 200);
    }
    eventually("lost lines are counted", || gateway.metric("torana_access_log_dropped_total") == 3.0);
    assert!(gateway.log().contains("the access log cannot be written: No space left on device"), "{}", gateway.log());
    fs::remove_file(gateway.folder().join("access.log")).unwrap();
    link(gateway.folder(), "real.log");
    gateway.signal(Signal::USR1);
    let real = gateway.folder().join("real.log");
    eventually("the file is opened again", || real.exists());
    assert_eq!(gateway.get("/kept").status, 200);
    eventually("lines are written again", || fs::read_to_string(&real).unwrap().contains("\"path\":\"/kept\""));
    gateway.wait_for_metric("torana_access_log_dropped_total", 3.0);
}

/// A gateway whose clock a test can set: seconds that it is ahead.
struct Jumping {
    gateway: Gateway,
    file: PathBuf,
}

impl Jumping {
    fn start(text: &str) -> Self {
        let library =
            fs::read_dir("/usr/lib").unwrap().flatten().map(|one| one.path().join("faketime/libfaketimeMT.so.1"));
        let library = library.into_iter().find(|path| path.exists()).expect("Debian's package faketime");
        let prepare = |folder: &Path, command: &mut Command| {
            fs::write(folder.join("clock"), "+0\n").unwrap();
            command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", folder.join("clock"));
            command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        };
        let gateway = Gateway::start_with(text, prepare);
        Self { file: gateway.folder().join("clock"), gateway }
    }

    /// Sets the clock, and waits until the gateway has it.
    fn set(&self, ahead: i64) {
        fs::write(&self.file, format!("{ahead:+}\n")).unwrap();
        let real = || i64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
        let text = fs::read_to_string(self.gateway.file()).unwrap();
        eventually("the clock has jumped", || {
            self.gateway.reload(&text);
            let at = self.gateway.status()["last_reload"]["at"].as_i64().unwrap();
            (at - real() - ahead).abs() < 60
        });
    }
}

#[test]
fn a_clock_that_jumps_decides_on_tokens_and_on_nothing_else() {
    let up = Upstream::named("up");
    let signer = Signer::new(Algorithm::HS256);
    let rules = format!(
        "routes:\n\
         - {{ name: token, match: {{ path: /token }}, policies: [{{ jwt: {{ issuer: \"https://idp\", audience: [orders], keys: [{}] }} }}], upstream: up }}\n\
         - {{ name: limit, match: {{ path: /limit }}, policies: [{{ rate_limit: {{ key: client_ip, limits: [2/h] }} }}], upstream: up }}\n\
         - {{ name: open, upstream: up }}\n",
        signer.entry("k")
    );
    let jumping = Jumping::start(&config(&up, &rules));
    let gateway = &jumping.gateway;
    let token = format!("Bearer {}", signer.good("k"));
    let with_token = || gateway.send("GET", "/token", &[("Authorization", &token)]).status;
    let mut kept = gateway.client();
    assert_eq!((kept.get("/").status, with_token()), (200, 200));
    assert_eq!([(); 3].map(|()| gateway.get("/limit").status), [200, 200, 429]);
    let day = 86_400;
    for ahead in [day, -day, 3650 * day, -3650 * day] {
        jumping.set(ahead);
        assert_eq!(kept.get("/").status, 200, "the connection goes on at {ahead}");
        assert_eq!(gateway.get("/limit").status, 429, "a limit is not refilled at {ahead}");
        assert_eq!(with_token(), if ahead > 0 { 401 } else { 200 }, "whether the token has expired at {ahead}");
        jumping.set(0);
        assert_eq!(with_token(), 200, "it is as before after {ahead}");
    }
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
}

#[test]
fn when_all_endpoints_are_gone_it_is_said_at_once_and_when_they_are_back_they_are_used() {
    let (one, two) = (Upstream::named("one"), Upstream::named("two"));
    let addresses = [one.address(), two.address()];
    let text = format!(
        "upstreams: {{ up: {{ endpoints: [\"{}\", \"{}\"], health: {{ interval: 200ms, unhealthy_after: 2, healthy_after: 1 }} }} }}\n{OPEN}",
        addresses[0], addresses[1]
    );
    let gateway = Gateway::start(&text);
    assert_eq!(gateway.get("/").status, 200);
    drop((one, two));
    eventually("it is noticed", || gateway.get("/").status == 503);
    let began = std::time::Instant::now();
    assert_eq!(gateway.get("/").problem(), "no_healthy_endpoint");
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    let _back = addresses.map(|address| Upstream::on(address, |_| crate::support::Reply::ok("back")));
    eventually("they are used again", || gateway.get("/").status == 200);
    let healthy = |address| format!("torana_endpoint_healthy{{endpoint=\"{address}\",upstream=\"up\"}}");
    eventually("both of them", || addresses.iter().all(|one| gateway.metric(&healthy(one)) == 1.0));
}

#[test]
fn without_name_servers_the_last_addresses_serve_and_new_ones_come_with_the_servers() {
    let (one, two) =
        (Upstream::named("one"), Upstream::on("127.0.0.2:0".parse().unwrap(), |_| crate::support::Reply::ok("two")));
    let dns = Dns::start(Says::addresses(&["127.0.0.1"], 1));
    let server = dns.address();
    let text = |port: u16| {
        format!(
            "dns: {{ servers: [\"{server}\"] }}\nupstreams: {{ up: {{ endpoints: [\"orders.test:{port}\"] }} }}\n{OPEN}"
        )
    };
    let gateway = Gateway::start(&text(one.address().port()));
    assert_eq!(gateway.get("/").text(), "one");
    drop(dns);
    eventually("it is noticed", || gateway.log().contains("orders.test cannot be resolved"));
    assert_eq!(gateway.get("/").text(), "one");
    gateway.reload(&text(one.address().port()));
    assert_eq!(gateway.get("/").text(), "one", "a reload does not forget them");
    let _dns = Dns::on(server, Says::addresses(&["127.0.0.2"], 1));
    gateway.reload(&text(two.address().port()));
    eventually("the new address is used", || gateway.get("/").text() == "two");
}
