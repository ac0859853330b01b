//! Pingora's hooks, in the order of a request's life; each is a few lines that call into the rest.
//!
//! | hook | here |
//! |---|---|
//! | (before Pingora) | `introduction`: who comes; [`accept`]: connections; `http1` reads the header of a request and refuses what parsers read differently, `http2` accepts streams |
//! | `early_request_filter` | who is asking, timeouts |
//! | `request_filter` | `forwarded`: for whom a trusted proxy asks; [`admit`]: hygiene, route, policies; answers and refusals by `respond` |
//! | `upstream_peer` | chooses an endpoint ([`crate::upstream`]) |
//! | `upstream_request_filter` | `relay`: path, `Host`, identity, forwarding headers |
//! | `upstream_response_filter`, `fail_to_connect`, `error_while_proxy` | `retry`: whether to try again |
//! | `response_filter` | `hop`: what was meant for the gateway alone; the response phase of the chain |
//! | `fail_to_proxy` | refusals for what went wrong |
//! | `logging` | access log and metrics, once |

pub mod accept;
pub mod admit;
mod answered;
mod backlog;
mod blame;
pub mod boundary;
mod caching;
mod challenge;
mod coded;
mod connect;
pub mod connection;
pub mod context;
mod finish;
pub mod forwarded;
mod grpc;
pub mod head;
mod hop;
mod http1;
mod http2;
pub(crate) mod http3;
mod hygiene;
pub mod in_flight;
pub mod inspect;
mod introduction;
mod passthrough;
pub mod patience;
pub mod penalty;
mod relay;
mod respond;
mod retry;
pub mod room;
pub(crate) mod spelling;
pub mod tempo;
mod turn_away;
mod turns;
pub mod web_socket;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use pingora::{
    Error, ErrorType, Result,
    cache::{CacheKey, CacheMeta, ForcedFreshness, HitHandler, RespCacheable, key::HashBinary},
    http::{RequestHeader, ResponseHeader},
    modules::http::HttpModules,
    upstreams::peer::HttpPeer,
};
use pingora_proxy::{FailToProxy, ProxyHttp, RangeType, Session};

use self::{
    connection::{Connection, Listeners},
    context::{Context, Copying},
    finish::End,
    in_flight::Kind,
    room::{Bodies, Room},
};
use crate::{
    policy::{Flow, bandwidth},
    reject::Reject,
    runtime::{Capacity, Runtime, Snapshot},
};

/// The gateway, as Pingora sees it.
#[derive(Clone, Debug)]
pub struct Gateway(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    runtime: Arc<Runtime>,
    listeners: Listeners,
    room: Room,
    /// The name of this process in `Via`.
    instance: String,
    /// When the log said last that a connection was closed because of its PROXY header, on the monotonic clock.
    complained: AtomicU64,
    via: HeaderValue,
}

impl Gateway {
    /// A gateway that runs what `runtime` says.
    pub fn new(runtime: Arc<Runtime>, listeners: Listeners, room: Room) -> Self {
        let instance = format!("torana-{:08x}", rand::random::<u32>());
        // Once in a process, and for ever: copies of it are not counted, in memory that all workers would write.
        let via = HeaderValue::from_static(Box::leak(format!("1.1 {instance}").into_boxed_str()));
        Self(Arc::new(Inner { runtime, listeners, room, via, instance, complained: AtomicU64::new(0) }))
    }

    pub(crate) fn listeners(&self) -> &Listeners {
        &self.0.listeners
    }

    pub(crate) fn room(&self) -> &Room {
        &self.0.room
    }

    /// What runs now.
    fn snapshot(&self) -> Arc<Snapshot> {
        self.0.runtime.snapshot()
    }

    /// What the process may hold at once.
    pub(crate) fn capacity(&self) -> Capacity {
        self.0.runtime.snapshot().capacity.clone()
    }

    fn now(&self) -> u64 {
        self.0.runtime.services().clock.monotonic()
    }

    fn context(&self) -> Ctx {
        let mut ctx = Box::new(Context::new(self.0.runtime.snapshot(), self.0.runtime.services().clock.now()));
        ctx.in_flight = Some(self.0.room.flights().begin(Kind::Request));
        ctx
    }

    /// The time that is left; refused if there is none.
    fn remaining(&self, ctx: &Context) -> Result<Option<Duration>, Reject> {
        match ctx.deadline {
            None => Ok(None),
            Some(deadline) => match deadline.saturating_sub(self.now()) {
                0 => Err(Reject::DeadlineExceeded),
                left => Ok(Some(Duration::from_nanos(left))),
            },
        }
    }

    /// Whether a timer that was set to the deadline may have fired.
    fn is_over(&self, ctx: &Context) -> bool {
        ctx.deadline.is_some_and(|deadline| deadline.saturating_sub(self.now()) < TICK)
    }
}

/// Pingora's timers count in steps of 10 ms, and may be a little early.
const TICK: u64 = 10_000_000;

/// Boxed: Pingora moves it, and the futures that hold it, several times for each request.
type Ctx = Box<Context>;

/// Ends a request with this refusal; `fail_to_proxy` writes it.
fn fail<T>(ctx: &mut Context, reject: Reject) -> Result<T> {
    let status = reject.status().as_u16();
    let code = reject.code();
    ctx.reject = Some(reject);
    Error::e_explain(ErrorType::HTTPStatus(status), code)
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        self.context()
    }

    // No compression module for every request.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    fn on_connection_reuse(&self, _: &mut Session, ctx: &mut Ctx, connection: Box<dyn std::any::Any + Send + Sync>) {
        if let Ok(connection) = connection.downcast::<Arc<Connection>>() {
            ctx.adopt(&connection);
        }
    }

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        let http2 = ctx.connection.is_none();
        if http2 {
            // HTTP/2: streams do not take turns on a connection.
            if let Some(connection) = session.digest().and_then(http2::connection) {
                ctx.adopt(connection);
            }
        }
        if let Some(connection) = &ctx.connection {
            let limits = connection.limits;
            // What HTTP/1.1 reads and writes goes through `turns`, which knows better how long to wait.
            let body = Some(limits.body).filter(|_| http2);
            ctx.bodiless = http2 && session.as_mut().is_body_empty();
            session.set_read_timeout(body);
            session.set_write_timeout(body);
            session.set_total_drain_timeout(Some(Duration::from_secs(1)));
            // HTTP/1.0 knows no interim responses.
            let is_old = session.req_header().version == http::Version::HTTP_10;
            session.set_ignore_info_resp(is_old);
            // A request that is here already would be lost.
            if self.0.room.flights().are_closing() && !connection.more.load(Ordering::Relaxed) {
                session.set_keepalive(None);
            }
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        let room = self.0.room.take_on(&ctx.snapshot.capacity);
        let room = room.and_then(|()| {
            forwarded::believe(session.req_header_mut(), ctx);
            self.0.room.is_welcome(ctx.client_ip, &ctx.snapshot.capacity)
        });
        let admitted = match room {
            Ok(()) => match challenge::answer(session.req_header(), &ctx.snapshot).await {
                Some(page) => Ok(page),
                None => admit::admit(session.req_header_mut(), ctx, &self.0.instance).await,
            },
            Err(reject) => Err(reject),
        };
        match admitted {
            Ok(Flow::Continue) if ctx.inspections.is_empty() => return Ok(false),
            Ok(Flow::Continue) => match Box::pin(inspect::inspect(self, session, ctx)).await? {
                Ok(()) => return Ok(false),
                Err(reject) => Box::pin(respond::refuse(session, ctx, reject)).await?,
            },
            // Boxed, so that the future of every request stays small.
            Ok(Flow::Reply(reply)) => Box::pin(respond::reply(session, ctx, *reply)).await?,
            Ok(Flow::Read(form)) => Box::pin(respond::form(session, ctx, form)).await?,
            Err(reject) => Box::pin(respond::refuse(session, ctx, reject)).await?,
        }
        Ok(true)
    }

    fn request_cache_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        // Nobody else needs the clock here.
        if ctx.cache.is_some() {
            let left = self.remaining(ctx).unwrap_or(Some(Duration::ZERO));
            caching::begin(session, ctx, left);
        }
        Ok(())
    }

    fn cache_key_callback(&self, session: &Session, ctx: &mut Ctx) -> Result<CacheKey> {
        caching::key(session.req_header(), ctx)
    }

    fn cache_vary_filter(&self, meta: &CacheMeta, ctx: &mut Ctx, request: &RequestHeader) -> Option<HashBinary> {
        caching::variance(meta, request, ctx)
    }

    async fn cache_hit_filter(
        &self,
        session: &mut Session,
        _: &CacheMeta,
        _: &mut HitHandler,
        is_fresh: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<ForcedFreshness>> {
        Ok(caching::forced(session.req_header(), is_fresh, ctx))
    }

    fn cache_miss(&self, session: &mut Session, _: &mut Ctx) {
        caching::miss(session);
    }

    fn cache_not_modified_filter(&self, session: &Session, head: &ResponseHeader, _: &mut Ctx) -> Result<bool> {
        Ok(caching::is_known(session, head))
    }

    fn should_serve_stale(&self, session: &mut Session, ctx: &mut Ctx, error: Option<&Error>) -> bool {
        caching::may_be_old(session, ctx, error)
    }

    fn response_cache_filter(&self, session: &Session, head: &ResponseHeader, ctx: &mut Ctx) -> Result<RespCacheable> {
        Ok(caching::keep(session, head, ctx, self.0.runtime.services().clock.unix()))
    }

    fn range_header_filter(&self, session: &mut Session, head: &mut ResponseHeader, _: &mut Ctx) -> RangeType {
        caching::range(session, head)
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        if ctx.cache.is_none() {
            return Ok(true);
        }
        caching::may_ask(session, ctx, self.remaining(ctx)).map_or_else(|reject| fail(ctx, reject), |()| Ok(true))
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        connect::peer(self, session, ctx).await
    }

    fn fail_to_connect(&self, _: &mut Session, _: &HttpPeer, ctx: &mut Ctx, error: Box<Error>) -> Box<Error> {
        retry::connect_failed(ctx, error)
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        reused: bool,
        peer: &HttpPeer,
        socket: std::os::unix::io::RawFd,
        _: Option<&pingora::protocols::Digest>,
        ctx: &mut Ctx,
    ) -> Result<()> {
        ctx.attempt.reused = reused;
        ctx.attempt.turn = None;
        let asked = if reused { Ok(()) } else { hygiene::unasked(peer, socket) };
        asked.or_else(|reject| fail(ctx, reject))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        if let Err(reject) = relay::rewrite(request, session.req_header(), ctx) {
            return fail(ctx, reject);
        }
        relay::relay(request, session.req_header(), ctx, &self.0.via)?;
        relay::copy(request, !session.is_body_empty(), ctx);
        Ok(())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        piece: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Ctx,
    ) -> Result<()> {
        ctx.overrun.put_before(piece, end);
        let read = u64::try_from(session.body_bytes_read()).unwrap_or(u64::MAX);
        ctx.bodies.request(&self.0.room, read);
        let looked = ctx.body_read(read).and_then(|()| ctx.body_piece(piece.as_ref(), end));
        let mut refused = looked.and_then(|()| self.remaining(ctx).map(drop));
        if let Some(bridge) = &mut ctx.grpc_web {
            refused = refused.and_then(|()| bridge.request(piece, end));
        }
        if refused.is_ok() {
            relay::copy_piece(piece.as_ref(), end, ctx);
        } else {
            ctx.copying = Copying::Over;
        }
        if end && read > 0 {
            // What the client took for its body is not the endpoint's time.
            ctx.attempt.asked = self.now();
        }
        if !ctx.paces.is_empty() && refused.is_ok() {
            bandwidth::slow_down(ctx, piece.as_ref(), self.now()).await;
        }
        // Pingora would go on after any other error, and wait for an upstream that speaks HTTP/2.
        refused.or_else(|reject| fail(ctx, reject).map_err(|error: Box<Error>| error.into_down()))
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        self.answered(session, response, ctx)
    }

    fn upstream_response_body_filter(
        &self,
        session: &mut Session,
        piece: &mut Option<Bytes>,
        _: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<Duration>> {
        // What comes behind such a response is none of it: over HTTP/1.1 Pingora knows that.
        if ctx.attempt.bodiless {
            *piece = None;
        } else if let Some(piece) = piece.as_ref().filter(|_| ctx.web_socket.is_none()) {
            let sent = u64::try_from(session.body_bytes_sent()).unwrap_or(u64::MAX);
            ctx.bodies.response(&self.0.room, piece.len(), sent);
        }
        // Without a deadline no clock is read.
        match self.remaining(ctx) {
            Ok(_) => Ok(None),
            Err(reject) => fail(ctx, reject),
        }
    }

    async fn response_filter(&self, session: &mut Session, response: &mut ResponseHeader, ctx: &mut Ctx) -> Result<()> {
        hop::clean_response(response);
        if respond::is_interim(response) {
            // What policies put on the response is for the one that follows.
            return Ok(());
        }
        if session.req_header().version == http::Version::HTTP_10 && hop::unchunk(response) {
            session.set_keepalive(None);
        }
        // What the gateway speaks, whatever the upstream does (RFC 9110, 6.2).
        response.set_version(http::Version::HTTP_11);
        caching::note(session, response, ctx, self.0.runtime.services());
        respond::stick(session.req_header(), response, ctx);
        respond::finish_head(response, ctx)
    }

    fn upstream_response_trailer_filter(&self, _: &mut Session, trailers: &mut HeaderMap, ctx: &mut Ctx) -> Result<()> {
        grpc::note_status(trailers, ctx);
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        piece: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<Duration>> {
        caching::hold(session, piece, end, ctx);
        if let Some(bridge) = &mut ctx.grpc_web {
            bridge.response(piece);
        }
        if ctx.paces.is_empty() {
            return Ok(None);
        }
        Ok(bandwidth::delay(&mut ctx.paces, piece.as_ref(), bandwidth::Direction::Response, self.now()))
    }

    async fn response_trailer_filter(
        &self,
        _: &mut Session,
        trailers: &mut HeaderMap,
        ctx: &mut Ctx,
    ) -> Result<Option<Bytes>> {
        Ok(ctx.grpc_web.as_ref().and_then(|bridge| bridge.trailers(trailers)))
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Ctx,
        client_reused: bool,
    ) -> Box<Error> {
        retry::broken(session, ctx, error, client_reused)
    }

    // Each failed request is in the access log, with its reason; Pingora's own lines would flood the log under attack.
    fn suppress_error_log(&self, _: &Session, _: &Ctx, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Ctx, _: &Error, _: pingora_proxy::ProxyWarnLogContext) -> bool {
        true
    }

    // The default has path and query, which may hold secrets.
    fn request_summary(&self, _: &Session, ctx: &Ctx) -> String {
        format!("request {}", ctx.request_id.text())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
        self.give_up(session, error, ctx).await
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Ctx) {
        let bytes = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let end = End {
            status: session.response_written().map(|head| head.status.as_u16()),
            sent: bytes(session.body_bytes_sent()),
            received: bytes(session.body_bytes_read()),
            error,
        };
        if ctx.web_socket.is_some() {
            ctx.reject = ctx.reject.take().or_else(|| web_socket::outcome(ctx));
        }
        caching::end(session, ctx);
        self.finish(session.req_header(), ctx, &end);
        ctx.attempt.lease = None;
        if let Some(exchange) = ctx.attempt.exchange.take().filter(|_| error.is_none()) {
            exchange.keep();
        }
        ctx.attempt.pass = None;
        ctx.places.clear();
        ctx.paces.clear();
        ctx.in_flight = None;
        ctx.bodies = Bodies::default();
        ctx.web_socket = None;
    }

    fn persist_connection_context(&self, _: &Session, _: &Ctx) -> Option<Box<dyn std::any::Any + Send + Sync>> {
        // `accept` gives every request its connection.
        None
    }
}
