//! Decoders of the encodings in which attacks travel: those of URLs, HTML, JavaScript, CSS, C and SQL.

use std::borrow::Cow;

/// `%41` and `+`; with `unicode` also `%u0041`, where full-width letters count as the narrow ones. What is no encoding stays.
pub(super) fn url(value: &[u8], unicode: bool) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'%', b'+', value).is_none() {
        return Cow::Borrowed(value);
    }
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'+' => out.push(b' '),
            b'%' => {
                let wide = after.strip_prefix(b"u").or_else(|| after.strip_prefix(b"U")).filter(|_| unicode);
                if let Some((code, behind)) = wide.and_then(|digits| hex(digits, 4, 4)) {
                    out.push(narrow(code));
                    rest = behind;
                } else if let Some((code, behind)) = hex(after, 2, 2) {
                    out.push(low(code));
                    rest = behind;
                } else {
                    out.push(b'%');
                }
            }
            other => out.push(*other),
        }
    }
    Cow::Owned(out)
}

/// Between `min` and `max` hexadecimal digits, and what follows them.
fn hex(text: &[u8], min: usize, max: usize) -> Option<(u32, &[u8])> {
    number(text, 16, min, max)
}

fn number(text: &[u8], radix: u32, min: usize, max: usize) -> Option<(u32, &[u8])> {
    let digits = text.iter().take(max).take_while(|byte| char::from(**byte).is_digit(radix)).count();
    let (number, rest) = text.split_at_checked(digits).filter(|_| digits >= min)?;
    let digit = |sum: u32, byte: &u8| {
        sum.saturating_mul(radix).saturating_add(char::from(*byte).to_digit(radix).unwrap_or_default())
    };
    Some((number.iter().fold(0, digit), rest))
}

/// The last eight bits.
fn low(code: u32) -> u8 {
    u8::try_from(code & 0xff).unwrap_or_default()
}

/// One byte for a code point: full-width forms (U+FF01 to U+FF5E) are the narrow ones; of others, the last byte counts.
fn narrow(code: u32) -> u8 {
    match code {
        0xff01..=0xff5e => low(code - 0xfee0),
        other => low(other),
    }
}

/// `&lt;`, `&#60;`, `&#x3c;`, the semicolon may be missing. Others than the five names stay: rules look for `&newline;` as it is.
pub(super) fn html(value: &[u8]) -> Vec<u8> {
    const NAMED: &[(&[u8], u8)] = &[(b"quot", b'"'), (b"amp", b'&'), (b"lt", b'<'), (b"gt", b'>'), (b"nbsp", 0xa0)];
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let found = (*first == b'&').then(|| {
            if let Some(digits) = after.strip_prefix(b"#") {
                let x = digits.strip_prefix(b"x").or_else(|| digits.strip_prefix(b"X"));
                return match x {
                    Some(digits) => hex(digits, 1, 8),
                    None => number(digits, 10, 1, 10),
                }
                .map(|(code, behind)| (narrow(code), behind));
            }
            let letters = after.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
            let (name, behind) = after.split_at_checked(letters)?;
            let known = NAMED.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
            Some((known.1, behind))
        });
        match found.flatten() {
            Some((byte, behind)) => {
                out.push(byte);
                rest = behind.strip_prefix(b";").unwrap_or(behind);
            }
            None => out.push(*first),
        }
    }
    out
}

/// What a backslash and the letter behind it stand for in C.
const fn c_escape(letter: u8) -> Option<u8> {
    match letter {
        b'a' => Some(0x07),
        b'b' => Some(0x08),
        b'f' => Some(0x0c),
        b'n' => Some(b'\n'),
        b'r' => Some(b'\r'),
        b't' => Some(b'\t'),
        b'v' => Some(0x0b),
        _ => None,
    }
}

/// The escapes of JavaScript; of one that is none, the backslash goes.
pub(super) fn js(value: &[u8]) -> Vec<u8> {
    unescape(value, |after| {
        let (letter, behind) = after.split_first()?;
        match letter {
            b'x' => hex(behind, 2, 2),
            b'u' => match behind.strip_prefix(b"{") {
                Some(digits) => hex(digits, 1, 6).and_then(|(code, rest)| Some((code, rest.strip_prefix(b"}")?))),
                None => hex(behind, 4, 4),
            },
            b'0'..=b'7' => number(after, 8, 1, if *letter <= b'3' { 3 } else { 2 }),
            other => Some((u32::from(c_escape(*other).unwrap_or(*other)), behind)),
        }
        // Of `\xzz`, too.
        .or_else(|| Some((u32::from(*letter), behind)))
    })
}

/// The escapes of CSS: up to six digits and one space behind them; a line that goes on; any other character is itself.
pub(super) fn css(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            out.push(*first);
        } else if let Some((code, behind)) = hex(after, 1, 6) {
            out.push(narrow(code));
            rest = match behind.split_first() {
                Some((space, behind)) if space.is_ascii_whitespace() => behind,
                Some(_) | None => behind,
            };
        } else if let Some(behind) = after.strip_prefix(b"\n") {
            rest = behind;
        } else if let Some((itself, behind)) = after.split_first() {
            out.push(*itself);
            rest = behind;
        }
    }
    out
}

/// The escapes of C; what is none stays with its backslash.
pub(super) fn escapes(value: &[u8]) -> Vec<u8> {
    unescape(value, |after| {
        let (letter, behind) = after.split_first()?;
        match letter {
            b'x' | b'X' => hex(behind, 2, 2),
            b'0'..=b'7' => number(after, 8, 1, 3),
            b'\\' | b'?' | b'\'' | b'"' => Some((u32::from(*letter), behind)),
            other => c_escape(*other).map(|byte| (u32::from(byte), behind)),
        }
    })
}

fn unescape(value: &[u8], read: impl Fn(&[u8]) -> Option<(u32, &[u8])>) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match (*first == b'\\').then(|| read(after)).flatten() {
            Some((code, behind)) => {
                out.push(narrow(code));
                rest = behind;
            }
            None => out.push(*first),
        }
    }
    out
}

/// `0x414243` is `ABC`.
pub(super) fn sql_hex(value: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memmem::find(value, b"0x").is_none() && memchr::memmem::find(value, b"0X").is_none() {
        return Cow::Borrowed(value);
    }
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        let digits = rest.strip_prefix(b"0x").or_else(|| rest.strip_prefix(b"0X"));
        let mut digits = digits.filter(|digits| hex(digits, 2, 2).is_some());
        rest = after;
        if digits.is_none() {
            out.push(*first);
        }
        while let Some((code, behind)) = digits.and_then(|digits| hex(digits, 2, 2)) {
            out.push(low(code));
            rest = behind;
            digits = Some(behind);
        }
    }
    Cow::Owned(out)
}

/// Characters beyond ASCII as `%uxxxx`, so that `urlDecodeUni` finds what they look like. What is no UTF-8 stays.
pub(super) fn utf8_to_unicode(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    for chunk in value.utf8_chunks() {
        for letter in chunk.valid().chars() {
            if letter.is_ascii() {
                out.push(low(u32::from(letter)));
            } else {
                out.extend_from_slice(format!("%u{:04x}", u32::from(letter)).as_bytes());
            }
        }
        out.extend_from_slice(chunk.invalid());
    }
    out
}
