//! One part of what is kept: found by place and slot, thrown away by the second-chance rule.
//!
//! Answers stand in a queue in the order in which they came. Whoever is at its head when room is needed goes, unless it was asked for
//! meanwhile: then it goes to the end once more. A look-up only sets a mark, and moves nothing.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use hashbrown::HashMap;
use http::HeaderValue;
use pingora::{
    cache::{CacheMeta, key::HashBinary},
    http::ResponseHeader,
};

/// Where an answer is within its place: its key, and what tells it apart from others of that key.
pub(super) type Slot = (HashBinary, Option<HashBinary>);

/// Where an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) place: HashBinary,
    pub(super) slot: Slot,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) head: ResponseHeader,
    pub(super) body: Bytes,
    pub(super) route: Box<str>,
    since: SystemTime,
    until: SystemTime,
    stale: (u32, u32),
    variance: Option<HashBinary>,
    asked_for: AtomicBool,
    /// Its place in the queue.
    number: u64,
    stamp: Stamp,
}

/// Tells an answer from those that were or will be in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(u64);

/// About what an entry costs besides its texts: itself, and its places in two tables and the queue. Measured with answers of two bytes.
const OVERHEAD: usize = 1200;
const HEADER_OVERHEAD: usize = 150;

impl Entry {
    pub(super) fn new(meta: &CacheMeta, body: Bytes, route: &str) -> Self {
        Self {
            head: compact(meta.response_header()),
            body,
            route: route.into(),
            since: meta.updated(),
            until: meta.fresh_until(),
            stale: (meta.stale_while_revalidate_sec(), meta.stale_if_error_sec()),
            variance: meta.variance(),
            asked_for: AtomicBool::new(false),
            number: 0,
            stamp: Stamp(0),
        }
    }

    pub(super) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// What Pingora wants to know of it.
    pub(super) fn meta(&self) -> CacheMeta {
        let mut meta = CacheMeta::new(self.until, self.since, self.stale.0, self.stale.1, self.head.clone());
        if let Some(variance) = self.variance {
            meta.set_variance(variance);
        }
        meta.extensions_mut().insert(self.stamp);
        meta
    }

    /// How many bytes it takes, about.
    pub(super) fn weight(&self) -> usize {
        let headers = self.head.headers.iter();
        let head: usize = headers.map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD).sum();
        OVERHEAD + head + self.body.len()
    }
}

/// The same header in memory of its own: as it came, its values are parts of what was read from the connection, and would keep all of that.
fn compact(head: &ResponseHeader) -> ResponseHeader {
    let Ok(mut own) = ResponseHeader::build_no_case(head.status, Some(head.headers.len())) else { return head.clone() };
    own.set_version(head.version);
    // Trailers are not kept.
    for (name, value) in head.headers.iter().filter(|(name, _)| **name != http::header::TRAILER) {
        let copy = HeaderValue::from_bytes(value.as_bytes()).map(|value| own.append_header(name.clone(), value));
        debug_assert!(copy.is_ok(), "it was valid before");
    }
    own
}

/// A place whose upstream is being asked.
#[derive(Debug, Default)]
struct Asked {
    /// By so many requests.
    count: usize,
    /// How often what is there was taken away meanwhile.
    outdated: u64,
}

/// What was true of a place when its upstream was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    outdated: u64,
    cleared: u64,
    /// The last answer that was put in before.
    last: Stamp,
}

/// One part of what is kept.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    places: HashMap<HashBinary, HashMap<Slot, Arc<Entry>>>,
    queue: VecDeque<(Address, u64)>,
    asked: HashMap<HashBinary, Asked>,
    cleared: u64,
    count: usize,
    next: u64,
}

/// How much less there is than before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Freed {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

impl Shelf {
    pub(super) fn find(&self, at: &Address) -> Option<Arc<Entry>> {
        let entry = self.places.get(&at.place)?.get(&at.slot)?;
        entry.asked_for.store(true, Ordering::Relaxed);
        Some(Arc::clone(entry))
    }

    /// Says that the upstream is asked for something of this place.
    pub(super) fn begin(&mut self, place: HashBinary) -> Ticket {
        let asked = self.asked.entry(place).or_default();
        asked.count += 1;
        Ticket { outdated: asked.outdated, cleared: self.cleared, last: Stamp(self.next) }
    }

    /// Whether nothing was taken away since, and no other answer was put in.
    pub(super) fn is_current(&self, at: &Address, ticket: Ticket) -> bool {
        let there = self.places.get(&at.place).and_then(|slots| slots.get(&at.slot));
        let asked = self.asked.get(&at.place);
        asked.is_some_and(|asked| (ticket.outdated, ticket.cleared) == (asked.outdated, self.cleared))
            && there.is_none_or(|there| there.stamp <= ticket.last)
    }

    /// Whether this answer is there still.
    pub(super) fn has(&self, at: &Address, stamp: Stamp) -> bool {
        let there = self.places.get(&at.place).and_then(|slots| slots.get(&at.slot));
        there.is_some_and(|there| there.stamp == stamp)
    }

    /// Whether there is an answer that may still be given, were it only because the upstream fails.
    pub(super) fn has_usable(&self, at: &Address, now: SystemTime) -> bool {
        let there = self.places.get(&at.place).and_then(|slots| slots.get(&at.slot));
        there.is_some_and(|there| {
            let longest = Duration::from_secs(there.stale.0.max(there.stale.1).into());
            there.until.checked_add(longest).is_none_or(|end| now < end)
        })
    }

    /// Says that its answer has come or will not.
    pub(super) fn end(&mut self, place: HashBinary) {
        let Some(asked) = self.asked.get_mut(&place) else { return };
        asked.count -= 1;
        if asked.count == 0 {
            self.asked.remove(&place);
        }
    }

    /// Puts an answer in; what was there before keeps its turn, and is freed.
    pub(super) fn put(&mut self, at: Address, mut entry: Entry) -> Freed {
        self.next += 1;
        entry.stamp = Stamp(self.next);
        let slots = self.places.entry(at.place).or_default();
        if let Some(old) = slots.get_mut(&at.slot) {
            entry.number = old.number;
            let bytes = old.weight();
            *old = Arc::new(entry);
            return Freed { entries: 1, bytes };
        }
        entry.number = self.next;
        slots.insert(at.slot, Arc::new(entry));
        self.count += 1;
        self.queue.push_back((at, self.next));
        // Turns of what was taken away stay behind.
        if self.queue.len() > 2 * self.count + 16 {
            let places = &self.places;
            self.queue.retain(|(at, number)| is_there(places, at, *number));
        }
        Freed::default()
    }

    /// Looks at whoever is at the head of the queue, and throws it away if nobody asked for it.
    pub(super) fn evict(&mut self) -> Option<Freed> {
        while let Some((at, number)) = self.queue.pop_front() {
            let Some(slots) = self.places.get_mut(&at.place) else { continue };
            let Some(entry) = slots.get(&at.slot).filter(|entry| entry.number == number) else { continue };
            if entry.asked_for.swap(false, Ordering::Relaxed) {
                self.queue.push_back((at, number));
                return None;
            }
            let bytes = entry.weight();
            slots.remove(&at.slot);
            if slots.is_empty() {
                self.places.remove(&at.place);
            }
            self.count -= 1;
            return Some(Freed { entries: 1, bytes });
        }
        None
    }

    /// Takes all answers of a place away, those that are on their way too.
    pub(super) fn clear(&mut self, place: HashBinary) -> Freed {
        self.outdate(place);
        let gone: Vec<_> = self.places.remove(&place).unwrap_or_default().into_values().collect();
        self.freed(&gone)
    }

    /// Takes all answers away that are meant, and whatever is on its way.
    pub(super) fn clear_if(&mut self, is_meant: impl Fn(&Entry) -> bool) -> Freed {
        self.cleared += 1;
        let mut gone = Vec::new();
        self.places.retain(|_, slots| {
            gone.extend(slots.extract_if(|_, entry| is_meant(entry)).map(|(_, entry)| entry));
            !slots.is_empty()
        });
        self.freed(&gone)
    }

    fn outdate(&mut self, place: HashBinary) {
        if let Some(asked) = self.asked.get_mut(&place) {
            asked.outdated += 1;
        }
    }

    fn freed(&mut self, gone: &[Arc<Entry>]) -> Freed {
        let freed = gone
            .iter()
            .fold(Freed::default(), |sum, entry| Freed { entries: sum.entries + 1, bytes: sum.bytes + entry.weight() });
        self.count -= freed.entries;
        freed
    }
}

fn is_there(places: &HashMap<HashBinary, HashMap<Slot, Arc<Entry>>>, at: &Address, number: u64) -> bool {
    places.get(&at.place).and_then(|slots| slots.get(&at.slot)).is_some_and(|entry| entry.number == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(place: u8, slot: u8) -> Address {
        Address { place: [place; 16], slot: ([slot; 16], None) }
    }

    fn entry(route: &str) -> Entry {
        let now = SystemTime::UNIX_EPOCH;
        let head = ResponseHeader::build(200, None).unwrap();
        Entry::new(&CacheMeta::new(now, now, 0, 0, head), Bytes::from_static(b"1234"), route)
    }

    #[test]
    fn who_was_not_asked_for_goes_first() {
        let mut shelf = Shelf::default();
        for place in 0..3 {
            assert_eq!(shelf.put(at(place, 0), entry("r")), Freed::default());
        }
        assert!(shelf.find(&at(0, 0)).is_some());
        let one = Freed { entries: 1, bytes: OVERHEAD + 4 };
        assert_eq!((shelf.evict(), shelf.evict()), (None, Some(one)));
        assert!(shelf.places.contains_key(&[0; 16]) && !shelf.places.contains_key(&[1; 16]));
        assert_eq!((shelf.evict(), shelf.evict(), shelf.evict()), (Some(one), Some(one), None));
        assert!(shelf.places.is_empty() && shelf.queue.is_empty() && shelf.count == 0);
    }

    #[test]
    fn what_changes_is_taken_away_whoever_it_is_for_and_on_its_way() {
        let mut shelf = Shelf::default();
        let ticket = shelf.begin([1; 16]);
        for slot in 0..3 {
            shelf.put(at(1, slot), entry("r"));
        }
        shelf.put(at(2, 0), entry("r"));
        assert_eq!(shelf.clear([1; 16]).entries, 3);
        assert!(!shelf.is_current(&at(1, 7), ticket), "it may be what was there before");
        shelf.end([1; 16]);
        assert!(shelf.asked.is_empty());
        let ticket = shelf.begin([1; 16]);
        shelf.clear([2; 16]);
        assert!(shelf.is_current(&at(1, 7), ticket));
        // Whoever asked later was faster.
        shelf.put(at(1, 7), entry("r"));
        assert!(!shelf.is_current(&at(1, 7), ticket) && shelf.is_current(&at(1, 8), ticket));
    }

    #[test]
    fn routes_are_cleared_alone() {
        let mut shelf = Shelf::default();
        let ticket = shelf.begin([1; 16]);
        shelf.put(at(1, 0), entry("one"));
        shelf.put(at(1, 1), entry("other"));
        assert_eq!(shelf.clear_if(|entry| *entry.route == *"one").entries, 1);
        assert!(shelf.find(&at(1, 1)).is_some() && shelf.find(&at(1, 0)).is_none());
        assert!(!shelf.is_current(&at(1, 7), ticket));
    }

    #[test]
    fn turns_of_what_is_gone_do_not_pile_up() {
        let mut shelf = Shelf::default();
        for round in 0..1000 {
            assert_eq!(shelf.put(at(1, 0), entry("r")).entries, 0, "{round}");
            assert_eq!(shelf.put(at(1, 0), entry("r")).entries, 1);
            shelf.clear([1; 16]);
        }
        assert!(shelf.queue.len() < 20, "{}", shelf.queue.len());
    }
}
