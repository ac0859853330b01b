//! `torana check`

use std::{path::Path, process::ExitCode};

use clap::Args;

use super::{File, REFUSED, complain, print};
use crate::{config, server};

/// What to check, and how strictly.
#[derive(Args, Debug)]
pub(super) struct Check {
    #[command(flatten)]
    file: File,
    /// Refuses what is only warned about, too
    #[arg(long)]
    strict: bool,
}

impl Check {
    pub(super) fn run(&self) -> ExitCode {
        check(&self.file.config, self.strict)
    }
}

fn check(path: &Path, strict: bool) -> ExitCode {
    let outcome = config::load(path).and_then(|(config, warnings)| {
        let doubts = server::probe(&config)?;
        Ok((config, warnings, doubts))
    });
    match outcome {
        Ok((config, warnings, doubts)) => {
            complain(&warnings.to_string());
            for doubt in &doubts {
                complain(&format!("warning: {doubt}\n"));
            }
            if strict && !(warnings.is_empty() && doubts.is_empty()) {
                complain(&format!("{}: refused (there are warnings, and --strict)\n", path.display()));
                return ExitCode::from(REFUSED);
            }
            print(&format!(
                "{}: ok ({}, {}, {}, {})\n",
                path.display(),
                count(config.listeners.len(), "listener"),
                count(config.routes.len(), "route"),
                count(config.upstreams.len(), "upstream"),
                count(config.consumers.len(), "consumer"),
            ));
            ExitCode::SUCCESS
        }
        Err(report) => {
            complain(&report.to_string());
            complain(&format!("{}: refused ({})\n", path.display(), count(report.errors(), "error")));
            ExitCode::from(REFUSED)
        }
    }
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}
