//! What a rule asks of a value: `@rx`, `@pm`, `@detectSQLi` and the like.

use std::net::IpAddr;

use aho_corasick::AhoCorasick;
use parking_lot::RwLock;
use regex::bytes::Regex;

use super::{
    pattern,
    source::{self, Spot},
    template::Template,
};
use crate::networks::{Network, Networks};

/// A question about a value.
#[derive(Debug)]
pub(super) enum Operator {
    Regex(Regex),
    /// A pattern that is put together while rules run, with the last one there was: mostly it is always the same.
    Made(Template, RwLock<Option<(Vec<u8>, Regex)>>),
    /// One of these texts, in any case.
    Phrases(AhoCorasick),
    /// The value is found in this text.
    Within(Template),
    Contains(Template),
    ContainsWord(Template),
    BeginsWith(Template),
    EndsWith(Template),
    Equals(Template),
    /// A comparison of numbers; what is none counts as 0.
    Compare(Comparison, Template),
    Addresses(Networks),
    /// The value has a byte that is not among these.
    BytesBeyond(Box<[bool; 256]>),
    BadUrlEncoding,
    BadUtf8,
    SqlInjection,
    CrossSiteScripting,
    Always,
    Never,
}

/// How numbers are compared.
#[derive(Clone, Copy, Debug)]
pub(super) enum Comparison {
    Equal,
    AtLeast,
    More,
    AtMost,
    Less,
}

/// What an operator found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The whole, and what stands in the groups of a pattern.
    pub(super) groups: Vec<Vec<u8>>,
}

/// An operator that rules here do not have.
#[derive(Debug)]
pub(super) enum Unfit {
    /// It asks for what a gateway does not do: the rule can be left out.
    Unsupported(String),
    /// It is wrong.
    Wrong(String),
}

impl Operator {
    /// Reads `@rx ^a` or `!@eq 0`; without a name it is a pattern. Returns whether the answer is turned round.
    pub(super) fn parse(text: &str, place: &Spot) -> Result<(bool, Self), Unfit> {
        let (inverted, text) = text.strip_prefix('!').map_or((false, text), |text| (true, text));
        let Some(named) = text.trim_start().strip_prefix('@') else {
            return Ok((inverted, Self::regex(text)?));
        };
        let (name, argument) = named.split_once(char::is_whitespace).unwrap_or((named, ""));
        let template = || Template::parse(argument.trim());
        let compare = |comparison| Self::Compare(comparison, template());
        let operator = match name.to_ascii_lowercase().as_str() {
            "rx" => Self::regex(argument)?,
            "pm" => Self::phrases(argument.split_ascii_whitespace().map(str::to_owned).collect())?,
            "pmf" | "pmfromfile" => Self::phrases(words_of(argument, place)?)?,
            "within" => Self::Within(template()),
            "contains" | "strmatch" => Self::Contains(template()),
            "containsword" => Self::ContainsWord(template()),
            "beginswith" => Self::BeginsWith(template()),
            "endswith" => Self::EndsWith(template()),
            "streq" => Self::Equals(template()),
            "eq" => compare(Comparison::Equal),
            "ge" => compare(Comparison::AtLeast),
            "gt" => compare(Comparison::More),
            "le" => compare(Comparison::AtMost),
            "lt" => compare(Comparison::Less),
            "ipmatch" => Self::addresses(&argument.split(',').map(str::to_owned).collect::<Vec<_>>())?,
            "ipmatchf" | "ipmatchfromfile" => Self::addresses(&words_of(argument, place)?)?,
            "validatebyterange" => Self::BytesBeyond(byte_ranges(argument)?),
            "validateurlencoding" => Self::BadUrlEncoding,
            "validateutf8encoding" => Self::BadUtf8,
            "detectsqli" => Self::SqlInjection,
            "detectxss" => Self::CrossSiteScripting,
            "unconditionalmatch" => Self::Always,
            "nomatch" => Self::Never,
            _ => return Err(Unfit::Unsupported(format!("there is no operator `@{name}` here"))),
        };
        Ok((inverted, operator))
    }

    fn regex(text: &str) -> Result<Self, Unfit> {
        if text.contains("%{") {
            return Ok(Self::Made(Template::parse(text), RwLock::default()));
        }
        pattern::compile(text, false).map(Self::Regex).map_err(Unfit::Unsupported)
    }

    fn phrases(words: Vec<String>) -> Result<Self, Unfit> {
        if words.is_empty() {
            return Err(Unfit::Wrong("there is nothing to look for".into()));
        }
        let automaton = AhoCorasick::builder().ascii_case_insensitive(true).build(words);
        automaton.map(Self::Phrases).map_err(|error| Unfit::Wrong(error.to_string()))
    }

    fn addresses(words: &[String]) -> Result<Self, Unfit> {
        let read = |word: &String| {
            let word = word.trim();
            word.parse::<Network>().map_err(|_error| Unfit::Wrong(format!("`{word}` is no address or network")))
        };
        Ok(Self::Addresses(Networks::new(&words.iter().map(read).collect::<Result<Vec<_>, _>>()?)))
    }

    /// The pattern, if it is one.
    pub(super) fn as_regex(&self) -> Option<&Regex> {
        if let Self::Regex(regex) = self { Some(regex) } else { None }
    }

    /// Whether a number is the one that is asked for; nothing if it is not about numbers.
    pub(super) fn compares(&self, one: i64, expand: &dyn Fn(&Template) -> Vec<u8>) -> Option<bool> {
        let Self::Compare(comparison, text) = self else { return None };
        Some(comparison.holds(one, text.as_number().unwrap_or_else(|| number(&expand(text)))))
    }

    /// Whether it holds for a value. `expand` gives the text that a template stands for.
    pub(super) fn holds(&self, value: &[u8], groups: bool, expand: &dyn Fn(&Template) -> Vec<u8>) -> Option<Found> {
        let holds = match self {
            // To find out where the groups are takes longer than that there are none.
            Self::Regex(regex) if groups && regex.is_match(value) => {
                let found = regex.captures(value)?;
                let group = |group: Option<regex::bytes::Match<'_>>| group.map(|group| group.as_bytes().to_vec());
                return Some(Found {
                    groups: found.iter().take(10).map(|one| group(one).unwrap_or_default()).collect(),
                });
            }
            Self::Regex(regex) => regex.is_match(value),
            Self::Made(template, last) => made(&expand(template), last)?.is_match(value),
            Self::Phrases(words) => {
                let found = words.find(value)?;
                let text = value.get(found.range()).unwrap_or_default().to_vec();
                return Some(Found { groups: vec![text] });
            }
            Self::Within(text) => contains(&expand(text), value),
            Self::Contains(text) => contains(value, &expand(text)),
            Self::ContainsWord(text) => contains_word(value, &expand(text)),
            Self::BeginsWith(text) => value.starts_with(&expand(text)),
            Self::EndsWith(text) => value.ends_with(&expand(text)),
            Self::Equals(text) => value == expand(text),
            Self::Compare(..) => self.compares(number(value), expand)?,
            Self::Addresses(networks) => address(value).is_some_and(|address| networks.contains(address)),
            Self::BytesBeyond(allowed) => {
                value.iter().any(|byte| !allowed.get(usize::from(*byte)).copied().unwrap_or_default())
            }
            Self::BadUrlEncoding => bad_url_encoding(value),
            Self::BadUtf8 => std::str::from_utf8(value).is_err(),
            Self::SqlInjection => libinjectionrs::detect_sqli(value).is_injection(),
            Self::CrossSiteScripting => libinjectionrs::detect_xss(value).is_injection(),
            Self::Always => true,
            Self::Never => false,
        };
        holds.then(Found::default)
    }
}

impl Comparison {
    const fn holds(self, one: i64, other: i64) -> bool {
        match self {
            Self::Equal => one == other,
            Self::AtLeast => one >= other,
            Self::More => one > other,
            Self::AtMost => one <= other,
            Self::Less => one < other,
        }
    }
}

/// The number at the start of a text, as C reads it; 0 if there is none.
pub(super) fn number(text: &[u8]) -> i64 {
    let text = text.trim_ascii_start();
    let (sign, digits) = match text.split_first() {
        Some((b'-', digits)) => (-1, digits),
        Some((b'+', digits)) => (1, digits),
        _ => (1, text),
    };
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let size = digits.fold(0i64, |sum, byte| sum.saturating_mul(10).saturating_add(i64::from(byte - b'0')));
    sign * size
}

/// The pattern that this text is; none if it is not one.
fn made(text: &[u8], last: &RwLock<Option<(Vec<u8>, Regex)>>) -> Option<Regex> {
    let known = last.read().as_ref().filter(|(known, _)| known == text).map(|(_, pattern)| pattern.clone());
    known.or_else(|| {
        let pattern = pattern::compile(std::str::from_utf8(text).ok()?, false).ok()?;
        *last.write() = Some((text.to_vec(), pattern.clone()));
        Some(pattern)
    })
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || memchr::memmem::find(text, part).is_some()
}

fn contains_word(text: &[u8], word: &[u8]) -> bool {
    let is_letter = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    word.is_empty()
        || memchr::memmem::find_iter(text, word).any(|at| {
            let before = at.checked_sub(1).and_then(|before| text.get(before));
            !is_letter(before) && !is_letter(text.get(at + word.len()))
        })
}

fn address(value: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

/// A `%` that no two hexadecimal digits follow.
fn bad_url_encoding(value: &[u8]) -> bool {
    memchr::memchr_iter(b'%', value)
        .any(|at| !value.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)))
}

/// `1-255,9,10`
fn byte_ranges(text: &str) -> Result<Box<[bool; 256]>, Unfit> {
    let mut allowed = Box::new([false; 256]);
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let wrong = || Unfit::Wrong(format!("`{part}` is no byte or range of bytes"));
        let read = |text: &str| text.trim().parse::<u8>().map_err(|_error| wrong());
        let range = usize::from(read(first)?)..=usize::from(read(last)?);
        allowed.get_mut(range).ok_or_else(wrong)?.fill(true);
    }
    Ok(allowed)
}

/// The lines of a file of words; `#` begins a comment.
fn words_of(names: &str, place: &Spot) -> Result<Vec<String>, Unfit> {
    let mut words = Vec::new();
    for name in names.split_ascii_whitespace() {
        let text = source::read(&place.beside(name)).map_err(Unfit::Wrong)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        words.extend(lines.map(str::to_owned));
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn spot() -> Spot {
        let mut found = Vec::new();
        source::lines("SecMarker a", &Arc::from("a.conf"), &mut found).unwrap();
        found.remove(0).place
    }

    fn holds(operator: &str, value: &[u8]) -> bool {
        let (inverted, operator) = Operator::parse(operator, &spot()).unwrap();
        operator.holds(value, false, &|template| template.plain().unwrap().to_vec()).is_some() != inverted
    }

    #[test]
    fn operators_ask_what_they_say() {
        for (operator, yes, no) in [
            ("@rx ^a+$", &b"aa"[..], &b"ab"[..]),
            ("^a+$", b"aa", b"ab"),
            ("!@rx a", b"b", b"a"),
            ("@pm sleep Benchmark", b"x BENCHMARK", b"x"),
            ("@within GET POST", b"POST", b"PUT"),
            ("@contains ab", b"xabx", b"axb"),
            ("@containsWord ab", b"x ab.", b"xabx"),
            ("@beginsWith ab", b"abc", b"cab"),
            ("@endsWith ab", b"cab", b"abc"),
            ("@streq ab", b"ab", b"abc"),
            ("@eq 3", b"3 of them", b"4"),
            ("@ge 3", b"3", b"2"),
            ("@lt 3", b"none", b"3"),
            ("!@gt 3", b"-4", b"4"),
            ("@ipMatch 10.0.0.0/8,::1", b"10.1.1.1", b"11.1.1.1"),
            ("@validateByteRange 32-126,9", b"a\x80", b"a\tb"),
            ("@validateUrlEncoding", b"%zz", b"%41"),
            ("@validateUtf8Encoding", b"\xff", b"\xc3\xa9"),
            ("@detectSQLi", b"1' OR '1'='1", b"O'Brien"),
            ("@detectXSS", b"<script>alert(1)</script>", b"a < b"),
            ("@unconditionalMatch", b"", b""),
        ] {
            assert!(holds(operator, yes), "{operator} holds for {}", yes.escape_ascii());
            assert_eq!(holds(operator, no), operator == "@unconditionalMatch", "{operator}: {}", no.escape_ascii());
        }
        assert!(matches!(Operator::parse("@geoLookup", &spot()), Err(Unfit::Unsupported(_))));
        assert!(matches!(Operator::parse("@validateByteRange 300", &spot()), Err(Unfit::Wrong(_))));
        assert!(matches!(Operator::parse("@validateByteRange 30-3", &spot()), Err(Unfit::Wrong(_))));
    }
}
