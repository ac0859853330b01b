//! Keeps in a file what is used of quotas, so that a restart gives nothing back.
//!
//! - What has changed is written within a fifth of a second, and when the process ends: a crash loses at most that. A large file is written less
//!   often, so that writing takes at most a twentieth of the time.
//! - There is always a whole file: a new one is written beside it, synced, and renamed. Only its owner can read it.
//! - During an upgrade two processes count. The one that has written last goes on writing, the other one only if that one is gone; the old one
//!   tells the new one what it knows when it hands over, and what it still serves after that is not counted.
//! - What quotas that the file does not name any more have used is kept for two months.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Quota, ledger::Account};
use crate::{
    clock::Clock,
    runtime::{Ready, State},
};

/// How often it is looked whether something has changed.
const PAUSE: Duration = Duration::from_millis(200);

/// When it is tried again after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// What nobody asks for is forgotten after so long, in seconds.
const ORPHANED: u64 = 62 * 86_400;

/// The file, and what is kept in it.
#[derive(Debug)]
pub(super) struct Keeper {
    path: PathBuf,
    clock: Clock,
    changed: AtomicBool,
    quotas: Mutex<BTreeMap<String, Arc<Quota>>>,
    /// What was in the file, and no quota has asked for yet.
    others: Mutex<Kept>,
    /// The process that writes in place of this one, if there is one.
    left_to: AtomicU32,
    /// Held while the file is written.
    writing: Mutex<()>,
}

type Kept = BTreeMap<String, BTreeMap<String, Account>>;

#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    /// The process that wrote it,
    owner: u32,
    /// and when it began, so that no other process is taken for it.
    #[serde(default)]
    began: u64,
    quotas: Kept,
}

impl State for Keeper {}

impl Keeper {
    pub(super) fn open(path: &Path, clock: Clock) -> Self {
        let file = match read(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                // What cannot be understood is not overwritten unseen.
                let aside = path.with_extension("broken");
                log::error!("quotas in {}: {error}; moved to {}", path.display(), aside.display());
                drop(fs::rename(path, aside));
                File::default()
            }
            Err(error) => {
                log::error!("quotas in {} cannot be read, so they begin anew: {error}", path.display());
                File::default()
            }
        };
        Self {
            path: path.to_owned(),
            clock,
            changed: AtomicBool::new(false),
            quotas: Mutex::default(),
            others: Mutex::new(file.quotas),
            left_to: AtomicU32::new(0),
            writing: Mutex::new(()),
        }
    }

    /// From now on this quota is kept; it gets what was kept of it.
    pub(super) fn add(&self, quota: &Arc<Quota>) {
        let known = self.others.lock().remove(quota.kept_as());
        if let Some(records) = known {
            quota.ledger().merge(records);
        }
        self.quotas.lock().insert(quota.kept_as().to_owned(), Arc::clone(quota));
    }

    /// Something was used.
    pub(super) fn touch(&self) {
        if !self.changed.load(Ordering::Relaxed) {
            self.changed.store(true, Ordering::Relaxed);
        }
    }

    /// Writes as long as it runs, and once more when that ends.
    #[expect(clippy::infinite_loop, reason = "it ends by being dropped")]
    pub(super) async fn keep(self: Arc<Self>, ready: Ready) {
        ready.done();
        let last = Last(Arc::clone(&self));
        let mut pause = PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            let keeper = Arc::clone(&last.0);
            let began = Instant::now();
            let written = tokio::task::spawn_blocking(move || keeper.write()).await.unwrap_or(false);
            pause = if written { PAUSE.max(began.elapsed() * 20) } else { RETRY };
        }
    }

    /// Writes what has changed, if this process is the one that does; false if that failed.
    fn write(&self) -> bool {
        let _writing = self.writing.lock();
        if !self.changed.load(Ordering::Relaxed) {
            return true;
        }
        let own = std::process::id();
        if let Some((owner, began)) = owner(&self.path)
            && owner != own
            && is_newer(owner, began, own)
        {
            if self.left_to.swap(owner, Ordering::Relaxed) != owner {
                log::warn!("quotas in {} are kept by process {owner} now, which began later", self.path.display());
            }
            return true;
        }
        self.changed.store(false, Ordering::Relaxed);
        let written = replace(&self.path, &self.file(own));
        if let Err(error) = &written {
            self.touch();
            log::error!("quotas could not be kept in {}: {error}", self.path.display());
        }
        written.is_ok()
    }

    fn file(&self, owner: u32) -> File {
        let now = self.clock.unix().as_secs();
        let mut quotas = self.others.lock().clone();
        for records in quotas.values_mut() {
            records.retain(|_, account| account.used.keys().any(|bucket| bucket.saturating_add(ORPHANED) > now));
        }
        quotas.retain(|_, records| !records.is_empty());
        for (name, quota) in &*self.quotas.lock() {
            quotas.insert(name.clone(), quota.ledger().records(quota.window(now)));
        }
        File { owner, began: began(owner).unwrap_or(0), quotas }
    }
}

/// Writes when the task is taken down, as it is when the process ends.
struct Last(Arc<Keeper>);

impl Drop for Last {
    fn drop(&mut self) {
        _ = self.0.write();
    }
}

fn read(path: &Path) -> io::Result<File> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(File::default()),
        Err(error) => Err(error),
    }
}

/// Who wrote the file, and when that process began: it stands at its beginning.
fn owner(path: &Path) -> Option<(u32, u64)> {
    let mut begin = [0; 64];
    let mut file = fs::File::open(path).ok()?;
    let length = io::Read::read(&mut file, &mut begin).ok()?;
    let text = std::str::from_utf8(begin.get(..length)?).ok()?;
    let (owner, rest) = text.strip_prefix("{\"owner\":")?.split_once(",\"began\":")?;
    Some((owner.parse().ok()?, rest.split(',').next()?.parse().ok()?))
}

/// When a process began, in ticks since the machine did.
fn began(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Behind the name, which may hold anything: the twentieth number.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Whether this process, which began then, is still there, and came after the other one.
fn is_newer(process: u32, then: u64, other: u32) -> bool {
    match (began(process), began(other)) {
        (Some(one), Some(its)) => one == then && (one > its || one == its && process > other),
        (None, _) | (Some(_), None) => false,
    }
}

fn replace(path: &Path, file: &File) -> io::Result<()> {
    let new = path.with_extension(format!("{}.new", std::process::id()));
    // One of a process that had the same number, or something that somebody put there.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let writer = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let mut buffer = io::BufWriter::new(writer);
    serde_json::to_writer(&mut buffer, file)?;
    let writer = buffer.into_inner().map_err(io::Error::other)?;
    writer.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_who_wrote_it_and_a_broken_one_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quotas.json");
        let clock = Clock::manual(Duration::from_secs(1_000_000));
        let keeper = Keeper::open(&path, clock.clone());
        keeper.write();
        assert_eq!(owner(&path), None, "nothing has changed");
        keeper.touch();
        keeper.write();
        let own = std::process::id();
        assert_eq!(owner(&path), Some((own, began(own).unwrap())));
        fs::write(
            &path,
            "{\"owner\":1,\"quotas\":{\"old\":{\"0\":{\"label\":\"a\",\"used\":{\"999999\":5},\"changes\":0}}}}",
        )
        .unwrap();
        let keeper = Keeper::open(&path, clock.clone());
        keeper.touch();
        keeper.write();
        assert!(fs::read_to_string(&path).unwrap().contains("999999"), "of a quota that may come back");
        clock.advance(Duration::from_secs(ORPHANED + 1));
        keeper.touch();
        keeper.write();
        assert!(!fs::read_to_string(&path).unwrap().contains("999999"));
        fs::write(&path, "{\"owner\":").unwrap();
        Keeper::open(&path, clock);
        assert!(folder.path().join("quotas.broken").is_file() && !path.exists());
    }

    #[test]
    fn a_process_that_came_later_and_is_there_goes_first() {
        let own = std::process::id();
        let then = began(own).unwrap();
        assert!(is_newer(own, then, 1) && !is_newer(own, then + 1, 1), "another one with the same number");
        assert!(!is_newer(1, began(1).unwrap(), own) && !is_newer(u32::MAX, 1, own));
    }
}
