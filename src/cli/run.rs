//! `torana run`

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use super::{File, REFUSED, complain, start_logging};
use crate::{
    config::{Report, Validated},
    server::{self, Launch, Predecessor, StartError},
};

/// How to run.
#[derive(Args, Debug)]
pub(super) struct Run {
    #[command(flatten)]
    file: File,
    /// If the file is broken, start with the last one that worked, and say so in the log, in `status` and in
    /// `torana_config_fallback`
    #[arg(long)]
    last_good: bool,
    /// Where the last configuration that worked is kept; systemd sets it
    #[arg(long, value_name = "DIRECTORY", env = "STATE_DIRECTORY")]
    state: Option<PathBuf>,
}

impl Run {
    pub(super) fn run(self) -> ExitCode {
        start_logging();
        let predecessor = match Predecessor::find() {
            Ok(predecessor) => predecessor,
            Err(error) => return finish(Err(StartError::System(error))),
        };
        let outcome = self.serve(predecessor.clone());
        if let (Some(before), Err(error)) = (predecessor, &outcome) {
            before.failed(&error.to_string());
        }
        finish(outcome)
    }

    fn serve(self, predecessor: Option<Predecessor>) -> Result<(), StartError> {
        let mut launch = Launch { predecessor, state_directory: self.state, ..Launch::default() };
        let path = self.file.config;
        let config = match load(&path) {
            Ok(config) => config,
            // Whoever hands over serves on, and need not fall back.
            Err(report) if !self.last_good || launch.predecessor.is_some() => return Err(StartError::Config(report)),
            Err(report) => {
                let (kept, config) = fall_back(launch.state_directory.as_deref(), report.clone())?;
                log::error!(
                    "ALARM: {} is broken, so {} is served, the last configuration that worked:\n{report}",
                    path.display(),
                    kept.display()
                );
                launch.broken = Some(report);
                config
            }
        };
        server::run(&config, Launch { path: Some(path), ..launch })
    }
}

fn load(path: &Path) -> Result<Validated, Report> {
    server::load(path, &mut |warnings| log::warn!("the configuration works, but:\n{warnings}"))
}

/// The last configuration that worked, or what is wrong with the one that should be run.
fn fall_back(state: Option<&Path>, report: Report) -> Result<(PathBuf, Validated), StartError> {
    let Some(kept) = state.and_then(server::kept_in) else {
        log::error!("there is no last configuration that worked: --state or $STATE_DIRECTORY names where it is kept");
        return Err(StartError::Config(report));
    };
    match load(&kept) {
        Ok(config) => Ok((kept, config)),
        Err(also) => {
            log::error!("the last configuration that worked does not work any more:\n{also}");
            Err(StartError::Config(report))
        }
    }
}

/// The exit code for the end of a process.
pub(super) fn finish(outcome: Result<(), StartError>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(StartError::Config(report)) => {
            complain(&report.to_string());
            ExitCode::from(REFUSED)
        }
        Err(error) => {
            complain(&format!("error: {error}\n"));
            ExitCode::FAILURE
        }
    }
}
