//! `torana hash`

use std::{
    io::{BufRead as _, IsTerminal as _},
    process::ExitCode,
};

use clap::Args;

use super::{complain, print};
use crate::identity::{digest, password::Password};

/// What to make a hash of.
#[derive(Args, Debug)]
pub(super) struct Hash {
    /// Of an API key (`sha256:...`), instead of a password (argon2id)
    #[arg(long)]
    api_key: bool,
}

impl Hash {
    pub(super) fn run(&self) -> ExitCode {
        let input = std::io::stdin();
        if input.is_terminal() {
            complain("The line is not hidden while you type it; `systemd-ask-password | torana hash` hides it.\n");
        }
        let mut secret = String::new();
        let read = input.lock().read_line(&mut secret);
        if let Err(error) = read {
            complain(&format!("error: standard input: {error}\n"));
            return ExitCode::FAILURE;
        }
        let secret = secret.trim_end_matches(['\r', '\n']);
        let made = if self.api_key {
            Ok(format!("sha256:{}", hex::encode(digest(secret.as_bytes()))))
        } else {
            Password::hash(secret)
        };
        let made =
            made.and_then(
                |hash| if secret.is_empty() { Err("there is nothing on standard input".into()) } else { Ok(hash) },
            );
        match made {
            Ok(hash) => {
                print(&format!("{hash}\n"));
                ExitCode::SUCCESS
            }
            Err(why) => {
                complain(&format!("error: {why}\n"));
                ExitCode::FAILURE
            }
        }
    }
}
