//! The streams, by family. `@ID@` stands for whose request it is.

#![expect(clippy::too_many_lines, reason = "a family is a list")]

use std::fmt::Display;

/// A plain request behind every stream.
const AFTER: &str = "GET /after/@ID@ HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";

/// What would be a request of its own if somebody read the stream differently.
const HIDDEN: &str = "GET /hidden/@ID@ HTTP/1.1\r\nHost: test\r\n\r\n";

/// A stream, and what has to come of it.
pub(super) struct Stream {
    /// The family, and what it is.
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    /// The statuses that the client gets, in one of these orders.
    pub(super) answers: Vec<Vec<u16>>,
    /// What the upstream sees, in this order: method, target, body.
    pub(super) seen: Vec<String>,
    /// The client says nothing more, and closes its side.
    pub(super) ends: bool,
}

impl Stream {
    /// Whether the gateway refuses it, and closes the connection.
    pub(super) fn is_refused(&self) -> bool {
        !self.ends && self.seen.is_empty()
    }
}

#[derive(Default)]
struct Corpus {
    family: &'static str,
    all: Vec<Stream>,
}

impl Corpus {
    fn add(&mut self, what: impl Display, bytes: Vec<u8>, answers: Vec<Vec<u16>>, seen: Vec<String>) {
        let name = format!("{}: {what}", self.family);
        self.all.push(Stream { name, bytes, answers, seen, ends: false });
    }

    /// One answer with one of these statuses, and the end of the connection.
    fn refused(&mut self, what: impl Display, bytes: impl AsRef<[u8]>, statuses: &[u16]) {
        let bytes = [bytes.as_ref(), AFTER.as_bytes()].concat();
        self.add(what, bytes, statuses.iter().map(|status| vec![*status]).collect(), Vec::new());
    }

    /// An answer of the gateway's that leaves the connection usable.
    fn answered(&mut self, what: impl Display, bytes: impl AsRef<[u8]>, status: u16) {
        let bytes = [bytes.as_ref(), AFTER.as_bytes()].concat();
        self.add(what, bytes, vec![vec![status, 200]], vec!["GET /after/ID".into()]);
    }

    /// These requests, and the one behind them.
    fn passes(&mut self, what: impl Display, bytes: impl AsRef<[u8]>, seen: &[&str]) {
        let bytes = [bytes.as_ref(), AFTER.as_bytes()].concat();
        let mut seen: Vec<String> = seen.iter().map(|&seen| seen.to_owned()).collect();
        seen.push("GET /after/ID".into());
        self.add(what, bytes, vec![vec![200; seen.len()]], seen);
    }

    /// These requests, and then a refusal.
    fn passes_then(&mut self, what: impl Display, bytes: impl AsRef<[u8]>, seen: &[&str], status: u16) {
        let bytes = [bytes.as_ref(), AFTER.as_bytes()].concat();
        let mut answers = vec![200; seen.len()];
        answers.push(status);
        self.add(what, bytes, vec![answers], seen.iter().map(|&seen| seen.to_owned()).collect());
    }

    /// Breaks off, and nothing comes of it.
    fn breaks_off(&mut self, what: impl Display, bytes: impl AsRef<[u8]>) {
        self.add(what, bytes.as_ref().to_vec(), vec![vec![], vec![400], vec![408]], Vec::new());
        self.all.last_mut().unwrap().ends = true;
    }
}

/// A request with these headers, each with its line end.
fn get(headers: &str) -> String {
    format!("GET /@ID@ HTTP/1.1\r\nHost: test\r\n{headers}\r\n")
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /@ID@ HTTP/1.1\r\nHost: test\r\n{headers}\r\n{body}")
}

fn with_line(line: &str) -> String {
    format!("{line}\r\nHost: test\r\nX-Id: @ID@\r\n\r\n")
}

fn with_target(target: &str) -> String {
    with_line(&format!("GET {target} HTTP/1.1"))
}

pub(super) fn all() -> Vec<Stream> {
    let mut corpus = Corpus::default();
    for (family, add) in FAMILIES {
        corpus.family = family;
        add(&mut corpus);
    }
    corpus.all
}

type Family = (&'static str, fn(&mut Corpus));

const FAMILIES: [Family; 24] = [
    ("request line", request_lines),
    ("version", versions),
    ("other protocol", other_protocols),
    ("target", targets),
    ("host", hosts),
    ("content-length", lengths),
    ("transfer-encoding", encodings),
    ("both framings", both_framings),
    ("chunk", chunks),
    ("trailer", trailers),
    ("fold", folds),
    ("line end", line_ends),
    ("control character", controls),
    ("header name", names),
    ("identity", identities),
    ("connection", connections),
    ("expect", expectations),
    ("upgrade", upgrades),
    ("pipeline", pipelines),
    ("method", methods),
    ("path", paths),
    ("query", queries),
    ("size", sizes),
    ("broken off", broken_off),
];

fn request_lines(all: &mut Corpus) {
    for line in [
        "GET  /@ID@ HTTP/1.1",
        "GET /@ID@  HTTP/1.1",
        " GET /@ID@ HTTP/1.1",
        "\tGET /@ID@ HTTP/1.1",
        "GET\t/@ID@ HTTP/1.1",
        "GET /@ID@\tHTTP/1.1",
        "GET\x0b/@ID@\x0bHTTP/1.1",
        "GET /@ID@ HTTP/1.1 ",
        "GET /@ID@ HTTP/1.1\t",
        "GET /@ID@",
        "GET /@ID@ ",
        "GET",
        "GET ",
        "GET HTTP/1.1",
        "GET  HTTP/1.1",
        "/@ID@ HTTP/1.1",
        "GET /@ID@ a HTTP/1.1",
        "GET /@ID@ HTTP/1.1 HTTP/1.1",
        "GET /a b/@ID@ HTTP/1.1",
        "GET/@ID@ HTTP/1.1",
        "G ET /@ID@ HTTP/1.1",
        "GET: /@ID@ HTTP/1.1",
        "\"GET\" /@ID@ HTTP/1.1",
        "(GET) /@ID@ HTTP/1.1",
        "GET\0 /@ID@ HTTP/1.1",
        "\0GET /@ID@ HTTP/1.1",
        "GET,POST /@ID@ HTTP/1.1",
        "G\u{c9}T /@ID@ HTTP/1.1",
        "\u{feff}GET /@ID@ HTTP/1.1",
        "Host: test",
        ":",
    ] {
        all.refused(format!("{line:?}"), with_line(line), &[400]);
    }
    for (what, before) in [("one empty line", "\r\n"), ("three empty lines", "\r\n\r\n\r\n")] {
        all.passes(what, before.to_owned() + &get(""), &["GET /ID"]);
    }
    for (what, before) in
        [("bare LF", "\n"), ("two bare LF", "\n\n"), ("CR", "\r"), ("CR CR LF", "\r\r\n"), ("space CRLF", " \r\n")]
    {
        all.refused(format!("{what} before"), before.to_owned() + &get(""), &[400]);
    }
}

fn versions(all: &mut Corpus) {
    for version in [
        "HTTP/1.2",
        "HTTP/1.9",
        "HTTP/2.0",
        "HTTP/2",
        "HTTP/3.0",
        "HTTP/0.9",
        "HTTP/1.10",
        "HTTP/1.01",
        "HTTP/01.1",
        "HTTP/11",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/.1",
        "HTTP/1,1",
        "HTTP/+1.1",
        "HTTP/-1.1",
        "HTTP/1.1x",
        "HTTP/1.1\0",
        "HTTP/1.1;",
        "HTTP\\1.1",
        "http/1.1",
        "Http/1.1",
        "HTTP /1.1",
        "HTTP/ 1.1",
        "HTTPS/1.1",
        "XHTTP/1.1",
        "RTSP/1.0",
        "ICY",
        "1.1",
        "HTTP/1.\u{661}",
    ] {
        all.refused(format!("{version:?}"), with_line(&format!("GET /@ID@ {version}")), &[400]);
    }
    // HTTP/1.0 is spoken, and closes.
    all.passes_then("HTTP/1.0", "GET /@ID@ HTTP/1.0\r\nHost: test\r\n\r\n", &["GET /ID"], 0);
    all.all.last_mut().unwrap().answers = vec![vec![200]];
    all.refused("HTTP/1.0 with two hosts", "GET /@ID@ HTTP/1.0\r\nHost: test\r\nHost: test\r\n\r\n", &[400]);
    all.refused(
        "HTTP/1.0 with chunks",
        "POST /@ID@ HTTP/1.0\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[400],
    );
}

fn other_protocols(all: &mut Corpus) {
    for (what, bytes) in [
        ("HTTP/2", &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..]),
        ("TLS", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03abcdefghijklmnopqrstuvwxyz012345\x00\x00\x02\x13\x01"),
        ("SSL 2", b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10"),
        ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n"),
        ("SMTP", b"EHLO test\r\nMAIL FROM:<a@test>\r\n\r\n"),
        ("PROXY v1", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"),
        ("PROXY v2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x0a\x00\x00\x01\x0a\x00\x00\x02\x00\x01\x00\x02"),
        ("Redis", b"*1\r\n$4\r\nPING\r\n"),
        ("memcached", b"stats\r\n"),
        ("RDP", b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00"),
        ("FastCGI", b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"),
        ("AJP", b"\x12\x34\x00\x01\x02"),
        ("a response", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("JSON", b"{\"a\": 1}\r\n\r\n"),
        ("zeros", &[0; 200]),
        ("0xff", &[0xff; 200]),
    ] {
        all.refused(what, bytes, &[400]);
    }
}

fn targets(all: &mut Corpus) {
    for target in [
        "*",
        "@ID@",
        "./@ID@",
        "../@ID@",
        "?@ID@",
        "#@ID@",
        "\\@ID@",
        "\\\\evil\\@ID@",
        "test",
        "test:80",
        "test:80/@ID@",
        ":",
        "://",
        "http:",
        "http:/@ID@",
        "http:test/@ID@",
        "http://",
        "http:///@ID@",
        "http://?@ID@",
        "http://evil/@ID@",
        "http://test@evil/@ID@",
        "http://evil@test/@ID@",
        "http://test:80/@ID@",
        "http://test:80:80/@ID@",
        "http://test\\@evil/@ID@",
        "http://test#@evil/@ID@",
        "http://test%2fevil/@ID@",
        "http://test%00/@ID@",
        "http://test;evil/@ID@",
        "http://test,evil/@ID@",
        "http://TEST/@ID@",
        "http://test./@ID@",
        "http://[::1/@ID@",
        "http://[test]/@ID@",
        "ftp://test/@ID@",
        "ws://test/@ID@",
        "file:///@ID@",
        "data:,@ID@",
        "javascript:@ID@",
        "https://evil/@ID@",
        "http//test/@ID@",
        "/@ID@#",
        "/@ID@#/../admin",
        "/#@ID@",
        "/@ID@?#",
        "/<@ID@>",
        "/`@ID@`",
        "/@ID@?<x>",
    ] {
        all.refused(format!("{target:?}"), with_target(target), &[400]);
    }
    for (target, seen) in [
        ("http://test/@ID@?x", "GET /ID?x"),
        ("HTTP://test/@ID@", "GET /ID"),
        ("https://test/@ID@", "GET /ID"),
        ("http://test?@ID@", "GET /?ID"),
        ("http://test/../@ID@/./x", ""),
        ("//evil/@ID@", "GET /evil/ID"),
        ("///evil/@ID@", "GET /evil/ID"),
        ("/http://evil/@ID@", "GET /http:/evil/ID"),
        ("/@ID@:80@evil", "GET /ID:80@evil"),
        ("/@ID@?http://evil/", "GET /ID?http://evil/"),
        ("/*/@ID@", "GET /*/ID"),
    ] {
        if seen.is_empty() {
            all.answered(format!("{target:?}"), with_target(target), 400);
        } else {
            all.passes(format!("{target:?}"), with_target(target), &[seen]);
        }
    }
    all.refused("Latin-1", b"GET /@ID@/\xe9 HTTP/1.1\r\nHost: test\r\n\r\n", &[400]);
    all.passes("UTF-8", "GET /@ID@/\u{e9} HTTP/1.1\r\nHost: test\r\n\r\n", &["GET /ID/%C3%A9"]);
}

fn hosts(all: &mut Corpus) {
    let request = |lines: &str| format!("GET /@ID@ HTTP/1.1\r\n{lines}\r\n");
    for lines in [
        "",
        "Host:\r\n",
        "Host: \r\n",
        "Host: test\r\nHost: test\r\n",
        "Host: test\r\nHost: evil\r\n",
        "Host: test\r\nhost:\r\n",
        "Host: test\r\nX: y\r\nHOST: test\r\n",
        "Host : test\r\n",
        " Host: test\r\n",
        "Host\t: test\r\n",
        "Host\0: test\r\n",
        "Host: test\r\n evil\r\n",
        "Host: test\rHost: evil\r\n",
    ] {
        all.refused(format!("{lines:?}"), request(lines), &[400]);
    }
    for host in [
        "a@b",
        "@",
        "test@",
        "a/b",
        "/",
        "a\\b",
        "a b",
        "test evil",
        "a,b",
        "test,",
        "a;b",
        "a?b",
        "a#b",
        "a%2eb",
        "a%00",
        "a:b",
        "a:99999",
        "a:-1",
        "a:+80",
        "a:0x50",
        "a:80:80",
        "a:8 0",
        "a:80a",
        "[::1",
        "[::1]x",
        "[::1]:x",
        "[x]",
        "[]",
        "::1",
        "a..b",
        ".a",
        ".",
        "..",
        "a:80.",
        "\u{e9}",
        "<a>",
        "a\tb",
        "a|b",
        "{a}",
        "\"a\"",
        "'a'",
        "a=b",
        "http://a",
        "a*",
        "*.a",
        "a\x7fb",
        "a\0",
        "a\x01",
    ] {
        all.refused(format!("`{host}`"), request(&format!("Host: {host}\r\n")), &[400]);
    }
    all.refused("too long", request(&format!("Host: {}\r\n", "a.".repeat(200))), &[400]);
    for lines in [
        "Host:test\r\n",
        "Host: \t test \t \r\n",
        "hOsT: TEST\r\n",
        "Host: test.\r\n",
        "Host: test:8080\r\n",
        "Host: test:\r\n",
        "Host: [::1]\r\n",
        "Host: 127.0.0.1:80\r\n",
        "X-Host: evil\r\nHost: test\r\n",
        "Host: test\r\nX-Forwarded-Host: evil\r\nForwarded: host=evil\r\n",
    ] {
        all.passes(format!("{lines:?}"), request(lines), &["GET /ID"]);
    }
}

fn lengths(all: &mut Corpus) {
    for lines in [
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 0\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\ncontent-LENGTH: 6\r\n",
        "Content-Length : 5\r\n",
        "Content-Length\t: 5\r\n",
        " Content-Length: 5\r\n",
        "Content-Length: 5\r\n 0\r\n",
    ] {
        all.refused(format!("{lines:?}"), post(lines, HIDDEN), &[400]);
    }
    for value in [
        "",
        "5, 5",
        "5,5",
        "5, 0",
        "5 5",
        "5;",
        "+5",
        "-5",
        "-0",
        "0x5",
        "0X5",
        "05x",
        "5.0",
        "5e0",
        "5_0",
        "\"5\"",
        "'5'",
        "five",
        "NaN",
        "5\x0b",
        "5\0",
        "\x0b5",
        "\u{ff15}",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999999",
        "0000000000000000005",
    ] {
        all.refused(format!("`{value}`"), post(&format!("Content-Length: {value}\r\n"), HIDDEN), &[400]);
    }
    for (value, body) in [("5", "hello"), ("005", "hello"), (" \t5\t ", "hello"), ("000000000000000005", "hello")] {
        all.passes(format!("{value:?}"), post(&format!("Content-Length:{value}\r\n"), body), &["POST /ID hello"]);
    }
    all.passes("nothing", post("Content-Length: 0\r\n", ""), &["POST /ID"]);
    all.passes("none at all", post("", ""), &["POST /ID"]);
    let whole = format!("Content-Length: {}\r\n", HIDDEN.len() + 5);
    let seen = format!("POST /ID {}", HIDDEN.replace("@ID@", "ID"));
    all.passes("a request as body", post(&whole, HIDDEN), &[&seen]);
    all.refused("another name", post("Content_Length: 100\r\n", ""), &[400]);
    all.refused("another name beside it", post("Content-Length: 5\r\nContent_Length: 0\r\n", "hello"), &[400]);
    all.passes_then("shorter than what comes", post("Content-Length: 3\r\n", "abc\0\0"), &["POST /ID abc"], 400);
}

fn encodings(all: &mut Corpus) {
    let body = format!("0\r\n\r\n{HIDDEN}");
    for value in [
        "",
        "identity",
        "gzip",
        "xchunked",
        "chunkedx",
        "chunked-",
        "x-chunked",
        "chunke",
        "chunked, identity",
        "identity, chunked",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked chunked",
        "chunked,",
        ",chunked",
        ", chunked",
        "chunked;",
        "chunked;q=1",
        "chunked; a",
        "\"chunked\"",
        "'chunked'",
        "chunked\0",
        "\0chunked",
        "\x0bchunked",
        "\x0cchunked",
        "chunked\x0b",
        "chun\x08ked",
        "chunked\u{a0}",
        "\u{212a}chunked",
        "chun ked",
        "chunked/1",
        "%63hunked",
    ] {
        all.refused(format!("{value:?}"), post(&format!("Transfer-Encoding: {value}\r\n"), &body), &[400]);
    }
    for lines in [
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\ntransfer-encoding:\r\n",
        "Transfer Encoding: chunked\r\n",
        "X: y\nTransfer-Encoding: chunked\r\n",
        "X: y\rTransfer-Encoding: chunked\r\n",
    ] {
        all.refused(format!("{lines:?}"), post(lines, &body), &[400]);
    }
    for value in ["chunked", "Chunked", "CHUNKED", "\tchunked \t"] {
        all.passes(
            format!("{value:?}"),
            post(&format!("Transfer-Encoding:{value}\r\n"), "5\r\nhello\r\n0\r\n\r\n"),
            &["POST /ID hello"],
        );
    }
    for name in ["Transfer_Encoding", "Transfer.Encoding"] {
        all.refused(name, post(&format!("{name}: chunked\r\nContent-Length: 3\r\n"), "0\r\n"), &[400]);
    }
    for name in ["X-Transfer-Encoding", "Transfer-Encoding-X", "TE"] {
        all.passes(name, post(&format!("{name}: chunked\r\nContent-Length: 3\r\n"), "0\r\n"), &["POST /ID 0\r\n"]);
    }
    all.refused(
        "another name beside it",
        post("Transfer-Encoding: chunked\r\nTransfer_Encoding: x\r\n", "0\r\n\r\n"),
        &[400],
    );
}

fn both_framings(all: &mut Corpus) {
    for (what, lines) in [
        ("length first", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        ("length last", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        ("length of nothing", "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"),
        ("other letters", "CONTENT-LENGTH: 5\r\ntransfer-encoding: CHUNKED\r\n"),
        ("identity", "Content-Length: 5\r\nTransfer-Encoding: identity\r\n"),
        ("an empty coding", "Content-Length: 5\r\nTransfer-Encoding:\r\n"),
        ("something between", "Content-Length: 5\r\nX: y\r\nTransfer-Encoding: chunked\r\n"),
        ("three of them", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
    ] {
        for (which, body) in [("CL.TE", "0\r\n\r\n"), ("TE.CL", "5c\r\nGPOST / HTTP/1.1\r\n\r\n0\r\n\r\n")] {
            all.refused(format!("{what}, {which}"), post(lines, &format!("{body}{HIDDEN}")), &[400]);
        }
    }
}

fn chunks(all: &mut Corpus) {
    let request = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    for body in [
        "\r\nhello\r\n0\r\n\r\n",
        ";x\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t\r\nhello\r\n0\r\n\r\n",
        "5 ;x\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5h\r\nhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "5.0\r\nhello\r\n0\r\n\r\n",
        "5_\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "\"5\"\r\nhello\r\n0\r\n\r\n",
        "5\0\r\nhello\r\n0\r\n\r\n",
        "\x005\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "5\n\nhello\n0\n\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhell\r\n0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\n\r\n",
        "0\r\n\r",
        "0\r\r\n\r\n",
        "0\r\n\rX",
        "5;x=\nhello\r\n0\r\n\r\n",
        "5;x=\n\r\nhello\r\n0\r\n\r\n",
        "5;\nhello\r\n0\r\n\r\n",
        "5;x\rhello\r\n0\r\n\r\n",
        "5;x=\"\n\"\r\nhello\r\n0\r\n\r\n",
        "5;\0\r\nhello\r\n0\r\n\r\n",
        "5;\x7f\r\nhello\r\n0\r\n\r\n",
        "5;\u{e9}\r\nhello\r\n0\r\n\r\n",
        "0;\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "0000000000000005\r\nhello\r\n0\r\n\r\n",
        "8000000000000000\r\nhello\r\n0\r\n\r\n",
    ] {
        all.refused(format!("{body:?}"), request(&(body.to_owned() + HIDDEN)), &[400]);
    }
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(5000));
    all.refused("a long extension", request(&long), &[400]);
    for body in [
        "5\r\nhello\r\n0\r\n\r\n",
        "05\r\nhello\r\n00\r\n\r\n",
        "000000000000005\r\nhello\r\n0\r\n\r\n",
        "5;x\r\nhello\r\n0;y\r\n\r\n",
        "5;x=y;z=\"a b\"\r\nhello\r\n0\r\n\r\n",
        "5; x = y\r\nhello\r\n0\r\n\r\n",
        "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "1\r\nh\r\n1\r\ne\r\n3\r\nllo\r\n0\r\n\r\n",
    ] {
        all.passes(format!("{body:?}"), request(body), &["POST /ID hello"]);
    }
    all.passes("big letters", request("A\r\n0123456789\r\n0\r\n\r\n"), &["POST /ID 0123456789"]);
    let inner = format!("{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len() + 5);
    all.passes("a request in a chunk", request(&inner), &[&format!("POST /ID {}", HIDDEN.replace("@ID@", "ID"))]);
    all.passes("the end of chunks in a chunk", request("5\r\n0\r\n\r\n\r\n0\r\n\r\n"), &["POST /ID 0\r\n\r\n"]);
    all.passes("nothing", request("0\r\n\r\n"), &["POST /ID"]);
    all.passes_then("more behind the end", request("0\r\n\r\n\0\0"), &["POST /ID"], 400);
}

fn trailers(all: &mut Corpus) {
    let request = |trailers: &str| {
        post("Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n", &format!("5\r\nhello\r\n0\r\n{trailers}\r\n"))
    };
    for trailers in [
        "X-Sum: 1\r\n",
        "X-Sum:\r\n",
        "X-Sum: 1\r\nX-Sum: 2\r\n",
        "Content-Length: 100\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Host: evil\r\n",
        "Authorization: Bearer x\r\n",
        "X-Consumer-Id: root\r\n",
        "X-Forwarded-For: 1.2.3.4\r\n",
        "Connection: close\r\n",
        "Upgrade: websocket\r\n",
        "X: caf\u{e9}\r\n",
    ] {
        all.passes(format!("{trailers:?}"), request(trailers), &["POST /ID hello"]);
    }
    for trailers in [
        "X\r\n",
        ": 1\r\n",
        "X : 1\r\n",
        " X: 1\r\n",
        "X: 1\r\n folded\r\n",
        "X: 1\n",
        "X: 1\rY: 2\r\n",
        "X: \0\r\n",
        "X: \x01\r\n",
        "X\0: 1\r\n",
        "X Y: 1\r\n",
        "\n",
        "X: 1\r\n\n",
        "GET /hidden/@ID@ HTTP/1.1\r\n",
    ] {
        all.refused(format!("{trailers:?}"), request(trailers), &[400]);
    }
    all.refused("many", request(&"X-Many: 0123456789\r\n".repeat(1000)), &[400]);
}

fn folds(all: &mut Corpus) {
    for lines in [
        "X: a\r\n b\r\n",
        "X: a\r\n\tb\r\n",
        "X: a\r\n \r\n",
        "X:\r\n a\r\n",
        "X: a\r\n b\r\n c\r\n",
        "X: a\r\n Content-Length: 5\r\n",
        " X: a\r\n",
        "\tX: a\r\n",
        " \r\n",
        "\t\r\nX: a\r\n",
        "X: a\r\n\x0bb\r\n",
    ] {
        all.refused(format!("{lines:?}"), get(lines), &[400]);
    }
}

fn line_ends(all: &mut Corpus) {
    for bytes in [
        "GET /@ID@ HTTP/1.1\nHost: test\n\n",
        "GET /@ID@ HTTP/1.1\nHost: test\r\n\r\n",
        "GET /@ID@ HTTP/1.1\r\nHost: test\n\r\n",
        "GET /@ID@ HTTP/1.1\r\nHost: test\r\n\n",
        "GET /@ID@ HTTP/1.1\r\nHost: test\n\n",
        "GET /@ID@ HTTP/1.1\rHost: test\r\r",
        "GET /@ID@ HTTP/1.1\r\r\nHost: test\r\n\r\n",
        "GET /@ID@ HTTP/1.1\r\nHost: test\r\r\n\r\n",
        "GET /@ID@ HTTP/1.1\n\rHost: test\n\r\n\r",
        "GET /@ID@ HTTP/1.1\r\nHost: test\r\nX: a\nY: b\r\n\r\n",
        "GET /@ID@ HTTP/1.1\r\nHost: test\r\nX: a\rY: b\r\n\r\n",
        "GET /@ID@ HTTP/1.1\r\nHost: test\r\nX: a\r\rY: b\r\n\r\n",
        "GET /@ID@ HTTP/1.1\r\nHost: test\r\nX: \r\r\n\r\n",
        "GET /@ID@ HTTP/1.1\r\nHost: test\r\nX: \n\r\n\r\n",
        "GET /@ID@ HTTP/1.1\u{85}Host: test\u{85}\u{85}",
        "GET /@ID@ HTTP/1.1\u{2028}Host: test\u{2028}",
        "GET /@ID@ HTTP/1.1\\r\\nHost: test\\r\\n\\r\\n",
        "GET /@ID@ HTTP/1.1\r\nHost: test\r\nX: a\n\nGET /hidden HTTP/1.1\r\n\r\n",
    ] {
        all.refused(format!("{bytes:?}"), bytes, &[400]);
    }
}

fn controls(all: &mut Corpus) {
    for byte in (0..0x20_u8).chain([0x7f]).filter(|byte| !b"\t\r\n".contains(byte)) {
        let value = [b"GET /@ID@ HTTP/1.1\r\nHost: test\r\nX: a", &[byte][..], b"b\r\n\r\n"].concat();
        all.refused(format!("{byte:#04x} in a value"), value, &[400]);
    }
    for byte in [0, 0x08, 0x0b, 0x0c, 0x1b, 0x7f, 0x80, 0xff] {
        let name = [b"GET /@ID@ HTTP/1.1\r\nHost: test\r\nX", &[byte][..], b"Y: a\r\n\r\n"].concat();
        all.refused(format!("{byte:#04x} in a name"), name, &[400]);
    }
    for byte in [0, 0x01, 0x08, 0x0b, 0x0c, 0x1b, 0x1f, 0x7f] {
        let target = [b"GET /@ID@", &[byte][..], b" HTTP/1.1\r\nHost: test\r\n\r\n"].concat();
        all.refused(format!("{byte:#04x} in a target"), target, &[400]);
    }
    for (what, value) in [("Latin-1", &b"caf\xe9"[..]), ("UTF-8", "caf\u{e9}".as_bytes()), ("tabs", b"a\tb")] {
        let request = [b"GET /@ID@ HTTP/1.1\r\nHost: test\r\nX: ", value, b"\r\n\r\n"].concat();
        all.passes(format!("{what} in a value"), request, &["GET /ID"]);
    }
}

fn names(all: &mut Corpus) {
    for byte in "(),/:;<=>?@[\\]{}\" ".chars() {
        if byte == ':' {
            continue;
        }
        all.refused(format!("`{byte}`"), get(&format!("X{byte}Y: a\r\n")), &[400]);
    }
    for lines in [
        ":\r\n",
        ": a\r\n",
        ":a: b\r\n",
        "X\r\n",
        "X a\r\n",
        "X : a\r\n",
        "X\t: a\r\n",
        "\u{e9}: a\r\n",
        "\u{ff28}ost: evil\r\n",
    ] {
        all.refused(format!("{lines:?}"), get(lines), &[400]);
    }
    for lines in [
        "X::a\r\n",
        "X:a\r\n",
        "x!#$%&'*+-.^_`|~0: a\r\n",
        "X_Y: a\r\n",
        "0: a\r\n",
        "X:\r\n",
        "X: a\r\nX: b\r\n",
        "Cookie: a=1\r\nCookie: b=2\r\n",
    ] {
        all.passes(format!("{lines:?}"), get(lines), &["GET /ID"]);
    }
    for name in ["Authorization", "Content-Type", "User-Agent", "Range", "Origin", "Referer"] {
        all.answered(format!("two {name}"), get(&format!("{name}: a\r\n{name}: b\r\n")), 400);
    }
    for (one, other) in
        [("X-Role", "X_Role"), ("X.Role", "X_Role"), ("Content-Type", "Content_Type"), ("User-Agent", "USER_AGENT")]
    {
        all.answered(format!("{one} and {other}"), get(&format!("{one}: a\r\n{other}: b\r\n")), 400);
    }
}

fn identities(all: &mut Corpus) {
    for name in [
        "X-Consumer-Id",
        "x_consumer_id",
        "X.Consumer.Id",
        "X-Consumer_Groups",
        "X-CONSUMER-SUBJECT",
        "X-Consumer-Scopes",
        "X-Forwarded-For",
        "X_Forwarded_For",
        "X-Forwarded-Proto",
        "X-Real-IP",
        "X_Real_IP",
        "X-Original-URL",
        "X-Rewrite-URL",
        "Forwarded",
        "Proxy",
        "X-HTTP-Method-Override",
        "X-Method-Override",
        "Via",
        "Traceparent",
        "X-Forwarded-Host",
        "X-Forwarded-Prefix",
    ] {
        all.passes(name, get(&format!("{name}: root\r\n")), &["GET /ID"]);
    }
}

fn connections(all: &mut Corpus) {
    for value in [
        "keep-alive",
        "Keep-Alive, X",
        "X-Mine",
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Authorization",
        "X-Forwarded-For",
        "X-Consumer-Id",
        "Via, Traceparent",
        "Connection",
        "Upgrade",
        "TE",
        "keep-alive, keep-alive",
        ", ,",
        "",
        "bad name",
        "\"X\"",
        ":authority",
        "Trailer, TE",
    ] {
        all.passes(
            format!("`{value}` with a length"),
            post(&format!("Connection: {value}\r\nX-Mine: a\r\nContent-Length: 5\r\n"), "hello"),
            &["POST /ID hello"],
        );
    }
    all.passes(
        "named, with chunks",
        post(
            "Connection: Transfer-Encoding, Content-Length\r\nTransfer-Encoding: chunked\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        &["POST /ID hello"],
    );
    for value in ["close", "Close", "close, keep-alive", "keep-alive, close", "X-Mine, close"] {
        all.passes_then(format!("`{value}`"), get(&format!("Connection: {value}\r\n")) + HIDDEN, &["GET /ID"], 0);
        all.all.last_mut().unwrap().answers = vec![vec![200]];
    }
    for name in ["Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "TE: trailers, chunked", "Trailer: X-Sum"] {
        all.passes(name, get(&format!("{name}\r\n")), &["GET /ID"]);
    }
}

fn expectations(all: &mut Corpus) {
    let length = "Content-Length: 5\r\n";
    for value in [
        "",
        "100",
        "100-continue, x",
        "100-continue, 100-continue",
        "100-continue;q=1",
        "x",
        "200-ok",
        "100 continue",
        "\"100-continue\"",
        "100-continue,",
    ] {
        all.refused(
            format!("`{value}`"),
            post(&format!("{length}Expect: {value}\r\n"), &format!("hello{HIDDEN}")),
            &[417],
        );
    }
    all.refused("twice", post(&format!("{length}Expect: 100-continue\r\nExpect: 100-continue\r\n"), "hello"), &[417]);
    all.refused("folded", post(&format!("{length}Expect: 100-\r\n continue\r\n"), "hello"), &[400]);
    all.refused("with a space before the colon", post(&format!("{length}Expect : 100-continue\r\n"), "hello"), &[400]);
    for value in ["100-continue", "100-CONTINUE"] {
        all.passes(
            format!("`{value}` with a length"),
            post(&format!("{length}Expect: {value}\r\n"), "hello"),
            &["POST /ID hello"],
        );
    }
    all.passes(
        "with chunks",
        post("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        &["POST /ID hello"],
    );
    all.passes("without a body", get("Expect: 100-continue\r\n"), &["GET /ID"]);
    all.passes("with a length of nothing", post("Expect: 100-continue\r\nContent-Length: 0\r\n", ""), &["POST /ID"]);
}

fn upgrades(all: &mut Corpus) {
    let settings = "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
    for value in ["h2c", "h2", "HTTP/2.0", "TLS/1.0", "foo", "websocket2", "h2c, websocket", ""] {
        let lines = format!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {value}\r\n{settings}");
        all.passes(format!("`{value}`"), get(&lines), &["GET /ID"]);
    }
    all.passes(
        "h2c, settings not named",
        get(&format!("Connection: Upgrade\r\nUpgrade: h2c\r\n{settings}")),
        &["GET /ID"],
    );
    all.passes("h2c, upgrade not named", get(&format!("Upgrade: h2c\r\n{settings}")), &["GET /ID"]);
    all.passes(
        "h2c with a body",
        post("Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n", "hello"),
        &["POST /ID hello"],
    );
    all.passes(
        "h2c with chunks",
        post("Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        &["POST /ID hello"],
    );
    all.refused(
        "h2c with chunks that are none",
        post("Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n", "5;\nhello\r\n0\r\n\r\n"),
        &[400],
    );
    let handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    // The upstream does not switch, so what follows is a request.
    all.passes("a handshake with a request behind it", get(handshake), &["GET /ID"]);
    // Where a body is to come, there is no other protocol.
    all.passes(
        "a handshake with a body",
        post(&format!("{handshake}Content-Length: 5\r\n"), "hello"),
        &["POST /ID hello"],
    );
    all.passes(
        "a handshake with chunks",
        post(&format!("{handshake}Transfer-Encoding: chunked\r\n"), "5\r\nhello\r\n0\r\n\r\n"),
        &["POST /ID hello"],
    );
    all.answered("a handshake for what needs a key", get(handshake).replace("/@ID@", "/admin/@ID@"), 401);
}

fn pipelines(all: &mut Corpus) {
    let target = |path: &str| get("").replace("/@ID@", path);
    all.passes(
        "three at once",
        target("/1/@ID@") + &target("/2/@ID@") + &target("/3/@ID@"),
        &["GET /1/ID", "GET /2/ID", "GET /3/ID"],
    );
    all.passes(
        "bodies of both kinds",
        post("Content-Length: 5\r\n", "hello")
            + &post("Transfer-Encoding: chunked\r\n", "2\r\nhi\r\n0\r\n\r\n")
            + &get(""),
        &["POST /ID hello", "POST /ID hi", "GET /ID"],
    );
    all.passes(
        "an empty line between",
        post("Content-Length: 5\r\n", "hello\r\n") + &get(""),
        &["POST /ID hello", "GET /ID"],
    );
    all.passes("fifty at once", get("").repeat(50), &["GET /ID"; 50]);
    all.passes_then("one that is none behind a good one", get("") + &get("X : y\r\n"), &["GET /ID"], 400);
    all.passes_then("two hosts behind a good one", get("") + &get("Host: evil\r\n"), &["GET /ID"], 400);
    all.passes_then(
        "both framings behind a body",
        post("Content-Length: 5\r\n", "hello")
            + &post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        &["POST /ID hello"],
        400,
    );
    all.passes_then("a bare LF behind a good one", get("") + "GET /x/@ID@ HTTP/1.1\nHost: test\n\n", &["GET /ID"], 400);
    all.passes_then(
        "a chunk that is none behind a good one",
        get("") + &post("Transfer-Encoding: chunked\r\n", "5\nhello\r\n0\r\n\r\n"),
        &["GET /ID"],
        400,
    );
    let hidden = "GET /hidden/0 HTTP/1.1\r\nHost: test\r\n\r\n";
    let refused = post(&format!("Content-Length: {}\r\n", hidden.len()), hidden).replace("/@ID@", "/admin/@ID@");
    all.answered("a refused one with a request as body", refused, 401);
}

fn methods(all: &mut Corpus) {
    for method in [
        "get",
        "Get",
        "gET",
        "GETX",
        "XGET",
        "G",
        "GE",
        "GET!",
        "GET_",
        "POSTGET",
        "PROPFIND",
        "MOVE",
        "PURGE",
        "BREW",
        "TRACK",
        "DEBUG",
        "SEARCH",
        "QUERY",
        "LINK",
        "VERSION-CONTROL",
        "0",
        "-",
        "__proto__",
    ] {
        all.answered(method, with_line(&format!("{method} /@ID@ HTTP/1.1")), 405);
    }
    all.answered("one of a thousand letters", with_line(&format!("{} /@ID@ HTTP/1.1", "A".repeat(1000))), 405);
    for line in [
        "TRACE /@ID@ HTTP/1.1",
        "CONNECT test:443 HTTP/1.1",
        "CONNECT /@ID@ HTTP/1.1",
        "CONNECT http://test/@ID@ HTTP/1.1",
        "CONNECT * HTTP/1.1",
    ] {
        let wanted: &[u16] = if line.starts_with("TRACE") { &[405] } else { &[405, 400] };
        all.refused(line, with_line(line), wanted);
    }
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS"] {
        all.passes(method, with_line(&format!("{method} /@ID@ HTTP/1.1")), &[&format!("{method} /ID")]);
    }
    for method in ["GET", "DELETE", "OPTIONS"] {
        let length = HIDDEN.len() + 5;
        let bytes = format!("{method} /@ID@ HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{HIDDEN}");
        all.passes(
            format!("{method} with a request as body"),
            bytes,
            &[&format!("{method} /ID {}", HIDDEN.replace("@ID@", "ID"))],
        );
    }
}

fn paths(all: &mut Corpus) {
    for path in [
        "/@ID@%2fx",
        "/@ID@%2Fx",
        "/%2f@ID@",
        "/@ID@%2f..%2fadmin",
        "/@ID@/..%2fadmin",
        "/..%2f@ID@",
        "/@ID@%5cx",
        "/@ID@%5C..%5Cadmin",
        "/@ID@\\x",
        "/@ID@\\..\\admin",
        "/@ID@;x=1",
        "/@ID@/..;/admin",
        "/@ID@/..;x/admin",
        "/@ID@/.;/admin",
        "/@ID@/..%3b/admin",
        "/admin;@ID@",
        "/;@ID@/admin",
        "/@ID@/%2e%2e;/admin",
        "/@ID@%00",
        "/@ID@%00.css",
        "/@ID@%0d%0aX:y",
        "/@ID@%0a",
        "/@ID@%09",
        "/@ID@%1b",
        "/@ID@%7f",
        "/@ID@/%c0%af",
        "/@ID@/%c0%ae%c0%ae/admin",
        "/@ID@/%e0%80%af",
        "/@ID@/%e0%80%ae",
        "/@ID@/%f0%80%80%af",
        "/@ID@/%c1%9c",
        "/@ID@/%ff",
        "/@ID@/%e9",
        "/@ID@/%c3",
        "/@ID@/%ed%a0%80",
        "/@ID@/%f8%80%80%80%af",
        "/@ID@%zz",
        "/@ID@%",
        "/@ID@%2",
        "/@ID@%2x",
        "/@ID@%%32e",
        "/@ID@%u002e",
        "/@ID@%-1",
        "/../@ID@",
        "/%2e%2e/@ID@",
        "/@ID@/../../x",
        "/@ID@/../%2e%2e/admin",
    ] {
        all.answered(path, with_target(path), 400);
    }
    for (path, seen) in [
        ("/x/../@ID@", "/ID"),
        ("/x/%2e%2e/@ID@", "/ID"),
        ("/x/.%2E/@ID@", "/ID"),
        ("/./@ID@", "/ID"),
        ("/%2e/@ID@", "/ID"),
        ("//@ID@", "/ID"),
        ("/@ID@//x///y", "/ID/x/y"),
        ("/@ID@/.", "/ID/"),
        ("/@ID@/x/..", "/ID/"),
        ("/@ID@/%61%62", "/ID/ab"),
        ("/@ID@/%7e%2d%5f%2E", "/ID/~-_."),
        ("/@ID@/%252e%252e/admin", "/ID/%252e%252e/admin"),
        ("/@ID@/%252fadmin", "/ID/%252fadmin"),
        ("/@ID@/%25%32%65", "/ID/%252e"),
        ("/@ID@/%3f%23%3b%20", "/ID/%3F%23%3B%20"),
        ("/@ID@/caf%c3%a9", "/ID/caf%C3%A9"),
        ("/@ID@/...", "/ID/..."),
        ("/@ID@/..x", "/ID/..x"),
        ("/@ID@/x..", "/ID/x.."),
        ("/@ID@/.../...", "/ID/.../..."),
        ("/ADMIN/@ID@", "/ADMIN/ID"),
        ("/admins/@ID@", "/admins/ID"),
        ("/@ID@/$&'()*+,=:@!", "/ID/$&'()*+,=:@!"),
        ("/@ID@/%ef%bc%8f", "/ID/%EF%BC%8F"),
        ("/@ID@/a=b|c^d", "/ID/a=b|c^d"),
    ] {
        all.passes(path, with_target(path), &[&format!("GET {seen}")]);
    }
    for path in [
        "/admin",
        "/admin/",
        "/admin/@ID@",
        "/x/../admin/@ID@",
        "/x/%2e%2e/admin",
        "//admin/@ID@",
        "/%61dmin/@ID@",
        "/./admin/@ID@",
        "/admin/../admin/@ID@",
        "/%61%64%6d%69%6e",
        "/admin?@ID@",
        "/x/..//admin",
        "http://test/admin/@ID@",
        "/admin/%252e%252e/@ID@",
    ] {
        all.answered(path, with_target(path), 401);
    }
}

fn queries(all: &mut Corpus) {
    for query in ["a;b", ";", "a=1;b=2", "a=1&amp;b=2"] {
        all.answered(query, with_target(&format!("/@ID@?{query}")), 400);
    }
    for query in [
        "",
        "?",
        "a=b",
        "a=%2f..%2fadmin",
        "/../admin",
        "a=%00",
        "a=%zz",
        "%",
        "\\",
        "a[]=1",
        "{a}",
        "a|b",
        "a&&b",
        "=",
        "a==b",
        "%3b",
        "a=http://evil/?b",
    ] {
        all.passes(format!("`{query}`"), with_target(&format!("/@ID@?{query}")), &[&format!("GET /ID?{query}")]);
    }
    for query in ["a b", "a\tb", "a#b", "a\x0bb", "a\0b", "a\x7fb", "<a>", "\"a\""] {
        all.refused(format!("`{query}`"), with_target(&format!("/@ID@?{query}")), &[400]);
    }
}

fn sizes(all: &mut Corpus) {
    let many = |count: usize| -> String { (0..count).map(|i| format!("X-{i}: a\r\n")).collect() };
    all.refused("a thousand headers", get(&many(1000)), &[431]);
    all.refused("a header of 100 kB", get(&format!("X: {}\r\n", "a".repeat(100_000))), &[431]);
    all.refused("a name of 100 kB", get(&format!("{}: x\r\n", "a".repeat(100_000))), &[431]);
    all.refused("a target of 100 kB", with_target(&format!("/@ID@{}", "a".repeat(100_000))), &[431, 414]);
    all.refused("a query of 100 kB", with_target(&format!("/@ID@?{}", "a".repeat(100_000))), &[431, 414]);
    all.refused("a method of 100 kB", with_line(&format!("{} /@ID@ HTTP/1.1", "A".repeat(100_000))), &[431, 414]);
    all.refused("a line without end", "A".repeat(100_000), &[431, 414]);
    all.refused("a thousand cookies", get(&"Cookie: a=b\r\n".repeat(1000)), &[431]);
    all.passes("fifty headers", get(&many(50)), &["GET /ID"]);
    all.passes("a header of 4 kB", get(&format!("X: {}\r\n", "a".repeat(4000))), &["GET /ID"]);
    all.passes("a thousand slashes", with_target(&format!("{}@ID@", "/".repeat(1000))), &["GET /ID"]);
    all.passes("a thousand dots", with_target(&format!("{}@ID@", "/.".repeat(500) + "/")), &["GET /ID"]);
    all.passes(
        "a thousand steps up",
        with_target(&format!("{}{}/@ID@", "/x".repeat(500), "/..".repeat(500))),
        &["GET /ID"],
    );
}

fn broken_off(all: &mut Corpus) {
    for bytes in [
        "G",
        "GET /@ID@ HT",
        "GET /@ID@ HTTP/1.1\r\n",
        "GET /@ID@ HTTP/1.1\r\nHost: test\r\n",
        "GET /@ID@ HTTP/1.1\r\nHost: test\r\n\r",
        "\r\n\r\n",
        "\r",
        "",
    ] {
        all.breaks_off(format!("{bytes:?}"), bytes);
    }
    for (what, lines, body) in [
        ("in a body", "Content-Length: 100\r\n", "hello"),
        ("before a body", "Content-Length: 5\r\n", ""),
        ("in a size", "Transfer-Encoding: chunked\r\n", "5"),
        ("in a chunk", "Transfer-Encoding: chunked\r\n", "5\r\nhel"),
        ("behind a chunk", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
        ("in the last chunk", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n"),
        ("in the trailers", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nX: y\r\n"),
    ] {
        all.breaks_off(what, post(lines, body));
    }
}
