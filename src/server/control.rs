//! The control socket: what `torana status`, `reload` and `upgrade` talk to.
//!
//! A Unix socket of mode 0600 on which only the user of the process and root are answered, whatever its mode becomes. One
//! line asks (`status`, `reload`, `upgrade`, `endpoint drain orders 10.0.0.12:8080`), lines of JSON answer: `{"progress": "..."}` as often as there is something to
//! say, and in the end `{"done": ...}` or `{"failed": "..."}`.
//!
//! A process that takes over binds its own and renames it to the path, so that there is always one.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt as _, net::UnixListener as StdListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::{server::ShutdownWatch, services::background::BackgroundService};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::mpsc,
};

use super::{
    StartError,
    asks::{Ask, Line, What},
    facts::ProcessFacts,
};
use crate::{
    admin::Facts as _,
    policy::{cache::Purge, quota::Change},
};

/// Longer lines ask for nothing that there is.
const MAX_LINE: u64 = 1024;

/// How long whoever connects may take to ask.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Control {
    path: PathBuf,
    facts: Arc<ProcessFacts>,
    asks: mpsc::UnboundedSender<Ask>,
    bound: Mutex<Option<StdListener>>,
}

impl Control {
    /// Binds the socket, unless another process answers there; where a process is replaced (not `alone`), that is for later.
    pub(super) fn open(
        path: Option<PathBuf>,
        facts: &Arc<ProcessFacts>,
        asks: mpsc::UnboundedSender<Ask>,
        alone: bool,
    ) -> Result<Option<Arc<Self>>, StartError> {
        let Some(path) = path else { return Ok(None) };
        let control = Self { path, facts: Arc::clone(facts), asks, bound: Mutex::default() };
        if alone {
            let taken = std::os::unix::net::UnixStream::connect(&control.path).is_ok();
            let bound = if taken { Err(io::ErrorKind::AddrInUse.into()) } else { control.bind() };
            let address = || format!("unix:{} (control)", control.path.display());
            bound.map_err(|error| StartError::Bind { address: address(), error })?;
        }
        Ok(Some(Arc::new(control)))
    }

    /// Binds the socket in the place of the process before: whoever connects from now on asks this process.
    pub(super) fn take_over(&self) {
        if let Err(error) = self.bind() {
            log::error!("the control socket {} cannot be bound: {error}", self.path.display());
        }
    }

    fn bind(&self) -> io::Result<()> {
        *self.bound.lock() = Some(bind(&self.path)?);
        log::info!("control on unix:{}", self.path.display());
        Ok(())
    }

    async fn serve(facts: Arc<ProcessFacts>, asks: mpsc::UnboundedSender<Ask>, stream: UnixStream) -> io::Result<()> {
        let peer = stream.peer_cred()?.uid();
        let (reader, mut writer) = stream.into_split();
        let mut asked = String::new();
        let mut reader = BufReader::new(reader).take(MAX_LINE);
        tokio::time::timeout(PATIENCE, reader.read_line(&mut asked)).await??;
        if peer != 0 && peer != rustix::process::geteuid().as_raw() {
            log::warn!("control: user {peer} is not answered");
            return writer.write_all(&line("failed", "you are neither root nor the user of the process")).await;
        }
        let what = match asked.trim() {
            "reload" => What::Reload,
            "upgrade" => What::Upgrade,
            other => return writer.write_all(&answer(&facts, peer, other)).await,
        };
        log::info!("control: user {peer} asks for {what:?}");
        let (ask, mut lines) = Ask::from(what);
        if asks.send(ask).is_err() {
            return writer.write_all(&line("failed", "the process stops")).await;
        }
        while let Some(said) = lines.recv().await {
            let bytes = match &said {
                Line::Progress(text) => line("progress", text),
                Line::Done(text) => line("done", text),
                Line::Failed(text) => line("failed", text),
            };
            writer.write_all(&bytes).await?;
            if !matches!(said, Line::Progress(_)) {
                break;
            }
        }
        Ok(())
    }
}

/// Answers what takes no time.
fn answer(facts: &ProcessFacts, peer: u32, asked: &str) -> Vec<u8> {
    if asked == "status" {
        let status = serde_json::json!({ "done": facts.status() });
        return format!("{status}\n").into_bytes();
    }
    if asked == "quota list" {
        return format!("{}\n", serde_json::json!({ "done": facts.quotas() })).into_bytes();
    }
    if asked == "penalty-box list" {
        return format!("{}\n", serde_json::json!({ "done": facts.penalties() })).into_bytes();
    }
    if !["endpoint ", "quota ", "penalty-box ", "cache "].iter().any(|known| asked.starts_with(known)) {
        return line(
            "failed",
            "there is `status`, `reload`, `upgrade`, `endpoint`, `quota`, `penalty-box` and `cache`",
        );
    }
    log::info!("control: user {peer} asks for {asked:?}");
    let done = match asked.split_once(' ') {
        Some(("quota", _)) => quota(facts, asked),
        Some(("penalty-box", what)) => release(facts, what),
        Some(("cache", what)) => purge(facts, what),
        _ => stand(facts, asked),
    };
    match done {
        Ok(done) => line("done", &done),
        Err(why) => line("failed", &why),
    }
}

/// `endpoint drain orders 10.0.0.12:8080`
fn stand(facts: &ProcessFacts, asked: &str) -> Result<String, String> {
    match asked.split(' ').collect::<Vec<_>>().as_slice() {
        ["endpoint", wanted, upstream, address] => facts.stand(upstream, address, wanted.parse()?),
        _ => Err("expected `endpoint drain UPSTREAM ADDRESS`".into()),
    }
}

/// `release 192.0.2.1`
fn release(facts: &ProcessFacts, what: &str) -> Result<String, String> {
    let address = what.strip_prefix("release ").and_then(|address| address.parse().ok());
    facts.release(address.ok_or("expected `penalty-box list` or `penalty-box release ADDRESS`")?)
}

/// `purge route orders`, `purge url https://api.example.com/x`, `purge all`
fn purge(facts: &ProcessFacts, what: &str) -> Result<String, String> {
    let what = match what.splitn(3, ' ').collect::<Vec<_>>().as_slice() {
        ["purge", "all"] => Purge::All,
        ["purge", "route", route] => Purge::Route((*route).to_owned()),
        ["purge", "url", url] => Purge::Url((*url).to_owned()),
        _ => return Err("expected `cache purge all`, `cache purge route NAME` or `cache purge url URL`".into()),
    };
    facts.purge(&what)
}

/// `quota reset orders consumer:mobile_app`, `quota top-up 1000 orders consumer:mobile_app`; a key may have spaces.
fn quota(facts: &ProcessFacts, asked: &str) -> Result<String, String> {
    let usage = "expected `quota list`, `quota reset QUOTA KEY` or `quota top-up NUMBER QUOTA KEY`";
    let mut words = asked.splitn(3, ' ').skip(1);
    let (Some(what), Some(rest)) = (words.next(), words.next()) else { return Err(usage.into()) };
    let (change, rest) = match (what, rest.split_once(' ')) {
        ("reset", _) => (Change::Reset, rest),
        ("top-up", Some((amount, rest))) => {
            (Change::TopUp(amount.parse().map_err(|_error| format!("{amount} is no number of requests"))?), rest)
        }
        _ => return Err(usage.into()),
    };
    let (quota, key) = rest.split_once(' ').ok_or(usage)?;
    facts.change_quota(quota, key, change)
}

fn line(kind: &str, text: &str) -> Vec<u8> {
    format!("{}\n", serde_json::json!({ kind: text })).into_bytes()
}

/// Binds under another name and renames, so that there is no moment without a socket.
fn bind(path: &Path) -> io::Result<StdListener> {
    if fs::symlink_metadata(path).is_ok_and(|there| !std::os::unix::fs::FileTypeExt::is_socket(&there.file_type())) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is no socket"));
    }
    let own = path.with_extension(std::process::id().to_string());
    if let Err(error) = fs::remove_file(&own)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let listener = StdListener::bind(&own)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(&own, fs::Permissions::from_mode(0o600))?;
    fs::rename(&own, path)?;
    Ok(listener)
}

#[async_trait]
impl BackgroundService for Control {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let Some(listener) = self.bound.lock().take() else { return };
        let listener = match UnixListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return log::error!("the control socket cannot be listened on: {error}"),
        };
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = shutdown.changed() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let serve = Self::serve(Arc::clone(&self.facts), self.asks.clone(), stream);
                    tokio::spawn(async {
                        if let Err(error) = serve.await {
                            log::debug!("control: {error}");
                        }
                    });
                }
                Err(error) => {
                    log::warn!("control: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}
