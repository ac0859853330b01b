//! Both directions of a WebSocket, on the connection of its client, where they pass decrypted.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use pingora::protocols::Stream;
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    time::{Instant, Sleep, sleep, sleep_until},
};

use super::{
    Talk,
    frames::{Fault, Frames},
};
use crate::reject::Reject;

/// How long the two sides may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// Passes frames on, and ends the talk when one must not pass or the time is up.
#[derive(Debug)]
pub(in crate::proxy) struct Guard {
    talk: Arc<Talk>,
    /// What the client says.
    up: Frames,
    /// What the upstream says.
    down: Frames,
    /// How much there was of the end of the response's header, which comes before the first frame.
    head: Head,
    /// When something was said last.
    last: Instant,
    /// When it is over in any case.
    deadline: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    ending: Option<Ending>,
}

/// How it ends.
#[derive(Debug)]
struct Ending {
    /// The close frame for the client, and how much of it is sent.
    client: Vec<u8>,
    sent: usize,
    /// Whether the direction to the client is closed behind it.
    shut: bool,
    /// The close frame for the upstream, until it is passed on.
    upstream: Option<Vec<u8>>,
    timer: Pin<Box<Sleep>>,
}

/// Where the client's frames come from.
pub(in crate::proxy) struct Source<'a> {
    /// What it said before it had an answer to the handshake.
    pub ahead: &'a mut BytesMut,
    /// What it says now.
    pub inner: &'a mut Stream,
}

impl Source<'_> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut *self.inner).poll_read(cx, buf);
        }
        buf.put_slice(&self.ahead.split_to(self.ahead.len().min(buf.remaining())));
        Poll::Ready(Ok(()))
    }
}

/// What a read brought.
enum Read {
    /// Something to pass on.
    Some,
    /// A part of a header, or a frame that must not pass.
    Nothing,
    /// The end of the connection.
    End,
}

const END_OF_HEAD: &[u8; 4] = b"\r\n\r\n";

/// The header of the response that begins the WebSocket, as far as it went by: behind those of interim responses, `HTTP/1.1 101 ...`.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    /// How many bytes of the end of a header came last.
    matched: usize,
    /// The position in this header, up to the status.
    at: usize,
    /// The status as far as it came.
    status: [u8; 3],
}

impl Head {
    fn is_over(&self) -> bool {
        self.matched == END_OF_HEAD.len()
    }

    /// Looks on, and returns how far the header goes in `buf`.
    fn scan(&mut self, buf: &[u8]) -> usize {
        const STATUS: usize = "HTTP/1.1 ".len();
        for (read, byte) in buf.iter().enumerate() {
            if let Some(digit) = self.at.checked_sub(STATUS).and_then(|at| self.status.get_mut(at)) {
                *digit = *byte;
            }
            self.at = self.at.saturating_add(1);
            let fits = END_OF_HEAD.get(self.matched) == Some(byte);
            self.matched = if fits { self.matched + 1 } else { usize::from(*byte == b'\r') };
            if self.is_over() {
                if self.status == *b"101" {
                    return read + 1;
                }
                *self = Self::default();
            }
        }
        buf.len()
    }
}

impl Guard {
    pub(in crate::proxy) fn new(talk: &Arc<Talk>) -> Self {
        let now = Instant::now();
        let (limits, deadline) = (talk.limits, talk.left.map(|left| now + left));
        let first = now + limits.idle;
        Self {
            up: Frames::new(true, talk.extensions, limits),
            down: Frames::new(false, talk.extensions, limits),
            head: Head::default(),
            last: now,
            timer: Box::pin(sleep_until(deadline.map_or(first, |end| end.min(first)))),
            deadline,
            ending: None,
            talk: Arc::clone(talk),
        }
    }

    /// Reads what the client says.
    pub(in crate::proxy) fn poll_read(
        &mut self,
        source: &mut Source<'_>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.watch_time(cx);
        while self.ending.is_none() {
            match ready!(self.poll_frames(source, cx, buf))? {
                Read::Some | Read::End => return Poll::Ready(Ok(())),
                Read::Nothing => {}
            }
        }
        self.poll_end(source, cx, buf)
    }

    /// Reads on. A header of which there is only a part is kept back: once it has been passed on, no close frame could be.
    fn poll_frames(
        &mut self,
        source: &mut Source<'_>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Read>> {
        let (before, kept) = (buf.filled().len(), self.up);
        let from = before + kept.begun().len();
        if buf.remaining() <= kept.begun().len() {
            return Poll::Ready(Err(io::Error::other("no room for the header of a frame")));
        }
        buf.put_slice(kept.begun());
        let polled = source.poll_read(cx, buf);
        let whole = buf.filled().len();
        if !matches!(polled, Poll::Ready(Ok(()))) || whole == from {
            buf.set_filled(before);
            return polled.map_ok(|()| Read::End);
        }
        self.last = Instant::now();
        match self.up.scan(buf.filled().get(from..).unwrap_or_default()) {
            Ok(()) => buf.set_filled(whole - self.up.begun().len()),
            Err(wrong) => {
                buf.set_filled(wrong.before.map_or(before, |at| from + at));
                match wrong.fault {
                    Fault::Protocol(why) => {
                        self.end(Reject::WebSocketInvalid(why), (1002, why), (1001, "the client broke the protocol"));
                    }
                    Fault::TooLarge => {
                        let why = "the message is too large";
                        self.end(Reject::WebSocketTooLarge, (1009, why), (1001, "the client's message is too large"));
                    }
                }
            }
        }
        Poll::Ready(Ok(if buf.filled().len() > before { Read::Some } else { Read::Nothing }))
    }

    /// Writes what the upstream says.
    pub(in crate::proxy) fn poll_write(
        &mut self,
        inner: &mut Stream,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.head.is_over() {
            let mut head = self.head;
            let end = head.scan(buf);
            let written = ready!(Pin::new(inner).poll_write(cx, buf.get(..end).unwrap_or(buf)))?;
            self.head.scan(buf.get(..written).unwrap_or(buf));
            return Poll::Ready(Ok(written));
        }
        let allowed = if self.ending.is_some() { self.down.own(buf.len()) } else { self.allowed(buf) };
        if allowed == 0 {
            // Nobody is told what comes behind the end.
            return Poll::Ready(Ok(buf.len()));
        }
        let written = ready!(Pin::new(inner).poll_write(cx, buf.get(..allowed).unwrap_or(buf)))?;
        self.last = Instant::now();
        if self.ending.is_some() {
            self.down.skip(written);
        } else if self.down.scan(buf.get(..written).unwrap_or(buf)).is_err() {
            log::debug!("a frame was looked at twice, with different results");
        }
        Poll::Ready(Ok(written))
    }

    /// How much of what the upstream says may pass. If nothing may, it ends.
    fn allowed(&mut self, buf: &[u8]) -> usize {
        let mut ahead = self.down;
        let Err(wrong) = ahead.scan(buf) else {
            return buf.len();
        };
        let allowed = wrong.before.unwrap_or(0);
        if allowed == 0 {
            let (code, why) = match wrong.fault {
                Fault::Protocol(why) => (1002, why),
                Fault::TooLarge => (1009, "the message is too large"),
            };
            self.end(Reject::UpstreamInvalid, (1014, "the server broke the protocol"), (code, why));
            if let Some(ending) = self.ending.as_mut().filter(|_| wrong.before.is_none()) {
                // The client has the beginning of a header, and would take a close frame for the rest.
                ending.client.clear();
            }
        }
        allowed
    }

    pub(in crate::proxy) fn poll_flush(&self, inner: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ending.as_ref().is_some_and(|ending| ending.shut) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(inner).poll_flush(cx)
    }

    /// Ends it if nobody has said anything for too long, or the deadline is there.
    fn watch_time(&mut self, cx: &mut Context<'_>) {
        while self.ending.is_none() && self.timer.as_mut().poll(cx).is_ready() {
            let (now, quiet) = (Instant::now(), self.last + self.talk.limits.idle);
            let over = self.deadline.is_some_and(|deadline| deadline <= now);
            if over {
                self.end(Reject::DeadlineExceeded, (1001, "the time is up"), (1001, "the time is up"));
            } else if quiet <= now {
                self.end(Reject::WebSocketIdle, (1001, "nothing was said"), (1001, "nothing was said"));
            } else {
                self.timer.as_mut().reset(self.deadline.map_or(quiet, |deadline| deadline.min(quiet)));
            }
        }
    }

    /// Begins the end: what each side is told.
    fn end(&mut self, why: Reject, client: (u16, &str), upstream: (u16, &str)) {
        if self.talk.outcome.set(why).is_err() {
            log::debug!("a WebSocket ended twice");
        }
        self.ending = Some(Ending {
            client: close(client.0, client.1, None),
            sent: 0,
            shut: false,
            upstream: Some(close(upstream.0, upstream.1, Some(rand::random()))),
            timer: Box::pin(sleep(GOODBYE)),
        });
    }

    /// Tells both sides, each between two frames of the other one, and then reads until the client is gone. The end of
    /// what can be read makes Pingora close both connections.
    fn poll_end(
        &mut self,
        source: &mut Source<'_>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(ending) = &mut self.ending else {
            return Poll::Ready(Ok(()));
        };
        if self.down.is_between() && !ending.shut {
            ready_or_later(ending.poll_client(source.inner, cx));
        }
        if self.up.is_between()
            && let Some(frame) = ending.upstream.take()
        {
            buf.put_slice(frame.get(..buf.remaining()).unwrap_or(&frame));
            return Poll::Ready(Ok(()));
        }
        loop {
            if ending.timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut scratch = [0; 1024];
            let mut rest = ReadBuf::new(scratch.get_mut(..buf.remaining().min(1024)).unwrap_or_default());
            ready!(source.poll_read(cx, &mut rest))?;
            let own = self.up.own(rest.filled().len());
            self.up.skip(own);
            buf.put_slice(rest.filled().get(..own).unwrap_or_default());
            if own > 0 || rest.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// What is not done now is done when it is asked for again; a client that is gone need not be told anything.
fn ready_or_later(done: Poll<io::Result<()>>) {
    if let Poll::Ready(Err(error)) = done {
        log::trace!("the end of a WebSocket: {error}");
    }
}

impl Ending {
    /// Sends the close frame, and closes this direction behind it.
    fn poll_client(&mut self, inner: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.client.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut *inner).poll_write(cx, rest))? {
                0 => break,
                written => self.sent += written,
            }
        }
        ready!(Pin::new(&mut *inner).poll_flush(cx))?;
        let shut = ready!(Pin::new(inner).poll_shutdown(cx));
        self.shut = true;
        Poll::Ready(shut)
    }
}

/// A close frame ([RFC 6455, 5.5.1](https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1)); the reason has at most 123
/// bytes.
fn close(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let payload = [&code.to_be_bytes()[..], reason.as_bytes()].concat();
    let length = u8::try_from(payload.len()).unwrap_or(0);
    match mask {
        None => [&[0x88, length][..], &payload].concat(),
        Some(mask) => {
            let masked: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            [&[0x88, 0x80 | length][..], &mask, &masked].concat()
        }
    }
}
