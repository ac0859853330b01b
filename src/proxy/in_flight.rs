//! How many requests are in flight: what a shutdown waits for.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The number of requests in flight in this process.
#[derive(Clone, Debug, Default)]
pub struct Flights(Arc<AtomicUsize>);

/// A request in flight, until this is dropped: also by a panic, or when the client goes away.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicUsize>);

impl Flights {
    /// Counts one more.
    pub fn begin(&self) -> InFlight {
        self.0.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(&self.0))
    }

    /// How many there are now.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
