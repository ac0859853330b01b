//! `ip_restriction`: who may come is decided by the address that is there, not by one that is claimed.

use std::net::SocketAddr;

use crate::{
    policies::{config, no_way_around, send_from, start},
    support::{Client, Gateway, Upstream},
};

#[test]
fn what_is_not_allowed_is_refused_and_deny_wins() {
    let (gateway, up) = start("{ ip_restriction: { allow: [127.0.0.0/24, 127.9.0.0/16], deny: [127.0.0.7] } }");
    for ip in ["127.0.0.1", "127.0.0.255", "127.9.255.1"] {
        assert_eq!(send_from(ip, &gateway, &[]).status, 200, "{ip}");
    }
    for ip in ["127.0.0.7", "127.0.1.1", "127.8.255.255", "127.10.0.1"] {
        let answer = send_from(ip, &gateway, &[]);
        assert_eq!((answer.status, answer.problem().as_str()), (403, "address_not_allowed"), "{ip}");
    }
    assert_eq!(up.seen().len(), 3);
}

#[test]
fn with_deny_alone_all_others_may_come() {
    let (gateway, _up) = start("{ ip_restriction: { deny: [127.0.0.2/31, \"::/0\"] } }");
    for (ip, status) in [("127.0.0.1", 200), ("127.0.0.2", 403), ("127.0.0.3", 403), ("127.0.0.4", 200)] {
        assert_eq!(send_from(ip, &gateway, &[]).status, status, "{ip}");
    }
}

#[test]
fn an_address_that_a_client_claims_is_not_believed() {
    let (gateway, up) = start("{ ip_restriction: { deny: [127.0.0.5] } }");
    for name in ["X-Forwarded-For", "X-Real-Ip", "Forwarded", "X-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip"] {
        for claim in ["10.0.0.1", "127.0.0.1", "for=127.0.0.1"] {
            assert_eq!(send_from("127.0.0.5", &gateway, &[(name, claim)]).status, 403, "{name}: {claim}");
        }
    }
    assert!(up.seen().is_empty());
    assert_eq!(send_from("127.0.0.1", &gateway, &[("X-Forwarded-For", "127.0.0.5")]).status, 200);
    assert_eq!(up.only().header("x-forwarded-for"), Some("127.0.0.1"));
}

#[test]
fn ipv6_addresses_and_ipv4_in_ipv6_clothes_are_known() {
    let up = Upstream::named("up");
    let policies = "{ ip_restriction: { allow: [\"::1\", 127.0.0.0/8], deny: [127.0.0.9] } }";
    let listeners = "listeners: [{ address: \"[::]:0\" }]\n";
    let gateway = Gateway::start(&(listeners.to_owned() + &config(&up, policies)));
    let port = gateway.address().port();
    let status = |from: &str, to: &str| {
        let to: SocketAddr = format!("{to}:{port}").parse().unwrap();
        let mut client = Client::connect_from(from.parse().unwrap(), to);
        client.get("/").status
    };
    assert_eq!(status("::1", "[::1]"), 200);
    assert_eq!(up.last().header("x-forwarded-for"), Some("::1"));
    assert_eq!(status("127.0.0.1", "127.0.0.1"), 200);
    assert_eq!(up.last().header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(status("127.0.0.9", "127.0.0.1"), 403);

    gateway.reload(&(listeners.to_owned() + &config(&up, "{ ip_restriction: { deny: [\"::/127\"] } }")));
    assert_eq!((status("::1", "[::1]"), status("127.0.0.1", "127.0.0.1")), (403, 200));
    gateway.reload(&(listeners.to_owned() + &config(&up, "{ ip_restriction: { allow: [\"2001:db8::/32\"] } }")));
    assert_eq!((status("::1", "[::1]"), status("127.0.0.1", "127.0.0.1")), (403, 403));
}

#[test]
fn no_method_and_no_credential_is_a_way_around_the_address() {
    let (gateway, up) = start("{ api_key: {} }, { ip_restriction: { allow: [10.0.0.0/8] } }");
    no_way_around(&gateway, &up, &[], 403);
    no_way_around(&gateway, &up, &[("X-Api-Key", "key-1")], 403);
}
