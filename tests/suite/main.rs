//! Black-box tests: start the built program on free ports, talk to it over sockets, look at what a recording upstream saw.
#![expect(unreachable_pub, reason = "a test binary has no callers outside")]
#![expect(clippy::disallowed_methods, reason = "tests have threads of their own, which may sleep")]
#![expect(
    let_underscore_drop,
    clippy::let_underscore_must_use,
    reason = "the other side may be gone, and that is fine"
)]
#![expect(clippy::float_cmp, reason = "metrics that count are whole numbers")]
#![expect(clippy::format_collect, clippy::format_push_string, reason = "texts here are short")]
#![expect(clippy::string_slice, reason = "what is cut is ASCII")]

#[cfg(test)]
mod support;

#[cfg(test)]
mod acme;
#[cfg(test)]
mod bounded;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod config;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod http2;
#[cfg(test)]
mod http3;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod observation;
#[cfg(test)]
mod passthrough;
#[cfg(test)]
mod policies;
#[cfg(test)]
mod protocols;
#[cfg(test)]
mod proxies;
#[cfg(test)]
mod reasons;
#[cfg(test)]
mod release;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod security;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod structure;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod unix_listener;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod upstream;
