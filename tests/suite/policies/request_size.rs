//! `request_size`: what is too large is refused before the upstream has all of it.

use crate::{
    policies::{raw_answer, start},
    support::{Gateway, Response, request},
};

/// Sends a body with its length, or in chunks of this size.
fn send(gateway: &Gateway, size: usize, chunk: Option<usize>) -> Option<Response> {
    let mut client = gateway.client();
    let length = size.to_string();
    let framing = chunk.map_or(("Content-Length", length.as_str()), |_| ("Transfer-Encoding", "chunked"));
    client.write(request("POST", "/", &[framing]).as_bytes());
    let body = vec![b'x'; size];
    match chunk {
        None => _ = client.try_write(&body),
        Some(chunk) => {
            for piece in body.chunks(chunk) {
                _ = client.try_write(format!("{:x};an=extension\r\n", piece.len()).as_bytes());
                _ = client.try_write(piece);
                _ = client.try_write(b"\r\n");
            }
            _ = client.try_write(b"0\r\n\r\n");
        }
    }
    client.try_read("POST")
}

#[test]
fn a_body_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
    let (gateway, up) = start("{ request_size: { max: 1KiB } }");
    for (size, chunk) in [(0, None), (1024, None), (1024, Some(1024)), (1024, Some(100)), (1024, Some(1))] {
        assert_eq!(send(&gateway, size, chunk).unwrap().status, 200, "{size} {chunk:?}");
        assert_eq!(up.last().body.len(), size);
    }
    let before = up.seen().len();
    let answer = send(&gateway, 1025, None).unwrap();
    assert_eq!((answer.status, answer.problem().as_str()), (413, "body_too_large"));
    assert_eq!(answer.header("connection"), Some("close"));
    for chunk in [1025, 1024, 100] {
        let answer = send(&gateway, 1025, Some(chunk)).unwrap();
        assert_eq!((answer.status, answer.problem().as_str()), (413, "body_too_large"), "{chunk}");
    }
    assert_eq!(up.seen().len(), before, "no request was whole");
}

#[test]
fn a_length_that_is_too_large_is_refused_before_the_body_is_sent() {
    let (gateway, up) = start("{ request_size: { max: 1KiB } }");
    for headers in [
        &[("Content-Length", "1025")][..],
        &[("Content-Length", "1000000000000")],
        &[("Content-Length", "1025"), ("Expect", "100-continue")],
    ] {
        let answer = raw_answer(&gateway, &request("POST", "/", headers));
        assert!(answer.starts_with("HTTP/1.1 413 "), "{headers:?} {answer}");
    }
    assert_eq!(up.connections(), 0);
}

#[test]
fn an_endless_body_in_chunks_is_cut_off() {
    let (gateway, up) = start("{ request_size: { max: 64KiB } }");
    let mut client = gateway.client();
    client.write(request("PUT", "/", &[("Transfer-Encoding", "chunked")]).as_bytes());
    let piece = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    let taken = (0..100_000).take_while(|_| client.try_write(piece.as_bytes())).count();
    assert!(taken < 100_000, "it took {taken} pieces of 16 KiB");
    assert!(up.seen().is_empty());
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn of_several_limits_the_smallest_holds() {
    let (gateway, _up) = start("{ request_size: { max: 10B } }, { request_size: { max: 1MiB } }");
    for chunk in [None, Some(4)] {
        assert_eq!(send(&gateway, 10, chunk).unwrap().status, 200);
        assert_eq!(send(&gateway, 11, chunk).unwrap().status, 413);
    }
}

#[test]
fn a_length_can_be_required() {
    let (gateway, up) = start("{ request_size: { max: 1KiB, require_length: true } }");
    let answer = send(&gateway, 10, Some(10)).unwrap();
    assert_eq!((answer.status, answer.problem().as_str()), (411, "length_required"));
    assert_eq!(send(&gateway, 10, None).unwrap().status, 200);
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(up.seen().len(), 2);
}

#[test]
fn bodies_of_every_method_are_counted() {
    let (gateway, up) = start("{ request_size: { max: 4B } }");
    for method in ["GET", "HEAD", "OPTIONS", "DELETE"] {
        let mut client = gateway.client();
        client.write(request(method, "/", &[("Content-Length", "5")]).as_bytes());
        client.write(b"12345");
        assert_eq!(client.read_answer_to(method).status, 413, "{method}");
        assert_eq!(gateway.send(method, "/", &[]).status, 200, "{method}");
    }
    assert_eq!(up.seen().len(), 4);
}
