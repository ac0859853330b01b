//! A request as it comes in on a stream: a header, pieces of a body, perhaps trailers, the end
//! ([RFC 9114, 4.1](https://www.rfc-editor.org/rfc/rfc9114#section-4.1)).

use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use quinn::RecvStream;

use super::{
    code::Code,
    frame::{self, Broken, Frames},
    qpack,
};

/// So much that is neither header nor body may come before some of that does.
const MAX_OVERHEAD: u64 = 16 << 10;

/// What has come.
#[derive(Debug)]
pub(super) enum Event {
    /// The section of the header.
    Head(Bytes),
    /// Some of the body.
    Data(Bytes),
    /// The request is whole.
    End,
}

/// Why nothing more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The client does not want to send the rest.
    Cancelled,
    /// The connection is gone.
    Lost,
    /// The client sends more slowly than it may.
    TooSlow,
    /// The header is larger than the limit.
    TooLarge,
    /// The request cannot be served.
    Stream(Code),
    /// The client does not speak HTTP/3.
    Connection(Code),
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Reset => Self::Cancelled,
            Broken::Lost => Self::Lost,
            Broken::CutOff => Self::Connection(Code::FRAME_ERROR),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Head,
    Body,
    Trailers,
    Over,
}

/// The frame that is read.
#[derive(Debug)]
enum Current {
    Data,
    Section(BytesMut),
    Unknown,
}

/// The request of a stream.
#[derive(Debug)]
pub(super) struct Incoming {
    frames: Frames,
    phase: Phase,
    current: Option<Current>,
    overhead: u64,
    max_header: u64,
}

impl Incoming {
    pub(super) fn new(stream: RecvStream, max_header: usize) -> Self {
        let max_header = u64::try_from(max_header).unwrap_or(u64::MAX);
        Self { frames: Frames::new(stream), phase: Phase::Head, current: None, overhead: 0, max_header }
    }

    /// Whether the end has been seen.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// How much is there of a header that is not whole.
    pub(super) fn buffered(&self) -> usize {
        match &self.current {
            Some(Current::Section(section)) => section.capacity(),
            Some(Current::Data | Current::Unknown) | None => 0,
        }
    }

    /// Asks the client to send no more.
    pub(super) fn stop(&mut self, code: Code) {
        if !self.is_over() {
            self.frames.stop(code);
            self.phase = Phase::Over;
        }
    }

    /// What comes next. It can be asked again where it was broken off.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Stop>> {
        if self.is_over() {
            return Poll::Ready(Ok(Event::End));
        }
        loop {
            let Some(current) = &mut self.current else {
                let Some((kind, length)) = ready!(self.frames.poll_frame(cx))? else {
                    return Poll::Ready(self.end());
                };
                self.current = Some(self.begin(kind, length)?);
                continue;
            };
            let piece = ready!(self.frames.poll_payload(cx))?;
            match (current, piece) {
                (Current::Data, Some(piece)) => {
                    self.overhead = 0;
                    return Poll::Ready(Ok(Event::Data(piece)));
                }
                (Current::Section(section), Some(piece)) => section.extend_from_slice(&piece),
                (Current::Unknown, Some(_)) => {}
                (_, None) => {
                    if let Some(Current::Section(section)) = self.current.take() {
                        self.overhead = 0;
                        match self.phase {
                            Phase::Head => {
                                self.phase = Phase::Body;
                                return Poll::Ready(Ok(Event::Head(section.freeze())));
                            }
                            Phase::Body | Phase::Trailers | Phase::Over => {
                                trailers(&section)?;
                                self.phase = Phase::Trailers;
                            }
                        }
                    }
                }
            }
        }
    }

    fn begin(&mut self, kind: u64, length: u64) -> Result<Current, Stop> {
        match (kind, self.phase) {
            (frame::HEADERS, Phase::Head | Phase::Body) if length > self.max_header => Err(Stop::TooLarge),
            (frame::HEADERS, Phase::Head | Phase::Body) => Ok(Current::Section(BytesMut::new())),
            (frame::DATA, Phase::Body) => self.charge(2).map(|()| Current::Data),
            (kind, _) if frame::is_known(kind) => Err(Stop::Connection(Code::FRAME_UNEXPECTED)),
            _ => self.charge(length.saturating_add(2)).map(|()| Current::Unknown),
        }
    }

    fn charge(&mut self, bytes: u64) -> Result<(), Stop> {
        self.overhead = self.overhead.saturating_add(bytes);
        if self.overhead > MAX_OVERHEAD { Err(Stop::Connection(Code::EXCESSIVE_LOAD)) } else { Ok(()) }
    }

    fn end(&mut self) -> Result<Event, Stop> {
        if self.phase == Phase::Head {
            return Err(Stop::Stream(Code::REQUEST_INCOMPLETE));
        }
        self.phase = Phase::Over;
        Ok(Event::End)
    }
}

/// Trailers go no further; what is wrong with them is the client's fault all the same.
fn trailers(section: &[u8]) -> Result<(), Stop> {
    let checked = qpack::decode(section, |name, _| {
        let is_name = http::HeaderName::from_lowercase(name).is_ok();
        if is_name { Ok(()) } else { Err(Stop::Stream(Code::MESSAGE_ERROR)) }
    });
    checked.map_err(|qpack::Malformed| Stop::Connection(Code::QPACK_DECOMPRESSION_FAILED))?
}
