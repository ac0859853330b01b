//! Where the frames in one direction begin and end ([RFC 6455, 5.2](https://www.rfc-editor.org/rfc/rfc6455#section-5.2)).

use super::Limits;

/// What a frame did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is none that the protocol allows.
    Protocol(&'static str),
    /// It is larger than the route allows, or makes its message so.
    TooLarge,
}

/// A frame that must not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) fault: Fault,
    /// How many of the bytes stand before it; `None` if it began earlier.
    pub(super) before: Option<usize>,
}

/// Goes over what one side says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frames {
    masked: bool,
    extensions: bool,
    limits: Limits,
    /// The header of the frame that is coming, as far as it is there: without the mask.
    head: [u8; 10],
    have: usize,
    /// How much is to come of the frame, mask included.
    left: u64,
    /// Whether a message has begun whose last fragment is still to come.
    fragmented: bool,
    /// How much there was of it.
    message: u64,
}

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASK: u8 = 0x80;
/// Marks frames of control among the opcodes.
const CONTROL: u8 = 0x08;

impl Frames {
    pub(super) const fn new(masked: bool, extensions: bool, limits: Limits) -> Self {
        Self { masked, extensions, limits, head: [0; 10], have: 0, left: 0, fragmented: false, message: 0 }
    }

    /// The part of a header that came without the rest of it.
    pub(super) fn begun(&self) -> &[u8] {
        self.head.get(..self.have).unwrap_or_default()
    }

    /// Whether another frame may begin here.
    pub(super) const fn is_between(&self) -> bool {
        self.left == 0
    }

    /// How many of `len` bytes belong to the frame that is under way.
    pub(super) fn own(&self, len: usize) -> usize {
        usize::try_from(self.left).map_or(len, |left| left.min(len))
    }

    /// Goes on by so many bytes of the frame that is under way.
    pub(super) fn skip(&mut self, count: usize) {
        self.left = self.left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// Goes on by these bytes, up to the first frame that must not pass.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        let mut at = 0;
        let mut began = if self.have > 0 { None } else { Some(0) };
        while at < bytes.len() {
            if self.left > 0 {
                let own = self.own(bytes.len() - at);
                self.skip(own);
                at += own;
                continue;
            }
            if self.have == 0 {
                began = Some(at);
            }
            self.take(bytes.get(at).copied().unwrap_or_default()).map_err(|fault| Wrong { fault, before: began })?;
            at += 1;
        }
        Ok(())
    }

    /// Takes one byte of a header.
    fn take(&mut self, byte: u8) -> Result<(), Fault> {
        if let Some(place) = self.head.get_mut(self.have) {
            *place = byte;
        }
        self.have += 1;
        let [first, second, ..] = self.head;
        if self.have < 2 {
            return Ok(());
        }
        if self.have == 2 {
            self.judge(first, second)?;
        }
        let extended = match second & !MASK {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if self.have < 2 + extended {
            return Ok(());
        }
        let digits = self.head.get(2..2 + extended).unwrap_or_default();
        let length = digits.iter().fold(0, |sum: u64, digit| sum << 8 | u64::from(*digit));
        let length = if extended == 0 { u64::from(second & !MASK) } else { length };
        self.measure(first, extended, length)?;
        self.have = 0;
        self.left = length + if self.masked { 4 } else { 0 };
        Ok(())
    }

    /// What the first two bytes tell.
    fn judge(&self, first: u8, second: u8) -> Result<(), Fault> {
        let opcode = first & 0x0f;
        let wrong = if first & RESERVED != 0 && !self.extensions {
            "a frame has reserved bits without an extension"
        } else if !matches!(opcode, 0..=2 | 8..=10) {
            "a frame has an opcode that is not known"
        } else if (second & MASK != 0) != self.masked {
            if self.masked { "a frame of the client has no mask" } else { "a frame of the server has a mask" }
        } else if opcode & CONTROL != 0 && (first & FIN == 0 || second & !MASK > 125) {
            "a frame of control is fragmented or too long"
        } else if opcode == 0 && !self.fragmented {
            "a fragment belongs to no message"
        } else if matches!(opcode, 1 | 2) && self.fragmented {
            "a message begins within another"
        } else {
            return Ok(());
        };
        Err(Fault::Protocol(wrong))
    }

    /// What the length tells; counts it.
    fn measure(&mut self, first: u8, extended: usize, length: u64) -> Result<(), Fault> {
        let shortest = match extended {
            0 => 0,
            2 => 126,
            _ => 1 << 16,
        };
        if length < shortest || length >= 1 << 63 {
            return Err(Fault::Protocol("the length of a frame is not in its shortest form"));
        }
        if first & CONTROL != 0 {
            return Ok(());
        }
        self.message = self.message.saturating_add(if self.fragmented { length.max(1) } else { length });
        if length > self.limits.frame || self.message > self.limits.message {
            return Err(Fault::TooLarge);
        }
        self.fragmented = first & FIN == 0;
        if !self.fragmented {
            self.message = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: Limits = Limits { frame: 70_000, message: 100_000, idle: Duration::MAX };

    fn client() -> Frames {
        Frames::new(true, false, LIMITS)
    }

    /// A masked frame with a payload of zeros.
    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match length {
            0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
            126..65_536 => {
                frame.push(0x80 | 0x7e);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 0x7f);
                frame.extend(u64::try_from(length).unwrap().to_be_bytes());
            }
        }
        frame.resize(frame.len() + 4 + length, 0);
        frame
    }

    /// What comes of these bytes, in one piece and byte by byte.
    fn scan(frames: Frames, bytes: &[u8]) -> Result<(), Fault> {
        let (mut whole, mut pieces) = (frames, frames);
        let outcome = whole.scan(bytes).map_err(|wrong| wrong.fault);
        let by_byte = bytes.iter().try_for_each(|byte| pieces.scan(&[*byte])).map_err(|wrong| wrong.fault);
        assert_eq!(outcome, by_byte);
        outcome
    }

    #[test]
    fn what_the_protocol_allows_passes() {
        let mut talk = Vec::new();
        for (first, length) in [
            (0x81, 5),
            (0x82, 0),
            (0x82, 125),
            (0x82, 126),
            (0x82, 65_535),
            (0x82, 65_536),
            (0x01, 10),
            (0x89, 4),
            (0x00, 0),
            (0x8a, 0),
            (0x80, 300),
            (0x88, 2),
        ] {
            talk.extend(frame(first, length));
        }
        assert_eq!(scan(client(), &talk), Ok(()));
        let mut frames = client();
        frames.scan(&talk[..talk.len() - 1]).unwrap();
        assert!(!frames.is_between());
        frames.scan(&talk[talk.len() - 1..]).unwrap();
        assert!(frames.is_between() && frames.begun().is_empty());
        assert_eq!(scan(Frames::new(false, false, LIMITS), &[0x81, 1, b'a', 0x82, 0]), Ok(()));
        assert_eq!(scan(Frames::new(true, true, LIMITS), &frame(0xc1, 3)), Ok(()), "compressed");
    }

    #[test]
    fn what_it_does_not_allow_is_found_where_it_begins() {
        let good = frame(0x81, 3);
        for (what, bad) in [
            ("no mask", vec![0x81, 0]),
            ("reserved bit", frame(0xc1, 0)),
            ("opcode 3", frame(0x83, 0)),
            ("opcode 11", frame(0x8b, 0)),
            ("a fragmented ping", frame(0x09, 0)),
            ("a long ping", frame(0x89, 126)),
            ("a fragment of nothing", frame(0x80, 1)),
            ("a longer form", vec![0x82, 0xfe, 0, 125]),
            ("a much longer form", vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
            ("the highest bit", vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            let mut bytes = good.clone();
            bytes.extend(&bad);
            assert!(matches!(scan(client(), &bytes), Err(Fault::Protocol(_))), "{what}");
            assert_eq!(client().scan(&bytes).unwrap_err().before, Some(good.len()), "{what}");
        }
        let within: Vec<u8> = [frame(0x01, 1), frame(0x81, 1)].concat();
        assert!(matches!(scan(client(), &within), Err(Fault::Protocol(_))));
        assert!(matches!(scan(Frames::new(false, false, LIMITS), &frame(0x81, 1)), Err(Fault::Protocol(_))));
    }

    #[test]
    fn sizes_are_limited_before_the_payload_comes() {
        let gigabyte = [&[0x82, 0xff][..], &(1_u64 << 30).to_be_bytes()].concat();
        assert_eq!(scan(client(), &gigabyte), Err(Fault::TooLarge));
        let mut frames = client();
        frames.scan(&gigabyte[..4]).unwrap();
        assert_eq!(frames.begun(), &gigabyte[..4]);
        assert_eq!(frames.scan(&gigabyte[4..]), Err(Wrong { fault: Fault::TooLarge, before: None }));
        let fragments = [frame(0x02, 60_000), frame(0x00, 60_000)].concat();
        assert_eq!(scan(client(), &fragments), Err(Fault::TooLarge));
        let mut empty = client();
        empty.scan(&frame(0x01, 0)).unwrap();
        let endless = (0..200_000).find_map(|_| empty.scan(&frame(0x00, 0)).err());
        assert_eq!(endless.unwrap().fault, Fault::TooLarge);
        let many: Vec<u8> = (0..4).flat_map(|_| frame(0x82, 60_000)).collect();
        assert_eq!(scan(client(), &many), Ok(()), "messages are counted one by one");
    }
}
