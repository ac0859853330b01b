//! A request on a stream, as Pingora sees it.
//!
//! Pingora has a session of its own for HTTP/2, which waits for the body of a request for ever and keeps interim
//! responses to itself. This one has time-outs in both directions and passes `1xx` on.
//!
//! How long it waits for the client is a matter of [`tempo`](crate::proxy::tempo), in each direction:
//!
//! - A body that stops, or trickles, ends the request with 408.
//! - A response that the client does not take, because it opens no window or too little, resets the stream.

use std::{future::poll_fn, io, sync::Arc, task::Poll, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, Response, StatusCode, header};
use pingora::{
    Error, ErrorType, OrErr as _, Result,
    http::{RequestHeader, ResponseHeader},
    protocols::{
        Digest,
        http::{
            HttpTask,
            body_buffer::FixedBuffer,
            custom::{CustomMessageWrite, server::Session},
            date::get_cached_date,
        },
        l4::socket::SocketAddr,
    },
    time::{Elapsed, timeout},
};
use tokio::time::Instant;

use crate::proxy::{
    Gateway,
    backlog::Backlog,
    tempo::{Account, Tempo},
};

/// As much of the body of a request is kept to send it again: what policies look at, and the frame that goes beyond.
const RETRY: usize = (64 << 10) + (16 << 10);

/// So many interim responses are passed on. They take no part in flow control.
const MAX_INTERIM: u8 = 8;

/// What a session counts and keeps for Pingora.
struct Kept {
    /// The time that the client has to send, and to take.
    up: Account,
    down: Account,
    read: usize,
    sent: usize,
    retry: Option<FixedBuffer>,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    drain_timeout: Option<Duration>,
}

/// The request and its response.
pub(super) struct Exchange {
    request: RequestHeader,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    /// Takes the body of the response, once its header is on its way.
    writer: Option<SendStream<Bytes>>,
    written: Option<Box<ResponseHeader>>,
    interim: u8,
    /// Whether the end of the stream is on its way.
    ended: bool,
    digest: Arc<Digest>,
    kept: Kept,
    backlog: Backlog,
}

impl Kept {
    fn new(tempo: Tempo) -> Self {
        Self {
            up: Account::new(tempo),
            down: Account::new(tempo),
            read: 0,
            sent: 0,
            retry: None,
            read_timeout: None,
            write_timeout: None,
            drain_timeout: None,
        }
    }
}

impl Exchange {
    pub(super) fn new(
        request: RequestHeader,
        body: RecvStream,
        respond: SendResponse<Bytes>,
        digest: Arc<Digest>,
        (tempo, gateway): (Tempo, Gateway),
    ) -> Self {
        Self {
            request,
            body,
            respond,
            writer: None,
            written: None,
            interim: 0,
            ended: false,
            digest,
            kept: Kept::new(tempo),
            backlog: Backlog::new(gateway),
        }
    }

    fn write_head(&mut self, mut head: Box<ResponseHeader>, end: bool) -> Result<()> {
        if self.ended || self.written.is_some() {
            return Ok(());
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "a change of protocol that nobody asked for");
        }
        if head.status.is_informational() {
            return self.write_interim(*head);
        }
        head.insert_header(header::DATE, get_cached_date())?;
        for name in [header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE] {
            head.remove_header(&name);
        }
        for name in ["keep-alive", "proxy-connection"] {
            head.remove_header(name);
        }
        let parts = head.as_owned_parts();
        let sent = self.respond.send_response(Response::from_parts(parts, ()), end);
        self.writer = Some(sent.or_err(ErrorType::WriteError, "the header of a response")?);
        self.written = Some(head);
        self.ended = end;
        Ok(())
    }

    fn write_interim(&mut self, head: ResponseHeader) -> Result<()> {
        if self.interim >= MAX_INTERIM {
            return Ok(());
        }
        self.interim += 1;
        let head = Response::from_parts(head.into(), ());
        self.respond.send_informational(head).or_err(ErrorType::WriteError, "an interim response")
    }

    async fn write_piece(&mut self, piece: Bytes, end: bool) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let Some(writer) = &mut self.writer else {
            return Error::e_explain(ErrorType::H2Error, "a body without a header");
        };
        let length = piece.len();
        let sending = send(writer, piece, end, &mut self.backlog);
        let Ok(sent) = within(&mut self.kept.down, self.kept.write_timeout, sending).await else {
            // What waits for the client to open its window is given up with the stream.
            self.reset(Reason::CANCEL);
            let error = Error::explain(ErrorType::WriteTimedout, "the client does not take the response");
            return Err(error.into_down());
        };
        if let Err(error) = sent {
            // What waits for the client to open its window is given up with the stream.
            self.reset(Reason::ENHANCE_YOUR_CALM);
            return Err(error.into_down());
        }
        self.kept.down.moved(u64::try_from(length).unwrap_or(u64::MAX));
        self.kept.sent += length;
        self.ended |= end;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.as_mut().filter(|_| !self.ended) {
            self.ended = true;
            writer.send_data(Bytes::new(), true).or_err(ErrorType::WriteError, "the end of a response")?;
        }
        // Without a header, the stream is reset when this is dropped.
        Ok(())
    }

    fn end_with(&mut self, trailers: HeaderMap) -> Result<()> {
        if let Some(writer) = self.writer.as_mut().filter(|_| !self.ended) {
            self.ended = true;
            writer.send_trailers(trailers).or_err(ErrorType::WriteError, "the trailers of a response")?;
        }
        Ok(())
    }

    /// Ends the stream in a way that is not mistaken for the end of the response.
    fn reset(&mut self, reason: Reason) {
        if !self.ended {
            self.ended = true;
            self.respond.send_reset(reason);
        }
    }

    async fn read_piece(&mut self) -> Result<Option<Bytes>> {
        let Ok(read) = within(&mut self.kept.up, self.kept.read_timeout, self.body.data()).await else {
            return Error::e_explain(ErrorType::ReadTimedout, "the body of a request");
        };
        let piece = read.transpose().or_err(ErrorType::ReadError, "the body of a request")?;
        if let Some(piece) = &piece {
            self.kept.read += piece.len();
            self.kept.up.moved(u64::try_from(piece.len()).unwrap_or(u64::MAX));
            if let Some(retry) = &mut self.kept.retry {
                retry.write_to_buffer(piece);
            }
            let released = self.body.flow_control().release_capacity(piece.len());
            released.or_err(ErrorType::ReadError, "the body of a request")?;
        }
        Ok(piece)
    }

    /// Ready when the client has given the stream up, with the error that is.
    async fn gone(&mut self) -> Box<Error> {
        let gone = match &mut self.writer {
            Some(writer) => poll_fn(|cx| writer.poll_reset(cx)).await,
            None => poll_fn(|cx| self.respond.poll_reset(cx)).await,
        };
        match gone {
            Ok(reason) => Error::explain(ErrorType::H2Error, format!("the client gave the stream up: {reason}")),
            Err(error) => Error::because(ErrorType::H2Error, "the stream is gone", error),
        }
    }

    fn has_no_body(&self) -> bool {
        let says_so = || self.request.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0");
        self.kept.read == 0 && (self.body.is_end_stream() || says_so())
    }

    fn is_read(&self) -> bool {
        self.has_no_body() || self.body.is_end_stream()
    }

    /// One step of a response; whether it was the last one.
    async fn write_task(&mut self, task: HttpTask) -> Result<bool> {
        match task {
            HttpTask::Header(head, end) => {
                self.write_head(head, end).map_err(Error::into_down)?;
                Ok(end)
            }
            HttpTask::UpgradedBody(..) => {
                Error::e_explain(ErrorType::InternalError, "another protocol on a stream that has not changed")
            }
            HttpTask::Body(piece, end) => {
                if let Some(piece) = piece.filter(|piece| !piece.is_empty()) {
                    self.write_piece(piece, end).await?;
                }
                Ok(end)
            }
            HttpTask::Trailer(Some(trailers)) => {
                self.end_with(*trailers)?;
                Ok(true)
            }
            HttpTask::Trailer(None) | HttpTask::Done => Ok(true),
            HttpTask::Failed(error) => Err(error),
        }
    }
}

/// Waits for the client, as long as its account and the time-out allow.
async fn within<T>(
    account: &mut Account,
    limit: Option<Duration>,
    moving: impl Future<Output = T>,
) -> Result<T, Elapsed> {
    let now = Instant::now();
    let left = account.wait(now).saturating_duration_since(now);
    let moved = timeout(limit.map_or(left, |limit| limit.min(left)), moving).await;
    account.pause(Instant::now());
    moved
}

/// Sends as the client opens its window.
async fn send(writer: &mut SendStream<Bytes>, mut piece: Bytes, end: bool, backlog: &mut Backlog) -> Result<()> {
    const CONTEXT: &str = "the body of a response";
    if piece.is_empty() {
        return writer.send_data(piece, end).or_err(ErrorType::WriteError, CONTEXT);
    }
    while !piece.is_empty() {
        writer.reserve_capacity(piece.len());
        let capacity = poll_fn(|cx| {
            let polled = writer.poll_capacity(cx);
            match polled.is_pending().then(|| backlog.waits()) {
                Some(Err(crowded)) => Poll::Ready(Err(io::Error::from(crowded))),
                Some(Ok(())) | None => polled.map(Ok),
            }
        });
        let Some(granted) = capacity.await.or_err(ErrorType::WriteError, CONTEXT)? else {
            return Error::e_explain(ErrorType::H2Error, "the stream is closed");
        };
        let granted = granted.or_err(ErrorType::H2Error, CONTEXT)?;
        let part = piece.split_to(granted.min(piece.len()));
        writer.send_data(part, end && piece.is_empty()).or_err(ErrorType::WriteError, CONTEXT)?;
    }
    backlog.moves();
    Ok(())
}

#[async_trait]
impl Session for Exchange {
    fn req_header(&self) -> &RequestHeader {
        &self.request
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.request
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.read_piece().await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        if self.is_read() {
            return Ok(());
        }
        let limit = self.kept.drain_timeout.unwrap_or(Duration::MAX);
        let draining = async {
            while self.read_piece().await?.is_some() {}
            Ok(())
        };
        match timeout(limit, draining).await {
            Ok(drained) => drained,
            Err(_) => Error::e_explain(ErrorType::ReadTimedout, "the rest of a body"),
        }
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.write_head(head, end)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.write_head(Box::new(head.clone()), end)
    }

    async fn write_body(&mut self, piece: Bytes, end: bool) -> Result<()> {
        self.write_piece(piece, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.end_with(trailers)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut end = false;
        for task in tasks {
            end |= self.write_task(task).await?;
        }
        if end {
            self.end().map_err(Error::into_down)?;
        }
        Ok(end)
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.kept.read_timeout = timeout;
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.kept.read_timeout
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.kept.write_timeout = timeout;
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.kept.write_timeout
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.kept.drain_timeout = timeout;
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.kept.drain_timeout
    }

    fn request_summary(&self) -> String {
        format!("{} over HTTP/2", self.request.method)
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.written.as_deref()
    }

    async fn shutdown(&mut self, code: u32, _: &str) {
        self.reset(code.into());
    }

    async fn abandon(&mut self, _: &str) {
        self.reset(Reason::INTERNAL_ERROR);
    }

    fn is_body_done(&mut self) -> bool {
        self.is_read()
    }

    async fn finish(&mut self) -> Result<()> {
        self.end()
    }

    fn is_body_empty(&mut self) -> bool {
        self.has_no_body()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if no_body_expected || self.is_read() {
            return Err(self.gone().await);
        }
        self.read_piece().await
    }

    fn body_bytes_sent(&self) -> usize {
        self.kept.sent
    }

    fn body_bytes_read(&self) -> usize {
        self.kept.read
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Arc::get_mut(&mut self.digest)
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref()?.peer_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref()?.local_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        // For requests that Pingora makes of this one, of which there are none.
        Bytes::new()
    }

    fn enable_retry_buffering(&mut self) {
        self.kept.retry.get_or_insert_with(|| FixedBuffer::new(RETRY));
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.kept.retry.as_ref().is_some_and(FixedBuffer::is_truncated)
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.kept.retry.as_ref().filter(|retry| !retry.is_truncated())?.get_buffer()
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
