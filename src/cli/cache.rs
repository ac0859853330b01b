//! `torana cache`: takes away what a running process keeps of answers.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::control::Target;

/// What to do with answers that are kept.
#[derive(Args, Debug)]
pub(super) struct Cache {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Takes kept answers away: the next request for them goes to the upstream
    Purge {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Which {
    /// All that is kept for this route
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// All that is kept of this URL, whoever it is for: `https://api.example.com/orders?page=2`
    #[arg(long)]
    url: Option<String>,
    /// Everything
    #[arg(long)]
    all: bool,
}

impl Cache {
    pub(super) fn run(&self) -> ExitCode {
        let What::Purge { which, target } = &self.what;
        let what = match (&which.route, &which.url) {
            (Some(route), _) => format!("route {route}"),
            (None, Some(url)) => format!("url {url}"),
            (None, None) => "all".to_owned(),
        };
        target.do_it(&format!("cache purge {what}"))
    }
}
