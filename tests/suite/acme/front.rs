use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::support::Authority;

/// What stands before Pebble: it counts, and answers instead if a test wants it to. Pebble's answers name the address that
/// it was asked at, so everything goes through here.
pub struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
}

type Rule = Box<dyn Fn(&str) -> Option<String> + Send>;

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pebble: Option<SocketAddr>,
    seen: Vec<String>,
    /// Answers instead of Pebble.
    rule: Option<Rule>,
    /// Requests for such paths wait.
    held: Option<String>,
}

impl Front {
    pub fn start(authority: &Authority) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let (server, client) = (authority.server("127.0.0.1"), client(&authority.pem()));
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (shared, server, client) = (Arc::clone(&own), Arc::clone(&server), Arc::clone(&client));
                std::thread::spawn(move || serve(stream, &shared, server, client));
            }
        });
        Self { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Passes on to this one from now on. Until then whoever asks waits.
    pub fn passes_on_to(&self, pebble: SocketAddr) {
        self.change(|state| state.pebble = Some(pebble));
    }

    /// Answers instead of Pebble where the rule, which is given `METHOD /path`, says something: a whole response.
    pub fn answers(&self, rule: impl Fn(&str) -> Option<String> + Send + 'static) {
        self.change(|state| state.rule = Some(Box::new(rule)));
    }

    /// Leaves the answers to Pebble again.
    pub fn answers_no_more(&self) {
        self.change(|state| state.rule = None);
    }

    /// Requests whose path begins like this wait.
    pub fn holds(&self, path: &str) {
        self.change(|state| state.held = Some(path.to_owned()));
    }

    pub fn lets_go(&self) {
        self.change(|state| state.held = None);
    }

    /// How often something was asked for whose `METHOD /path` contains this.
    pub fn count(&self, what: &str) -> usize {
        self.shared.state.lock().unwrap().seen.iter().filter(|line| line.contains(what)).count()
    }

    /// How many orders there were.
    pub fn orders(&self) -> usize {
        self.count("POST /order-plz")
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state.lock().unwrap());
        self.shared.changed.notify_all();
    }
}

/// A client that trusts this authority.
pub fn client(pem: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// One request on each connection.
fn serve(stream: TcpStream, shared: &Shared, server: Arc<ServerConfig>, client: Arc<ClientConfig>) {
    let mut stream = BufReader::new(StreamOwned::new(ServerConnection::new(server).unwrap(), stream));
    let Some((line, request)) = read(&mut stream) else { return };
    let answer = decide(&line, shared).unwrap_or_else(|pebble| ask(pebble, &request, client));
    let mut stream = stream.into_inner();
    let _ = stream.write_all(&answer);
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

/// The answer of a rule, or whom to ask.
fn decide(line: &str, shared: &Shared) -> Result<Vec<u8>, SocketAddr> {
    let mut state = shared.state.lock().unwrap();
    state.seen.push(line.to_owned());
    loop {
        let is_held = state.held.as_ref().is_some_and(|held| line.contains(held.as_str()));
        let answer = state.rule.as_ref().and_then(|rule| rule(line));
        match (is_held, answer, state.pebble) {
            (false, Some(answer), _) => return Ok(answer.into_bytes()),
            (false, None, Some(pebble)) => return Err(pebble),
            _ => state = shared.changed.wait(state).unwrap(),
        }
    }
}

/// `METHOD /path`, and the whole request, with which the connection ends.
fn read(stream: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let (mut request, mut length, mut first) = (Vec::new(), 0, String::new());
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if first.is_empty() {
            first = line.rsplit_once(' ').unwrap().0.to_owned();
        }
        if line == "\r\n" {
            request.extend(b"Connection: close\r\n\r\n");
            break;
        }
        if !lower.starts_with("connection:") {
            request.extend(line.as_bytes());
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    request.extend(body);
    Some((first, request))
}

fn ask(pebble: SocketAddr, request: &[u8], client: Arc<ClientConfig>) -> Vec<u8> {
    let stream = TcpStream::connect(pebble).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let connection = ClientConnection::new(client, "127.0.0.1".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, stream);
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => panic!("pebble: {error}"),
        Ok(_) | Err(_) => answer,
    }
}
