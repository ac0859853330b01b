//! Signatures as AWS has them made, version 4
//! ([how a request is signed](https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html)).

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use pingora::http::RequestHeader;

use crate::{
    identity::digest,
    policy::place::{decode, encode},
};

const SCHEME: &str = "AWS4-HMAC-SHA256";

/// A signature, and what it is over.
#[derive(Debug)]
pub(super) struct Signed<'a> {
    pub(super) key_id: &'a str,
    /// `20150830`
    day: &'a str,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    pub(super) headers: Vec<&'a str>,
    pub(super) signature: [u8; 32],
    /// `20150830T123600Z`
    time: &'a str,
    /// Seconds since 1970.
    pub(super) created: u64,
    /// What the client says of the body.
    pub(super) body: &'a str,
    canonical: String,
}

/// Reads the signature of a request; `None` if it has none of this kind.
pub(super) fn read(request: &RequestHeader) -> Result<Option<Signed<'_>>, &'static str> {
    const MALFORMED: &str = "the signature is malformed";
    let mut sent = request.headers.get_all(http::header::AUTHORIZATION).iter();
    let (only, second) = (sent.next(), sent.next());
    let Some(text) = only.and_then(|value| value.to_str().ok()).and_then(|text| text.strip_prefix(SCHEME)) else {
        return if second.is_some() { Err("the request has more than one `Authorization`") } else { Ok(None) };
    };
    if second.is_some() {
        return Err("the request has more than one `Authorization`");
    }
    let mut fields = [None; 3];
    for field in text.split(',') {
        let (name, value) = field.trim().split_once('=').ok_or(MALFORMED)?;
        let at =
            ["Credential", "SignedHeaders", "Signature"].iter().position(|known| *known == name).ok_or(MALFORMED)?;
        let field = fields.get_mut(at).ok_or(MALFORMED)?;
        if field.replace(value).is_some() {
            return Err(MALFORMED);
        }
    }
    let [Some(credential), Some(headers), Some(signature)] = fields else { return Err(MALFORMED) };
    let mut scope = credential.rsplitn(5, '/');
    let (Some("aws4_request"), Some(service), Some(region), Some(day), Some(key_id)) =
        (scope.next(), scope.next(), scope.next(), scope.next(), scope.next())
    else {
        return Err(MALFORMED);
    };
    let mut bytes = [0; 32];
    hex::decode_to_slice(signature, &mut bytes).map_err(|_error| MALFORMED)?;
    let time = single(request, "x-amz-date")?;
    let created =
        seconds(time).filter(|_| time.get(..8) == Some(day)).ok_or("the time of the signature is malformed")?;
    let body = single(request, "x-amz-content-sha256")?;
    let headers: Vec<&str> = headers.split(';').collect();
    let canonical = canonical(request, &headers, body)?;
    Ok(Some(Signed { key_id, day, region, service, headers, signature: bytes, time, created, body, canonical }))
}

impl Signed<'_> {
    /// Whether somebody who has the secret signed this.
    pub(super) fn verify(&self, secret: &[u8]) -> bool {
        let sign = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
        let scope = format!("{}/{}/{}/aws4_request", self.day, self.region, self.service);
        let text = format!("{SCHEME}\n{}\n{scope}\n{}", self.time, hex::encode(digest(self.canonical.as_bytes())));
        let mut key = sign(&[b"AWS4", secret].concat(), self.day);
        for part in [self.region, self.service, "aws4_request"] {
            key = sign(key.as_ref(), part);
        }
        verify_slices_are_equal(sign(key.as_ref(), &text).as_ref(), &self.signature).is_ok()
    }
}

fn single<'a>(request: &'a RequestHeader, name: &str) -> Result<&'a str, &'static str> {
    let mut sent = request.headers.get_all(name).iter();
    match (sent.next().and_then(|value| value.to_str().ok()), sent.next()) {
        (Some(value), None) => Ok(value),
        (None, _) | (_, Some(_)) => Err("`x-amz-date` or `x-amz-content-sha256` is missing, or there twice"),
    }
}

/// The request in the one form that is signed.
fn canonical(request: &RequestHeader, headers: &[&str], body: &str) -> Result<String, &'static str> {
    let mut text = format!("{}\n{}\n", request.method, path(request.uri.path()));
    let mut pairs: Vec<(String, String)> = request
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (normal(name), normal(value)))
        .collect();
    pairs.sort_unstable();
    let query: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    text.extend([&query.join("&"), "\n"]);
    for (i, name) in headers.iter().enumerate() {
        if headers.iter().take(i).any(|before| before >= name) {
            return Err("the names of the signed headers are not in order");
        }
        let mut values = request.headers.get_all(*name).iter().peekable();
        values.peek().ok_or("the signature covers a header that is not there")?;
        let texts: Result<Vec<String>, _> = values.map(|value| value.to_str().map(squeezed)).collect();
        let texts = texts.map_err(|_error| "the signature covers a header that is not ASCII")?;
        text.extend([name, ":", &texts.join(","), "\n"]);
    }
    text.extend(["\n", &headers.join(";"), "\n", body]);
    Ok(text)
}

/// Every part of the path is escaped once more, but for what needs no escape.
fn path(path: &str) -> String {
    let parts: Vec<String> = path.split('/').map(|part| encode(part.as_bytes())).collect();
    parts.join("/")
}

/// A name or a value of the query, escaped in the one way that is signed.
fn normal(text: &str) -> String {
    encode(&decode(text))
}

/// Without spaces around, and with one where there were several.
fn squeezed(text: &str) -> String {
    text.split(' ').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// `20150830T123600Z` in seconds since 1970.
fn seconds(text: &str) -> Option<u64> {
    let digits = |range: std::ops::Range<usize>| {
        let part = text.get(range)?;
        part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<i64>().ok()).flatten()
    };
    if text.len() != 16 || text.get(8..9) != Some("T") || !text.ends_with('Z') {
        return None;
    }
    let (year, month, day) = (digits(0..4)?, digits(4..6)?, digits(6..8)?);
    let (hour, minute, second) = (digits(9..11)?, digits(11..13)?, digits(13..15)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days from the civil calendar: years that begin in March have the odd day last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (month * 153 + 2) / 5 + day
            - 1
            - 719_468;
    u64::try_from(((days * 24 + hour) * 60 + minute) * 60 + second).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn times_are_read() {
        assert_eq!(seconds("19700101T000000Z"), Some(0));
        assert_eq!(seconds("20150830T123600Z"), Some(1_440_938_160));
        assert_eq!(seconds("20240229T235959Z"), Some(1_709_251_199));
        for wrong in
            ["", "20150830T123600", "20151330T123600Z", "20150830 123600Z", "2015083AT123600Z", "+0150830T123600Z"]
        {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    /// `get-vanilla-query-order-key-case` and others of the test suite have no `x-amz-content-sha256`; here it stands beside the header
    /// that is signed, as their canonical request has it at its end.
    #[test]
    fn the_example_of_the_test_suite_is_what_was_signed() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        let signature = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, Signature={signature}"
        );
        for (name, value) in [
            ("host", "example.amazonaws.com"),
            ("x-amz-date", "20150830T123600Z"),
            ("x-amz-content-sha256", EMPTY),
            ("authorization", &authorization),
        ] {
            request.append_header(name, value).unwrap();
        }
        let signed = read(&request).unwrap().unwrap();
        assert_eq!((signed.key_id, signed.region, signed.service), ("AKIDEXAMPLE", "us-east-1", "service"));
        assert!(signed.verify(b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"), "{}", signed.canonical);
        assert!(!signed.verify(b"another"));
    }

    #[test]
    fn queries_have_one_form() {
        let mut request = RequestHeader::build("GET", b"/a%20b/c~?b=2&a=%7e&a=1%2f&c", None).unwrap();
        request.append_header("host", " a   b ").unwrap();
        let text = canonical(&request, &["host"], "x").unwrap();
        assert_eq!(text, "GET\n/a%2520b/c~\na=1%2F&a=~&b=2&c=\nhost:a b\n\nhost\nx");
        assert!(canonical(&request, &["x", "host"], "x").is_err());
        assert!(canonical(&request, &["host", "host"], "x").is_err());
    }
}
