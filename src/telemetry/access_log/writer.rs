//! The thread that writes, and the buffer between it and the requests.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use prometheus::IntCounter;

use crate::runtime::State;

/// How long a line waits at most.
const PERIOD: Duration = Duration::from_millis(100);

/// When so much is waiting, the thread is woken.
const HIGH_WATER: usize = 1 << 20;

/// When so much is waiting, lines are dropped.
const MAX_WAITING: usize = 16 << 20;

/// A log file, or standard output, with its thread. Dropping it writes out what is left.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    broken: Option<String>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl State for Writer {}

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Vec<u8>>,
    wake: Condvar,
    reopen: AtomicBool,
    stop: AtomicBool,
    flushed: Condvar,
    dropped: Option<IntCounter>,
}

impl Writer {
    /// Opens the file and starts the thread; [`broken`](Self::broken) says whether that failed.
    pub(super) fn start(path: Option<&Path>, dropped: IntCounter) -> Self {
        let mut writer = Self {
            shared: Arc::new(Shared {
                waiting: Mutex::default(),
                wake: Condvar::new(),
                reopen: AtomicBool::new(false),
                stop: AtomicBool::new(false),
                flushed: Condvar::new(),
                dropped: Some(dropped),
            }),
            broken: None,
            thread: None,
        };
        let started = Sink::open(path).and_then(|sink| {
            let shared = Arc::clone(&writer.shared);
            let thread = std::thread::Builder::new().name("access-log".into());
            thread.spawn(move || shared.run(sink))
        });
        match started {
            Ok(thread) => writer.thread = Some(thread),
            Err(error) => writer.broken = Some(error.to_string()),
        }
        writer
    }

    /// A writer that throws everything away.
    pub(super) fn discard() -> Self {
        Self {
            shared: Arc::new(Shared {
                waiting: Mutex::default(),
                wake: Condvar::new(),
                reopen: AtomicBool::new(false),
                stop: AtomicBool::new(true),
                flushed: Condvar::new(),
                dropped: None,
            }),
            broken: None,
            thread: None,
        }
    }

    /// Why there is no log.
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Hands a line over.
    pub(super) fn append(&self, line: &[u8]) {
        let mut waiting = self.shared.waiting.lock();
        let before = waiting.len();
        if before + line.len() > MAX_WAITING {
            drop(waiting);
            if let Some(dropped) = &self.shared.dropped {
                dropped.inc();
            }
            return;
        }
        waiting.extend_from_slice(line);
        let full = before < HIGH_WATER && waiting.len() >= HIGH_WATER;
        drop(waiting);
        if full {
            self.shared.wake.notify_one();
        }
    }

    /// Has the file opened again before the next line.
    pub(super) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }

    /// Waits until what was handed over is written, but no longer than a second.
    pub(super) fn flush(&self) {
        if self.thread.is_none() {
            return;
        }
        let mut waiting = self.shared.waiting.lock();
        self.shared.wake.notify_one();
        self.shared.flushed.wait_while_for(&mut waiting, |waiting| !waiting.is_empty(), Duration::from_secs(1));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of the access log broke off");
        }
    }
}

impl Shared {
    fn run(&self, mut sink: Sink) {
        let mut taken = Vec::new();
        loop {
            let stop = {
                let mut waiting = self.waiting.lock();
                let asked =
                    |shared: &Self| shared.stop.load(Ordering::Acquire) || shared.reopen.load(Ordering::Acquire);
                if waiting.len() < HIGH_WATER && !asked(self) {
                    self.wake.wait_for(&mut waiting, PERIOD);
                }
                std::mem::swap(&mut *waiting, &mut taken);
                self.stop.load(Ordering::Acquire)
            };
            // What came before belongs into the file that was open then.
            self.write(&mut sink, &taken);
            taken.clear();
            if taken.capacity() > 4 * HIGH_WATER {
                taken.shrink_to(HIGH_WATER);
            }
            if self.reopen.swap(false, Ordering::AcqRel) {
                sink.reopen();
            }
            self.flushed.notify_all();
            if stop && self.waiting.lock().is_empty() {
                return;
            }
        }
    }

    fn write(&self, sink: &mut Sink, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        if let Err((written, error)) = sink.write(lines) {
            // What was not written is lost; where the disk was full in the middle of a line, so is that one.
            let count = memchr::memchr_iter(b'\n', lines.get(written..).unwrap_or_default()).count();
            if let Some(dropped) = &self.dropped {
                dropped.inc_by(u64::try_from(count).unwrap_or(0));
            }
            if !std::mem::replace(&mut sink.complained, true) {
                log::error!("the access log cannot be written: {error}");
            }
        } else {
            sink.complained = false;
        }
    }
}

/// Where the lines go.
struct Sink {
    path: Option<PathBuf>,
    out: Box<dyn Write + Send>,
    complained: bool,
    /// The last line was not written whole.
    torn: bool,
}

impl Sink {
    fn open(path: Option<&Path>) -> io::Result<Self> {
        Ok(Self {
            out: match path {
                Some(path) => Box::new(append_to(path)?),
                None => Box::new(io::stdout()),
            },
            path: path.map(ToOwned::to_owned),
            complained: false,
            torn: false,
        })
    }

    /// Writes all of it, or says how much.
    fn write(&mut self, lines: &[u8]) -> Result<(), (usize, io::Error)> {
        if self.torn {
            self.out.write_all(b"\n").map_err(|error| (0, error))?;
            self.torn = false;
        }
        let mut written = 0;
        while let Some(rest) = lines.get(written..).filter(|rest| !rest.is_empty()) {
            match self.out.write(rest) {
                Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
                Ok(more) => {
                    written += more;
                    self.torn = lines.get(written - 1) != Some(&b'\n');
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err((written, error)),
            }
        }
        self.out.flush().map_err(|error| (written, error))
    }

    /// If the new file cannot be opened, the old one goes on.
    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match append_to(path) {
            Ok(file) => {
                self.out = Box::new(file);
                self.torn = false;
            }
            Err(error) => log::error!("the access log cannot be opened again: {error}"),
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "dropped").unwrap()
    }

    #[test]
    fn lines_are_written_and_a_moved_file_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("a.log"), folder.path().join("a.log.1"));
        let writer = Writer::start(Some(&path), counter());
        writer.append(b"one\n");
        writer.flush();
        std::fs::rename(&path, &moved).unwrap();
        writer.append(b"two\n");
        writer.reopen();
        writer.flush();
        writer.append(b"three\n");
        drop(writer);
        let text = std::fs::read_to_string(&moved).unwrap() + &std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "one\ntwo\nthree\n");
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("three\n"));
    }

    #[test]
    fn a_log_that_does_not_keep_up_drops_lines_and_counts_them() {
        let dropped = counter();
        let mut writer = Writer::discard();
        Arc::get_mut(&mut writer.shared).unwrap().dropped = Some(dropped.clone());
        let line = vec![b'x'; MAX_WAITING];
        writer.append(&line);
        writer.append(b"one too many\n");
        assert_eq!(dropped.get(), 1);
    }

    #[test]
    fn a_folder_that_does_not_exist_is_an_error() {
        let writer = Writer::start(Some(Path::new("/nowhere/a.log")), counter());
        assert!(writer.broken().is_some());
    }
}
