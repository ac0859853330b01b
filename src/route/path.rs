//! One normal form of a path, made once: what is matched and authorised is what the upstream sees.
//!
//! - `%XX` of a character that needs no escape in a path ([RFC 3986, 3.3](https://www.rfc-editor.org/rfc/rfc3986#section-3.3)) is
//!   decoded, once (`%3A` is `:`; not `%2B` and `%3B`); other escapes get capital digits.
//! - `.` and `..` segments are resolved, `//` becomes `/`, `\` becomes `%5C`.
//! - Refused, because servers read them differently, and no form is safe: an escaped NUL or other control character, a raw
//!   `?`, `#`, control character or space, an escape that is none, an overlong form of a character, `..` above the root,
//!   and `.` or `..` beside an escaped `/` or a `\` (`/a%2F..%2Fb`).
//! - Reported, for the route to say whether it lets them through ([`Rule`]): an escaped `/`, `\`, `;`, `..` with a
//!   parameter (`/..;/`), escapes that are no UTF-8.

use std::borrow::Cow;

use super::rules::{Rule, Rules};

/// Why a path has no normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It is not of the form `/...`.
    #[error("the path does not start with `/`")]
    NotAbsolute,
    /// `%` without two hexadecimal digits.
    #[error("the path has a `%` that is no escape")]
    BadEscape,
    /// `%00` and the like.
    #[error("the path has an escaped control character")]
    ForbiddenEscape,
    /// `#`, a control character, a space.
    #[error("the path has a character that does not belong into one")]
    ForbiddenCharacter,
    /// `%C0%AF` and the like.
    #[error("the path has an overlong form of a character")]
    Overlong,
    /// `/..` above the root, or `..` beside `%2F` or `\`.
    #[error("the path has a `..` that servers read differently")]
    ForbiddenDots,
}

/// A path in normal form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normal<'a> {
    /// The path; borrowed if it was in normal form already.
    pub path: Cow<'a, str>,
    /// The rules that it breaks.
    pub broken: Rules,
}

/// The normal form of a path. If it is in normal form already, that costs one pass and no allocation.
pub fn normalise(path: &str) -> Result<Normal<'_>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    let mut previous = b'x';
    for &byte in path.as_bytes() {
        let plain = match byte {
            b'/' | b'.' => previous != b'/',
            b'%' | b'\\' | b';' => false,
            b'?' | b'#' | 0..=b' ' | 0x7f => return Err(PathError::ForbiddenCharacter),
            _ => byte.is_ascii(),
        };
        if !plain {
            return rebuild(path);
        }
        previous = byte;
    }
    Ok(Normal { path: Cow::Borrowed(path), broken: Rules::default() })
}

fn rebuild(path: &str) -> Result<Normal<'_>, PathError> {
    let mut broken = Rules::default();
    let decoded = decode(path, &mut broken)?;
    let mut out: Vec<&str> = Vec::new();
    let mut rest = decoded.split('/').skip(1).peekable();
    while let Some(segment) = rest.next() {
        let last = rest.peek().is_none();
        match segment {
            "" | "." if last => out.push(""),
            "" | "." => {}
            ".." => {
                out.pop().ok_or(PathError::ForbiddenDots)?;
                if last {
                    out.push("");
                }
            }
            _ => {
                examine(segment, &mut broken)?;
                out.push(segment);
            }
        }
    }
    Ok(Normal { path: Cow::Owned(format!("/{}", out.join("/"))), broken })
}

/// Looks for what a server could take for `.` or `..` in a segment that is neither.
fn examine(segment: &str, broken: &mut Rules) -> Result<(), PathError> {
    if segment.contains(';') {
        broken.insert(Rule::PathParameters);
    }
    let mut parts = segment.split("%2F").flat_map(|part| part.split("%5C")).peekable();
    let mut first = true;
    while let Some(part) = parts.next() {
        let alone = first && parts.peek().is_none();
        first = false;
        let name = part.split(';').next().unwrap_or_default();
        let name = name.split("%3B").next().unwrap_or_default();
        match (name, alone) {
            ("." | "..", true) => broken.insert(Rule::DotParameters),
            ("." | "..", false) => return Err(PathError::ForbiddenDots),
            _ => {}
        }
    }
    Ok(())
}

/// Decodes what needs no escape, and writes the other escapes with capital digits.
fn decode(path: &str, broken: &mut Rules) -> Result<String, PathError> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut raw = Vec::with_capacity(path.len());
    let mut kept = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let escaped = byte == b'%';
        let value = if escaped {
            let digits = bytes.next().zip(bytes.next());
            let (high, low) = digits.ok_or(PathError::BadEscape)?;
            let value = hex(high).zip(hex(low)).ok_or(PathError::BadEscape)?;
            value.0 << 4 | value.1
        } else {
            byte
        };
        match value {
            0..=0x1f | 0x7f if escaped => return Err(PathError::ForbiddenEscape),
            b'?' | b'#' | 0..=b' ' | 0x7f if !escaped => return Err(PathError::ForbiddenCharacter),
            b'/' if escaped => broken.insert(Rule::EncodedSlash),
            b'\\' => broken.insert(Rule::Backslash),
            _ => {}
        }
        raw.push(value);
        if needs_no_escape(value) || (!escaped && value.is_ascii() && value != b'\\') {
            kept.push(char::from(value));
        } else {
            let digit = |nibble: u8| char::from(HEX.get(usize::from(nibble)).copied().unwrap_or(b'0'));
            kept.extend(['%', digit(value >> 4), digit(value & 0xf)]);
        }
    }
    if std::str::from_utf8(&raw).is_err() {
        if is_overlong(&raw) {
            return Err(PathError::Overlong);
        }
        broken.insert(Rule::NonUtf8);
    }
    Ok(kept)
}

/// Characters that mean the same with and without an escape: unreserved ones, and those that a segment may have besides
/// ([RFC 3986, 3.3](https://www.rfc-editor.org/rfc/rfc3986#section-3.3)), which servers decode before they route. Not `+`, which some take for a
/// space, and not `;`, before which some cut off a parameter.
fn needs_no_escape(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:@!$&'()*,=".contains(&byte)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Whether some character has more bytes than it needs: lax decoders make `/` or `.` of it
/// ([RFC 3629, 10](https://www.rfc-editor.org/rfc/rfc3629#section-10)).
fn is_overlong(raw: &[u8]) -> bool {
    raw.iter().zip(raw.iter().skip(1)).any(|(first, second)| {
        matches!(
            (first, second),
            (0xc0 | 0xc1, 0x80..=0xbf)
                | (0xe0, 0x80..=0x9f)
                | (0xf0, 0x80..=0x8f)
                | (0xf8, 0x80..=0x87)
                | (0xfc, 0x80..=0x83)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The normal form of a path that breaks no rule.
    #[track_caller]
    fn ok(path: &str) -> String {
        let normal = normalise(path).unwrap();
        assert!(normal.broken.is_empty(), "{path}: {normal:?}");
        normal.path.into_owned()
    }

    #[test]
    fn a_plain_path_is_borrowed() {
        for path in ["/", "/a/b.c/", "/a=1/~b", "/a/..b", "/.well", "/a:b@c,d", "/a/b..", "/a/..."] {
            assert_eq!(ok(path), path);
        }
        assert!(matches!(normalise("/a/b.c").unwrap().path, Cow::Borrowed(_)));
    }

    #[test]
    fn every_spelling_of_a_path_becomes_the_same() {
        for path in [
            "/public/../admin",
            "/public/%2e%2e/admin",
            "/./admin",
            "//admin",
            "/%61dmin",
            "/public/%2E./admin",
            "///./admin",
            "/x/../y/../admin",
        ] {
            assert_eq!(ok(path), "/admin", "{path}");
        }
        assert_eq!(ok("/v1/a%3Adelete"), "/v1/a:delete");
        assert_eq!(ok("/%40%21%24%26%27%28%29%2A%2C%3D"), "/@!$&'()*,=");
        assert_eq!(ok("/a%2bb"), "/a%2Bb");
        assert_eq!(ok("/a/."), "/a/");
        assert_eq!(ok("/a/b/.."), "/a/");
        assert_eq!(ok("/caf%c3%a9"), "/caf%C3%A9");
        assert_eq!(ok("/caf\u{e9}"), "/caf%C3%A9");
        assert_eq!(ok("/%252e%252e"), "/%252e%252e");
        assert_eq!(ok("/a%3bb%3f%23%25"), "/a%3Bb%3F%23%25");
    }

    #[test]
    fn what_servers_read_differently_is_reported_in_its_one_form() {
        use Rule::*;
        for (path, form, rules) in [
            ("/a%2fb", "/a%2Fb", &[EncodedSlash][..]),
            ("/a%5cb", "/a%5Cb", &[Backslash]),
            ("/a\\b", "/a%5Cb", &[Backslash]),
            ("/a;x=1/b", "/a;x=1/b", &[PathParameters]),
            ("/;/b", "/;/b", &[PathParameters]),
            ("/a/..;/b", "/a/..;/b", &[PathParameters, DotParameters]),
            ("/a/.;x/b", "/a/.;x/b", &[PathParameters, DotParameters]),
            ("/a/..%3bx", "/a/..%3Bx", &[DotParameters]),
            ("/a/%2e%2E;", "/a/..;", &[PathParameters, DotParameters]),
            ("/caf%e9", "/caf%E9", &[NonUtf8]),
            ("/%ff/%c3", "/%FF/%C3", &[NonUtf8]),
            ("/x/../a%2f%2f\\;%E9", "/a%2F%2F%5C;%E9", &[EncodedSlash, Backslash, PathParameters, NonUtf8]),
        ] {
            let normal = normalise(path).unwrap();
            assert_eq!((&*normal.path, normal.broken.iter().collect::<Vec<_>>()), (form, rules.to_vec()), "{path}");
            let again = normalise(&normal.path).unwrap();
            assert_eq!(again, normal, "{path}");
        }
    }

    #[test]
    fn what_has_no_safe_form_is_refused() {
        use PathError::*;
        for (path, why) in [
            ("", NotAbsolute),
            ("*", NotAbsolute),
            ("a/b", NotAbsolute),
            ("\\a", NotAbsolute),
            ("/%00", ForbiddenEscape),
            ("/%0d%0a", ForbiddenEscape),
            ("/%7f", ForbiddenEscape),
            ("/a#b", ForbiddenCharacter),
            ("/a b", ForbiddenCharacter),
            ("/a?b", ForbiddenCharacter),
            ("/%zz", BadEscape),
            ("/%2", BadEscape),
            ("/%", BadEscape),
            ("/%u002f", BadEscape),
            ("/%c0%af", Overlong),
            ("/%c0%ae%c0%ae/x", Overlong),
            ("/%e0%80%af", Overlong),
            ("/%f0%80%80%af", Overlong),
            ("/..", ForbiddenDots),
            ("/a/../../b", ForbiddenDots),
            ("/a/..%2fb", ForbiddenDots),
            ("/a%2f..%2fb", ForbiddenDots),
            ("/a%5c..", ForbiddenDots),
            ("/..\\b", ForbiddenDots),
            ("/a%2f.;x%5cb", ForbiddenDots),
            ("/a%2f%2e%2e%3bx", ForbiddenDots),
        ] {
            assert_eq!(normalise(path), Err(why), "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_normal_form_of_a_normal_form_is_itself(path in "/[a-z./%;2eE5cCfF\\\\# é]{0,24}") {
            if let Ok(once) = normalise(&path) {
                let twice = normalise(&once.path);
                proptest::prop_assert_eq!(twice, Ok(once.clone()));
            }
        }
    }
}
