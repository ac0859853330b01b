//! `torana run`

use std::{path::Path, process::ExitCode};

use super::{REFUSED, complain, start_logging};
use crate::server::{self, StartError};

pub(super) fn run(path: &Path) -> ExitCode {
    start_logging();
    let warn = &mut |warnings: &crate::config::Report| {
        log::warn!("the configuration works, but:\n{warnings}");
    };
    let config = match server::load(path, warn) {
        Ok(config) => config,
        Err(report) => {
            complain(&report.to_string());
            return ExitCode::from(REFUSED);
        }
    };
    finish(server::run(&config, Some(path.to_owned())))
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
