//! `waf`: what looks like an attack is refused, wherever in the request it is, and everything else arrives as it was sent.

mod core_rule_set;

use std::{io::Write as _, time::Instant};

use flate2::{Compression, write::GzEncoder};

use crate::{
    policies::config,
    support::{
        Gateway, Response, Upstream,
        frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, Peer, WINDOW_UPDATE},
        http2, request, torana,
        web_socket::UPGRADE,
    },
};

/// SQL and scripts, anywhere.
const RULES: &str = r#"
            SecRule REQUEST_FILENAME|ARGS|ARGS_NAMES|REQUEST_COOKIES|REQUEST_COOKIES_NAMES|REQUEST_HEADERS|FILES|FILES_NAMES|XML:/* "@detectSQLi" \
              "id:100,phase:2,deny,t:none,t:urlDecodeUni,t:replaceComments,t:compressWhitespace"
            SecRule REQUEST_FILENAME|ARGS|ARGS_NAMES|REQUEST_COOKIES|REQUEST_HEADERS|FILES|XML:/*|REQUEST_BODY "@rx (?i)<script[^>]*>" \
              "id:101,phase:2,deny,t:none,t:urlDecodeUni,t:jsDecode,t:htmlEntityDecode"
            SecRule REQUEST_HEADERS:User-Agent "@pm sqlmap nikto" "id:102,phase:1,deny"
"#;

fn with(up: &Upstream, options: &str, around: &str) -> Gateway {
    let text = format!(
        r#"
telemetry: {{ access_log: {{}} }}
upstreams: {{ up: {{ endpoints: ["{}"] }} }}
consumers: {{ mobile: {{ api_keys: [key-1] }} }}
listeners: [{{ address: 127.0.0.1:0, h2c: true }}]
routes:
  - name: r
    match: {{ path: "/{{rest...}}" }}
    policies:
      - waf:
          rules: |{RULES}
{options}
{around}
    upstream: up
"#,
        up.address()
    );
    Gateway::start(&text)
}

fn start(options: &str) -> (Gateway, Upstream) {
    let up = Upstream::named("up");
    (with(&up, options, ""), up)
}

fn post(gateway: &Gateway, kind: &str, body: &[u8]) -> Response {
    send(gateway, &[("Content-Type", kind), ("Content-Length", &body.len().to_string())], body)
}

fn send(gateway: &Gateway, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let mut client = gateway.client();
    client.write(request("POST", "/", headers).as_bytes());
    _ = client.try_write(body);
    client.read_answer_to("POST")
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in body.chunks(size) {
        write!(out, "{:x}\r\n", piece.len()).unwrap();
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

#[track_caller]
fn refused(answer: &Response, what: &str) {
    assert_eq!((answer.status, answer.problem().as_str()), (403, "attack_suspected"), "{what}");
}

const FORM: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data; boundary=cut";

fn part(disposition: &str, content: &str) -> String {
    format!("--cut\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{content}\r\n--cut--\r\n")
}

#[test]
fn an_attack_is_found_wherever_it_is_and_the_upstream_sees_none() {
    let (gateway, up) = start("");
    let sql = "1%27%20OR%20%271%27=%271";
    for (target, headers) in [
        (format!("/?q={sql}"), vec![]),
        ("/?1%27%20OR%20%271%27%3D%271=1".to_owned(), vec![]),
        ("/?q=a&q=%3Cscript%3E".to_owned(), vec![]),
        ("/a%3Cscript%3Eb".to_owned(), vec![]),
        ("/".to_owned(), vec![("Cookie", "a=1; b=1' OR '1'='1")]),
        ("/".to_owned(), vec![("X-Any", "1' OR '1'='1")]),
        ("/".to_owned(), vec![("User-Agent", "sqlmap/1.7")]),
    ] {
        refused(&gateway.send("GET", &target, &headers), &format!("{target} {headers:?}"));
        refused(&gateway.send("POST", &target, &[&headers[..], &[("Content-Length", "0")]].concat()), &target);
        if headers.is_empty() {
            refused(&http2::send(&gateway, "GET", &target, &[], &[]), &target);
            // The body comes, and is not needed for this.
            let answer = http2::send(&gateway, "POST", &target, &[], &[100]);
            refused(&answer, &target);
        }
    }
    let sql = "1' OR '1'='1";
    let json = format!(r#"{{"a":[{{"b":"{sql}"}}]}}"#);
    for (kind, body) in [
        (FORM, "q=1%27+OR+%271%27%3D%271".to_owned()),
        ("application/json", json.clone()),
        ("application/json", format!(r#"{{"{sql}":1}}"#)),
        ("application/json", r#"{"a":"\u003cscript\u003e"}"#.to_owned()),
        ("application/vnd.a+json; charset=utf-8", json),
        ("application/xml", format!("<a><b>{sql}</b></a>")),
        ("application/xml", "<a><b>&lt;scr</b>ipt&#62;</a>".to_owned()),
        ("text/xml", r#"<a b="&lt;script>"/>"#.to_owned()),
        ("application/json", format!(r#"{{"{sql}":{{}}}}"#)),
        ("application/json", format!(r#"{{"{sql}":[]}}"#)),
        ("application/xml", "<a b=\"1' &#79;R '1'='1\"/>".to_owned()),
        (MULTIPART, part("name=a", sql)),
        (MULTIPART, part("name=a; filename=\"\"", sql)),
        (MULTIPART, part(&format!("name=a; filename=\"{sql}\""), "x")),
        (MULTIPART, part(&format!("name=\"{sql}\"; filename=a"), "x")),
        ("text/plain", "<script>".to_owned()),
    ] {
        refused(&post(&gateway, kind, body.as_bytes()), &format!("{kind} {body}"));
        let framed = chunked(body.as_bytes(), 3);
        refused(&send(&gateway, &[("Content-Type", kind), ("Transfer-Encoding", "chunked")], &framed), &body);
        let pieces = body.as_bytes().chunks(4).map(|piece| piece.to_vec().into()).collect();
        refused(&http2::send_pieces(&gateway, "POST", "/", &[("content-type", kind)], pieces), &body);
    }
    // What says that it is gRPC gets an answer in its kind, and is looked at where it cannot be that.
    let grpc = post(&gateway, "application/grpc", b"<script>");
    assert_eq!((grpc.header("grpc-status"), grpc.header("torana-reject")), (Some("7"), Some("attack_suspected")));
    assert!(up.seen().is_empty(), "{:?}", up.seen());
    let line = gateway.access_lines(71).remove(0);
    assert_eq!((&line["rules"], &line["reason"]), (&"100 ARGS:q".into(), &"rule 100 of `waf`".into()));
    assert!(!gateway.log().contains("<script"), "values are in no log");
}

#[test]
fn an_attack_does_not_hide_behind_an_encoding() {
    let (gateway, up) = start("");
    for target in ["/?q=%2527%20OR%20%25271%2527=%25271", "/?q=1'/**/oR/**/'1'='1", "/?q=1%27%09Or%0A%271%27%3D%271"] {
        refused(&gateway.get(target), target);
    }
    for target in ["/?q=%253Cscript%253E", "/?q=%26lt;script%26gt;", "/?q=%u003cscript%u003e", "/?q=\\u003cscript>"] {
        let answer = gateway.get(target);
        assert!([400, 403].contains(&answer.status), "{target}: {}", answer.status);
    }
    let attack = br#"{"a":"<script>"}"#;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(attack).unwrap();
    let gzip = gzip.finish().unwrap();
    let length = gzip.len().to_string();
    let headers = |encoding| [("Content-Type", "application/json"), ("Content-Length", length.as_str()), encoding];
    refused(&send(&gateway, &headers(("Content-Encoding", "gzip")), &gzip), "gzip");
    // It says one thing and is another.
    let utf16: Vec<u8> = attack.iter().flat_map(|byte| [0, *byte]).collect();
    for (kind, body) in [
        ("application/json", &gzip[..]),
        ("application/json", b"a=<b>"),
        ("application/json", b"{} {}"),
        ("application/xml", b"<?xml version=\"1.0\" encoding=\"UTF-7\"?><a>+ADw-script+AD4-</a>"),
        ("application/xml", b"<a/><b/>"),
        ("application/xml", b"text"),
        (MULTIPART, b"--cut\r\nContent-Disposition: form-data; name=a; filename=a\r\n\r\nx\n--cut\nb\r\n--cut--"),
        ("application/json", &utf16),
        ("application/xml", b"<a>"),
        ("application/xml", b"<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>"),
        ("application/xml", b"<a>&unknown;</a>"),
        ("application/xml", &utf16),
        ("multipart/form-data", b"--cut--"),
        (MULTIPART, b"--other\r\n"),
        (MULTIPART, b"--cut\r\nContent-Disposition: form-data; name=a\r\n\r\nb\r\n--cut"),
        (MULTIPART, b"--cut\r\nContent-Disposition: form-data; name=a; filename*=UTF-8''b\r\n\r\nb\r\n--cut--"),
        (MULTIPART, b"--cut\r\n\r\nb\r\n--cut--"),
    ] {
        let answer = post(&gateway, kind, body);
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad_request"), "{kind} {}", body.escape_ascii());
    }
    let deep = [b"[".repeat(5_000), b"]".repeat(5_000)].concat();
    assert_eq!(post(&gateway, "application/json", &deep).status, 400);
    let many = format!("[{}1]", "1,".repeat(20_000));
    assert_eq!(post(&gateway, "application/json", many.as_bytes()).status, 400);
    assert!(up.seen().is_empty());
}

#[test]
fn what_is_no_attack_arrives_as_it_was_sent() {
    let (gateway, up) = start("");
    let bodies: [(&str, Vec<u8>); 6] = [
        (FORM, b"name=O%27Brien&text=select+a+colour+from+the+list".to_vec()),
        ("application/json", br#"{"a":[1,-2.5,true,null,"x\u00e9"],"a":{}}"#.to_vec()),
        ("application/xml", b"<?xml version=\"1.0\"?><!-- c --><a b='c'>d &amp; e<![CDATA[f]]></a>\n".to_vec()),
        (MULTIPART, part("name=\"a\"; filename=\"b.png\"", "\u{fffd}PNG").into_bytes()),
        ("application/octet-stream", (0..=255).collect()),
        ("text/plain", b"x".repeat(64 << 10)),
    ];
    for (kind, body) in &bodies {
        for size in [1, 7, 100_000] {
            let framed = chunked(body, if body.len() > 1_000 { size.max(1_000) } else { size });
            let answer = send(&gateway, &[("Content-Type", kind), ("Transfer-Encoding", "chunked")], &framed);
            assert_eq!(answer.text(), "up", "{kind} {}", answer.status);
            assert_eq!(up.last().body, *body, "{kind}");
        }
        assert_eq!(post(&gateway, kind, body).text(), "up", "{kind}");
        assert_eq!(up.last().body, *body, "{kind}");
        let pieces = body.chunks(5_000).map(|piece| piece.to_vec().into()).collect();
        let answer = http2::send_pieces(&gateway, "POST", "/", &[("content-type", kind)], pieces);
        assert_eq!((answer.status, &up.last().body), (200, body), "{kind} over HTTP/2");
    }
    for kind in [FORM, "application/json", "application/xml", MULTIPART] {
        assert_eq!(post(&gateway, kind, b"").text(), "up", "{kind} that is announced and does not come");
    }
    let mut client = gateway.client();
    for _ in 0..3 {
        client.write((request("POST", "/", &[("Content-Length", "3"), ("Expect", "100-continue")])).as_bytes());
        client.more();
        assert!(client.peeked().starts_with(b"HTTP/1.1 100 "), "{:?}", client.peeked().escape_ascii().to_string());
        client.write(b"a=b");
        assert_eq!(client.read_answer_to("POST").text(), "up");
        assert_eq!((up.last().header("expect"), &*up.last().body), (None, &b"a=b"[..]));
    }
}

#[test]
fn a_body_that_is_too_long_to_be_looked_at_is_refused_or_passes_whole_as_the_file_says() {
    let sizes = [65_536, 65_537, 66_000, 100_000, 131_072, 131_073, 1_000_000];
    for (options, passes) in [("", false), ("          beyond: pass", true)] {
        let (gateway, up) = start(options);
        for size in sizes {
            let body: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let status = if passes || size <= 65_536 { 200 } else { 413 };
            let plain = post(&gateway, "application/octet-stream", &body);
            let framed = chunked(&body, 30_000);
            let in_chunks = send(&gateway, &[("Transfer-Encoding", "chunked")], &framed);
            let pieces = body.chunks(20_000).map(|piece| piece.to_vec().into()).collect();
            let over_http2 = http2::send_pieces(&gateway, "POST", "/", &[], pieces);
            for (how, answer) in [("plain", plain), ("in chunks", in_chunks), ("over HTTP/2", over_http2)] {
                assert_eq!(answer.status, status, "{size} {how} {options}");
            }
            if status == 200 {
                let seen = up.seen();
                assert_eq!(seen.iter().filter(|one| one.body == body).count(), 3, "{size}");
            }
        }
        // The header is looked at all the same.
        let length = [("Content-Length", "1000000"), ("Cookie", "a=1' OR '1'='1")];
        refused(&send(&gateway, &length, &b"x".repeat(1_000_000)), "a long body and an attack");
        assert!(up.seen().iter().all(|one| one.header("cookie").is_none()));
    }
    let (gateway, up) = start("          body: 1KiB");
    assert_eq!(post(&gateway, FORM, &b"x".repeat(1_024)).status, 200);
    assert_eq!(post(&gateway, FORM, &b"x".repeat(1_025)).status, 413);
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&vec![b'x'; 100_000]).unwrap();
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 1_000);
    for encoding in ["gzip", "br", "gzip, gzip"] {
        let headers = [("Content-Encoding", encoding), ("Content-Length", &bomb.len().to_string())];
        assert_eq!(send(&gateway, &headers, &bomb).status, 413, "{encoding}");
    }
    assert_eq!(up.seen().len(), 1);
}

#[test]
fn who_may_not_come_is_refused_before_a_body_is_read() {
    let up = Upstream::named("up");
    let gateway = with(&up, "", "      - api_key: {}");
    let mut client = gateway.client();
    client.write(request("POST", "/", &[("Content-Length", "60000")]).as_bytes());
    assert_eq!(client.read_answer_to("POST").status, 401);
    let headers = [("X-Api-Key", "key-1"), ("Content-Type", FORM), ("Content-Length", "10")];
    refused(&send(&gateway, &headers, b"a=<script>"), "who may come");
    assert!(up.seen().is_empty());
}

#[test]
fn in_shadow_mode_everything_passes_and_is_counted() {
    let up = Upstream::named("up");
    let gateway = with(&up, "        mode: shadow", "");
    let long = b"x".repeat(70_000);
    let attacks = [(FORM, &b"a=<script>"[..]), ("application/json", b"{"), ("text/plain", &long)];
    for (n, (kind, body)) in attacks.into_iter().enumerate() {
        assert_eq!(post(&gateway, kind, body).text(), "up", "{kind}");
        assert_eq!(up.last().body, body);
        let framed = chunked(body, 9_000);
        let headers = [("Content-Type", kind), ("Transfer-Encoding", "chunked")];
        assert_eq!(send(&gateway, &headers, &framed).text(), "up", "{kind}");
        assert_eq!(up.last().body, body);
        let count = f64::from(u32::try_from(2 * n + 2).unwrap());
        gateway.wait_for_metric("torana_would_reject_total{policy=\"waf\",route=\"r\"}", count);
    }
    assert_eq!(gateway.get("/?q=%3Cscript%3E").status, 200);
    let lines = gateway.access_lines(7);
    let said: Vec<_> = lines.iter().map(|line| line["would_reject"].as_str().unwrap()).collect();
    let [form, json, long] = ["attack_suspected", "bad_request", "body_too_large"];
    assert_eq!(said, [form, form, json, json, long, long, form]);
    assert_eq!(lines[0]["rules"], "101 ARGS:a");
}

#[test]
fn other_protocols_are_looked_at_by_their_header() {
    let up = Upstream::named("up");
    let gateway = with(&up, "", "");
    let answer = gateway.send("GET", "/?q=%3Cscript%3E", &UPGRADE);
    refused(&answer, "a handshake");
    let grpc = [("content-type", "application/grpc"), ("te", "trailers"), ("user-agent", "nikto")];
    let answer = http2::send(&gateway, "POST", "/a.B/C", &grpc, &[5]);
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("7")));
    assert!(up.seen().is_empty());
}

#[test]
fn a_pattern_takes_time_linear_in_what_it_reads() {
    let up = Upstream::named("up");
    let rules =
        r#"SecRule ARGS \"@rx ^(a+)+$\" \"id:1,phase:2,deny\"\nSecRule ARGS \"@rx (.*a){20}b\" \"id:2,phase:2,deny\""#;
    let gateway = Gateway::start(&config(&up, &format!("{{ waf: {{ rules: \"{rules}\" }} }}")));
    let body = format!("q={}!", "a".repeat(60_000));
    let began = Instant::now();
    assert_eq!(post(&gateway, FORM, body.as_bytes()).text(), "up");
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
}

#[test]
fn a_name_that_stands_for_many_values_costs_no_more_than_it_says() {
    let (gateway, up) = start("");
    let deep = format!("{}{}{}", format!("{{\"{}\":", "k".repeat(400)).repeat(100), "[1,1,1]", "}".repeat(100));
    let wide = |name: usize, values: usize| format!("{{\"{}\":[{}1]}}", "k".repeat(name), "1,".repeat(values - 1));
    let before = gateway.memory();
    let began = Instant::now();
    for body in [wide(20_000, 900), wide(5_000, 990), wide(55_000, 999)] {
        assert_eq!(post(&gateway, "application/json", body.as_bytes()).status, 400);
    }
    assert_eq!(post(&gateway, "application/json", deep.as_bytes()).status, 200);
    assert_eq!(post(&gateway, "application/json", wide(100, 900).as_bytes()).status, 200);
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    assert!(gateway.memory() < before + (64 << 20), "{} to {}", before, gateway.memory());
    assert_eq!(up.seen().len(), 2);
}

#[test]
fn in_shadow_mode_a_body_of_any_length_passes_however_it_is_cut_up() {
    let up = Upstream::named("up");
    for gateway in [with(&up, "        mode: shadow", ""), with(&up, "          beyond: pass", "")] {
        for size in [65_536, 65_537, 66_000, 80_000, 81_920, 131_072] {
            for frame in [1_000, 16_000, 16_384] {
                let body: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
                let mut peer = Peer::start(gateway.address());
                peer.frame(HEADERS, END_HEADERS, 1, &frames::post("/"));
                peer.window(0, 1 << 20);
                // The last frame has the end.
                let pieces: Vec<_> = body.chunks(frame).collect();
                let mut window = 65_535_usize;
                for (n, piece) in pieces.iter().enumerate() {
                    while window < piece.len() {
                        let next = peer.next().unwrap();
                        if next.kind == WINDOW_UPDATE && next.stream == 1 {
                            window += usize::try_from(next.number(0)).unwrap();
                        }
                    }
                    window -= piece.len();
                    let flags = if n + 1 == pieces.len() { END_STREAM } else { 0 };
                    peer.frame(DATA, flags, 1, piece);
                    peer.flush();
                }
                assert_eq!(peer.answer(1).unwrap().0, 200, "{size} in {frame}");
                assert!(up.last().body == body, "{size} in {frame}");
            }
        }
    }
}

#[test]
fn a_thousand_arguments_are_looked_at_and_more_are_refused() {
    let (gateway, up) = start("");
    let some = |count: usize| vec!["a=b"; count].join("&");
    let json = |count: usize| format!("[{}]", vec!["1"; count].join(","));
    let cookies = |count: usize| vec!["a=b"; count].join("; ");
    assert_eq!(post(&gateway, FORM, some(1_000).as_bytes()).status, 200);
    assert_eq!(post(&gateway, "application/json", json(1_000).as_bytes()).status, 200);
    assert_eq!(gateway.send("GET", "/", &[("Cookie", &cookies(1_000))]).status, 200);
    let seen = up.seen().len();
    assert_eq!(post(&gateway, FORM, some(1_001).as_bytes()).status, 400);
    assert_eq!(post(&gateway, "application/json", json(1_001).as_bytes()).status, 400);
    assert_eq!(gateway.send("GET", "/", &[("Cookie", &cookies(1_001))]).status, 400);
    assert_eq!(gateway.get(&format!("/?{}", some(1_001))).status, 400);
    assert_eq!(up.seen().len(), seen);
}

#[test]
fn rules_that_are_wrong_or_cannot_run_are_told_with_their_place() {
    let up = Upstream::named("up");
    let gateway = Gateway::start(&config(&up, ""));
    let folder = gateway.folder().to_owned();
    std::fs::write(folder.join("words.data"), "# no word\nevil\n").unwrap();
    let check = |rules: &str, options: &str| {
        std::fs::write(folder.join("rules.conf"), rules).unwrap();
        let files = folder.join("*.conf");
        let policy = format!("{{ waf: {{ files: [{}], {options} }} }}", files.display());
        gateway.write_config(&config(&up, &policy));
        let output = torana().arg("check").arg("--config").arg(gateway.file()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (rules, wanted) in [
        ("\nSecRule ARGS \"@rx a\" \"phase:2,deny\"", "rules.conf:2: a rule needs an `id`"),
        ("SecRule ARGS \"@rx (\" \"id:1,deny\"", "rule 1: "),
        ("SecRule WHAT \"@rx a\" \"id:1,deny\"", "`WHAT` is nothing that rules here can look at"),
        ("SecRule ARGS \"@rx a\" \"id:1,deny,t:rot13\"", "there is no transformation `rot13` here"),
        ("SecRule ARGS \"@rx a\" \"id:1,fly\"", "there is no action `fly` here"),
        ("SecRule ARGS \"@rx a\" \"id:1,skipAfter:END\"", "behind this there is no `SecMarker END`"),
        ("SecAction \"id:1,pass\"\nSecAction \"id:1,pass\"", "rule 1 is there already"),
        ("SecRule ARGS \"@rx a\" \"id:1,deny,chain\"", "nothing follows that could be chained"),
        ("SecRule ARGS \"@pmFromFile no.data\" \"id:1,deny\"", "no.data"),
        ("SecRule ARGS \"@rbl a.example\" \"id:1,deny\"", "`unsupported: leave_out` goes on without them"),
        ("SecRule ARGS \"@rx a(?=b)\" \"id:1,deny\"", "the pattern looks around itself"),
        ("SecRuleEngine DetectionOnly", "`mode: shadow`"),
        ("SecWhat 1", "`SecWhat` is no directive here"),
        ("# nothing", "there is no rule for requests in this"),
    ] {
        let (code, said) = check(rules, "");
        assert!(code != Some(0) && said.contains(wanted), "{rules}: {said}");
    }
    let (code, said) = check(
        "SecRule ARGS \"@rbl a.example\" \"id:1,deny,chain\"\nSecRule ARGS a\nSecAction \"id:2,pass\"",
        "unsupported: leave_out",
    );
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = check("SecAction \"id:2,pass\"", "body: 1MiB");
    assert!(code != Some(0) && said.contains("at most 64KiB"), "{said}");

    // Files are read anew with the configuration.
    let with_words = "SecRule ARGS \"@pmFromFile words.data\" \"id:1,phase:2,deny\"";
    assert_eq!(check(with_words, "").0, Some(0));
    let text = std::fs::read_to_string(gateway.file()).unwrap();
    gateway.reload(&text);
    refused(&gateway.get("/?a=EVIL"), "a word of the file");
    std::fs::write(folder.join("words.data"), "other\n").unwrap();
    gateway.reload(&text);
    assert_eq!(gateway.get("/?a=EVIL").status, 200);
    refused(&gateway.get("/?a=other"), "a word of the new file");
}
