//! Looks for a fragment in the `:path` of a request, in the header block as it came ([RFC 7541](https://www.rfc-editor.org/rfc/rfc7541)).
//!
//! The `http` crate, in which `h2` hands over requests, cuts a fragment off. Who asks for `/a#/../b` asks for something that no
//! two servers need to understand alike ([RFC 9113, 8.3.1](https://www.rfc-editor.org/rfc/rfc9113#section-8.3.1) has no
//! fragment in `:path`), so it has to be seen before. Blocks are not decoded for that: fields are walked over, of
//! the dynamic table only sizes are kept, and a string is decoded if it goes into the table or may have a `#`.

use std::collections::VecDeque;

use crate::proxy::coded::{Malformed, Raw, Rest};

/// How large the dynamic table may be: clients are told nothing else.
const MAX_TABLE: usize = 4096;

/// What an entry counts besides its name and value ([RFC 7541, 4.1](https://www.rfc-editor.org/rfc/rfc7541#section-4.1)).
const OVERHEAD: usize = 32;

/// How long the names of the static table are ([RFC 7541, appendix A](https://www.rfc-editor.org/rfc/rfc7541#appendix-A)).
#[rustfmt::skip]
const STATIC: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12,
    6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
];

/// Where `:path` stands in it.
const PATHS: [usize; 2] = [4, 5];

/// The longest code of a symbol has so many bits.
const LONGEST: usize = 30;

/// A name: how long it is, and whether it is `:path`.
#[derive(Clone, Copy, Debug)]
struct Name {
    length: usize,
    is_path: bool,
}

/// A field that later blocks may refer to.
#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Name,
    size: usize,
    /// Whether it is a `:path` with a fragment.
    fragment: bool,
}

/// The header blocks of a connection, one after the other.
#[derive(Debug)]
pub(super) struct Fields {
    /// The latest entry is the first.
    table: VecDeque<Entry>,
    size: usize,
    max: usize,
    scratch: Vec<u8>,
}

impl Default for Fields {
    fn default() -> Self {
        Self { table: VecDeque::new(), size: 0, max: MAX_TABLE, scratch: Vec::new() }
    }
}

impl Fields {
    /// Walks over the next block; says whether it has a `:path` with a fragment.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<bool, Malformed> {
        let mut rest = Rest(block);
        let (mut begun, mut found) = (false, false);
        while let Ok(first) = rest.byte() {
            found |= match first {
                // The size of the table changes before the first field (RFC 7541, 4.2).
                0x20..0x40 if begun => return Err(Malformed),
                0x20..0x40 => {
                    let max = rest.number(first, 5)?;
                    self.resize(max)?;
                    continue;
                }
                0x80.. => {
                    let index = rest.number(first, 7)?;
                    self.known(index)?.is_some_and(|entry| entry.fragment)
                }
                0x40.. => self.literal(&mut rest, first, 6, true)?,
                _ => self.literal(&mut rest, first, 4, false)?,
            };
            begun = true;
        }
        if self.scratch.capacity() > MAX_TABLE {
            self.scratch = Vec::new();
        }
        Ok(found)
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.table.len()
    }

    /// The entry with this number, if it is not one of the static table.
    fn known(&self, index: usize) -> Result<Option<Entry>, Malformed> {
        if (1..=STATIC.len()).contains(&index) {
            return Ok(None);
        }
        let place = index.checked_sub(STATIC.len() + 1).ok_or(Malformed)?;
        self.table.get(place).copied().map(Some).ok_or(Malformed)
    }

    /// A field whose value stands here, its name or the number of that before it; says whether it is a `:path` with a fragment.
    fn literal(&mut self, rest: &mut Rest<'_>, first: u8, bits: u32, keep: bool) -> Result<bool, Malformed> {
        let index = rest.number(first, bits)?;
        let name = if index == 0 {
            let length = rest.byte()?;
            let name = rest.string(length, 7, &mut self.scratch)?;
            if name.is_empty() {
                // No field has such a name, and the crate would go on in the middle of this one.
                return Err(Malformed);
            }
            Name { length: name.len(), is_path: name == b":path" }
        } else if let Some(entry) = self.known(index)? {
            entry.name
        } else {
            let length = STATIC.get(index - 1).copied().ok_or(Malformed)?;
            Name { length: length.into(), is_path: PATHS.contains(&index) }
        };
        let length = rest.byte()?;
        let value = rest.raw_string(length, 7)?;
        let matters = keep || (name.is_path && may_have_fragment(value));
        if !matters {
            return Ok(false);
        }
        if let (Raw::Coded(coded), false) = (value, name.is_path)
            && coded.len() / LONGEST > MAX_TABLE / 8
        {
            // However it is decoded, it is larger than the table.
            self.make_room(MAX_TABLE + 1);
            return Ok(false);
        }
        let text = value.text(&mut self.scratch)?;
        let fragment = name.is_path && text.contains(&b'#');
        if keep {
            let size = name.length + text.len() + OVERHEAD;
            self.keep(Entry { name, size, fragment });
        }
        Ok(fragment)
    }

    fn resize(&mut self, max: usize) -> Result<(), Malformed> {
        if max > MAX_TABLE {
            return Err(Malformed);
        }
        self.max = max;
        self.make_room(0);
        Ok(())
    }

    fn keep(&mut self, entry: Entry) {
        self.make_room(entry.size);
        // One that is larger than the table empties it, and is not kept.
        if entry.size <= self.max {
            self.size += entry.size;
            self.table.push_front(entry);
        }
    }

    /// Gives up the oldest entries until there is so much room.
    fn make_room(&mut self, wanted: usize) {
        while self.size + wanted > self.max {
            let Some(oldest) = self.table.pop_back() else { return };
            self.size -= oldest.size;
        }
    }
}

/// Whether a string may have a `#`; what has one always may.
fn may_have_fragment(value: Raw<'_>) -> bool {
    match value {
        Raw::Plain(text) => text.contains(&b'#'),
        // Its code begins with nine ones.
        Raw::Coded(coded) => {
            let mut ones = 0;
            coded.iter().any(|byte| {
                let found = ones + byte.leading_ones() >= 9;
                ones = if *byte == u8::MAX { ones + 8 } else { byte.trailing_ones() };
                found
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A string, as it is.
    fn plain(text: &str) -> Vec<u8> {
        [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
    }

    /// `/a#b`, `/a>b` and `:path` in the Huffman code.
    const FRAGMENT: [u8; 5] = [0x84, 0x60, 0x7f, 0xf5, 0x1f];
    const OTHER: [u8; 5] = [0x84, 0x60, 0x7f, 0xf7, 0x1f];
    const NAME: [u8; 5] = [0x84, 0xb9, 0x58, 0xd3, 0x3f];

    fn read(blocks: &[&[u8]]) -> Vec<Result<bool, Malformed>> {
        let mut fields = Fields::default();
        blocks.iter().map(|block| fields.read(block)).collect()
    }

    #[test]
    fn the_strings_of_these_tests_are_what_they_say() {
        for (coded, text) in [(FRAGMENT, "/a#b"), (OTHER, "/a>b"), (NAME, ":path")] {
            let mut out = Vec::new();
            assert_eq!(Raw::Coded(&coded[1..]).text(&mut out).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn a_fragment_is_found_however_the_path_is_written() {
        for (value, found) in
            [(plain("/a#b"), true), (FRAGMENT.into(), true), (plain("/a"), false), (OTHER.into(), false)]
        {
            let names: [&[u8]; 9] = [
                &[0x04],
                &[0x14],
                &[0x05],
                &[0x44],
                &[0x45],
                &[&[0x00][..], &plain(":path")].concat(),
                &[&[0x10][..], &NAME].concat(),
                &[&[0x40][..], &plain(":path")].concat(),
                &[&[0x82, 0x86, 0x40][..], &NAME].concat(),
            ];
            for name in names {
                let block = [name, &value].concat();
                assert_eq!(read(&[&block]), [Ok(found)], "{block:x?}");
            }
        }
    }

    #[test]
    fn a_path_that_was_kept_is_found_again_and_so_is_its_name() {
        let kept = [&[0x44][..], &plain("/a#b")].concat();
        let named = [&[0x0f, 62 - 15][..], &plain("/#")].concat();
        let quiet = [&[0x0f, 62 - 15][..], &plain("/b")].concat();
        let wanted = [Ok(true), Ok(true), Ok(true), Ok(false)];
        assert_eq!(read(&[&kept, &[0xbe], &named, &quiet]), wanted);
    }

    #[test]
    fn what_other_fields_have_is_not_a_fragment() {
        let agent = [&[0x7a][..], &plain("a#b")].concat();
        let again = [&[0x0f, 62 - 15][..], &plain("#")].concat();
        let own = [&[0x00][..], &plain("x"), &FRAGMENT].concat();
        assert_eq!(read(&[&agent, &[0xbe], &again, &own]), [Ok(false); 4]);
    }

    #[test]
    fn entries_leave_the_table_when_it_is_full_or_made_smaller() {
        let long = "v".repeat(100);
        // Each counts 10 + 100 + 32: twenty-eight of them fit.
        let agent = [&[0x7a][..], &plain(&long)].concat();
        let mut fields = Fields::default();
        for _ in 0..40 {
            assert_eq!(fields.read(&agent), Ok(false));
        }
        assert_eq!(fields.table.len(), 4096 / 142);
        assert_eq!(fields.read(&[0x80 | (61 + 28)]), Ok(false));
        assert_eq!(fields.read(&[0x80 | (61 + 29)]), Err(Malformed));
        // To 300 bytes, and to nothing.
        assert_eq!(fields.read(&[0x3f, 0x8d, 0x02]), Ok(false));
        assert_eq!((fields.table.len(), fields.size), (2, 284));
        assert_eq!(fields.read(&[0x20, 0x3f, 0xe1, 0x1f]), Ok(false));
        assert_eq!((fields.table.len(), fields.size, fields.max), (0, 0, 4096));
    }

    #[test]
    fn what_cannot_be_read_is_malformed() {
        let cut: [&[u8]; 12] = [
            &[0x82, 0x20],
            &[0x80],
            &[0xbe],
            &[0x04],
            &[0x04, 0x05, b'/'],
            &[0x7f],
            &[0x3f, 0xe2, 0x1f],
            &[0x44, 0x81, 0x00],
            &[0x00, 0x81],
            &[0x00, 0x00, 0x01, b'a'],
            &[0x40, 0x80, 0x01, b'a'],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        ];
        for block in cut {
            assert_eq!(read(&[block]), [Err(Malformed)], "{block:x?}");
        }
        assert_eq!(read(&[&[]]), [Ok(false)]);
    }

    #[test]
    fn every_string_with_a_number_sign_is_looked_at() {
        // `#` behind and before codes of every length there is from five to ten bits.
        let (mut bits, mut value) = (String::new(), Vec::new());
        for around in ["00000", "010100", "1011100", "11111000", "1111111000", "111111111011"] {
            for before in 0..9 {
                bits.clear();
                bits.push_str(&"00000".repeat(before));
                for code in [around, "111111111010", around] {
                    bits.push_str(code);
                }
                while bits.len() % 8 != 0 {
                    bits.push('1');
                }
                value.clear();
                let bytes = bits.as_bytes().chunks(8).map(|eight| std::str::from_utf8(eight).unwrap());
                value.extend(bytes.map(|eight| u8::from_str_radix(eight, 2).unwrap()));
                let mut text = Vec::new();
                assert!(Raw::Coded(&value).text(&mut text).unwrap().contains(&b'#'), "{bits}");
                assert!(may_have_fragment(Raw::Coded(&value)), "{bits}");
            }
        }
        assert!(!may_have_fragment(Raw::Coded(&[0x60, 0x7f, 0x3f])));
    }
}
