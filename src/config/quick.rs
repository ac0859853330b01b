//! Reads the part of YAML that nearly all files keep to, with two fifths of the instructions that `serde-saphyr` takes (738 and 1,856 million for
//! 10,000 routes: `valgrind --tool=callgrind target/guard/torana check`).
//!
//! A reload builds the whole file anew, beside the traffic, and two thirds of that was the way from the parser's events through serde to a tree
//! with places. Here the tree is made of the events themselves, by the parser that `serde-saphyr` is built on.
//!
//! Whatever is out of the ordinary is left to `serde-saphyr`, which reads the text once more: errors of every kind, keys that are there twice,
//! anchors and aliases (its budgets are against YAML bombs), tags, merge keys, several documents. A number is read by it as well, unless it is
//! made of digits alone. So this never refuses anything, and never reads anything in another way.

use std::{borrow::Cow, collections::HashSet};

use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, Span, StrInput};

use super::tree::{self, Entry, Node, Place, Value};
use crate::pace::give_way;

/// Deeper files are out of the ordinary.
const MAX_DEPTH: usize = 48;

/// Mappings with more keys than this are looked through for double ones by a table.
const FEW: usize = 16;

/// Longer texts of digits may not fit into 64 bits.
const MAX_DIGITS: usize = 18;

/// The tree of a text; `None` if it has something out of the ordinary.
pub(super) fn read(text: &str) -> Option<Node> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    let mut events = Events(Parser::new_from_str_with_options(text, options));
    if !matches!(events.next()?.0, Event::StreamStart) || !matches!(events.next()?.0, Event::DocumentStart(_, None)) {
        return None;
    }
    let first = events.next()?;
    let node = events.node(first, 0)?;
    let has_ended = matches!(events.next()?.0, Event::DocumentEnd) && matches!(events.next()?.0, Event::StreamEnd);
    has_ended.then_some(node)
}

struct Events<'a>(Parser<'a, StrInput<'a>>);

impl<'a> Events<'a> {
    /// The next event; `None` for an error as well.
    fn next(&mut self) -> Option<(Event<'a>, Span)> {
        self.0.next_event()?.ok()
    }

    fn node(&mut self, (event, span): (Event<'a>, Span), depth: usize) -> Option<Node> {
        if depth > MAX_DEPTH {
            return None;
        }
        let value = if let Event::Scalar(text, style, 0, None) = event {
            scalar(text, style)?
        } else if let Event::SequenceStart(_, 0, None) = event {
            self.list(depth)?
        } else if let Event::MappingStart(_, 0, None) = event {
            self.map(depth)?
        } else {
            return None;
        };
        Some(Node::new(place(&span), value))
    }

    fn list(&mut self, depth: usize) -> Option<Value> {
        let mut items = Vec::new();
        loop {
            let event = self.next()?;
            if matches!(event.0, Event::SequenceEnd) {
                return Some(Value::List(items));
            }
            items.push(self.node(event, depth + 1)?);
            give_way();
        }
    }

    fn map(&mut self, depth: usize) -> Option<Value> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let Event::Scalar(key, style, 0, None) = event else { return None };
            let key = if is_key(&key, style) { key.into_owned() } else { return None };
            let value = self.next()?;
            let node = self.node(value, depth + 1)?;
            entries.push(Entry { key, key_place: place(&span), node });
        }
        (!has_double(&entries)).then_some(Value::Map(entries))
    }
}

fn place(span: &Span) -> Place {
    Place { line: span.start.line(), column: span.start.col() + 1, width: span.len() }
}

fn has_double(entries: &[Entry]) -> bool {
    if entries.len() <= FEW {
        let mut rest = entries;
        while let [first, behind @ ..] = rest {
            if behind.iter().any(|entry| entry.key == first.key) {
                return true;
            }
            rest = behind;
        }
        return false;
    }
    let mut seen = HashSet::with_capacity(entries.len());
    !entries.iter().all(|entry| seen.insert(entry.key.as_str()))
}

/// Whether a key is a text, whatever it looks like.
fn is_key(key: &str, style: ScalarStyle) -> bool {
    let is_name = key.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    style != ScalarStyle::Plain || is_name && !key.eq_ignore_ascii_case("null")
}

/// Whether a text may be something else if it is not in quotes.
fn is_word(text: &str) -> bool {
    const WORDS: [&str; 13] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "t", "f", "nan", "inf"];
    text.len() <= 8
        && (WORDS.iter().any(|word| text.eq_ignore_ascii_case(word)) || text.eq_ignore_ascii_case("infinity"))
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle) -> Option<Value> {
    if style != ScalarStyle::Plain {
        return Some(Value::Text(text.into_owned()));
    }
    let mut bytes = text.bytes();
    match (bytes.next()?, &*text) {
        (_, "true") => Some(Value::Bool(true)),
        (_, "false") => Some(Value::Bool(false)),
        (_, "null" | "~") => Some(Value::Null),
        (b'a'..=b'z' | b'A'..=b'Z' | b'/' | b'_' | b'$' | b'(' | b'^', _) if !is_word(&text) => {
            Some(Value::Text(text.into_owned()))
        }
        (b'0', "0") => Some(Value::Unsigned(0)),
        (b'1'..=b'9', _) if text.len() <= MAX_DIGITS && bytes.all(|byte| byte.is_ascii_digit()) => {
            text.parse().ok().map(Value::Unsigned)
        }
        // A size or a time: no number has such a letter.
        (b'0'..=b'9', _) if text.bytes().any(|byte| matches!(byte, b'k' | b'm' | b's' | b'M' | b'G' | b'/')) => {
            Some(Value::Text(text.into_owned()))
        }
        (b'0'..=b'9' | b'+' | b'-' | b'.', _) if is_readable_alone(&text) => tree::read_scalar(&text),
        _ => None,
    }
}

/// Whether a text that begins like a number means the same where nothing else stands. `...` and `---` do not.
fn is_readable_alone(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b':' | b'_');
    text.bytes().all(is_plain) && !text.starts_with("...") && !text.starts_with("---") && !text.ends_with(':')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// That a text is read as `serde-saphyr` reads it, if it is read at all; returns whether it is.
    #[track_caller]
    fn agrees(text: &str) -> bool {
        let Some(quick) = read(text) else { return false };
        let thorough = tree::read_thoroughly(text).map_err(|error| error.to_string());
        assert_eq!(Ok(format!("{quick:#?}")), thorough.map(|node| format!("{node:#?}")), "{text}");
        true
    }

    #[test]
    fn ordinary_files_are_read_and_the_same() {
        for text in [
            "a: 1\nb: [x, z, 'y', \"\\u0041\", 1.5, -3, .5, 1e3, 1e-3, 5E-1, 1.5e-10, -1e-2, 0x1f, 0o17, 007, +4, 127.0.0.1:80, 10s, 64KiB, 1/s]\n",
            "routes:\n  - { name: r, match: { path: /a/b }, public: true, upstream: up }\n  - name: s\n    empty:\n",
            "# comment\n---\ntext: |\n  one\n  two\nfolded: >-\n  three\n  four\nquoted key : x\n\"q\": ~\n",
            "a: {}\nb: []\nc: ''\nd: null\ne: \"true\"\nf: true\ng: false\nh: 18446744073709551615\ni: 123456789012345678\n",
            "list:\n- a\n- b: c\n  d: e\n-\n  - nested\n- ${env:NAME}\n- ^regex$\n- (x)\n",
            "multi: first\n  second\n  third # behind\nkey: a\u{e4}\u{f6} x\nother: \"\u{e4}\" # \u{f6}\n",
            "s: 'it''s'\nt: \"a\\nb\"\nlong: 2026-11-28T10:00:00Z\nneg: -1\nfloat: 3.0\n",
        ] {
            assert!(agrees(text), "{text}");
        }
    }

    #[test]
    fn what_is_out_of_the_ordinary_is_left_to_the_other_one() {
        for text in [
            "a: &x 1\nb: *x\n",
            "<<: { a: 1 }\n",
            "a: !!str 1\n",
            "a: 1\na: 2\n",
            "a: 1\n---\nb: 2\n",
            "%YAML 1.2\n---\na: 1\n",
            "a: [1\n",
            "? [a]\n: b\n",
            "1: x\n",
            "null: x\n",
            "a: yes\n",
            "a: NaN\n",
            "a: =\n",
            "\u{feff}a: b\n\u{feff}c: d\n",
            &format!("a: {}1{}\n", "[".repeat(60), "]".repeat(60)),
        ] {
            assert!(!agrees(text), "{text}");
        }
        let many = (0..40).map(|at| format!("k{}: 1\n", at % 39)).collect::<Vec<_>>().concat();
        assert!(!agrees(&many));
    }

    #[test]
    fn the_examples_are_read_and_the_same() {
        let (mut all, mut count) = (0, 0);
        for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/examples")).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|end| end == "yaml") {
                all += 1;
                count += usize::from(agrees(&std::fs::read_to_string(path).unwrap()));
            }
        }
        assert!(all > 30 && count + 3 > all, "{count} of {all}");
    }

    proptest! {
        #[test]
        fn any_scalar_is_the_same(scalar in "[-+.0-9a-fA-FxXoe_:~nulTRUEyNifsk ]{1,12}") {
            agrees(&format!("a: {scalar}\n"));
            agrees(&format!("a: [{scalar}, {scalar}]\n"));
            agrees(&format!("{scalar}: 1\n"));
        }

        #[test]
        fn any_text_is_the_same(text in "[ab1:,\\[\\]{}'\"#&*!|>%?~\n\\- .<=]{0,40}") {
            agrees(&text);
        }
    }
}
