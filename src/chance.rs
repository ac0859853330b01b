//! Whether some fail more than others, or it only looks so.

/// More than so many standard deviations are no chance: one comparison in 700 would say so without a reason.
const DEVIATIONS: f64 = 3.0;

/// How many there were, and how many of them failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) all: f64,
    pub(crate) bad: f64,
}

impl Sample {
    /// Of 1.
    pub(crate) fn share(self) -> f64 {
        self.bad / self.all
    }

    /// Whether so much more of these failed than of the others, and more than chance explains. Both have some.
    pub(crate) fn is_worse_than(self, others: Self, margin: f64) -> bool {
        // The deviation of the difference if both had the same share.
        let common = (self.bad + others.bad) / (self.all + others.all);
        let deviation = (common * (1.0 - common) * (1.0 / self.all + 1.0 / others.all)).sqrt();
        let more = self.share() - others.share();
        more >= margin && more > DEVIATIONS * deviation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_counts_beyond_the_margin_and_beyond_chance() {
        let of = |all: u32, bad: u32| Sample { all: f64::from(all), bad: f64::from(bad) };
        assert!(of(100, 30).is_worse_than(of(1000, 10), 0.2));
        assert!(!of(100, 15).is_worse_than(of(1000, 10), 0.2), "within the margin");
        assert!(!of(5, 2).is_worse_than(of(5, 0), 0.2), "chance");
        assert!(!of(100, 30).is_worse_than(of(100, 30), 0.0));
    }
}
