//! What is counted of TLS: handshakes, and until when certificates are valid.

use prometheus::{GaugeVec, IntCounter, IntCounterVec};

use super::metrics::Made;

/// What is counted of TLS.
#[derive(Debug)]
pub struct TlsMetrics {
    handshakes: [IntCounter; Handshake::ALL.len()],
    expiry: GaugeVec,
    failed: GaugeVec,
    orders: IntCounterVec,
}

/// How it stands with a certificate.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// The first of its names.
    pub name: &'a str,
    /// Where it comes from.
    pub source: &'static str,
    /// Until when it is valid, in seconds since 1970.
    pub not_after: Option<u64>,
    /// Whether it could not be read or renewed.
    pub failed: bool,
}

/// What became of a TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// The connection is secure.
    Done,
    /// The certificate of the client is missing or not valid.
    Certificate,
    /// The client does not speak a version or cipher that is spoken here, or no TLS at all.
    Protocol,
    /// The client went away.
    Closed,
    /// The client took too long.
    TimedOut,
}

impl Handshake {
    const ALL: [Self; 5] = [Self::Done, Self::Certificate, Self::Protocol, Self::Closed, Self::TimedOut];

    const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Certificate => "certificate",
            Self::Protocol => "protocol",
            Self::Closed => "closed",
            Self::TimedOut => "timed_out",
        }
    }
}

impl TlsMetrics {
    pub(super) fn new(made: &Made) -> Self {
        let handshakes: IntCounterVec =
            made.counters("tls_handshakes_total", "TLS handshakes of clients, by what became of them.", &["outcome"]);
        let of_certificate = ["name", "source"];
        Self {
            handshakes: Handshake::ALL.map(|outcome| handshakes.with_label_values(&[outcome.name()])),
            expiry: made.gauges(
                "certificate_expiry_seconds",
                "Until when the certificate of a listener is valid, since 1970.",
                &of_certificate,
            ),
            failed: made.gauges(
                "certificate_failed",
                "1 while a certificate could not be read or renewed; the one before is served.",
                &of_certificate,
            ),
            orders: made.counters("acme_orders_total", "Certificates that were ordered.", &["outcome"]),
        }
    }

    /// Counts a handshake.
    pub fn handshake(&self, outcome: Handshake) {
        let index = Handshake::ALL.iter().position(|known| *known == outcome);
        if let Some(counter) = index.and_then(|index| self.handshakes.get(index)) {
            counter.inc();
        }
    }

    /// Counts an order of a certificate that came to its end, well or not.
    pub fn ordered(&self, ok: bool) {
        self.orders.with_label_values(&[if ok { "success" } else { "failure" }]).inc();
    }

    /// How it stands with all certificates.
    pub fn certificates(&self, all: &mut dyn Iterator<Item = Standing<'_>>) {
        self.expiry.reset();
        self.failed.reset();
        for one in all {
            let labels = [one.name, one.source];
            if let Some(end) = one.not_after {
                // Of several for one name, the first to end matters. A date is far from the 52 bits in which a float is exact.
                let end = f64::from(u32::try_from(end).unwrap_or(u32::MAX));
                let gauge = self.expiry.with_label_values(&labels);
                gauge.set(if gauge.get() > 0.0 { gauge.get().min(end) } else { end });
            }
            let failed = self.failed.with_label_values(&labels);
            failed.set(failed.get().max(f64::from(u8::from(one.failed))));
        }
    }
}
