//! A new version that gets more requests as long as it does as well as the others.
//!
//! - Its share goes through `ramp`, each step for `every`, and is the last one from then on.
//! - It is compared all the time. As soon as `requests` of its requests have ended in a step, it goes back to 0 and stays there
//!   if `errors` points more of them failed than of those to the others, by more than three standard deviations, or if they took `latency` of
//!   the time of those on (geometric) average. A failure is a 5xx, a status of gRPC that is the server's fault, or no answer.
//! - With fewer requests a step lasts longer. A step of 100 % is compared with what the others did in the step before; once the last step is
//!   over, nothing is compared any more.
//! - The state survives reloads and another process taking over; another `attempt`, `ramp` or `upstream` begins anew.
//! - What happens is in the log, in `torana_canary_share`, and in `torana status`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus::Gauge;
use serde::{Deserialize, Serialize};

use crate::{
    chance::Sample,
    clock::{Clock, nanos, seconds},
    config::release::Canary as Config,
    runtime::{Build, State, Task},
};

const TARGET: &str = "torana::release";

/// How often versions are compared, at most.
const TICK: Duration = Duration::from_millis(500);

/// A canary of a route.
#[derive(Debug)]
pub struct Canary {
    config: Config,
    route: Box<str>,
    clock: Clock,
    step: AtomicU32,
    phase: AtomicU8,
    /// When the step began, on the monotonic clock.
    since: AtomicU64,
    new: Tally,
    old: Tally,
    gauge: Option<Gauge>,
    /// Why it went back.
    why: parking_lot::Mutex<Option<String>>,
}

/// How requests to a version ended.
#[derive(Debug, Default)]
struct Tally {
    good: AtomicU32,
    bad: AtomicU32,
    /// The logarithms of the times, summed up: the bits of a float. One answer that takes very long weighs little.
    logs: AtomicU64,
}

/// How far a canary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It goes through its ramp.
    Running,
    /// It keeps the last share.
    Done,
    /// It did worse, and gets nothing.
    RolledBack,
}

/// A canary as it is now, for `/status`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CanaryStatus {
    /// The new version.
    pub upstream: String,
    /// Its share of the requests, in percent.
    pub percent: u16,
    /// How far it is.
    pub phase: Phase,
    /// Which step of the ramp, from 1.
    pub step: u32,
    /// How many there are.
    pub steps: usize,
    /// Why it went back, if this process saw it.
    pub why: Option<String>,
}

/// What counts of a version: requests, failures, and the geometric mean of the times, in seconds.
#[derive(Clone, Copy, Debug)]
struct Seen {
    ends: Sample,
    mean: f64,
}

impl Tally {
    fn add(&self, failed: bool, took: u64) {
        let counter = if failed { &self.bad } else { &self.good };
        counter.fetch_add(1, Ordering::Relaxed);
        let log = seconds(took.max(1)).ln();
        let add = |sum: u64| Some((f64::from_bits(sum) + log).to_bits());
        let added = self.logs.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        debug_assert!(added.is_ok(), "there is always a sum");
    }

    fn clear(&self) {
        self.good.store(0, Ordering::Relaxed);
        self.bad.store(0, Ordering::Relaxed);
        self.logs.store(0, Ordering::Relaxed);
    }

    fn seen(&self) -> Seen {
        let bad = f64::from(self.bad.load(Ordering::Relaxed));
        let all = bad + f64::from(self.good.load(Ordering::Relaxed));
        let sum = f64::from_bits(self.logs.load(Ordering::Relaxed));
        Seen { ends: Sample { all, bad }, mean: if all > 0.0 { (sum / all).exp() } else { 0.0 } }
    }
}

impl Canary {
    pub(super) fn compile(config: &Config, route: &str, build: &mut Build<'_>) -> Arc<Self> {
        let (clock, metrics) = (build.clock.clone(), Arc::clone(&build.metrics));
        let key = format!("canary/{route} {} {:?} {}", config.upstream, config.ramp, config.attempt);
        let canary = build.keep_as(key, || {
            let canary = Self::new(config.clone(), route, clock);
            canary.tell(format_args!("begins with {}%", canary.percent()), false);
            Self { gauge: Some(metrics.canary(route, config.upstream.as_str())), ..canary }
        });
        canary.show();
        let (work, key) = (Arc::clone(&canary), format!("canary/{route} {config:?}"));
        let settings = config.clone();
        build.background(Task::new(key, |ready| {
            ready.done();
            run(work, settings)
        }));
        canary
    }

    fn new(config: Config, route: &str, clock: Clock) -> Self {
        Self {
            since: AtomicU64::new(clock.monotonic()),
            config,
            route: route.into(),
            clock,
            step: AtomicU32::new(0),
            phase: AtomicU8::new(0),
            new: Tally::default(),
            old: Tally::default(),
            gauge: None,
            why: parking_lot::Mutex::default(),
        }
    }

    /// Its share, of 1.
    pub fn share(&self) -> f64 {
        f64::from(self.percent()) / 100.0
    }

    fn percent(&self) -> u16 {
        if self.phase() == Phase::RolledBack {
            return 0;
        }
        let step = usize::try_from(self.step.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        let ramp = &self.config.ramp;
        ramp.get(step).or_else(|| ramp.last()).map_or(0, |percent| percent.0)
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Running,
            1 => Phase::Done,
            _ => Phase::RolledBack,
        }
    }

    fn set_phase(&self, phase: Phase) {
        let number = match phase {
            Phase::Running => 0,
            Phase::Done => 1,
            Phase::RolledBack => 2,
        };
        self.phase.store(number, Ordering::Relaxed);
    }

    /// How it is now.
    pub fn status(&self) -> CanaryStatus {
        CanaryStatus {
            upstream: self.config.upstream.to_string(),
            percent: self.percent(),
            phase: self.phase(),
            step: self.step.load(Ordering::Relaxed) + 1,
            steps: self.config.ramp.len(),
            why: self.why.lock().clone(),
        }
    }

    pub(super) fn record(&self, is_new: bool, failed: bool, took: u64) {
        if self.phase() == Phase::Running {
            let tally = if is_new { &self.new } else { &self.old };
            tally.add(failed, took);
        }
    }

    /// Compares, and goes on or back. `config` may have other limits than the one that it began with.
    fn judge(&self, config: &Config) {
        if self.phase() != Phase::Running {
            return;
        }
        let (new, old) = (self.new.seen(), self.old.seen());
        let enough = new.ends.all >= f64::from(config.requests.get());
        if enough && let Some(why) = worse(new, old, config) {
            self.set_phase(Phase::RolledBack);
            self.show();
            self.tell(format_args!("goes back to 0%: {why}"), true);
            *self.why.lock() = Some(why);
            return;
        }
        let now = self.clock.monotonic();
        let every = nanos(config.every.0);
        if !enough || now.saturating_sub(self.since.load(Ordering::Relaxed)) < every {
            return;
        }
        let step = self.step.fetch_add(1, Ordering::Relaxed) + 1;
        self.since.store(now, Ordering::Relaxed);
        self.new.clear();
        if usize::try_from(step).is_ok_and(|step| step >= config.ramp.len()) {
            self.step.store(u32::try_from(config.ramp.len().saturating_sub(1)).unwrap_or(0), Ordering::Relaxed);
            self.set_phase(Phase::Done);
            self.tell(format_args!("is through, and keeps {}%", self.percent()), false);
        } else {
            // With everything there is nothing to compare with but what was before.
            if self.percent() < 100 {
                self.old.clear();
            }
            self.tell(format_args!("goes on to {}%", self.percent()), false);
        }
        self.show();
    }

    fn show(&self) {
        if let Some(gauge) = &self.gauge {
            gauge.set(self.share());
        }
    }

    fn tell(&self, what: std::fmt::Arguments<'_>, warn: bool) {
        let level = if warn { log::Level::Warn } else { log::Level::Info };
        log::log!(target: TARGET, level, "route {}: the canary {} {what}", self.route, self.config.upstream);
    }
}

/// Why a new version is worse than the old ones, if it is.
fn worse(new: Seen, old: Seen, config: &Config) -> Option<String> {
    if old.ends.all < 1.0 {
        return None;
    }
    if new.ends.is_worse_than(old.ends, config.errors.share()) {
        let percent = |share: f64| (share * 1000.0).round() / 10.0;
        return Some(format!(
            "{} % of {} requests failed, {} % of {} to the others",
            percent(new.ends.share()),
            new.ends.all,
            percent(old.ends.share()),
            old.ends.all
        ));
    }
    // A few requests say little about a mean.
    if old.ends.all >= f64::from(config.requests.get()) && new.mean > old.mean * config.latency.share() {
        let millis = |seconds: f64| (seconds * 10_000.0).round() / 10.0;
        return Some(format!("it takes {} ms on average, the others {} ms", millis(new.mean), millis(old.mean)));
    }
    None
}

#[expect(clippy::infinite_loop, reason = "ends by being dropped")]
async fn run(canary: Arc<Canary>, config: Config) {
    let tick = TICK.min(config.every.0 / 4).max(Duration::from_millis(50));
    loop {
        tokio::time::sleep(tick).await;
        canary.judge(&config);
    }
}

#[derive(Serialize, Deserialize)]
struct Told {
    step: u32,
    phase: Phase,
    since: u64,
}

impl State for Canary {
    fn export(&self) -> Option<Vec<u8>> {
        let told = Told {
            step: self.step.load(Ordering::Relaxed),
            phase: self.phase(),
            since: self.since.load(Ordering::Relaxed),
        };
        serde_json::to_vec(&told).ok()
    }

    fn import(&self, exported: &[u8]) {
        let Ok(told) = serde_json::from_slice::<Told>(exported) else { return };
        self.step.store(told.step, Ordering::Relaxed);
        self.since.store(told.since, Ordering::Relaxed);
        self.set_phase(told.phase);
        self.show();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn canary(config: &str) -> Canary {
        let config = serde_saphyr::from_str(&format!("{{ upstream: new, {config} }}")).unwrap();
        Canary::new(config, "r", Clock::manual(Duration::from_secs(1)))
    }

    impl Canary {
        /// One that has this share.
        pub(crate) fn at(percent: u32) -> Self {
            canary(&format!("ramp: [{percent}%]"))
        }
    }

    fn add(canary: &Canary, is_new: bool, good: u32, bad: u32, took: u64) {
        (0..good).for_each(|_| canary.record(is_new, false, took));
        (0..bad).for_each(|_| canary.record(is_new, true, took));
    }

    fn judge(canary: &Canary) -> (u16, Phase) {
        canary.judge(&canary.config);
        (canary.percent(), canary.phase())
    }

    #[test]
    fn it_goes_through_its_ramp_as_long_as_it_does_as_well_as_the_others() {
        let canary = canary("ramp: [1%, 50%, 100%], every: 60s");
        let running = |percent| (percent, Phase::Running);
        let steps = [(running(1), running(50)), (running(50), running(100)), (running(100), (100, Phase::Done))];
        for (before, after) in steps {
            add(&canary, true, 100, 1, 10 * MS);
            add(&canary, false, 1_000, 9, 10 * MS);
            canary.clock.advance(Duration::from_secs(59));
            assert_eq!(judge(&canary), before, "not yet");
            canary.clock.advance(Duration::from_secs(1));
            assert_eq!(judge(&canary), after);
        }
        add(&canary, true, 0, 1_000, 10 * MS);
        assert_eq!(judge(&canary), (100, Phase::Done));
    }

    #[test]
    fn the_last_step_is_compared_with_what_the_others_did_before() {
        let canary = canary("ramp: [50%, 100%], every: 60s");
        add(&canary, true, 100, 0, MS);
        add(&canary, false, 100, 0, MS);
        canary.clock.advance(Duration::from_mins(1));
        assert_eq!(judge(&canary), (100, Phase::Running));
        add(&canary, true, 50, 50, MS);
        assert_eq!(judge(&canary), (0, Phase::RolledBack));
    }

    #[test]
    fn it_keeps_the_last_share_of_a_ramp_that_ends_below_all() {
        let canary = canary("ramp: [10%], every: 60s");
        add(&canary, true, 100, 0, MS);
        canary.clock.advance(Duration::from_mins(1));
        assert_eq!(judge(&canary), (10, Phase::Done));
        assert_eq!(canary.status().step, 1);
    }

    #[test]
    fn more_failures_send_it_back_before_the_step_is_over() {
        let canary = canary("ramp: [5%, 100%]");
        add(&canary, false, 1_000, 10, MS);
        add(&canary, true, 30, 19, MS);
        assert_eq!(judge(&canary).1, Phase::Running, "too few");
        add(&canary, true, 10, 1, MS);
        assert_eq!(judge(&canary), (0, Phase::RolledBack));
        canary.clock.advance(Duration::from_mins(10));
        add(&canary, true, 1_000, 0, MS);
        assert_eq!(judge(&canary), (0, Phase::RolledBack), "for good");
    }

    #[test]
    fn what_happens_to_the_others_too_is_not_its_fault_and_neither_is_chance() {
        let canary = canary("ramp: [5%, 100%]");
        add(&canary, false, 500, 500, 30 * MS);
        add(&canary, true, 45, 55, 30 * MS);
        assert_eq!(judge(&canary).1, Phase::Running);
        let few = self::canary("ramp: [5%, 100%]");
        add(&few, false, 1_000, 0, MS);
        add(&few, true, 58, 2, MS);
        assert_eq!(judge(&few).1, Phase::Running, "3 % is within the margin");
    }

    #[test]
    fn a_slower_version_goes_back() {
        let canary = canary("ramp: [5%, 100%]");
        add(&canary, false, 1_000, 0, 10 * MS);
        add(&canary, true, 100, 0, 14 * MS);
        assert_eq!(judge(&canary).1, Phase::Running);
        add(&canary, true, 100, 0, 20 * MS);
        assert_eq!(judge(&canary).1, Phase::RolledBack);
    }

    #[test]
    fn one_answer_that_takes_very_long_is_no_reason() {
        let canary = canary("ramp: [5%, 100%]");
        add(&canary, false, 1_000, 0, MS);
        add(&canary, true, 80, 0, MS);
        add(&canary, true, 1, 0, 10_000 * MS);
        assert_eq!(judge(&canary).1, Phase::Running);
    }

    #[test]
    fn another_process_goes_on_with_it() {
        let (old, new) = (canary("ramp: [5%, 100%]"), canary("ramp: [5%, 100%]"));
        add(&old, false, 100, 0, MS);
        add(&old, true, 0, 100, MS);
        judge(&old);
        new.import(&old.export().unwrap());
        assert_eq!((new.percent(), new.phase()), (0, Phase::RolledBack));
        new.import(b"of another version");
        assert_eq!(new.phase(), Phase::RolledBack);
    }
}
