use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A request as an upstream saw it, byte for byte.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The request line and the headers, as they came.
    pub head: String,
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The name that the client asked for in its TLS handshake.
    pub server_name: Option<String>,
}

impl Recorded {
    /// The value of a header; panics if it is there twice.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let first = all.next();
        assert!(all.next().is_none(), "{name} is there twice: {self:?}");
        first.map(|(_, value)| value.as_str())
    }
}

/// What an upstream answers.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    delay: Duration,
    raw: Option<Vec<u8>>,
    close: bool,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), delay: Duration::ZERO, raw: None, close: false }
    }

    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::new(200, body)
    }

    /// These bytes, and then the end of the connection.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { raw: Some(bytes.into()), close: true, ..Self::ok("") }
    }

    /// These bytes; the connection stays open behind them.
    pub fn raw_open(bytes: impl Into<Vec<u8>>) -> Self {
        Self { close: false, ..Self::raw(bytes) }
    }

    /// The end of the connection, without an answer.
    pub fn hang_up() -> Self {
        Self::raw("")
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Closes the connection behind the answer.
    pub fn close(mut self) -> Self {
        self.close = true;
        self
    }

    fn bytes(&self, to: &Recorded) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut text = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.close {
            text.push_str("connection: close\r\n");
        }
        if self.status != 204 && self.status != 304 {
            text.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        if to.method != "HEAD" && self.status != 204 {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// A server that answers by a script and records what it is asked. It stops when it is dropped.
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Has the accepting thread look up, which closes the listener.
    wake: Box<dyn Fn() + Send + Sync>,
}

struct Shared {
    script: Box<dyn Fn(&Recorded) -> Reply + Send + Sync>,
    seen: Mutex<Vec<Recorded>>,
    connections: AtomicUsize,
    /// Each closes a connection.
    close: Mutex<Vec<Box<dyn Fn() + Send>>>,
    stopped: AtomicBool,
}

impl Shared {
    fn new(script: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            script: Box::new(script),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            close: Mutex::default(),
            stopped: AtomicBool::new(false),
        })
    }

    /// Notes a new connection; `false` if there should be no more.
    fn accepted(&self, close: impl Fn() + Send + 'static) -> bool {
        let mut closers = self.close.lock().unwrap();
        if self.stopped.load(Ordering::SeqCst) {
            return false;
        }
        self.connections.fetch_add(1, Ordering::SeqCst);
        closers.push(Box::new(close));
        true
    }
}

impl Upstream {
    /// Answers by `script`.
    pub fn start(script: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Self {
        Self::on("127.0.0.1:0".parse().unwrap(), script)
    }

    /// The same on a certain address.
    pub fn on(address: SocketAddr, script: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Self {
        Self::tcp(TcpListener::bind(address).unwrap(), script, |shared, stream| serve(shared, stream, None))
    }

    /// The same on a listener that is there already.
    pub fn from(listener: TcpListener, script: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Self {
        Self::tcp(listener, script, |shared, stream| serve(shared, stream, None))
    }

    /// The same over TLS.
    pub fn tls(config: Arc<ServerConfig>, script: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Self {
        Self::tcp(TcpListener::bind("127.0.0.1:0").unwrap(), script, move |shared, mut stream| {
            let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            if tls.complete_io(&mut stream).is_ok() {
                let name = tls.server_name().map(str::to_owned);
                serve(shared, StreamOwned::new(tls, stream), name.as_deref());
            }
        })
    }

    /// The same on a Unix socket; `address` is that of no one.
    pub fn unix(path: &Path, script: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let shared = Shared::new(script);
        let (accepting, path) = (Arc::clone(&shared), path.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let open = stream.try_clone().unwrap();
                if !accepting.accepted(move || drop(open.shutdown(Shutdown::Both))) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || serve(&shared, stream, None));
            }
        });
        let wake = Box::new(move || drop(UnixStream::connect(&path)));
        Self { address: ([0, 0, 0, 0], 0).into(), shared, wake }
    }

    fn tcp(
        listener: TcpListener,
        script: impl Fn(&Recorded) -> Reply + Send + Sync + 'static,
        handle: impl Fn(&Shared, TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Shared::new(script);
        let (accepting, handle) = (Arc::clone(&shared), Arc::new(handle));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let open = stream.try_clone().unwrap();
                let closing = stream.try_clone().unwrap();
                if !accepting.accepted(move || drop(open.shutdown(Shutdown::Both))) {
                    return;
                }
                let (shared, handle) = (Arc::clone(&accepting), Arc::clone(&handle));
                std::thread::spawn(move || {
                    handle(&shared, stream);
                    let _ = closing.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, shared, wake: Box::new(move || drop(TcpStream::connect(address))) }
    }

    /// Answers every request with 200 and its own name.
    pub fn named(name: &'static str) -> Self {
        Self::start(move |_| Reply::ok(name))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Recorded> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The only request so far.
    #[track_caller]
    pub fn only(&self) -> Recorded {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:#?}");
        seen[0].clone()
    }

    /// The last request.
    #[track_caller]
    pub fn last(&self) -> Recorded {
        self.seen().last().expect("a request").clone()
    }

    /// How many connections were opened to it.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        for close in self.shared.close.lock().unwrap().drain(..) {
            close();
        }
        (self.wake)();
    }
}

fn serve(shared: &Shared, stream: impl Read + Write, server_name: Option<&str>) {
    let mut stream = BufReader::new(stream);
    while let Some(mut request) = read(&mut stream) {
        request.server_name = server_name.map(str::to_owned);
        shared.seen.lock().unwrap().push(request.clone());
        let reply = (shared.script)(&request);
        std::thread::sleep(reply.delay);
        let writer = stream.get_mut();
        if writer.write_all(&reply.bytes(&request)).and_then(|()| writer.flush()).is_err() || reply.close {
            return;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Recorded> {
    let mut head = String::new();
    loop {
        let before = head.len();
        reader.read_line(&mut head).ok().filter(|read| *read > 0)?;
        if &head[before..] == "\r\n" {
            break;
        }
    }
    let mut lines = head.trim_end().split("\r\n");
    let mut words = lines.next()?.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let mut request = Recorded { method, target, headers, body: Vec::new(), head: head.clone(), server_name: None };
    if request.header("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let size = usize::from_str_radix(line.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            if size == 0 {
                break;
            }
            request.body.extend_from_slice(&chunk[..size]);
        }
    } else if let Some(length) = request.header("content-length") {
        request.body = vec![0; length.parse().ok()?];
        reader.read_exact(&mut request.body).ok()?;
    }
    Some(request)
}
