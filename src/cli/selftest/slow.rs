//! Clients with bodies that take a second.

use std::sync::Arc;

use tokio::time::{Instant, sleep};

use super::{
    http1::{Answer, Connection, check, get},
    tally::{Failure, Load},
    upstream::{NUMBER, PIECE, PIECES},
};

/// Sends bodies in pieces, with their length and without it in turn.
pub(super) async fn uploads(load: Arc<Load>) {
    let mut chunked = false;
    while !load.is_over() {
        let (sent, number) = (Instant::now(), load.number());
        let outcome = upload(&load, number, chunked).await;
        load.uploads.note(sent, outcome.and_then(|answer| check(&answer, number)));
        chunked = !chunked;
    }
}

async fn upload(load: &Load, number: u64, chunked: bool) -> Result<Answer, Failure> {
    let mut connection = Connection::open(load).await?;
    let (count, pause) = PIECES;
    let framing = if chunked {
        "Transfer-Encoding: chunked".to_owned()
    } else {
        format!("Content-Length: {}", PIECE.len() * count)
    };
    let head = format!("POST /upload HTTP/1.1\r\nHost: selftest\r\n{NUMBER}: {number}\r\n{framing}\r\n\r\n");
    connection.send(head.as_bytes()).await?;
    for _ in 0..count {
        if chunked {
            connection.send(format!("{:x}\r\n", PIECE.len()).as_bytes()).await?;
        }
        connection.send(&PIECE).await?;
        if chunked {
            connection.send(b"\r\n").await?;
        }
        sleep(pause).await;
    }
    if chunked {
        connection.send(b"0\r\n\r\n").await?;
    }
    connection.answer().await
}

/// Takes bodies that come in pieces.
pub(super) async fn downloads(load: Arc<Load>) {
    while !load.is_over() {
        let (sent, number) = (Instant::now(), load.number());
        let outcome = download(&load, number).await;
        let whole = outcome.and_then(|answer| {
            check(&answer, number)?;
            let expected = PIECE.len() * PIECES.0;
            let got = answer.body.len();
            if got == expected { Ok(()) } else { Err(Failure::Wrong(format!("{got} bytes instead of {expected}"))) }
        });
        load.downloads.note(sent, whole);
    }
}

async fn download(load: &Load, number: u64) -> Result<Answer, Failure> {
    let mut connection = Connection::open(load).await?;
    connection.send(get(number, "/slow").as_bytes()).await?;
    connection.answer().await
}
