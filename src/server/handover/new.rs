//! The side of the process that takes over.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustix::net::sockopt;
use tokio::sync::watch;

use super::{Link, Message, Name, PROTOCOL, VARIABLE, state};
use crate::{
    admin::status::Draining,
    runtime::{Exported, Seeds},
};

/// How long the old process may take to say something.
const PATIENCE: Duration = Duration::from_secs(10);

/// The process that this one takes over from.
#[derive(Clone, Debug)]
pub struct Predecessor(Arc<Old>);

#[derive(Debug)]
struct Old {
    link: Link,
    pid: u32,
    seeds: Seeds,
    sockets: Mutex<Vec<Inherited>>,
    draining: watch::Sender<Option<Draining>>,
}

/// A listening socket of the old process.
#[derive(Debug)]
pub(in crate::server) struct Inherited {
    configured: String,
    pub(in crate::server) local: String,
    pub(in crate::server) fd: OwnedFd,
}

impl Predecessor {
    /// The process that started this one so that it takes over; `None` if nobody did.
    pub fn find() -> io::Result<Option<Self>> {
        if std::env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let broken = |what: &str| io::Error::other(format!("{VARIABLE} is set, but {what}"));
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let peer = sockopt::socket_peercred(&input).map_err(|_error| broken("standard input is no socket"))?;
        if peer.uid != rustix::process::geteuid() {
            return Err(broken("the other process is that of another user"));
        }
        // Nobody else who reads standard input may find the link there.
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        let link = Link(input);
        let mut inherited = Vec::new();
        let (pid, seeds) = loop {
            let Some((Message::Hello { protocol, pid, sockets, more, seeds }, descriptors)) =
                link.receive(Some(PATIENCE))?
            else {
                return Err(broken("the other process does not say which sockets there are"));
            };
            if protocol > PROTOCOL || sockets.len() != descriptors.len() {
                return Err(broken("the other process is of a version that this one does not understand"));
            }
            let pairs = sockets.into_iter().zip(descriptors);
            inherited.extend(pairs.map(|(Name { configured, local }, fd)| Inherited { configured, local, fd }));
            if !more {
                break (pid, Seeds(seeds));
            }
        };
        let sockets = Mutex::new(inherited);
        Ok(Some(Self(Arc::new(Old { link, pid, seeds, sockets, draining: watch::Sender::new(None) }))))
    }

    /// Its number.
    pub(in crate::server) fn pid(&self) -> u32 {
        self.0.pid
    }

    /// What its keyed hashes are seeded with.
    pub(in crate::server) fn seeds(&self) -> Seeds {
        self.0.seeds
    }

    /// Its socket on this address, once.
    pub(in crate::server) fn take(&self, configured: &str) -> Option<Inherited> {
        let mut sockets = self.0.sockets.lock();
        let at = sockets.iter().position(|socket| socket.configured == configured)?;
        // In order: with port 0, several have the same address in the file.
        Some(sockets.remove(at))
    }

    /// Closes what nobody took.
    pub(in crate::server) fn close_rest(&self) {
        self.0.sockets.lock().clear();
    }

    /// Says why this process does not take over.
    pub fn failed(&self, why: &str) {
        let mut end = why.len().min(32 << 10);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        let why = why.get(..end).unwrap_or_default().trim_end().to_owned();
        if let Err(error) = self.0.link.send(&Message::Failed { why }, &[]) {
            log::debug!("the process before is gone: {error}");
        }
    }

    /// Says that this process could serve, and waits for the state of the old one. Blocks.
    pub(in crate::server) fn ready(&self) -> io::Result<Exported> {
        self.0.link.send(&Message::Ready { version: env!("CARGO_PKG_VERSION").to_owned() }, &[])?;
        match self.0.link.receive(Some(PATIENCE))? {
            Some((Message::Serve, descriptors)) => match descriptors.into_iter().next() {
                Some(file) => state::read(file),
                None => Err(io::Error::other("there is no state in its answer")),
            },
            Some((other, _)) => Err(io::Error::other(format!("it said {other:?} instead of `serve`"))),
            None => Err(io::Error::other("it is gone")),
        }
    }

    /// Says that this process accepts connections, and waits until it is the main process. Blocks.
    pub(in crate::server) fn serving(&self) -> io::Result<()> {
        self.0.link.send(&Message::Serving, &[])?;
        match self.0.link.receive(Some(PATIENCE))? {
            Some((Message::Main, _)) => Ok(()),
            Some((other, _)) => Err(io::Error::other(format!("it said {other:?} instead of `main`"))),
            None => Err(io::Error::other("it is gone")),
        }
    }

    /// Follows what still has to end in the old process, until it is gone. Blocks.
    pub(in crate::server) fn follow(&self) {
        self.0.draining.send_replace(Some(Draining { pid: self.0.pid, ..Draining::default() }));
        while let Ok(Some((message, _))) = self.0.link.receive(None) {
            if let Message::Draining(what) = message {
                self.0.draining.send_replace(Some(what));
            }
        }
        log::info!("process {} has ended", self.0.pid);
        self.0.draining.send_replace(None);
    }

    /// What still has to end in the old process; `None` once it is gone.
    pub(in crate::server) fn draining(&self) -> watch::Receiver<Option<Draining>> {
        self.0.draining.subscribe()
    }

    /// Tells the old process that the service stops.
    pub(in crate::server) fn stop(&self) {
        if let Err(error) = self.0.link.send(&Message::Stop, &[]) {
            log::debug!("process {} is gone: {error}", self.0.pid);
        }
    }
}
