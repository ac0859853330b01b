//! Who comes: the address of a client's connection, or what a trusted proxy says of it with the
//! [PROXY protocol](crate::proxy_protocol), before TLS and before HTTP.
//!
//! - While the header is awaited, the connection counts as one of the process; by its address it counts from the moment at
//!   which the client is known. So a proxy does not use up what one client may have, and cannot open more connections than
//!   the process has room for.
//! - The header has as long as that of a request, `header_timeout`.
//! - Whoever is not believed, or sends something else, is closed without an answer: an answer would be one to a stranger in
//!   a protocol that is not known. It is counted by reason, and one in ten seconds is in the log.

use std::{net::IpAddr, sync::atomic::Ordering, time::Duration};

use pingora::{protocols::Stream, time::timeout};
use tokio::io::AsyncReadExt as _;

use super::{
    Gateway,
    accept::Acceptor,
    connection::{Arrival, Door, canonical},
    room::Seat,
    turn_away::MOMENT,
};
use crate::{
    config::listener::Others,
    proxy_protocol::{self, Malformed, Progress, Said},
    reject::Reject,
    runtime::Introductions,
};

/// So much time is between two lines in the log, in nanoseconds.
const SELDOM: u64 = 10_000_000_000;

/// Why a connection is closed before anything is served on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    /// The peer is none of those that may come.
    #[error("it is not one of `trusted`")]
    Untrusted,
    /// There is no header, or one that is wrong.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// It took too long.
    #[error("the PROXY header did not arrive in time")]
    TimedOut,
    /// The peer closed the connection: a check of whether the port is open, mostly.
    #[error("the connection ended before the PROXY header")]
    Ended,
}

impl Refusal {
    const fn code(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Malformed(Malformed::Absent) => "absent",
            Self::Malformed(Malformed::Wrong(_)) => "malformed",
            Self::Malformed(Malformed::TooLong) => "too_long",
            Self::Malformed(Malformed::Checksum) => "checksum",
            Self::TimedOut => "timed_out",
            Self::Ended => "ended",
        }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(_: std::io::Error) -> Self {
        Self::Ended
    }
}

/// A connection that is known, and may go on.
pub(super) struct Arrived<'a> {
    pub(super) arrival: Arrival,
    /// Its listener.
    pub(super) door: &'a Door,
    /// Its place, or why there is none.
    pub(super) seat: Result<Seat, Reject>,
}

impl Acceptor {
    /// Finds out who comes, and whether there is room; `None` if the connection is to be closed.
    pub(super) async fn arrive(&self, stream: &mut Stream) -> Option<Arrived<'_>> {
        let digest = stream.get_socket_digest();
        let (peer, local) = digest.as_ref().map_or((None, None), |digest| (digest.peer_addr(), digest.local_addr()));
        let (listener, door) = self.gateway.listeners().find(local)?;
        let mut arrival = Arrival::new(listener, door.limits, peer, local);
        let snapshot = self.gateway.snapshot();
        let room = self.gateway.room();
        let Some(introductions) = snapshot.introductions(listener) else {
            let seat = room.enter(arrival.client_ip(), &snapshot.capacity);
            return Some(Arrived { arrival, door, seat });
        };
        let seat = room.enter(None, &snapshot.capacity);
        // What there is no room for is told so behind its header, but not waited for.
        let _waits = if seat.is_err() { Some(room.turn_away()?) } else { None };
        let within = if seat.is_err() { MOMENT } else { door.limits.header };
        // Boxed, so that the future of every connection stays small.
        match Box::pin(introduced(stream, introductions, arrival.client_ip(), within)).await {
            Ok(Some(Said::Tcp { client, server })) => {
                arrival.client = Some(canonical(client));
                arrival.server = Some(canonical(server));
            }
            Ok(Some(Said::Local | Said::Unknown | Said::Unix) | None) => {}
            Err(refusal) => {
                self.gateway.refuse_introduction(&arrival, refusal);
                return None;
            }
        }
        let seat = seat.and_then(|mut seat| {
            room.count(&mut seat, arrival.client_ip(), &snapshot.capacity)?;
            Ok(seat)
        });
        Some(Arrived { arrival, door, seat })
    }
}

impl Gateway {
    fn refuse_introduction(&self, arrival: &Arrival, refusal: Refusal) {
        self.0.runtime.services().metrics.proxy_protocol_refused(refusal.code());
        let peer = arrival.peer.map_or_else(|| "unix".to_owned(), |peer| peer.to_string());
        let (now, last) = (self.now(), &self.0.complained);
        let before = last.load(Ordering::Relaxed);
        let due = refusal != Refusal::Ended && (before == 0 || now.saturating_sub(before) >= SELDOM);
        if due && last.compare_exchange(before, now.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            log::warn!(
                "closed a connection of {peer}: {refusal} (one line in 10 s; torana_proxy_protocol_refused_total counts \
                 them all)"
            );
        } else {
            log::debug!("closed a connection of {peer}: {refusal}");
        }
    }
}

/// What a peer says of its connection; `None` if it speaks for itself.
async fn introduced(
    stream: &mut Stream,
    by: &Introductions,
    peer: Option<IpAddr>,
    within: Duration,
) -> Result<Option<Said>, Refusal> {
    if !by.trusted.contains(peer) {
        return match by.others {
            Others::Direct => Ok(None),
            Others::Close => Err(Refusal::Untrusted),
        };
    }
    let header =
        async { if by.required || announced(stream).await? { read(stream).await.map(Some) } else { Ok(None) } };
    timeout(within, header).await.unwrap_or(Err(Refusal::TimedOut))
}

/// Whether a connection begins with a header. Clients of TLS and HTTP speak first too, and send more than is looked at.
async fn announced(stream: &mut Stream) -> Result<bool, Refusal> {
    let mut first = [0; 1];
    let mut six = [0; 6];
    let mut twelve = [0; 12];
    for some in [&mut first[..], &mut six, &mut twelve] {
        if !stream.try_peek(some).await? || !proxy_protocol::begins(some) {
            return Ok(false);
        }
        if some == b"PROXY " {
            return Ok(true);
        }
    }
    Ok(true)
}

/// Reads the header, and nothing behind it.
async fn read(stream: &mut Stream) -> Result<Said, Refusal> {
    let mut bytes = Vec::with_capacity(128);
    loop {
        match proxy_protocol::read(&bytes)? {
            Progress::Whole(said) => return Ok(said),
            Progress::Missing(missing) => {
                let mut rest = (&mut *stream).take(u64::try_from(missing).unwrap_or(u64::MAX));
                if rest.read_buf(&mut bytes).await? == 0 {
                    return Err(Refusal::Ended);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::{networks::Peers, proxy_protocol::Version, proxy_protocol::write};

    fn stream() -> (tokio::io::DuplexStream, Stream) {
        let (mine, other) = tokio::io::duplex(1 << 16);
        (mine, Box::new(other))
    }

    #[tokio::test]
    async fn nothing_behind_the_header_is_read() {
        let said = Said::Tcp { client: "192.0.2.7:1".parse().unwrap(), server: "10.0.0.1:2".parse().unwrap() };
        for version in [Version::V1, Version::V2] {
            let (mut mine, mut other) = stream();
            mine.write_all(&[&write(version, &said)[..], b"GET /"].concat()).await.unwrap();
            assert_eq!(read(&mut other).await, Ok(said));
            let mut rest = [0; 5];
            other.read_exact(&mut rest).await.unwrap();
            assert_eq!(&rest, b"GET /");
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_within_the_header_has_ended() {
        for part in [&b""[..], b"PROXY TCP4 192.0.2.7", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01"] {
            let (mut mine, mut other) = stream();
            mine.write_all(part).await.unwrap();
            drop(mine);
            assert_eq!(read(&mut other).await, Err(Refusal::Ended), "{part:?}");
        }
    }

    #[tokio::test]
    async fn a_header_that_does_not_come_is_waited_for_so_long_and_no_longer() {
        let by = Introductions {
            trusted: Peers::new(&["10.0.0.1".parse().unwrap()]),
            required: true,
            others: Others::Close,
        };
        let (_mine, mut other) = stream();
        assert_eq!(
            introduced(&mut other, &by, "10.0.0.1".parse().ok(), Duration::from_millis(50)).await,
            Err(Refusal::TimedOut)
        );
    }
}
