//! How many files the process has open, and may.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{proxy::room::Room, runtime::max_files};

const OPEN: &str = "/proc/self/fd";

/// Raises the limit to what the process may have without asking anybody. Shells and old service files leave it at 1,024
/// for programs that use `select`.
pub(super) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        log::warn!("the limit of open files could not be raised: {error}");
    }
}

/// Counts them, for whoever has to know.
pub(super) fn count(room: &Room) {
    room.files_are_open(open(), max_files());
}

/// How many are open.
fn open() -> u64 {
    // Linux 6.2 and later say it at once.
    let size = fs::metadata(OPEN).map_or(0, |folder| folder.len());
    if size > 0 {
        return size;
    }
    let count = fs::read_dir(OPEN).map_or(0, Iterator::count);
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted() {
        let before = open();
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        // Other tests open and close some meanwhile.
        assert!(open() + 20 > before + u64::try_from(files.len()).unwrap(), "{before}, {}", open());
    }
}
