//! A connection that may become one to another endpoint while an answer is waited for.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use pingora::{
    protocols::{
        Stream,
        l4::virt::{VirtualSockOpt, VirtualSocket},
    },
    upstreams::peer::HttpPeer,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    time::{Instant, Sleep},
};

use super::{
    Hedger, MAX_REQUEST,
    exchange::{Slot, Won},
};
use crate::upstream::{Lease, set::Wish};

/// The mutex is never locked: it makes what it holds `Sync`, which a connection has to be.
type Dialling = Mutex<Pin<Box<dyn Future<Output = io::Result<(Stream, Box<HttpPeer>)>> + Send>>>;

/// An endpoint that was asked too, and when.
type Second = Won;

/// How far a request is.
enum Phase {
    /// Its answer has begun, or there was none yet.
    Answered,
    /// It was written, at least in part.
    Written,
    /// Its answer is waited for.
    Waiting,
    /// The second endpoint is connected to.
    Dialling(Dialling, Second),
    /// Both are asked.
    Racing((Stream, Box<HttpPeer>), Second),
}

/// The connection, around the one to the endpoint.
pub(super) struct Hedged {
    slot: Arc<Slot>,
    /// The identity of the first endpoint.
    own: u64,
    hedger: Arc<Hedger>,
    /// What was written since the last answer.
    asked: Vec<u8>,
    timer: Pin<Box<Sleep>>,
    phase: Phase,
}

impl fmt::Debug for Hedged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedged").field("slot", &self.slot).finish_non_exhaustive()
    }
}

impl Drop for Hedged {
    fn drop(&mut self) {
        // Whoever throws it away means the connection.
        drop(self.slot.lock().stream.take());
    }
}

impl Hedged {
    pub(super) fn new(slot: &Arc<Slot>, hedger: &Arc<Hedger>, own: u64) -> Self {
        Self {
            slot: Arc::clone(slot),
            own,
            asked: Vec::new(),
            timer: Box::pin(tokio::time::sleep(hedger.after)),
            hedger: Arc::clone(hedger),
            phase: Phase::Answered,
        }
    }

    /// Begins to ask somebody else, if there is anybody and it may cost something.
    fn second(&self) -> Option<Phase> {
        let hedger = Arc::clone(&self.hedger);
        let (set, now) = (hedger.members.set(), hedger.members.plan.clock.monotonic());
        let failed = [self.own];
        let other = set.choose(&Wish { failed: &failed, now, ..Wish::default() }, &mut rand::rng())?;
        if other.id() == self.own || !hedger.members.plan.states.budget.withdraw() {
            return None;
        }
        hedger.metrics.hedged(false);
        let lease = Lease::new(Arc::clone(other));
        // As the first one was connected to: with its time-outs, and what it said of the client.
        let mut peer = Box::new(other.peer.clone());
        {
            let first = &self.slot.lock().peer;
            peer.options = first.options.clone();
            peer.group_key = first.group_key;
        }
        let asked = self.asked.clone();
        let dialling = async move {
            // A connection that had been closed meanwhile would only lose time.
            let mut stream = hedger.open(&peer).await.map_err(|error| io::Error::other(error.to_string()))?;
            stream.write_all(&asked).await?;
            stream.flush().await?;
            Ok((stream, peer))
        };
        Some(Phase::Dialling(Mutex::new(Box::pin(dialling)), Second { lease, asked: now }))
    }

    /// Goes on as far as it can without an answer of the first endpoint. Ready if the second one has answered, or the first one never will.
    fn poll_second(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if matches!(self.phase, Phase::Waiting) {
            ready!(self.timer.as_mut().poll(cx));
            if !is_whole(&self.asked) {
                // The time begins anew behind the rest.
                self.phase = Phase::Written;
                return Poll::Pending;
            }
            self.phase = self.second().unwrap_or(Phase::Answered);
        }
        if let Phase::Dialling(dialling, _) = &mut self.phase {
            let dialled = ready!(dialling.get_mut().as_mut().poll(cx));
            self.phase = match (dialled, std::mem::replace(&mut self.phase, Phase::Answered)) {
                (Ok(connection), Phase::Dialling(_, second)) => Phase::Racing(connection, second),
                _ => Phase::Answered,
            };
        }
        if let Phase::Racing((second, _), _) = &mut self.phase {
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
        if let Phase::Racing((stream, peer), second) = std::mem::replace(&mut self.phase, Phase::Answered) {
            self.slot.lock().switch(stream, peer, second);
            self.hedger.metrics.hedged(true);
        }
    }

    /// Reads from whoever is to answer. What was taken out of here looks like a connection that was closed.
    fn poll_current(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = self.slot.lock().poll(cx, |stream, cx| Pin::new(stream).poll_read(cx, buf));
        polled.unwrap_or(Poll::Ready(Ok(())))
    }

    fn poll_other<T>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Stream, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut inside = self.slot.lock();
        match &mut inside.stream {
            Some(stream) => poll(stream, cx),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

/// Whether these bytes are one request, with all of its body.
fn is_whole(asked: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(head)) = request.parse(asked) else { return false };
    let named = |name: &str| request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    let length = match named("content-length").map(|header| std::str::from_utf8(header.value).map(str::parse)) {
        None => 0,
        Some(Ok(Ok(length))) => length,
        Some(_) => return false,
    };
    named("transfer-encoding").is_none() && asked.len().checked_sub(head) == Some(length)
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
        match this.poll_current(cx, buf) {
            Poll::Pending if matches!(this.phase, Phase::Answered) => Poll::Pending,
            Poll::Pending => this.poll_second(cx, buf),
            // It has gone, but somebody else was asked too.
            Poll::Ready(read)
                if (read.is_err() || buf.filled().len() == before) && matches!(this.phase, Phase::Racing(..)) =>
            {
                this.switch();
                this.poll_current(cx, buf)
            }
            Poll::Ready(read) => {
                this.phase = Phase::Answered;
                Poll::Ready(read)
            }
        }
    }
}

impl AsyncWrite for Hedged {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = ready!(this.poll_other(cx, |stream, cx| Pin::new(stream).poll_write(cx, buf)))?;
        if matches!(this.phase, Phase::Answered) {
            this.asked.clear();
        }
        this.phase = Phase::Written;
        if this.asked.len() <= MAX_REQUEST {
            this.asked.extend_from_slice(buf.get(..written).unwrap_or_default());
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_other(cx, |stream, cx| Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_other(cx, |stream, cx| Pin::new(stream).poll_shutdown(cx))
    }
}

impl VirtualSocket for Hedged {
    /// Set when it was connected.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_whole_with_its_body_and_nothing_behind_it() {
        let whole = |text: &str| is_whole(text.as_bytes());
        assert!(whole("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(whole("PUT / HTTP/1.1\r\nHost: a\r\ncontent-length: 2\r\n\r\nab"));
        for part in [
            "",
            "GET / HTTP/1.1\r\nHost: a\r\n",
            "PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\na",
            "PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\nabc",
            "PUT / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "only the rest of a body",
        ] {
            assert!(!whole(part), "{part}");
        }
    }
}
