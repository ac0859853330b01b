//! HTTP/1.1 on a client's connection: one request after the other.
//!
//! Pingora would read the header of a request by itself, with a time-out for each read and limits that cannot be set. Here
//! it is read before Pingora sees it, for three reasons: the header as a whole has a deadline and a size, a header that
//! two parsers could read differently is refused while it is still there byte for byte, and the refusal is a problem
//! document that is logged and counted like every other.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use pingora::{
    apps::{HttpServerApp, ReusedHttpStream},
    protocols::{Stream, http::ServerSession},
    server::ShutdownWatch,
    time::timeout,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::unconstrained,
    time::{Instant, Sleep},
};

use super::{
    End, Gateway,
    accept::Acceptor,
    boundary::is_token,
    connection::{Connection, Limits},
    context::HostName,
    head::{self, Framed, Head},
    respond,
    turns::{INITIAL, Turns},
};
use crate::reject::Reject;

/// How much of a refused request is read, so that the client gets to see the answer instead of a reset.
const MAX_LINGER: usize = 256 << 10;

impl Acceptor {
    /// Serves HTTP/1.1 until the connection ends.
    pub(super) async fn http1(&self, stream: Stream, connection: &Arc<Connection>) {
        let limits = &connection.limits;
        let began = Instant::now();
        let mut settings = None;
        let mut left = limits.max_requests;
        // Both live as long as the connection: to set them up anew for each request would cost more than reading it.
        let mut leave = self.leave.clone();
        let closing = pin!(leave.changed());
        // Whoever connects and says nothing has the time for a header.
        let idle = pin!(tokio::time::sleep(limits.idle.min(limits.header)));
        let mut quiet = Quiet { gateway: &self.gateway, connection, leave: &self.leave, idle, closing, known: None };
        let mut turns = Box::new(Turns::new(stream, connection, self.gateway.clone()));
        let mut first = Some(began);
        while !*self.leave.borrow() {
            let mut took = Duration::ZERO;
            let checked = match read_head(&mut turns, first.take(), &mut quiet).await {
                Outcome::Head(framed) => turns.begin(framed.head, framed.body),
                Outcome::Refused(reject, time) => {
                    took = time;
                    Err(reject)
                }
                Outcome::Closed => break,
            };
            let raw = match checked {
                Ok(raw) => raw,
                // Boxed where it is rare, so that the future of every connection stays small.
                Err(reject) => return Box::pin(self.refuse(*turns, connection, (reject, took))).await,
            };
            connection.more.store(!turns.next.is_empty(), Ordering::Relaxed);
            let mut session = ServerSession::new_http1(turns);
            if let Some(settings) = settings.take() {
                let settings: pingora::apps::HttpPersistentSettings = settings;
                settings.apply_to_session(&mut session);
            }
            left -= 1;
            session.set_keepalive_reuses_remaining(Some(left));
            session.set_pipelined_prefix(raw);
            session.set_connection_user_context(Some(Box::new(Arc::clone(connection))));
            let reused: Option<ReusedHttpStream> = self.proxy.process_new_http(session, &self.leave).await;
            let Some((stream, persistent)) = reused.map(ReusedHttpStream::consume) else {
                return;
            };
            let Ok(same) = stream.into_any().downcast() else {
                return;
            };
            turns = same;
            turns.end();
            settings = persistent;
            if left == 0 {
                break;
            }
        }
        close(turns.inner).await;
    }

    /// Answers a request that never became one, counts and logs it, and closes the connection.
    /// What was read took so long.
    pub(super) async fn refuse(&self, turns: Turns, connection: &Arc<Connection>, (reject, took): (Reject, Duration)) {
        let Turns { inner: mut stream, next: raw, .. } = turns;
        let mut ctx = self.gateway.context();
        ctx.adopt(connection);
        ctx.started = ctx.started.before(took);
        let request = head::lenient(&raw);
        if let Some(Ok(host)) = request.headers.get(http::header::HOST).map(http::HeaderValue::to_str) {
            ctx.host = HostName::from(host).unwrap_or_default();
        }
        let mut end = End::default();
        if let Ok((status, answer, body)) = respond::raw_answer(&reject, &request, &mut ctx) {
            let written = timeout(connection.limits.body, stream.write_all(&answer)).await;
            if written.is_ok_and(|done| done.is_ok()) {
                end = End { status: Some(status.as_u16()), sent: body, ..End::default() };
            }
        }
        ctx.reject = Some(reject);
        self.gateway.finish(&request, &ctx, &end);
        if end.status.is_some() && stream.flush().await.is_ok() {
            linger(&mut stream).await;
        }
        close(stream).await;
    }
}

/// What came of waiting for the header of a request, which is in [`Turns::next`] then.
enum Outcome {
    /// It is whole and may pass, perhaps with some of the body behind it.
    Head(Framed),
    /// Something that is answered with a refusal, after so long.
    Refused(Reject, Duration),
    /// The client is gone, or had nothing more to ask.
    Closed,
}

/// What ends a connection between two requests.
struct Quiet<'a, F> {
    gateway: &'a Gateway,
    connection: &'a Connection,
    leave: &'a ShutdownWatch,
    idle: Pin<&'a mut Sleep>,
    closing: Pin<&'a mut F>,
    /// Whom both will wake.
    known: Option<Waker>,
}

impl<F: Future> Quiet<'_, F> {
    /// Ready when the process stops or the connection has been idle for too long. The timer is not touched by
    /// requests: when it goes off, the end of the last one says how long to wait on.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waits = self.known.as_ref().is_some_and(|known| known.will_wake(cx.waker()));
        // To ask both for each request would cost several locks.
        if waits && !self.idle.is_elapsed() && matches!(self.leave.has_changed(), Ok(false)) {
            return Poll::Pending;
        }
        self.known = Some(cx.waker().clone());
        loop {
            // Whatever the task has done before: without a budget they would say that they wait, and wake nobody.
            if pin!(unconstrained(self.closing.as_mut())).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            ready!(pin!(unconstrained(self.idle.as_mut())).poll(cx));
            let last = self.connection.last_end.load(Ordering::Relaxed);
            if last == 0 {
                // The clock counts from the start of the machine, and this connection has not had a request yet.
                return Poll::Ready(());
            }
            let since = self.gateway.now().saturating_sub(last);
            let left = self.connection.limits.idle.saturating_sub(Duration::from_nanos(since));
            if left.is_zero() {
                return Poll::Ready(());
            }
            self.idle.as_mut().reset(Instant::now() + left);
        }
    }
}

/// `began` is since when there is time for it; without it, since its first byte.
async fn read_head<F: Future>(turns: &mut Turns, began: Option<Instant>, quiet: &mut Quiet<'_, F>) -> Outcome {
    let limits = &quiet.connection.limits;
    // Some clients send an empty line behind a body.
    if turns.next.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
        turns.next = BytesMut::new();
        let read = tokio::select! {
            biased;
            read = turns.read_first() => read,
            () = poll_fn(|cx| quiet.poll_over(cx)) => return Outcome::Closed,
        };
        if !matches!(read, Ok(1..)) {
            return Outcome::Closed;
        }
    }
    if skip_empty_lines(&mut turns.next) > MAX_EMPTY {
        return Outcome::Refused(EMPTY, Duration::ZERO);
    }
    // Mostly the first read has all of it and nothing is wrong: then it is looked through once, and no clock is set.
    let checked = head::check(&turns.next, limits.bounds());
    if let Ok(framed) = checked
        && framed.head <= limits.max_header
    {
        return Outcome::Head(framed);
    }
    match progress(&turns.next, 0, limits) {
        Ok(true) => return outcome(checked),
        Ok(false) => {}
        Err(reject) => return Outcome::Refused(reject, Duration::ZERO),
    }
    let since = began.unwrap_or_else(Instant::now);
    let left = limits.header.saturating_sub(since.elapsed());
    let rest = timeout(left, read_rest(&mut turns.inner, &mut turns.next, limits, quiet.gateway)).await;
    match rest {
        Ok(Ok(())) => outcome(head::check(&turns.next, limits.bounds())),
        Ok(Err(Some(reject))) => Outcome::Refused(reject, since.elapsed()),
        Ok(Err(None)) => Outcome::Closed,
        Err(_) => Outcome::Refused(Reject::SLOW_HEADER, since.elapsed()),
    }
}

fn outcome(checked: Result<Framed, Reject>) -> Outcome {
    checked.map_or_else(|reject| Outcome::Refused(reject, Duration::ZERO), Outcome::Head)
}

async fn read_rest(
    stream: &mut Stream,
    raw: &mut BytesMut,
    limits: &Limits,
    gateway: &Gateway,
) -> Result<(), Option<Reject>> {
    let mut held = gateway.room().hold(0);
    let mut empty = 0;
    loop {
        // The first part is covered by what every connection counts.
        if raw.capacity() > INITIAL {
            gateway.room().take_on(&gateway.capacity()).map_err(Some)?;
            held.set(u64::try_from(raw.capacity()).unwrap_or(u64::MAX));
        }
        let mut seen = raw.len();
        raw.reserve(INITIAL);
        match stream.read_buf(raw).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Err(None),
        }
        let skipped = skip_empty_lines(raw);
        if skipped > 0 {
            seen = 0;
            empty += skipped;
        }
        if empty > MAX_EMPTY {
            return Err(Some(EMPTY));
        }
        if progress(raw, seen, limits).map_err(Some)? {
            return Ok(());
        }
    }
}

/// More than so many bytes of empty lines are no request.
const MAX_EMPTY: usize = 16;

const EMPTY: Reject = Reject::BadRequest("the request does not begin");

/// Empty lines before a request are no part of it ([RFC 9112, 2.2](https://www.rfc-editor.org/rfc/rfc9112#section-2.2)),
/// and no end of it, however they are cut. Returns how many bytes they had.
fn skip_empty_lines(raw: &mut BytesMut) -> usize {
    let before = raw.len();
    while raw.starts_with(b"\r\n") {
        raw.advance(2);
    }
    before - raw.len()
}

/// Whether the header is whole; refused as soon as it cannot become one that may pass.
fn progress(raw: &[u8], seen: usize, limits: &Limits) -> Result<bool, Reject> {
    match head::progress(raw, seen, limits.max_header) {
        Head::Whole => Ok(true),
        Head::Partial | Head::TooLarge if limits.bounds().line_is_too_long(raw) => Err(Reject::RequestLineTooLong),
        // TLS on a plain port, or frames behind a handshake that was refused: nothing is worth waiting for.
        Head::Partial if !raw.first().is_none_or(|first| is_token(*first) || matches!(first, b'\r' | b'\n')) => {
            Err(head::NOT_HTTP)
        }
        Head::Partial => Ok(false),
        Head::TooLarge => Err(Reject::HeaderTooLarge),
    }
}

/// Ends the connection; whether the other side still hears it makes no difference.
async fn close(mut stream: Stream) {
    if let Err(error) = stream.shutdown().await {
        log::trace!("shutdown: {error}");
    }
}

/// Reads on for a moment: a connection that is closed with unread data is reset, and the answer may be lost with it.
async fn linger(stream: &mut Stream) {
    let drain = async {
        let mut scratch = [0; 1024];
        let mut left = MAX_LINGER;
        while let Ok(read @ 1..) = stream.read(&mut scratch).await {
            left = left.saturating_sub(read);
            if left == 0 {
                break;
            }
        }
    };
    // Whether it ends by itself makes no difference.
    drop(timeout(Duration::from_millis(500), drain).await);
}
