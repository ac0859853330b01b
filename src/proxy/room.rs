//! Whether there is room for more: connections, open files, buffers.
//!
//! - A connection beyond `limits.connections`, or beyond `limits.connections_per_address`, is answered with 503 and closed.
//! - So are new connections and new requests when few files are left to open, or when what is on its way takes up
//!   `limits.buffers`. What runs goes on, and may exceed that limit by what it still reads.
//! - When hardly any file is left, new connections are closed at once, before TLS.
//! - A response that waits for its client while twice `limits.buffers` is taken up is broken off (module `backlog`).
//! - What is on its way is: 16 KiB for each connection and as much for each request, headers that are not whole yet, up to
//!   128 KiB of the body of a request, what came of a response and is not sent on, and what is read ahead of a response
//!   whose client does not take it.

use std::{
    collections::HashMap,
    hash::BuildHasher as _,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use parking_lot::MutexGuard;
use pingora::listeners::ConnectionFilter;

use super::{
    context::LimitStates,
    in_flight::{Flights, InFlight, Kind},
    penalty::{Boxed, PenaltyBox},
};
use crate::{
    clock::Clock,
    config::types::Rate,
    policy::{
        limit_key::{KeyHasher, add_address},
        rate_limit::Estimate,
    },
    reject::Reject,
    runtime::{Capacity, Seeds},
    shards::Shards,
    telemetry::cells::Cells,
};

/// What a connection or a request takes, whatever it sends.
const EACH: u64 = 16 << 10;

/// A thread takes on at most so many without a look.
const CREDIT: u64 = 64;

/// Bodies below this size are covered by [`EACH`]: to count each of them would cost more than it tells.
const SMALL: u64 = 8 << 10;

/// What is kept of the body of a request: what is on its way, and what is needed to send it again.
const UPLOAD: u64 = 128 << 10;

/// Of so many connections that are turned away the answer is waited for; others are closed at once.
const MAX_TURNED_AWAY: usize = 1024;

/// What is held in this process.
#[derive(Clone, Debug)]
pub struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    flights: Flights,
    /// Bytes that are on their way.
    held: AtomicU64,
    /// How many each thread may take on without a look at what all of them have, which would bring it memory of every CPU;
    /// and until how many bytes are held.
    credits: Cells<2>,
    /// Half of something is used up: everyone looks.
    is_tight: AtomicBool,
    /// How many files may be open.
    max_files: AtomicU64,
    /// How many were open when they were counted last, without clients' connections.
    other_files: AtomicU64,
    addresses: Shards<HashMap<IpAddr, u32>>,
    hasher: std::hash::RandomState,
    penalties: PenaltyBox,
    /// How many connections came from each address lately, and in which period that is counted.
    arrivals: ArcSwapOption<(Duration, Estimate)>,
    seeds: Seeds,
    clock: Clock,
}

/// A connection that was let in, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    _counted: InFlight,
    address: Option<(Arc<Inner>, IpAddr)>,
}

impl Room {
    /// Counts what `flights` does not.
    pub fn new(flights: Flights, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            flights,
            held: AtomicU64::new(0),
            credits: Cells::default(),
            is_tight: AtomicBool::new(false),
            max_files: AtomicU64::new(u64::MAX),
            other_files: AtomicU64::new(0),
            addresses: Shards::default(),
            hasher: std::hash::RandomState::new(),
            penalties: PenaltyBox::default(),
            arrivals: ArcSwapOption::empty(),
            seeds: Seeds::random(),
            clock,
        }))
    }

    /// Lets a connection in, or says why not.
    pub(super) fn enter(&self, client: Option<IpAddr>, capacity: &Capacity) -> Result<Seat, Reject> {
        let counted = self.0.flights.begin(Kind::Connection);
        if self.0.flights.count(Kind::Connection) > capacity.connections {
            return Err(Reject::Overloaded("connections"));
        }
        self.take_on(capacity)?;
        let mut seat = Seat { _counted: counted, address: None };
        self.count(&mut seat, client, capacity)?;
        Ok(seat)
    }

    /// Counts a connection that was let in by its address, or says why it cannot stay.
    pub(super) fn count(&self, seat: &mut Seat, client: Option<IpAddr>, capacity: &Capacity) -> Result<(), Reject> {
        if let Some(client) = client {
            self.is_welcome(client, capacity)?;
            if let Some(rate) = capacity.connection_rate {
                self.0.comes(client, rate)?;
            }
        }
        if let (Some(client), Some(max)) = (client, capacity.connections_per_address) {
            let client = neighbourhood(client);
            self.0.count(client, max).ok_or(Reject::TooManyConnections)?;
            seat.address = Some((Arc::clone(&self.0), client));
        }
        Ok(())
    }

    /// Whether this address is not in the penalty box.
    pub(super) fn is_welcome(&self, client: IpAddr, capacity: &Capacity) -> Result<(), Reject> {
        if capacity.penalty.is_none() {
            return Ok(());
        }
        match self.0.penalties.left(neighbourhood(client), self.0.clock.monotonic()) {
            Some(retry_after) => Err(Reject::PenaltyBox { retry_after }),
            None => Ok(()),
        }
    }

    /// Counts what became of a request of this address; true if it is in the penalty box from now on.
    pub(super) fn note(&self, client: IpAddr, status: u16, now: u64, capacity: &Capacity) -> bool {
        let Some(rules) = &capacity.penalty else { return false };
        // Whoever comes on a Unix socket has no address.
        if client.is_unspecified() {
            return false;
        }
        let boxed = self.0.penalties.note(rules, neighbourhood(client), status, now);
        if boxed {
            log::warn!("{client} keeps being refused, and is turned away for a while");
        }
        boxed
    }

    /// Who is in the penalty box.
    pub fn penalties(&self) -> Vec<Boxed> {
        self.0.penalties.list(self.0.clock.monotonic())
    }

    /// Lets an address out of the penalty box; false if it was not in it.
    pub fn release(&self, client: IpAddr) -> bool {
        self.0.penalties.release(neighbourhood(client))
    }

    /// Whether a connection that is turned away is told so.
    pub(super) fn turn_away(&self) -> Option<InFlight> {
        let counted = self.0.flights.begin(Kind::TurnedAway);
        Some(counted).filter(|_| self.0.flights.count(Kind::TurnedAway) <= MAX_TURNED_AWAY)
    }

    /// Whether something new can be begun. While there is much room, not every one looks.
    pub(super) fn take_on(&self, capacity: &Capacity) -> Result<(), Reject> {
        let held = self.0.held.load(Ordering::Relaxed);
        let credit = self.0.credits.mine();
        if let Some([left, until]) = credit {
            let some = left.load(Ordering::Relaxed);
            if some > 0 && held <= until.load(Ordering::Relaxed) && !self.0.is_tight.load(Ordering::Relaxed) {
                left.store(some - 1, Ordering::Relaxed);
                return Ok(());
            }
        }
        let buffers = capacity.buffers.saturating_sub(self.buffers());
        if buffers == 0 {
            return Err(Reject::Overloaded("buffers"));
        }
        let files = self.files_left(10).ok_or(Reject::Overloaded("open files"))?;
        let is_tight = buffers < capacity.buffers / 2 || files < self.0.max_files.load(Ordering::Relaxed) / 2;
        if self.0.is_tight.load(Ordering::Relaxed) != is_tight {
            self.0.is_tight.store(is_tight, Ordering::Relaxed);
        }
        if let Some([left, until]) = credit {
            // Half of what is left, if all threads take as much, and a quarter by what those hold that are there.
            let threads = u64::try_from(self.0.credits.lines()).unwrap_or(u64::MAX);
            left.store((files.min(buffers / EACH) / 2 / threads).min(CREDIT), Ordering::Relaxed);
            until.store(held.saturating_add(buffers / 4), Ordering::Relaxed);
        }
        Ok(())
    }

    /// So many bytes, counted until this is dropped.
    pub(super) fn hold(&self, bytes: u64) -> Held {
        self.0.held.fetch_add(bytes, Ordering::Relaxed);
        Held(Arc::clone(&self.0), bytes)
    }

    /// What goes on in this process.
    pub fn flights(&self) -> &Flights {
        &self.0.flights
    }

    /// Bytes that are on their way.
    pub fn buffers(&self) -> u64 {
        let [connections, requests] =
            [Kind::Connection, Kind::Request].map(|kind| u64::try_from(self.0.flights.count(kind)).unwrap_or(u64::MAX));
        self.0.held.load(Ordering::Relaxed).saturating_add(connections.saturating_add(requests).saturating_mul(EACH))
    }

    /// Notes how many files are open, and may be.
    pub fn files_are_open(&self, open: u64, max: u64) {
        self.0.max_files.store(max, Ordering::Relaxed);
        self.0.other_files.store(open.saturating_sub(self.clients()), Ordering::Relaxed);
    }

    fn clients(&self) -> u64 {
        let connections = self.0.flights.count(Kind::Connection) + self.0.flights.count(Kind::TurnedAway);
        u64::try_from(connections).unwrap_or(u64::MAX)
    }

    /// How many files can be opened until only this part of all is left; `None` if there are no more.
    fn files_left(&self, part: u64) -> Option<u64> {
        let max = self.0.max_files.load(Ordering::Relaxed);
        let open = self.0.other_files.load(Ordering::Relaxed).saturating_add(self.clients());
        max.saturating_sub(open).checked_sub(max / part)
    }
}

/// Before TLS: whoever cannot be served is not to cost a handshake.
#[async_trait]
impl ConnectionFilter for Room {
    async fn should_accept(&self, _: Option<&std::net::SocketAddr>) -> bool {
        self.files_left(20).is_some()
    }
}

impl Inner {
    /// A connection comes; too many in a period are turned away.
    fn comes(&self, client: IpAddr, rate: Rate) -> Result<(), Reject> {
        let mut arrivals = self.arrivals.load_full();
        if arrivals.as_ref().is_none_or(|known| known.0 != rate.period) {
            arrivals = Some(Arc::new((rate.period, Estimate::new(rate.period))));
            self.arrivals.store(arrivals.clone());
        }
        let Some(arrivals) = arrivals else { return Ok(()) };
        let mut key = KeyHasher::new(self.seeds);
        add_address(&mut key, client);
        let taken = arrivals.1.take(key.finish(), rate, &mut LimitStates::new());
        taken.map_err(|retry_after| Reject::ConnectionRateLimited { retry_after })
    }

    fn shard(&self, client: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.addresses.lock(self.hasher.hash_one(client))
    }

    /// One more of this address; `None` if it has `max`.
    fn count(&self, client: IpAddr, max: u32) -> Option<()> {
        let mut shard = self.shard(client);
        let count = shard.entry(client).or_default();
        *count = count.checked_add(1).filter(|count| *count <= max)?;
        Some(())
    }

    fn uncount(&self, client: IpAddr) {
        let mut shard = self.shard(client);
        let Some(count) = shard.get_mut(&client) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            shard.remove(&client);
        }
    }
}

/// Whoever has one address of a /64 has all of them.
fn neighbourhood(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some((inner, client)) = self.address.take() {
            inner.uncount(client);
        }
    }
}

/// Bytes that are counted until this is dropped.
#[derive(Debug)]
pub(super) struct Held(Arc<Inner>, u64);

impl Held {
    /// There are so many of them now.
    pub(super) fn set(&mut self, bytes: u64) {
        if bytes > self.1 {
            self.0.held.fetch_add(bytes - self.1, Ordering::Relaxed);
        } else {
            self.0.held.fetch_sub(self.1 - bytes, Ordering::Relaxed);
        }
        self.1 = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// What a request has under way of its bodies.
#[derive(Debug, Default)]
pub struct Bodies {
    /// How much of the response came from the upstream.
    received: u64,
    held: Option<Held>,
}

impl Bodies {
    /// So much of the body of the request has been read.
    pub(super) fn request(&mut self, room: &Room, read: u64) {
        self.hold(room, read.min(UPLOAD));
    }

    /// A piece of the body of the response came, and so much of it all has been sent on.
    pub(super) fn response(&mut self, room: &Room, piece: usize, sent: u64) {
        self.received = self.received.saturating_add(u64::try_from(piece).unwrap_or(u64::MAX));
        self.hold(room, self.received.saturating_sub(sent));
    }

    fn hold(&mut self, room: &Room, bytes: u64) {
        if let Some(held) = &mut self.held {
            held.set(bytes);
        } else if bytes >= SMALL {
            self.held = Some(room.hold(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> Room {
        Room::new(Flights::default(), Clock::default())
    }

    const WIDE: Capacity = Capacity {
        connections: 1000,
        connections_per_address: None,
        connection_rate: None,
        penalty: None,
        buffers: 1 << 20,
    };

    fn refusal<T>(outcome: Result<T, Reject>) -> Option<String> {
        Some(outcome.err()?.reason()?.into_owned())
    }

    #[test]
    fn a_connection_more_than_allowed_is_refused_until_one_ends() {
        let (room, two) = (room(), Capacity { connections: 2, ..WIDE });
        let first = room.enter(None, &two).unwrap();
        let _second = room.enter(None, &two).unwrap();
        assert_eq!(refusal(room.enter(None, &two)).as_deref(), Some("connections"));
        drop(first);
        assert!(room.enter(None, &two).is_ok());
    }

    #[test]
    fn the_addresses_of_one_64_count_as_one_and_those_of_ipv4_each() {
        let (room, one) = (room(), Capacity { connections_per_address: Some(1), ..WIDE });
        let enter = |ip: &str| room.enter(ip.parse().ok(), &one);
        let seat = enter("2001:db8::1").unwrap();
        assert_eq!(refusal(enter("2001:db8::ffff:2")).as_deref(), Some("`limits.connections_per_address`"));
        let _other = enter("2001:db8:0:1::1").unwrap();
        let _v4 = enter("192.0.2.1").unwrap();
        assert!(enter("::ffff:192.0.2.1").is_err());
        assert!(enter("192.0.2.2").is_ok());
        drop(seat);
        assert!(enter("2001:db8::3").is_ok());
        assert!(room.0.addresses.each().map(|shard| shard.len()).sum::<usize>() <= 2);
    }

    #[test]
    fn what_is_received_and_not_sent_is_counted_until_the_request_ends() {
        let room = room();
        let mut bodies = Bodies::default();
        bodies.response(&room, 100, 0);
        assert_eq!(room.buffers(), 0, "too little to count");
        bodies.response(&room, 1 << 20, 100);
        assert_eq!(room.buffers(), 1 << 20);
        assert_eq!(refusal(room.take_on(&WIDE)).as_deref(), Some("buffers"));
        bodies.response(&room, 100, 1 << 20);
        assert_eq!(room.buffers(), 200);
        assert!(room.take_on(&WIDE).is_ok());
        bodies.request(&room, 1 << 30);
        assert_eq!(room.buffers(), UPLOAD);
        drop(bodies);
        assert_eq!(room.buffers(), 0);
    }

    #[test]
    fn who_does_not_look_takes_on_no_more_than_there_is_room_for() {
        let room = room();
        let capacity = Capacity { buffers: 1000 * EACH, ..WIDE };
        let mut taken = Vec::new();
        while room.take_on(&capacity).is_ok() {
            taken.push(room.0.flights.begin(Kind::Request));
        }
        assert_eq!(taken.len(), 1000);
        taken.truncate(100);
        assert!(room.take_on(&capacity).is_ok());
        // What is held grows at once, and who has not looked since then has to.
        let held = room.hold(900 * EACH);
        assert_eq!(refusal(room.take_on(&capacity)).as_deref(), Some("buffers"));
        drop(held);
        assert!(room.take_on(&capacity).is_ok());
    }

    #[test]
    fn a_thread_that_has_not_looked_for_long_takes_on_nothing_that_another_one_has_filled() {
        let room = room();
        let capacity = Capacity { buffers: 4000 * EACH, ..WIDE };
        let mut taken = Vec::new();
        std::thread::scope(|scope| {
            let ours = scope.spawn(|| (0..4).map(|_| room.take_on(&capacity)).collect::<Vec<_>>());
            assert!(ours.join().unwrap().iter().all(Result::is_ok));
        });
        while room.take_on(&capacity).is_ok() {
            taken.push(room.0.flights.begin(Kind::Request));
        }
        assert_eq!(taken.len(), 4000);
        for _ in 0..20 {
            // Each of them may have the line of the first one.
            std::thread::scope(|scope| {
                let late = scope.spawn(|| room.take_on(&capacity));
                assert_eq!(refusal(late.join().unwrap()).as_deref(), Some("buffers"));
            });
        }
    }

    #[test]
    fn few_files_refuse_what_is_new_and_connections_count_at_once() {
        let room = room();
        room.files_are_open(899, 1000);
        assert!(room.take_on(&WIDE).is_ok());
        let seats: Vec<_> = (0..2).map(|_| room.0.flights.begin(Kind::Connection)).collect();
        assert_eq!(refusal(room.take_on(&WIDE)).as_deref(), Some("open files"));
        drop(seats);
        assert!(room.take_on(&WIDE).is_ok());
        room.files_are_open(949, 1000);
        assert!(room.files_left(20).is_some() && room.files_left(10).is_none());
        room.files_are_open(951, 1000);
        assert!(room.files_left(20).is_none());
    }
}
