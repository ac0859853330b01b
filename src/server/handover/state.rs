//! The state as bytes in a memory file: for each part the length of its key, the key, the length of what it exported, and
//! that; lengths as 64 bits in little endian.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::fd::OwnedFd,
};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::runtime::Exported;

/// Puts the state into a memory file.
pub(super) fn write(state: &Exported) -> io::Result<OwnedFd> {
    let file = File::from(memfd_create(c"torana-state", MemfdFlags::CLOEXEC)?);
    let mut out = io::BufWriter::new(file);
    let mut part = |bytes: &[u8]| {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        out.write_all(&length.to_le_bytes())?;
        out.write_all(bytes)
    };
    let mut keys: Vec<_> = state.keys().collect();
    keys.sort();
    for key in keys {
        part(key.as_bytes())?;
        part(state.get(key).map_or(&[], Vec::as_slice))?;
    }
    let mut file = out.into_inner()?;
    file.rewind()?;
    Ok(file.into())
}

/// Reads it again. What is cut off or no text is left out.
pub(super) fn read(file: OwnedFd) -> io::Result<Exported> {
    let mut bytes = Vec::new();
    File::from(file).read_to_end(&mut bytes)?;
    let (mut rest, mut state) = (bytes.as_slice(), Exported::new());
    while let Some((key, after)) = part(rest) {
        let Some((exported, after)) = part(after) else { break };
        rest = after;
        if let Ok(key) = std::str::from_utf8(key) {
            state.insert(key.to_owned(), exported.to_vec());
        }
    }
    Ok(state)
}

fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let state =
            Exported::from([("a".to_owned(), vec![0, 255]), ("limits/ü".to_owned(), vec![]), (String::new(), vec![1])]);
        assert_eq!(read(write(&state).unwrap()).unwrap(), state);
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let state = Exported::from([("a".to_owned(), vec![1; 100]), ("b".to_owned(), vec![2; 100])]);
        let file = File::from(write(&state).unwrap());
        file.set_len(150).unwrap();
        let read = read(file.into()).unwrap();
        assert_eq!(read.keys().collect::<Vec<_>>(), ["a"]);
    }
}
