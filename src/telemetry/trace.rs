//! W3C Trace Context: `traceparent` is passed on with a new span, or made where there is none
//! ([Trace Context](https://www.w3.org/TR/trace-context/)).

use http::HeaderValue;

/// The trace that a request belongs to, and the gateway's span in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Never 0.
    pub trace_id: u128,
    /// The span of the caller; 0 if the trace begins here.
    pub parent_id: u64,
    /// The span of the gateway. Never 0.
    pub span_id: u64,
    /// Whether the caller recorded its span.
    pub sampled: bool,
}

impl Trace {
    /// A trace that begins here.
    pub fn fresh(id: u128, span: u64) -> Self {
        Self { trace_id: id.max(1), parent_id: 0, span_id: span.max(1), sampled: false }
    }

    /// Continues the trace of the caller. What is not valid is treated as if it were not there (section 4.3).
    #[must_use]
    pub fn continued(self, traceparent: &HeaderValue) -> Self {
        parse(traceparent.as_bytes()).map_or(self, |(trace_id, parent_id, sampled)| Self {
            trace_id,
            parent_id,
            sampled,
            ..self
        })
    }

    /// What the upstream gets.
    pub fn header_value(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let (_, rest) = text.split_at_mut(3);
        let (trace, rest) = rest.split_at_mut(33);
        let (span, flags) = rest.split_at_mut(17);
        write_hex(&self.trace_id.to_be_bytes(), trace.get_mut(..32).unwrap_or_default());
        write_hex(&self.span_id.to_be_bytes(), span.get_mut(..16).unwrap_or_default());
        write_hex(&[u8::from(self.sampled)], flags);
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

/// Writes bytes as twice as many digits: without the machinery of `format!`, because every request has this.
pub(super) fn write_hex(bytes: &[u8], into: &mut [u8]) {
    let digit = |half: u8| half + if half < 10 { b'0' } else { b'a' - 10 };
    let (pairs, _) = into.as_chunks_mut();
    debug_assert!(pairs.len() == bytes.len(), "it has room for two digits a byte");
    for ([high, low], byte) in pairs.iter_mut().zip(bytes) {
        (*high, *low) = (digit(byte >> 4), digit(byte & 0xf));
    }
}

/// `00-<32 hex>-<16 hex>-<2 hex>`; a later version may have more behind it.
fn parse(text: &[u8]) -> Option<(u128, u64, bool)> {
    let text = std::str::from_utf8(text).ok()?;
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex =
        |text: &str, len: usize| text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !hex(version, 2) || version == "ff" || !hex(trace, 32) || !hex(parent, 16) || !hex(flags, 2) {
        return None;
    }
    if version == "00" && parts.next().is_some() {
        return None;
    }
    let trace_id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
    let parent_id = u64::from_str_radix(parent, 16).ok().filter(|id| *id != 0)?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    Some((trace_id, parent_id, flags & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn continued(text: &str) -> Trace {
        Trace::fresh(7, 9).continued(&HeaderValue::from_str(text).unwrap())
    }

    #[test]
    fn a_valid_parent_is_continued_with_a_span_of_its_own() {
        let trace = continued("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert_eq!(trace.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(trace.parent_id, 0x00f0_67aa_0ba9_02b7);
        let sent = trace.header_value();
        let sent = sent.to_str().unwrap();
        assert!(sent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && sent.ends_with("-01"));
        assert!(!sent.contains("00f067aa0ba902b7"));
    }

    #[test]
    fn what_is_not_valid_starts_a_new_trace() {
        for text in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(continued(text).trace_id, 7, "{text}");
        }
    }
}
