//! `torana status`, `torana reload`, `torana upgrade`, `torana endpoint`: asks a running process on its control socket.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use serde::Deserialize;

use super::{DEFAULT_CONFIG, complain, print, status};
use crate::{config, server};

/// Where systemd makes the runtime directory of the unit.
const DEFAULT_SOCKET: &str = "/run/torana/control.sock";

/// Which process to ask.
#[derive(Args, Debug)]
pub(super) struct Target {
    /// The configuration file of the process, which may name its control socket
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// The control socket, if it is neither named in the file nor /run/torana/control.sock
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// What to show.
#[derive(Args, Debug)]
pub(super) struct Status {
    #[command(flatten)]
    target: Target,
    /// As JSON, with routes and endpoints
    #[arg(long)]
    json: bool,
}

/// Which endpoint is to do what.
#[derive(Args, Debug)]
pub(super) struct Endpoint {
    /// What it is to do
    #[arg(value_enum)]
    what: Wanted,
    /// The upstream, by its name in the file
    upstream: String,
    /// The address of the endpoint, as `torana status --json` shows it
    address: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Wanted {
    /// No new requests but those of its sessions (`sticky`); those in flight end
    Drain,
    /// No new requests; those in flight end
    Disable,
    /// Requests again
    Enable,
}

impl Endpoint {
    pub(super) fn run(&self) -> ExitCode {
        let what = match self.what {
            Wanted::Drain => "drain",
            Wanted::Disable => "disable",
            Wanted::Enable => "enable",
        };
        self.target.do_it(&format!("endpoint {what} {} {}", self.upstream, self.address))
    }
}

impl Status {
    pub(super) fn run(&self) -> ExitCode {
        end(self.target.ask("status").map(|status| {
            if self.json {
                print(&format!("{status:#}\n"));
            } else {
                print(&status::show(&status));
            }
        }))
    }
}

impl Target {
    /// `torana reload`
    pub(super) fn reload(&self) -> ExitCode {
        self.do_it("reload")
    }

    /// `torana upgrade`
    pub(super) fn upgrade(&self) -> ExitCode {
        self.do_it("upgrade")
    }

    pub(super) fn do_it(&self, what: &str) -> ExitCode {
        end(self.ask(what).map(|done| print(&format!("{}\n", done.as_str().unwrap_or_default()))))
    }

    /// A broken file may still be that of a running process.
    fn path(&self) -> PathBuf {
        let named = || match config::load(&self.config) {
            Ok((config, _)) => config.control.clone().map(|path| path.0),
            Err(_) => std::fs::read_to_string(&self.config).ok().as_deref().and_then(control_in),
        };
        let made =
            || std::env::var_os("RUNTIME_DIRECTORY").map(|made| PathBuf::from(made).join(server::CONTROL_SOCKET));
        self.socket.clone().or_else(named).or_else(made).unwrap_or_else(|| DEFAULT_SOCKET.into())
    }

    pub(super) fn ask(&self, what: &str) -> Result<serde_json::Value, String> {
        ask(&self.path(), what, &mut |text| complain(&format!("{text}\n")))
    }
}

/// What a file that is refused says about the control socket, if that much can be read.
fn control_in(text: &str) -> Option<PathBuf> {
    let value = text.lines().find_map(|line| line.strip_prefix("control:"))?;
    let value = value.split(" #").next().unwrap_or(value).trim().trim_matches(['"', '\'']);
    value.starts_with('/').then(|| value.into())
}

/// Asks on a control socket, tells what happens, and returns the answer.
pub(super) fn ask(path: &Path, what: &str, progress: &mut dyn FnMut(&str)) -> Result<serde_json::Value, String> {
    let failed = |error: io::Error| {
        let kind = error.kind();
        let hint = if matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
            "is the gateway running, with `control:` in its file or under systemd? --socket names another path"
        } else if kind == io::ErrorKind::PermissionDenied {
            "only root and the user of the gateway may ask"
        } else {
            "the gateway may have stopped"
        };
        format!("the gateway does not answer on {}: {error} ({hint})", path.display())
    };
    let mut stream = UnixStream::connect(path).map_err(failed)?;
    stream.write_all(format!("{what}\n").as_bytes()).map_err(failed)?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line.map_err(failed)?) {
            Ok(Line::Progress(text)) => progress(&text),
            Ok(Line::Done(value)) => return Ok(value),
            Ok(Line::Failed(why)) => return Err(why),
            Err(error) => return Err(format!("the gateway answers something else: {error}")),
        }
    }
    Err("the gateway stopped before it was done: look at its log".into())
}

pub(super) fn end(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(&format!("error: {why}\n"));
            ExitCode::FAILURE
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Progress(String),
    Done(serde_json::Value),
    Failed(String),
}
