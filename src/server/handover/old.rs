//! The side of the process that is replaced.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{super::sockets::Kept, Link, MAX_SOCKETS, Message, Name, PROTOCOL, VARIABLE, state};
use crate::{
    admin::status::Draining,
    runtime::{Exported, Seeds},
};

/// How long a process that is ready may take to accept connections.
const SERVING_WITHIN: Duration = Duration::from_secs(10);

/// What a new process is given.
pub(in crate::server) struct Offer<'a> {
    pub(in crate::server) sockets: &'a [Kept],
    pub(in crate::server) seeds: Seeds,
    /// The state as it is at that moment.
    pub(in crate::server) export: &'a dyn Fn() -> Exported,
    /// How long it may take to be ready.
    pub(in crate::server) within: Duration,
    /// What happens, for whoever asked.
    pub(in crate::server) progress: &'a dyn Fn(String),
}

/// The process that has taken over.
#[derive(Clone, Debug)]
pub(in crate::server) struct Successor {
    link: Arc<Link>,
    pub(in crate::server) pid: u32,
    pub(in crate::server) version: String,
}

/// A process that is started, until it has taken over: dropping this ends it.
struct Candidate(Option<Child>);

impl Candidate {
    /// Why it did not take over, as far as its end tells.
    fn end(&mut self) -> String {
        let Some(mut child) = self.0.take() else { return String::new() };
        // What has ended cannot be killed, and what was killed has ended.
        drop(child.kill());
        child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if self.0.is_some() {
            let end = self.end();
            log::debug!("the new process ended: {end}");
        }
    }
}

impl Successor {
    /// Starts `program` with the arguments of this process, and waits until it accepts connections. Whatever goes wrong
    /// before that ends it, and changes nothing here.
    pub(in crate::server) fn start(program: &Path, offer: &Offer<'_>) -> Result<(Self, Reaper), String> {
        let (link, other) = Link::pair().map_err(|error| format!("no socket pair: {error}"))?;
        let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        let child = Command::new(program)
            .args(arguments)
            .env(VARIABLE, "stdin")
            .stdin(Stdio::from(other))
            .spawn()
            .map_err(|error| format!("{} cannot be started: {error}", program.display()))?;
        let pid = child.id();
        (offer.progress)(format!("started {} as process {pid}", program.display()));
        let mut candidate = Candidate(Some(child));
        let version = Self::lead(&link, offer).map_err(|why| match why {
            Failure::Said(why) => why,
            Failure::Gone => format!("the new process ended before it was ready ({})", candidate.end()),
            Failure::Link(error) if error.kind() == io::ErrorKind::TimedOut => {
                format!("the new process was not ready within {:?}, and is ended", offer.within)
            }
            Failure::Link(error) => format!("the new process could not be talked to: {error}"),
        })?;
        let link = Arc::new(link);
        let reaper = Reaper { link: Arc::clone(&link), child: candidate.0.take() };
        Ok((Self { link, pid, version }, reaper))
    }

    fn lead(link: &Link, offer: &Offer<'_>) -> Result<String, Failure> {
        Self::hello(link, offer)?;
        let until = Instant::now() + offer.within;
        let said = expect(link, until)?;
        let Message::Ready { version } = said else {
            return Err(Failure::unexpected(said));
        };
        (offer.progress)(format!("version {version} is ready"));
        let state = state::write(&(offer.export)())?;
        link.send(&Message::Serve, &[state.as_fd()])?;
        let said = expect(link, Instant::now() + SERVING_WITHIN)?;
        if matches!(said, Message::Serving) { Ok(version) } else { Err(Failure::unexpected(said)) }
    }

    fn hello(link: &Link, offer: &Offer<'_>) -> io::Result<()> {
        let mut rest = offer.sockets;
        loop {
            let (now, later) = rest.split_at(rest.len().min(MAX_SOCKETS));
            rest = later;
            let sockets = now.iter().map(|one| Name { configured: one.configured.clone(), local: one.local.clone() });
            let hello = Message::Hello {
                protocol: PROTOCOL,
                pid: std::process::id(),
                sockets: sockets.collect(),
                more: !rest.is_empty(),
                seeds: offer.seeds.0,
            };
            let descriptors: Vec<BorrowedFd<'_>> = now.iter().map(|one| one.fd.as_fd()).collect();
            link.send(&hello, &descriptors)?;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Tells it that the service manager knows it as the main process.
    pub(in crate::server) fn is_main(&self) {
        self.tell(&Message::Main);
    }

    /// Tells it what still has to end here.
    pub(in crate::server) fn draining(&self, what: Draining) {
        self.tell(&Message::Draining(what));
    }

    /// If it is gone, [`Reaper::watch`] says so.
    fn tell(&self, message: &Message) {
        if let Err(error) = self.link.send(message, &[]) {
            log::debug!("process {} does not listen any more: {error}", self.pid);
        }
    }
}

/// Waits for the end of the process that has taken over: whoever started a process has to.
pub(in crate::server) struct Reaper {
    link: Arc<Link>,
    child: Option<Child>,
}

/// What the process that has taken over wants, or came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum News {
    /// The service stops.
    Stop,
    /// It is gone.
    Gone,
}

impl Reaper {
    /// Calls `tell` with what comes, in a thread of its own.
    pub(in crate::server) fn watch(mut self, tell: impl Fn(News) + Send + 'static) -> io::Result<()> {
        let watch = move || {
            while let Ok(Some((message, _))) = self.link.receive(None) {
                if matches!(message, Message::Stop) {
                    tell(News::Stop);
                }
            }
            if let Some(status) = self.child.as_mut().map(Child::wait) {
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                log::error!("the process that had taken over ended ({status})");
            }
            tell(News::Gone);
        };
        std::thread::Builder::new().name("successor".into()).spawn(watch).map(drop)
    }
}

enum Failure {
    Said(String),
    Gone,
    Link(io::Error),
}

impl Failure {
    fn unexpected(said: Message) -> Self {
        match said {
            Message::Failed { why } => Self::Said(why),
            Message::Hello { .. }
            | Message::Ready { .. }
            | Message::Serve
            | Message::Serving
            | Message::Main
            | Message::Draining(_)
            | Message::Stop => Self::Said(format!("the new process said {said:?}, which was not its turn to say")),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // A pipe is broken if nobody is at its other end.
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Gone } else { Self::Link(error) }
    }
}

fn expect(link: &Link, until: Instant) -> Result<Message, Failure> {
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    match link.receive(Some(left))? {
        Some((message, _)) => Ok(message),
        None => Err(Failure::Gone),
    }
}

/// The program on disk that this process was started from: a symbolic link is followed only when it is started again, so
/// that it may lead to another version then.
pub(in crate::server) fn program() -> PathBuf {
    let first = std::env::args_os().next().map(PathBuf::from);
    let named = first.filter(|name| name.components().count() > 1);
    named.and_then(|name| std::path::absolute(name).ok()).or_else(|| std::env::current_exe().ok()).unwrap_or_default()
}
