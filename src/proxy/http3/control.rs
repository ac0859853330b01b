//! What both sides say about the connection itself, on streams of one direction
//! ([RFC 9114, 6.2](https://www.rfc-editor.org/rfc/rfc9114#section-6.2)).
//!
//! The gateway opens a control stream and says how large a header may be. Of the client's streams it reads the control
//! stream and those of QPACK, which have nothing to say without a dynamic table; of others it wants nothing.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use quinn::{Connection, RecvStream, SendStream};

use super::{
    code::Code,
    frame::{self, Broken, Frames},
};

/// Types of streams.
const CONTROL: u64 = 0x0;
const PUSH: u64 = 0x1;
const ENCODER: u64 = 0x2;
const DECODER: u64 = 0x3;

/// The one setting that the gateway has something to say about.
const MAX_FIELD_SECTION_SIZE: u64 = 0x6;

/// Nobody has settings as large as that.
const MAX_SETTINGS: u64 = 16 << 10;

/// The largest number of a request there can be: a goodbye that refuses none yet.
const EVERY_REQUEST: u64 = (1 << 62) - 4;

/// The gateway's control stream.
#[derive(Debug)]
pub(super) struct Control(SendStream);

impl Control {
    /// Opens it, and says how large the header of a request may be.
    pub(super) async fn open(connection: &Connection, max_header: usize) -> Result<Self, quinn::WriteError> {
        let mut stream = connection.open_uni().await?;
        let mut settings = Vec::new();
        frame::put_number(&mut settings, MAX_FIELD_SECTION_SIZE);
        frame::put_number(&mut settings, u64::try_from(max_header).unwrap_or(u64::MAX));
        let mut start = Vec::new();
        frame::put_number(&mut start, CONTROL);
        start.extend(frame::header(frame::SETTINGS, settings.len()));
        start.extend(settings);
        stream.write_all(&start).await?;
        Ok(Self(stream))
    }

    /// Says that the client should ask elsewhere from now on; what it has asked on its way here is still answered.
    pub(super) async fn leave(&mut self) {
        self.goaway(EVERY_REQUEST).await;
    }

    /// Says that this request and later ones are not answered.
    pub(super) async fn refuse_from(&mut self, id: u64) {
        self.goaway(id).await;
    }

    async fn goaway(&mut self, id: u64) {
        let mut number = Vec::new();
        frame::put_number(&mut number, id);
        let mut out = frame::header(frame::GOAWAY, number.len());
        out.extend(number);
        if self.0.write_all(&out).await.is_err() {
            log::trace!("a client was gone before it was told to go away");
        }
    }
}

/// What the client said of itself.
#[derive(Debug)]
pub(super) struct Peer {
    control: AtomicBool,
    encoder: AtomicBool,
    decoder: AtomicBool,
    /// How large the header of a response may be.
    max_header: AtomicUsize,
}

impl Peer {
    pub(super) fn new() -> Arc<Self> {
        let no = || AtomicBool::new(false);
        Arc::new(Self { control: no(), encoder: no(), decoder: no(), max_header: AtomicUsize::new(usize::MAX) })
    }

    /// How large the header of a response may be.
    pub(super) fn max_header(&self) -> usize {
        self.max_header.load(Ordering::Relaxed)
    }

    /// Reads a stream of the client's to its end. What is wrong with it ends the connection.
    pub(super) async fn listen(self: Arc<Self>, stream: RecvStream, connection: Connection) {
        if let Err(Wrong::Code(code)) = self.read(Frames::new(stream)).await {
            connection.close(code.into(), b"");
        }
    }

    async fn read(&self, mut frames: Frames) -> Result<(), Wrong> {
        // A stream that ends before it says what it is, is none.
        let Some(kind) = poll_fn(|cx| frames.poll_number(cx)).await.unwrap_or(None) else { return Ok(()) };
        let first = |seen: &AtomicBool| {
            let is_first = !seen.swap(true, Ordering::Relaxed);
            is_first.then_some(()).ok_or(Wrong::Code(Code::STREAM_CREATION_ERROR))
        };
        match kind {
            CONTROL => {
                first(&self.control)?;
                self.control(frames).await
            }
            ENCODER => {
                first(&self.encoder)?;
                encoder(frames).await
            }
            DECODER => {
                first(&self.decoder)?;
                decoder(frames).await
            }
            PUSH => Err(Wrong::Code(Code::STREAM_CREATION_ERROR)),
            _ => {
                frames.stop(Code::STREAM_CREATION_ERROR);
                Ok(())
            }
        }
    }

    async fn control(&self, mut frames: Frames) -> Result<(), Wrong> {
        let mut settled = false;
        let mut max_push = 0;
        loop {
            let (kind, length) = next(&mut frames).await?;
            match kind {
                frame::SETTINGS if !settled => {
                    settled = true;
                    self.settle(&payload(&mut frames, length).await?)?;
                }
                _ if !settled => return Err(Wrong::Code(Code::MISSING_SETTINGS)),
                // Nothing is pushed, and no more requests than that need not be known.
                frame::GOAWAY => drop(number(&mut frames, length).await?),
                frame::MAX_PUSH_ID => {
                    let id = number(&mut frames, length).await?;
                    if id < max_push {
                        return Err(Wrong::Code(Code::ID_ERROR));
                    }
                    max_push = id;
                }
                frame::CANCEL_PUSH => return Err(Wrong::Code(Code::ID_ERROR)),
                kind if frame::is_known(kind) => return Err(Wrong::Code(Code::FRAME_UNEXPECTED)),
                _ => while poll_fn(|cx| frames.poll_payload(cx)).await?.is_some() {},
            }
        }
    }

    fn settle(&self, payload: &[u8]) -> Result<(), Wrong> {
        let numbers = frame::numbers(payload).filter(|numbers| numbers.len().is_multiple_of(2));
        let numbers = numbers.ok_or(Wrong::Code(Code::FRAME_ERROR))?;
        let mut seen: Vec<u64> = numbers.iter().step_by(2).copied().collect();
        // 2 to 5 are settings of HTTP/2.
        if seen.iter().any(|id| matches!(id, 2..=5)) {
            return Err(Wrong::Code(Code::SETTINGS_ERROR));
        }
        seen.sort_unstable();
        if seen.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err(Wrong::Code(Code::SETTINGS_ERROR));
        }
        let pairs = numbers.iter().step_by(2).zip(numbers.iter().skip(1).step_by(2));
        for (_, value) in pairs.filter(|(id, _)| **id == MAX_FIELD_SECTION_SIZE) {
            self.max_header.store(usize::try_from(*value).unwrap_or(usize::MAX), Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Why a stream is not read to its end.
enum Wrong {
    /// The client's fault.
    Code(Code),
    /// The connection is gone.
    Lost,
}

impl From<Broken> for Wrong {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Reset => Self::Code(Code::CLOSED_CRITICAL_STREAM),
            Broken::Lost => Self::Lost,
            Broken::CutOff => Self::Code(Code::FRAME_ERROR),
        }
    }
}

async fn next(frames: &mut Frames) -> Result<(u64, u64), Wrong> {
    poll_fn(|cx| frames.poll_frame(cx)).await?.ok_or(Wrong::Code(Code::CLOSED_CRITICAL_STREAM))
}

async fn payload(frames: &mut Frames, length: u64) -> Result<Bytes, Wrong> {
    if length > MAX_SETTINGS {
        return Err(Wrong::Code(Code::EXCESSIVE_LOAD));
    }
    let mut whole = BytesMut::new();
    while let Some(piece) = poll_fn(|cx| frames.poll_payload(cx)).await? {
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

async fn number(frames: &mut Frames, length: u64) -> Result<u64, Wrong> {
    let payload = payload(frames, length).await?;
    match frame::numbers(&payload).as_deref() {
        Some([number]) => Ok(*number),
        _ => Err(Wrong::Code(Code::FRAME_ERROR)),
    }
}

/// The only thing an encoder may say is that its table has no size.
async fn encoder(mut frames: Frames) -> Result<(), Wrong> {
    while let Some(instruction) = poll_fn(|cx| frames.poll_byte(cx)).await? {
        if instruction != 0x20 {
            return Err(Wrong::Code(Code::QPACK_ENCODER_STREAM_ERROR));
        }
    }
    Err(Wrong::Code(Code::CLOSED_CRITICAL_STREAM))
}

/// A decoder may say that it has given up on a stream, which tells an encoder without a table nothing.
async fn decoder(mut frames: Frames) -> Result<(), Wrong> {
    while poll_fn(|cx| frames.poll_byte(cx)).await?.is_some() {}
    Err(Wrong::Code(Code::CLOSED_CRITICAL_STREAM))
}
