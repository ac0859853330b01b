//! However the bytes of a PROXY header come in, they mean the same, nothing behind it is asked for, and what it says can
//! be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use torana::proxy_protocol::{Malformed, Progress, Said, Version, begins, read, write};

/// Reads as a connection does: never more than what is missing.
fn follow(bytes: &[u8]) -> (usize, Option<Result<Said, Malformed>>) {
    let mut there = 0;
    loop {
        match read(&bytes[..there]) {
            Ok(Progress::Whole(said)) => return (there, Some(Ok(said))),
            Err(malformed) => return (there, Some(Err(malformed))),
            Ok(Progress::Missing(missing)) => {
                assert!(missing > 0 && there + missing <= 16 << 10);
                if bytes.len() < there + missing {
                    return (there, None);
                }
                there += missing;
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    for start in [&b""[..], b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x20"] {
        let bytes = [start, data].concat();
        let (length, outcome) = follow(&bytes);
        if let Some(Ok(said)) = outcome {
            assert!(begins(&bytes));
            // Byte by byte it is not whole before.
            assert!((0..length).all(|there| matches!(read(&bytes[..there]), Ok(Progress::Missing(_)))));
            for version in [Version::V1, Version::V2] {
                let again = write(version, &said);
                let (used, said_again) = follow(&again);
                assert_eq!(used, again.len());
                match (said, said_again) {
                    (Said::Tcp { client, server }, Some(Ok(Said::Tcp { client: c, server: s }))) => {
                        assert_eq!((client.ip().to_canonical(), client.port()), (c.ip().to_canonical(), c.port()));
                        assert_eq!((server.ip().to_canonical(), server.port()), (s.ip().to_canonical(), s.port()));
                    }
                    (Said::Local | Said::Unknown | Said::Unix, Some(Ok(Said::Local | Said::Unknown))) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }
});
