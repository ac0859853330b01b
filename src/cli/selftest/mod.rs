//! `torana selftest`: proves on this machine, with this program, that nothing is lost.
//!
//! `torana selftest upgrade` starts a gateway of its own with an upstream of its own, and while it is reloaded and replaced
//! by new processes, these clients ask without a pause. Each request has a number of its own; the upstream notes which
//! it saw, and every client checks that the answer to each is its own.
//!
//! | client | what it does |
//! |---|---|
//! | keep-alive | one to three requests in one piece on a connection that is kept |
//! | new connections | a connection for each request |
//! | HTTP/2 | streams side by side on a connection that is kept |
//! | WebSocket | a message and its echo, on a connection that lasts two seconds |
//! | slow uploads | a body in pieces over a second |
//! | slow downloads | the same the other way |
//!
//! A request is *lost* if its connection ends without a whole answer, *refused* if it cannot connect or gets another status
//! than 200, *twice* if the upstream saw it more than once, *wrong* if the answer is that of another one. Clients retry
//! nothing: what a browser or a library would hide is counted here. The one exception has its own line in the report:
//! streams of HTTP/2 that a GOAWAY says were not looked at.

mod http1;
mod http2;
mod slow;
mod stage;
mod tally;
mod upstream;
mod web_socket;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};

use self::{
    stage::Stage,
    tally::{Load, Tally},
    upstream::Upstream,
};
use super::{complain, print};

/// Proves on this machine that nothing is lost
#[derive(Args, Debug)]
pub(super) struct Selftest {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Reloads and upgrades a gateway under load; ends with 1 and a report if one request was lost, refused or sent twice
    Upgrade(Upgrade),
}

#[derive(Args, Debug)]
struct Upgrade {
    /// How often the configuration is read again; every fourth time it is broken, and has to be refused
    #[arg(long, default_value_t = 20)]
    reloads: u32,
    /// How often a new process takes over
    #[arg(long, default_value_t = 10)]
    upgrades: u32,
    /// How many requests are sent in a second, by all clients together
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    rate: u32,
    /// The program to test, instead of this one
    #[arg(long, value_name = "PROGRAM")]
    program: Option<PathBuf>,
    /// The report as JSON
    #[arg(long)]
    json: bool,
}

impl Selftest {
    pub(super) fn run(self) -> ExitCode {
        let What::Upgrade(upgrade) = self.what;
        match upgrade.run() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(why) => {
                complain(&format!("error: the self-test could not be run: {why}\n"));
                ExitCode::FAILURE
            }
        }
    }
}

impl Upgrade {
    /// Whether nothing was lost.
    fn run(self) -> Result<bool, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let program = match &self.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(|error| error.to_string())?,
        };
        let upstream = runtime.block_on(Upstream::start()).map_err(|error| format!("the upstream: {error}"))?;
        let mut stage = Stage::start(&program, upstream.address())?;
        let load = Load::new(stage.address()?);
        let clients = self.clients(&runtime, &load);
        let began = Instant::now();
        let acted = self.act(&mut stage);
        load.stop.store(true, Ordering::Relaxed);
        for client in clients {
            // A client that panics has lost its request, which its tally then says.
            drop(runtime.block_on(client));
        }
        let took = began.elapsed();
        let ended = stage.stop();
        let twice = upstream.twice();
        let problems: Vec<String> = [acted.err(), ended.err()].into_iter().flatten().collect();
        let mut report = Report { load: &load, took, twice, problems, upgrade: &self };
        if !report.is_good() {
            report.problems.push(format!("the log of the gateway is {}", stage.keep().display()));
        }
        if self.json {
            print(&format!("{:#}\n", report.json()));
        } else {
            print(&report.text());
        }
        Ok(report.is_good())
    }

    /// Starts the clients. One in two requests is on kept connections.
    fn clients(&self, runtime: &tokio::runtime::Runtime, load: &Arc<Load>) -> Vec<tokio::task::JoinHandle<()>> {
        let rate = f64::from(self.rate);
        let every = |share: f64| Duration::from_secs_f64(1.0 / (rate * share));
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(runtime.spawn(http1::keep_alive(Arc::clone(load), every(0.55 / 8.0 / 2.0))));
        }
        for _ in 0..2 {
            clients.push(runtime.spawn(http1::new_connections(Arc::clone(load), every(0.1 / 2.0))));
            clients.push(runtime.spawn(http2::streams(Arc::clone(load), every(0.3 / 2.0))));
            clients.push(runtime.spawn(web_socket::talk(Arc::clone(load), every(0.05 / 2.0))));
            clients.push(runtime.spawn(slow::uploads(Arc::clone(load))));
            clients.push(runtime.spawn(slow::downloads(Arc::clone(load))));
        }
        clients
    }

    /// Reloads and upgrades, evenly mixed.
    fn act(&self, stage: &mut Stage) -> Result<(), String> {
        let total = self.reloads + self.upgrades;
        let (mut reloads, mut upgrades) = (0, 0);
        for step in 1..=total {
            stage::wait(stage::PAUSE);
            // Whichever is further behind its share.
            if u64::from(reloads) * u64::from(total) < u64::from(step) * u64::from(self.reloads)
                && reloads < self.reloads
            {
                reloads += 1;
                let broken = reloads % 4 == 0;
                stage.reload(reloads, broken)?;
                complain(&format!(
                    "reload {reloads} of {}{}\n",
                    self.reloads,
                    if broken { " (broken, refused)" } else { "" }
                ));
            } else {
                upgrades += 1;
                let pid = stage.upgrade()?;
                complain(&format!("upgrade {upgrades} of {}: process {pid} serves\n", self.upgrades));
            }
        }
        stage::wait(stage::PAUSE);
        Ok(())
    }
}

/// What came of it.
struct Report<'a> {
    load: &'a Load,
    took: Duration,
    twice: u64,
    /// What did not go as it should besides requests.
    problems: Vec<String>,
    upgrade: &'a Upgrade,
}

impl Report<'_> {
    fn is_good(&self) -> bool {
        self.problems.is_empty() && self.twice == 0 && self.load.all().iter().all(|tally| tally.is_good())
    }

    fn answered(&self) -> u64 {
        self.load.all().iter().map(|tally| tally.answered.load(Ordering::Relaxed)).sum()
    }

    fn behind_goaway(&self) -> u64 {
        self.load.behind_goaway.load(Ordering::Relaxed)
    }

    fn rate(&self) -> u64 {
        u64::try_from(u128::from(self.answered()) * 1000 / self.took.as_millis().max(1)).unwrap_or(u64::MAX)
    }

    fn text(&self) -> String {
        let mut lines = vec![
            format!(
                "{} reloads and {} upgrades in {:.1} s: {} answers, {} in a second",
                self.upgrade.reloads,
                self.upgrade.upgrades,
                self.took.as_secs_f64(),
                self.answered(),
                self.rate()
            ),
            Tally::heading(),
        ];
        lines.extend(self.load.all().iter().map(|tally| tally.line()));
        lines.push(format!("sent to the upstream twice: {}", self.twice));
        lines.push(format!("streams behind a GOAWAY, sent again: {}", self.behind_goaway()));
        lines.extend(self.load.all().iter().flat_map(|tally| tally.failures()));
        lines.extend(self.problems.iter().cloned());
        lines.push(if self.is_good() { "nothing was lost".to_owned() } else { "FAILED".to_owned() });
        lines.join("\n") + "\n"
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "good": self.is_good(),
            "reloads": self.upgrade.reloads,
            "upgrades": self.upgrade.upgrades,
            "seconds": self.took.as_secs_f64(),
            "answered": self.answered(),
            "per_second": self.rate(),
            "twice": self.twice,
            "behind_goaway": self.behind_goaway(),
            "problems": self.problems,
            "clients": self.load.all().iter().map(|tally| tally.json()).collect::<Vec<_>>(),
        })
    }
}
