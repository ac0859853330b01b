//! `torana schema`

use std::process::ExitCode;

use super::print;
use crate::config;

pub(super) fn schema() -> ExitCode {
    print(&format!("{:#}\n", config::schema()));
    ExitCode::SUCCESS
}
