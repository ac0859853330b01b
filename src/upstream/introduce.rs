//! Says who the client is on a new connection to an endpoint, before TLS and before HTTP, with the
//! [PROXY protocol](crate::proxy_protocol).
//!
//! What was said holds for the connection to its end, so it is used again only by requests for which the same would be said:
//! those of the same connection of a client, mostly. They are closed after a few seconds without a request, since most
//! clients do not come back. Health checks say that the gateway speaks for itself.

use crate::digest::sha256;
use std::{io, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use pingora::{
    Error, ErrorType, OrErr as _, Result,
    connectors::L4Connect,
    protocols::l4::{socket::SocketAddr, stream::Stream},
    upstreams::peer::{HttpPeer, PeerOptions},
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, UnixStream},
};

/// How long a connection is kept for the same client, unless `keepalive` says something else.
const KEPT: Duration = Duration::from_secs(10);

/// Has connections of this peer begin with a header.
pub(super) fn prepare(peer: &mut HttpPeer, header: &Arc<[u8]>) {
    begin_with(&mut peer.options, header);
    // Where nothing is kept, the group is one of its own already.
    if peer.options.idle_timeout != Some(Duration::ZERO) {
        let group = sha256(&[&peer.group_key.to_be_bytes()[..], header].concat());
        peer.group_key = group.first_chunk().copied().map_or_else(rand::random, u64::from_be_bytes);
        peer.options.idle_timeout.get_or_insert(KEPT);
    }
}

/// The same without a client to whom the connection would belong.
pub(super) fn begin_with(options: &mut PeerOptions, header: &Arc<[u8]>) {
    let connect: Arc<dyn L4Connect + Send + Sync> = Arc::new(Connect(Arc::clone(header), options.tcp_recv_buf));
    options.custom_l4 = Some(connect);
}

/// Connects with this receive buffer, and writes a header.
#[derive(Debug)]
struct Connect(Arc<[u8]>, Option<usize>);

#[async_trait]
impl L4Connect for Connect {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        match dial(address, self.1).await? {
            Dialled::Tcp(mut stream) => {
                say(&mut stream, &self.0).await?;
                Ok(stream.into())
            }
            Dialled::Unix(mut stream) => {
                say(&mut stream, &self.0).await?;
                Ok(stream.into())
            }
        }
    }
}

/// Writes a header.
pub(super) async fn say(stream: &mut (impl AsyncWrite + Unpin), header: &[u8]) -> Result<()> {
    stream.write_all(header).await.or_err(ErrorType::ConnectError, "the PROXY header could not be sent")
}

/// A connection to an endpoint.
pub(super) enum Dialled {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// Connects, with the errors that Pingora would return. How much the kernel may receive has to be known before.
pub(super) async fn dial(address: &SocketAddr, receive_buffer: Option<usize>) -> Result<Dialled> {
    match address {
        SocketAddr::Inet(address) => {
            let stream = tcp(*address, receive_buffer).await.or_else(|error| failed(error, address))?;
            stream.set_nodelay(true).or_err(ErrorType::InternalError, "TCP_NODELAY")?;
            Ok(Dialled::Tcp(stream))
        }
        SocketAddr::Unix(address) => {
            let path = address.as_pathname().unwrap_or_else(|| Path::new(""));
            let stream = UnixStream::connect(path).await.or_else(|error| failed(error, path.display()))?;
            Ok(Dialled::Unix(stream))
        }
    }
}

async fn tcp(address: std::net::SocketAddr, receive_buffer: Option<usize>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(size) = receive_buffer.and_then(|size| u32::try_from(size).ok()) {
        socket.set_recv_buffer_size(size)?;
    }
    socket.connect(address).await
}

fn failed<T>(error: io::Error, address: impl std::fmt::Display) -> Result<T> {
    let kind = error.kind();
    let unreachable = matches!(kind, io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable);
    let etype = if kind == io::ErrorKind::ConnectionRefused {
        ErrorType::ConnectRefused
    } else if kind == io::ErrorKind::TimedOut {
        ErrorType::ConnectTimedout
    } else if unreachable {
        ErrorType::ConnectNoRoute
    } else {
        ErrorType::ConnectError
    };
    // With its cause: whoever has run out of files does not blame the endpoint.
    Error::e_because(etype, format!("fail to connect to {address}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_cause() {
        let refused: Result<()> = failed(io::Error::from(io::ErrorKind::ConnectionRefused), "here");
        assert_eq!(refused.unwrap_err().etype(), &ErrorType::ConnectRefused);
        let out_of_files = rustix::io::Errno::MFILE.raw_os_error();
        let failed: Result<()> = failed(io::Error::from_raw_os_error(out_of_files), "here");
        let failed = failed.unwrap_err();
        let cause = failed.root_cause().downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        assert_eq!(cause, Some(out_of_files));
    }
}
