//! The upstream: it notes every request by its number and answers with that, echoes messages, sends slowly what is asked for.

use std::{collections::HashSet, io, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

/// Where a request's number stands.
pub(super) const NUMBER: &str = "x-number";

/// How many pieces a slow answer has, and how long it pauses between them.
pub(super) const PIECES: (usize, Duration) = (20, Duration::from_millis(50));

/// Of a slow answer, and of a slow request.
pub(super) const PIECE: [u8; 512] = [b'x'; 512];

/// Answers to a WebSocket's handshake with the key of [`super::web_socket`].
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A server that notes what it sees.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    numbers: HashSet<u64>,
    twice: u64,
}

/// What matters of a request.
struct Request {
    path: String,
    number: u64,
    upgrade: bool,
}

impl Upstream {
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let upstream = Self { address: listener.local_addr()?, seen: Arc::default() };
        let serving = upstream.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move {
                    if let Err(error) = serving.serve(stream).await {
                        log::debug!("the upstream: {error}");
                    }
                });
            }
        });
        Ok(upstream)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests came more than once.
    pub(super) fn twice(&self) -> u64 {
        self.seen.lock().twice
    }

    async fn serve(self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        while let Some(request) = read(&mut reader).await? {
            {
                let mut seen = self.seen.lock();
                let fresh = seen.numbers.insert(request.number);
                seen.twice += u64::from(!fresh);
            }
            if request.upgrade {
                writer.write_all(SWITCH).await?;
                return say_again(&mut reader, &mut writer).await;
            }
            if request.path == "/slow" {
                let (count, pause) = PIECES;
                let head = format!(
                    "HTTP/1.1 200 OK\r\n{NUMBER}: {}\r\nContent-Length: {}\r\n\r\n",
                    request.number,
                    PIECE.len() * count
                );
                writer.write_all(head.as_bytes()).await?;
                for _ in 0..count {
                    writer.write_all(&PIECE).await?;
                    tokio::time::sleep(pause).await;
                }
                continue;
            }
            let body = request.number.to_string();
            let answer = format!("HTTP/1.1 200 OK\r\n{NUMBER}: {body}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            writer.write_all(answer.as_bytes()).await?;
        }
        Ok(())
    }
}

/// Sends back what comes in short frames, without their mask.
async fn say_again(
    reader: &mut BufReader<tokio::net::tcp::OwnedReadHalf>,
    writer: &mut tokio::net::tcp::OwnedWriteHalf,
) -> io::Result<()> {
    loop {
        let mut head = [0; 6];
        reader.read_exact(&mut head).await?;
        let [first, length, mask @ ..] = head;
        let mut payload = vec![0; usize::from(length & 0x7f)];
        reader.read_exact(&mut payload).await?;
        let plain = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let frame: Vec<u8> = [first, length & 0x7f].into_iter().chain(plain).collect();
        writer.write_all(&frame).await?;
    }
}

/// Reads a request with its body; `None` at the end of the connection.
async fn read(reader: &mut BufReader<tokio::net::tcp::OwnedReadHalf>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut request, mut length, mut chunked) = (Request { path, number: 0, upgrade: false }, 0, false);
    loop {
        line.clear();
        reader.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            NUMBER => request.number = value.parse().unwrap_or(0),
            "content-length" => length = value.parse().unwrap_or(0),
            "transfer-encoding" => chunked = true,
            "upgrade" => request.upgrade = true,
            _ => {}
        }
    }
    if !chunked {
        skip(reader, length).await?;
        return Ok(Some(request));
    }
    loop {
        line.clear();
        reader.read_line(&mut line).await?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        // The line end behind a chunk belongs to it.
        skip(reader, size + 2).await?;
        if size == 0 {
            return Ok(Some(request));
        }
    }
}

async fn skip(reader: &mut BufReader<tokio::net::tcp::OwnedReadHalf>, length: u64) -> io::Result<()> {
    let skipped = tokio::io::copy(&mut reader.take(length), &mut tokio::io::sink()).await?;
    if skipped == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
