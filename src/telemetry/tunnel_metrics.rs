//! What is counted of connections that are handed on as they are.

use prometheus::{IntCounter, IntCounterVec};

use super::metrics::Made;

/// All of them.
#[derive(Debug)]
pub struct TunnelsMetrics {
    ended: IntCounterVec,
    bytes: IntCounterVec,
}

/// How a connection that is handed on ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelEnd {
    /// Both sides had said everything.
    Done,
    /// One of the sides broke it off.
    Broken,
    /// Nothing was said for too long.
    Idle,
    /// No endpoint could be reached.
    Unreachable,
}

impl TunnelEnd {
    const ALL: [Self; 4] = [Self::Done, Self::Broken, Self::Idle, Self::Unreachable];

    /// The label, which is also what the log says.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Broken => "broken",
            Self::Idle => "idle",
            Self::Unreachable => "unreachable",
        }
    }
}

impl TunnelsMetrics {
    pub(super) fn new(made: &Made) -> Self {
        Self {
            ended: made.counters(
                "passthrough_connections_total",
                "Connections that were handed on as they are, by how they ended.",
                &["upstream", "outcome"],
            ),
            bytes: made.counters(
                "passthrough_bytes_total",
                "Bytes on connections that were handed on as they are, in from clients and out to them.",
                &["upstream", "direction"],
            ),
        }
    }

    /// Handles for an upstream.
    pub fn upstream(&self, upstream: &str) -> TunnelMetrics {
        TunnelMetrics {
            ended: TunnelEnd::ALL.map(|end| self.ended.with_label_values(&[upstream, end.name()])),
            received: self.bytes.with_label_values(&[upstream, "in"]),
            sent: self.bytes.with_label_values(&[upstream, "out"]),
        }
    }
}

/// Resolved handles of an upstream.
#[derive(Clone, Debug)]
pub struct TunnelMetrics {
    ended: [IntCounter; TunnelEnd::ALL.len()],
    received: IntCounter,
    sent: IntCounter,
}

impl TunnelMetrics {
    /// Counts a connection that ended, with what came from the client and what went to it.
    pub fn ended(&self, end: TunnelEnd, received: u64, sent: u64) {
        self.received.inc_by(received);
        self.sent.inc_by(sent);
        let index = TunnelEnd::ALL.iter().position(|known| *known == end);
        if let Some(counter) = index.and_then(|index| self.ended.get(index)) {
            counter.inc();
        }
    }
}
