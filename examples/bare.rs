//! The least that a Pingora proxy can be: what Pingora itself costs, for `loadtest/compare`.
//!
//! `LISTEN=127.0.0.1:8080 UPSTREAM=127.0.0.1:9000 target/release/examples/bare`, with `WORKERS=2` for more than one thread

use std::{env, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use pingora::{
    Result,
    proxy::{ProxyHttp, Session, http_proxy_service},
    server::{Server, configuration::ServerConf},
    upstreams::peer::HttpPeer,
};

// The allocator of the gateway, so that the difference is the gateway's own work.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bare(SocketAddr);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}

#[expect(clippy::expect_used, reason = "an example may end on a wrong argument")]
fn main() {
    let threads = env::var("WORKERS").ok().and_then(|count| count.parse().ok()).unwrap_or(1);
    let conf = ServerConf { threads, work_stealing: false, ..ServerConf::default() };
    let upstream = env::var("UPSTREAM").expect("UPSTREAM: an address");
    let upstream = upstream.parse().expect("UPSTREAM: an IP address with a port");
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&Arc::clone(&server.configuration), Bare(upstream));
    service.add_tcp(&env::var("LISTEN").expect("LISTEN: an address"));
    server.add_service(service);
    server.run_forever();
}
