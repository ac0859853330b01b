//! `torana quota`: who has used what of the quotas of a running process, and changes to that.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{
    control::{Target, end},
    print,
};

/// What to do with quotas.
#[derive(Args, Debug)]
pub(super) struct Quota {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Shows what each key has used
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Has a key begin anew
    Reset {
        /// The quota, as `torana quota list` shows it
        quota: String,
        /// The key, as `torana quota list` shows it: `consumer:mobile_app`
        key: String,
        #[command(flatten)]
        target: Target,
    },
    /// Gives a key more requests for this period
    TopUp {
        /// The quota, as `torana quota list` shows it
        quota: String,
        /// The key, as `torana quota list` shows it: `consumer:mobile_app`
        key: String,
        /// How many requests more
        amount: u64,
        #[command(flatten)]
        target: Target,
    },
}

impl Quota {
    pub(super) fn run(&self) -> ExitCode {
        match &self.what {
            What::List { json, target } => end(target.ask("quota list").map(|all| {
                print(&if *json { format!("{all:#}\n") } else { show(&all) });
            })),
            What::Reset { quota, key, target } => target.do_it(&format!("quota reset {quota} {key}")),
            What::TopUp { quota, key, amount, target } => target.do_it(&format!("quota top-up {amount} {quota} {key}")),
        }
    }
}

/// A table: the quota, the key, what is used of how many.
fn show(all: &Value) -> String {
    let rows: Vec<[String; 3]> = all.as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        return "nothing is used of any quota\n".into();
    }
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|text| text.chars().count()).max();
    let (first, second) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
    rows.iter()
        .fold(String::new(), |text, [quota, key, used]| text + &format!("{quota:first$}  {key:second$}  {used}\n"))
}

fn row(one: &Value) -> [String; 3] {
    let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let (used, limit) = (one["used"].as_i64().unwrap_or(0), one["limit"].as_u64().unwrap_or(0));
    [text("quota"), text("key"), format!("{used} of {limit}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_a_table() {
        let all = serde_json::json!([
            { "quota": "orders", "key": "consumer:mobile_app", "used": 7, "limit": 10 },
            { "quota": "o", "key": "k", "used": -5, "limit": 1000 },
        ]);
        assert_eq!(show(&all), "orders  consumer:mobile_app  7 of 10\no       k                    -5 of 1000\n");
        assert_eq!(show(&serde_json::json!([])), "nothing is used of any quota\n");
    }
}
