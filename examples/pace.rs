//! Requests at a constant rate: `pace 127.0.0.1:8080 RATE SECONDS CONNECTIONS [PATH]`, for `loadtest/compare`.
//!
//! Every request has its time, in steps of 100 us, and goes to the connections in turn. A latency counts from that time, whatever the answers before it did: an
//! answer that keeps later requests of its connection waiting counts for each of them. One thread; a timer of the kernel wakes it, since
//! those of the runtime know no less than a millisecond.
//!
//! The line that is printed is JSON with microseconds; `late_p99` is how late requests left although their connection was free: what
//! the generator itself, or the scheduler of the machine, did to them.

use std::{
    env,
    error::Error,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, unix::pipe},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

/// Requests are due in these steps: to set the timer for each of them would cost more than they do.
const TICK: Duration = Duration::from_micros(100);

/// One GET over and over, on a connection that is made anew when it fails.
struct Client {
    address: SocketAddr,
    request: Vec<u8>,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

/// What was measured, in microseconds.
#[derive(Default)]
struct Measured {
    latencies: Vec<u64>,
    lateness: Vec<u64>,
    errors: u64,
    end: Option<Instant>,
}

/// When requests are due.
#[derive(Clone, Copy)]
struct Schedule {
    begin: Instant,
    rate: f64,
    length: Duration,
}

/// Wakes this thread at a moment, to some microseconds.
struct Alarm(pipe::Receiver);

impl Alarm {
    fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // The runtime's safe way to wait for a descriptor; to read from a timer is like reading from a pipe.
        Ok(Self(pipe::Receiver::from_owned_fd_unchecked(timer)?))
    }

    async fn wait_until(&mut self, due: Instant) -> io::Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // Others have their turn all the same.
            tokio::task::yield_now().await;
            return Ok(());
        }
        let spec = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec::try_from(left).map_err(io::Error::other)?,
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &spec)?;
        // How often it went off.
        self.0.read_u64().await?;
        Ok(())
    }
}

impl Client {
    async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// One request and its whole answer.
    async fn ask(&mut self) -> io::Result<()> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        stream.write_all(&self.request).await?;
        self.buffer.clear();
        let mut whole = None;
        while whole.is_none_or(|whole| self.buffer.len() < whole) {
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if whole.is_none() {
                whole = length(&self.buffer)?;
            }
        }
        self.stream = Some(stream);
        Ok(())
    }

    /// Asks for what is due, one after the other, until nothing more will be, or until it is too late.
    async fn run(mut self, mut due: UnboundedReceiver<Instant>, give_up: Instant) -> Measured {
        let (mut measured, mut free) = (Measured::default(), None::<Instant>);
        while let Some(due) = due.recv().await {
            let sent = Instant::now();
            if sent > give_up {
                break;
            }
            if self.ask().await.is_err() {
                measured.errors += 1;
            }
            let done = Instant::now();
            measured.latencies.push(micros(done - due));
            measured.lateness.push(micros(sent - free.map_or(due, |free| free.max(due))));
            free = Some(done);
        }
        measured.end = free;
        measured
    }
}

impl Schedule {
    /// How many ticks after the beginning a request is due.
    fn tick(self, number: u32) -> u32 {
        let ticks = Duration::from_secs_f64(f64::from(number) / self.rate).as_micros() / TICK.as_micros();
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }

    /// Tells the connections what is due, in turn.
    async fn keep(self, connections: &[UnboundedSender<Instant>]) -> io::Result<()> {
        let mut alarm = Alarm::new()?;
        for (number, connection) in (0_u32..).zip(connections.iter().cycle()) {
            let due = self.begin + TICK * self.tick(number);
            if due >= self.begin + self.length {
                break;
            }
            while Instant::now() < due {
                alarm.wait_until(due).await?;
            }
            if connection.send(due).is_err() {
                break;
            }
        }
        Ok(())
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

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The value that so many thousandths are not above.
fn permille(sorted: &[u64], part: usize) -> u64 {
    sorted.get((sorted.len() * part / 1000).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

/// All connections together.
async fn measure(address: SocketAddr, path: &str, schedule: Schedule, connections: usize) -> io::Result<Measured> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes();
    let give_up = schedule.begin + schedule.length + schedule.length / 2;
    let (mut senders, mut tasks) = (Vec::new(), Vec::new());
    for _ in 0..connections {
        let mut client = Client { address, request: request.clone(), stream: None, buffer: Vec::with_capacity(16384) };
        client.stream = Some(client.connect().await?);
        let (sender, receiver) = unbounded_channel();
        senders.push(sender);
        tasks.push(tokio::spawn(client.run(receiver, give_up)));
    }
    schedule.keep(&senders).await?;
    drop(senders);
    let mut all = Measured { end: Some(schedule.begin + schedule.length), ..Measured::default() };
    for task in tasks {
        let one = task.await.map_err(io::Error::other)?;
        all.latencies.extend(one.latencies);
        all.lateness.extend(one.lateness);
        all.errors += one.errors;
        all.end = all.end.max(one.end);
    }
    all.latencies.sort_unstable();
    all.lateness.sort_unstable();
    Ok(all)
}

#[expect(clippy::print_stdout, reason = "that is what it is for")]
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, rate, seconds, connections, path @ ..] = arguments.as_slice() else {
        return Err("usage: pace ADDRESS RATE SECONDS CONNECTIONS [PATH]".into());
    };
    // Without, the kernel may wake it 50 us late. Where it cannot be set, figures are higher by that.
    drop(std::fs::write("/proc/self/timerslack_ns", "1"));
    // Every connection is there by then.
    let begin = Instant::now() + Duration::from_millis(200);
    let schedule = Schedule { begin, rate: rate.parse()?, length: Duration::from_secs_f64(seconds.parse()?) };
    let path = path.first().map_or("/", String::as_str);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let measured = runtime.block_on(measure(address.parse()?, path, schedule, connections.parse()?))?;
    let wall = measured.end.map_or(schedule.length, |end| end - begin);
    let [p50, p90, p99, p999, max] = [500, 900, 990, 999, 1000].map(|part| permille(&measured.latencies, part));
    let (requests, late) = (measured.latencies.len(), permille(&measured.lateness, 990));
    println!(
        "{{\"requests\":{requests},\"micros\":{},\"errors\":{},\"intended\":{rate},\"p50\":{p50},\"p90\":{p90},\"p99\":{p99},\
         \"p999\":{p999},\"max\":{max},\"late_p99\":{late}}}",
        micros(wall),
        measured.errors,
    );
    Ok(())
}
