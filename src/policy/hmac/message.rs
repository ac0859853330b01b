//! Signatures of HTTP messages ([RFC 9421](https://www.rfc-editor.org/rfc/rfc9421)), as far as a request is signed by its sender.

use http::header::HOST;
use pingora::http::RequestHeader;
use sfv::{BareItem, Dictionary, FieldType as _, InnerList, ListEntry, Parser};

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
        // `sf`, `bs`, `key`, `req`, `tr` and `@query-param` are not known here.
        if !part.params.is_empty() || parts.len() == MAX_PARTS || parts.iter().any(|known| known == name.as_str()) {
            return Err("the signature covers something in a way that is not known");
        }
        let value = value(request, name.as_str(), secure)?;
        base.extend(["\"", name.as_str(), "\": ", &value, "\n"]);
        parts.push(name.as_str().to_owned());
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
