//! No request makes the rules of `waf` panic or run for long, whatever its body, and no text is able to make the reader of rules do so.
//!
//! The input is a set of rules, if it begins with `Sec`; else the target, the media type and the body, with line feeds between.
#![no_main]

mod gate;

use std::{path::Path, sync::LazyLock};

use bytes::Bytes;
use futures_lite::future::block_on;
use libfuzzer_sys::fuzz_target;
use pingora::http::RequestHeader;
use torana::{
    clock::Clock,
    config::load_text,
    runtime::{Seeds, Services, Snapshot},
};

use gate::Gate;

const RULES: &str = r#"
SecRule ARGS|ARGS_NAMES|REQUEST_COOKIES|REQUEST_HEADERS|FILES|FILES_NAMES|MULTIPART_PART_HEADERS|XML:/*|REQUEST_BODY "@detectSQLi" "id:1,phase:2,pass,t:urlDecodeUni,t:replaceComments,t:compressWhitespace"
SecRule ARGS|ARGS_NAMES|REQUEST_COOKIES|FILES|XML:/*|REQUEST_BODY "@detectXSS" "id:2,phase:2,pass,multiMatch,t:utf8toUnicode,t:urlDecodeUni,t:htmlEntityDecode,t:jsDecode,t:cssDecode,t:removeNulls"
SecRule ARGS|REQUEST_FILENAME|REQUEST_BODY "@rx (?i)(?:\.\./|etc/passwd|(\w+)\s*\()" "id:3,phase:2,pass,capture,t:escapeSeqDecode,t:sqlHexDecode,t:normalizePathWin,t:cmdLine,setvar:'tx.%{MATCHED_VAR_NAME}=%{tx.1}',setvar:tx.score=+1"
SecRule ARGS|REQUEST_BODY "@pm union select" "id:4,phase:2,pass,t:base64Decode,t:hexDecode,t:removeComments,t:removeCommentsChar,t:trim,t:urlEncode,t:length"
SecRule ARGS "@validateUrlEncoding" "id:5,phase:2,pass"
SecRule ARGS|REQUEST_BODY "@validateByteRange 1-255" "id:6,phase:2,pass"
SecRule &ARGS|TX:/./|ARGS_COMBINED_SIZE|FILES_COMBINED_SIZE "@gt 3" "id:7,phase:2,pass,chain"
  SecRule MATCHED_VARS "@rx %{tx.score}" "t:sha1,t:hexEncode"
SecRule TX:SCORE "@ge 1000" "id:8,phase:2,deny"
"#;

fn config(rules: &str) -> String {
    let rules: String = rules.lines().map(|line| format!("            {line}\n")).collect();
    format!(
        r#"
listeners: [{{ address: "127.0.0.1:8080" }}]
upstreams: {{ up: {{ endpoints: ["127.0.0.1:9000"] }} }}
routes:
  - name: r
    policies:
      - waf:
          rules: |
{rules}
          unsupported: leave_out
    upstream: up
"#
    )
}

static GATE: LazyLock<Gate> = LazyLock::new(|| Gate::new(&config(RULES)));
static SERVICES: LazyLock<Services> = LazyLock::new(|| Services::new(Clock::default(), Seeds::random()).probing());

fuzz_target!(|data: &[u8]| {
    if data.starts_with(b"Sec") {
        return read_rules(data);
    }
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let mut part = || parts.next().unwrap_or_default();
    let (target, media_type, body) = (part(), part(), part());
    let Ok(mut request) = RequestHeader::build("POST", target, None) else { return };
    let Ok(media_type) = http::HeaderValue::from_bytes(media_type) else { return };
    let parts = media_type.as_bytes().split(|byte| *byte == b'|');
    let mut names = ["content-type", "content-encoding", "cookie", "x-a"].into_iter();
    for value in parts {
        let Some(name) = names.next() else { break };
        request.append_header(name, value).unwrap();
    }
    request.append_header("host", "a.example").unwrap();
    request.append_header("content-length", body.len().max(1)).unwrap();
    let Some(mut ctx) = GATE.admit(&mut request) else { return };
    for inspection in std::mem::take(&mut ctx.inspections) {
        drop(block_on(inspection.finish(Some(&Bytes::copy_from_slice(body)), &request, &mut ctx)));
    }
    assert!(ctx.rules_held.len() <= 64);
});

/// Nothing outside: rules may name files.
fn read_rules(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lower = text.to_ascii_lowercase();
    if lower.contains("fromfile") || lower.contains("@pmf") || lower.contains("matchf") || text.contains("${") {
        return;
    }
    let Ok((config, _)) = load_text(&config(text), "fuzz.yaml", Path::new("/nowhere")) else { return };
    match Snapshot::compile(&config, None, &SERVICES) {
        Err(found) => assert!(!config.report(found).to_string().is_empty()),
        Ok(compiled) => drop(compiled),
    }
}
