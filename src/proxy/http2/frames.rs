//! A client's connection, looked at frame by frame on its way to the `h2` crate.
//!
//! The crate knows the protocol; here is what it leaves to others: frames that ask for nothing have a
//! [`Budget`], a header has a deadline as a whole, however slowly its frames come, and the first frame is
//! `SETTINGS` ([RFC 9113, 3.4](https://www.rfc-editor.org/rfc/rfc9113#section-3.4)). Frames of the wrong length end the
//! connection with the code that the RFC names, of which the crate knows one for all. Of a frame only its nine bytes of header
//! are looked at, and of header blocks whether a path has a fragment ([`block`](super::block)). What follows on a fault is not
//! read any more; the loop that drives the connection is told, and ends it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use h2::Reason;
use parking_lot::Mutex;
use pingora::protocols::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::Sleep,
};

use super::{
    block::Block,
    flood::{Budget, Flood},
};

/// Behind the last frame so much is read and thrown away, for so long, so that the client gets to see why it was sent
/// away instead of a reset.
const LINGER: (usize, Duration) = (256 << 10, Duration::from_millis(500));

/// So many streams with a fragment may wait to be refused: more are there only if they are given up before.
const MAX_FRAGMENTS: usize = 1000;

/// Why a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Flood(Flood),
    /// A header took too long.
    Slow,
    /// What came is not the beginning of HTTP/2.
    NoSettings,
    /// A frame that has one length has another.
    Size,
    /// A frame that may not be there: behind a header that goes on, without one, or one that clients do not send; a stream that depends on itself;
    /// more padding than room. Some of them the crate forgives, and reads the headers that follow in another way than they were looked at.
    Protocol,
    /// A header block cannot be read.
    Block,
}

impl Fault {
    /// What the client is told.
    pub(super) const fn reason(self) -> Reason {
        match self {
            Self::Flood(_) | Self::Slow => Reason::ENHANCE_YOUR_CALM,
            Self::NoSettings | Self::Protocol => Reason::PROTOCOL_ERROR,
            Self::Size => Reason::FRAME_SIZE_ERROR,
            Self::Block => Reason::COMPRESSION_ERROR,
        }
    }
}

/// Where a fault is told.
#[derive(Debug, Default)]
pub(super) struct Watch {
    fault: OnceLock<Fault>,
    told: Notify,
    /// The kind of the frame that came last.
    last: AtomicU8,
    /// Streams whose path has a fragment, and how many they are, which is asked without the lock.
    fragments: Mutex<Vec<u32>>,
    count: AtomicUsize,
}

impl Watch {
    /// The first fault counts.
    pub(super) fn tell(&self, fault: Fault) {
        if self.fault.set(fault).is_ok() {
            self.told.notify_one();
        }
    }

    /// Ready when there is a fault; that is once.
    pub(super) async fn fault(&self) -> Fault {
        loop {
            self.told.notified().await;
            if let Some(fault) = self.fault.get() {
                return *fault;
            }
        }
    }

    /// The kind of the frame that came last.
    pub(super) fn last(&self) -> Flood {
        Flood::of(self.last.load(Ordering::Relaxed))
    }

    /// These streams ask for a path with a fragment.
    fn add_fragments(&self, streams: impl Iterator<Item = u32>) {
        let mut fragments = self.fragments.lock();
        fragments.extend(streams);
        self.count.store(fragments.len(), Ordering::Relaxed);
        if fragments.len() > MAX_FRAGMENTS {
            self.tell(Fault::Flood(Flood::Reset));
        }
    }

    /// Whether this stream asks for a path with a fragment. Streams are asked for in their order, so those before it are
    /// forgotten.
    pub(super) fn has_fragment(&self, stream: u32) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut fragments = self.fragments.lock();
        let found = fragments.contains(&stream);
        fragments.retain(|one| *one > stream);
        self.count.store(fragments.len(), Ordering::Relaxed);
        found
    }

    /// The fault, if there is one.
    pub(super) fn found(&self) -> Option<Fault> {
        self.fault.get().copied()
    }
}

/// The connection.
#[derive(Debug)]
pub(super) struct Frames {
    inner: Stream,
    scan: Scan,
    watch: Arc<Watch>,
    /// How long a header may take, and when the one that is coming has to be there.
    header: Duration,
    late: Option<Pin<Box<Sleep>>>,
    closing: Closing,
}

/// How far the end of the connection has come.
#[derive(Debug)]
enum Closing {
    No,
    Lingering { left: usize, until: Pin<Box<Sleep>> },
    Done,
}

impl Frames {
    /// A header has `header` to come as a whole, and its block has at most `max_block` bytes.
    pub(super) fn new(inner: Stream, watch: Arc<Watch>, header: Duration, max_block: usize) -> Self {
        let scan = Scan::new(Instant::now(), max_block);
        Self { inner, scan, watch, header, late: None, closing: Closing::No }
    }

    /// Looks at what was read; says how much of it may be used, if not all.
    fn look(&mut self, fresh: &[u8]) -> Option<usize> {
        let found = self.scan.advance(fresh);
        let [_, _, _, kind, ..] = self.scan.head;
        self.watch.last.store(kind, Ordering::Relaxed);
        if self.scan.block.has_found() {
            self.watch.add_fragments(self.scan.block.found());
        }
        let (kept, fault) = found.err()?;
        self.watch.tell(fault);
        Some(kept)
    }

    /// Whether a header that has begun is not there in time.
    fn poll_late(&mut self, cx: &mut Context<'_>) {
        if !self.scan.is_within_header() {
            self.late = None;
            return;
        }
        let header = self.header;
        let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(header)));
        if late.as_mut().poll(cx).is_ready() {
            self.late = None;
            self.watch.tell(Fault::Slow);
        }
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Closing::Lingering { left, until } = &mut self.closing else {
            return Poll::Ready(());
        };
        if until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut scratch = [0; 1024];
        loop {
            let mut read = ReadBuf::new(&mut scratch);
            let done = ready!(Pin::new(&mut self.inner).poll_read(cx, &mut read));
            let count = read.filled().len();
            *left = left.saturating_sub(count);
            if done.is_err() || count == 0 || *left == 0 {
                return Poll::Ready(());
            }
        }
    }
}

impl AsyncRead for Frames {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if me.watch.found().is_some() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut me.inner).poll_read(cx, buf);
        if read.is_pending() {
            me.poll_late(cx);
            return Poll::Pending;
        }
        let kept = me.look(buf.filled().get(before..).unwrap_or_default());
        match kept {
            None => read,
            // Nothing read would be the end of the connection.
            Some(0) => Poll::Pending,
            Some(kept) => {
                buf.set_filled(before + kept);
                read
            }
        }
    }
}

impl AsyncWrite for Frames {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.scan.budget.sent(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if matches!(me.closing, Closing::No) {
            ready!(Pin::new(&mut me.inner).poll_shutdown(cx))?;
            let (left, time) = LINGER;
            me.closing = Closing::Lingering { left, until: Box::pin(tokio::time::sleep(time)) };
        }
        ready!(me.poll_linger(cx));
        me.closing = Closing::Done;
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs))?;
        self.scan.budget.sent(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// The length of what stands before each frame, and of what stands before all of them.
const HEAD: usize = 9;
const PREFACE: usize = 24;

/// Flags of frames.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// Where in the stream of frames the bytes are.
#[derive(Debug)]
struct Scan {
    budget: Budget,
    /// As much as has come of the header of a frame.
    head: [u8; HEAD],
    filled: usize,
    /// How much is still to come of a frame, or of the preface.
    left: usize,
    /// Whether that belongs to a header of a request.
    header: bool,
    block: Block,
    /// Whether a header of a request goes on in the next frame.
    open: bool,
    /// Whether there has been a frame.
    begun: bool,
}

impl Scan {
    fn new(now: Instant, max_block: usize) -> Self {
        Self {
            block: Block::new(max_block),
            budget: Budget::new(now),
            head: [0; HEAD],
            filled: 0,
            left: PREFACE,
            header: false,
            open: false,
            begun: false,
        }
    }

    fn is_within_header(&self) -> bool {
        self.open || (self.header && self.left > 0)
    }

    /// Looks at the next bytes. On a fault, says how many of them stand before the frame that is one.
    fn advance(&mut self, bytes: &[u8]) -> Result<(), (usize, Fault)> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if self.left > 0 {
                let piece = rest.get(..self.left).unwrap_or(rest);
                self.left -= piece.len();
                if self.header {
                    self.block.payload(piece, self.left == 0).map_err(|fault| (at, fault))?;
                }
                at += piece.len();
                continue;
            }
            let start = at;
            at += self.fill(rest);
            if self.filled == HEAD {
                self.filled = 0;
                self.frame().map_err(|fault| (start, fault))?;
            }
        }
        Ok(())
    }

    /// Takes as much as there is of the header of a frame.
    fn fill(&mut self, bytes: &[u8]) -> usize {
        let room = self.head.get_mut(self.filled..).unwrap_or_default();
        let count = room.len().min(bytes.len());
        for (to, from) in room.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.filled += count;
        count
    }

    /// A frame begins.
    fn frame(&mut self) -> Result<(), Fault> {
        const PUSH_PROMISE: u8 = 5;
        const CONTINUATION: u8 = 9;
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        if kind == PUSH_PROMISE || self.open != (kind == CONTINUATION) {
            return Err(Fault::Protocol);
        }
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let has = |flag| flags & flag != 0;
        if !std::mem::replace(&mut self.begun, true) && (kind != 4 || has(ACK)) {
            return Err(Fault::NoSettings);
        }
        let fits = match kind {
            2 => length == 5,
            3 | 8 => length == 4,
            4 if has(ACK) => length == 0,
            4 => length.is_multiple_of(6),
            6 => length == 8,
            _ => true,
        };
        if !fits {
            return Err(Fault::Size);
        }
        self.left = length;
        self.header = matches!(kind, 1 | CONTINUATION);
        if self.header {
            self.open = !has(END_HEADERS);
            self.block.frame(kind == 1, flags, u32::from_be_bytes(stream));
            if length == 0 {
                self.block.payload(&[], true)?;
            }
        }
        let counted = match kind {
            0 if length == 0 && !has(END_STREAM) => Flood::Data,
            // Acknowledgements that nobody waits for.
            6 if has(ACK) => Flood::Other,
            4 if has(ACK) => return Ok(()),
            // Data and headers.
            0 | 1 | CONTINUATION => return Ok(()),
            _ => Flood::of(kind),
        };
        if self.budget.take(counted, Instant::now) { Ok(()) } else { Err(Fault::Flood(counted)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.resize(bytes.len() + payload, 6);
        bytes
    }

    fn begun() -> Scan {
        let mut scan = Scan::new(Instant::now(), 1 << 20);
        scan.advance(&[0; PREFACE]).unwrap();
        scan.advance(&frame(4, 0, 12)).unwrap();
        scan
    }

    #[test]
    fn the_first_frame_is_settings() {
        for (kind, flags, fits) in [(4, 0, true), (4, ACK, false), (1, END_HEADERS, false), (6, 0, false)] {
            let mut scan = Scan::new(Instant::now(), 1 << 20);
            let bytes = [vec![b'x'; PREFACE], frame(kind, flags, 6)].concat();
            let wanted = if fits { Ok(()) } else { Err((PREFACE, Fault::NoSettings)) };
            assert_eq!(scan.advance(&bytes), wanted, "{kind} {flags}");
        }
    }

    #[test]
    fn frames_of_one_length_have_no_other() {
        for (kind, flags, right) in [(2, 0, 5), (3, 0, 4), (4, 0, 12), (4, ACK, 0), (6, 0, 8), (8, 0, 4)] {
            assert_eq!(begun().advance(&frame(kind, flags, right)), Ok(()), "{kind}");
            for wrong in [right + 1, right + 5, 99] {
                assert_eq!(begun().advance(&frame(kind, flags, wrong)), Err((0, Fault::Size)), "{kind} {wrong}");
            }
        }
    }

    #[test]
    fn frames_are_counted_wherever_the_reads_were_cut() {
        let ping = [frame(0, 0, 300), frame(6, 0, 8)].concat();
        for piece in [1, 2, 7, 9, 17, 100, 1000] {
            let mut scan = begun();
            let mut count = 0;
            let fault = loop {
                let found = ping.chunks(piece).find_map(|piece| scan.advance(piece).err());
                if let Some((_, fault)) = found {
                    break fault;
                }
                count += 1;
            };
            assert_eq!((count, fault), (500, Fault::Flood(Flood::Ping)), "{piece}");
        }
    }

    #[test]
    fn what_stands_before_a_fault_is_kept() {
        let mut scan = begun();
        let settings = frame(4, 0, 0);
        // One of a hundred is spent.
        scan.advance(&settings.repeat(98)).unwrap();
        let bytes = [settings.clone(), frame(0, 0, 10), settings.clone(), settings].concat();
        assert_eq!(scan.advance(&bytes), Err((9 + 19, Fault::Flood(Flood::Settings))));
    }

    #[test]
    fn a_header_is_open_until_its_last_frame_is_whole() {
        let mut scan = begun();
        let mut states = Vec::new();
        for bytes in [
            &frame(1, 0, 20)[..15],
            &frame(1, 0, 20)[15..],
            &frame(9, 0, 0),
            &frame(9, END_HEADERS, 4)[..12],
            &frame(9, END_HEADERS, 4)[12..],
            &frame(0, 0, 4)[..10],
        ] {
            scan.advance(bytes).unwrap();
            states.push(scan.is_within_header());
        }
        assert_eq!(states, [true, true, true, true, false, false]);
    }

    #[test]
    fn a_header_goes_on_in_frames_of_its_own_and_clients_promise_nothing() {
        for kind in [0, 1, 2, 3, 4, 6, 8, 12] {
            let mut scan = begun();
            scan.advance(&frame(1, 0, 20)).unwrap();
            assert_eq!(scan.advance(&frame(kind, END_HEADERS, 0)), Err((0, Fault::Protocol)), "{kind}");
        }
        assert_eq!(begun().advance(&frame(9, END_HEADERS, 4)), Err((0, Fault::Protocol)));
        assert_eq!(begun().advance(&frame(5, END_HEADERS, 4)), Err((0, Fault::Protocol)));
    }

    #[test]
    fn the_last_data_may_be_empty_and_any_other_may_not_often() {
        let mut scan = begun();
        scan.advance(&frame(0, END_STREAM, 0).repeat(1000)).unwrap();
        assert_eq!(scan.advance(&frame(0, 0, 0).repeat(51)), Err((50 * HEAD, Fault::Flood(Flood::Data))));
    }
}
