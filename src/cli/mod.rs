//! The commands: one file each. Exit codes: 0 fine, 1 it did not work, 2 the configuration or the arguments are refused.

mod cache;
mod check;
mod completions;
mod control;
mod demo;
mod hash;
mod penalty_box;
mod quota;
mod run;
mod schema;
mod selftest;
mod status;

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

/// Where a configuration is looked for if none is named.
pub const DEFAULT_CONFIG: &str = "/etc/torana/torana.yaml";

/// Torana, an API gateway.
#[derive(Debug, Parser)]
#[command(
    name = "torana",
    version,
    about = "An API gateway: routes, guards, balances and observes requests, configured by one YAML file",
    after_help = "Try `torana demo`: it needs no file and no backend.\n\
                  `RUST_LOG=debug` shows more of what the gateway does; the default is `info`.",
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the gateway in the foreground
    ///
    /// SIGHUP reads the configuration again; a broken one changes nothing. SIGUSR2 hands over to the program on disk.
    /// SIGTERM lets requests in flight end.
    Run(run::Run),
    /// Says whether a configuration would be accepted, and everything that is wrong with it
    Check(check::Check),
    /// Shows what a running gateway does
    Status(control::Status),
    /// Has a running gateway read its configuration again
    ///
    /// Ends with 0 once it is live, or with 1 and the reason if it is refused; the one before keeps running then. What only
    /// a new process can change (`listeners`, `workers`, `admin`) is changed by handing over to one.
    Reload(control::Target),
    /// Has a running gateway hand over to the program on disk, without losing a request
    ///
    /// Ends with 0 once the new process serves. Until it does, whatever goes wrong leaves the old one serving.
    Upgrade(control::Target),
    /// Drains, disables or enables an endpoint of a running gateway
    ///
    /// That lasts through reloads and upgrades, and ends with the last process. `torana status` shows it.
    Endpoint(control::Endpoint),
    /// Shows what is used of the quotas of a running gateway, and changes that
    Quota(quota::Quota),
    /// Shows which addresses a running gateway turns away for being refused too often, and lets one in again
    PenaltyBox(penalty_box::PenaltyBox),
    /// Takes away what a running gateway keeps of answers
    Cache(cache::Cache),
    /// Proves on this machine, with this program, that reloads and upgrades lose no request
    Selftest(selftest::Selftest),
    /// Runs the gateway with endpoints of its own, to try it: no file and no backend needed
    Demo(demo::Demo),
    /// Makes a hash of a password or an API key, for the configuration
    ///
    /// Reads a line from standard input: `printf %s "$KEY" | torana hash --api-key`.
    Hash(hash::Hash),
    /// Prints the JSON Schema of the configuration, for editors
    ///
    /// With the YAML language server: `torana schema > torana.schema.json`, and as the first line of the configuration
    /// `# yaml-language-server: $schema=torana.schema.json`.
    Schema,
    /// Prints a script that completes commands in a shell
    ///
    /// For example `torana completions bash > /etc/bash_completion.d/torana`.
    Completions(completions::Completions),
}

/// A configuration file.
#[derive(Args, Debug)]
struct File {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

impl Cli {
    /// Does what the arguments ask for.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Run(run) => run.run(),
            Command::Status(status) => status.run(),
            Command::Reload(target) => target.reload(),
            Command::Endpoint(endpoint) => endpoint.run(),
            Command::Quota(quota) => quota.run(),
            Command::PenaltyBox(penalties) => penalties.run(),
            Command::Cache(cache) => cache.run(),
            Command::Upgrade(target) => target.upgrade(),
            Command::Check(check) => check.run(),
            Command::Selftest(selftest) => selftest.run(),
            Command::Demo(demo) => demo.run(),
            Command::Hash(hash) => hash.run(),
            Command::Schema => schema::schema(),
            Command::Completions(completions) => completions.print(),
        }
    }
}

/// Exit code for a configuration that is refused.
const REFUSED: u8 = 2;

/// Prints to standard output; a reader that has gone away (`| head`) is no error.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        log::debug!("standard output is closed");
    }
}

/// Prints to standard error.
fn complain(text: &str) {
    let mut out = std::io::stderr().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        log::debug!("standard error is closed");
    }
}

/// Does not make errors of what any scanner does to a port with TLS: connections without a handshake are for `debug`.
struct Quiet(env_logger::Logger);

impl log::Log for Quiet {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &log::Record<'_>) {
        let handshake = record.target() == "pingora_core::services::listening"
            && record.args().to_string().starts_with("Downstream handshake");
        if handshake {
            let mut quiet = log::Record::builder();
            quiet.level(log::Level::Debug).target(record.target()).module_path(record.module_path());
            self.0.log(&quiet.args(*record.args()).build());
        } else {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// Starts logging to standard error. Pingora's own lines are shown from `warn` on: what it says of single requests stands in
/// the access log, and where two threads reach for one kept connection it reports an error although nothing is lost.
///
/// `RUST_LOG=debug` alone does not change that, because at that level Pingora writes whole headers, with their credentials;
/// whoever wants them asks for `pingora_proxy=debug`.
fn start_logging() {
    let others = "pingora_core=warn,pingora_core::connectors=off,pingora_proxy=off,h2=warn,\
                  hickory_resolver=warn,hickory_proto=warn,hickory_net=warn";
    let env = env_logger::Env::default().default_filter_or("info");
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(others).parse_env(env);
    let logger = builder.format_timestamp_millis().build();
    let level = logger.filter();
    if log::set_boxed_logger(Box::new(Quiet(logger))).is_ok() {
        log::set_max_level(level);
    }
}
