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
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use pingora::{
    Result,
    connectors::L4Connect,
    protocols::l4::{
        socket::SocketAddr,
        stream::Stream,
        virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream},
    },
    upstreams::peer::HttpPeer,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::introduce::{Dialled, dial, say};

/// Has the peer connected to for a request that may change its protocol; the connection begins with this header, if there
/// is one.
pub fn prepare(peer: &mut HttpPeer, introduction: Option<Arc<[u8]>>) {
    let connect = Connect { introduction, receive_buffer: peer.options.tcp_recv_buf };
    peer.options.custom_l4 = Some(Arc::new(connect));
    peer.options.idle_timeout = Some(std::time::Duration::ZERO);
    peer.group_key = rand::random();
    // What is said in the new protocol has no rhythm that a time-out could know.
    peer.options.read_timeout = None;
}

#[derive(Debug)]
struct Connect {
    introduction: Option<Arc<[u8]>>,
    receive_buffer: Option<usize>,
}

#[async_trait]
impl L4Connect for Connect {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let header = self.introduction.as_deref().unwrap_or_default();
        let socket: Box<dyn VirtualSocket> = match dial(address, self.receive_buffer).await? {
            Dialled::Tcp(mut stream) => {
                say(&mut stream, header).await?;
                Box::new(Unhurried { stream, wrote: false })
            }
            Dialled::Unix(mut stream) => {
                say(&mut stream, header).await?;
                Box::new(Unhurried { stream, wrote: false })
            }
        };
        Ok(VirtualSocketStream::new(socket).into())
    }
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
