//! Asks a second endpoint where the first one takes long, and takes the answer that begins first (`hedge`).
//!
//! - Only `GET`, `HEAD` and `OPTIONS` without a body, over HTTP/1.1 without TLS: the second endpoint gets the same bytes.
//! - It is asked after `after`, if another endpoint can be used and the budget of `retries` has something left. A 5xx of its does not count
//!   while the first one may still answer; if that one breaks off, the second one's answer is taken.
//! - The connection that loses is closed. One whose second endpoint won is of no use for another request, which finds it closed.
//! - The access log names the first endpoint. `torana_upstream_hedges_total` counts what was `sent`, and what `won`.
//!
//! It works below HTTP, on the connection, because Pingora's exchange with an upstream has one connection; so everything that is
//! done to responses is done to these.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use http::{Method, header};
use pingora::{
    Result,
    connectors::L4Connect,
    http::RequestHeader,
    protocols::l4::{
        socket::SocketAddr,
        stream::Stream,
        virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream},
    },
    upstreams::peer::HttpPeer,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    time::{Instant, Sleep},
};

use super::{
    Lease,
    introduce::{Dialled, dial},
    members::Members,
    set::Wish,
};
use crate::telemetry::upstream_metrics::UpstreamHandles;

/// Keeps these connections apart from those of other requests.
const GROUP: u64 = 0x9b05_688c_2b3e_6c1f;

/// A request with a longer header is not sent twice.
const MAX_HEADER: usize = 16 << 10;

/// Asks a second endpoint of an upstream.
pub(super) struct Hedger {
    pub(super) after: Duration,
    pub(super) members: Arc<Members>,
    pub(super) metrics: UpstreamHandles,
}

impl fmt::Debug for Hedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedger").field("after", &self.after).finish_non_exhaustive()
    }
}

/// Has the request asked of a second endpoint too, if it may be.
pub(super) fn prepare(hedger: &Arc<Hedger>, request: &RequestHeader, peer: &mut HttpPeer) {
    let safe = [Method::GET, Method::HEAD, Method::OPTIONS].contains(&request.method);
    if safe && !request.headers.contains_key(header::EXPECT) {
        let connect = Connect { hedger: Arc::clone(hedger), receive_buffer: peer.options.tcp_recv_buf };
        peer.options.custom_l4 = Some(Arc::new(connect));
        peer.group_key ^= GROUP;
    }
}

#[derive(Debug)]
struct Connect {
    hedger: Arc<Hedger>,
    receive_buffer: Option<usize>,
}

#[async_trait]
impl L4Connect for Connect {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let set = Arc::clone(&self.hedger.members.set());
        let own = set.endpoints().iter().find(|endpoint| endpoint.address() == address).map(|endpoint| endpoint.id());
        let hedged = Hedged {
            current: open(address, self.receive_buffer).await?,
            own,
            hedger: Arc::clone(&self.hedger),
            receive_buffer: self.receive_buffer,
            asked: Vec::new(),
            timer: Box::pin(tokio::time::sleep(self.hedger.after)),
            phase: Phase::Answered,
        };
        Ok(VirtualSocketStream::new(Box::new(hedged)).into())
    }
}

/// Either kind of connection.
trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + Sync + fmt::Debug {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync + fmt::Debug> Duplex for T {}

async fn open(address: &SocketAddr, receive_buffer: Option<usize>) -> Result<Box<dyn Duplex>> {
    Ok(match dial(address, receive_buffer).await? {
        Dialled::Tcp(stream) => Box::new(stream),
        Dialled::Unix(stream) => Box::new(stream),
    })
}

type Dialling = Pin<Box<dyn Future<Output = io::Result<Box<dyn Duplex>>> + Send + Sync>>;

/// How far a request is.
enum Phase {
    /// Its answer has begun, or there was none yet.
    Answered,
    /// It was written, at least in part.
    Written,
    /// Its answer is waited for.
    Waiting,
    /// The second endpoint is connected to.
    Dialling(Dialling, Lease),
    /// Both are asked.
    Racing(Box<dyn Duplex>, Lease),
    /// The second one has answered: the connection is no longer what it says it is.
    Lost,
}

/// A connection that may become one to another endpoint while an answer is waited for.
struct Hedged {
    current: Box<dyn Duplex>,
    /// The identity of the first endpoint.
    own: Option<u64>,
    hedger: Arc<Hedger>,
    receive_buffer: Option<usize>,
    /// What was written since the last answer.
    asked: Vec<u8>,
    timer: Pin<Box<Sleep>>,
    phase: Phase,
}

impl fmt::Debug for Hedged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedged").field("current", &self.current).finish_non_exhaustive()
    }
}

impl Hedged {
    /// Begins to ask somebody else, if there is anybody and it may cost something.
    fn second(&self) -> Option<Phase> {
        let (hedger, own) = (&self.hedger, self.own?);
        if !self.asked.ends_with(b"\r\n\r\n") || self.asked.len() > MAX_HEADER {
            return None;
        }
        let (set, now) = (hedger.members.set(), hedger.members.plan.clock.monotonic());
        let failed = [own];
        let other = set.choose(&Wish { failed: &failed, now, ..Wish::default() }, &mut rand::rng())?;
        if other.id() == own || !hedger.members.plan.states.budget.withdraw() {
            return None;
        }
        hedger.metrics.hedged(false);
        let (address, asked, receive_buffer) = (other.address().clone(), self.asked.clone(), self.receive_buffer);
        let dialling = Box::pin(async move {
            let mut stream =
                open(&address, receive_buffer).await.map_err(|error| io::Error::other(error.to_string()))?;
            stream.write_all(&asked).await?;
            Ok(stream)
        });
        Some(Phase::Dialling(dialling, Lease::new(Arc::clone(other))))
    }

    /// Goes on as far as it can without an answer of the first endpoint. Ready if the second one has answered, or the first one never will.
    fn poll_second(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if matches!(self.phase, Phase::Waiting) {
            ready!(self.timer.as_mut().poll(cx));
            self.phase = self.second().unwrap_or(Phase::Answered);
        }
        if let Phase::Dialling(dialling, _) = &mut self.phase {
            let dialled = ready!(dialling.as_mut().poll(cx));
            self.phase = match (dialled, std::mem::replace(&mut self.phase, Phase::Answered)) {
                (Ok(stream), Phase::Dialling(_, lease)) => Phase::Racing(stream, lease),
                _ => Phase::Answered,
            };
        }
        if let Phase::Racing(second, _) = &mut self.phase {
            let before = buf.filled().len();
            let read = ready!(Pin::new(second).poll_read(cx, buf));
            let came = buf.filled().get(before..).unwrap_or_default();
            if read.is_ok() && !came.is_empty() && !is_failure(came) {
                self.switch();
                return Poll::Ready(Ok(()));
            }
            // The first one may still do better.
            buf.set_filled(before);
            self.phase = Phase::Answered;
        }
        Poll::Pending
    }

    /// The second endpoint takes over.
    fn switch(&mut self) {
        if let Phase::Racing(second, lease) = std::mem::replace(&mut self.phase, Phase::Lost) {
            self.current = second;
            self.hedger.members.succeeded(lease.endpoint());
            self.hedger.metrics.hedged(true);
        }
    }
}

/// Whether an answer begins with a status of 5xx.
fn is_failure(answer: &[u8]) -> bool {
    answer.get(..8).is_some_and(|version| version.starts_with(b"HTTP/1.")) && answer.get(9) == Some(&b'5')
}

impl AsyncRead for Hedged {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.phase, Phase::Written) {
            let at = Instant::now() + this.hedger.after;
            this.timer.as_mut().reset(at);
            this.phase = Phase::Waiting;
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.current).poll_read(cx, buf) {
            Poll::Pending => {}
            // It has gone, but somebody else was asked too.
            Poll::Ready(read)
                if (read.is_err() || buf.filled().len() == before) && matches!(this.phase, Phase::Racing(..)) =>
            {
                this.switch();
                return Pin::new(&mut this.current).poll_read(cx, buf);
            }
            Poll::Ready(read) => {
                if !matches!(this.phase, Phase::Lost) {
                    this.phase = Phase::Answered;
                }
                return Poll::Ready(read);
            }
        }
        if matches!(this.phase, Phase::Answered | Phase::Lost) {
            return Poll::Pending;
        }
        this.poll_second(cx, buf)
    }
}

impl AsyncWrite for Hedged {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if matches!(this.phase, Phase::Lost) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = ready!(Pin::new(&mut this.current).poll_write(cx, buf))?;
        if !matches!(this.phase, Phase::Written) {
            this.asked.clear();
            this.phase = Phase::Written;
        }
        if this.asked.len() <= MAX_HEADER {
            this.asked.extend_from_slice(buf.get(..written).unwrap_or_default());
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.current).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.current).poll_shutdown(cx)
    }
}

impl VirtualSocket for Hedged {
    /// Set when it was connected.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}
