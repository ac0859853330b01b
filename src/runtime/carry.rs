//! State that outlives the configuration: counters, health, keys, resolved names.

use std::{any::Any, collections::HashMap, fmt, sync::Arc};

/// State that outlives a snapshot. What is also worth keeping when another process takes over says how.
pub trait State: Any + Send + Sync {
    /// What another process needs to go on with it; `None` if there is nothing, or it can begin afresh.
    fn export(&self) -> Option<Vec<u8>> {
        None
    }

    /// Takes over what [`export`](Self::export) told in another process, perhaps of another version. What cannot be
    /// read is left out: nothing here is worth a process that does not start.
    fn import(&self, exported: &[u8]) {
        _ = exported;
    }
}

/// Exported state by key.
pub type Exported = HashMap<String, Vec<u8>>;

/// What survives a reload, keyed by what it belongs to. Every snapshot has one; what a new snapshot does not ask
/// for is dropped with the old one.
#[derive(Default)]
pub struct Carry(HashMap<String, Arc<dyn State>>);

impl Carry {
    /// The state under `key`: of this build, or of the previous snapshot, or a fresh one.
    pub(super) fn keep<T: State>(&mut self, previous: Option<&Self>, key: String, fresh: impl FnOnce() -> T) -> Arc<T> {
        let before = self.0.get(&key).or_else(|| previous.and_then(|kept| kept.0.get(&key)));
        let same = |state: &Arc<dyn State>| {
            let any: Arc<dyn Any + Send + Sync> = Arc::<dyn State>::clone(state);
            any.downcast().ok()
        };
        let state = before.and_then(same).unwrap_or_else(|| Arc::new(fresh()));
        self.0.insert(key, Arc::<T>::clone(&state));
        state
    }

    /// What another process needs to go on.
    pub(super) fn export(&self) -> Exported {
        self.0.iter().filter_map(|(key, state)| Some((key.clone(), state.export()?))).collect()
    }

    /// Takes over what another process exported under the same keys.
    pub(super) fn import(&self, exported: &Exported) {
        // In any order: one state knows nothing of another.
        self.0.iter().filter_map(|(key, state)| Some((state, exported.get(key)?))).for_each(|(state, exported)| {
            state.import(exported);
        });
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
    use parking_lot::Mutex;

    use super::*;

    impl State for u32 {}
    impl State for &'static str {}
    impl State for Mutex<Vec<u8>> {
        fn export(&self) -> Option<Vec<u8>> {
            Some(self.lock().clone())
        }

        fn import(&self, exported: &[u8]) {
            exported.clone_into(&mut self.lock());
        }
    }

    #[test]
    fn another_process_takes_over_what_it_has_a_key_for() {
        let (mut old, mut new) = (Carry::default(), Carry::default());
        old.keep(None, "a".into(), || 1_u32);
        *old.keep(None, "b".into(), Mutex::<Vec<u8>>::default).lock() = vec![7];
        let b = new.keep(None, "b".into(), Mutex::<Vec<u8>>::default);
        new.keep(None, "c".into(), Mutex::<Vec<u8>>::default);
        let exported = old.export();
        assert_eq!(exported, HashMap::from([("b".to_owned(), vec![7])]));
        new.import(&exported);
        assert_eq!(*b.lock(), [7]);
    }

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
