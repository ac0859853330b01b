//! HTTP/2 and HPACK ([RFC 9113](https://www.rfc-editor.org/rfc/rfc9113), [RFC 7541](https://www.rfc-editor.org/rfc/rfc7541)),
//! case by case as the tool h2spec has them, with its numbers of sections (those of RFC 7540).
//!
//! Each case is frames that are sent on a connection of its own, and what has to come back, exactly. h2spec is content
//! with less: any error code where the connection is closed. Where the gateway's answer is one that h2spec takes and the
//! RFC does not, or neither does, the case says so; `docs/http2.md` lists them.

mod connection;
mod frames;
mod generic;
mod hpack;
mod messages;

use std::time::Duration;

use crate::support::{
    Gateway, Reply, Upstream,
    frames::{Outcome, Peer},
};

/// Codes of errors.
pub const PROTOCOL_ERROR: u32 = 1;
pub const COMPRESSION_ERROR: u32 = 9;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// How a case stands to the standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The outcome is what the RFC asks for.
    Meets,
    /// The connection or stream ends as it must, with another code than the RFC names. h2spec passes it.
    OtherCode(&'static str),
    /// The gateway does something else, for this reason.
    Deviates(&'static str),
}

struct Case {
    section: &'static str,
    what: &'static str,
    /// What has to come, in this order; other answers may stand between.
    outcomes: &'static [Outcome],
    run: fn(&mut Peer),
    verdict: Verdict,
}

fn case(section: &'static str, what: &'static str, outcomes: &'static [Outcome], run: fn(&mut Peer)) -> Case {
    Case { section, what, outcomes, run, verdict: Verdict::Meets }
}

/// Where the `h2` crate ends the connection, and the stream would be enough, or has another code for it.
const ENDS: Verdict = Verdict::OtherCode("`GOAWAY` instead of `RST_STREAM`");
const ENDS_AS: Verdict =
    Verdict::OtherCode("`GOAWAY` with `PROTOCOL_ERROR` instead of `RST_STREAM` with `STREAM_CLOSED`");

impl Case {
    const fn but(mut self, verdict: Verdict) -> Self {
        self.verdict = verdict;
        self
    }

    fn failure(&self, gateway: &Gateway) -> Option<String> {
        let mut peer = Peer::start(gateway.address());
        (self.run)(&mut peer);
        let told = self.outcomes.iter().find_map(|wanted| Some((wanted, peer.until(*wanted).err()?)))?;
        Some(format!("{} {}: {:?} instead of {:?}", self.section, self.what, told.1, told.0))
    }
}

fn cases() -> Vec<Case> {
    [generic::cases(), connection::cases(), frames::cases(), messages::cases(), hpack::cases()]
        .into_iter()
        .flatten()
        .collect()
}

/// Says with 250 that a header with the value `ok` arrived, and which of two it was does not matter.
fn upstream() -> Upstream {
    Upstream::start(|seen| {
        let fields = ["x-test", "user-agent"];
        let reply = if seen.target == "/field" {
            let arrived = fields.iter().any(|name| seen.header(name) == Some("ok"));
            Reply::new(if arrived { 250 } else { 551 }, "")
        } else {
            Reply::ok("hello, world")
        };
        reply.after(Duration::from_millis(if seen.target == "/slow" { 1_000 } else { 0 }))
    })
}

#[test]
fn http2_is_spoken_as_the_standard_says() {
    let up = upstream();
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", h2c: true, http2: {{ max_concurrent_streams: 10 }} }}]
upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
routes: [{{ name: all, upstream: up }}]\n",
        up.address()
    ));
    let cases = cases();
    let failures: Vec<String> = cases.iter().filter_map(|case| case.failure(&gateway)).collect();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn the_cases_are_as_many_as_h2specs_and_the_deviations_are_listed() {
    let cases = cases();
    let of = |part: &str| cases.iter().filter(|case| case.section.starts_with(part)).count();
    assert_eq!((of("generic/"), of("hpack/")), (44, 8));
    assert!(cases.len() >= 146, "{}", cases.len());
    let deviating: Vec<_> = cases.iter().filter(|case| matches!(case.verdict, Verdict::Deviates(_))).collect();
    assert!(cases.len() - deviating.len() >= 140, "{}", deviating.len());
    let page = include_str!("../../../../docs/http2.md");
    for case in &cases {
        if let Verdict::Deviates(why) | Verdict::OtherCode(why) = case.verdict {
            assert!(
                page.contains(&format!("| {} | {} | {why} |", case.section, case.what)),
                "{} {}",
                case.section,
                case.what
            );
        }
    }
}
