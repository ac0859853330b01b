//! Endpoints on Unix sockets.

use std::path::Path;

use super::{different, named};
use crate::support::{Gateway, Reply, Upstream, eventually};

fn gateway(endpoints: &str, settings: &str) -> Gateway {
    Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [{endpoints}], {settings} }} }}\nroutes: [{{ name: r, upstream: up }}]\n"
    ))
}

fn at(folder: &Path, name: &str) -> String {
    format!("\"unix:{}\"", folder.join(name).display())
}

#[test]
fn a_unix_socket_is_an_endpoint_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let up = Upstream::unix(&folder.path().join("a.sock"), |request| Reply::ok(request.body.clone()));
    let gateway = gateway(&at(folder.path(), "a.sock"), "");
    let mut client = gateway.client();
    for _ in 0..10 {
        client.write(crate::support::request("POST", "/p?q", &[("Content-Length", "5")]).as_bytes());
        client.write(b"hello");
        assert_eq!(client.read_answer_to("POST").text(), "hello");
    }
    assert!(up.connections() <= 2, "connections are kept: {}", up.connections());
    let seen = up.last();
    assert_eq!((seen.target.as_str(), seen.header("host")), ("/p?q", Some("test")));
}

#[test]
fn a_socket_that_nobody_listens_on_is_tried_elsewhere_or_502() {
    let folder = tempfile::tempdir().unwrap();
    let (_up, [well]) = named(["well"]);
    let both = gateway(&format!("{}, \"{well}\"", at(folder.path(), "gone.sock")), "");
    for _ in 0..4 {
        assert_eq!(both.get("/").text(), "well");
    }
    let alone = gateway(&at(folder.path(), "gone.sock"), "");
    let answer = alone.get("/");
    assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream_unreachable"));
}

#[test]
fn a_unix_socket_is_checked_too() {
    let folder = tempfile::tempdir().unwrap();
    let (_up, [well]) = named(["well"]);
    let path = folder.path().join("a.sock");
    for (i, check) in ["", "http: {}, "].iter().enumerate() {
        let gateway = gateway(
            &format!("{}, \"{well}\"", at(folder.path(), "a.sock")),
            &format!(
                "health: {{ {check}interval: 100ms, unhealthy_after: 1, healthy_after: 1 }}, retries: {{ attempts: 0 }}"
            ),
        );
        let answers = || (0..10).map(|_| gateway.get("/").text()).collect::<Vec<_>>();
        let log = |text: &str| gateway.log().contains(&format!("endpoint unix:{} is {text}", path.display()));
        eventually("it is found missing", || log("unhealthy"));
        assert_eq!(different(&answers()), ["well"].into());
        let _back = Upstream::unix(&path, move |_| Reply::ok("back"));
        eventually("it is found again", || log("healthy again"));
        assert_eq!(different(&answers()), ["back", "well"].into(), "{i}");
        std::fs::remove_file(&path).unwrap();
    }
}
