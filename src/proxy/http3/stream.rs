//! The life of a request on its stream.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Version;
use pingora::{
    ErrorType,
    apps::HttpServerApp,
    http::RequestHeader,
    protocols::{Digest, http::ServerSession, l4::socket::SocketAddr},
    time::timeout,
};
use quinn::{RecvStream, SendStream, VarInt};

use super::{
    Counted, Streams,
    answer::Answer,
    body::Body,
    code::Code,
    control::Peer,
    ended,
    incoming::{Event, Incoming, Stop},
    request::{self, Refused},
    session::Exchange,
};
use crate::{
    policy::Reply,
    proxy::{
        End,
        accept::{Acceptor, no_request},
        connection::Connection,
        in_flight::Kind,
        respond,
    },
    reject::Reject,
};

/// So many requests that are none are answered on a connection; after that it is closed.
const MAX_MALFORMED: usize = 32;

/// How long the process waits for a client that does not say whether it got the end of a response.
const LAST: Duration = Duration::from_secs(3);

/// What the requests of a connection have in common.
pub(super) struct Shared {
    pub(super) acceptor: Acceptor,
    pub(super) quic: quinn::Connection,
    pub(super) connection: Arc<Connection>,
    pub(super) peer: Arc<Peer>,
    pub(super) digest: Arc<Digest>,
    pub(super) streams: Arc<Streams>,
    pub(super) malformed: AtomicUsize,
}

/// Why a request does not get as far as the proxy.
enum Early {
    /// It is answered with this.
    Refused(Reject, Box<RequestHeader>),
    /// The stream ends with this.
    Reset(Code),
    /// The connection ends with this.
    Close(Code),
    /// The client is gone.
    Gone,
}

impl From<Stop> for Early {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Cancelled | Stop::Lost => Self::Gone,
            Stop::TooSlow => Self::refused(Reject::SLOW_HEADER),
            Stop::TooLarge => Self::refused(Reject::HeaderTooLarge),
            Stop::Stream(code) => Self::Reset(code),
            Stop::Connection(code) => Self::Close(code),
        }
    }
}

impl Early {
    /// Of a request of which nothing is known.
    fn refused(reject: Reject) -> Self {
        let mut head = no_request();
        head.set_version(Version::HTTP_3);
        Self::Refused(reject, Box::new(head))
    }
}

/// Refuses a request of which nothing was read.
pub(super) fn reject(mut send: SendStream, mut recv: RecvStream) {
    let code = VarInt::from(Code::REQUEST_REJECTED);
    if send.reset(code).is_err() || recv.stop(code).is_err() {
        log::trace!("a stream was over already");
    }
}

impl Shared {
    /// Reads what the client says about the connection; `false` at the end of the connection.
    pub(super) fn listen(&self, opened: Result<RecvStream, quinn::ConnectionError>) -> bool {
        match opened {
            Ok(stream) => {
                tokio::spawn(Arc::clone(&self.peer).listen(stream, self.quic.clone()));
                true
            }
            Err(error) => ended(&error),
        }
    }

    /// Serves the request of a stream.
    pub(super) async fn serve(self: Arc<Self>, send: SendStream, recv: RecvStream, counted: Counted) {
        let mut answer = Answer::new(send, self.connection.limits.tempo(), self.acceptor.gateway.clone());
        let acknowledged = answer.stopped();
        // Boxed, so that the rest of the stream's life does not carry the space for it.
        match Box::pin(self.read(recv)).await {
            Ok((head, body)) => {
                answer.is_head = head.method == http::Method::HEAD;
                let stopped = Some(answer.stopped());
                let exchange = Exchange {
                    head,
                    body,
                    answer,
                    stopped,
                    drain_timeout: None,
                    digest: Arc::clone(&self.digest),
                    client: SocketAddr::Inet(self.quic.remote_address()),
                    peer: Arc::clone(&self.peer),
                };
                let session = ServerSession::new_custom(Box::new(exchange));
                // A stream is no connection that could be used again.
                drop(self.acceptor.proxy.process_new_http(session, &self.acceptor.leave).await);
            }
            Err(early) => Box::pin(self.turn_down(early, answer)).await,
        }
        // What the client has not acknowledged ends with the process.
        let last = self.acceptor.gateway.room().flights().begin(Kind::Request);
        drop(timeout(LAST, acknowledged).await);
        drop((last, counted));
    }

    /// The header of the request, and its body as far as it can be told whether there is one.
    async fn read(&self, recv: RecvStream) -> Result<(RequestHeader, Body), Early> {
        let limits = &self.connection.limits;
        let mut incoming = Incoming::new(recv, limits.max_header);
        let section = timeout(limits.header, self.section(&mut incoming)).await;
        let section = section.map_err(|_elapsed| Early::refused(Reject::SLOW_HEADER))??;
        let request = request::read(&section, limits).map_err(|refused| match refused {
            Refused::Section => Early::Close(Code::QPACK_DECOMPRESSION_FAILED),
            Refused::With(reject, head) => Early::Refused(reject, head),
        })?;
        let mut body = Body::new(incoming, request.length, self.quic.clone(), limits.tempo());
        match timeout(limits.header, body.begin(&request.head.method)).await {
            Ok(Ok(())) => Ok((request.head, body)),
            Ok(Err(error)) if *error.etype() == ErrorType::InvalidHTTPHeader => {
                let reject = Reject::BadRequest("the body is not as long as its Content-Length");
                Err(Early::Refused(reject, Box::new(request.head)))
            }
            Ok(Err(_)) => Err(Early::Gone),
            Err(_) => Err(Early::Refused(Reject::SLOW_HEADER, Box::new(request.head))),
        }
    }

    async fn section(&self, incoming: &mut Incoming) -> Result<Bytes, Early> {
        let mut held = self.acceptor.gateway.room().hold(0);
        let event = poll_fn(|cx| {
            let event = incoming.poll_event(cx);
            if event.is_pending() {
                held.set(u64::try_from(incoming.buffered()).unwrap_or(u64::MAX));
            }
            event
        });
        match event.await? {
            Event::Head(section) => Ok(section),
            Event::Data(_) | Event::End => Err(Early::Close(Code::FRAME_UNEXPECTED)),
        }
    }

    async fn turn_down(&self, early: Early, mut answer: Answer) {
        match early {
            Early::Refused(reject, head) => self.refuse(reject, &head, answer).await,
            Early::Reset(code) => answer.abandon(code),
            Early::Close(code) => self.quic.close(code.into(), b""),
            Early::Gone => {}
        }
    }

    /// Answers a request that never became one, counts and logs it.
    async fn refuse(&self, reject: Reject, head: &RequestHeader, mut answer: Answer) {
        let gateway = &self.acceptor.gateway;
        let mut ctx = gateway.context();
        ctx.adopt(&self.connection);
        if let Ok(Reply { head: response, body }) = respond::whole_answer(&reject, head, &mut ctx) {
            answer.is_head = head.method == http::Method::HEAD;
            let mut sent = answer.head(Box::new(response), false, &self.peer).await;
            if sent.is_ok() {
                sent = answer.body(body, true).await;
            }
            if let Err(error) = sent {
                log::debug!("a refusal could not be sent: {error}");
            }
        }
        let end = End {
            status: answer.written().map(|head| head.status.as_u16()),
            sent: u64::try_from(answer.sent()).unwrap_or(u64::MAX),
            ..End::default()
        };
        ctx.reject = Some(reject);
        gateway.finish(head, &ctx, &end);
        if self.malformed.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_MALFORMED {
            self.quic.close(Code::EXCESSIVE_LOAD.into(), b"");
        }
    }
}
