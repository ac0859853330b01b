//! `torana penalty-box`: which addresses a running process turns away, and letting one in again.

use std::{net::IpAddr, process::ExitCode};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{
    control::{Target, end},
    print,
};
use crate::clock::spell;

/// What to do with the penalty box.
#[derive(Args, Debug)]
pub(super) struct PenaltyBox {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Shows which addresses are turned away, and for how long
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Lets an address in again
    Release {
        /// The address
        address: IpAddr,
        #[command(flatten)]
        target: Target,
    },
}

impl PenaltyBox {
    pub(super) fn run(&self) -> ExitCode {
        match &self.what {
            What::List { json, target } => end(target.ask("penalty-box list").map(|all| {
                print(&if *json { format!("{all:#}\n") } else { show(&all) });
            })),
            What::Release { address, target } => target.do_it(&format!("penalty-box release {address}")),
        }
    }
}

fn show(all: &Value) -> String {
    let lines: Vec<String> = all.as_array().into_iter().flatten().map(line).collect();
    if lines.is_empty() { "nobody is turned away\n".into() } else { lines.concat() }
}

fn line(one: &Value) -> String {
    let address = one["address"].as_str().unwrap_or_default();
    let (left, refused) = (one["seconds_left"].as_u64().unwrap_or(0), one["refused"].as_u64().unwrap_or(0));
    format!("{address} for {} more, after {refused} refusals\n", spell(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_who_and_for_how_long() {
        let all = serde_json::json!([{ "address": "192.0.2.1", "seconds_left": 75, "refused": 100 }]);
        assert_eq!(show(&all), "192.0.2.1 for 1m 15s more, after 100 refusals\n");
        assert_eq!(show(&serde_json::json!([])), "nobody is turned away\n");
    }
}
