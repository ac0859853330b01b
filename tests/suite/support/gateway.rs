use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Client, Response, eventually};

/// The program under test.
pub fn torana() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torana"));
    command.env_remove("RUST_LOG");
    command
}

/// A gateway that runs until it is dropped.
pub struct Gateway {
    child: Child,
    folder: tempfile::TempDir,
    log: Arc<Mutex<Vec<String>>>,
    listeners: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
}

impl Gateway {
    /// Starts the gateway with this file. Without `listeners` it gets one on a free port, and an admin listener.
    pub fn start(yaml: &str) -> Self {
        Self::start_with(yaml, |_, _| {})
    }

    /// The same; `prepare` may add files to the folder and variables to the environment.
    pub fn start_with(yaml: &str, prepare: impl FnOnce(&Path, &mut Command)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("torana.yaml");
        fs::write(&path, complete(yaml)).unwrap();
        let mut command = torana();
        prepare(folder.path(), &mut command);
        command.arg("run").arg("-c").arg(&path).current_dir(folder.path());
        Self::spawn(command, folder)
    }

    /// The same, started from a link that a test may lead elsewhere, with a control socket and a state directory.
    pub fn replaceable(yaml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("torana.yaml"), folder.path().join("torana"));
        fs::write(&path, complete(yaml)).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_torana"), &link).unwrap();
        Self::spawn(replaceable(folder.path()), folder)
    }

    /// Starts it again, with the file as it is now.
    pub fn restart(&mut self) {
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        self.kill();
        *self = Self::spawn(replaceable(folder.path()), folder);
    }

    /// Runs another command on this gateway: exit code, and what it printed.
    pub fn torana(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = torana();
        command.args(arguments).arg("--socket").arg(self.folder.path().join("control.sock"));
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        (output.status.code(), text)
    }

    /// Hands over to a new process, and returns that one's number.
    pub fn upgrade(&self) -> u64 {
        let before = self.main();
        let (code, said) = self.torana(&["upgrade"]);
        assert_eq!(code, Some(0), "{said}");
        let after = self.main();
        assert_ne!(before, after, "{said}");
        after
    }

    /// The status as the control socket tells it.
    pub fn control_status(&self) -> serde_json::Value {
        let (code, said) = self.torana(&["status", "--json"]);
        assert_eq!(code, Some(0), "{said}");
        serde_json::from_str(&said).unwrap()
    }

    /// The number of the process that serves.
    pub fn main(&self) -> u64 {
        self.control_status()["pid"].as_u64().unwrap()
    }

    /// Starts `torana demo` on free ports; what it prints is in the log too.
    pub fn demo() -> Self {
        let mut command = torana();
        command.args(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        Self::spawn(command, tempfile::tempdir().unwrap())
    }

    fn spawn(mut command: Command, folder: tempfile::TempDir) -> Self {
        command.process_group(0);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        collect(child.stderr.take().unwrap(), &log);
        collect(child.stdout.take().unwrap(), &log);
        let mut gateway = Self { child, folder, log, listeners: Vec::new(), admin: None };
        eventually("the gateway is ready", || gateway.is_up());
        gateway
    }

    /// Reads from the log where the gateway listens; `ready` is its last line at the start.
    fn is_up(&mut self) -> bool {
        if let Some(status) = self.child.try_wait().unwrap() {
            std::thread::sleep(Duration::from_millis(100));
            panic!("the gateway ended with {status}:\n{}", self.log());
        }
        let log = self.log.lock().unwrap();
        let after = |mark: &str| {
            let found = log.iter().filter_map(|line| line.split_once(mark));
            found.map(|(_, rest)| rest.trim().to_owned()).collect::<Vec<_>>()
        };
        self.listeners = after("listening on ").iter().filter_map(|text| text.parse().ok()).collect();
        self.admin = after("admin on ").iter().find_map(|text| text.parse().ok());
        log.iter().any(|line| line.contains("ready: generation"))
    }

    /// The address of the first listener.
    pub fn address(&self) -> SocketAddr {
        self.listeners[0]
    }

    /// The address of a listener, in the order of the file.
    pub fn listener(&self, index: usize) -> SocketAddr {
        self.listeners[index]
    }

    /// The address of the admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.admin.expect("an admin listener")
    }

    /// The folder of the configuration file.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("torana.yaml")
    }

    /// A new connection to the first listener.
    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// GET on a new connection, with `Host: test`.
    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[])
    }

    /// A request on a new connection, with `Host: test` if no host is given.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut client = self.client();
        client.write(super::request(method, path, headers).as_bytes());
        client.read_answer_to(method)
    }

    /// GET on the admin listener.
    pub fn ask_admin(&self, path: &str) -> Response {
        let mut client = Client::connect(self.admin());
        client.write(super::request("GET", path, &[("Host", "localhost")]).as_bytes());
        client.read()
    }

    /// What `/status` says.
    pub fn status(&self) -> serde_json::Value {
        self.ask_admin("/status").json()
    }

    /// The value of a metric, by its name with labels as in the exposition; 0 if it is not there.
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.ask_admin("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// Waits until a metric has this value: requests are counted when they are over, which is after their response.
    pub fn wait_for_metric(&self, series: &str, value: f64) {
        eventually(&format!("{series} is {value}"), || (self.metric(series) - value).abs() < f64::EPSILON);
    }

    /// Writes another file and has it loaded; returns when the gateway has made up its mind.
    pub fn reload(&self, yaml: &str) {
        let before = self.reloads();
        self.write_config(yaml);
        self.signal(Signal::HUP);
        eventually("the reload is over", || self.reloads() > before);
    }

    /// How often a configuration was loaded, well or badly.
    pub fn reloads(&self) -> f64 {
        let outcome = |outcome| self.metric(&format!("torana_reloads_total{{outcome=\"{outcome}\"}}"));
        outcome("success") + outcome("failure")
    }

    /// Writes another file, in one step.
    pub fn write_config(&self, yaml: &str) {
        // Ports that were taken stay: a listener on port 0 is still the same one.
        let next = self.folder.path().join("next.yaml");
        fs::write(&next, complete(yaml)).unwrap();
        fs::rename(next, self.file()).unwrap();
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the end of the process, and returns its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("the process ends", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code()
    }

    /// What it printed so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// The lines of the access log, where that is the standard output, from the moment at which there are `count`.
    #[track_caller]
    pub fn access_lines(&self, count: usize) -> Vec<serde_json::Value> {
        let mut lines = Vec::new();
        eventually("the access log is written", || {
            lines = self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            lines.len() >= count
        });
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> usize {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }
}

impl Gateway {
    /// With every process that took over from it.
    fn kill(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of the gateway ---\n{}\n---", self.log());
        }
    }
}

fn collect(from: impl std::io::Read + Send + 'static, log: &Arc<Mutex<Vec<String>>>) {
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            log.lock().unwrap().push(line);
        }
    });
}

fn replaceable(folder: &Path) -> Command {
    let mut command = Command::new(folder.join("torana"));
    command.env_remove("RUST_LOG").env("RUNTIME_DIRECTORY", folder).env("STATE_DIRECTORY", folder);
    command.args(["run", "--last-good", "-c"]).arg(folder.join("torana.yaml")).current_dir(folder);
    command
}

/// Adds what every test needs.
fn complete(yaml: &str) -> String {
    let has = |section: &str| yaml.lines().any(|line| line.starts_with(section));
    let mut text = String::new();
    if !has("listeners:") {
        text.push_str("listeners: [{ address: \"127.0.0.1:0\", h2c: true }]\n");
    }
    if !has("admin:") {
        text.push_str("admin: { address: \"127.0.0.1:0\" }\n");
    }
    if !has("workers:") {
        text.push_str("workers: 2\n");
    }
    text + yaml
}
