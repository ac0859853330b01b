//! One process takes over from another without a gap.
//!
//! The old process starts the program on disk with its own arguments, and gives it one end of a socket pair as standard
//! input. Nobody else can reach that: there is no path, so no mode and no race for it. Over it goes:
//!
//! | | from | what |
//! |---|---|---|
//! | `Hello` | old | descriptors of the listening sockets, seeds of keyed hashes |
//! | `Ready` | new | the file is loaded and compiled, names and keys are there: it could serve at once |
//! | `Serve` | old | a memory file with the state: counters of limits, health, keys, addresses |
//! | `Serving` | new | it accepts connections; from here on the old process accepts no more |
//! | `Main` | old | the service manager knows the new process as the main one |
//! | `Draining` | old | once a second: what still has to end |
//! | `Stop` | new | the service stops: the old process is to end as well |
//!
//! Up to `Serving` whatever goes wrong ends the new process, and the old one serves on. Both accept from `Serve` to
//! `Serving`, which takes milliseconds: what limits count in that time, they count apart.

mod new;
mod old;
mod state;

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    sockopt::{self, Timeout},
};
use serde::{Deserialize, Serialize};

use crate::admin::status::Draining;

pub use self::new::Predecessor;
pub(super) use self::old::{News, Offer, Successor, program};

/// Of what the processes say to each other. A newer one may understand an older one; nobody understands a newer one.
const PROTOCOL: u32 = 1;

/// Tells a process that it is started to take over, and where its end of the socket pair is.
const VARIABLE: &str = "TORANA_HANDOVER";

/// The kernel sends at most 253 at once.
const MAX_SOCKETS: usize = 200;

/// Longer messages are cut off.
const MAX_MESSAGE: usize = 64 << 10;

/// What the processes say to each other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
enum Message {
    Hello { protocol: u32, pid: u32, sockets: Vec<Name>, more: bool, seeds: [u64; 4] },
    Ready { version: String },
    Failed { why: String },
    Serve,
    Serving,
    Main,
    Draining(Draining),
    Stop,
}

/// Which socket a descriptor is.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Name {
    /// As in the file.
    configured: String,
    /// With its real port.
    local: String,
}

/// One end of the socket pair.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl Link {
    fn pair() -> io::Result<(Self, OwnedFd)> {
        let (mine, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(mine), other))
    }

    fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other("too many sockets in one message"));
        }
        rustix::io::retry_on_intr(|| {
            sendmsg(&self.0, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL).map(drop)
        })?;
        Ok(())
    }

    /// The next message; `None` if the other process is gone. Without `within` it waits as long as that takes.
    fn receive(&self, within: Option<Duration>) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        sockopt::set_socket_timeout(&self.0, Timeout::Recv, within)?;
        let mut text = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)
        });
        let length = match received {
            Ok(received) => received.bytes,
            Err(rustix::io::Errno::CONNRESET) => 0,
            Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error.into()),
        };
        let Some(text) = text.get(..length).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let mut descriptors = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = part {
                descriptors.extend(received);
            }
        }
        Ok(Some((serde_json::from_slice(text)?, descriptors)))
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_descriptors_go_over_and_the_end_is_seen() {
        let (mine, other) = Link::pair().unwrap();
        let other = Link(other);
        let file = std::fs::File::open("/dev/null").unwrap();
        mine.send(&Message::Serve, &[file.as_fd(), file.as_fd()]).unwrap();
        mine.send(&Message::Ready { version: "x".into() }, &[]).unwrap();
        let (message, descriptors) = other.receive(None).unwrap().unwrap();
        assert!(matches!(message, Message::Serve));
        assert_eq!(descriptors.len(), 2);
        assert!(matches!(other.receive(None).unwrap().unwrap().0, Message::Ready { version } if version == "x"));
        let late = other.receive(Some(Duration::from_millis(10))).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        drop(mine);
        assert!(other.receive(None).unwrap().is_none());
    }
}
