//! The last configuration that worked, kept in the state directory: what a process can start with if the file is broken.
//!
//! It is kept as it was written: references to variables and files stay references.

use std::{
    fs, io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Where it is kept; nowhere without a state directory.
#[derive(Clone, Debug)]
pub(super) struct LastGood(Option<PathBuf>);

/// Its name in the state directory.
const NAME: &str = "last-good.yaml";

impl LastGood {
    /// In this directory, which systemd names in `$STATE_DIRECTORY`.
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        Self(directory.map(|directory| directory.join(NAME)))
    }

    /// Keeps the file at `path`, which has just been taken over.
    pub(super) fn save(&self, path: &Path) {
        let Some(kept) = &self.0 else { return };
        if let Err(error) = replace(path, kept) {
            log::warn!("the configuration could not be kept in {}: {error}", kept.display());
        }
    }
}

/// Writes a new file and renames it, so that there is always a whole one.
fn replace(path: &Path, kept: &Path) -> io::Result<()> {
    let text = fs::read(path)?;
    if fs::read(kept).is_ok_and(|known| known == text) {
        return Ok(());
    }
    let new = kept.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    io::Write::write_all(&mut file, &text)?;
    file.sync_all()?;
    fs::rename(&new, kept)
}

/// The file that is kept in a state directory, if there is one.
pub fn kept_in(directory: &Path) -> Option<PathBuf> {
    Some(directory.join(NAME)).filter(|kept| kept.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_file_is_kept_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("torana.yaml");
        let kept = LastGood::new(Some(folder.path().to_owned()));
        assert_eq!(kept_in(folder.path()), None);
        for text in ["a: 1\n", "b: 2\n"] {
            fs::write(&path, text).unwrap();
            kept.save(&path);
            let found = kept_in(folder.path()).unwrap();
            assert_eq!(fs::read_to_string(&found).unwrap(), text);
            assert_eq!(fs::metadata(&found).unwrap().permissions().mode() & 0o777, 0o600);
        }
        LastGood::new(None).save(&path);
    }
}
