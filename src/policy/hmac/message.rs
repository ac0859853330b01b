//! Signatures of HTTP messages ([RFC 9421](https://www.rfc-editor.org/rfc/rfc9421)), as far as a request is signed by its sender.

use std::fmt::Write as _;

use http::header::HOST;
use pingora::http::RequestHeader;
use sfv::{BareItem, Dictionary, FieldType as _, InnerList, ListEntry, Parser};

use crate::policy::place::decode;

/// More parts than this are not looked at.
const MAX_PARTS: usize = 64;

/// A signature, and what it is over.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) key_id: String,
    pub(super) algorithm: Option<String>,
    /// The bytes that were signed.
    pub(super) base: String,
    pub(super) signature: Vec<u8>,
    /// Seconds since 1970.
    pub(super) created: Option<u64>,
    pub(super) expires: Option<u64>,
    /// The names of the parts that it covers.
    pub(super) parts: Vec<String>,
}

/// Reads the one signature of a request; `None` if it has none.
pub(super) fn read(request: &RequestHeader, secure: bool) -> Result<Option<Signed>, &'static str> {
    let (inputs, signatures) = (joined(request, "signature-input"), joined(request, "signature"));
    let (inputs, signatures) = match (inputs, signatures) {
        (None, None) => return Ok(None),
        (Some(inputs), Some(signatures)) => (inputs, signatures),
        (Some(_), None) | (None, Some(_)) => return Err("the request has half of a signature"),
    };
    let parse = |text: &str| Parser::new(text).parse::<Dictionary>().map_err(|_error| "the signature is malformed");
    let (inputs, signatures) = (parse(&inputs)?, parse(&signatures)?);
    let (Some((label, ListEntry::InnerList(input))), 1, 1) = (inputs.first(), inputs.len(), signatures.len()) else {
        return Err("the request has more than one signature, or none");
    };
    let Some(ListEntry::Item(item)) = signatures.get(label) else {
        return Err("the request has half of a signature");
    };
    let BareItem::ByteSequence(signature) = &item.bare_item else {
        return Err("the signature is malformed");
    };
    let mut base = String::new();
    let mut parts: Vec<String> = Vec::new();
    for part in input.items.iter().take(MAX_PARTS + 1) {
        let BareItem::String(name) = &part.bare_item else {
            return Err("the signature is malformed");
        };
        let params: Vec<_> = part.params.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let (written, known, value) = match (name.as_str(), params.as_slice()) {
            (QUERY_PARAM, [("name", BareItem::String(argument))]) => {
                let argument = argument.as_str();
                let escaped = argument.replace('\\', "\\\\").replace('"', "\\\"");
                let written = format!("\"{QUERY_PARAM}\";name=\"{escaped}\"");
                let known = format!("{QUERY_PARAM};name=\"{escaped}\"");
                (written, known, query_param(request, argument)?)
            }
            (name, []) => (format!("\"{name}\""), name.to_owned(), value(request, name, secure)?),
            // `sf`, `bs`, `key`, `req` and `tr` are not known here.
            (_, _) => return Err("the signature covers something in a way that is not known"),
        };
        if parts.len() == MAX_PARTS || parts.contains(&known) {
            return Err("the signature covers something twice, or too much");
        }
        base.extend([&*written, ": ", &value, "\n"]);
        parts.push(known);
    }
    base.push_str("\"@signature-params\": ");
    base.push_str(&written(input).ok_or("the signature is malformed")?);
    Ok(Some(Signed {
        key_id: text(input, "keyid").ok_or("the signature names no key")?,
        algorithm: text(input, "alg"),
        base,
        signature: signature.clone(),
        created: seconds(input, "created")?,
        expires: seconds(input, "expires")?,
        parts,
    }))
}

fn joined(request: &RequestHeader, name: &str) -> Option<String> {
    let mut all = request.headers.get_all(name).iter().peekable();
    all.peek()?;
    let values: Vec<&str> = all.map(|value| value.to_str().unwrap_or("\u{0}").trim()).collect();
    Some(values.join(", "))
}

/// The list with its parameters as the RFC has it written.
fn written(list: &InnerList) -> Option<String> {
    vec![ListEntry::InnerList(list.clone())].serialize()
}

fn text(list: &InnerList, name: &str) -> Option<String> {
    let (_, value) = list.params.iter().find(|(key, _)| key.as_str() == name)?;
    if let BareItem::String(text) = value { Some(text.as_str().to_owned()) } else { None }
}

fn seconds(list: &InnerList, name: &str) -> Result<Option<u64>, &'static str> {
    match list.params.iter().find(|(key, _)| key.as_str() == name).map(|(_, value)| value) {
        None => Ok(None),
        Some(BareItem::Integer(value)) => {
            u64::try_from(i64::from(*value)).map(Some).map_err(|_error| "the signature is malformed")
        }
        Some(_) => Err("the signature is malformed"),
    }
}

/// What a part of the request is ([RFC 9421, 2](https://www.rfc-editor.org/rfc/rfc9421#section-2)).
fn value(request: &RequestHeader, name: &str, secure: bool) -> Result<String, &'static str> {
    let uri = &request.uri;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let scheme = if secure { "https" } else { "http" };
    Ok(match name {
        "@method" => request.method.as_str().to_owned(),
        "@authority" => authority(request, secure)?,
        "@scheme" => scheme.to_owned(),
        "@target-uri" => format!("{scheme}://{}{target}", authority(request, secure)?),
        "@request-target" => target.to_owned(),
        "@path" => uri.path().to_owned(),
        "@query" => format!("?{}", uri.query().unwrap_or_default()),
        name if name.starts_with('@') => return Err("the signature covers something in a way that is not known"),
        name => {
            let mut values = request.headers.get_all(name).iter().peekable();
            values.peek().ok_or("the signature covers a header that is not there")?;
            let texts: Result<Vec<&str>, _> = values.map(|value| value.to_str().map(str::trim)).collect();
            texts.map_err(|_error| "the signature covers a header that is not ASCII")?.join(", ")
        }
    })
}

/// The one component with a parameter of its own.
const QUERY_PARAM: &str = "@query-param";

/// A parameter of the query, by its encoded name ([RFC 9421, 2.2.8](https://www.rfc-editor.org/rfc/rfc9421#section-2.2.8)).
fn query_param(request: &RequestHeader, name: &str) -> Result<String, &'static str> {
    let pairs = request.uri.query().unwrap_or_default().split('&');
    let mut values = pairs.filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (encoded(key) == name).then(|| encoded(value))
    });
    match (values.next(), values.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err("the signature covers a parameter that is not there"),
        (Some(_), Some(_)) => Err("the signature covers a parameter that is there twice"),
    }
}

/// Decodes a piece of a form, and encodes it again in the one way that the standard knows.
fn encoded(piece: &str) -> String {
    let spaced = piece.replace('+', " ");
    let mut out = String::with_capacity(piece.len());
    for byte in decode(&spaced).iter() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => out.push(char::from(*byte)),
            byte => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

fn authority(request: &RequestHeader, secure: bool) -> Result<String, &'static str> {
    let host = request.headers.get(HOST).and_then(|host| host.to_str().ok()).ok_or("the request names no host")?;
    let host = host.to_ascii_lowercase();
    let default = if secure { ":443" } else { ":80" };
    Ok(host.strip_suffix(default).map(Into::into).unwrap_or(host))
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    /// The request of [RFC 9421, B.2](https://www.rfc-editor.org/rfc/rfc9421#appendix-B.2).
    fn request(input: &str, signature: &str) -> RequestHeader {
        let mut request = RequestHeader::build("POST", b"/foo?param=Value&Pet=dog", None).unwrap();
        for (name, value) in [
            ("host", "example.com"),
            ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
            ("content-type", "application/json"),
            ("content-length", "18"),
            ("signature-input", input),
            ("signature", signature),
        ] {
            request.append_header(name, value).unwrap();
        }
        request
    }

    #[test]
    fn the_example_of_the_standard_is_what_was_signed() {
        let input = r#"sig-b25=("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret""#;
        let signature = "sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:";
        let signed = read(&request(input, signature), true).unwrap().unwrap();
        assert_eq!((signed.key_id.as_str(), signed.created), ("test-shared-secret", Some(1_618_884_473)));
        let secret = "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &STANDARD.decode(secret).unwrap());
        assert!(aws_lc_rs::hmac::verify(&key, signed.base.as_bytes(), &signed.signature).is_ok(), "{}", signed.base);
    }

    #[test]
    fn every_part_is_written_as_the_standard_says() {
        let input = r#"s=("@method" "@authority" "@scheme" "@target-uri" "@request-target" "@path" "@query");keyid="k";alg="ed25519""#;
        let signed = read(&request(input, "s=:AA==:"), true).unwrap().unwrap();
        let wanted = "\"@method\": POST\n\"@authority\": example.com\n\"@scheme\": https\n\
            \"@target-uri\": https://example.com/foo?param=Value&Pet=dog\n\"@request-target\": /foo?param=Value&Pet=dog\n\
            \"@path\": /foo\n\"@query\": ?param=Value&Pet=dog\n";
        assert_eq!(signed.base, format!("{wanted}\"@signature-params\": {}", input.strip_prefix("s=").unwrap()));
    }

    /// The examples of [section 2.2.8](https://www.rfc-editor.org/rfc/rfc9421#section-2.2.8).
    #[test]
    fn parameters_of_the_query_are_written_in_one_way() {
        let target = b"/parameters?var=this%20is%20a%20big%0Amultiline%20value&bar=with+plus+whitespace&fa%C3%A7ade%22%3A%20=something&twice=1&twice=2";
        let odd = RequestHeader::build("GET", target, None).unwrap();
        for (name, value) in [
            ("var", Ok("this%20is%20a%20big%0Amultiline%20value")),
            ("bar", Ok("with%20plus%20whitespace")),
            ("fa%C3%A7ade%22%3A%20", Ok("something")),
            ("twice", Err(())),
            ("none", Err(())),
        ] {
            assert_eq!(query_param(&odd, name).map_err(drop), value.map(Into::into), "{name}");
        }
        let mut request = request(r#"s=("@query-param";name="Pet");keyid="k""#, "s=:AA==:");
        request.insert_header("host", "a").unwrap();
        let signed = read(&request, true).unwrap().unwrap();
        let wanted =
            "\"@query-param\";name=\"Pet\": dog\n\"@signature-params\": (\"@query-param\";name=\"Pet\");keyid=\"k\"";
        assert_eq!((signed.base.as_str(), signed.parts.len()), (wanted, 1));
        assert_eq!(signed.parts[0], "@query-param;name=\"Pet\"");
    }

    #[test]
    fn what_is_not_one_signature_is_none() {
        for (input, signature) in [
            (r#"s=("@method");keyid="k", t=("@path");keyid="k""#, "s=:AA==:, t=:AA==:"),
            (r#"s=("@method");keyid="k""#, "t=:AA==:"),
            (r#"s=("@method");keyid="k""#, "s=abc"),
            (r#"s=("@method" "@method");keyid="k""#, "s=:AA==:"),
            (r#"s=("@method")"#, "s=:AA==:"),
            (r#"s=("@method";req);keyid="k""#, "s=:AA==:"),
            (r#"s=("@query-param";name="a");keyid="k""#, "s=:AA==:"),
            (r#"s=("@query-param");keyid="k""#, "s=:AA==:"),
            (r#"s=("@query-param";name=param);keyid="k""#, "s=:AA==:"),
            (r#"s=("@query-param";name="param" "@query-param";name="param");keyid="k""#, "s=:AA==:"),
            (r#"s=("@status");keyid="k""#, "s=:AA==:"),
            (r#"s=("x-not-there");keyid="k""#, "s=:AA==:"),
            (r#"s=("@method");keyid="k";created=-1"#, "s=:AA==:"),
            (r#"s=("@method");keyid="k";created="1""#, "s=:AA==:"),
            ("nonsense(", "s=:AA==:"),
        ] {
            assert!(read(&request(input, signature), true).is_err(), "{input} {signature}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(input in "[ -~]{0,80}", signature in "[ -~]{0,40}") {
            drop(read(&request(&input, &signature), true));
        }
    }
}
