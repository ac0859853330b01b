//! What `Cache-Control` says ([RFC 9111, 5.2](https://www.rfc-editor.org/rfc/rfc9111#section-5.2)), read so that what is unclear is never kept for longer.
//!
//! - A directive that forbids something forbids it in every form: `private="x"`, `private=1` and `max-age=60 private` are private.
//! - A time that is no number, or is there twice with different values, is none: the answer is old at once.

use http::{HeaderMap, header};

/// What there is of `Cache-Control`.
#[expect(clippy::struct_excessive_bools, reason = "directives that have nothing to do with each other")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Directives {
    /// Nothing may be stored.
    pub(crate) no_store: bool,
    /// It is for one client alone.
    pub(super) private: bool,
    /// It is not to be used without asking.
    pub(crate) no_cache: bool,
    /// What is old is not to be used without asking.
    pub(super) must_revalidate: bool,
    /// It is for everybody.
    pub(super) public: bool,
    /// The client wants what is kept, or nothing.
    pub(crate) only_if_cached: bool,
    pub(crate) max_age: Seconds,
    pub(super) s_maxage: Seconds,
    pub(super) stale_while_revalidate: Seconds,
    pub(super) stale_if_error: Seconds,
}

/// A time, if it is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Seconds {
    /// It is not.
    #[default]
    Unsaid,
    /// It is.
    Said(u32),
    /// Something is said that is no time, or different times.
    Unclear,
}

impl Seconds {
    fn take(&mut self, value: Option<&str>) {
        let digits = value.filter(|value| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()));
        // What does not fit is as good as for ever.
        let said = digits.map_or(Self::Unclear, |digits| Self::Said(digits.parse().unwrap_or(u32::MAX)));
        *self = if *self == Self::Unsaid || *self == said { said } else { Self::Unclear };
    }

    /// The time; of what is unclear, none at all.
    pub(super) fn or_nothing(self) -> Option<u32> {
        match self {
            Self::Unsaid => None,
            Self::Said(seconds) => Some(seconds),
            Self::Unclear => Some(0),
        }
    }
}

impl Directives {
    /// What all lines of the header say together.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for line in headers.get_all(header::CACHE_CONTROL) {
            match line.to_str() {
                // A comma too few is no reason to overlook something.
                Ok(text) => text.split([',', ';', ' ', '\t']).for_each(|directive| found.take(directive)),
                Err(_) => found.no_store = true,
            }
        }
        found
    }

    fn take(&mut self, directive: &str) {
        let (name, value) = match directive.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (directive, None),
        };
        match &*name.trim().to_ascii_lowercase() {
            "no-store" => self.no_store = true,
            "private" => self.private = true,
            "no-cache" => self.no_cache = true,
            "must-revalidate" | "proxy-revalidate" => self.must_revalidate = true,
            "public" => self.public = true,
            "only-if-cached" => self.only_if_cached = true,
            "max-age" => self.max_age.take(value),
            "s-maxage" => self.s_maxage.take(value),
            "stale-while-revalidate" => self.stale_while_revalidate.take(value),
            "stale-if-error" => self.stale_if_error.take(value),
            _ => {}
        }
    }

    /// For how long an answer is fresh in a cache for many clients, if it says so.
    pub(super) fn lifetime(&self) -> Option<u32> {
        if self.no_cache { Some(0) } else { self.s_maxage.or_nothing().or_else(|| self.max_age.or_nothing()) }
    }

    /// For how long it may be used when it is old: while one asks anew, and when the upstream fails. `given` holds where nothing is said.
    pub(super) fn stale(&self, given: (u32, u32)) -> (u32, u32) {
        // RFC 9111, 4.2.4 and 5.2.2.10
        if self.no_cache || self.must_revalidate || self.s_maxage != Seconds::Unsaid {
            return (0, 0);
        }
        let (asking, failing) = given;
        (
            self.stale_while_revalidate.or_nothing().unwrap_or(asking),
            self.stale_if_error.or_nothing().unwrap_or(failing),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Directives {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::CACHE_CONTROL, line.parse().unwrap());
        }
        Directives::of(&headers)
    }

    #[test]
    fn what_forbids_does_so_in_every_form() {
        for text in [
            "private",
            "PRIVATE",
            "max-age=60, private",
            "max-age=60 private",
            "private=\"\"",
            "private=1",
            "private, private=\"x\"",
            "max-age=1;private",
        ] {
            assert!(of(&[text]).private, "{text}");
        }
        assert!(of(&["max-age=60", "no-store"]).no_store);
        for text in ["no-cache", "no-cache=1", "no-cache=\"\"", "max-age=60, no-cache=\"set-cookie\""] {
            assert_eq!(of(&[text]).lifetime(), Some(0), "{text}");
        }
        assert!(!of(&["x-private", "privately", "max-age=60"]).private);
    }

    #[test]
    fn a_time_that_is_unclear_is_none() {
        for text in [
            "max-age=-1",
            "max-age=0.5",
            "max-age=foo",
            "max-age=\"0",
            "max-age=",
            "max-age",
            "max-age=0, max-age=60",
            "s-maxage=x, max-age=60",
            "max-age=+1",
        ] {
            assert_eq!(of(&[text]).lifetime(), Some(0), "{text}");
        }
        for (text, wanted) in [
            ("max-age=60", Some(60)),
            ("max-age=60, max-age=60", Some(60)),
            ("max-age=60, s-maxage=5", Some(5)),
            ("max-age=99999999999999999999", Some(u32::MAX)),
            ("public", None),
            ("", None),
        ] {
            assert_eq!(of(&[text]).lifetime(), wanted, "{text}");
        }
    }

    #[test]
    fn what_has_to_be_asked_about_is_never_used_old() {
        for text in ["no-cache", "must-revalidate", "proxy-revalidate", "s-maxage=5"] {
            assert_eq!(of(&[text, "stale-if-error=60"]).stale((10, 20)), (0, 0), "{text}");
        }
        assert_eq!(of(&["max-age=5"]).stale((10, 20)), (10, 20));
        assert_eq!(of(&["stale-while-revalidate=1, stale-if-error=x"]).stale((10, 20)), (1, 0));
    }
}
