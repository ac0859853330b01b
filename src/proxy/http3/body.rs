//! The body of a request, as Pingora reads it.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use pingora::{Error, ErrorType, Result, protocols::http::body_buffer::FixedBuffer, time::timeout};

use super::{
    super::{
        patience::{Patience, TooSlow},
        tempo::Tempo,
    },
    code::Code,
    incoming::{Event, Incoming, Stop},
};

/// What is kept to send a request again: what policies look at, and the piece that goes beyond.
const MAX_RETRY: usize = 128 << 10;

/// Pieces below this size are put together, as far as more is there already: each costs a turn through the proxy.
const SMALL: usize = 4 << 10;

/// The body of a request, on its way in.
pub(super) struct Body {
    incoming: Incoming,
    /// Read already.
    first: Option<Bytes>,
    /// How long it is, if the client said so.
    length: Option<u64>,
    received: u64,
    connection: quinn::Connection,
    patience: Patience,
    pub(super) timeout: Option<Duration>,
    retry: Option<FixedBuffer>,
}

impl Body {
    pub(super) fn new(incoming: Incoming, length: Option<u64>, connection: quinn::Connection, tempo: Tempo) -> Self {
        let patience = Patience::new(tempo);
        Self { incoming, first: None, length, received: 0, connection, patience, timeout: None, retry: None }
    }

    /// Finds out whether there is one; only a client that said so, or whose method has none, is waited for.
    pub(super) async fn begin(&mut self, method: &http::Method) -> Result<()> {
        use http::Method;
        let has_none = matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS);
        let is_due = self.length == Some(0) || self.length.is_none() && has_none;
        let mut waiting = std::pin::pin!(poll_fn(|cx| self.poll_piece(cx)));
        let first = if is_due {
            Some(waiting.await)
        } else {
            poll_fn(|cx| match waiting.as_mut().poll(cx) {
                Poll::Ready(first) => Poll::Ready(Some(first)),
                Poll::Pending => Poll::Ready(None),
            })
            .await
        };
        // From here on it is waited for only where it is read.
        self.patience.rest();
        self.first = match first {
            Some(Err(stop)) => return Err(self.give_up(stop)),
            Some(Ok(first)) => first,
            None => None,
        };
        Ok(())
    }

    /// Whether all of it has been read.
    pub(super) fn is_over(&self) -> bool {
        self.first.is_none() && self.incoming.is_over()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.is_over() && self.received == 0
    }

    /// So much has come.
    pub(super) fn received(&self) -> usize {
        let waiting = self.first.as_ref().map_or(0, Bytes::len);
        usize::try_from(self.received).unwrap_or(usize::MAX).saturating_sub(waiting)
    }

    /// The next piece; nothing at the end.
    pub(super) async fn read(&mut self) -> Result<Option<Bytes>> {
        let piece = if let Some(first) = self.first.take() {
            Ok(Some(first))
        } else {
            let limit = self.timeout;
            let next = poll_fn(|cx| self.poll_piece(cx));
            match limit {
                None => next.await,
                Some(limit) => match timeout(limit, next).await {
                    Ok(piece) => piece,
                    Err(_) => return Err(down(Error::explain(ErrorType::ReadTimedout, "the body of a request"))),
                },
            }
        };
        let piece = piece.map_err(|stop| self.give_up(stop))?;
        if let (Some(retry), Some(piece)) = (&mut self.retry, &piece) {
            retry.write_to_buffer(piece);
        }
        Ok(piece)
    }

    /// Asks the client to send no more.
    pub(super) fn stop(&mut self) {
        self.incoming.stop(Code::NO_ERROR);
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Stop>> {
        let event = match self.incoming.poll_event(cx) {
            Poll::Ready(event) => event,
            Poll::Pending => ready!(self.patience.poll_over(cx).map(|TooSlow| Err(Stop::TooSlow))),
        };
        let piece = match event? {
            Event::Data(piece) => piece,
            Event::End => return Poll::Ready(self.fits(0).map(|()| None)),
            Event::Head(_) => return Poll::Ready(Err(Stop::Connection(Code::FRAME_UNEXPECTED))),
        };
        let piece = if piece.len() < SMALL { self.gather(piece, cx)? } else { piece };
        self.patience.moved(piece.len());
        self.fits(piece.len())?;
        Poll::Ready(Ok(Some(piece)))
    }

    fn gather(&mut self, first: Bytes, cx: &mut Context<'_>) -> Result<Bytes, Stop> {
        let mut more = None;
        loop {
            let length = more.as_ref().map_or(first.len(), BytesMut::len);
            if length >= SMALL {
                break;
            }
            match self.incoming.poll_event(cx)? {
                Poll::Ready(Event::Data(piece)) => {
                    let whole: &mut BytesMut = more.get_or_insert_with(|| BytesMut::from(&*first));
                    whole.extend_from_slice(&piece);
                }
                Poll::Ready(Event::End | Event::Head(_)) | Poll::Pending => break,
            }
        }
        Ok(more.map_or(first, BytesMut::freeze))
    }

    /// Whether the body is as long as the client said (RFC 9114, 4.1.2), with so many bytes more.
    fn fits(&mut self, more: usize) -> Result<(), Stop> {
        self.received = self.received.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
        let fits = self.length.is_none_or(|length| {
            if self.incoming.is_over() { self.received == length } else { self.received <= length }
        });
        if fits { Ok(()) } else { Err(Stop::Stream(Code::MESSAGE_ERROR)) }
    }

    #[expect(clippy::unnecessary_box_returns, reason = "errors of Pingora are boxed")]
    fn give_up(&mut self, stop: Stop) -> Box<Error> {
        let (kind, what) = match stop {
            Stop::Cancelled => (ErrorType::ConnectionClosed, "the client has cancelled the request"),
            Stop::Lost => (ErrorType::ConnectionClosed, "the connection is gone"),
            Stop::TooSlow => (ErrorType::ReadTimedout, "the body of a request"),
            Stop::TooLarge => (ErrorType::InvalidHTTPHeader, "trailers are too large"),
            Stop::Stream(code) => {
                self.incoming.stop(code);
                (ErrorType::InvalidHTTPHeader, "the body is not as long as its Content-Length")
            }
            Stop::Connection(code) => {
                self.connection.close(code.into(), b"");
                (ErrorType::ConnectionClosed, "the client does not speak HTTP/3")
            }
        };
        down(Error::explain(kind, what))
    }

    /// Keeps what is read from now on, to send it again.
    pub(super) fn keep_for_retry(&mut self) {
        self.retry.get_or_insert_with(|| FixedBuffer::new(MAX_RETRY));
    }

    /// Whether more was read than is kept.
    pub(super) fn is_retry_cut(&self) -> bool {
        self.retry.as_ref().is_some_and(FixedBuffer::is_truncated)
    }

    /// What was kept, if it is all.
    pub(super) fn kept(&self) -> Option<Bytes> {
        self.retry.as_ref().filter(|kept| !kept.is_truncated())?.get_buffer()
    }
}

/// An error that is the client's.
#[expect(clippy::unnecessary_box_returns, reason = "errors of Pingora are boxed")]
pub(super) fn down(mut error: Box<Error>) -> Box<Error> {
    error.as_down();
    error
}
