//! Numbers and strings as header sections have them, in HTTP/2 ([RFC 7541, 5](https://www.rfc-editor.org/rfc/rfc7541#section-5))
//! and in HTTP/3 ([RFC 9204, 4.1](https://www.rfc-editor.org/rfc/rfc9204#section-4.1)): a number fills the rest of a byte and
//! goes on in the next ones, a string is its length and its bytes, which may be in the Huffman code.

mod huffman;

/// A section that no decoder understands: an error of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What of a section is not read yet.
pub(super) struct Rest<'a>(pub(super) &'a [u8]);

impl<'a> Rest<'a> {
    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    /// A number whose first bits are the lower `bits` of `first`.
    pub(super) fn number(&mut self, first: u8, bits: u32) -> Result<usize, Malformed> {
        let max = u8::MAX >> (8 - bits);
        let mut value = usize::from(first & max);
        if first & max < max {
            return Ok(value);
        }
        // Four more bytes reach beyond every limit there is.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// A string whose length begins with the lower `bits` of `first`; the bit above says whether it is coded.
    pub(super) fn string<'b>(&mut self, first: u8, bits: u32, scratch: &'b mut Vec<u8>) -> Result<&'b [u8], Malformed>
    where
        'a: 'b,
    {
        self.raw_string(first, bits)?.text(scratch)
    }

    /// The same as it stands there.
    pub(super) fn raw_string(&mut self, first: u8, bits: u32) -> Result<Raw<'a>, Malformed> {
        let length = self.number(first, bits)?;
        let (raw, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(if first >> bits & 1 == 0 { Raw::Plain(raw) } else { Raw::Coded(raw) })
    }
}

/// A string as it stands in a section.
#[derive(Clone, Copy, Debug)]
pub(super) enum Raw<'a> {
    /// The text itself.
    Plain(&'a [u8]),
    /// In the Huffman code.
    Coded(&'a [u8]),
}

impl<'a> Raw<'a> {
    /// The text, decoded into `scratch` if it has to be.
    pub(super) fn text<'b>(self, scratch: &'b mut Vec<u8>) -> Result<&'b [u8], Malformed>
    where
        'a: 'b,
    {
        match self {
            Self::Plain(text) => Ok(text),
            Self::Coded(coded) => {
                scratch.clear();
                if huffman::decode(coded, scratch) { Ok(scratch) } else { Err(Malformed) }
            }
        }
    }
}
