//! A header that the gateway lets through has one meaning: no second `Host`, no two framings, no line that is none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use torana::proxy::head;

fuzz_target!(|raw: &[u8]| {
    let shown = head::lenient(raw);
    assert!(!shown.method.as_str().is_empty());
    let Ok(framed) = head::check(raw, head::Bounds::default()) else {
        return;
    };
    // However the body is cut, it ends in the same place.
    let rest = &raw[framed.head..];
    let (mut whole, mut pieces) = (framed.body, framed.body);
    let used = whole.advance(rest);
    assert!(used <= rest.len() && (used == rest.len() || whole.is_over()));
    assert_eq!(rest.chunks(1).map(|byte| pieces.advance(byte)).sum::<usize>(), used);
    // Empty lines before a request are no part of it (RFC 9112, 2.2).
    let mut text = raw;
    while let Some(rest) = text.strip_prefix(b"\r\n") {
        text = rest;
    }
    let end = text.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole header") + 4;
    let text = &text[..end];
    let names: Vec<Vec<u8>> = text
        .split(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| line.iter().position(|byte| *byte == b':').map(|at| line[..at].to_ascii_lowercase()))
        .collect();
    let count = |wanted: &[u8]| names.iter().filter(|name| **name == wanted).count();
    assert!(count(b"host") <= 1);
    assert!(count(b"content-length") + count(b"transfer-encoding") <= 1);
    assert!(names.iter().all(|name| !name.is_empty() && !name.iter().any(|byte| *byte <= b' ' || *byte > b'~')));
    // A CR is nowhere but before a LF, and a LF nowhere but behind a CR.
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(text[at + 1], b'\n'),
            b'\n' => assert_eq!(text[at - 1], b'\r'),
            0 => panic!("a NUL was let through"),
            _ => {}
        }
    }
});
