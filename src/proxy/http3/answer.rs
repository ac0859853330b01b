//! The response, on its way out.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::Poll,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header};
use pingora::{Error, ErrorType, Result, http::ResponseHeader, protocols::http::date::get_cached_date};
use quinn::{SendStream, StoppedError, VarInt, WriteError};

use super::{
    super::{
        Gateway,
        backlog::Backlog,
        hop,
        patience::{Patience, TooSlow},
        tempo::Tempo,
    },
    body::down,
    code::Code,
    control::Peer,
    frame, qpack,
};

/// Ends when the client does not want a stream any more, or has all of it.
pub(super) type Stopped = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>;

/// A response, until it has ended. Dropped before that, it tells the client that it is not whole.
#[derive(Debug)]
pub(super) struct Answer {
    stream: SendStream,
    written: Option<Box<ResponseHeader>>,
    ended: bool,
    sent: usize,
    /// Whether the request is one whose response has no body, whatever its header says.
    pub(super) is_head: bool,
    patience: Patience,
    backlog: Backlog,
}

impl Answer {
    pub(super) fn new(stream: SendStream, tempo: Tempo, gateway: Gateway) -> Self {
        let (patience, backlog) = (Patience::new(tempo), Backlog::new(gateway));
        Self { stream, written: None, ended: false, sent: 0, is_head: false, patience, backlog }
    }

    /// The header, once it was sent.
    pub(super) fn written(&self) -> Option<&ResponseHeader> {
        self.written.as_deref()
    }

    /// How much of the body was sent.
    pub(super) fn sent(&self) -> usize {
        self.sent
    }

    /// Ends when the client does not want the rest, or has all of it.
    pub(super) fn stopped(&self) -> Stopped {
        Box::pin(self.stream.stopped())
    }

    /// Sends a header; those of interim responses may come before the one that counts.
    pub(super) async fn head(&mut self, mut head: Box<ResponseHeader>, end: bool, peer: &Peer) -> Result<()> {
        if self.ended || self.written.is_some() {
            return Ok(());
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::explain(ErrorType::InternalError, "HTTP/3 cannot switch to another protocol"));
        }
        // What is about a connection of HTTP/1.1 (RFC 9114, 4.2).
        for name in [header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE, KEEP_ALIVE, PROXY_CONNECTION] {
            head.remove_header(&name);
        }
        let is_final = !head.status.is_informational();
        if is_final {
            head.insert_header(header::DATE, get_cached_date())?;
        }
        if qpack::size(&head.headers) > peer.max_header() {
            let what = "the header of the response is too large for the client";
            return Err(down(Error::explain(ErrorType::WriteError, what)));
        }
        let section = qpack::encode(Some(head.status), &head.headers);
        self.frame(frame::HEADERS, section.into()).await?;
        if is_final {
            let no_body = self.is_head || hop::is_bodiless(head.status);
            self.written = Some(head);
            if end || no_body {
                self.finish();
            }
        }
        Ok(())
    }

    /// Sends some of the body.
    pub(super) async fn body(&mut self, piece: Bytes, end: bool) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        if self.written.is_none() {
            return Err(Error::explain(ErrorType::InternalError, "a body without a header"));
        }
        let length = piece.len();
        if length > 0 {
            self.frame(frame::DATA, piece).await?;
            self.sent = self.sent.saturating_add(length);
        }
        if end {
            self.finish();
        }
        Ok(())
    }

    /// Sends trailers, and with that the end.
    pub(super) async fn trailers(&mut self, trailers: &HeaderMap) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        if !trailers.is_empty() {
            self.frame(frame::HEADERS, qpack::encode(None, trailers).into()).await?;
        }
        self.finish();
        Ok(())
    }

    async fn frame(&mut self, kind: u64, payload: Bytes) -> Result<()> {
        let mut parts = [frame::header(kind, payload.len()).into(), payload];
        let mut rest: &mut [Bytes] = &mut parts;
        while !rest.is_empty() {
            let written = poll_fn(|cx| match pin!(self.stream.write_chunks(rest)).poll(cx) {
                Poll::Ready(written) => Poll::Ready(written.map_err(|error| gone(&error))),
                Poll::Pending => match self.backlog.waits() {
                    Ok(()) => self.patience.poll_over(cx).map(|TooSlow| Err(slow())),
                    Err(crowded) => Poll::Ready(Err(down(Error::because(
                        ErrorType::WriteError,
                        "the client does not take its response",
                        io::Error::from(crowded),
                    )))),
                },
            });
            let written = written.await?;
            self.backlog.moves();
            self.patience.moved(written.bytes);
            rest = rest.get_mut(written.chunks..).unwrap_or_default();
        }
        Ok(())
    }

    /// Ends the response, if it has begun.
    pub(super) fn finish(&mut self) {
        if !self.ended && self.written.is_some() {
            self.ended = true;
            if self.stream.finish().is_err() {
                log::trace!("a stream was over already");
            }
        }
    }

    /// Tells the client that the response will not become whole.
    pub(super) fn abandon(&mut self, code: Code) {
        if !self.ended {
            self.ended = true;
            if self.stream.reset(code.into()).is_err() {
                log::trace!("a stream was over already");
            }
        }
    }
}

#[expect(clippy::unnecessary_box_returns, reason = "errors of Pingora are boxed")]
fn gone(error: &WriteError) -> Box<Error> {
    let what = match error {
        WriteError::Stopped(_) => "the client has cancelled the request",
        WriteError::ConnectionLost(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => {
            "the connection is gone"
        }
    };
    down(Error::explain(ErrorType::WriteError, what))
}

#[expect(clippy::unnecessary_box_returns, reason = "errors of Pingora are boxed")]
fn slow() -> Box<Error> {
    down(Error::explain(ErrorType::WriteTimedout, "the client does not take its response"))
}

impl Drop for Answer {
    fn drop(&mut self) {
        // Otherwise what was sent would pass for the whole response.
        self.abandon(Code::INTERNAL_ERROR);
    }
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
