//! Values with units, names and secrets: each is valid by itself as soon as it exists.

use std::{fmt, num::NonZeroU64, str::FromStr, time};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

/// Implements `Deserialize` by `FromStr`, and the schema by a description and a pattern.
macro_rules! text_type {
    ($name:ident, $expecting:literal, $pattern:literal) => {
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl serde::de::Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "description": $expecting,
                    "pattern": $pattern,
                })
            }
        }
    };
}
pub(crate) use text_type;

/// The path of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPath(pub std::path::PathBuf);

impl FromStr for SocketPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The kernel has room for 108 bytes with the zero at the end.
        if !text.starts_with('/') || text.len() > 107 {
            return Err("the path of a Unix socket starts with `/` and has at most 107 bytes".into());
        }
        Ok(Self(text.into()))
    }
}
text_type!(SocketPath, "the path of a Unix socket", "^/.+$");

/// A span of time with its unit: `250ms`, `5s`, `1m`, `1h`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub time::Duration);

impl Duration {
    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(time::Duration::from_secs(seconds))
    }

    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(time::Duration::from_millis(millis))
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected a duration with its unit, such as `250ms`, `5s`, `1m` or `1h`";
        let (number, unit) = split_unit(text).ok_or_else(wrong)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong().into()),
        };
        let total = number.checked_mul(millis).filter(|ms| *ms <= 366 * 86_400_000);
        let total = total.ok_or("the duration is longer than a year")?;
        Ok(Self(time::Duration::from_millis(total)))
    }
}
text_type!(Duration, "a duration with its unit, such as `250ms`, `5s`, `1m` or `1h`", "^[0-9_]+(ms|s|m|h|d)$");

/// A number of bytes with its unit: `512B`, `64KiB`, `10MiB`, `1GiB`; `kB`, `MB` and `GB` count by 1,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected a size with its unit, such as `512B`, `64KiB` or `10MiB`";
        let (number, unit) = split_unit(text).ok_or_else(wrong)?;
        let bytes = match unit {
            "B" => 1,
            "kB" => 1_000,
            "KiB" => 1 << 10,
            "MB" => 1_000_000,
            "MiB" => 1 << 20,
            "GB" => 1_000_000_000,
            "GiB" => 1 << 30,
            _ => return Err(wrong().into()),
        };
        let total = number.checked_mul(bytes).filter(|total| *total <= 1 << 50);
        Ok(Self(total.ok_or("the size is larger than 1 PiB")?))
    }
}
text_type!(Size, "a size with its unit, such as `512B`, `64KiB` or `10MiB`", "^[0-9_]+(B|kB|KiB|MB|MiB|GB|GiB)$");

/// So many bytes in a second: `500B/s`, `10KiB/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRate(pub u64);

impl FromStr for ByteRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = text.strip_suffix("/s").and_then(|size| size.parse::<Size>().ok());
        size.map(|size| Self(size.0)).ok_or_else(|| "expected bytes in a second, such as `500B/s` or `10KiB/s`".into())
    }
}
text_type!(ByteRate, "bytes in a second, such as `500B/s` or `10KiB/s`", "^[0-9_]+(B|kB|KiB|MB|MiB|GB|GiB)/s$");

/// A share: `50%`, `125%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u16);

impl Percent {
    /// Of 1.
    pub fn share(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').and_then(whole).and_then(|number| u16::try_from(number).ok());
        let number = number.filter(|number| *number <= 10_000);
        number.map(Self).ok_or_else(|| "expected a share, such as `50%`".into())
    }
}
text_type!(Percent, "a share, such as `50%`", "^[0-9_]+%$");

/// So many requests in a period: `5/s`, `100/m`, `10_000/h`, `1_000_000/d`, `20/10s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests in the period.
    pub count: NonZeroU64,
    /// The period.
    pub period: time::Duration,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected a rate, such as `5/s`, `100/m`, `10_000/h` or `20/10s`";
        let (count, period) = text.split_once('/').ok_or_else(wrong)?;
        let count = NonZeroU64::new(whole(count).ok_or_else(wrong)?).ok_or("a rate of 0 would refuse everything")?;
        let with_digit =
            if period.starts_with(|c: char| c.is_ascii_digit()) { period.to_owned() } else { format!("1{period}") };
        let Duration(period) = with_digit.parse().map_err(|_error: String| wrong())?;
        if period < time::Duration::from_secs(1) {
            return Err("the period of a rate is at least a second".into());
        }
        if u128::from(count.get()) > period.as_nanos() {
            return Err("the rate is higher than one request a nanosecond".into());
        }
        Ok(Self { count, period })
    }
}
text_type!(Rate, "a rate, such as `5/s`, `100/m`, `10_000/h` or `20/10s`", "^[0-9_]+/[0-9_]*(s|m|h|d)$");

/// The name of something in the configuration: what logs, metrics and references use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if text.is_empty() || text.len() > 128 || !text.chars().all(fits) {
            return Err("a name has 1 to 128 letters, digits, `_`, `-` and `.`, and nothing else".into());
        }
        Ok(Self(text.to_owned()))
    }
}
text_type!(Name, "a name: letters, digits, `_`, `-` and `.`", "^[A-Za-z0-9_.-]{1,128}$");

/// A text that appears in no log, error or dump.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself; use it where it is needed and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl FromStr for Secret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a secret may not be empty".into());
        }
        Ok(Self(text.to_owned()))
    }
}
text_type!(Secret, "a secret; better `${file:PATH}` or `${env:NAME}` than the text itself", "^.+$");

/// The name of a header field, in lower case ([RFC 9110, 5.1](https://www.rfc-editor.org/rfc/rfc9110#section-5.1)).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeaderName(String);

impl HeaderName {
    /// The name as text, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as the `http` crate wants it.
    pub fn to_http(&self) -> http::HeaderName {
        // Parsed once already, so this cannot fail; a header that does not exist is the harmless fallback.
        self.0.parse().unwrap_or(http::header::WARNING)
    }
}

impl FromStr for HeaderName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<http::HeaderName>()
            .map(|name| Self(name.as_str().to_owned()))
            .map_err(|_error| "this is not a valid header name".into())
    }
}
text_type!(HeaderName, "the name of a header field", "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$");

/// A method, in the spelling of the request line ([RFC 9110, 9.1](https://www.rfc-editor.org/rfc/rfc9110#section-9.1)).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Method(String);

impl Method {
    /// The method as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The method as the `http` crate wants it.
    pub fn to_http(&self) -> http::Method {
        // Parsed once already, so this cannot fail.
        self.0.parse().unwrap_or(http::Method::TRACE)
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.chars().any(|c| c.is_ascii_lowercase()) {
            return Err("methods are case-sensitive: write them in capitals".into());
        }
        if text == "CONNECT" {
            return Err("CONNECT is never proxied".into());
        }
        text.parse::<http::Method>()
            .map(|method| Self(method.as_str().to_owned()))
            .map_err(|_error| "this is not a valid method".into())
    }
}
text_type!(Method, "a method in capitals, such as `GET`", "^[A-Z!#$%&'*+.^_`|~0-9-]+$");

/// Splits `250ms` into 250 and `ms`; `_` may group digits.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '_')?;
    let (number, unit) = text.split_at(at);
    Some((whole(number)?, unit))
}

fn whole(text: &str) -> Option<u64> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOrMore<T>(pub Vec<T>);

impl<T> Default for OneOrMore<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> JsonSchema for OneOrMore<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OneOrMore".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "oneOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
        })
    }
}

impl<'de, T: Deserialize<'de> + FromStr<Err: fmt::Display>> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de> + FromStr<Err: fmt::Display>> de::Visitor<'de> for Either<T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
                text.parse().map(|one| vec![one]).map_err(E::custom)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(one) = seq.next_element()? {
                    list.push(one);
                }
                Ok(list)
            }
        }

        deserializer.deserialize_any(Either(std::marker::PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        assert_eq!("250ms".parse(), Ok(Duration::from_millis(250)));
        assert_eq!("1h".parse(), Ok(Duration::from_secs(3600)));
        assert_eq!("64KiB".parse(), Ok(Size(65536)));
        let rate: Rate = "10_000/h".parse().unwrap();
        assert_eq!((rate.count.get(), rate.period.as_secs()), (10_000, 3600));
        let rate: Rate = "20/10s".parse().unwrap();
        assert_eq!((rate.count.get(), rate.period.as_secs()), (20, 10));
    }

    #[test]
    fn what_has_no_unit_or_overflows_is_refused() {
        for text in ["5", "", "s", "5 s", "-5s", "5parsecs", "99999999999999999999s", "_5s"] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
        for text in ["5", "1KB", "18446744073709551615GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        for text in ["0/s", "5", "5/", "/s", "5/10ms", "18446744073709551615/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        assert_eq!(format!("{:?}", Secret::from("hunter2")), "***");
    }
}
