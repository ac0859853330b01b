//! State that many requests change at the same time, in parts that are locked one by one.

use parking_lot::{Mutex, MutexGuard};

/// Enough that workers rarely meet at one.
pub(crate) const SHARDS: usize = 64;

/// The parts.
#[derive(Debug)]
pub(crate) struct Shards<T>(Box<[Mutex<T>; SHARDS]>);

impl<T: Default> Default for Shards<T> {
    fn default() -> Self {
        Self::new(T::default)
    }
}

impl<T> Shards<T> {
    /// As many parts as there are, each made alike.
    pub(crate) fn new(make: impl Fn() -> T) -> Self {
        Self(Box::new(std::array::from_fn(|_| Mutex::new(make()))))
    }

    /// The part in which something with this hash is.
    pub(crate) fn lock(&self, hash: u64) -> MutexGuard<'_, T> {
        let [first, ..] = &*self.0;
        let at = usize::try_from(hash).unwrap_or_default() % SHARDS;
        self.0.get(at).unwrap_or(first).lock()
    }

    /// All parts, one after the other.
    pub(crate) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.0.iter().map(Mutex::lock)
    }
}
