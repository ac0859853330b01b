//! TLS-ALPN-01: the authority looks at a certificate, on the port that everybody uses.

use serde_json::json;

use super::world::World;

#[test]
fn a_handshake_alone_is_enough_for_a_certificate() {
    let world = World::start("challenge: tls_alpn_01", &json!({}));
    world.wait_for("valid");
    for name in ["a.test", "b.test"] {
        assert_eq!(world.curl(name), "hello", "{name}");
        let looked = format!("acme: the authority looks at the certificate of {name}");
        assert!(world.gateway.log().contains(&looked), "{name}");
    }
    assert!(world.upstream.seen().iter().all(|seen| seen.target == "/"));
}

#[test]
fn nobody_else_gets_to_see_that_certificate() {
    let world = World::start("challenge: tls_alpn_01", &json!({}));
    world.wait_for("valid");
    let said = world.handshake("a.test", &["-alpn", "acme-tls/1"]);
    assert!(said.contains("no application protocol"), "{said}");
    for (offered, spoken) in [("acme-tls/1,http/1.1", "http/1.1"), ("h2,acme-tls/1", "h2")] {
        let said = world.handshake("a.test", &["-alpn", offered]);
        assert!(said.contains(&format!("ALPN protocol: {spoken}")), "{said}");
    }
}
