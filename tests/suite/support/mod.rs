//! What the tests stand on: a running gateway, scripted upstreams, a client that sends bytes as they are.

mod bare;
mod browser;
mod client;
mod dns;
pub mod frames;
mod gateway;
pub mod http2;
pub mod http3;
pub mod redis;
pub mod script;
mod tls;
pub mod unix;
mod upstream;
pub mod web_socket;

pub use self::{
    bare::{Bare, Busy, Refusing, read_head},
    browser::{Browser, Page},
    client::{Client, Response, request},
    dns::{Dns, Says},
    gateway::{Gateway, torana},
    tls::Authority,
    upstream::{Recorded, Reply, Upstream},
};

use std::time::{Duration, Instant};

/// Asks until the answer is yes; panics with `what` if it is not within ten seconds.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < end, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
