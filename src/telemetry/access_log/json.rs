//! JSON by hand: one object of flat members, in one line.

use std::fmt::Write as _;

/// Writes the members of one object.
#[derive(Debug)]
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Object<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    pub(super) fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }

    /// Writes a name, and what stands between it and its value.
    fn name(&mut self, name: &str, behind: &[u8]) {
        let before = if std::mem::take(&mut self.first) { &b"\""[..] } else { b",\"" };
        for piece in [before, name.as_bytes(), behind] {
            self.out.extend_from_slice(piece);
        }
    }

    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.name(name, b"\":");
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Nanoseconds as milliseconds with three digits.
    pub(super) fn millis(&mut self, name: &str, nanos: u64) {
        let micros = nanos / 1_000;
        self.number(name, micros / 1_000);
        let mut part = *b".000";
        put_digits(part.get_mut(1..).unwrap_or_default(), micros % 1_000);
        self.out.extend_from_slice(&part);
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.bytes(name, value.as_bytes());
    }

    /// Bytes that may be no UTF-8; what is not becomes U+FFFD.
    pub(super) fn bytes(&mut self, name: &str, value: &[u8]) {
        self.open(name);
        escape(self.out, value);
        self.out.push(b'"');
    }

    /// 128 bits as 32 hexadecimal digits.
    pub(super) fn id(&mut self, name: &str, value: u128) {
        let mut digits = [0; 32];
        crate::telemetry::trace::write_hex(&value.to_be_bytes(), &mut digits);
        self.open(name);
        self.out.extend_from_slice(&digits);
        self.out.push(b'"');
    }

    /// What `value` displays, which needs no escape.
    pub(super) fn plain(&mut self, name: &str, value: impl std::fmt::Display) {
        self.open(name);
        // Writing to memory cannot fail.
        let written = write!(Plain(self.out), "{value}");
        debug_assert!(written.is_ok(), "memory takes everything");
        self.out.push(b'"');
    }

    /// A text that `write` puts together; it escapes by [`escape`] what is not its own.
    pub(super) fn with(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.open(name);
        write(self.out);
        self.out.push(b'"');
    }

    fn open(&mut self, name: &str) {
        self.name(name, b"\":\"");
    }
}

struct Plain<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Plain<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        escape(self.0, text.as_bytes());
        Ok(())
    }
}

/// Writes the last digits of a number, as many as there is room for.
pub(super) fn put_digits(into: &mut [u8], value: u64) {
    let mut left = value;
    for place in into.iter_mut().rev() {
        *place = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
    }
}

/// Which bytes stand for themselves in a string.
static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        #[expect(clippy::as_conversions, clippy::indexing_slicing, reason = "there is nothing else in a constant")]
        {
            plain[byte as usize] = !matches!(byte, b'"' | b'\\');
        }
        byte += 1;
    }
    plain
};

/// The inside of a JSON string ([RFC 8259, 7](https://www.rfc-editor.org/rfc/rfc8259#section-7)). DEL and the C1
/// controls are escaped as well: a terminal may obey them.
pub(super) fn escape(out: &mut Vec<u8>, value: &[u8]) {
    let mut rest = value;
    loop {
        let plain = rest.iter().position(|byte| !PLAIN.get(usize::from(*byte)).is_some_and(|plain| *plain));
        let Some(at) = plain else {
            out.extend_from_slice(rest);
            return;
        };
        let (before, from) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        out.extend_from_slice(before);
        rest = escape_one(out, from);
    }
}

/// Writes the character that `from` begins with, and returns what follows it.
fn escape_one<'a>(out: &mut Vec<u8>, from: &'a [u8]) -> &'a [u8] {
    let chunk = from.utf8_chunks().next();
    let Some(c) = chunk.as_ref().and_then(|chunk| chunk.valid().chars().next()) else {
        let invalid = chunk.map_or(1, |chunk| chunk.invalid().len()).max(1);
        out.extend_from_slice("\u{fffd}".as_bytes());
        return from.get(invalid..).unwrap_or_default();
    };
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        // U+2028 and U+2029 end a line for some readers.
        c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
            let written = write!(Raw(out), "\\u{:04x}", u32::from(c));
            debug_assert!(written.is_ok(), "memory takes everything");
        }
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
    from.get(c.len_utf8()..).unwrap_or_default()
}

struct Raw<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Raw<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn members_are_written() {
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        object.number("n", 7);
        object.millis("ms", 1_002_003_999);
        object.text("t", "a\"b\u{1b}[31m\n");
        object.plain("p", std::net::Ipv4Addr::LOCALHOST);
        object.end();
        let wanted = concat!(r#"{"n":7,"ms":1002.003,"t":"a\"b\u001b[31m\n","p":"127.0.0.1"}"#, "\n");
        assert_eq!(String::from_utf8(out).unwrap(), wanted);
    }

    proptest! {
        #[test]
        fn any_bytes_make_one_valid_line(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut out = Vec::new();
            let mut object = Object::begin(&mut out);
            object.bytes("b", &bytes);
            object.end();
            let text = String::from_utf8(out).unwrap();
            prop_assert_eq!(text.lines().count(), 1);
            let read: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read["b"].as_str().unwrap(), String::from_utf8_lossy(&bytes));
        }
    }
}
