//! State that outlives the configuration: counters, health, keys, resolved names.

use std::{any::Any, collections::HashMap, fmt, sync::Arc};

/// What survives a reload, keyed by what it belongs to. Every snapshot has one; what a new snapshot does not ask
/// for is dropped with the old one.
#[derive(Default)]
pub struct Carry(HashMap<String, Arc<dyn Any + Send + Sync>>);

impl Carry {
    /// The state under `key`: of this build, or of the previous snapshot, or a fresh one.
    pub(super) fn keep<T: Any + Send + Sync>(
        &mut self,
        previous: Option<&Self>,
        key: String,
        fresh: impl FnOnce() -> T,
    ) -> Arc<T> {
        let before = self.0.get(&key).or_else(|| previous.and_then(|kept| kept.0.get(&key)));
        let state = before.and_then(|state| Arc::clone(state).downcast().ok()).unwrap_or_else(|| Arc::new(fresh()));
        self.0.insert(key, Arc::<T>::clone(&state));
        state
    }
}

impl fmt::Debug for Carry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut keys: Vec<_> = self.0.keys().collect();
        keys.sort();
        f.debug_set().entries(keys).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_survives_by_key_and_type() {
        let mut first = Carry::default();
        let one = first.keep(None, "a".into(), || 1_u32);
        let mut second = Carry::default();
        assert!(Arc::ptr_eq(&one, &second.keep(Some(&first), "a".into(), || 2_u32)));
        assert_eq!(*second.keep(Some(&first), "b".into(), || 3_u32), 3);
        assert_eq!(*second.keep(Some(&first), "a".into(), || "other type"), "other type");
    }
}
