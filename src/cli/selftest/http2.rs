//! A client of HTTP/2.
//!
//! A stream that was begun while a GOAWAY was on its way is not looked at by the gateway, and the GOAWAY says so: clients
//! send it again on another connection ([RFC 9113, 6.8](https://www.rfc-editor.org/rfc/rfc9113#section-6.8)), and so
//! does this one, with the same number: if the gateway had looked at it, the upstream would see it twice.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{
    http1::rhythm,
    tally::{Failure, Load, PATIENCE},
    upstream::NUMBER,
};

/// Streams side by side; a new connection once the gateway has said GOAWAY.
pub(super) async fn streams(load: Arc<Load>, every: Duration) {
    let mut ticks = rhythm(every);
    let (mut kept, mut running) = (None, tokio::task::JoinSet::new());
    while !load.is_over() {
        ticks.tick().await;
        while running.try_join_next().is_some() {}
        let sent = Instant::now();
        let ready = match kept.take() {
            Some(kept) => usable(kept).await,
            None => None,
        };
        let ready = match ready {
            Some(ready) => Ok(ready),
            None => open(&load).await,
        };
        match ready {
            Ok(mut ready) => {
                let number = load.number();
                let answer = begin(&mut ready, number);
                let load = Arc::clone(&load);
                running.spawn(async move {
                    let outcome = timeout(PATIENCE, finish(&load, answer, number)).await;
                    let late = |_| Err(Failure::Lost(format!("no answer within {PATIENCE:?}")));
                    load.http2.note(sent, outcome.unwrap_or_else(late));
                });
                kept = Some(ready);
            }
            Err(failure) => load.http2.note(sent, Err(failure)),
        }
    }
    while running.join_next().await.is_some() {}
}

/// `None` once the gateway has said that it takes no new streams.
async fn usable(kept: SendRequest<Bytes>) -> Option<SendRequest<Bytes>> {
    kept.ready().await.ok()
}

async fn open(load: &Load) -> Result<SendRequest<Bytes>, Failure> {
    let refused = |why: String| Failure::Refused(format!("cannot connect: {why}"));
    let connecting = async {
        let stream = TcpStream::connect(load.address).await.map_err(|error| refused(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| refused(error.to_string()))?;
        h2::client::handshake(stream).await.map_err(|error| refused(error.to_string()))
    };
    let connected = timeout(PATIENCE, connecting).await.unwrap_or_else(|late| Err(refused(late.to_string())));
    let (send, connection) = connected?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            log::debug!("HTTP/2: {error}");
        }
    });
    send.ready().await.map_err(|error| refused(error.to_string()))
}

fn begin(ready: &mut SendRequest<Bytes>, number: u64) -> Result<h2::client::ResponseFuture, h2::Error> {
    let request = http::Request::get("http://selftest/").header(NUMBER, number);
    let request = request.body(()).unwrap_or_default();
    ready.send_request(request, true).map(|(answer, _)| answer)
}

async fn finish(
    load: &Load,
    answer: Result<h2::client::ResponseFuture, h2::Error>,
    number: u64,
) -> Result<(), Failure> {
    let lost = |error: h2::Error| Failure::Lost(error.to_string());
    let began = match answer.map_err(lost)?.await {
        Err(error) if error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR) => {
            load.behind_goaway.fetch_add(1, Ordering::Relaxed);
            begin(&mut open(load).await?, number).map_err(lost)?.await
        }
        other => other,
    };
    let (head, mut body) = began.map_err(lost)?.into_parts();
    let mut text = Vec::new();
    while let Some(piece) = body.data().await {
        text.extend_from_slice(&piece.map_err(lost)?);
    }
    let text = String::from_utf8_lossy(&text);
    if head.status != http::StatusCode::OK {
        return Err(Failure::Refused(format!("status {}: {text}", head.status)));
    }
    if text == number.to_string() {
        return Ok(());
    }
    Err(Failure::Wrong(format!("the answer to request {number} is {text:?}")))
}
