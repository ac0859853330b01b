//! A UDP socket that two processes may share.
//!
//! | | before a hand-over | replaced, and another process reads the socket | replaced, and none does |
//! |---|---|---|---|
//! | reads the socket | yes | no | yes |
//! | reads what the other process passes on | (nothing comes) | yes | (it is closed) |
//!
//! Both sides drop what belongs to no process that they know. In the few milliseconds in which both read the socket, one
//! may drop what was for the other: QUIC sends it again.

use std::{
    fmt,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller,
    udp::{EcnCodepoint, RecvMeta, Transmit},
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use tokio::{io::Interest, net::UnixDatagram};

use super::ids::{Addressee, Mark, addressee, is_long};
use crate::proxy::in_flight::Flights;

/// A socket pair: the one end is read here, the other one is for a process that takes over.
pub(in crate::server) fn inbox_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// What the process that has taken over passes on.
#[derive(Debug)]
pub(super) struct Inbox {
    socket: UnixDatagram,
    /// Nobody has the other end any more.
    closed: AtomicBool,
}

/// Where packets for the process before go.
#[derive(Debug)]
pub(super) struct Outbox {
    fd: OwnedFd,
    mark: Mark,
    closed: AtomicBool,
}

/// The socket.
pub(super) struct Steered {
    udp: Arc<dyn AsyncUdpSocket>,
    inbox: Inbox,
    outbox: Option<Outbox>,
    own: Mark,
    flights: Flights,
}

impl Inbox {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        // It keeps messages apart like a socket of datagrams, and has an end like a stream.
        let socket = UnixDatagram::from_std(fd.into())?;
        Ok(Self { socket, closed: AtomicBool::new(false) })
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// One packet.
    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Option<RecvMeta>> {
        loop {
            if self.is_closed() {
                return Poll::Pending;
            }
            if let Err(error) = ready!(self.socket.poll_recv_ready(cx)) {
                return self.close(&error);
            }
            let mut head = [0; Head::LENGTH];
            let read = self.socket.try_io(Interest::READABLE, || {
                let mut parts = [IoSliceMut::new(&mut head), IoSliceMut::new(buffer)];
                let mut control = RecvAncillaryBuffer::new(&mut []);
                Ok(recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::DONTWAIT)?.bytes)
            });
            match read {
                Ok(0) => self.closed.store(true, Ordering::Relaxed),
                Ok(length) => return Poll::Ready(Head::read(&head, length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return self.close(&error),
            }
        }
    }

    fn close<T>(&self, error: &io::Error) -> Poll<T> {
        log::error!("the process that has taken over cannot be heard any more: {error}");
        self.closed.store(true, Ordering::Relaxed);
        Poll::Pending
    }
}

impl Outbox {
    pub(super) fn new(fd: OwnedFd, mark: Mark) -> Self {
        Self { fd, mark, closed: AtomicBool::new(false) }
    }

    /// Passes a packet on; `false` if the process before is gone.
    fn send(&self, packet: &[u8], meta: &RecvMeta) -> bool {
        if self.closed.load(Ordering::Relaxed) {
            return false;
        }
        let head = Head::write(meta);
        let mut control = SendAncillaryBuffer::new(&mut []);
        let parts = [IoSlice::new(&head), IoSlice::new(packet)];
        match sendmsg(&self.fd, &parts, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => {
                self.closed.store(true, Ordering::Relaxed);
                false
            }
            // What finds no room is lost, as on every way that a packet takes.
            Ok(_) | Err(_) => true,
        }
    }
}

impl Steered {
    pub(super) fn new(
        udp: std::net::UdpSocket,
        inbox: Inbox,
        outbox: Option<Outbox>,
        own: Mark,
        flights: Flights,
    ) -> io::Result<Self> {
        Ok(Self { udp: TokioRuntime.wrap_udp_socket(udp)?, inbox, outbox, own, flights })
    }

    /// Whether this process is the one that reads the socket.
    fn reads(&self) -> bool {
        !self.flights.are_closing() || self.inbox.is_closed()
    }

    /// Whether a packet is for this process. It is passed on if it is for the one before.
    fn keep(&self, packet: &[u8], meta: &RecvMeta) -> bool {
        match addressee(packet) {
            Some(Addressee::Process(mark)) if mark == self.own => true,
            Some(Addressee::Process(mark)) => match self.outbox.as_ref().filter(|outbox| outbox.mark == mark) {
                // Of a process that is gone: the client is told that its connection is over.
                Some(outbox) => !outbox.send(packet, meta),
                None => is_long(packet),
            },
            Some(Addressee::Anyone) => true,
            None => false,
        }
    }

    /// Leaves in a buffer what is for this process.
    fn sort(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        let (whole, stride) = (meta.len.min(buffer.len()), meta.stride.max(1));
        let (mut from, mut kept) = (0, 0);
        while from < whole {
            let to = whole.min(from.saturating_add(stride));
            if buffer.get(from..to).is_some_and(|packet| self.keep(packet, meta)) {
                if kept != from {
                    buffer.copy_within(from..to, kept);
                }
                kept += to - from;
            }
            from = to;
        }
        meta.len = kept;
    }
}

impl AsyncUdpSocket for Steered {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.udp).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.udp.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if let (Some(buffer), Some(place)) = (buffers.first_mut(), metas.first_mut())
            && let Poll::Ready(passed) = self.inbox.poll_recv(cx, buffer)
        {
            *place = passed.unwrap_or_default();
            return Poll::Ready(Ok(1));
        }
        if !self.reads() {
            return Poll::Pending;
        }
        let count = ready!(self.udp.poll_recv(cx, buffers, metas))?;
        for (buffer, meta) in buffers.iter_mut().zip(metas).take(count) {
            self.sort(buffer, meta);
        }
        // Buffers in which nothing is left count as empty.
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.udp.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.udp.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.udp.may_fragment()
    }
}

impl fmt::Debug for Steered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steered").field("udp", &self.udp).finish_non_exhaustive()
    }
}

/// What goes before a packet that is passed on: where it came from, and what was on its envelope.
struct Head;

impl Head {
    /// Kind of address, ECN, port, address, kind of local address, local address.
    const LENGTH: usize = 1 + 1 + 2 + 16 + 1 + 16;

    fn write(meta: &RecvMeta) -> [u8; Self::LENGTH] {
        let mut out = [0; Self::LENGTH];
        let port = meta.addr.port().to_be_bytes();
        let (kind, address) = ip(Some(meta.addr.ip()));
        let (local_kind, local) = ip(meta.dst_ip);
        let ecn = match meta.ecn {
            None => 0,
            Some(EcnCodepoint::Ect0) => 0b10,
            Some(EcnCodepoint::Ect1) => 0b01,
            Some(EcnCodepoint::Ce) => 0b11,
        };
        let bytes = [kind, ecn].into_iter().chain(port).chain(address).chain([local_kind]).chain(local);
        out.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
        out
    }

    /// Of a message of so many bytes; nothing if it is none.
    fn read(head: &[u8; Self::LENGTH], length: usize) -> Option<RecvMeta> {
        let length = length.checked_sub(Self::LENGTH)?;
        let [kind, ecn, rest @ ..] = head;
        let (port, rest) = rest.split_first_chunk()?;
        let (address, rest) = rest.split_first_chunk()?;
        let (local_kind, rest) = rest.split_first()?;
        let addr = SocketAddr::new(from_ip(*kind, *address)?, u16::from_be_bytes(*port));
        let dst_ip = from_ip(*local_kind, *rest.first_chunk()?);
        Some(RecvMeta { addr, len: length, stride: length, ecn: EcnCodepoint::from_bits(*ecn), dst_ip })
    }
}

fn ip(address: Option<IpAddr>) -> (u8, [u8; 16]) {
    match address {
        None => (0, [0; 16]),
        Some(IpAddr::V4(address)) => (4, address.to_ipv6_mapped().octets()),
        Some(IpAddr::V6(address)) => (6, address.octets()),
    }
}

fn from_ip(kind: u8, bytes: [u8; 16]) -> Option<IpAddr> {
    let address = Ipv6Addr::from(bytes);
    match kind {
        4 => address.to_ipv4_mapped().map(IpAddr::V4),
        6 => Some(IpAddr::V6(address)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_on_keeps_its_envelope() {
        for (addr, dst_ip, ecn) in [
            ("127.0.0.1:4433", Some("10.0.0.1"), Some(EcnCodepoint::Ce)),
            ("[2001:db8::1]:1", Some("2001:db8::2"), Some(EcnCodepoint::Ect0)),
            ("[::ffff:10.0.0.1]:1", None, None),
        ] {
            let dst_ip = dst_ip.map(|ip| ip.parse().unwrap());
            let meta = RecvMeta { addr: addr.parse().unwrap(), len: 1200, stride: 1200, ecn, dst_ip };
            let read = Head::read(&Head::write(&meta), Head::LENGTH + 1200).unwrap();
            assert_eq!(format!("{read:?}"), format!("{meta:?}"));
        }
        assert!(Head::read(&[0; Head::LENGTH], Head::LENGTH + 1).is_none());
        assert!(Head::read(&[4; Head::LENGTH], 3).is_none());
    }
}
