//! A connection to an endpoint for a client whose connection is handed on as it is.

use std::{sync::Arc, time::Duration};

use pingora::{Error, ErrorType, OrErr as _, Result, http::RequestHeader};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::{
    Failure, Outcome, Upstream,
    endpoint::Lease,
    introduce::{Dialled, dial, say},
};
use crate::{proxy::context::Context, proxy_protocol::write};

/// Both directions of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

impl Upstream {
    /// Connects to a healthy endpoint; to another one if that fails, as often as the retries of the upstream say.
    pub async fn dial(&self, ctx: &mut Context, request: &RequestHeader) -> Result<(Box<dyn Duplex>, Lease)> {
        let mut last = Error::explain(ErrorType::ConnectError, "no endpoint is healthy");
        for _ in 0..=self.retries.attempts {
            let began = self.now();
            let Some(lease) = self.choose(request, ctx, began) else { break };
            ctx.attempt.tries = ctx.attempt.tries.saturating_add(1);
            match self.connect(&lease, ctx).await {
                Ok(stream) => {
                    let now = self.now();
                    self.ended(&lease, None, Outcome { failure: None, took: now.saturating_sub(began), now });
                    return Ok((stream, lease));
                }
                Err(error) => {
                    self.failed(&lease, None, Failure::Connect, began);
                    ctx.attempt.failed.push(lease.id());
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn connect(&self, lease: &Lease, ctx: &Context) -> Result<Box<dyn Duplex>> {
        let header: Option<Arc<[u8]>> =
            self.members.plan.connection.proxy_protocol.map(|version| write(version, &ctx.said()).into());
        let receive_buffer = self.members.plan.connection.receive_buffer;
        let open = async {
            let mut stream: Box<dyn Duplex> = match dial(lease.target(), receive_buffer).await? {
                Dialled::Tcp(stream) => {
                    outlive(&stream)?;
                    Box::new(stream)
                }
                Dialled::Unix(stream) => Box::new(stream),
            };
            if let Some(header) = header {
                say(&mut stream, &header).await?;
            }
            Ok(stream)
        };
        let opened = timeout(self.timeouts.connect.0, open).await;
        opened.or_err(ErrorType::ConnectTimedout, "the endpoint did not answer in time")?
    }
}

/// Such a connection may be silent for long: that its other end is gone has to be noticed.
fn outlive(stream: &TcpStream) -> Result<()> {
    let keepalive =
        socket2::TcpKeepalive::new().with_time(Duration::from_mins(1)).with_interval(Duration::from_secs(10));
    let set = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive);
    set.or_err(ErrorType::InternalError, "keep-alive of TCP")
}
