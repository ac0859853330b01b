//! One normal form of a path, made once: what is matched and authorised is what the upstream sees.
//!
//! - `%XX` of a character that needs no escape ([RFC 3986, 2.3](https://www.rfc-editor.org/rfc/rfc3986#section-2.3)) is
//!   decoded, once; other escapes get capital digits.
//! - `.` and `..` segments are resolved, `//` becomes `/`.
//! - Refused, because servers read them differently: an escaped `/`, `\`, NUL or other control character, a raw `\`,
//!   `?`, `#`, control character or space, an escape that is none, bytes that are no UTF-8, `..` with a parameter (`/..;/`),
//!   and `..` above the root.

use std::borrow::Cow;

/// Why a path has no normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It is not of the form `/...`.
    #[error("the path does not start with `/`")]
    NotAbsolute,
    /// `%` without two hexadecimal digits.
    #[error("the path has a `%` that is no escape")]
    BadEscape,
    /// `%2F`, `%5C`, `%00` and the like.
    #[error("the path has an escaped `/`, `\\` or control character")]
    ForbiddenEscape,
    /// `\`, `#`, a control character, a space.
    #[error("the path has a character that does not belong into one")]
    ForbiddenCharacter,
    /// Not UTF-8 once decoded.
    #[error("the path is not UTF-8")]
    NotUtf8,
    /// `/..` above the root, or `/..;x`.
    #[error("the path has a `..` that servers read differently")]
    ForbiddenDots,
}

/// The normal form of a path; borrowed if it is in normal form already, which costs one pass and no allocation.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    let mut previous = b'x';
    for &byte in path.as_bytes() {
        let plain = match byte {
            b'/' | b'.' => previous != b'/',
            b'%' => false,
            b'?' | b'#' | b'\\' | 0..=b' ' | 0x7f => return Err(PathError::ForbiddenCharacter),
            _ => byte.is_ascii(),
        };
        if !plain {
            return rebuild(path).map(Cow::Owned);
        }
        previous = byte;
    }
    Ok(Cow::Borrowed(path))
}

fn rebuild(path: &str) -> Result<String, PathError> {
    let decoded = decode(path)?;
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
            _ if segment.starts_with("..;") || segment.starts_with(".;") => {
                return Err(PathError::ForbiddenDots);
            }
            _ => out.push(segment),
        }
    }
    Ok(format!("/{}", out.join("/")))
}

/// Decodes what needs no escape, and writes the other escapes with capital digits.
fn decode(path: &str) -> Result<String, PathError> {
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
            b'/' | b'\\' | 0..=0x1f | 0x7f if escaped => return Err(PathError::ForbiddenEscape),
            b'?' | b'#' | b'\\' | 0..=b' ' | 0x7f if !escaped => {
                return Err(PathError::ForbiddenCharacter);
            }
            _ => {}
        }
        raw.push(value);
        let unreserved = value.is_ascii_alphanumeric() || b"-._~".contains(&value);
        if unreserved || (!escaped && value.is_ascii()) {
            kept.push(char::from(value));
        } else {
            let digit = |nibble: u8| char::from(HEX.get(usize::from(nibble)).copied().unwrap_or(b'0'));
            kept.extend(['%', digit(value >> 4), digit(value & 0xf)]);
        }
    }
    match std::str::from_utf8(&raw) {
        Ok(_) => Ok(kept),
        Err(_) => Err(PathError::NotUtf8),
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(path: &str) -> String {
        normalise(path).unwrap().into_owned()
    }

    #[test]
    fn a_plain_path_is_borrowed() {
        for path in ["/", "/a/b.c/", "/a;x=1/~b", "/a/..b", "/.well", "/a:b@c,d"] {
            assert_eq!(ok(path), path);
        }
        assert!(matches!(normalise("/a/b.c"), Ok(Cow::Borrowed(_))));
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
        assert_eq!(ok("/a/."), "/a/");
        assert_eq!(ok("/a/b/.."), "/a/");
        assert_eq!(ok("/caf%c3%a9"), "/caf%C3%A9");
        assert_eq!(ok("/%252e%252e"), "/%252e%252e");
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        use PathError::*;
        for (path, why) in [
            ("", NotAbsolute),
            ("*", NotAbsolute),
            ("a/b", NotAbsolute),
            ("/a%2fb", ForbiddenEscape),
            ("/a%5Cb", ForbiddenEscape),
            ("/%00", ForbiddenEscape),
            ("/a\\b", ForbiddenCharacter),
            ("/a#b", ForbiddenCharacter),
            ("/a b", ForbiddenCharacter),
            ("/%zz", BadEscape),
            ("/%2", BadEscape),
            ("/%", BadEscape),
            ("/%c0%af", NotUtf8),
            ("/%ff", NotUtf8),
            ("/..", ForbiddenDots),
            ("/a/../../b", ForbiddenDots),
            ("/a/..;/b", ForbiddenDots),
        ] {
            assert_eq!(normalise(path), Err(why), "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_normal_form_of_a_normal_form_is_itself(path in "/[a-z./%;2eE5cC\\\\# é]{0,24}") {
            if let Ok(once) = normalise(&path) {
                let twice = normalise(&once);
                proptest::prop_assert_eq!(twice.as_deref(), Ok(once.as_ref()));
            }
        }
    }
}
