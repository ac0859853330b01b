//! An endpoint for load tests whose behaviour can be changed while it runs: `endpoint 127.0.0.1:9000`.
//!
//! Every request is answered with 200 and `ok`, or as the last request for `/_be?delay=MILLIS&fail=PERCENT` says. `/healthz` is answered
//! with 200 at once.

use std::{
    error::Error,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

#[derive(Default)]
struct Behaviour {
    delay: AtomicU64,
    fail: AtomicU64,
    turn: AtomicU64,
}

impl Behaviour {
    fn change(&self, query: &str) {
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "delay" => self.delay.store(value, Ordering::Relaxed),
                "fail" => self.fail.store(value, Ordering::Relaxed),
                _ => {}
            }
        }
    }

    /// The status of the next answer.
    fn next(&self) -> &'static str {
        // Spread: with 20 % every fifth fails.
        let fail = self.fail.load(Ordering::Relaxed);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        if turn * fail / 100 == (turn + 1) * fail / 100 { "200 OK" } else { "500 Internal Server Error" }
    }
}

fn serve(stream: TcpStream, behaviour: &Behaviour) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
        }
        let mut status = "200 OK";
        if let Some(query) = target.strip_prefix("/_be?") {
            behaviour.change(query);
        } else if target != "/healthz" {
            status = behaviour.next();
            let delay = behaviour.delay.load(Ordering::Relaxed);
            if delay > 0 {
                // Each connection has its thread.
                thread::park_timeout(Duration::from_millis(delay));
            }
        }
        writer.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok").as_bytes())?;
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("usage: endpoint ADDRESS")?;
    let listener = TcpListener::bind(address)?;
    let behaviour = Arc::new(Behaviour::default());
    for stream in listener.incoming() {
        let (stream, behaviour) = (stream?, Arc::clone(&behaviour));
        // A client that goes away ends its thread; nobody else cares.
        thread::spawn(move || drop(serve(stream, &behaviour)));
    }
    Ok(())
}
