//! Endpoints that fail requests are left out for a while, whatever health checks say (passive health checks).
//!
//! Without `outliers` in the file only connections that cannot be opened count: three in a row leave an endpoint out for a second, then
//! two, up to ten, all but the last one. With it:
//!
//! - A failure is a connection that cannot be opened or breaks before the answer, a time-out, 502, 503 or 504, and of gRPC
//!   `UNAVAILABLE` (14). A kept connection that the endpoint had closed meanwhile is none.
//! - `consecutive_failures` in a row take an endpoint out at once. With `failure_rate`, so does failing more than all others
//!   together by so many points, and by three standard deviations: compared every `interval`.
//! - It stays out for `ejected_for`, the second time in a row twice as long, the third time three times, up to `max_ejected_for`; then
//!   it gets requests again, fewer at first with `slow_start`. Each interval without an ejection forgets one.
//! - Never more than `max_ejected` of the endpoints are out, rounded down; of two or more one may be, the last one never, unless that is 100 %.
//! - Ejections survive reloads and another process taking over.

use std::{
    num::NonZeroU16,
    sync::{Arc, atomic::Ordering},
};

use super::{Failure, endpoint::Endpoint, members::Members};
use crate::{
    chance::Sample,
    clock::nanos,
    config::{
        health::{FailureRate, Outliers},
        types::{Duration, Percent},
    },
    runtime::Ready,
};

const TARGET: &str = "torana::health";

/// When endpoints are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    outliers: Outliers,
    /// Only connections that cannot be opened count.
    connections_only: bool,
}

impl Rule {
    /// What the file says.
    pub(super) const fn all(outliers: Outliers) -> Self {
        Self { outliers, connections_only: false }
    }

    /// What holds if it says nothing.
    pub(super) fn unreachable() -> Self {
        let outliers = Outliers {
            consecutive_failures: NonZeroU16::MIN.saturating_add(2),
            failure_rate: None,
            interval: Duration::from_secs(1),
            ejected_for: Duration::from_secs(1),
            max_ejected_for: Duration::from_secs(10),
            max_ejected: Percent(99),
        };
        Self { outliers, connections_only: true }
    }
}

impl Members {
    /// An endpoint answered, with something else than a failure.
    pub(super) fn succeeded(&self, endpoint: &Endpoint) {
        let record = &endpoint.state.record;
        // Nearly always 0, and read by all who ask it.
        if record.row.load(Ordering::Relaxed) != 0 {
            record.row.store(0, Ordering::Relaxed);
        }
        if self.plan.outliers.outliers.failure_rate.is_some() {
            record.good.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An endpoint failed a request.
    pub(super) fn failed(&self, endpoint: &Endpoint, failure: Failure, now: u64) {
        let rule = &self.plan.outliers;
        if rule.connections_only && failure != Failure::Connect {
            return;
        }
        let outliers = &rule.outliers;
        let record = &endpoint.state.record;
        record.bad.fetch_add(1, Ordering::Relaxed);
        let row = record.row.fetch_add(1, Ordering::Relaxed) + 1;
        if row >= u32::from(outliers.consecutive_failures.get()) {
            self.eject(outliers, endpoint, now, &format!("{row} failures in a row"));
        }
    }

    fn eject(&self, outliers: &Outliers, endpoint: &Endpoint, now: u64, why: &str) {
        let _one = self.plan.states.ejecting.lock();
        let state = &endpoint.state;
        // Answers to what was under way come for a while.
        if state.is_ejected(now) || !self.may_eject(outliers, endpoint, now) {
            return;
        }
        let times = state.record.ejections.fetch_add(1, Ordering::Relaxed) + 1;
        let time = outliers.ejected_for.0.saturating_mul(times).min(outliers.max_ejected_for.0);
        let until = now.saturating_add(nanos(time));
        state.ejected_until.store(until, Ordering::Relaxed);
        state.record.row.store(0, Ordering::Relaxed);
        endpoint.metrics.ejected(true);
        let (upstream, endpoint) = (&self.plan.upstream, &endpoint.text);
        log::warn!(target: TARGET, "upstream {upstream}: endpoint {endpoint} is left out for {time:?}: {why}");
    }

    /// Whether one more may be left out.
    fn may_eject(&self, outliers: &Outliers, endpoint: &Endpoint, now: u64) -> bool {
        let set = self.set();
        let all = set.endpoints().len();
        let others = || set.endpoints().iter().filter(|one| one.id() != endpoint.id());
        let out = others().filter(|one| one.state.is_ejected(now)).count();
        // Nobody is better than whoever is left.
        let is_last = outliers.max_ejected.0 < 100 && !others().any(|one| one.is_usable(now));
        !is_last && out < most(all, outliers.max_ejected.0)
    }

    /// Notes whose time is over, or who may not be out any more because there are fewer endpoints than there were.
    pub(super) fn readmit(&self, now: u64) {
        let set = Arc::clone(&self.set());
        let mut out: Vec<u64> =
            set.endpoints().iter().map(|one| one.state.until()).filter(|until| *until > now).collect();
        out.sort_unstable();
        let too_many = out.len().saturating_sub(most(set.endpoints().len(), self.plan.outliers.outliers.max_ejected.0));
        let now = too_many.checked_sub(1).and_then(|last| out.get(last)).copied().unwrap_or(now);
        for endpoint in set.endpoints() {
            if endpoint.state.readmit(now) {
                endpoint.metrics.ejected(false);
                let (upstream, endpoint) = (&self.plan.upstream, &endpoint.text);
                log::info!(target: TARGET, "upstream {upstream}: endpoint {endpoint} gets requests again");
            }
        }
    }

    /// Compares the endpoints with each other, and forgives those that did well.
    pub(super) fn compare(&self, rule: &Rule, now: u64) {
        let outliers = &rule.outliers;
        let set = Arc::clone(&self.set());
        let mut counts = Vec::with_capacity(set.endpoints().len());
        for endpoint in set.endpoints() {
            let record = &endpoint.state.record;
            counts.push((record.good.swap(0, Ordering::Relaxed), record.bad.swap(0, Ordering::Relaxed)));
            if !endpoint.state.is_ejected(now) {
                // Who else changes it holds the lock; at worst one more or less is counted.
                let ejections = record.ejections.load(Ordering::Relaxed);
                record.ejections.store(ejections.saturating_sub(1), Ordering::Relaxed);
            }
        }
        let worse = outliers.failure_rate.map(|rate| worse(&counts, rate)).unwrap_or_default();
        for (i, why) in worse {
            if let Some(endpoint) = set.endpoints().get(i) {
                self.eject(outliers, endpoint, now, &why);
            }
        }
    }
}

/// How many of so many endpoints may be out at once.
pub(super) fn most(all: usize, percent: u16) -> usize {
    let share = all.saturating_mul(usize::from(percent)) / 100;
    match percent {
        0 => 0,
        100.. => all,
        _ => share.max(1).min(all.saturating_sub(1)),
    }
}

/// Those that fail more than the others, worst first, with the reason.
fn worse(counts: &[(u32, u32)], rate: FailureRate) -> Vec<(usize, String)> {
    let sample = |(good, bad): (u32, u32)| Sample { all: f64::from(good) + f64::from(bad), bad: f64::from(bad) };
    let every = counts.iter().map(|counts| sample(*counts));
    let (all, bad) = every.clone().fold((0.0, 0.0), |sum, one| (sum.0 + one.all, sum.1 + one.bad));
    let enough = f64::from(rate.requests.get());
    let mut found: Vec<(f64, usize, String)> = Vec::new();
    for (i, own) in every.enumerate() {
        let others = Sample { all: all - own.all, bad: bad - own.bad };
        if own.all < enough || others.all < enough {
            continue;
        }
        if own.is_worse_than(others, rate.above_others.share()) {
            let percent = |share: f64| (share * 100.0).round();
            let why = format!(
                "{} % of {} requests failed, {} % of those to the others",
                percent(own.share()),
                own.all,
                percent(others.share())
            );
            found.push((own.share(), i, why));
        }
    }
    found.sort_by(|one, other| other.0.total_cmp(&one.0));
    found.into_iter().map(|(_, i, why)| (i, why)).collect()
}

/// Compares the endpoints of an upstream for as long as it is polled.
#[expect(clippy::infinite_loop, reason = "ends by being dropped")]
pub(super) async fn run(members: Arc<Members>, rule: Rule, ready: Ready) {
    ready.done();
    let outliers = rule.outliers;
    // Whoever comes back is noticed in time, also where endpoints are compared seldom.
    let step = outliers.interval.0.min(Duration::from_secs(1).0);
    let mut next = tokio::time::Instant::now() + outliers.interval.0;
    loop {
        tokio::time::sleep(step).await;
        let now = members.plan.clock.monotonic();
        members.readmit(now);
        if tokio::time::Instant::now() >= next {
            next += outliers.interval.0;
            members.compare(&rule, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::members::tests::with_outliers;

    const SECOND: u64 = 1_000_000_000;

    fn fail(members: &Members, i: usize, times: u32, now: u64) {
        let endpoint = Arc::clone(&members.set().endpoints()[i]);
        (0..times).for_each(|_| members.failed(&endpoint, Failure::Answer, now));
    }

    fn out(members: &Members, now: u64) -> Vec<usize> {
        let set = members.set();
        (0..set.endpoints().len()).filter(|i| set.endpoints()[*i].state.is_ejected(now)).collect()
    }

    #[test]
    fn failures_in_a_row_take_an_endpoint_out_for_longer_each_time() {
        let members = with_outliers(4, "{ consecutive_failures: 3, ejected_for: 10s, max_ejected_for: 25s }");
        fail(&members, 1, 2, SECOND);
        members.succeeded(&members.set().endpoints()[1]);
        fail(&members, 1, 2, SECOND);
        assert!(out(&members, SECOND).is_empty(), "a success breaks the row");
        let mut now = SECOND;
        for seconds in [10, 20, 25, 25] {
            fail(&members, 1, 3, now);
            assert_eq!(out(&members, now + seconds * SECOND - 1), [1]);
            now += seconds * SECOND;
            assert!(out(&members, now).is_empty());
        }
        let outliers = members.plan.outliers;
        (0..4).for_each(|_| members.compare(&outliers, now));
        fail(&members, 1, 3, now);
        assert!(out(&members, now + 10 * SECOND).is_empty(), "forgiven");
    }

    #[test]
    fn without_a_rule_in_the_file_only_connections_that_cannot_be_opened_count() {
        let members = crate::upstream::members::tests::numbered(3, "");
        fail(&members, 0, 100, SECOND);
        assert!(out(&members, SECOND).is_empty());
        for i in 0..3 {
            let endpoint = Arc::clone(&members.set().endpoints()[i]);
            (0..3).for_each(|_| members.failed(&endpoint, Failure::Connect, SECOND));
        }
        assert_eq!(out(&members, SECOND), [0, 1], "not the last one");
        assert!(out(&members, 2 * SECOND).is_empty());
    }

    #[test]
    fn never_more_than_the_share_is_out_and_never_the_last_one() {
        let members = with_outliers(5, "{ consecutive_failures: 1 }");
        (0..5).for_each(|i| fail(&members, i, 9, SECOND));
        assert_eq!(out(&members, SECOND), [0, 1]);
        for (all, percent, expected) in
            [(1, 50, 0), (2, 50, 1), (2, 10, 1), (3, 99, 2), (3, 100, 3), (1, 100, 1), (9, 0, 0)]
        {
            assert_eq!(most(all, percent), expected, "{all} {percent}");
        }
    }

    #[test]
    fn who_is_the_last_one_is_not_left_out_and_comes_back_when_it_becomes_so() {
        let members = with_outliers(2, "{ consecutive_failures: 1, ejected_for: 30s }");
        members.set().endpoints()[1].state.stand(crate::upstream::Standing::Disabled, SECOND);
        fail(&members, 0, 9, SECOND);
        assert!(out(&members, SECOND).is_empty());
        let alone = with_outliers(1, "{ consecutive_failures: 1, ejected_for: 30s }");
        alone.set().endpoints()[0].state.ejected_until.store(30 * SECOND, Ordering::Relaxed);
        alone.readmit(SECOND);
        assert!(out(&alone, SECOND).is_empty(), "another one was there when it went");
    }

    #[test]
    fn who_fails_more_than_the_others_beyond_chance_is_out() {
        let rate = FailureRate::default();
        let of = |counts: &[(u32, u32)]| worse(counts, rate).iter().map(|(i, _)| *i).collect::<Vec<_>>();
        assert_eq!(of(&[(100, 0), (100, 0), (70, 30)]), [2]);
        assert_eq!(
            of(&[(100, 0), (70, 30), (40, 60)]),
            [2],
            "as long as it is there, the other one is not so much worse"
        );
        assert!(of(&[(40, 60), (40, 60), (40, 60)]).is_empty(), "it is not they");
        assert!(of(&[(100, 0), (95, 5)]).is_empty(), "within the margin");
        assert!(of(&[(100, 0), (0, 49)]).is_empty(), "too few");
        assert!(of(&[(49, 0), (0, 100)]).is_empty(), "nothing to compare with");
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn an_interval_is_compared_once() {
        let members = with_outliers(3, "{ consecutive_failures: 1000, failure_rate: {} }");
        let outliers = members.plan.outliers;
        let good = |i: usize| (0..100).for_each(|_| members.succeeded(&members.set().endpoints()[i]));
        (0..3).for_each(good);
        fail(&members, 2, 60, SECOND);
        members.compare(&outliers, SECOND);
        assert_eq!(out(&members, SECOND), [2]);
        (0..3).for_each(good);
        members.compare(&outliers, 60 * SECOND);
        assert!(out(&members, 60 * SECOND).is_empty());
    }
}
