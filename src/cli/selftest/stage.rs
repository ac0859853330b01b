//! The gateway that is tested.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::super::control;

/// How long the gateway may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two things that happen to the gateway.
pub(super) const PAUSE: Duration = Duration::from_millis(300);

/// A gateway in a folder of its own.
pub(super) struct Stage {
    folder: PathBuf,
    upstream: SocketAddr,
    child: Child,
    keep: bool,
}

impl Stage {
    pub(super) fn start(program: &Path, upstream: SocketAddr) -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("torana-selftest-{:08x}", rand::random::<u32>()));
        let wrong = |error: io::Error| format!("{}: {error}", folder.display());
        fs::create_dir(&folder).map_err(wrong)?;
        let file = folder.join("torana.yaml");
        fs::write(&file, config(upstream, 0)).map_err(wrong)?;
        let log = fs::File::create(folder.join("log")).map_err(wrong)?;
        let child = Command::new(program)
            .args(["run", "-c"])
            .arg(&file)
            .env("RUNTIME_DIRECTORY", &folder)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(wrong)?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{} cannot be started: {error}", program.display()))?;
        let mut stage = Self { folder, upstream, child, keep: false };
        let until = Instant::now() + PATIENCE;
        while stage.status().is_err() {
            let ended = stage.child.try_wait().is_ok_and(|status| status.is_some());
            if ended || Instant::now() > until {
                return Err(format!("the gateway did not start:\n{}", stage.log()));
            }
            wait(Duration::from_millis(20));
        }
        Ok(stage)
    }

    /// Leaves the folder there, and says where the log is.
    pub(super) fn keep(&mut self) -> PathBuf {
        self.keep = true;
        self.folder.join("log")
    }

    /// Where it listens.
    pub(super) fn address(&self) -> Result<SocketAddr, String> {
        let status = self.status()?;
        let listener = status.pointer("/listeners/0").and_then(serde_json::Value::as_str);
        listener.and_then(|text| text.parse().ok()).ok_or_else(|| "the status names no listener".into())
    }

    /// Has another file loaded. A broken one has to be refused, and a good one has to be live.
    pub(super) fn reload(&self, round: u32, broken: bool) -> Result<(), String> {
        let text = if broken { "listeners: nonsense\n".to_owned() } else { config(self.upstream, round) };
        let next = self.folder.join("next.yaml");
        let written = fs::write(&next, text).and_then(|()| fs::rename(&next, self.folder.join("torana.yaml")));
        written.map_err(|error| error.to_string())?;
        match (self.ask("reload"), broken) {
            (Ok(_), false) => Ok(()),
            (Err(why), true) if why.contains("refused") => {
                // The next upgrade reads it too.
                fs::write(self.folder.join("torana.yaml"), config(self.upstream, round))
                    .map_err(|error| error.to_string())
            }
            (Ok(_), true) => Err("a broken configuration was taken over".into()),
            (Err(why), _) => Err(format!("reload {round} failed: {why}")),
        }
    }

    /// Has a new process take over, and returns its number.
    pub(super) fn upgrade(&self) -> Result<u64, String> {
        let before = self.pid()?;
        self.ask("upgrade").map_err(|why| format!("an upgrade failed: {why}"))?;
        let after = self.pid()?;
        if before == after { Err("an upgrade left the same process".into()) } else { Ok(after) }
    }

    /// Ends it, and finds out whether it ended as it should.
    pub(super) fn stop(&mut self) -> Result<(), String> {
        let pid = i32::try_from(self.pid()?).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or("the status names no process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(|error| error.to_string())?;
        let until = Instant::now() + PATIENCE;
        // Whoever is not a child of this process is looked for by its number.
        while self.child.try_wait().is_ok_and(|end| end.is_none()) || rustix::process::test_kill_process(pid).is_ok() {
            if Instant::now() > until {
                return Err(format!("the gateway did not stop:\n{}", self.log()));
            }
            wait(Duration::from_millis(20));
        }
        Ok(())
    }

    fn pid(&self) -> Result<u64, String> {
        let status = self.status()?;
        status.get("pid").and_then(serde_json::Value::as_u64).ok_or_else(|| "the status names no process".into())
    }

    fn status(&self) -> Result<serde_json::Value, String> {
        self.ask("status")
    }

    fn ask(&self, what: &str) -> Result<serde_json::Value, String> {
        control::ask(&self.folder.join(crate::server::CONTROL_SOCKET), what, &mut |_| {})
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Ok(pid) = self.pid()
            && let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw)
            && let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::KILL)
        {
            log::debug!("the gateway is gone: {error}");
        }
        let removed = if self.keep { Ok(()) } else { fs::remove_dir_all(&self.folder) };
        for ended in [self.child.kill(), self.child.wait().map(drop), removed] {
            if let Err(error) = ended {
                log::debug!("cleaning up: {error}");
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "no worker of a gateway is blocked here")]
pub(super) fn wait(time: Duration) {
    std::thread::sleep(time);
}

/// Another header in each round, so that each is another configuration.
fn config(upstream: SocketAddr, round: u32) -> String {
    format!(
        "listeners: [{{ address: \"127.0.0.1:0\", h2c: true }}]
workers: 2
shutdown: {{ grace: 20s }}
upgrade: {{ websocket_grace: 60s }}
upstreams: {{ up: {{ endpoints: [\"{upstream}\"] }} }}
policies:
  - rate_limit: {{ key: client_ip, limits: [100000000/s] }}
routes:
  - {{ name: all, policies: [{{ response_headers: {{ set: {{ x-round: \"{round}\" }} }} }}], upstream: up }}
"
    )
}
