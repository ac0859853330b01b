//! Streams of HTTP/2 that an endpoint does not take.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use h2::Reason;

use super::config;
use crate::support::{Gateway, request};

/// A server of HTTP/2 that refuses the first stream with this reason, and answers the others.
struct Picky {
    address: SocketAddr,
    streams: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

impl Picky {
    fn start(reason: Reason) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let (address, streams) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&streams);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await?;
                    while let Some(asked) = connection.accept().await {
                        let (request, mut respond) = asked?;
                        if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                            respond.send_reset(reason);
                            continue;
                        }
                        tokio::spawn(async move {
                            let mut body = request.into_body();
                            let mut length = 0;
                            while let Some(Ok(piece)) = body.data().await {
                                length += piece.len();
                                let _ = body.flow_control().release_capacity(piece.len());
                            }
                            let mut answer = respond.send_response(http::Response::new(()), false).unwrap();
                            answer.send_data(Bytes::from(length.to_string()), true).unwrap();
                        });
                    }
                    Ok::<_, h2::Error>(())
                });
            }
        });
        Self { address, streams, _runtime: runtime }
    }
}

fn post(gateway: &Gateway) -> crate::support::Response {
    let mut client = gateway.client();
    client.write((request("POST", "/", &[("Content-Length", "5")]) + "hello").as_bytes());
    client.read_answer_to("POST")
}

#[test]
fn a_stream_that_was_not_looked_at_is_sent_again_whatever_its_method() {
    let up = Picky::start(Reason::REFUSED_STREAM);
    let gateway = Gateway::start(&config(&[up.address], "protocol: http2, retries: { attempts: 0 }"));
    let answer = post(&gateway);
    assert_eq!((answer.status, answer.text().as_str()), (200, "5"), "{answer:?}");
    assert_eq!(up.streams.load(Ordering::SeqCst), 2);
}

#[test]
fn a_stream_that_broke_is_not() {
    let up = Picky::start(Reason::INTERNAL_ERROR);
    let gateway = Gateway::start(&config(&[up.address], "protocol: http2"));
    assert_eq!(post(&gateway).status, 502);
    assert_eq!(up.streams.load(Ordering::SeqCst), 1);
}
