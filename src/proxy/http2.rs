//! HTTP/2 on a client's connection: streams side by side.
//!
//! Pingora's own loop cannot be told what the connection is; this one hands each stream to Pingora together with the
//! [`Connection`], in the one field of a digest that takes anything.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use pingora::{
    apps::HttpServerApp,
    http::ResponseHeader,
    protocols::{
        Digest, Stream,
        http::{
            ServerSession,
            v2::server::{self, H2Accept, HttpSession},
        },
        raw_connect::ProxyDigest,
    },
    server::ShutdownWatch,
    time::{sleep, timeout},
};
use tokio::sync::Notify;

use super::{accept::Acceptor, connection::Connection};

/// So many requests that are none are answered on a connection; after that it is closed.
const MAX_MALFORMED: usize = 32;

impl Acceptor {
    /// Serves HTTP/2 until the connection ends; `shutdown` makes it say goodbye and finish what it has.
    pub(super) async fn http2(&self, stream: Stream, connection: &Arc<Connection>, shutdown: &ShutdownWatch) {
        let Some(digest) = digest(&stream, connection) else { return };
        let digest = Arc::new(digest);
        let handshake = timeout(connection.limits.header, server::handshake(stream, None)).await;
        let Ok(Ok(mut http2)) = handshake else { return };
        let streams = Arc::new(Streams::default());
        let mut shutdown = shutdown.clone();
        let (mut leaving, mut malformed) = (false, 0);
        loop {
            let accepted = tokio::select! {
                biased;
                _ = shutdown.changed(), if !leaving => {
                    http2.graceful_shutdown();
                    leaving = true;
                    continue;
                }
                accepted = HttpSession::from_h2_conn(&mut http2, Arc::clone(&digest)) => accepted,
                () = streams.idle(connection), if !leaving => return,
            };
            match accepted {
                Ok(Some(H2Accept::Session(session))) => self.serve(session, &streams, &shutdown),
                Ok(Some(H2Accept::Rejected)) => {
                    malformed += 1;
                    if malformed >= MAX_MALFORMED {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    log::debug!("an HTTP/2 connection ended: {error}");
                    return;
                }
            }
        }
    }

    fn serve(&self, session: HttpSession, streams: &Arc<Streams>, shutdown: &ShutdownWatch) {
        let (proxy, shutdown, counted) = (Arc::clone(&self.proxy), shutdown.clone(), streams.begin());
        tokio::spawn(async move {
            // A stream is no connection that could be used again.
            drop(proxy.process_new_http(ServerSession::new_http2(session), &shutdown).await);
            drop(counted);
        });
    }
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

    /// Ready when there has been no stream for as long as an idle connection is kept.
    async fn idle(&self, connection: &Connection) {
        while self.count.load(Ordering::Relaxed) > 0 {
            self.none.notified().await;
        }
        sleep(connection.limits.idle).await;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.none.notify_one();
        }
    }
}
