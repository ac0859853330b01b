//! `hmac`: a signed request is the one that was signed.

use aws_lc_rs::{digest, hmac};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    callers::{SIGNING, config, send, start},
    no_way_around,
    tokens::now,
};
use crate::support::{Gateway, Reply, Response, Upstream, request};

/// The value of `Content-Digest`.
fn digest_of(body: &str) -> String {
    format!("sha-256=:{}:", STANDARD.encode(digest::digest(&digest::SHA256, body.as_bytes())))
}

/// Signs with HMAC as RFC 9421 has it, over these parts.
fn signature(secret: &str, key: &str, created: u64, parts: &[(&str, &str)]) -> [(String, String); 2] {
    let names: Vec<String> = parts.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let params = format!("({});created={created};keyid=\"{key}\"", names.join(" "));
    let lines: String = parts.iter().map(|(name, value)| format!("\"{name}\": {value}\n")).collect();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signed = hmac::sign(&key, format!("{lines}\"@signature-params\": {params}").as_bytes());
    [
        ("Signature-Input".into(), format!("s={params}")),
        ("Signature".into(), format!("s=:{}:", STANDARD.encode(signed))),
    ]
}

/// Sends a request with a body.
fn send_body(gateway: &Gateway, target: &str, headers: &[(String, String)], body: &str) -> Response {
    let mut all: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let length = body.len().to_string();
    all.push(("Content-Length", &length));
    let mut client = gateway.client();
    client.write((request("POST", target, &all) + body).as_bytes());
    client.read_answer_to("POST")
}

#[test]
fn a_signed_request_is_the_one_that_was_signed() {
    let (gateway, up) = start("{ hmac: {} }");
    let now = now();
    let hello = digest_of("hello");
    let parts = |target: &'static str, query: &'static str| {
        vec![("@method", "POST"), ("@authority", "test"), ("@path", target), ("@query", query)]
    };
    let with_digest = |digest: &str, parts: &[(&str, &str)], created: u64, secret: &str, key: &str| {
        let all = [parts, &[("content-digest", digest)]].concat();
        [&signature(secret, key, created, &all)[..], &[("Content-Digest".into(), digest.to_owned())]].concat()
    };
    let good = with_digest(&hello, &parts("/a", "?b=c"), now, SIGNING, "s-1");
    assert_eq!(send_body(&gateway, "/a?b=c", &good, "hello").status, 200);
    let seen = up.last();
    assert_eq!(
        (seen.header("x-consumer-id"), seen.header("signature"), seen.body.as_slice()),
        (Some("mobile"), None, &b"hello"[..])
    );
    let before = up.seen().len();
    let plain = parts("/a", "?b=c");
    for (target, headers, body, what) in [
        ("/b?b=c", good.clone(), "hello", "another path"),
        ("/a?b=d", good.clone(), "hello", "another query"),
        ("/a?b=c", good.clone(), "other", "another body"),
        ("/a?b=c", good.clone(), "", "no body"),
        ("/a?b=c", with_digest(&hello, &plain, now - 400, SIGNING, "s-1"), "hello", "too old"),
        ("/a?b=c", with_digest(&hello, &plain, now + 60, SIGNING, "s-1"), "hello", "from the future"),
        ("/a?b=c", with_digest(&hello, &plain, now, "another secret of some length", "s-1"), "hello", "another secret"),
        ("/a?b=c", with_digest(&hello, &plain, now, SIGNING, "nobody"), "hello", "an unknown key"),
        ("/a?b=c", with_digest(&hello, &plain[..3], now, SIGNING, "s-1"), "hello", "the query is not covered"),
        ("/a?b=c", signature(SIGNING, "s-1", now, &plain).to_vec(), "hello", "the body is not covered"),
        ("/a?b=c", good[..1].to_vec(), "hello", "half of it"),
        ("/a?b=c", Vec::new(), "hello", "nothing"),
    ] {
        let answer = send_body(&gateway, target, &headers, body);
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Signature")), "{what}");
    }
    // That of another body began, and was never whole.
    assert!(up.seen().iter().skip(before).all(|seen| seen.body != b"other"), "{:?}", up.seen());
    no_way_around(&gateway, &up, &[], 401);
    let get =
        signature(SIGNING, "s-1", now, &[("@method", "GET"), ("@authority", "test"), ("@path", "/"), ("@query", "?")]);
    let get: Vec<(&str, &str)> = get.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(send(&gateway, &get).status, 200);
}

#[test]
fn what_was_signed_counts_once_where_the_file_says_so() {
    let (gateway, _up) = start("{ hmac: { once: true, components: [\"@method\", '@query-param;name=\"id\"'] } }");
    let sign = |created: u64, parts: &[(&str, &str)], names: &str| {
        let lines: String = parts.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        let params = format!("({names});created={created};keyid=\"s-1\"");
        let key = hmac::Key::new(hmac::HMAC_SHA256, SIGNING.as_bytes());
        let signed = hmac::sign(&key, format!("{lines}\"@signature-params\": {params}").as_bytes());
        (format!("s={params}"), format!("s=:{}:", STANDARD.encode(signed)))
    };
    let both = [("\"@method\"", "GET"), ("\"@query-param\";name=\"id\"", "7%20b")];
    let names = "\"@method\" \"@query-param\";name=\"id\"";
    let send = |target: &str, (input, signature): &(String, String)| {
        gateway.send("GET", target, &[("Signature-Input", input), ("Signature", signature)]).status
    };
    let (first, later) = (sign(now(), &both, names), sign(now() - 1, &both, names));
    assert_eq!((send("/?id=8&x=1", &first), send("/?x=1", &first), send("/?id=7+b&id=7+b", &first)), (401, 401, 401));
    assert_eq!((send("/?id=7+b", &first), send("/?id=7+b", &first), send("/?id=7%20b&x=1", &first)), (200, 401, 401));
    assert_eq!((send("/?id=7%20b", &later), send("/?id=7%20b", &later)), (200, 401));
    let uncovered = sign(now(), &both[..1], "\"@method\"");
    assert_eq!(send("/?id=7", &uncovered), 401);
}

#[test]
fn a_body_that_is_sent_once_more_is_compared_anew() {
    let broken = Upstream::start(|_| Reply::hang_up());
    let up = Upstream::named("up");
    let text = config(&up, "{ hmac: { components: [\"@method\"] } }").replace(
        &format!("endpoints: [\"{}\"]", up.address()),
        &format!(
            "endpoints: [\"{}\", \"{}\"], retries: {{ attempts: 3, on: [reset] }}",
            broken.address(),
            up.address()
        ),
    );
    let gateway = Gateway::start(&text);
    let digest = digest_of("hello");
    for _ in 0..6 {
        let signed = signature(SIGNING, "s-1", now(), &[("@method", "PUT"), ("content-digest", &digest)]);
        let mut headers: Vec<(&str, &str)> =
            signed.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        headers.extend([("Content-Digest", digest.as_str()), ("Content-Length", "5")]);
        let mut client = gateway.client();
        client.write((request("PUT", "/", &headers) + "hello").as_bytes());
        assert_eq!(client.read_answer_to("PUT").status, 200);
    }
    assert!(!broken.seen().is_empty());
}

#[test]
fn signatures_of_aws_are_for_their_region_and_their_body() {
    let (gateway, up) = start("{ hmac: { scheme: aws_sigv4, region: eu-central-1 } }");
    let sign = |region: &str, time: &str, hash: &str, secret: &str| {
        let script = "import hashlib,hmac,sys\nregion,time,digest,secret=sys.argv[1:]\nday=time[:8]\n\
            canonical='GET\\n/a\\nb=c\\nhost:test\\nx-amz-date:'+time+'\\n\\nhost;x-amz-date\\n'+digest\n\
            scope=day+'/'+region+'/api/aws4_request'\n\
            text='AWS4-HMAC-SHA256\\n'+time+'\\n'+scope+'\\n'+hashlib.sha256(canonical.encode()).hexdigest()\n\
            key=('AWS4'+secret).encode()\nfor part in [day,region,'api','aws4_request']: key=hmac.new(key,part.encode(),hashlib.sha256).digest()\n\
            print('AWS4-HMAC-SHA256 Credential=s-1/'+scope+', SignedHeaders=host;x-amz-date, Signature='+hmac.new(key,text.encode(),hashlib.sha256).hexdigest())";
        let output =
            std::process::Command::new("python3").args(["-c", script, region, time, hash, secret]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let now =
        String::from_utf8(std::process::Command::new("date").args(["-u", "+%Y%m%dT%H%M%SZ"]).output().unwrap().stdout)
            .unwrap();
    let now = now.trim();
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let other = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let ask = |target: &str, region: &str, time: &str, hash: &str, secret: &str| {
        let authorization = sign(region, time, hash, secret);
        let headers = [("Authorization", authorization.as_str()), ("X-Amz-Date", time), ("X-Amz-Content-Sha256", hash)];
        gateway.send("GET", target, &headers).status
    };
    assert_eq!(ask("/a?b=c", "eu-central-1", now, empty, SIGNING), 200);
    assert_eq!(up.only().header("authorization"), None);
    assert_eq!(ask("/a?b=d", "eu-central-1", now, empty, SIGNING), 401);
    assert_eq!(ask("/a?b=c", "us-east-1", now, empty, SIGNING), 401);
    assert_eq!(ask("/a?b=c", "eu-central-1", "20150830T123600Z", empty, SIGNING), 401);
    assert_eq!(ask("/a?b=c", "eu-central-1", now, other, SIGNING), 401, "the body of another request");
    assert_eq!(ask("/a?b=c", "eu-central-1", now, empty, "another secret of some length"), 401);
    assert_eq!(up.seen().len(), 1);
}
