//! Requests of the gateway's own to an upstream: whether a token is active, whether a request may pass.
//!
//! They use the endpoints, the health, the connections and the TLS of the upstream like every other request, are bounded in time
//! and size, follow no redirect, and are tried once more if a kept connection turns out to be closed.

use std::{fmt, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Uri, Version, header};
use pingora::{
    Error,
    connectors::http::Connector,
    http::{RequestHeader, ResponseHeader},
    protocols::http::client::HttpSession,
    upstreams::peer::HttpPeer,
};

use super::State;
use crate::{
    proxy::context::Context,
    upstream::{self, Lease, Outcome, Upstream},
};

/// The connections of all who ask; one for a process, so that they are kept.
pub(super) struct Connections(Connector);

/// They are opened again.
impl State for Connections {}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connections(..)")
    }
}

/// Asks an upstream.
#[derive(Debug)]
pub struct Asker {
    upstream: Arc<Upstream>,
    connections: Arc<Connections>,
    bounds: Bounds,
}

/// Who is asked.
#[derive(Debug)]
pub struct Asking {
    lease: Lease,
    began: u64,
}

/// What an answer may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For the whole exchange.
    pub time: Duration,
    /// Bytes of the body.
    pub size: usize,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status and headers.
    pub head: ResponseHeader,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No endpoint is healthy.
    NoEndpoint,
    /// It could not be reached, or broke off.
    Broken,
    /// It took too long.
    Slow,
    /// The answer is too large.
    Large,
}

impl Failure {
    /// For the log.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoEndpoint => "the upstream that is asked has no healthy endpoint",
            Self::Broken => "the upstream that is asked cannot be reached",
            Self::Slow => "the upstream that is asked did not answer in time",
            Self::Large => "the answer of the upstream that is asked is too large",
        }
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self(Connector::new(None))
    }
}

impl Asker {
    pub(super) fn new(upstream: Arc<Upstream>, connections: Arc<Connections>, bounds: Bounds) -> Self {
        Self { upstream, connections, bounds }
    }

    /// Sends a request with a whole body, and waits for the whole answer.
    pub async fn ask(&self, ctx: &Context, head: RequestHeader, body: Bytes) -> Result<Answer, Failure> {
        let asking = self.begin(&head, ctx).ok_or(Failure::NoEndpoint)?;
        // Put aside, so that the future of every request stays small.
        Box::pin(self.go_on(asking, head, body, true)).await
    }

    /// Chooses whom to ask; nobody if no endpoint can be used.
    pub fn begin(&self, head: &RequestHeader, ctx: &Context) -> Option<Asking> {
        let began = self.upstream.now();
        Some(Asking { lease: self.upstream.choose(head, ctx, began)?, began })
    }

    /// Whether nobody is to ask at the moment: its circuit is open.
    pub fn is_left_alone(&self) -> bool {
        self.upstream.circuit().is_some_and(|circuit| circuit != upstream::Circuit::Closed)
    }

    /// Asks, and waits for the whole answer; once more on another connection if a kept one was closed and it may be asked `again`.
    pub async fn go_on(
        &self,
        asking: Asking,
        head: RequestHeader,
        body: Bytes,
        again: bool,
    ) -> Result<Answer, Failure> {
        let Asking { lease, began } = asking;
        let exchange = Box::pin(self.twice(&lease, (&head, &body), again));
        let answer = tokio::time::timeout(self.bounds.time, exchange).await.unwrap_or(Err(Failure::Slow));
        let failed = match &answer {
            Ok(answer) => matches!(answer.head.status.as_u16(), 502..=504),
            // It did answer.
            Err(Failure::Large) => false,
            Err(Failure::NoEndpoint | Failure::Broken | Failure::Slow) => {
                self.upstream.failed(&lease, None, upstream::Failure::Answer, began);
                return answer;
            }
        };
        let now = self.upstream.now();
        let failure = failed.then_some(upstream::Failure::Answer);
        self.upstream.ended(&lease, None, Outcome { failure, took: now.saturating_sub(began), now });
        answer
    }

    /// A connection that was kept may have been closed meanwhile, which says nothing about the endpoint.
    async fn twice(&self, lease: &Lease, request: (&RequestHeader, &Bytes), again: bool) -> Result<Answer, Failure> {
        let peer = lease.peer(&self.upstream, Some(self.bounds.time));
        match self.once(&peer, request).await {
            Err((Failure::Broken, true)) if again => self.once(&peer, request).await.map_err(|(failure, _)| failure),
            answer => answer.map_err(|(failure, _)| failure),
        }
    }

    /// An error comes with whether the connection had been kept.
    async fn once(&self, peer: &HttpPeer, (head, body): (&RequestHeader, &Bytes)) -> Result<Answer, (Failure, bool)> {
        let connector = &self.connections.0;
        let connected = Box::pin(connector.get_http_session(peer)).await;
        let (mut session, reused) = connected.map_err(|error| (broken(&error), false))?;
        let head = framed(head, body.len(), self.upstream.speaks_http2());
        let exchanged = exchange(&mut session, head, body.clone(), self.bounds.size).await;
        let answer = exchanged.map_err(|failure| (failure, reused))?;
        connector.release_http_session(session, peer, peer.options.idle_timeout).await;
        Ok(answer)
    }
}

/// The header in the form of the protocol.
fn framed(head: &RequestHeader, length: usize, http2: bool) -> RequestHeader {
    let mut head = head.clone();
    if length > 0 || head.method == http::Method::POST {
        drop(head.insert_header(header::CONTENT_LENGTH, length));
    }
    if http2 {
        let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("upstream");
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri = Uri::builder().scheme("https").authority(host).path_and_query(path).build();
        if let Ok(uri) = uri {
            head.set_uri(uri);
        }
        head.remove_header(&header::HOST);
        head.set_version(Version::HTTP_2);
    }
    head
}

pub(crate) async fn exchange(
    session: &mut HttpSession,
    head: RequestHeader,
    body: Bytes,
    size: usize,
) -> Result<Answer, Failure> {
    let failed = |error: Box<Error>| broken(&error);
    session.write_request_header(Box::new(head)).await.map_err(failed)?;
    if !body.is_empty() {
        session.write_request_body(body, true).await.map_err(failed)?;
    }
    session.finish_request_body().await.map_err(failed)?;
    let mut interim = 0;
    let head = loop {
        session.read_response_header().await.map_err(failed)?;
        let head = session.response_header().ok_or(Failure::Broken)?;
        if !head.status.is_informational() {
            break head.clone();
        }
        interim += 1;
        if interim > 8 {
            return Err(Failure::Broken);
        }
    };
    let mut whole = BytesMut::new();
    while let Some(piece) = session.read_response_body().await.map_err(failed)? {
        if whole.len() + piece.len() > size {
            return Err(Failure::Large);
        }
        whole.extend_from_slice(&piece);
    }
    Ok(Answer { head, body: whole.freeze() })
}

fn broken(error: &Error) -> Failure {
    use pingora::ErrorType::{ConnectTimedout, ReadTimedout, TLSHandshakeTimedout, WriteTimedout};
    log::debug!("an upstream that is asked: {error}");
    let slow = matches!(error.etype(), ConnectTimedout | ReadTimedout | TLSHandshakeTimedout | WriteTimedout);
    if slow { Failure::Slow } else { Failure::Broken }
}
