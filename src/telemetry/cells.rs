//! Numbers that every request adds to, in memory that no two workers share.
//!
//! A counter that all workers increment is one line of memory that wanders from CPU to CPU, and each waits for it. Here each thread adds to a
//! line of its own, and whoever wants to know the number sums them up: that is done once for each scrape, and an addition for each request.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// Two lines of 64 bytes: CPUs fetch them in pairs.
#[repr(align(128))]
struct Line<const N: usize>([AtomicU64; N]);

/// So many numbers for each thread. Nothing is allocated before the first addition.
pub(crate) struct Cells<const N: usize>(OnceLock<Box<[Line<N>]>>);

impl<const N: usize> Debug for Cells<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cells").field(&self.sums()).finish()
    }
}

impl<const N: usize> Default for Cells<N> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

thread_local! {
    /// Which line is this thread's. Two threads may draw the same one: they are slower then, and count right.
    static MINE: usize = usize::from(rand::random::<u16>());

    /// How many lines there are: twice as many as workers at most, so that few draw the same. To know that, files are read.
    static LINES: usize = (2 * std::thread::available_parallelism().map_or(1, usize::from)).next_power_of_two();
}

impl<const N: usize> Cells<N> {
    /// Adds to the number at this position; there is none beyond the last.
    pub(crate) fn add(&self, at: usize, by: u64) {
        if let Some(cell) = self.mine().and_then(|line| line.get(at)) {
            cell.fetch_add(by, Ordering::Release);
        }
    }

    /// The numbers of this thread. Two threads that draw the same line have the same ones.
    pub(crate) fn mine(&self) -> Option<&[AtomicU64; N]> {
        let lines = self.0.get_or_init(lines);
        // A power of two.
        MINE.with(|mine| lines.get(*mine & lines.len().wrapping_sub(1))).map(|line| &line.0)
    }

    /// How many threads have numbers of their own.
    pub(crate) fn lines(&self) -> usize {
        self.0.get_or_init(lines).len()
    }

    /// One number. What was added before something that was seen in an earlier sum is in this one.
    pub(crate) fn sum(&self, at: usize) -> u64 {
        let lines = self.0.get().into_iter().flatten();
        lines.filter_map(|line| line.0.get(at)).fold(0, |sum, cell| sum.wrapping_add(cell.load(Ordering::Acquire)))
    }

    /// All numbers.
    pub(crate) fn sums(&self) -> [u64; N] {
        std::array::from_fn(|at| self.sum(at))
    }
}

fn lines<const N: usize>() -> Box<[Line<N>]> {
    let lines = LINES.with(|lines| *lines);
    (0..lines).map(|_| Line(std::array::from_fn(|_| AtomicU64::new(0)))).collect()
}

/// What is counted of all that have a name: handles of the same name are the same ones.
#[derive(Debug)]
pub(super) struct Table<K, H>(Arc<Mutex<BTreeMap<K, Arc<H>>>>);

impl<K, H> Clone for Table<K, H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Ord, H> Default for Table<K, H> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Ord, H> Table<K, H> {
    pub(super) fn get(&self, key: K, make: impl FnOnce() -> H) -> Arc<H> {
        Arc::clone(self.0.lock().entry(key).or_insert_with(|| Arc::new(make())))
    }

    pub(super) fn forget(&self, key: &K) {
        self.0.lock().remove(key);
    }

    /// The metrics of each.
    pub(super) fn all(&self, make: impl FnMut((&K, &Arc<H>)) -> Vec<Metric>) -> Vec<Metric> {
        self.0.lock().iter().flat_map(make).collect()
    }
}

/// A family for Prometheus.
pub(super) fn family((name, help): (&str, &str), kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(format!("torana_{name}"));
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

/// Labels, in the order of their names.
pub(super) fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    pairs.iter().map(pair).collect()
}

/// A counter with labels.
pub(super) fn counter(pairs: &[(&str, &str)], value: f64) -> Metric {
    let mut counter = prometheus::proto::Counter::default();
    counter.set_value(value);
    let mut metric = Metric::from_label(labels(pairs));
    metric.set_counter(counter);
    metric
}

/// A number of events as Prometheus has it: exact up to 2^53.
#[expect(clippy::cast_precision_loss, clippy::as_conversions, reason = "Prometheus has nothing but f64")]
pub(super) fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_threads_add_is_summed_up() {
        let cells = Arc::new(Cells::<3>::default());
        assert_eq!(cells.sums(), [0; 3]);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..1000).for_each(|_| cells.add(1, 2)));
            }
        });
        cells.add(2, 5);
        cells.add(3, 1);
        assert_eq!((cells.sums(), cells.sum(2), cells.sum(3)), ([0, 16_000, 5], 5, 0));
    }
}
