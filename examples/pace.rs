//! Requests at a constant rate: `pace 127.0.0.1:8080 RATE SECONDS CONNECTIONS [PATH]`, for `loadtest/compare`.
//!
//! Each connection has a schedule of its own, evenly between those of the others, and keeps to it whatever the answers do: a latency
//! counts from the moment that the schedule has for the request, so an answer that keeps later requests waiting counts for each of
//! them. A thread for each connection and blocking sockets: the kernel wakes it more exactly than a runtime's timer wheel.
//!
//! The line that is printed is JSON with microseconds; `late_p99` is how late requests left although their connection was free: what
//! the generator itself, or the scheduler of the machine, did to them.

use std::{
    env,
    error::Error,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// One GET over and over, on a connection that is made anew when it fails.
struct Client {
    address: SocketAddr,
    request: Vec<u8>,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

/// What one connection measured, in microseconds.
#[derive(Default)]
struct Measured {
    latencies: Vec<u64>,
    lateness: Vec<u64>,
    errors: u64,
    end: Option<Instant>,
}

/// When the requests of one connection are due.
#[derive(Clone, Copy)]
struct Schedule {
    first: Instant,
    step: Duration,
    end: Instant,
}

impl Client {
    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(stream)
    }

    /// One request and its whole answer.
    fn ask(&mut self) -> io::Result<()> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        stream.write_all(&self.request)?;
        self.buffer.clear();
        let (mut piece, mut whole) = ([0; 16384], None);
        while whole.is_none_or(|whole| self.buffer.len() < whole) {
            let count = stream.read(&mut piece)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.buffer.extend_from_slice(piece.get(..count).unwrap_or_default());
            whole = match whole {
                None => length(&self.buffer)?,
                known => known,
            };
        }
        self.stream = Some(stream);
        Ok(())
    }

    /// Keeps to the schedule until its end; what is due then is asked for, at most half as long again.
    fn run(&mut self, schedule: Schedule) -> Measured {
        let mut measured = Measured::default();
        let given_up = schedule.end + (schedule.end - schedule.first) / 2;
        let (mut due, mut free) = (schedule.first, schedule.first);
        while due < schedule.end && free < given_up {
            sleep_until(due);
            let sent = Instant::now();
            if self.ask().is_err() {
                measured.errors += 1;
            }
            let done = Instant::now();
            measured.latencies.push(micros(done - due));
            measured.lateness.push(micros(sent - due.max(free)));
            free = done;
            due += schedule.step;
        }
        measured.end = Some(free);
        measured
    }
}

/// Bytes of the answer, once its header is complete; an error unless it is a 200 with a length.
fn length(buffer: &[u8]) -> io::Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut answer = httparse::Response::new(&mut headers);
    let head = match answer.parse(buffer).map_err(io::Error::other)? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Ok(None),
    };
    let value = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let body = value.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    match (answer.code, body) {
        (Some(200), Some(body)) => Ok(Some(head + body)),
        _ => Err(io::Error::other("a 200 with a length was expected")),
    }
}

#[expect(clippy::disallowed_methods, reason = "the thread has nothing else to do")]
fn sleep_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()));
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The value that so many thousandths are not above.
fn permille(sorted: &[u64], part: usize) -> u64 {
    sorted.get((sorted.len() * part / 1000).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

/// All connections together.
fn measure(client: impl Fn() -> Client, begin: Instant, rate: f64, length: Duration, connections: u32) -> Measured {
    // Threads inherit it: without, the kernel may wake them 50 us late. Where it cannot be set, figures are higher by that.
    drop(std::fs::write("/proc/self/timerslack_ns", "1"));
    let step = Duration::from_secs_f64(f64::from(connections) / rate);
    let threads: Vec<_> = (0..connections)
        .map(|number| {
            let mut client = client();
            let schedule = Schedule { first: begin + step * number / connections, step, end: begin + length };
            thread::spawn(move || {
                client.stream = client.connect().ok();
                client.run(schedule)
            })
        })
        .collect();
    let mut all = Measured::default();
    for one in threads.into_iter().filter_map(|thread| thread.join().ok()) {
        all.latencies.extend(one.latencies);
        all.lateness.extend(one.lateness);
        all.errors += one.errors;
        all.end = all.end.max(one.end);
    }
    all.end = all.end.map(|end| end.max(begin + length));
    all.latencies.sort_unstable();
    all.lateness.sort_unstable();
    all
}

#[expect(clippy::print_stdout, reason = "that is what it is for")]
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, rate, seconds, connections, path @ ..] = arguments.as_slice() else {
        return Err("usage: pace ADDRESS RATE SECONDS CONNECTIONS [PATH]".into());
    };
    let (address, path) = (address.parse()?, path.first().map_or("/", String::as_str));
    let (rate, seconds, connections): (f64, f64, u32) = (rate.parse()?, seconds.parse()?, connections.parse()?);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes();
    let client = || Client { address, request: request.clone(), stream: None, buffer: Vec::new() };
    // Every connection is there by then.
    let began = Instant::now() + Duration::from_millis(200);
    let measured = measure(client, began, rate, Duration::from_secs_f64(seconds), connections);
    let wall = measured.end.map_or(seconds, |end| (end.max(began) - began).as_secs_f64());
    let [p50, p90, p99, p999, max] = [500, 900, 990, 999, 1000].map(|part| permille(&measured.latencies, part));
    let late = permille(&measured.lateness, 990);
    println!(
        "{{\"requests\":{},\"micros\":{:.0},\"errors\":{},\"intended\":{rate},\"p50\":{p50},\"p90\":{p90},\"p99\":{p99},\"p999\":{p999},\
         \"max\":{max},\"late_p99\":{late}}}",
        measured.latencies.len(),
        wall * 1e6,
        measured.errors,
    );
    Ok(())
}
