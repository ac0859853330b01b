//! What rules count while they run (`TX`): scores, levels, pieces of what they matched.

use hashbrown::HashMap;

use super::{operator::number, variable::Selector};

/// A value: a number, until something else is put there.
#[derive(Clone, Debug)]
enum Value {
    Number(i64),
    Text(Vec<u8>),
}

/// Values by name, which is in lower case.
#[derive(Debug, Default)]
pub(super) struct Tx {
    values: HashMap<Vec<u8>, Value>,
    /// There was no room for one.
    overflowed: bool,
}

/// More are not kept of one request: a client that sends many names must not fill the memory. Rules keep one or two for an argument, of which there
/// are a thousand at most.
const MAX: usize = 4096;

impl Tx {
    pub(super) fn set(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.put(name, Value::Text(value));
    }

    pub(super) fn add(&mut self, name: Vec<u8>, amount: i64) {
        let name = lower(name);
        let before = self.values.get(&name).map_or(0, Value::number);
        self.put(name, Value::Number(before.saturating_add(amount)));
    }

    pub(super) fn forget(&mut self, name: &[u8]) {
        self.values.remove(&name.to_ascii_lowercase());
    }

    /// What a pattern matched, as a whole and in its groups: `0` to `9`.
    pub(super) fn groups(&mut self, groups: Vec<Vec<u8>>) {
        let mut groups = groups.into_iter();
        for digit in b'0'..=b'9' {
            match groups.next() {
                Some(group) => self.put(vec![digit], Value::Text(group)),
                None => drop(self.values.remove(&[digit][..])),
            }
        }
    }

    fn put(&mut self, name: Vec<u8>, value: Value) {
        let name = lower(name);
        if self.values.len() < MAX || self.values.contains_key(&name) {
            self.values.insert(name, value);
        } else {
            self.overflowed = true;
        }
    }

    /// Whether something is missing: what rules say of the request is not to be trusted then.
    pub(super) const fn has_overflowed(&self) -> bool {
        self.overflowed
    }

    /// Writes the value of this name; nothing if there is none.
    pub(super) fn write(&self, name: &[u8], into: &mut Vec<u8>) {
        match self.values.get(name) {
            Some(Value::Text(text)) => into.extend_from_slice(text),
            Some(Value::Number(number)) => into.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes()),
            None => {}
        }
    }

    /// The number that stands under this name.
    pub(super) fn number(&self, name: &[u8]) -> Option<i64> {
        self.values.get(name).map(Value::number)
    }

    /// The members that are meant.
    pub(super) fn taken_by(&self, selector: &Selector) -> Vec<(Vec<u8>, Vec<u8>)> {
        if let Selector::Key(name) = selector {
            return self.values.get(&**name).map(|value| (name.to_vec(), value.text())).into_iter().collect();
        }
        let mut taken: Vec<_> = self.values.iter().filter(|(name, _)| selector.takes(name)).collect();
        taken.sort_unstable_by_key(|(name, _)| *name);
        taken.into_iter().map(|(name, value)| (name.clone(), value.text())).collect()
    }
}

fn lower(mut name: Vec<u8>) -> Vec<u8> {
    name.make_ascii_lowercase();
    name
}

impl Value {
    fn number(&self) -> i64 {
        match self {
            Self::Number(number) => *number,
            Self::Text(text) => number(text),
        }
    }

    fn text(&self) -> Vec<u8> {
        match self {
            Self::Number(number) => number.to_string().into_bytes(),
            Self::Text(text) => text.clone(),
        }
    }
}
