//! One request as Pingora's proxy sees it: what makes HTTP/3 run through the same pipeline as the other versions.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use http::HeaderMap;
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    protocols::{
        Digest,
        http::{
            HttpTask,
            custom::{CustomMessageWrite, server::Session},
        },
        l4::socket::SocketAddr,
    },
    time::timeout,
};

use super::{
    answer::{Answer, Stopped},
    body::{Body, down},
    code::Code,
    control::Peer,
};

type Messages = Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

/// A request with its response.
pub(super) struct Exchange {
    pub(super) head: RequestHeader,
    pub(super) body: Body,
    pub(super) answer: Answer,
    /// Ends when the client does not want the response any more; nothing once it has.
    pub(super) stopped: Option<Stopped>,
    pub(super) drain_timeout: Option<Duration>,
    pub(super) digest: Arc<Digest>,
    pub(super) client: SocketAddr,
    pub(super) peer: Arc<Peer>,
}

impl Exchange {
    /// Ends with an error when the client does not want the response any more.
    async fn cancelled(&mut self) -> Error {
        let outcome = match &mut self.stopped {
            Some(stopped) => stopped.await,
            None => std::future::pending().await,
        };
        self.stopped = None;
        let what = match outcome {
            Ok(Some(_)) => "the client has cancelled the request",
            // It has all of the response, and nothing more can come of it.
            Ok(None) => std::future::pending().await,
            Err(_) => "the connection is gone",
        };
        *down(Error::explain(ErrorType::ConnectionClosed, what))
    }

    async fn task(&mut self, task: HttpTask) -> Result<bool> {
        match task {
            HttpTask::Header(head, end) => {
                self.answer.head(head, end, &self.peer).await?;
                Ok(end)
            }
            HttpTask::Body(piece, end) | HttpTask::UpgradedBody(piece, end) => {
                self.answer.body(piece.unwrap_or_default(), end).await?;
                Ok(end)
            }
            HttpTask::Trailer(trailers) => {
                if let Some(trailers) = trailers {
                    self.answer.trailers(&trailers).await?;
                }
                Ok(true)
            }
            HttpTask::Done => Ok(true),
            HttpTask::Failed(error) => Err(error),
        }
    }

    async fn drain(&mut self) -> Result<()> {
        while self.body.read().await?.is_some() {}
        Ok(())
    }
}

#[async_trait]
impl Session for Exchange {
    fn req_header(&self) -> &RequestHeader {
        &self.head
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.head
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.body.read().await
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if no_body_expected || self.body.is_over() {
            return Err(Box::new(self.cancelled().await));
        }
        self.body.read().await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        match self.drain_timeout {
            None => self.drain().await,
            Some(limit) => match timeout(limit, self.drain()).await {
                Ok(drained) => drained,
                Err(_) => Err(down(Error::explain(ErrorType::ReadTimedout, "the rest of the body"))),
            },
        }
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.answer.head(head, end, &self.peer).await
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.answer.head(Box::new(head.clone()), end, &self.peer).await
    }

    async fn write_body(&mut self, piece: Bytes, end: bool) -> Result<()> {
        self.answer.body(piece, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.answer.trailers(&trailers).await
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut over = false;
        for task in tasks {
            over |= self.task(task).await?;
        }
        if over {
            self.answer.finish();
        }
        Ok(over)
    }

    fn set_read_timeout(&mut self, limit: Option<Duration>) {
        self.body.timeout = limit;
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.body.timeout
    }

    // How long a client may take its time, the response knows.
    fn set_write_timeout(&mut self, _: Option<Duration>) {}

    fn get_write_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_total_drain_timeout(&mut self, limit: Option<Duration>) {
        self.drain_timeout = limit;
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.drain_timeout
    }

    // Without path and query, which may hold secrets.
    fn request_summary(&self) -> String {
        format!("{} over HTTP/3", self.head.method)
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.answer.written()
    }

    async fn shutdown(&mut self, _: u32, _: &str) {
        self.answer.abandon(Code::INTERNAL_ERROR);
    }

    fn is_body_done(&mut self) -> bool {
        self.body.is_over()
    }

    async fn finish(&mut self) -> Result<()> {
        self.answer.finish();
        Ok(())
    }

    fn is_body_empty(&mut self) -> bool {
        self.body.is_empty()
    }

    fn body_bytes_sent(&self) -> usize {
        self.answer.sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.body.received()
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Arc::get_mut(&mut self.digest)
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        Some(&self.client)
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        format!("{} {} HTTP/1.1\r\n\r\n", self.head.method, self.head.uri).into()
    }

    fn enable_retry_buffering(&mut self) {
        self.body.keep_for_retry();
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.body.is_retry_cut()
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.body.kept()
    }

    // Messages beside requests: HTTP/3 has none.
    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<Messages> {
        None
    }

    fn restore_custom_message_reader(&mut self, _: Messages) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // What nobody reads need not be sent.
        self.body.stop();
    }
}
