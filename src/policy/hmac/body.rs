//! Whether the body of a request is the one that was signed. It is looked at while it passes; the end of another one is kept back.

use aws_lc_rs::digest::{Algorithm, Context, SHA256, SHA512};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

/// What the body has to be, and what came of it so far.
pub struct BodyCheck {
    wanted: Box<[u8]>,
    seen: Context,
}

impl std::fmt::Debug for BodyCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BodyCheck(..)")
    }
}

impl BodyCheck {
    fn new(algorithm: &'static Algorithm, wanted: &[u8]) -> Self {
        Self { wanted: wanted.into(), seen: Context::new(algorithm) }
    }

    /// By the hexadecimal SHA-256 digest.
    pub(super) fn from_hex(digits: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).ok()?;
        Some(Self::new(&SHA256, &bytes))
    }

    /// By the strongest digest of a `Content-Digest` that is known ([RFC 9530](https://www.rfc-editor.org/rfc/rfc9530)).
    pub(super) fn from_digests(text: &str) -> Option<Self> {
        let digests = Parser::new(text).parse::<Dictionary>().ok()?;
        let find = |name: &str| match digests.iter().find(|(key, _)| key.as_str() == name)?.1 {
            ListEntry::Item(item) => {
                if let BareItem::ByteSequence(bytes) = &item.bare_item {
                    Some(bytes.clone())
                } else {
                    None
                }
            }
            ListEntry::InnerList(_) => None,
        };
        let strong = find("sha-512").map(|bytes| Self::new(&SHA512, &bytes));
        strong.or_else(|| find("sha-256").map(|bytes| Self::new(&SHA256, &bytes)))
    }

    /// Begins anew: the body is sent once more, to another endpoint.
    pub fn restart(&mut self) {
        self.seen = Context::new(self.seen.algorithm());
    }

    /// Notes a piece; `false` at the end of a body that is not the one that was signed.
    pub fn piece(&mut self, piece: &[u8], end: bool) -> bool {
        self.seen.update(piece);
        !end || self.seen.clone().finish().as_ref() == &*self.wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_shows_whether_it_is_the_body() {
        // printf %s hello | sha256sum; the same in base64
        let hex = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let digest = "md5=:AA==:, sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
        for check in [BodyCheck::from_hex(hex), BodyCheck::from_digests(digest)] {
            let mut check = check.unwrap();
            assert!(check.piece(b"hel", false) && check.piece(b"lo", false) && check.piece(b"", true));
            assert!(!check.piece(b"!", true));
        }
        for wrong in ["", "sha-256=abc", "md5=:AA==:", "sha-256=(a b)", "nonsense("] {
            assert!(BodyCheck::from_digests(wrong).is_none(), "{wrong}");
        }
    }
}
