//! Connections for requests that change their protocol, as a WebSocket's handshake does.
//!
//! Pingora serves the two directions of an exchange side by side. For a handshake, one says at once that the request has no
//! body, and the other one reads the response; if both are there when it looks, it takes either first. If it reads the
//! response first, the end of the empty body looks to it like the end of the new protocol, and the connection is closed
//! behind the handshake: that happened to one in a hundred if the endpoint answered within microseconds (Pingora 0.9.1,
//! `proxy_handle_upstream` in `proxy_h1.rs`). So what was written is followed by a moment in which nothing can be
//! read, and the end of the body comes first.
//!
//! Such a connection is of no use to other requests, and none is taken from the pool for it.

use std::{
    io,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use pingora::{
    Error, ErrorType, OrErr as _, Result,
    connectors::L4Connect,
    protocols::l4::{
        socket::SocketAddr,
        stream::Stream,
        virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream},
    },
    upstreams::peer::HttpPeer,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

static CONNECT: LazyLock<Arc<Connect>> = LazyLock::new(Arc::default);

/// Has the peer connected to for a request that may change its protocol.
pub fn prepare(peer: &mut HttpPeer) {
    let connect: Arc<dyn L4Connect + Send + Sync> = Arc::<Connect>::clone(&CONNECT);
    peer.options.custom_l4 = Some(connect);
    peer.options.idle_timeout = Some(std::time::Duration::ZERO);
    peer.group_key = rand::random();
    // What is said in the new protocol has no rhythm that a time-out could know.
    peer.options.read_timeout = None;
}

#[derive(Debug, Default)]
struct Connect;

#[async_trait]
impl L4Connect for Connect {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let socket: Box<dyn VirtualSocket> = match address {
            SocketAddr::Inet(address) => {
                let stream = TcpStream::connect(address).await.or_else(|error| failed(&error, address))?;
                stream.set_nodelay(true).or_err(ErrorType::InternalError, "TCP_NODELAY")?;
                Box::new(Unhurried { stream, wrote: false })
            }
            SocketAddr::Unix(address) => {
                let path = address.as_pathname().unwrap_or_else(|| std::path::Path::new(""));
                let stream = UnixStream::connect(path).await.or_else(|error| failed(&error, path.display()))?;
                Box::new(Unhurried { stream, wrote: false })
            }
        };
        Ok(VirtualSocketStream::new(socket).into())
    }
}

fn failed<T>(error: &io::Error, address: impl std::fmt::Display) -> Result<T> {
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
    Error::e_explain(etype, format!("fail to connect to {address}: {error}"))
}

/// A connection that answers only after whoever wrote to it has looked at everything else.
#[derive(Debug)]
struct Unhurried<S> {
    stream: S,
    wrote: bool,
}

impl<S: AsyncRead + Unpin> AsyncRead for Unhurried<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.wrote) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unhurried<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.wrote = true;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync + std::fmt::Debug> VirtualSocket for Unhurried<S> {
    /// Set when it was connected.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_else_is_ready_comes_before_an_answer_that_is_there_already() {
        for _ in 0..100 {
            let (mut other, stream) = tokio::io::duplex(64);
            let mut stream = Unhurried { stream, wrote: false };
            stream.write_all(b"request").await.unwrap();
            other.write_all(b"answer").await.unwrap();
            let mut answer = [0; 6];
            let first = tokio::select! {
                _ = stream.read_exact(&mut answer) => "answer",
                () = std::future::ready(()) => "the rest",
            };
            assert_eq!(first, "the rest");
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"answer");
        }
    }
}
