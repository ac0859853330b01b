//! Health checks by gRPC's own protocol, against the service that grpcio brings.

use super::{OPEN, Stage, Up, script};
use crate::support::eventually;

fn is_healthy(stage: &Stage) -> bool {
    stage.gateway.status()["upstreams"][0]["endpoints"][0]["healthy"] == true
}

#[test]
fn an_endpoint_is_healthy_while_its_service_says_that_it_serves() {
    for up in [Up::H2c, Up::Tls] {
        let stage = Stage::with(
            up,
            ", health: { grpc: { service: test.Echo }, interval: 200ms, unhealthy_after: 1, healthy_after: 1 }",
            OPEN,
        );
        assert_eq!(stage.play("one", &[])["code"], "OK");
        assert_eq!(stage.play("one", &["x-health=NOT_SERVING"])["code"], "OK");
        eventually("it does not serve", || !is_healthy(&stage));
        assert!(stage.gateway.log().contains("is unhealthy: ") && stage.gateway.log().contains("NOT_SERVING"));
        assert_eq!(stage.play("one", &[])["code"], "UNAVAILABLE");
        if matches!(up, Up::Tls) {
            continue;
        }
        // Nobody reaches it through the gateway now.
        let address = stage.server.address().to_string();
        let said = script::json("grpc_client.py", &[&address, "-", "one", "x-health=SERVING"]);
        assert_eq!(said["code"], "OK");
        eventually("it serves again", || is_healthy(&stage));
        assert_eq!(stage.play("one", &[])["code"], "OK");
    }
}

#[test]
fn a_service_that_is_not_there_and_a_server_that_speaks_something_else_do_not_serve() {
    let stage =
        Stage::with(Up::H2c, ", health: { grpc: { service: test.Other }, interval: 200ms, unhealthy_after: 1 }", OPEN);
    eventually("it is not known", || !is_healthy(&stage));
    assert!(stage.gateway.log().contains("gRPC status 5"), "{}", stage.gateway.log());
    let other = crate::support::http2::with_body(200);
    let gateway = crate::support::Gateway::start(&format!(
        "upstreams: {{ up: {{ endpoints: [\"{other}\"], protocol: http2, health: {{ grpc: {{}}, interval: 200ms, unhealthy_after: 1 }} }} }}
routes: [{{ name: r, upstream: up }}]\n"
    ));
    eventually("that is no health service", || gateway.log().contains("the answer is none of grpc.health.v1"));
}
