use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

/// A request with `Host: test` if no host is given.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text.push_str("Host: test\r\n");
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text + "\r\n"
}

/// A connection that sends bytes as they are.
pub struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header; panics if it is there twice.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let first = all.next();
        assert!(all.next().is_none(), "{name} is there twice: {self:?}");
        first.map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of a problem document; panics if the response is none, or not a complete one.
    #[track_caller]
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let document = self.json();
        assert_eq!(document["status"], self.status, "{document}");
        for member in ["title", "detail", "request_id"] {
            assert!(document[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {document}");
        }
        let kind = document["type"].as_str().unwrap();
        kind.strip_prefix("urn:torana:problem:").unwrap().to_owned()
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    /// From a certain address of this machine.
    pub fn connect_from(from: IpAddr, address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::over(socket.into())
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new() }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Writes, whether or not the other side still listens.
    pub fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// A GET on this connection.
    pub fn get(&mut self, path: &str) -> Response {
        self.write(request("GET", path, &[]).as_bytes());
        self.read()
    }

    /// Reads a response to a GET.
    pub fn read(&mut self) -> Response {
        self.read_answer_to("GET")
    }

    /// Reads a response to a request with this method.
    pub fn read_answer_to(&mut self, method: &str) -> Response {
        self.try_read(method)
            .unwrap_or_else(|| panic!("the connection ended: {:?}", String::from_utf8_lossy(&self.unread)))
    }

    /// Reads a response; `None` if the connection ends before it is whole.
    pub fn try_read(&mut self, method: &str) -> Option<Response> {
        loop {
            let response = self.read_one(method)?;
            if response.status >= 200 || response.status == 101 {
                return Some(response);
            }
        }
    }

    fn read_one(&mut self, method: &str) -> Option<Response> {
        let end = loop {
            if let Some(at) = find(&self.unread, b"\r\n\r\n") {
                break at + 4;
            }
            self.more()?;
        };
        let head: Vec<u8> = self.unread.drain(..end).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut response = Response { status, headers, body: Vec::new() };
        let empty = method == "HEAD" || status < 200 || status == 204 || status == 304;
        if !empty {
            response.body = self.read_body(&response)?;
        }
        Some(response)
    }

    fn read_body(&mut self, response: &Response) -> Option<Vec<u8>> {
        if response.header("transfer-encoding") == Some("chunked") {
            return self.read_chunks();
        }
        if let Some(length) = response.header("content-length") {
            return self.take(length.parse().unwrap());
        }
        while self.more().is_some() {}
        Some(std::mem::take(&mut self.unread))
    }

    fn read_chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = find(&self.unread, b"\r\n") {
                    break at;
                }
                self.more()?;
            };
            let line = self.take(end + 2)?;
            let size = usize::from_str_radix(std::str::from_utf8(&line[..end]).unwrap(), 16).unwrap();
            let chunk = self.take(size + 2)?;
            if size == 0 {
                return Some(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.unread.len() < length {
            self.more()?;
        }
        Some(self.unread.drain(..length).collect())
    }

    /// Whatever comes next; `None` at the end of the connection.
    pub fn more(&mut self) -> Option<usize> {
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => None,
            Ok(read) => {
                self.unread.extend_from_slice(&buffer[..read]);
                Some(read)
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            // With a time-out set, the kernel does not begin again after the process was stopped for a moment.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => self.more(),
            Err(error) => panic!("{error}; unread: {:?}", String::from_utf8_lossy(&self.unread)),
        }
    }

    /// What was received and not yet read.
    pub fn peeked(&self) -> &[u8] {
        &self.unread
    }

    /// Whether the other side closes the connection without sending anything more.
    pub fn is_closed(&mut self) -> bool {
        self.unread.is_empty() && self.more().is_none()
    }

    pub fn set_timeout(&mut self, timeout: Duration) {
        self.stream.set_read_timeout(Some(timeout)).unwrap();
    }

    /// The socket itself.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
