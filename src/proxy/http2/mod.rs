//! HTTP/2 on a client's connection: streams side by side.
//!
//! The connection is driven by the `h2` crate, and every request that it yields is served by Pingora, as an [`Exchange`] of
//! our own. Pingora's loop cannot be told what the connection is, waits for bodies for ever, and counts little of what a
//! client may do too often.
//!
//! - Limits are those of the listener ([`Limits`]): the preface within `header_timeout`, header lists up to `max_header_size`,
//!   `http2.max_concurrent_streams` and windows, `max_requests` and then `GOAWAY`, `idle_timeout` without a stream.
//! - [`flood`] says how much of what may be sent, and [`frames`] counts it.
//! - A path with a fragment is refused, which the crate would cut off ([`fields`]).
//! - A header has as many fields as one of HTTP/1.1 (`max_headers`), cookies apart: they come in pieces, which are put together
//!   ([RFC 9113, 8.2.3](https://www.rfc-editor.org/rfc/rfc9113#section-8.2.3)).
//! - `CONNECT` is refused, except for WebSockets ([`tunnel`]).

mod answer;
mod block;
mod fields;
mod flood;
mod frames;
mod session;
mod tunnel;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{self, SendResponse},
};
use http::{HeaderValue, Method, Request, header};
use pingora::{
    apps::HttpServerApp,
    http::{RequestHeader, ResponseHeader},
    protocols::{
        Digest, Stream,
        http::{ServerSession, v2::server::default_h2_options},
        raw_connect::ProxyDigest,
    },
    server::ShutdownWatch,
    time::{sleep, timeout},
};
use tokio::sync::Notify;

use self::{
    flood::Flood,
    frames::{Fault, Frames, Watch},
    session::Exchange,
    tunnel::Tunnel,
};
use super::{
    End,
    accept::Acceptor,
    connection::{Connection, Limits},
    respond,
};
use crate::reject::Reject;

/// A cookie may come in so many pieces.
const MAX_COOKIES: usize = 256;

/// How long the end of a connection may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// When the gateway leaves, a connection without a stream may stay so long to hear of it.
const LEAVE: Duration = Duration::from_secs(5);

/// Streams that the client made the gateway reset, in the life of a connection.
const MAX_ERRORS: usize = 128;

/// Streams that were given up before they were looked at.
const MAX_UNSEEN_RESETS: usize = 64;

/// What of a response waits to be sent on a stream. Beyond it the upstream is not read.
const SEND_BUFFER: usize = 128 << 10;

type Http2 = server::Connection<Frames, Bytes>;

/// What all streams of a connection share.
struct Shared {
    connection: Arc<Connection>,
    digest: Arc<Digest>,
    streams: Arc<Streams>,
    watch: Arc<Watch>,
    shutdown: ShutdownWatch,
}

impl Acceptor {
    /// Serves HTTP/2 until the connection ends; `shutdown` makes it say goodbye and finish what it has.
    pub(super) async fn http2(&self, stream: Stream, connection: &Arc<Connection>, shutdown: &ShutdownWatch) {
        let Some(digest) = digest(&stream, connection) else { return };
        let limits = &connection.limits;
        let watch = Arc::new(Watch::default());
        let frames =
            Frames::new(stream, Arc::clone(&watch), limits.header, MAX_EXPANSION.saturating_mul(list_size(limits)));
        let handshake = timeout(limits.header, options(limits).handshake(frames)).await;
        let Ok(Ok(http2)) = handshake else { return };
        let shared = Shared {
            connection: Arc::clone(connection),
            digest: Arc::new(digest),
            streams: Arc::default(),
            watch,
            shutdown: shutdown.clone(),
        };
        self.drive(http2, shared).await;
    }

    async fn drive(&self, mut http2: Http2, shared: Shared) {
        let mut left = shared.connection.limits.max_requests;
        let (mut shutdown, mut leaving) = (shared.shutdown.clone(), false);
        let idle = shared.connection.limits.idle;
        let ended = loop {
            let quiet = if leaving { idle.min(LEAVE) } else { idle };
            let accepted = tokio::select! {
                biased;
                _ = shutdown.changed(), if !leaving => {
                    http2.graceful_shutdown();
                    leaving = true;
                    continue;
                }
                fault = shared.watch.fault() => break Some(fault.reason()),
                accepted = http2.accept() => accepted,
                () = shared.streams.idle(quiet) => break Some(Reason::NO_ERROR),
            };
            match accepted {
                Some(Ok((request, respond))) => {
                    self.take(request, respond, &shared);
                    left = left.saturating_sub(1);
                    if left == 0 && !leaving {
                        http2.graceful_shutdown();
                        leaving = true;
                    }
                }
                Some(Err(error)) => {
                    if flood::is_flood(&error) {
                        self.count(shared.watch.last());
                    }
                    log::debug!("an HTTP/2 connection ended: {error}");
                    break None;
                }
                None => break None,
            }
        };
        if let Some(reason) = ended {
            if let Some(Fault::Flood(flood)) = shared.watch.found() {
                self.count(flood);
            }
            // Whether the other side still hears it makes no difference.
            drop(timeout(GOODBYE, say_goodbye(&mut http2, reason)).await);
        }
    }

    fn count(&self, flood: Flood) {
        self.gateway.0.runtime.services().metrics.flooded(flood.name());
    }

    /// A request came: it is served, or refused.
    fn take(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, shared: &Shared) {
        let (parts, body) = request.into_parts();
        let mut request = RequestHeader::from(parts);
        // Those that a client gave up are still served for a moment, and do not count as streams any more.
        let most = usize::try_from(shared.connection.limits.http2.streams).unwrap_or(usize::MAX).saturating_mul(2);
        if shared.streams.count() >= most {
            respond.send_reset(Reason::REFUSED_STREAM);
            shared.watch.tell(Fault::Flood(Flood::Reset));
            return;
        }
        if shared.watch.has_fragment(respond.stream_id().into()) {
            let reject = Reject::BadRequest("the path has a fragment");
            return self.refuse_stream(&request, respond, &shared.connection, reject);
        }
        match check(&mut request, (shared.connection.limits.max_headers, shared.connection.limits.max_header)) {
            Ok(false) => {
                let means = (shared.connection.limits.tempo(), self.gateway.clone());
                self.serve(Exchange::new(request, body, respond, Arc::clone(&shared.digest), means), shared);
            }
            Ok(true) => self.serve_tunnel(Tunnel::new(&request, body, respond, Arc::clone(&shared.digest)), shared),
            Err(reject) => self.refuse_stream(&request, respond, &shared.connection, reject),
        }
    }

    fn serve(&self, exchange: Exchange, shared: &Shared) {
        let (proxy, shutdown) = (Arc::clone(&self.proxy), shared.shutdown.clone());
        let counted = shared.streams.begin();
        tokio::spawn(async move {
            let session = ServerSession::new_custom(Box::new(exchange));
            // A stream is no connection that could be used again.
            drop(proxy.process_new_http(session, &shutdown).await);
            drop(counted);
        });
    }

    /// A stream that is to become a WebSocket, served like a connection of its own.
    fn serve_tunnel(&self, tunnel: Tunnel, shared: &Shared) {
        let (acceptor, connection, counted) = (self.clone(), shared.connection.again(), shared.streams.begin());
        tokio::spawn(async move {
            Box::pin(acceptor.http1(Box::new(tunnel), &connection)).await;
            drop(counted);
        });
    }

    /// Answers a request that Pingora never sees, counts and logs it.
    fn refuse_stream(
        &self,
        request: &RequestHeader,
        mut respond: SendResponse<Bytes>,
        connection: &Arc<Connection>,
        reject: Reject,
    ) {
        let mut ctx = self.gateway.context();
        ctx.adopt(connection);
        let Ok(answer) = respond::whole_answer(&reject, request, &mut ctx) else { return };
        let status = answer.head.status.as_u16();
        let head = http::Response::from_parts(answer.head.into(), ());
        let no_body = request.method == Method::HEAD || answer.body.is_empty();
        let sent = respond
            .send_response(head, no_body)
            .and_then(|mut body| if no_body { Ok(()) } else { body.send_data(answer.body, true) });
        let end = End { status: sent.is_ok().then_some(status), ..End::default() };
        ctx.reject = Some(reject);
        self.gateway.finish(request, &ctx, &end);
    }
}

/// Tells the client that the connection is over, and waits until it is.
async fn say_goodbye(http2: &mut Http2, reason: Reason) {
    http2.abrupt_shutdown(reason);
    while let Some(Ok(_)) = http2.accept().await {}
}

/// What is negotiated with clients of a listener.
fn options(limits: &Limits) -> server::Builder {
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(limits.http2.streams)
        // The crate's own refusals are in no log: up to twice the limit they are made here.
        .max_header_list_size(u32::try_from(list_size(limits)).unwrap_or(u32::MAX))
        .initial_window_size(limits.http2.window)
        .initial_connection_window_size(limits.http2.connection_window)
        .max_concurrent_reset_streams(usize::try_from(limits.http2.streams).unwrap_or(usize::MAX))
        .max_local_error_reset_streams(Some(MAX_ERRORS))
        .max_pending_accept_reset_streams(MAX_UNSEEN_RESETS)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_connect_protocol();
    options
}

/// How large a list of headers may be before the crate refuses it.
fn list_size(limits: &Limits) -> usize {
    limits.max_header.saturating_mul(2)
}

/// So much longer than a string is its Huffman code, at most: thirty bits for eight.
const MAX_EXPANSION: usize = 4;

/// What a field counts besides its name and value ([RFC 9113, 10.5.1](https://www.rfc-editor.org/rfc/rfc9113#section-10.5.1)).
const FIELD: usize = 32;

/// Refuses what the crate lets through and a gateway must not, and brings the header into the form of HTTP/1.1; says
/// whether the stream is to be a WebSocket.
fn check(request: &mut RequestHeader, (max_headers, max_header): (usize, usize)) -> Result<bool, Reject> {
    let cookies = request.headers.get_all(header::COOKIE).iter().count();
    if request.headers.len() - cookies > max_headers || cookies > MAX_COOKIES {
        return Err(Reject::TooManyHeaders);
    }
    if request.uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(Reject::BadRequest("the scheme is neither http nor https"));
    }
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let mut left = max_header.checked_sub(request.raw_path().len());
    for (name, value) in &request.headers {
        // Servers of HTTP/1.1 take it away (RFC 9113, 8.2.1), and would read another value than policies do.
        if is_space(value.as_bytes().first()) || is_space(value.as_bytes().last()) {
            return Err(Reject::BadRequest("a header value begins or ends with white space"));
        }
        left = left.and_then(|left| left.checked_sub(name.as_str().len() + value.len() + FIELD));
    }
    if left.is_none() {
        return Err(Reject::HeaderTooLarge);
    }
    let mut lengths = request.headers.get_all(header::CONTENT_LENGTH).iter();
    if lengths.next().is_some_and(HeaderValue::is_empty) {
        return Err(Reject::BadRequest("the Content-Length is not a number"));
    }
    if lengths.next().is_some() {
        return Err(Reject::BadRequest("the request has more than one Content-Length"));
    }
    if cookies > 1 {
        join_cookies(request)?;
    }
    tunnel::translate(request)
}

fn join_cookies(request: &mut RequestHeader) -> Result<(), Reject> {
    let pieces: Vec<&[u8]> = request.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let whole = HeaderValue::from_bytes(&pieces.join(&b"; "[..])).map_err(|_error| Reject::Internal)?;
    request.insert_header(header::COOKIE, whole).map_err(|_error| Reject::Internal)
}

/// What Pingora gets to know of the connection, with the [`Connection`] for the hooks.
fn digest(stream: &Stream, connection: &Arc<Connection>) -> Option<Digest> {
    let response = Box::new(ResponseHeader::build(200, None).ok()?);
    Some(Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: stream.get_timing_digest(),
        proxy_digest: Some(Arc::new(ProxyDigest::new(response, Some(Box::new(Arc::clone(connection)))))),
        socket_digest: stream.get_socket_digest(),
    })
}

/// The [`Connection`] that [`digest`] put in.
pub(super) fn connection(digest: &Digest) -> Option<&Arc<Connection>> {
    digest.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
}

/// The streams of a connection that are served.
#[derive(Debug, Default)]
struct Streams {
    count: AtomicUsize,
    none: Notify,
}

/// A stream, until it is over.
struct Counted(Arc<Streams>);

impl Streams {
    fn begin(self: &Arc<Self>) -> Counted {
        self.count.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(self))
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Ready when there has been no stream for so long.
    async fn idle(&self, limit: Duration) {
        while self.count() > 0 {
            self.none.notified().await;
        }
        sleep(limit).await;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.none.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&'static str, String)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, value.as_str()).unwrap();
        }
        request
    }

    #[test]
    fn a_cookie_in_pieces_is_put_together() {
        let mut sent = request(&[("cookie", "a=1".into()), ("x", "y".into()), ("cookie", "b=2".into())]);
        assert_eq!(check(&mut sent, (100, 10_000)), Ok(false));
        assert_eq!(sent.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn fields_are_counted_and_so_are_pieces_of_a_cookie() {
        for (name, most) in [("x-many", 100), ("cookie", MAX_COOKIES)] {
            let fields = |count: usize| (0..count).map(|at| (name, format!("k={at}"))).collect::<Vec<_>>();
            assert!(check(&mut request(&fields(most)), (100, 20_000)).is_ok(), "{name}");
            assert_eq!(check(&mut request(&fields(most + 1)), (100, 20_000)), Err(Reject::TooManyHeaders), "{name}");
        }
    }

    #[test]
    fn a_second_length_is_refused_even_if_it_is_the_same_and_so_is_an_empty_one() {
        for lengths in [&["5", "5"][..], &[""]] {
            let fields: Vec<_> = lengths.iter().map(|length| ("content-length", (*length).to_owned())).collect();
            assert_eq!(check(&mut request(&fields), (100, 10_000)).unwrap_err().code(), "bad_request", "{lengths:?}");
        }
    }
}
