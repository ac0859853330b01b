//! `torana check`

use std::{path::Path, process::ExitCode};

use super::{REFUSED, complain, print};
use crate::{config, server};

pub(super) fn check(path: &Path) -> ExitCode {
    let outcome = config::load(path).and_then(|(config, warnings)| {
        let doubts = server::probe(&config)?;
        Ok((config, warnings, doubts))
    });
    match outcome {
        Ok((config, warnings, doubts)) => {
            complain(&warnings.to_string());
            for doubt in doubts {
                complain(&format!("warning: {doubt}\n"));
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
