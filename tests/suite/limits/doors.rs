//! Who is not let in: addresses that come too fast, and those that keep being refused.

use crate::support::{Client, Gateway, Response, Upstream, eventually};

fn gateway(limits: &str) -> (Gateway, Upstream) {
    let up = Upstream::named("up");
    let gateway = Gateway::replaceable(&format!(
        "limits: {{ {limits} }}
admin: {{ address: \"127.0.0.1:0\", changes: true }}
upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
routes: [{{ name: r, match: {{ path: /there }}, upstream: up }}]\n",
        up.address()
    ));
    (gateway, up)
}

fn from(address: &str, gateway: &Gateway) -> Client {
    Client::connect_from(address.parse().unwrap(), gateway.address())
}

fn said(answer: &Response) -> (u16, String) {
    (answer.status, if answer.status == 200 { String::new() } else { answer.problem() })
}

#[test]
fn an_address_that_opens_connections_too_fast_is_turned_away_and_no_other_one() {
    let (gateway, up) = gateway("connection_rate: 20/h");
    let ask = |address: &str| said(&from(address, &gateway).get("/there"));
    let all: Vec<_> = (0..25).map(|_| ask("127.0.0.2")).collect();
    assert_eq!(all.iter().filter(|(status, _)| *status == 200).count(), 20, "{all:?}");
    assert!(all[20..].iter().all(|one| *one == (429, "connection_rate_limited".to_owned())), "{all:?}");
    assert_eq!(ask("127.0.0.3").0, 200);
    assert_eq!(up.seen().len(), 21);
    // A connection that is there goes on.
    let mut kept = from("127.0.0.4", &gateway);
    for _ in 0..30 {
        assert_eq!(kept.get("/there").status, 200);
    }
}

#[test]
fn an_address_that_keeps_being_refused_is_turned_away_for_a_while() {
    let (gateway, up) = gateway("penalty_box: { after: 5, within: 1m, share: 50%, time: 3s, spare: [127.0.0.9] }");
    let mut guessing = from("127.0.0.2", &gateway);
    for _ in 0..5 {
        assert_eq!(guessing.get("/guess").status, 404);
    }
    let refused = guessing.get("/there");
    assert_eq!(said(&refused), (429, "penalty_box".to_owned()));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3).contains(&wait), "{wait}");
    assert_eq!(
        said(&from("127.0.0.2", &gateway).get("/there")),
        (429, "penalty_box".to_owned()),
        "on a new connection"
    );
    assert_eq!(from("127.0.0.3", &gateway).get("/there").status, 200, "another address");
    eventually("it is in the log", || gateway.log().contains("127.0.0.2 keeps being refused"));
    gateway.wait_for_metric("torana_penalty_box_addresses", 1.0);
    // It ends by itself, although the address has gone on asking.
    eventually("it is let in again", || from("127.0.0.2", &gateway).get("/there").status == 200);
    let mut spared = from("127.0.0.9", &gateway);
    for _ in 0..20 {
        assert_eq!(spared.get("/guess").status, 404);
    }
    // Who mostly asks for what is there may be wrong now and then.
    let mut mixed = from("127.0.0.4", &gateway);
    for _ in 0..10 {
        assert_eq!([(); 3].map(|()| mixed.get("/there").status), [200; 3]);
        assert_eq!(mixed.get("/guess").status, 404);
    }
    assert!(up.seen().iter().all(|request| request.target == "/there"));
}

#[test]
fn operators_see_who_is_turned_away_and_let_him_in() {
    let (gateway, _up) = gateway("penalty_box: { after: 3, time: 1h }");
    let guess = |address: &str| {
        let mut client = from(address, &gateway);
        (0..3).for_each(|_| {
            client.get("/guess");
        });
        from(address, &gateway).get("/there").status
    };
    assert_eq!(gateway.torana(&["penalty-box", "list"]), (Some(0), "nobody is turned away\n".into()));
    assert_eq!((guess("127.0.0.2"), guess("127.0.0.3")), (429, 429));
    let (_, list) = gateway.torana(&["penalty-box", "list"]);
    assert!(list.starts_with("127.0.0.2 for 59m ") && list.contains("after 3 refusals\n127.0.0.3 "), "{list}");
    assert_eq!(gateway.torana(&["penalty-box", "release", "127.0.0.2"]).0, Some(0));
    assert_eq!(gateway.torana(&["penalty-box", "release", "127.0.0.2"]).0, Some(1));
    assert_eq!(from("127.0.0.2", &gateway).get("/there").status, 200);
    let shown = gateway.ask_admin("/penalty_box").json();
    assert_eq!((shown[0]["address"].as_str(), shown.as_array().unwrap().len()), (Some("127.0.0.3"), 1));
}
