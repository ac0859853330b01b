//! Patterns of rules: PCRE's spelling brought into that of an engine whose time is linear in the length of what it reads, so that no request can
//! make a pattern run for ever.
//!
//! What needs backtracking (look-around, back-references) has no such form, and is refused.

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::{
    ParserBuilder,
    hir::{Class, ClassBytesRange, Hir, HirKind},
};

/// The automaton of one pattern may take up this much, in bytes.
const MAX_SIZE: usize = 32 << 20;

/// A pattern as ModSecurity reads it: of bytes; the dot takes every one, `$` the very end.
pub(super) fn compile(pattern: &str, any_case: bool) -> Result<Regex, String> {
    RegexBuilder::new(&translate(pattern)?)
        .unicode(false)
        .dot_matches_new_line(true)
        .case_insensitive(any_case)
        .size_limit(MAX_SIZE)
        .dfa_size_limit(MAX_SIZE)
        .build()
        .map_err(|error| format!("the pattern cannot be used: {}", last_line(&error.to_string())))
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// Where a translation is.
#[derive(Default)]
struct State {
    out: String,
    in_class: bool,
    /// In a class, what stood before can be no start of a range.
    after_set: bool,
    /// In a class, where its first member would be.
    class_start: usize,
}

/// Writes in Rust's spelling what PCRE reads: escapes of ordinary characters, and characters that mean something to one of the two alone.
fn translate(pattern: &str) -> Result<String, String> {
    let mut state = State::default();
    let mut rest = pattern;
    while let Some(letter) = rest.chars().next() {
        let after = rest.get(letter.len_utf8()..).unwrap_or_default();
        rest = match letter {
            '\\' => state.escape(after)?,
            _ if state.in_class => state.member(letter, rest, after),
            _ => state.outside(letter, rest, after)?,
        };
    }
    Ok(state.out)
}

impl State {
    fn outside<'a>(&mut self, letter: char, rest: &'a str, after: &'a str) -> Result<&'a str, String> {
        match letter {
            '[' => {
                self.in_class = true;
                self.after_set = true;
                self.out.push('[');
                let after = match after.strip_prefix('^') {
                    Some(after) => {
                        self.out.push('^');
                        after
                    }
                    None => after,
                };
                self.class_start = self.out.len();
                return Ok(after);
            }
            '(' if ["(?=", "(?!", "(?<=", "(?<!"].iter().any(|look| rest.starts_with(look)) => {
                return Err(
                    "the pattern looks around itself, which takes an engine that can be made to run for ever".into()
                );
            }
            // Without backtracking every group is one that is not entered twice.
            '(' if rest.starts_with("(?>") => {
                self.out.push_str("(?:");
                return Ok(rest.get(3..).unwrap_or_default());
            }
            '{' if !is_count(after) => self.out.push_str("\\{"),
            '}' if !self.in_count() => self.out.push_str("\\}"),
            other => self.out.push(other),
        }
        Ok(after)
    }

    /// Whether what was written last is the number of a repetition.
    fn in_count(&self) -> bool {
        let digits = self.out.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == ',');
        digits.len() < self.out.len() && digits.ends_with('{') && !digits.ends_with("\\{")
    }

    fn member<'a>(&mut self, letter: char, rest: &'a str, after: &'a str) -> &'a str {
        let was_set = std::mem::take(&mut self.after_set);
        match letter {
            ']' if self.out.len() > self.class_start => {
                self.in_class = false;
                self.out.push(']');
            }
            '[' if rest.starts_with("[:") => {
                let end = rest.find(":]").map_or(rest.len(), |end| end + 2);
                let (named, behind) = rest.split_at_checked(end).unwrap_or((rest, ""));
                self.out.push_str(named);
                self.after_set = true;
                return behind;
            }
            '-' if was_set || after.starts_with(']') || is_set(after) => self.out.push_str("\\-"),
            '-' => self.out.push('-'),
            other if other.is_ascii_punctuation() => self.literal(other),
            other if other.is_ascii() => self.out.push(other),
            // Each of its bytes is a member.
            other => {
                other.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| self.byte(byte));
            }
        }
        after
    }

    fn byte(&mut self, byte: u8) {
        self.out.extend(["\\x", &hex::encode([byte])]);
    }

    fn literal(&mut self, letter: char) {
        if letter.is_ascii() && !letter.is_ascii_alphanumeric() {
            self.out.extend(["\\x", &hex::encode(letter.encode_utf8(&mut [0; 4]))]);
        } else {
            self.out.push(letter);
        }
    }

    fn escape<'a>(&mut self, after: &'a str) -> Result<&'a str, String> {
        let Some(letter) = after.chars().next() else { return Err("the pattern ends in a backslash".into()) };
        let behind = after.get(letter.len_utf8()..).unwrap_or_default();
        self.after_set = false;
        match letter {
            'd' | 'D' | 's' | 'S' | 'w' | 'W' => {
                self.after_set = true;
                // The vertical tab is a space for PCRE, and not for Rust.
                match (letter, self.in_class) {
                    ('s', true) => self.out.push_str("\\s\\x0b"),
                    ('s', false) => self.out.push_str("[\\s\\x0b]"),
                    ('S', false) => self.out.push_str("[^\\s\\x0b]"),
                    _ => self.out.extend(['\\', letter]),
                }
            }
            'h' => self.out.push_str(if self.in_class { " \\t" } else { "[ \\t]" }),
            'R' => self.out.push_str("(?:\\r\\n|[\\n\\x0b\\f\\r])"),
            'e' => self.out.push_str("\\x1b"),
            'b' if self.in_class => self.out.push_str("\\x08"),
            'Z' => self.out.push_str("\\n?\\z"),
            'b' | 'B' | 'A' | 'z' | 'x' | 'n' | 'r' | 't' | 'f' | 'v' | 'a' | 'p' | 'P' => {
                self.out.extend(['\\', letter]);
                if letter == 'x' && !behind.starts_with(|next: char| next.is_ascii_hexdigit() || next == '{') {
                    self.out.push_str("00");
                }
            }
            '0' => {
                let digits = behind.bytes().take(2).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
                let (digits, behind) = behind.split_at_checked(digits).unwrap_or(("", behind));
                let code = u8::from_str_radix(digits, 8).unwrap_or(0);
                self.byte(code);
                return Ok(behind);
            }
            '1'..='9' => {
                return Err(
                    "the pattern refers back to a group, which takes an engine that can be made to run for ever".into(),
                );
            }
            other if other.is_ascii_alphabetic() => return Err(format!("`\\{other}` is unknown in a pattern")),
            other => self.literal(other),
        }
        Ok(behind)
    }
}

/// Whether this begins with an escape that stands for several characters.
fn is_set(text: &str) -> bool {
    ["\\d", "\\D", "\\s", "\\S", "\\w", "\\W", "[:"].iter().any(|set| text.starts_with(set))
}

/// Whether what stands behind `{` is a number of repetitions.
fn is_count(after: &str) -> bool {
    let Some((inside, _)) = after.split_once('}') else { return false };
    let (least, most) = inside.split_once(',').unwrap_or((inside, ""));
    !least.is_empty() && [least, most].iter().all(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// More texts than this are not worth looking for, and shorter ones are in everything.
const MAX_TEXTS: usize = 64;
const MIN_TEXT: usize = 3;

/// Texts of which one is in everything that the pattern takes, in lower case; none if there are no such.
pub(super) fn required(pattern: &str) -> Option<Vec<Vec<u8>>> {
    let hir = ParserBuilder::new()
        .unicode(false)
        .utf8(false)
        .dot_matches_new_line(true)
        .build()
        .parse(&translate(pattern).ok()?)
        .ok()?;
    needs(&hir).map(|needs| needs.texts)
}

/// Texts of which one has to be there.
struct Needs {
    texts: Vec<Vec<u8>>,
}

impl Needs {
    fn of(texts: Vec<Vec<u8>>) -> Option<Self> {
        let long = texts.iter().all(|text| text.len() >= MIN_TEXT || text.iter().any(|byte| is_rare(*byte)));
        (long && !texts.is_empty() && texts.len() <= MAX_TEXTS).then_some(Self { texts })
    }

    /// Longer ones are found in fewer places, and fewer of them too.
    fn worth(&self) -> (usize, std::cmp::Reverse<usize>) {
        let shortest = self.texts.iter().map(Vec::len).min().unwrap_or_default();
        (shortest, std::cmp::Reverse(self.texts.len()))
    }
}

/// What stands in few values of ordinary requests.
const fn is_rare(byte: u8) -> bool {
    matches!(byte, 0..=8 | 11..=31 | b'<' | b'>' | b'\\' | b'`' | b'{' | b'}' | b'$' | b'^' | b'|' | 0x7f..)
}

fn needs(hir: &Hir) -> Option<Needs> {
    // A part of few exact texts is better known whole than by its pieces.
    let whole = exact(hir).and_then(Needs::of);
    let parts = match hir.kind() {
        HirKind::Concat(parts) => {
            let runs = runs(parts).into_iter().filter_map(Needs::of);
            let inner = parts.iter().filter_map(needs);
            runs.chain(inner).max_by_key(Needs::worth)
        }
        HirKind::Alternation(choices) => {
            let each: Option<Vec<Needs>> = choices.iter().map(needs).collect();
            each.and_then(|each| Needs::of(each.into_iter().flat_map(|needs| needs.texts).collect()))
        }
        HirKind::Capture(capture) => needs(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => needs(&repetition.sub),
        HirKind::Repetition(_) | HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => None,
    };
    whole.into_iter().chain(parts).max_by_key(Needs::worth)
}

/// Neighbours with few exact texts, put together.
fn runs(parts: &[Hir]) -> Vec<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    let mut run: Vec<Vec<u8>> = vec![Vec::new()];
    for part in parts {
        let joined = exact(part).and_then(|texts| product(&run, &texts));
        match (joined, exact(part)) {
            (Some(joined), _) => run = joined,
            (None, Some(texts)) => all.push(std::mem::replace(&mut run, texts)),
            (None, None) => all.push(std::mem::replace(&mut run, vec![Vec::new()])),
        }
    }
    all.push(run);
    all
}

fn product(left: &[Vec<u8>], right: &[Vec<u8>]) -> Option<Vec<Vec<u8>>> {
    let fits = left.len() * right.len() <= MAX_TEXTS;
    fits.then(|| left.iter().flat_map(|one| right.iter().map(move |other| [&**one, &**other].concat())).collect())
}

/// All that this takes, in lower case, where that is little.
fn exact(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    let mut texts = match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => vec![Vec::new()],
        HirKind::Literal(literal) => vec![literal.0.to_ascii_lowercase()],
        HirKind::Class(class) => {
            let mut bytes: Vec<u8> = members(class)?.into_iter().map(|byte| byte.to_ascii_lowercase()).collect();
            bytes.sort_unstable();
            bytes.dedup();
            bytes.into_iter().map(|byte| vec![byte]).collect()
        }
        HirKind::Capture(capture) => exact(&capture.sub)?,
        HirKind::Concat(parts) => {
            let start = Some(vec![Vec::new()]);
            parts.iter().fold(start, |all, part| product(&all?, &exact(part)?))?
        }
        HirKind::Alternation(choices) => {
            let each: Option<Vec<_>> = choices.iter().map(exact).collect();
            each?.concat()
        }
        HirKind::Repetition(repetition) if repetition.max == Some(1) => {
            let mut once = exact(&repetition.sub)?;
            if repetition.min == 0 {
                once.push(Vec::new());
            }
            once
        }
        HirKind::Repetition(_) => return None,
    };
    texts.sort_unstable();
    texts.dedup();
    (texts.len() <= MAX_TEXTS).then_some(texts)
}

/// The members of a class of few bytes.
fn members(class: &Class) -> Option<Vec<u8>> {
    const MAX_MEMBERS: usize = 16;
    let bytes = match class {
        Class::Unicode(letters) => letters.to_byte_class()?,
        Class::Bytes(bytes) => bytes.clone(),
    };
    let count: usize = bytes.iter().map(ClassBytesRange::len).sum();
    (count <= MAX_MEMBERS).then(|| bytes.iter().flat_map(|range| range.start()..=range.end()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_pcre_mean_the_same_here() {
        for (pattern, takes, leaves) in [
            (r"\<a\>\/", &b"<a>/"[..], &b"a/"[..]),
            (r"[[\]&&~~-]", b"&", b"a"),
            (r"^[\w-.]+$", b"a-.", b"a!"),
            (r"[a-\d]", b"-", b"b"),
            (r"${x}", b"x", b""),
            (r"a{2,3}b{c}", b"aab{c}", b"abbc"),
            (r"[]a]+$", b"]a", b"b"),
            (r"[^]a]", b"b", b"]"),
            (r"(?>ab)+\e", b"abab\x1b", b"ab"),
            (r"\s[\s]", b"\x0b\x0b", b"ab"),
            (r"(?i:UNION)\_x", b"union_x", b"unionx"),
            (r"[[:space:]-]", b"-", b"a"),
            (r"\xc2\xa0", b"\xc2\xa0", b"\xa0"),
            (r"\%\@\:\;\!", b"%@:;!", b"%"),
            (r"\0\012", b"\0\n", b"0"),
            (r"a.b", b"a\nb", b"ab"),
        ] {
            let compiled = compile(pattern, false).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            if pattern != "${x}" {
                assert!(compiled.is_match(takes), "{pattern} takes {}", takes.escape_ascii());
            }
            assert!(!compiled.is_match(leaves), "{pattern} leaves {}", leaves.escape_ascii());
        }
    }

    #[test]
    fn what_could_run_for_ever_is_refused() {
        for pattern in ["(?=a)", "a(?!b)", "(?<=a)b", "(?<!a)b", r"(a)\1"] {
            assert!(compile(pattern, false).unwrap_err().contains("for ever"), "{pattern}");
        }
    }

    #[test]
    fn a_pattern_needs_one_of_its_texts() {
        let texts = |pattern: &str| {
            let texts = required(pattern)?;
            Some(texts.into_iter().map(|text| String::from_utf8(text).unwrap()).collect::<Vec<_>>())
        };
        let is = |pattern: &str, wanted: &[&str]| {
            assert_eq!(texts(pattern).unwrap(), wanted, "{pattern}");
        };
        is(r"(?i)\bunion\b.{1,100}?\bselect\b", &["select"]);
        is(r"(?:sleep|benchmark)\s*\(", &["sleep", "benchmark"]);
        is(r"<script[^>]*>", &["<script"]);
        is(r"x(?:abc|abd)?y(?i:EVAL)", &["xyeval", "xabcyeval", "xabdyeval"]);
        assert_eq!(texts(r"\d+|abc"), None);
        assert_eq!(texts(r"['\x22]?"), None);
    }
}
