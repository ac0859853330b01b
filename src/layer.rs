//! What a connection that is wrapped around another one has of that.
//!
//! Tokio and Pingora ask much of a connection. A layer changes a little of it, and the rest is that of the connection below: macros, because
//! a trait cannot implement the traits of others for all that have it.

/// [`AsyncWrite`](tokio::io::AsyncWrite) as the field of this name has it.
macro_rules! writes_as {
    ($field:ident, $layer:ty $(, $param:ident: $bound:path)?) => {
        impl$(<$param: $bound + Unpin>)? tokio::io::AsyncWrite for $layer {
            fn poll_write(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.$field).poll_write(cx, buf)
            }

            fn poll_flush(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.$field).poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.$field).poll_shutdown(cx)
            }

            fn poll_write_vectored(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                bufs: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.$field).poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                self.$field.is_write_vectored()
            }
        }
    };
}

/// What Pingora wants to know of a connection, as the [`Stream`](pingora::protocols::Stream) below has it, which these two methods
/// return.
macro_rules! known_by {
    ($layer:ty, $below:ident, $below_mut:ident) => {
        impl pingora::protocols::UniqueID for $layer {
            fn id(&self) -> pingora::protocols::UniqueIDType {
                self.$below().id()
            }
        }

        impl pingora::protocols::GetTimingDigest for $layer {
            fn get_timing_digest(&self) -> Vec<Option<pingora::protocols::TimingDigest>> {
                self.$below().get_timing_digest()
            }

            fn get_read_pending_time(&self) -> std::time::Duration {
                self.$below().get_read_pending_time()
            }

            fn get_write_pending_time(&self) -> std::time::Duration {
                self.$below().get_write_pending_time()
            }
        }

        impl pingora::protocols::GetProxyDigest for $layer {
            fn get_proxy_digest(&self) -> Option<std::sync::Arc<pingora::protocols::raw_connect::ProxyDigest>> {
                self.$below().get_proxy_digest()
            }

            fn set_proxy_digest(&mut self, digest: pingora::protocols::raw_connect::ProxyDigest) {
                self.$below_mut().set_proxy_digest(digest);
            }
        }

        impl pingora::protocols::GetSocketDigest for $layer {
            fn get_socket_digest(&self) -> Option<std::sync::Arc<pingora::protocols::SocketDigest>> {
                self.$below().get_socket_digest()
            }

            fn set_socket_digest(&mut self, digest: pingora::protocols::SocketDigest) {
                self.$below_mut().set_socket_digest(digest);
            }
        }

        impl pingora::protocols::Peek for $layer {}
    };
}

pub(crate) use {known_by, writes_as};
