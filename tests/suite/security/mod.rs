//! What an attacker sends, and the safe answer: one test for each case, named by its row. The assertions are on the bytes
//! that a recording upstream saw, and on what the client got.
//!
//! | file | what |
//! |---|---|
//! | `a` | framing and smuggling |
//! | `b` | path and host |
//! | `c` | headers and identity |
//! | `d` | authentication |
//! | `e` | floods and bombs |
//! | `h` | TLS, pool, admin, operation |
//! | `http1` | slow clients and many headers over HTTP/1.1 |
//! | `http2` | the rows of HTTP/2 |
//! | `hygiene` | the rules that a route can relax |
//! | `web_socket` | frames of WebSockets |
//! | `readings` | what the gateway and a server behind it could read differently |
//! | `corpus` | hostile byte streams by the hundred |

mod a;
mod b;
mod c;
mod corpus;
mod d;
mod e;
mod f;
mod h;
mod http1;
mod http2;
mod hygiene;
mod readings;
mod web_socket;

use std::net::{Shutdown, SocketAddr};

use crate::support::{Gateway, Upstream};

/// A gateway to one upstream. `/admin` needs the API key `a-key-for-tests`; everything else is open.
fn guarded(up: SocketAddr) -> Gateway {
    guarded_with(up, "")
}

/// The same; the open route has these options besides.
fn guarded_with(up: SocketAddr, options: &str) -> Gateway {
    Gateway::start(&text(up, options))
}

/// The same, also over HTTP/2.
fn guarded_http2(up: SocketAddr) -> Gateway {
    Gateway::start(&format!("listeners: [{{ address: \"127.0.0.1:0\", h2c: true }}]\n{}", text(up, "")))
}

fn text(up: SocketAddr, options: &str) -> String {
    format!(
        "telemetry: {{ access_log: {{}} }}
upstreams: {{ up: {{ endpoints: [\"{up}\"], retries: {{ attempts: 0 }} }} }}
consumers: {{ mobile: {{ api_keys: [a-key-for-tests] }} }}
routes:
  - {{ name: admin, match: {{ path: {{ prefix: /admin }} }}, upstream: up, policies: [{{ api_key: {{}} }}] }}
  - {{ name: all, upstream: up{options} }}
"
    )
}

/// Sends bytes, and returns status and code of the refusal. The connection must be closed behind it, and the
/// next request on another one be answered.
#[track_caller]
fn refused(gateway: &Gateway, bytes: &[u8]) -> (u16, String) {
    let mut client = gateway.client();
    client.write(bytes);
    let answer = client.read();
    let code = answer.problem();
    let shown = String::from_utf8_lossy(bytes);
    assert_eq!(answer.header("connection"), Some("close"), "{shown:?}: {answer:?}");
    // The gateway reads on for a moment, so that the answer is not lost; here it is read.
    let _ = client.stream().shutdown(Shutdown::Write);
    assert!(client.is_closed(), "{shown:?}");
    (answer.status, code)
}

/// That no request came, or none but those of these targets.
#[track_caller]
fn only_saw(up: &Upstream, targets: &[&str]) {
    let seen = up.seen();
    let all: Vec<&str> = seen.iter().map(|request| request.target.as_str()).collect();
    assert_eq!(all, targets, "{seen:#?}");
}
