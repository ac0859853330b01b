//! Passwords as they stand in files: hashed, or by reference.

use argon2::{Argon2, PasswordHash, PasswordHasher as _, PasswordVerifier as _, password_hash::SaltString};
use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::digest;

/// More memory than this, in KiB, is not spent on one check.
const MAX_MEMORY: u32 = 256 << 10;

/// More rounds than this are not spent on one check.
const MAX_ROUNDS: u32 = 64;

/// A higher cost of bcrypt takes more than ten seconds.
const MAX_COST: u32 = 16;

/// What a password is checked against.
#[derive(Clone)]
pub enum Password {
    /// `$argon2id$...` ([RFC 9106](https://www.rfc-editor.org/rfc/rfc9106)).
    Argon2(Box<str>),
    /// `$2y$...` and its older names.
    Bcrypt(Box<str>),
    /// The digest of the password itself: whoever keeps it in a secret store has it random and long.
    Plain([u8; 32]),
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

impl Password {
    /// Reads a hash, or takes a text that is none as the password itself.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.starts_with("$argon2id$") {
            return check_argon2(text).map(|()| Self::Argon2(text.into()));
        }
        if ["$2a$", "$2b$", "$2y$"].iter().any(|kind| text.starts_with(kind)) {
            return check_bcrypt(text).map(|()| Self::Bcrypt(text.into()));
        }
        if text.starts_with('$') || text.starts_with("{SHA") || text.starts_with("{SSHA") {
            return Err("hashes of this kind can be guessed fast: `htpasswd -nB NAME` makes one of bcrypt");
        }
        if text.len() < 8 {
            return Err("a password of less than 8 characters can be guessed");
        }
        Ok(Self::Plain(digest(text.as_bytes())))
    }

    /// Makes a hash of argon2id, with the parameters that RFC 9106 and OWASP take for enough: 19 MiB, two rounds.
    pub fn hash(password: &str) -> Result<String, String> {
        let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>()).map_err(|error| error.to_string())?;
        let hash = Argon2::default().hash_password(password.as_bytes(), &salt).map_err(|error| error.to_string())?;
        Ok(hash.to_string())
    }

    /// The same for files of hashes, where a text that is none is a mistake.
    pub fn parse_hash(text: &str) -> Result<Self, &'static str> {
        match Self::parse(text) {
            Ok(Self::Plain(_)) => Err("this is no hash of a password: `htpasswd -nB NAME` makes one"),
            parsed => parsed,
        }
    }

    /// Whether a check takes so long that it does not belong on a thread that serves requests.
    pub fn is_slow(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// Checks a password. Takes as long as whoever made the hash wanted.
    pub fn verify(&self, password: &[u8]) -> bool {
        match self {
            Self::Argon2(hash) => {
                PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
            }
            // Bytes behind the 72nd would be ignored, so that others would be let in too.
            Self::Bcrypt(hash) => password.len() <= 72 && bcrypt::verify(password, hash).unwrap_or(false),
            Self::Plain(known) => verify_slices_are_equal(&digest(password), known).is_ok(),
        }
    }
}

/// Whether a text can be used.
pub fn check(text: &str) -> Result<(), &'static str> {
    Password::parse(text).map(drop)
}

fn check_argon2(text: &str) -> Result<(), &'static str> {
    const WRONG: &str = "this is no hash of argon2id: `torana hash` makes one";
    let hash = PasswordHash::new(text).map_err(|_error| WRONG)?;
    let params = argon2::Params::try_from(&hash).map_err(|_error| WRONG)?;
    if hash.hash.is_none() || hash.salt.is_none() {
        return Err(WRONG);
    }
    if params.m_cost() > MAX_MEMORY || params.t_cost() > MAX_ROUNDS {
        return Err("a check of this hash takes too much: at most 256 MiB and 64 rounds");
    }
    Ok(())
}

fn check_bcrypt(text: &str) -> Result<(), &'static str> {
    const WRONG: &str = "this is no hash of bcrypt: `htpasswd -nB NAME` makes one";
    let parts: bcrypt::HashParts = text.parse().map_err(|_error| WRONG)?;
    if text.len() != 60 || parts.get_cost() < 4 {
        return Err(WRONG);
    }
    if parts.get_cost() > MAX_COST {
        return Err("a check of this hash takes too long: a cost of at most 16");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `correct horse`, by other programs: `argon2-cffi` and `bcrypt` of Python.
    const ARGON2: &str = "$argon2id$v=19$m=1024,t=2,p=1$rfO1w2wwnT0$A2GhRNioeE84cTrcHQ/9Yg";
    const BCRYPT: &str = "$2y$04$1ncX9S9rnrgn/qrjf6EJGeaPJLhsc.Yj21VxCgJcL3hFJSJx9nK1.";

    #[test]
    fn the_right_password_fits_and_no_other_does() {
        for text in [ARGON2, BCRYPT, "correct horse"] {
            let password = Password::parse(text).unwrap();
            assert!(password.verify(b"correct horse"), "{text}");
            for wrong in [&b""[..], b"correct hors", b"correct horse ", b"Correct horse", b"\xff\xfe", text.as_bytes()]
            {
                let fits = password.verify(wrong) && text.as_bytes() != b"correct horse";
                assert!(!fits, "{text}");
            }
        }
    }

    #[test]
    fn hashes_that_are_fast_or_broken_are_refused() {
        for text in [
            "$apr1$x$y",
            "{SHA}abc",
            "$1$a$b",
            "$argon2i$v=19$m=8,t=1,p=1$c29tZXNhbHQ$aaaa",
            "$argon2id$",
            "$2y$04$short",
            "short",
            "$argon2id$v=19$m=4000000,t=1,p=1$c29tZXNhbHQ$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE",
        ] {
            assert!(Password::parse(text).is_err(), "{text}");
        }
        assert!(Password::parse(&BCRYPT.replacen("$04$", "$17$", 1)).is_err());
        assert!(Password::parse_hash("correct horse").is_err());
        assert!(Password::parse_hash(BCRYPT).is_ok());
    }

    #[test]
    fn what_bcrypt_would_ignore_lets_nobody_in() {
        let hash = bcrypt::hash("x".repeat(72), 4).unwrap();
        let password = Password::parse(&hash).unwrap();
        assert!(password.verify("x".repeat(72).as_bytes()));
        assert!(!password.verify("x".repeat(73).as_bytes()));
    }
}
