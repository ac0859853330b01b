//! The Huffman code of header strings ([RFC 7541, appendix B](https://www.rfc-editor.org/rfc/rfc7541#appendix-B)).
//!
//! The code is canonical: symbols of the same length follow each other in the order of their value, so that how many there
//! are of each length, and the symbols in order, say everything.

/// The shortest code has so many bits.
const SHORTEST: u32 = 5;

/// How many codes of 5, 6, 7 ... 30 bits there are, without the end of string.
const COUNTS: [u32; 26] = [10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 3];

/// The symbols in the order of their codes.
#[rustfmt::skip]
const SYMBOLS: [u8; 256] = [
    48, 49, 50, 97, 99, 101, 105, 111, 115, 116, 32, 37, 45, 46, 47, 51, 52, 53, 54, 55, 56, 57, 61, 65,
    95, 98, 100, 102, 103, 104, 108, 109, 110, 112, 114, 117, 58, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76,
    77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 89, 106, 107, 113, 118, 119, 120, 121, 122, 38, 42, 44, 59,
    88, 90, 33, 34, 40, 41, 63, 39, 43, 124, 35, 62, 0, 36, 64, 91, 93, 126, 94, 125, 60, 96, 123, 92,
    195, 208, 128, 130, 131, 162, 184, 194, 224, 226, 153, 161, 167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230, 129,
    132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170, 173, 178, 181, 185, 186, 187, 189, 190, 196, 198, 228, 232,
    233, 1, 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157, 158, 165, 166, 168, 174, 175, 180, 182,
    183, 188, 191, 197, 231, 239, 9, 142, 144, 145, 148, 159, 171, 206, 215, 225, 236, 237, 199, 207, 234, 235, 192, 193,
    200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242, 243, 255, 203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245,
    246, 247, 248, 250, 251, 252, 253, 254, 2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20,
    21, 23, 24, 25, 26, 27, 28, 29, 30, 31, 127, 220, 249, 10, 13, 22,
];

/// Codes of one length, as far as the left of 32 bits.
#[derive(Clone, Copy)]
struct Row {
    /// No code of this length or a shorter one is as large.
    end: u64,
    /// The first code of this length, and the place of its symbol.
    first: u64,
    index: usize,
    length: u32,
}

/// The lengths, the shortest first.
static ROWS: [Row; 26] = {
    let mut rows = [Row { end: 0, first: 0, index: 0, length: 0 }; 26];
    let (mut at, mut first, mut index) = (0, 0_u64, 0_usize);
    let mut length = SHORTEST;
    while at < rows.len() {
        #[expect(clippy::as_conversions, clippy::indexing_slicing, reason = "there is nothing else in a constant")]
        {
            let count = COUNTS[at];
            rows[at] = Row { end: (first + count as u64) << (32 - length), first, index, length };
            first = (first + count as u64) << 1;
            index += count as usize;
        }
        (at, length) = (at + 1, length + 1);
    }
    rows
};

/// Decodes a string behind what `out` has already; `false` if it is not valid.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> bool {
    let mut bytes = coded.iter();
    // What is not decoded yet, at the right, and how many bits that is.
    let (mut held, mut count) = (0_u64, 0_u32);
    loop {
        while count <= 32 {
            let Some(byte) = bytes.next() else { break };
            (held, count) = (held << 8 | u64::from(*byte), count + 8);
        }
        // 32 bits, filled up with the ones of the end of string.
        let missing = 32_u32.saturating_sub(count);
        let window = (held << missing | ((1 << missing) - 1)) >> (count + missing - 32) & u64::from(u32::MAX);
        let row = ROWS.iter().find(|row| window < row.end);
        let Some(row) = row.filter(|row| row.length <= count) else {
            // What is left over is the beginning of the end of string, and less than a byte.
            return count < 8 && held & ((1 << count) - 1) == (1 << count) - 1;
        };
        let offset = usize::try_from((window >> (32 - row.length)) - row.first).unwrap_or(usize::MAX);
        let Some(symbol) = SYMBOLS.get(row.index.saturating_add(offset)) else { return false };
        out.push(*symbol);
        count -= row.length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_the_rfc_are_decoded() {
        for (coded, text) in [
            (&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..], "www.example.com"),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f], "custom-key"),
            (&[], ""),
        ] {
            let mut out = Vec::new();
            assert!(decode(coded, &mut out), "{text}");
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn every_symbol_has_a_code_of_its_own() {
        let mut seen: Vec<u8> = SYMBOLS.to_vec();
        seen.sort_unstable();
        assert!(seen.iter().enumerate().all(|(at, symbol)| at == usize::from(*symbol)));
        // With the one code of the end of string, which is all ones, no code is left over.
        let taken: u64 = COUNTS.iter().zip(5..).map(|(count, bits)| u64::from(*count) << (30 - bits)).sum();
        assert_eq!(taken + 1, 1 << 30);
    }

    #[test]
    fn wrong_padding_and_the_end_of_string_are_refused() {
        // `0` is 00000: behind it comes 000 instead of 111; then eight ones; then the end of string.
        for coded in [&[0x00][..], &[0x07, 0xff], &[0xff, 0xff, 0xff, 0xff]] {
            assert!(!decode(coded, &mut Vec::new()), "{coded:?}");
        }
        assert!(decode(&[0x07], &mut Vec::new()));
    }
}
