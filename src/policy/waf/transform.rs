//! What is done to a value before it is looked at (`t:` in rules): so that an attack cannot hide behind an encoding.
//!
//! The names and what they do are those of ModSecurity's reference manual. What a transformation cannot read stays as it is: an attack that
//! breaks the decoder is still looked at.

use std::borrow::Cow;

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::decode;

/// One transformation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Transform {
    Lowercase,
    Uppercase,
    UrlDecode,
    UrlDecodeUni,
    UrlEncode,
    HtmlEntityDecode,
    JsDecode,
    CssDecode,
    EscapeSeqDecode,
    SqlHexDecode,
    Utf8ToUnicode,
    RemoveNulls,
    ReplaceNulls,
    RemoveWhitespace,
    CompressWhitespace,
    TrimLeft,
    TrimRight,
    Trim,
    RemoveComments,
    ReplaceComments,
    RemoveCommentsChar,
    NormalisePath,
    NormalisePathWin,
    CmdLine,
    HexDecode,
    HexEncode,
    Base64Decode,
    Base64Encode,
    Length,
    Sha1,
}

const NAMES: &[(&str, Transform)] = &[
    ("lowercase", Transform::Lowercase),
    ("uppercase", Transform::Uppercase),
    ("urldecode", Transform::UrlDecode),
    ("urldecodeuni", Transform::UrlDecodeUni),
    ("urlencode", Transform::UrlEncode),
    ("htmlentitydecode", Transform::HtmlEntityDecode),
    ("jsdecode", Transform::JsDecode),
    ("cssdecode", Transform::CssDecode),
    ("escapeseqdecode", Transform::EscapeSeqDecode),
    ("sqlhexdecode", Transform::SqlHexDecode),
    ("utf8tounicode", Transform::Utf8ToUnicode),
    ("removenulls", Transform::RemoveNulls),
    ("replacenulls", Transform::ReplaceNulls),
    ("removewhitespace", Transform::RemoveWhitespace),
    ("compresswhitespace", Transform::CompressWhitespace),
    ("trimleft", Transform::TrimLeft),
    ("trimright", Transform::TrimRight),
    ("trim", Transform::Trim),
    ("removecomments", Transform::RemoveComments),
    ("replacecomments", Transform::ReplaceComments),
    ("removecommentschar", Transform::RemoveCommentsChar),
    ("normalisepath", Transform::NormalisePath),
    ("normalizepath", Transform::NormalisePath),
    ("normalisepathwin", Transform::NormalisePathWin),
    ("normalizepathwin", Transform::NormalisePathWin),
    ("cmdline", Transform::CmdLine),
    ("hexdecode", Transform::HexDecode),
    ("hexencode", Transform::HexEncode),
    ("base64decode", Transform::Base64Decode),
    ("base64decodeext", Transform::Base64Decode),
    ("base64encode", Transform::Base64Encode),
    ("length", Transform::Length),
    ("sha1", Transform::Sha1),
];

/// Reads what pads or not, and what has bits left over.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

impl Transform {
    /// The transformation of this name, in any case.
    pub(super) fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, transform)| *transform)
    }

    /// What becomes of a value; the same if there was nothing to do.
    pub(super) fn apply(self, value: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Self::Lowercase => when(value, value.iter().any(u8::is_ascii_uppercase), <[u8]>::to_ascii_lowercase),
            Self::Uppercase => when(value, value.iter().any(u8::is_ascii_lowercase), <[u8]>::to_ascii_uppercase),
            Self::UrlDecode => decode::url(value, false),
            Self::UrlDecodeUni => decode::url(value, true),
            Self::UrlEncode => Cow::Owned(url_encode(value)),
            Self::HtmlEntityDecode => when(value, value.contains(&b'&'), decode::html),
            Self::JsDecode => when(value, value.contains(&b'\\'), decode::js),
            Self::CssDecode => when(value, value.contains(&b'\\'), decode::css),
            Self::EscapeSeqDecode => when(value, value.contains(&b'\\'), decode::escapes),
            Self::SqlHexDecode => decode::sql_hex(value),
            Self::Utf8ToUnicode => when(value, !value.is_ascii(), decode::utf8_to_unicode),
            Self::RemoveNulls => without(value, |byte| byte == 0),
            Self::ReplaceNulls => when(value, value.contains(&0), |value| replaced(value, 0, b' ')),
            Self::RemoveWhitespace => without_spaces(value),
            Self::CompressWhitespace => compress_whitespace(value),
            Self::TrimLeft => Cow::Borrowed(trim(value, true, false)),
            Self::TrimRight => Cow::Borrowed(trim(value, false, true)),
            Self::Trim => Cow::Borrowed(trim(value, true, true)),
            Self::RemoveComments => comments(value, None),
            Self::ReplaceComments => comments(value, Some(b' ')),
            Self::RemoveCommentsChar => comment_marks(value),
            Self::NormalisePath => normalise_path(value),
            Self::NormalisePathWin => match memchr::memchr(b'\\', value) {
                Some(_) => Cow::Owned(normalise_path(&replaced(value, b'\\', b'/')).into_owned()),
                None => normalise_path(value),
            },
            Self::CmdLine => cmd_line(value),
            Self::HexDecode => hex::decode(value).map_or(Cow::Borrowed(value), Cow::Owned),
            Self::HexEncode => Cow::Owned(hex::encode(value).into_bytes()),
            Self::Base64Decode => base64_decode(value),
            Self::Base64Encode => Cow::Owned(LENIENT.encode(value).into_bytes()),
            Self::Length => Cow::Owned(value.len().to_string().into_bytes()),
            Self::Sha1 => Cow::Owned(
                aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, value).as_ref().to_vec(),
            ),
        }
    }
}

/// Does something only where there is something to do.
fn when(value: &[u8], needed: bool, make: impl FnOnce(&[u8]) -> Vec<u8>) -> Cow<'_, [u8]> {
    if needed { Cow::Owned(make(value)) } else { Cow::Borrowed(value) }
}

fn replaced(value: &[u8], from: u8, to: u8) -> Vec<u8> {
    value.iter().map(|byte| if *byte == from { to } else { *byte }).collect()
}

fn without(value: &[u8], unwanted: impl Fn(u8) -> bool) -> Cow<'_, [u8]> {
    when(value, value.iter().any(|byte| unwanted(*byte)), |value| {
        value.iter().copied().filter(|byte| !unwanted(*byte)).collect()
    })
}

/// Space, and the vertical tab, which Rust does not take for one.
const fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

/// No-break spaces of UTF-8 are spaces as well.
fn without_spaces(value: &[u8]) -> Cow<'_, [u8]> {
    when(value, value.iter().any(|byte| is_space(*byte) || *byte == 0xa0), |value| {
        let mut out = Vec::with_capacity(value.len());
        let mut rest = value;
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            if let (0xc2, Some((0xa0, behind))) = (*first, after.split_first()) {
                rest = behind;
            } else if !is_space(*first) && *first != 0xa0 {
                out.push(*first);
            }
        }
        out
    })
}

fn compress_whitespace(value: &[u8]) -> Cow<'_, [u8]> {
    let odd = value.iter().any(|byte| *byte != b' ' && (is_space(*byte) || *byte == 0xa0));
    let double = value.windows(2).any(|pair| pair == b"  ");
    when(value, odd || double, |value| {
        let mut out: Vec<u8> = Vec::with_capacity(value.len());
        let mut after_space = false;
        for byte in value {
            let space = is_space(*byte) || *byte == 0xa0;
            if !space {
                out.push(*byte);
            } else if !after_space {
                out.push(b' ');
            }
            after_space = space;
        }
        out
    })
}

fn trim(value: &[u8], left: bool, right: bool) -> &[u8] {
    let is_text = |byte: &u8| !is_space(*byte);
    let start = if left { value.iter().position(is_text).unwrap_or(value.len()) } else { 0 };
    let end = if right { value.iter().rposition(is_text).map_or(start, |last| last + 1) } else { value.len() };
    value.get(start..end).unwrap_or_default()
}

/// Takes `/* ... */` away, or puts one byte in its place; what is never closed goes up to the end.
fn comments(value: &[u8], instead: Option<u8>) -> Cow<'_, [u8]> {
    let Some(first) = memchr::memmem::find(value, b"/*") else { return Cow::Borrowed(value) };
    let mut out = Vec::with_capacity(value.len());
    let (mut kept, mut rest) = value.split_at_checked(first).unwrap_or((value, b""));
    loop {
        out.extend_from_slice(kept);
        if rest.is_empty() {
            return Cow::Owned(out);
        }
        out.extend(instead);
        let inside = rest.get(2..).unwrap_or_default();
        let after = memchr::memmem::find(inside, b"*/").and_then(|end| inside.get(end + 2..)).unwrap_or_default();
        let next = memchr::memmem::find(after, b"/*").unwrap_or(after.len());
        (kept, rest) = after.split_at_checked(next).unwrap_or((after, b""));
    }
}

/// Takes the marks of comments away: `/*`, `*/`, `--`, `#`.
fn comment_marks(value: &[u8]) -> Cow<'_, [u8]> {
    let has = |mark: &[u8]| memchr::memmem::find(value, mark).is_some();
    when(value, has(b"/*") || has(b"*/") || has(b"--") || has(b"#"), |value| {
        let mut out = Vec::with_capacity(value.len());
        let mut rest = value;
        while let Some((first, after)) = rest.split_first() {
            let mark = [&b"/*"[..], b"*/", b"--", b"#"].into_iter().find(|mark| rest.starts_with(mark));
            rest = mark.and_then(|mark| rest.strip_prefix(mark)).unwrap_or(after);
            if mark.is_none() {
                out.push(*first);
            }
        }
        out
    })
}

/// Takes `//`, `/./` and `/../` away; a path that goes above its root stays there.
fn normalise_path(value: &[u8]) -> Cow<'_, [u8]> {
    let plain = memchr::memmem::find(value, b"//").is_none() && memchr::memmem::find(value, b"./").is_none();
    if plain && !value.ends_with(b"/.") && !value.ends_with(b"/..") && value != b"." && value != b".." {
        return Cow::Borrowed(value);
    }
    let rooted = value.starts_with(b"/");
    let mut kept: Vec<&[u8]> = Vec::new();
    for segment in value.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => match kept.last() {
                Some(last) if *last != b".." => drop(kept.pop()),
                // Above the start of a relative path there may be something; above the root there is nothing.
                _ if !rooted => kept.push(segment),
                _ => {}
            },
            other => kept.push(other),
        }
    }
    let mut out = Vec::with_capacity(value.len());
    if rooted {
        out.push(b'/');
    }
    out.extend_from_slice(&kept.join(&b'/'));
    let folder = value.ends_with(b"/") || value.ends_with(b"/.") || value.ends_with(b"/..");
    if folder && !out.is_empty() && !out.ends_with(b"/") {
        out.push(b'/');
    }
    Cow::Owned(out)
}

/// What shells overlook: quotes, backslashes, carets; `,`, `;` and white space count as one space, and none stands before `/` or `(`.
fn cmd_line(value: &[u8]) -> Cow<'_, [u8]> {
    let needed = |byte: &u8| {
        matches!(byte, b'"' | b'\'' | b'\\' | b'^' | b',' | b';') || is_space(*byte) || byte.is_ascii_uppercase()
    };
    when(value, value.iter().any(needed), |value| {
        let mut out: Vec<u8> = Vec::with_capacity(value.len());
        for byte in value {
            match byte {
                b'"' | b'\'' | b'\\' | b'^' => {}
                b',' | b';' => space(&mut out),
                byte if is_space(*byte) => space(&mut out),
                b'/' | b'(' => {
                    if out.last() == Some(&b' ') {
                        out.pop();
                    }
                    out.push(*byte);
                }
                other => out.push(other.to_ascii_lowercase()),
            }
        }
        out
    })
}

fn space(out: &mut Vec<u8>) {
    if out.last() != Some(&b' ') {
        out.push(b' ');
    }
}

/// Up to the first byte that is none of base64, as lenient decoders do.
fn base64_decode(value: &[u8]) -> Cow<'_, [u8]> {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let end = value.iter().position(|byte| !is_digit(byte)).unwrap_or(value.len());
    let digits = value.get(..end - usize::from(end % 4 == 1)).unwrap_or_default();
    LENIENT.decode(digits).map_or(Cow::Borrowed(value), Cow::Owned)
}

fn url_encode(value: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut out = Vec::with_capacity(value.len() * 2);
    for byte in value {
        match byte {
            b' ' => out.push(b'+'),
            b'*' | b'-' | b'.' | b'_' => out.push(*byte),
            byte if byte.is_ascii_alphanumeric() => out.push(*byte),
            byte => {
                out.push(b'%');
                let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
                out.extend([digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn becomes(name: &str, from: &[u8], to: &[u8]) {
        let out = Transform::named(name).unwrap().apply(from);
        assert_eq!(out.escape_ascii().to_string(), to.escape_ascii().to_string(), "{name} of {}", from.escape_ascii());
    }

    #[test]
    fn encodings_hide_nothing() {
        for (name, from, to) in [
            ("urlDecode", &b"a%20b+c%zz%4"[..], &b"a b c%zz%4"[..]),
            ("urlDecodeUni", b"%u0041%uff1c%3c%u", b"A<<%u"),
            ("htmlEntityDecode", b"&lt;&#60;&#x3c;&LT;&amp;&nope;&#60script", b"<<<<&&nope;<script"),
            ("jsDecode", b"\\x3c\\u003c\\74\\n\\q\\uff1c", b"<<<\nq<"),
            ("cssDecode", b"\\3c script\\65 xp\\\nr", b"<scriptexpr"),
            ("escapeSeqDecode", b"\\x41\\101\\n\\z", b"AA\n\\z"),
            ("sqlHexDecode", b"x 0x414243 0xz", b"x ABC 0xz"),
            ("utf8toUnicode", "a\u{ff1c}\u{e9}".as_bytes(), b"a%uff1c%u00e9"),
            ("hexDecode", b"414243", b"ABC"),
            ("base64Decode", b"PHNjcmlwdD4=", b"<script>"),
            ("base64Decode", b"YWI", b"ab"),
            ("hexEncode", b"AB", b"4142"),
            ("length", b"12345", b"5"),
            ("urlEncode", b"a b/<", b"a+b%2f%3c"),
        ] {
            becomes(name, from, to);
        }
    }

    #[test]
    fn spaces_comments_and_paths_become_one_form() {
        for (name, from, to) in [
            ("removeNulls", &b"a\0b"[..], &b"ab"[..]),
            ("replaceNulls", b"a\0b", b"a b"),
            ("removeWhitespace", b" a\x0b\tb\xc2\xa0c", b"abc"),
            ("compressWhitespace", b"a \t\n b", b"a b"),
            ("trim", b"  a b ", b"a b"),
            ("replaceComments", b"a/*b*/c/*d", b"a c "),
            ("removeComments", b"un/**/ion", b"union"),
            ("removeCommentsChar", b"a/*b--c#d", b"abcd"),
            ("normalisePath", b"/a/./b/../c//d", b"/a/c/d"),
            ("normalisePath", b"../../etc", b"../../etc"),
            ("normalisePath", b"/../etc/", b"/etc/"),
            ("normalizePathWin", b"a\\..\\b", b"b"),
            ("cmdLine", b"C^a't  /etc;ls", b"cat/etc ls"),
            ("lowercase", b"AbC", b"abc"),
        ] {
            becomes(name, from, to);
        }
    }

    #[test]
    fn nothing_breaks_a_transformation() {
        let hostile: Vec<Vec<u8>> = (0..=255u8)
            .flat_map(|byte| {
                [vec![byte], vec![b'%', byte], vec![b'\\', byte, byte], vec![b'&', b'#', byte], vec![b'%', b'u', byte]]
            })
            .collect();
        for (_, transform) in NAMES {
            for value in &hostile {
                drop(transform.apply(value));
            }
        }
    }
}
