//! A connection to an endpoint for a client whose connection is handed on as it is.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use pingora::{http::RequestHeader, protocols::l4::socket::SocketAddr as Address};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{Upstream, endpoint::Lease};
use crate::{proxy::context::Context, proxy_protocol::write};

/// Both directions of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

impl Upstream {
    /// Connects to a healthy endpoint; to another one if that fails, as often as the retries of the upstream say.
    pub async fn dial(&self, ctx: &mut Context, request: &RequestHeader) -> io::Result<(Box<dyn Duplex>, Lease)> {
        let mut last = io::Error::new(io::ErrorKind::NotConnected, "no endpoint is healthy");
        for _ in 0..=self.retries.attempts {
            let Some(lease) = self.choose(request, ctx) else { break };
            ctx.attempt.tries = ctx.attempt.tries.saturating_add(1);
            match self.connect(&lease, ctx).await {
                Ok(stream) => return Ok((stream, lease)),
                Err(error) => {
                    lease.metrics().failed();
                    ctx.attempt.failed.push(lease.id());
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn connect(&self, lease: &Lease, ctx: &Context) -> io::Result<Box<dyn Duplex>> {
        let header: Option<Arc<[u8]>> =
            self.members.plan.connection.proxy_protocol.map(|version| write(version, &ctx.said()).into());
        let open = async {
            let mut stream: Box<dyn Duplex> = match lease.target() {
                Address::Inet(address) => Box::new(tcp(*address).await?),
                Address::Unix(address) => {
                    let path = address.as_pathname().ok_or(io::ErrorKind::InvalidInput)?;
                    Box::new(UnixStream::connect(path).await?)
                }
            };
            if let Some(header) = header {
                stream.write_all(&header).await?;
            }
            Ok(stream)
        };
        timeout(self.timeouts.connect.0, open).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

async fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let keepalive =
        socket2::TcpKeepalive::new().with_time(Duration::from_mins(1)).with_interval(Duration::from_secs(10));
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}
