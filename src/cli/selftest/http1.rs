//! Clients of HTTP/1.1.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    tally::{Failure, Load, PATIENCE, Tally},
    upstream::NUMBER,
};

/// What came back.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) number: Option<u64>,
    pub(super) body: Vec<u8>,
    pub(super) closes: bool,
}

/// A connection, with what was read ahead.
pub(super) struct Connection {
    stream: TcpStream,
    ahead: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(load: &Load) -> Result<Self, Failure> {
        let connected = timeout(PATIENCE, TcpStream::connect(load.address)).await;
        let refused = |why: String| Failure::Refused(format!("cannot connect: {why}"));
        let stream =
            connected.map_err(|late| refused(late.to_string()))?.map_err(|error| refused(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| refused(error.to_string()))?;
        Ok(Self { stream, ahead: Vec::new() })
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(bytes).await.map_err(|error| Failure::Lost(format!("it could not be sent: {error}")))
    }

    /// The next answer.
    pub(super) async fn answer(&mut self) -> Result<Answer, Failure> {
        match timeout(PATIENCE, self.read()).await {
            Ok(answer) => answer,
            Err(_late) => Err(Failure::Lost(format!("no answer within {PATIENCE:?}"))),
        }
    }

    async fn read(&mut self) -> Result<Answer, Failure> {
        let (mut answer, head, length) = loop {
            if let Some(parsed) = parse(&self.ahead)? {
                break parsed;
            }
            self.more().await?;
        };
        while self.ahead.len() < head + length {
            self.more().await?;
        }
        answer.body = self.ahead.drain(..head + length).skip(head).collect();
        Ok(answer)
    }

    async fn more(&mut self) -> Result<(), Failure> {
        match self.stream.read_buf(&mut self.ahead).await {
            Ok(1..) => Ok(()),
            Ok(0) => Err(Failure::Lost(format!("the connection ended after {} bytes of an answer", self.ahead.len()))),
            Err(error) => Err(Failure::Lost(error.to_string())),
        }
    }

    /// Reads exactly so many bytes.
    pub(super) async fn exactly(&mut self, count: usize) -> Result<Vec<u8>, Failure> {
        let read = async {
            while self.ahead.len() < count {
                self.more().await?;
            }
            Ok(self.ahead.drain(..count).collect())
        };
        timeout(PATIENCE, read)
            .await
            .unwrap_or_else(|_late| Err(Failure::Lost(format!("no message within {PATIENCE:?}"))))
    }
}

/// Status and headers, where they end, and how long the body is; `None` if there is not enough yet.
fn parse(bytes: &[u8]) -> Result<Option<(Answer, usize, usize)>, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|error| Failure::Wrong(format!("this is no answer: {error}")))?;
    let httparse::Status::Complete(head) = parsed else {
        return Ok(None);
    };
    let text = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let answer = Answer {
        status: response.code.unwrap_or(0),
        number: text(NUMBER).and_then(|number| number.parse().ok()),
        body: Vec::new(),
        closes: text("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
    };
    let length = text("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    Ok(Some((answer, head, length)))
}

/// Whether it is the answer to this request.
pub(super) fn check(answer: &Answer, number: u64) -> Result<(), Failure> {
    if answer.status != 200 {
        let body = String::from_utf8_lossy(&answer.body);
        return Err(Failure::Refused(format!("status {}: {body}", answer.status)));
    }
    if answer.number == Some(number) {
        return Ok(());
    }
    Err(Failure::Wrong(format!("the answer to request {number} is that of {:?}", answer.number)))
}

pub(super) fn get(number: u64, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: selftest\r\n{NUMBER}: {number}\r\n\r\n")
}

/// Ticks in this rhythm; what is missed is not made up for.
pub(super) fn rhythm(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// One to three requests in one piece on a connection that is kept until the gateway says that it closes it.
pub(super) async fn keep_alive(load: Arc<Load>, every: Duration) {
    let mut ticks = rhythm(every);
    let (mut kept, mut round) = (None, 0_u64);
    while !load.is_over() {
        ticks.tick().await;
        round += 1;
        kept = batch(&load, &load.keep_alive, kept.take(), 1 + round % 3).await;
    }
}

/// Sends so many requests at once; returns the connection if it can be used again.
async fn batch(load: &Load, tally: &Tally, kept: Option<Connection>, count: u64) -> Option<Connection> {
    let sent = Instant::now();
    let numbers: Vec<u64> = (0..count).map(|_| load.number()).collect();
    let requests: String = numbers.iter().map(|number| get(*number, "/")).collect();
    let connection = async {
        let mut connection = match kept {
            Some(kept) => kept,
            None => Connection::open(load).await?,
        };
        connection.send(requests.as_bytes()).await?;
        Ok(connection)
    };
    let mut connection = match connection.await {
        Ok(connection) => connection,
        Err(failure) => {
            tally.note(sent, Err(failure));
            return None;
        }
    };
    let mut closes = false;
    for number in numbers {
        let answer = match connection.answer().await {
            _ if closes => Err(Failure::Lost("an answer before it said that it closes".into())),
            Ok(answer) => {
                closes = answer.closes;
                check(&answer, number)
            }
            Err(failure) => Err(failure),
        };
        let failed = answer.is_err();
        tally.note(sent, answer);
        if failed {
            return None;
        }
    }
    (!closes).then_some(connection)
}

/// A connection for each request.
pub(super) async fn new_connections(load: Arc<Load>, every: Duration) {
    let mut ticks = rhythm(every);
    while !load.is_over() {
        ticks.tick().await;
        drop(batch(&load, &load.new_connections, None, 1).await);
    }
}
