//! Rows D: authentication.

use crate::support::{Gateway, Upstream, http2, request, web_socket::UPGRADE};

#[test]
fn d10_no_form_of_a_request_is_a_way_around_its_credential() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", h2c: true }}]
consumers: {{ app: {{ api_keys: [key-12345] }} }}
upstreams:
  up: {{ endpoints: [\"{0}\"] }}
  grpc: {{ endpoints: [\"{0}\"], protocol: http2 }}
routes:
  - {{ name: grpc, match: {{ path: {{ prefix: /test.Echo }} }}, policies: [{{ api_key: {{ header: x-api-key }} }}, {{ grpc_web: {{}} }}], upstream: grpc }}
  - {{ name: all, policies: [{{ api_key: {{ header: x-api-key }} }}], upstream: up }}\n",
        up.address()
    ));
    for method in ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH"] {
        assert_eq!(gateway.send(method, "/", &[("Content-Length", "0")]).status, 401, "{method}");
        assert_eq!(http2::send(&gateway, method, "/", &[], &[]).status, 401, "{method} over HTTP/2");
        let keyed = [&UPGRADE[..], &[("X-Api-Key", "wrong")]].concat();
        assert_eq!(gateway.send(method, "/", &keyed).status, 401, "{method} as an upgrade");
    }
    // An OPTIONS that looks like a preflight, where no policy answers those.
    let preflight = [("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET")];
    assert_eq!(gateway.send("OPTIONS", "/", &preflight).status, 401);
    for (media, in_header) in
        [("application/grpc", true), ("application/grpc-web", false), ("application/grpc-web-text", false)]
    {
        let headers = [("content-type", media), ("te", "trailers")];
        let answer = http2::send(&gateway, "POST", "/test.Echo/Unary", &headers, &[5]);
        assert_eq!((answer.status, answer.header("grpc-status").is_some()), (200, in_header), "{answer:?}");
        assert_eq!(answer.body.is_empty(), in_header, "{answer:?}");
    }
    // One behind another on a connection, with the key for the first one alone.
    let mut client = gateway.client();
    client.write((request("GET", "/", &[("X-Api-Key", "key-12345")]) + &request("GET", "/again", &[])).as_bytes());
    assert_eq!((client.read().status, client.read().status), (200, 401));
    assert_eq!(up.seen().len(), 1, "{:?}", up.seen());
}
