//! Connection IDs: which process a packet belongs to.
//!
//! An ID is the mark of the process that gave it out, and random bits. The mark tells an observer no more than that two
//! connections are served by the same process.

use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator};

/// What every ID of a process begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) struct Mark([u8; 4]);

/// Mark and random bits.
const LENGTH: usize = 12;

impl Mark {
    /// One of its own.
    pub(in crate::server) fn random() -> Self {
        Self(rand::random())
    }

    /// As text, for a process that takes over.
    pub(in crate::server) fn to_text(self) -> String {
        format!("{:08x}", u32::from_be_bytes(self.0))
    }

    /// The mark that another process put into words.
    pub(in crate::server) fn from_text(text: &str) -> Option<Self> {
        u32::from_str_radix(text, 16).ok().map(|number| Self(number.to_be_bytes()))
    }
}

/// Whom a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Addressee {
    /// The connection of the process with this mark.
    Process(Mark),
    /// A connection of which there is no ID yet.
    Anyone,
}

/// Whom a packet is for; nothing if it belongs to no process that there is
/// ([RFC 8999](https://www.rfc-editor.org/rfc/rfc8999#section-5)).
pub(super) fn addressee(packet: &[u8]) -> Option<Addressee> {
    let (first, rest) = packet.split_first()?;
    let is_long = first & 0x80 != 0;
    let id = if is_long {
        let (length, rest) = rest.get(4..)?.split_first()?;
        rest.get(..usize::from(*length))?
    } else {
        rest.get(..LENGTH)?
    };
    // The first packets of a connection have an ID that the client has made up, which may be as long by chance.
    let mark = id.first_chunk().copied().map(Mark).filter(|_| id.len() == LENGTH);
    match mark {
        Some(mark) => Some(Addressee::Process(mark)),
        None if is_long => Some(Addressee::Anyone),
        None => None,
    }
}

/// Whether a packet may be the first one of a connection.
pub(super) fn is_long(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first & 0x80 != 0)
}

/// Makes the IDs of a process.
#[derive(Debug)]
pub(super) struct Ids(pub(super) Mark);

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; LENGTH];
        let random: [u8; LENGTH - 4] = rand::random();
        for (place, byte) in id.iter_mut().zip(self.0.0.iter().chain(&random)) {
            *place = *byte;
        }
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_says_which_process_it_is_for() {
        let mark = Mark([1, 2, 3, 4]);
        let id = Ids(mark).generate_cid();
        let short = [&[0x40][..], &id, b"payload"].concat();
        assert_eq!(addressee(&short), Some(Addressee::Process(mark)));
        let long = [&[0xc0, 0, 0, 0, 1, 12][..], &id, b"payload"].concat();
        assert_eq!(addressee(&long), Some(Addressee::Process(mark)));
        let first = [&[0xc0, 0, 0, 0, 1, 8][..], b"12345678", b"payload"].concat();
        assert_eq!(addressee(&first), Some(Addressee::Anyone));
        for cut in [&[][..], &[0x40], &[0x40, 1, 2], &[0xc0, 0, 0, 0], &[0xc0, 0, 0, 0, 1, 12, 1]] {
            assert_eq!(addressee(cut), None);
        }
    }

    #[test]
    fn a_mark_survives_as_text() {
        let mark = Mark::random();
        assert_eq!(Mark::from_text(&mark.to_text()), Some(mark));
        assert_eq!(Mark::from_text("no mark"), None);
    }
}
