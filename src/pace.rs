//! Long work beside requests gives way to them.
//!
//! A thread that computes for long holds a CPU until its slice ends, some milliseconds, also against one that was just
//! woken for a request, and whatever its priority. So loading a configuration, which takes a quarter of a second for
//! 10,000 routes, offers its CPU to others every [`STRETCH`]. Measured (`loadtest/reload`, `perf sched latency`): the longest that
//! a request's thread waited for a CPU fell from 2.8 to 0.5 ms; a lower priority, or pauses instead, did not help further.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// How long work goes on without looking who waits. If somebody does, it costs the work a slice.
const STRETCH: Duration = Duration::from_micros(100);

thread_local! {
    /// When others were let go first, last.
    static SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Lets others go first, if it is time to. To be called between pieces of work of some microseconds.
pub(crate) fn give_way() {
    if SINCE.get().is_none_or(|since| since.elapsed() >= STRETCH) {
        std::thread::yield_now();
        SINCE.set(Some(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_go_first_only_when_it_is_time() {
        give_way();
        let first = SINCE.get();
        assert!(first.is_some());
        while SINCE.get() == first {
            give_way();
        }
        assert!(SINCE.get().unwrap().duration_since(first.unwrap()) >= STRETCH);
    }
}
