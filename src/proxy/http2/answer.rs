//! A response in HTTP/1.1, on its way to a stream of HTTP/2.
//!
//! Whoever serves a [`Tunnel`](super::tunnel) writes HTTP/1.1 to it. The header becomes `HEADERS`: a 101 is a 200, without what
//! only HTTP/1.1 needs, and what follows is the other protocol; of any other response the body is passed on without its
//! chunks. Nothing waits here: as much is taken as the client's window has room for.

use std::{
    io,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream, server::SendResponse};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use crate::proxy::{
    boundary::{Boundary, Chunk},
    hop,
};

/// The header of a response is not larger; it comes from Pingora.
const MAX_HEAD: usize = 512 << 10;

/// As many fields as Pingora lets through.
const MAX_FIELDS: usize = 256;

/// How far the response has come.
#[derive(Debug)]
enum State {
    /// The header is not whole.
    Head(BytesMut),
    /// A body follows, in the form that the header says.
    Body(Boundary),
    /// The other protocol.
    Switched,
    /// It is over, or given up.
    Done,
}

#[derive(Debug)]
pub(super) struct Answer {
    respond: SendResponse<Bytes>,
    writer: Option<SendStream<Bytes>>,
    state: State,
}

impl Answer {
    pub(super) fn new(respond: SendResponse<Bytes>) -> Self {
        Self { respond, writer: None, state: State::Head(BytesMut::new()) }
    }

    /// Whether the other protocol is spoken.
    pub(super) fn is_switched(&self) -> bool {
        matches!(self.state, State::Switched)
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Ready when the client has given the stream up.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.writer {
            Some(writer) => writer.poll_reset(cx).map(drop),
            None => self.respond.poll_reset(cx).map(drop),
        }
    }

    /// Takes what it can of the next bytes.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.state {
            State::Head(_) => Poll::Ready(self.write_head(bytes)),
            State::Body(_) => self.poll_body(cx, bytes),
            State::Switched => self.poll_piece(cx, bytes),
            // What stands behind the response is nothing to the client.
            State::Done => Poll::Ready(Ok(bytes.len())),
        }
    }

    /// No more comes.
    pub(super) fn end(&mut self) {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Switched | State::Body(Boundary::Open) => self.send_end(),
            State::Head(_) | State::Body(_) => self.respond.send_reset(Reason::INTERNAL_ERROR),
            State::Done => {}
        }
    }

    fn send_end(&mut self) {
        self.state = State::Done;
        if let Some(Err(error)) = self.writer.as_mut().map(|writer| writer.send_data(Bytes::new(), true)) {
            log::debug!("the end of a response could not be sent: {error}");
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(writer) = &mut self.writer else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        writer.reserve_capacity(bytes.len());
        let granted = match ready!(writer.poll_capacity(cx)) {
            None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Some(granted) => granted.map_err(io::Error::other)?,
        };
        let piece = bytes.get(..granted.min(bytes.len())).unwrap_or_default();
        writer.send_data(Bytes::copy_from_slice(piece), false).map_err(io::Error::other)?;
        Poll::Ready(Ok(piece.len()))
    }

    /// Passes on the next piece of the body, or what stands between two pieces.
    fn poll_body(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let State::Body(boundary) = &mut self.state else {
            return Poll::Ready(Ok(bytes.len()));
        };
        let mut framing = 0;
        while let Some(byte) = bytes.get(framing).filter(|_| content(*boundary) == 0 && !boundary.is_over()) {
            framing += boundary.advance(&[*byte]);
        }
        if framing == 0 {
            let most = usize::try_from(content(*boundary)).unwrap_or(usize::MAX).min(bytes.len());
            let piece = bytes.get(..most).unwrap_or_default();
            let sent = ready!(self.poll_piece(cx, piece))?;
            if let State::Body(boundary) = &mut self.state {
                framing = boundary.advance(piece.get(..sent).unwrap_or_default());
            }
        }
        if matches!(self.state, State::Body(boundary) if boundary.is_over()) {
            self.send_end();
        }
        Poll::Ready(Ok(framing))
    }

    fn write_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let State::Head(head) = &mut self.state else {
            return Ok(0);
        };
        let seen = head.len();
        let from = seen.saturating_sub(3);
        head.extend_from_slice(bytes);
        let Some(end) = memchr::memmem::find(head.get(from..).unwrap_or_default(), b"\r\n\r\n") else {
            return if head.len() > MAX_HEAD { Err(io::ErrorKind::InvalidData.into()) } else { Ok(bytes.len()) };
        };
        let end = from + end + 4;
        let whole = head.split_to(end).freeze();
        head.clear();
        self.send_head(&whole)?;
        // What follows is another write.
        Ok(end.saturating_sub(seen))
    }

    fn send_head(&mut self, raw: &[u8]) -> io::Result<()> {
        let (mut head, body) = parse(raw)?;
        let switched = head.status() == StatusCode::SWITCHING_PROTOCOLS;
        if head.status().is_informational() && !switched {
            return self.respond.send_informational(head).map_err(io::Error::other);
        }
        if switched {
            *head.status_mut() = StatusCode::OK;
            head.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
            head.headers_mut().remove(header::CONTENT_LENGTH);
        }
        let over = !switched && body.is_over();
        self.writer = Some(self.respond.send_response(head, over).map_err(io::Error::other)?);
        self.state = match (switched, over) {
            (true, _) => State::Switched,
            (false, true) => State::Done,
            (false, false) => State::Body(body),
        };
        Ok(())
    }
}

/// How many bytes come next that belong to the body itself.
fn content(boundary: Boundary) -> u64 {
    match boundary {
        Boundary::Length(left) | Boundary::Chunks(Chunk::Data(left)) => left,
        Boundary::Chunks(
            Chunk::Size { .. }
            | Chunk::Extension { .. }
            | Chunk::SizeEnd(_)
            | Chunk::DataEnd
            | Chunk::DataFeed
            | Chunk::Trailer(..),
        )
        | Boundary::Broken => 0,
        Boundary::Open => u64::MAX,
    }
}

/// The header without what is only for the connection, and the form of what follows.
fn parse(raw: &[u8]) -> io::Result<(Response<()>, Boundary)> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    parsed.parse(raw).map_err(|_error| wrong())?;
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_error| wrong())?;
    let mut body = Boundary::Open;
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_error| wrong())?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_error| wrong())?;
        if name == header::TRANSFER_ENCODING {
            body = Boundary::CHUNKED;
        } else if name == header::CONTENT_LENGTH {
            let length = value.to_str().ok().and_then(|length| length.parse().ok());
            body = Boundary::Length(length.ok_or_else(wrong)?);
        }
        let is_hop = [header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE].contains(&name)
            || matches!(name.as_str(), "keep-alive" | "proxy-connection");
        if !is_hop {
            head.headers_mut().append(name, value);
        }
    }
    if hop::is_bodiless(head.status()) {
        body = Boundary::Length(0);
    }
    Ok((head, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_loses_what_is_for_the_connection_and_says_how_the_body_ends() {
        let raw = |status: &str, fields: &str| format!("HTTP/1.1 {status} X\r\n{fields}x-kept: 1\r\n\r\n").into_bytes();
        for (status, fields, body) in [
            ("200", "content-length: 12\r\n", Boundary::Length(12)),
            ("200", "transfer-encoding: chunked\r\nconnection: close\r\nkeep-alive: 5\r\n", Boundary::CHUNKED),
            ("200", "connection: close\r\n", Boundary::Open),
            ("304", "", Boundary::Length(0)),
        ] {
            let (head, found) = parse(&raw(status, fields)).unwrap();
            assert_eq!(found, body, "{fields}");
            assert!(head.headers().contains_key("x-kept"));
            assert!(!head.headers().contains_key("connection") && !head.headers().contains_key("transfer-encoding"));
        }
        for wrong in [&b"nonsense\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"] {
            assert!(parse(wrong).is_err());
        }
    }

    #[test]
    fn chunks_are_told_from_what_is_in_them() {
        let mut boundary = Boundary::CHUNKED;
        let bytes = b"3\r\nabc\r\na;x=y\r\n0\r\n\r\n12345\r\n0\r\n\r\n";
        let (mut at, mut text) = (0, Vec::new());
        while at < bytes.len() {
            let count = usize::try_from(content(boundary)).unwrap().min(bytes.len() - at);
            text.extend_from_slice(&bytes[at..at + count]);
            at += boundary.advance(&bytes[at..at + count.max(1)]);
        }
        assert!(boundary.is_over());
        assert_eq!(text, b"abc0\r\n\r\n12345");
    }
}
