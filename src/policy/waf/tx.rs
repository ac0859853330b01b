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
pub(super) struct Tx(HashMap<Vec<u8>, Value>);

/// More are not kept of one request: a client that sends many names must not fill the memory.
const MAX: usize = 1024;

impl Tx {
    pub(super) fn set(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.put(name, Value::Text(value));
    }

    pub(super) fn add(&mut self, name: Vec<u8>, amount: i64) {
        let name = lower(name);
        let before = self.0.get(&name).map_or(0, Value::number);
        self.put(name, Value::Number(before.saturating_add(amount)));
    }

    pub(super) fn forget(&mut self, name: &[u8]) {
        self.0.remove(&name.to_ascii_lowercase());
    }

    /// What a pattern matched, as a whole and in its groups: `0` to `9`.
    pub(super) fn groups(&mut self, groups: Vec<Vec<u8>>) {
        let mut groups = groups.into_iter();
        for digit in b'0'..=b'9' {
            match groups.next() {
                Some(group) => self.put(vec![digit], Value::Text(group)),
                None => drop(self.0.remove(&[digit][..])),
            }
        }
    }

    fn put(&mut self, name: Vec<u8>, value: Value) {
        let name = lower(name);
        if self.0.len() < MAX || self.0.contains_key(&name) {
            self.0.insert(name, value);
        }
    }

    /// Writes the value of this name; nothing if there is none.
    pub(super) fn write(&self, name: &[u8], into: &mut Vec<u8>) {
        match self.0.get(name) {
            Some(Value::Text(text)) => into.extend_from_slice(text),
            Some(Value::Number(number)) => into.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes()),
            None => {}
        }
    }

    /// The number that stands under this name.
    pub(super) fn number(&self, name: &[u8]) -> Option<i64> {
        self.0.get(name).map(Value::number)
    }

    /// The members that are meant.
    pub(super) fn taken_by(&self, selector: &Selector) -> Vec<(Vec<u8>, Vec<u8>)> {
        if let Selector::Key(name) = selector {
            return self.0.get(&**name).map(|value| (name.to_vec(), value.text())).into_iter().collect();
        }
        let mut taken: Vec<_> = self.0.iter().filter(|(name, _)| selector.takes(name)).collect();
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
