//! A client's connection that yields one request at a time.
//!
//! A client may send several requests without waiting for answers
//! ([RFC 9112, 9.3.2](https://www.rfc-editor.org/rfc/rfc9112#section-9.3.2)). Pingora reads as much as comes, and breaks
//! off a request behind which another one comes. So it gets to see one request, and what is behind it is kept here, to be
//! checked like every other when its turn comes.
//!
//! It is also where the client is waited for, and where it is found to be [too slow](super::tempo).

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use bytes::BytesMut;
use pingora::{
    ErrorType,
    protocols::{ALPN, Shutdown, Ssl, Stream, tls::SslDigest},
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{
    Gateway,
    backlog::{Backlog, Crowded},
    boundary::Boundary,
    connection::Connection,
    patience::{Delivery, Patience, TooSlow},
    tempo::Tempo,
    web_socket::{Guard, Source},
};
use crate::{layer::known_by, reject::Reject};

/// How much is kept of requests whose turn has not come. The rest waits in the socket.
const MAX_AHEAD: usize = 16 << 10;

/// Room for the header of most requests.
pub(super) const INITIAL: usize = 4096;

/// Why a body is not read on.
const BROKEN: Reject = Reject::BadRequest("the body of the request is not in valid chunks");

/// The error of reading such a body.
#[derive(Debug, thiserror::Error)]
#[error("the chunks are not valid")]
struct BrokenBody;

/// The connection.
#[derive(Debug)]
pub(super) struct Turns {
    pub(super) inner: Stream,
    /// What the request that is served still has to come.
    boundary: Boundary,
    /// What came behind it.
    pub(super) next: BytesMut,
    connection: Arc<Connection>,
    /// What it is once it is a WebSocket.
    guard: Option<Box<Guard>>,
    /// Whether the client owes the rest of the request. In another protocol it owes nothing.
    owed: bool,
    tempo: Tempo,
    patience: Patience,
    delivery: Delivery,
    backlog: Backlog,
}

impl Turns {
    pub(super) fn new(inner: Stream, connection: &Arc<Connection>, gateway: Gateway) -> Self {
        let tempo = connection.limits.tempo();
        Self {
            inner,
            boundary: Boundary::Length(0),
            next: BytesMut::new(),
            connection: Arc::clone(connection),
            guard: None,
            owed: false,
            tempo,
            patience: Patience::new(tempo),
            delivery: Delivery::new(tempo),
            backlog: Backlog::new(gateway),
        }
    }

    /// Reads the first bytes of a request, any number of them. Nothing is set aside for them before they are there:
    /// most connections wait for their next request most of the time.
    pub(super) async fn read_first(&mut self) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut piece = [const { MaybeUninit::uninit() }; INITIAL];
            let mut read = ReadBuf::uninit(&mut piece);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut read))?;
            self.next = BytesMut::from(read.filled());
            Poll::Ready(Ok(read.filled().len()))
        })
        .await
    }

    fn below(&self) -> &Stream {
        &self.inner
    }

    fn below_mut(&mut self) -> &mut Stream {
        &mut self.inner
    }

    /// The connection and its guard, if it became a WebSocket; what came ahead of that stands first.
    fn guarded(&mut self) -> Option<(&mut Guard, Source<'_>)> {
        if self.boundary != Boundary::Open {
            return None;
        }
        let talk = self.connection.web_socket.get()?;
        let guard = self.guard.get_or_insert_with(|| Box::new(Guard::new(talk)));
        Some((&mut **guard, Source { ahead: &mut self.next, inner: &mut self.inner }))
    }

    /// Whether what comes now is behind the request. Behind a handshake, that is so until it has been answered: what
    /// follows is frames if the upstream switches, and the next request if it does not.
    fn is_ahead(&self) -> bool {
        self.boundary.is_over() || (self.boundary == Boundary::Open && self.connection.web_socket.get().is_none())
    }

    /// The next request has its turn: takes out what is there of it, which is a header of this length and some of the body.
    pub(super) fn begin(&mut self, head: usize, mut body: Boundary) -> Result<BytesMut, Reject> {
        self.owed = body != Boundary::Open;
        let rest = self.next.get(head..).unwrap_or_default();
        let own = head + if body == Boundary::Open { 0 } else { body.advance(rest) };
        if body == Boundary::Broken {
            return Err(BROKEN);
        }
        self.boundary = body;
        self.patience = Patience::new(self.tempo);
        Ok(if own >= self.next.len() { std::mem::take(&mut self.next) } else { self.next.split_to(own) })
    }

    /// The request is over. What was taken of its answer goes on to count, so that many small answers are no way around.
    pub(super) fn end(&mut self) {
        self.patience = Patience::new(self.tempo);
        self.delivery.calm();
    }

    /// Reads ahead until nothing comes any more, to notice that the client is gone.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut piece = [0; 256];
        while self.next.len() < MAX_AHEAD {
            let mut read = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.next.extend_from_slice(read.filled());
        }
        Poll::Pending
    }
}

/// What to tell a client whose request was broken off here.
pub(super) fn broken(error: &pingora::Error) -> Option<Reject> {
    if matches!(error.etype(), ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd")) {
        return Some(BROKEN);
    }
    let cause = error.root_cause().downcast_ref::<io::Error>()?.get_ref()?;
    if cause.is::<BrokenBody>() {
        Some(BROKEN)
    } else if cause.is::<Crowded>() {
        Some(Reject::Overloaded("buffers: the client does not take its response"))
    } else {
        cause.downcast_ref::<TooSlow>().map(|_| Reject::SLOW_BODY)
    }
}

impl AsyncRead for Turns {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_ahead() {
            return self.poll_ahead(cx);
        }
        if let Some((guard, mut source)) = self.guarded() {
            return guard.poll_read(&mut source, cx, buf);
        }
        let before = buf.filled().len();
        match Pin::new(&mut self.inner).poll_read(cx, buf) {
            Poll::Ready(read) => read?,
            Poll::Pending if self.owed => return self.patience.poll_over(cx).map(|slow| Err(slow.into())),
            Poll::Pending => return Poll::Pending,
        }
        let fresh = buf.filled().get(before..).unwrap_or_default();
        self.patience.moved(fresh.len());
        let own = self.boundary.advance(fresh);
        if self.boundary == Boundary::Broken {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, BrokenBody)));
        }
        self.next.extend_from_slice(fresh.get(own..).unwrap_or_default());
        buf.set_filled(before + own);
        Poll::Ready(Ok(()))
    }
}

impl Turns {
    /// Waits no longer than the client is borne.
    fn delivered<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_pending() {
            self.backlog.waits()?;
            return self.delivery.poll_over(self.inner.id(), cx).map(|slow| Err(slow.into()));
        }
        self.backlog.moves();
        self.delivery.rest();
        outcome
    }

    fn wrote(&mut self, outcome: &Poll<io::Result<usize>>) {
        // What the client sends is not looked at meanwhile.
        self.patience.rest();
        if let Poll::Ready(Ok(bytes)) = outcome {
            self.delivery.wrote(*bytes);
        }
    }
}

impl AsyncWrite for Turns {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = match self.guarded() {
            Some((guard, source)) => guard.poll_write(source.inner, cx, buf),
            None => Pin::new(&mut self.inner).poll_write(cx, buf),
        };
        self.wrote(&outcome);
        self.delivered(cx, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = match self.guarded() {
            Some((guard, source)) => guard.poll_flush(source.inner, cx),
            None => Pin::new(&mut self.inner).poll_flush(cx),
        };
        self.delivered(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.delivered(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.boundary == Boundary::Open {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write(cx, first.map_or(&[][..], |buf| &**buf));
        }
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(&outcome);
        self.delivered(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Turns {
    async fn shutdown(&mut self) {
        // By way of `poll_shutdown`, which does not wait for ever for a client that does not read.
        if let Err(error) = AsyncWriteExt::shutdown(self).await {
            log::trace!("shutdown: {error}");
        }
    }
}

impl Ssl for Turns {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

known_by!(Turns, below, below_mut);
