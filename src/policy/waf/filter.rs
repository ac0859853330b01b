//! Which patterns could match a value at all: one pass over it finds the texts that they need, however many patterns there are.

use aho_corasick::AhoCorasick;
use smallvec::SmallVec;

/// The texts that patterns need.
#[derive(Debug)]
pub(super) struct Filter {
    automaton: Option<AhoCorasick>,
    /// For each text, the pattern that it is for.
    slots: Vec<usize>,
    count: usize,
}

/// The patterns that could match.
pub(super) type Candidates = SmallVec<[u64; 4]>;

impl Filter {
    /// Of the texts of each pattern.
    pub(super) fn new(patterns: Vec<Vec<Vec<u8>>>) -> Result<Self, String> {
        let count = patterns.len();
        let all = patterns.into_iter().enumerate();
        let (slots, texts): (Vec<_>, Vec<_>) =
            all.flat_map(|(slot, texts)| texts.into_iter().map(move |text| (slot, text))).unzip();
        let automaton = (count > 0).then(|| AhoCorasick::builder().ascii_case_insensitive(true).build(texts));
        let automaton = automaton.transpose().map_err(|error| error.to_string())?;
        Ok(Self { automaton, slots, count })
    }

    /// Looks at a value.
    pub(super) fn look(&self, value: &[u8]) -> Candidates {
        let mut found = Candidates::from_elem(0, self.count.div_ceil(64));
        if let Some(automaton) = &self.automaton {
            for one in automaton.find_overlapping_iter(value) {
                if let Some(slot) = self.slots.get(one.pattern().as_usize())
                    && let Some(word) = found.get_mut(slot / 64)
                {
                    *word |= 1 << (slot % 64);
                }
            }
        }
        found
    }
}

/// Whether a pattern is among them.
pub(super) fn has(candidates: &Candidates, slot: usize) -> bool {
    candidates.get(slot / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
}
