//! Reads configurations in a thread of its own.
//!
//! It has the priority of those that serve requests, and gives way to them ([`pace`](crate::pace)).

use std::{path::PathBuf, sync::mpsc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::config::{Report, Validated};

type Outcome = Result<Validated, Report>;

/// The thread. It is kept, because a new one would need fresh memory for each file.
#[derive(Debug, Default)]
pub(super) struct Reader(Mutex<Option<mpsc::Sender<Job>>>);

type Job = (PathBuf, oneshot::Sender<Outcome>);

impl Reader {
    /// Reads, checks and compiles a file; an error is one of the thread.
    pub(super) async fn read(&self, path: PathBuf) -> Result<Outcome, String> {
        let (done, outcome) = oneshot::channel();
        self.send((path, done))?;
        outcome.await.map_err(|error| error.to_string())
    }

    fn send(&self, job: Job) -> Result<(), String> {
        let mut thread = self.0.lock();
        let left = match &*thread {
            Some(jobs) => jobs.send(job).err().map(|mpsc::SendError(job)| job),
            None => Some(job),
        };
        // There is none yet, or it has ended, by a panic say.
        if let Some(job) = left {
            let jobs = start()?;
            jobs.send(job).map_err(|error| error.to_string())?;
            *thread = Some(jobs);
        }
        Ok(())
    }
}

fn start() -> Result<mpsc::Sender<Job>, String> {
    let (jobs, queue) = mpsc::channel::<Job>();
    let run = move || {
        while let Ok((path, done)) = queue.recv() {
            let warn = &mut |warnings: &Report| log::warn!("the configuration works, but:\n{warnings}");
            if done.send(super::load(&path, warn)).is_err() {
                log::debug!("nobody waits for {} any more", path.display());
            }
        }
    };
    std::thread::Builder::new().name("reload".into()).spawn(run).map_err(|error| error.to_string())?;
    Ok(jobs)
}
