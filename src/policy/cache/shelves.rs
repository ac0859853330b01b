//! All that is kept in this process, within a bound of memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use pingora::cache::{
    CacheKey, CacheMeta, CacheOptionOverrides, HttpCache, NoCacheReason,
    key::{CacheHashKey as _, HashBinary},
    lock::CacheLock,
    predictor::{CacheablePredictor, Predictor},
};
use prometheus::IntCounter;

use super::{
    key,
    rules::why,
    shelf::{Address, Entry, Freed, Shelf, Stamp, Ticket},
};
use crate::{
    clock::Clock,
    policy::limit_key::Key,
    route::{normalise_host, path},
    runtime::Seeds,
    shards::{SHARDS, Shards},
};

/// How long a request waits for another one's answer before it asks the upstream itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many URLs, in each of 16 parts, are remembered whose answers are not kept: their requests do not wait for each other.
const REMEMBERED: usize = 1024;

/// All that is kept. Lives as long as the process: Pingora's sessions hold on to it.
pub struct Shelves {
    clock: Clock,
    parts: Shards<Shelf>,
    budget: AtomicUsize,
    used: AtomicUsize,
    entries: AtomicUsize,
    /// Which part gives room next.
    hand: AtomicUsize,
    /// Requests that ask the upstream for what may be kept.
    watching: AtomicUsize,
    evicted: IntCounter,
    lock: CacheLock,
    /// Bytes of answers that come in.
    filling: AtomicUsize,
    /// Keys whose answers were not kept.
    unkept: Predictor<16>,
}

impl std::fmt::Debug for Shelves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelves").field("entries", &self.entries).field("used", &self.used).finish_non_exhaustive()
    }
}

/// A request that asks the upstream for something that may be kept.
#[derive(Debug)]
pub struct Watch {
    shelves: &'static Shelves,
    place: HashBinary,
    ticket: Ticket,
}

impl Watch {
    /// Takes away what is kept here: the upstream says that it is not to be given any more.
    pub(crate) fn outdate(&self) {
        let freed = self.shelves.part(&self.place).clear(self.place);
        self.shelves.freed(freed);
    }

    /// Has an answer that is to be kept know what it has to be newer than.
    pub(crate) fn mark(&self, meta: &mut CacheMeta) {
        meta.extensions_mut().insert(self.ticket);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shelves.part(&self.place).end(self.place);
        self.shelves.watching.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is to be taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// Everything.
    All,
    /// What is kept for a route.
    Route(String),
    /// What is kept of a URL.
    Url(String),
}

impl Shelves {
    /// Makes them, for ever; `evicted` counts what has to make room.
    pub fn new(clock: Clock, evicted: IntCounter) -> &'static Self {
        Box::leak(Box::new(Self {
            clock,
            parts: Shards::default(),
            budget: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
            entries: AtomicUsize::new(0),
            hand: AtomicUsize::new(0),
            watching: AtomicUsize::new(0),
            evicted,
            lock: CacheLock::new(PATIENCE),
            filling: AtomicUsize::new(0),
            unkept: Predictor::new(REMEMBERED, Some(why::is_of_request)),
        }))
    }

    /// How many bytes may be kept. What is too much is thrown away at once.
    pub fn allow(&self, bytes: u64) {
        self.budget.store(usize::try_from(bytes).unwrap_or(usize::MAX), Ordering::Relaxed);
        self.make_room();
    }

    /// How many answers there are, and how many bytes they take.
    pub fn holds(&self) -> (usize, usize) {
        (self.entries.load(Ordering::Relaxed), self.used.load(Ordering::Relaxed))
    }

    /// Has a request answered from here, and its answer kept. It has so much time left, of which it waits for others for half at most.
    pub(crate) fn serve(&'static self, cache: &mut HttpCache, left: Option<Duration>) {
        let mut waits = CacheOptionOverrides::default();
        waits.wait_timeout = Some(left.map_or(PATIENCE, |left| PATIENCE.min(left / 2)));
        cache.enable(self, None, Some(self), Some(&self.lock), Some(waits));
    }

    /// Whether nothing is kept, and nothing is on its way that may be.
    pub(crate) fn are_idle(&self) -> bool {
        self.entries.load(Ordering::Relaxed) == 0 && self.watching.load(Ordering::Relaxed) == 0
    }

    /// Takes away what is kept of a URL, whoever it is for.
    pub(crate) fn outdate(&self, place: Key) {
        let place = key::bytes(place);
        let freed = self.part(&place).clear(place);
        self.freed(freed);
    }

    /// Takes answers away; how many there were, or why it cannot be done.
    pub fn take_away(&self, what: &Purge, seeds: Seeds) -> Result<usize, String> {
        let before = self.holds().0;
        match what {
            Purge::All => self.clear_if(|_| true),
            Purge::Route(route) => self.clear_if(|entry| *entry.route == **route),
            Purge::Url(url) => self.outdate(place_of(url, seeds)?),
        }
        Ok(before.saturating_sub(self.holds().0))
    }

    fn clear_if(&self, is_meant: impl Fn(&Entry) -> bool) {
        for mut part in self.parts.each() {
            let freed = part.clear_if(&is_meant);
            self.freed(freed);
        }
    }

    pub(super) fn find(&self, at: &Address) -> Option<Arc<Entry>> {
        self.parts.lock(shard(&at.place)).find(at)
    }

    /// Has a request watch whether what it asks the upstream for is taken away meanwhile.
    pub(crate) fn watch(&'static self, key: &CacheKey) -> Option<Box<Watch>> {
        let (place, _) = key::of(key)?;
        self.watching.fetch_add(1, Ordering::Relaxed);
        let ticket = self.part(&place).begin(place);
        Some(Box::new(Watch { shelves: self, place, ticket }))
    }

    fn part(&self, place: &HashBinary) -> parking_lot::MutexGuard<'_, Shelf> {
        self.parts.lock(shard(place))
    }

    /// Takes room; false if there is none.
    pub(super) fn take(&self, bytes: usize) -> bool {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        if self.make_room() {
            return true;
        }
        self.give_back(bytes);
        false
    }

    /// Takes room for bytes that come in. Never more than half of what there is: answers that may never come to an end are not to take the place
    /// of all others.
    pub(super) fn take_in(&self, bytes: usize) -> bool {
        let filling = self.filling.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let is_room = filling <= self.budget.load(Ordering::Relaxed) / 2 && self.take(bytes);
        if !is_room {
            self.filling.fetch_sub(bytes, Ordering::Relaxed);
        }
        is_room
    }

    /// They have come in, or will not.
    pub(super) fn filled(&self, bytes: usize) {
        self.filling.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Puts an answer in for which room was taken, unless what is there was taken away or replaced meanwhile.
    pub(super) fn put_if_current(&self, at: Address, entry: Entry, ticket: Ticket) -> bool {
        let mut part = self.part(&at.place);
        if !part.is_current(&at, ticket) {
            return false;
        }
        self.count(&mut part, at, entry);
        true
    }

    /// Puts an answer in, for which room was taken, in place of the one that it renews.
    pub(super) fn renew(&self, at: Address, entry: Entry, (stamp, ticket): (Stamp, Ticket)) -> bool {
        let mut part = self.part(&at.place);
        if !part.is_current(&at, ticket) || !part.has(&at, stamp) {
            return false;
        }
        self.count(&mut part, at, entry);
        true
    }

    /// Under the lock: nobody throws away what is not counted yet.
    fn count(&self, part: &mut Shelf, at: Address, entry: Entry) {
        self.entries.fetch_add(1, Ordering::Relaxed);
        let freed = part.put(at, entry);
        self.freed(freed);
    }

    /// This URL's answers turn out to be too large.
    pub(super) fn is_too_large(&self, key: &CacheKey) {
        self.unkept.mark_uncacheable(key, NoCacheReason::ResponseTooLarge);
    }

    fn freed(&self, freed: Freed) {
        self.entries.fetch_sub(freed.entries, Ordering::Relaxed);
        self.give_back(freed.bytes);
    }

    /// Throws away until what is there is allowed; false if nothing is left to throw away. One part after the other gives one: whoever
    /// was asked for is spared for a round.
    fn make_room(&self) -> bool {
        let is_too_much = || self.used.load(Ordering::Relaxed) > self.budget.load(Ordering::Relaxed);
        let mut steps = 2 * (self.holds().0 + 1) * SHARDS;
        while is_too_much() && steps > 0 && self.holds().0 > 0 {
            steps -= 1;
            let hand = u64::try_from(self.hand.fetch_add(1, Ordering::Relaxed)).unwrap_or_default();
            let freed = self.parts.lock(hand).evict();
            if let Some(freed) = freed {
                self.freed(freed);
                self.evicted.inc();
            }
        }
        !is_too_much()
    }
}

/// What was not kept before is not waited for, unless something is kept after all: who is refused what others get is not to spoil it for them.
impl CacheablePredictor for Shelves {
    fn cacheable_prediction(&self, key: &CacheKey) -> bool {
        self.unkept.cacheable_prediction(key)
            || address(key)
                .is_some_and(|(at, _)| self.part(&at.place).has_usable(&at, SystemTime::UNIX_EPOCH + self.clock.unix()))
    }

    fn mark_cacheable(&self, key: &CacheKey) -> bool {
        self.unkept.mark_cacheable(key)
    }

    fn mark_uncacheable(&self, key: &CacheKey, reason: NoCacheReason) -> Option<bool> {
        self.unkept.mark_uncacheable(key, reason)
    }
}

/// In which part a place is.
fn shard(place: &HashBinary) -> u64 {
    let [.., a, b] = *place;
    u64::from(u16::from_be_bytes([a, b]))
}

/// Where a slot is.
pub(super) fn address(key: &CacheKey) -> Option<(Address, &str)> {
    let (place, route) = key::of(key)?;
    Some((Address { place, slot: (key.primary_bin(), key.variance_bin()) }, route))
}

/// The place of `https://api.example.com/x?y`.
fn place_of(url: &str, seeds: Seeds) -> Result<Key, String> {
    let wrong = || format!("{url} is not the URL of a request: `https://api.example.com/orders?page=2`");
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    let secure = match scheme {
        "http" => false,
        "https" => true,
        _ => return Err(wrong()),
    };
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, target) = rest.split_at_checked(at).ok_or_else(wrong)?;
    let host = normalise_host(host).ok_or_else(wrong)?;
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, format!("?{query}")),
        None => (target, String::new()),
    };
    let path = path::normalise(if path.is_empty() { "/" } else { path }).map_err(|_error| wrong())?;
    Ok(key::place(seeds, secure, &host, format!("{}{query}", path.path).as_bytes()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pingora::{cache::CacheMeta, http::ResponseHeader};

    use super::*;

    fn shelves() -> &'static Shelves {
        let shelves = Shelves::new(Clock::default(), IntCounter::new("evicted", "x").unwrap());
        shelves.allow(1 << 20);
        shelves
    }

    fn put(shelves: &Shelves, number: u16, bytes: usize) -> bool {
        let [high, low] = number.to_be_bytes();
        let mut place = [high; 16];
        place[15] = low;
        let now = SystemTime::UNIX_EPOCH;
        let meta = CacheMeta::new(now, now, 0, 0, ResponseHeader::build(200, None).unwrap());
        let entry = Entry::new(&meta, Bytes::from(vec![0; bytes]), "r");
        let is_room = shelves.take(entry.weight());
        if is_room {
            let at = Address { place, slot: (place, None) };
            shelves.count(&mut shelves.part(&place), at, entry);
        }
        is_room
    }

    #[test]
    fn no_more_is_kept_than_is_allowed() {
        let shelves = shelves();
        for number in 0..1000 {
            assert!(put(shelves, number, 10_000));
            assert!(shelves.holds().1 <= 1 << 20);
        }
        let (entries, bytes) = shelves.holds();
        assert!(entries > 80 && bytes > 1_000_000, "{entries} {bytes}");
        assert_eq!(usize::try_from(shelves.evicted.get()).unwrap(), 1000 - entries);
        assert!(!put(shelves, 2000, 2 << 20), "it would not fit alone");
        shelves.allow(0);
        assert_eq!(shelves.holds(), (0, 0));
    }

    #[test]
    fn answers_that_come_in_take_no_more_than_half() {
        let shelves = shelves();
        assert!(put(shelves, 1, 400_000));
        assert!(shelves.take_in(400_000) && !shelves.take_in(400_000));
        assert_eq!(shelves.holds().0, 1, "what is there stays");
        shelves.filled(400_000);
        assert!(shelves.take_in(100_000));
    }

    #[test]
    fn what_is_taken_away_makes_room() {
        let shelves = shelves();
        for number in 0..10 {
            assert!(put(shelves, number, 100));
        }
        let seeds = Seeds::random();
        assert_eq!(shelves.take_away(&Purge::Route("other".into()), seeds), Ok(0));
        assert_eq!(shelves.take_away(&Purge::Route("r".into()), seeds), Ok(10));
        assert_eq!(shelves.holds(), (0, 0));
    }

    #[test]
    fn a_url_is_where_its_requests_are() {
        let seeds = Seeds::random();
        let place = |url| place_of(url, seeds);
        assert_eq!(place("https://API.example:443/a/../b?c=d"), Ok(key::place(seeds, true, "api.example", b"/b?c=d")));
        assert_eq!(place("http://a"), Ok(key::place(seeds, false, "a", b"/")));
        assert_eq!(place("http://a?x"), Ok(key::place(seeds, false, "a", b"/?x")));
        for wrong in ["/x", "ftp://a/", "https:///x", "https://a/%2e%2e/%00", "a"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
