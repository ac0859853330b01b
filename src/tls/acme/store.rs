//! What is kept on disk: for each authority a folder with the account, the certificates with their keys, what failed, and
//! the challenges that are open.
//!
//! Only the user of the process may read it. A file is written beside its place and renamed, so that there is always a
//! whole one, also after a power cut. Key and chain of a certificate are one file: they cannot come apart.

use crate::digest::sha256;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

/// The folder of one authority.
#[derive(Clone, Debug)]
pub(super) struct Store(PathBuf);

/// While this is kept, no other process and no other certificate is ordered.
#[derive(Debug)]
pub(super) struct Turn(#[expect(dead_code, reason = "the lock is held as long as the file is open")] File);

impl Store {
    /// The folder `name` below `storage`; it is made if it is not there.
    pub(super) fn open(storage: &Path, name: &str) -> io::Result<Self> {
        let folder = storage.join(name);
        let challenges = folder.join(super::challenges::FOLDER);
        DirBuilder::new().recursive(true).mode(0o700).create(challenges)?;
        let store = Self(folder);
        // Better now than when a certificate is there that cannot be kept.
        drop(store.lock_file()?);
        Ok(store)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    /// What is kept under a name; `None` if nothing is.
    pub(super) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.0.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps something under a name.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = self.0.join(format!("{name}.{}.new", std::process::id()));
        write_new(&new, bytes)?;
        fs::rename(&new, self.0.join(name))?;
        File::open(&self.0)?.sync_all()
    }

    /// Keeps nothing under a name.
    pub(super) fn remove(&self, name: &str) {
        if let Err(error) = fs::remove_file(self.0.join(name))
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("{} cannot be removed: {error}", self.0.join(name).display());
        }
    }

    /// Puts aside what cannot be used, for whoever wants to know.
    pub(super) fn put_aside(&self, name: &str) {
        let (from, to) = (self.0.join(name), self.0.join(format!("{name}.broken")));
        if let Err(error) = fs::rename(&from, to) {
            log::warn!("{} cannot be put aside: {error}", from.display());
        }
    }

    /// Takes the turn to order, if nobody has it. It ends with the process, however that ends.
    pub(super) fn turn(&self) -> io::Result<Option<Turn>> {
        let file = self.lock_file()?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Turn(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn lock_file(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.0.join("lock"))
    }
}

/// What the files for these names are called, in whatever order they are.
pub(super) fn stem(names: &[String]) -> String {
    let mut sorted = names.to_vec();
    sorted.sort();
    let digest = sha256(sorted.join(" ").as_bytes());
    let number = digest.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    let first: String = sorted.first().map(|name| name.chars().take(200).collect()).unwrap_or_default();
    format!("{first}-{number:08x}")
}

/// Writes a file that only its owner may read.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // One that a process left behind may have another mode.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_kept_is_for_its_owner_only_and_always_whole() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("deep/acme"), "ca").unwrap();
        assert_eq!(store.read("a").unwrap(), None);
        for text in [&b"one"[..], b"two"] {
            store.write("a", text).unwrap();
            assert_eq!(store.read("a").unwrap().unwrap(), text);
        }
        assert_eq!((mode(&store.0.join("a")), mode(&store.0)), (0o600, 0o700));
        let names: Vec<_> = fs::read_dir(&store.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "nothing is left behind: {names:?}");
        store.put_aside("a");
        store.remove("a");
        assert_eq!(store.read("a").unwrap(), None);
        assert_eq!(store.read("a.broken").unwrap().unwrap(), b"two");
    }

    #[test]
    fn one_has_the_turn() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Store::open(folder.path(), "ca").unwrap();
        let (one, other) = (open(), open());
        let turn = one.turn().unwrap();
        assert!(turn.is_some() && other.turn().unwrap().is_none() && one.turn().unwrap().is_none());
        drop(turn);
        assert!(other.turn().unwrap().is_some());
    }
}
